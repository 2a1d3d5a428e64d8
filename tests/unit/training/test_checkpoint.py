"""Checkpoint files: what goes in comes out, equal content gives equal bytes, others can read them."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from petrflow.training import checkpoint
from petrflow.training.checkpoint import CheckpointFolder, Snapshot, parse

ARRAYS = {
    "scalar": np.array(3.5, dtype="float32"),
    "empty": np.zeros((0, 3), dtype="int64"),
    "bits of bfloat16": np.arange(5, dtype="uint16"),
    "strided": np.arange(12, dtype="float64").reshape(3, 4).T,
    "flags": np.array([True, False]),
}


def save(folder, meta, arrays=None):
    folder.save(lambda: Snapshot(dict(arrays or ARRAYS), meta), wait=True)


def test_what_goes_in_comes_out(tmp_path):
    meta = {"progress": {"step": 3, "history": [{"z": 0.1, "a": 1e-300}]}, "tags": ["b", "a"]}
    save(CheckpointFolder(tmp_path), meta)
    found = CheckpointFolder(tmp_path).load()
    assert found.meta == meta
    assert list(found.meta["progress"]["history"][0]) == ["z", "a"], (
        "the order of keys is the order of history's columns"
    )
    assert sorted(found.arrays) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].shape == array.shape


def test_equal_content_gives_equal_bytes_whatever_its_order(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    save(CheckpointFolder(tmp_path / "a"), {"n": 1})
    save(CheckpointFolder(tmp_path / "b"), {"n": 1}, dict(reversed(ARRAYS.items())))
    (first,), (second,) = (list((tmp_path / name).glob("checkpoint-*")) for name in "ab")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_other_programs_read_it_as_safetensors(tmp_path):
    from safetensors.numpy import load_file

    save(CheckpointFolder(tmp_path), {})
    found = load_file(next(tmp_path.glob("checkpoint-*")))
    np.testing.assert_array_equal(found["strided"], ARRAYS["strided"])


def test_the_last_two_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for number in range(5):
        save(folder, {"n": number})
    assert [parse(path).meta["n"] for path in sorted(tmp_path.glob("checkpoint-*"))] == [3, 4]


def test_numbering_goes_on_after_a_restart(tmp_path):
    save(CheckpointFolder(tmp_path), {"n": 1})
    again = CheckpointFolder(tmp_path)
    again.load()
    save(again, {"n": 2})
    assert CheckpointFolder(tmp_path).load().meta == {"n": 2}


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert CheckpointFolder(tmp_path).load() is None


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    gate = threading.Event()
    original = checkpoint._chunks

    def slow(snapshot):
        gate.wait(10)
        yield from original(snapshot)

    monkeypatch.setattr(checkpoint, "_chunks", slow)
    folder = CheckpointFolder(tmp_path)
    folder.save(lambda: Snapshot(dict(ARRAYS), {"n": 1}))
    assert not list(tmp_path.glob("checkpoint-*")), "back in training before a byte is written"
    gate.set()
    folder.finish()
    assert CheckpointFolder(tmp_path).load().meta == {"n": 1}


def test_where_memory_is_short_the_write_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_available_memory", lambda: 0)
    folder = CheckpointFolder(tmp_path)
    folder.save(lambda: Snapshot(dict(ARRAYS), {"n": 1}))
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1


def test_an_error_of_the_background_write_reaches_the_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.hashlib, "sha256", lambda: (_ for _ in ()).throw(RuntimeError("no hash")))
    folder = CheckpointFolder(tmp_path)
    folder.save(lambda: Snapshot(dict(ARRAYS), {}))
    folder._writer.join()
    with pytest.raises(RuntimeError, match="no hash"):
        folder.check()


def test_the_file_is_on_the_disk_before_it_has_its_name_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b))[1])
    save(CheckpointFolder(tmp_path), {})
    assert calls == ["fsync", "rename", "fsync", "fsync", "rename", "fsync"], "the checkpoint, then newest.json"
