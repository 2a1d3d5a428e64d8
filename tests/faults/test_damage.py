"""Damaged, lost and unwritable state: noticed, survived where one checkpoint is whole, never a silent restart."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from petrflow.errors import PetrflowError
from petrflow.training import checkpoint, train
from petrflow.training.checkpoint import CheckpointFolder, Snapshot, Unusable, parse
from tests.helpers.fake_training import fake_parts, make_request, results

EAGER = {"checkpoint_minutes": 0.0}


@pytest.fixture(scope="module")
def paused(trainings, tmp_path_factory) -> Path:
    """A training stopped in the middle, with two checkpoints: a SIGKILL may leave a third, which the next one would remove."""
    folder = tmp_path_factory.mktemp("paused")
    make_request(folder, **EAGER)
    assert trainings.run(folder, {"at": "step", "count": 11, "signal": "TERM"}) == 75
    assert len(checkpoints(folder)) == 2
    return folder


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint files, the newest last."""
    return sorted((folder / "state").glob("*/checkpoint-*.safetensors"))


def copy_of(paused: Path, tmp_path: Path) -> Path:
    shutil.copytree(paused / "state", tmp_path / "state")
    make_request(tmp_path, **EAGER)
    (tmp_path / "log.txt").write_text("")
    return tmp_path


DAMAGES = ["cut to 0", "cut to 1", "cut to half", "cut by 1", *(f"flip {tenth}" for tenth in range(10))]


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    if kind.startswith("flip"):
        tenth = int(kind.split()[1])
        bit = random.Random(tenth).randrange(tenth * len(data) * 8 // 10, (tenth + 1) * len(data) * 8 // 10)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
    else:
        keep = {"cut to 0": 0, "cut to 1": 1, "cut to half": len(data) // 2, "cut by 1": len(data) - 1}[kind]
        path.write_bytes(data[:keep])


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_newest_checkpoint_is_noticed_and_the_one_before_used(kind, paused, trainings, calm, tmp_path):
    folder = copy_of(paused, tmp_path)
    damage(checkpoints(folder)[-1], kind)
    assert trainings.run(folder) == 0
    log = (folder / "log.txt").read_text()
    assert "is damaged" in log
    assert "Going on from the checkpoint before" in log
    assert results(folder) == calm(**EAGER)


def test_a_missing_newest_checkpoint_is_noticed_and_the_one_before_used(paused, trainings, calm, tmp_path):
    folder = copy_of(paused, tmp_path)
    checkpoints(folder)[-1].unlink()
    assert trainings.run(folder) == 0
    assert "is missing" in (folder / "log.txt").read_text()
    assert results(folder) == calm(**EAGER)


@pytest.mark.parametrize("kind", ["cut to half", "missing"])
def test_no_usable_checkpoint_is_an_error_and_never_a_silent_restart(kind, paused, trainings, tmp_path):
    folder = copy_of(paused, tmp_path)
    for path in checkpoints(folder):
        path.unlink() if kind == "missing" else damage(path, kind)
    assert trainings.run(folder) == 1
    log = (folder / "log.txt").read_text()
    assert "no usable checkpoint" in log
    assert "remove this folder" in log
    assert not (folder / "train").exists()
    shutil.rmtree(next((folder / "state").glob("*/newest.json")).parent)  # what the message says
    assert trainings.run(folder) == 0


def test_the_fallback_survives_the_next_save(paused, tmp_path):
    folder = copy_of(paused, tmp_path)
    newest, before = checkpoints(folder)[-1], checkpoints(folder)[-2]
    damage(newest, "cut by 1")
    kept = CheckpointFolder(newest.parent)
    snapshot = kept.load()
    kept.save(lambda: snapshot, wait=True)
    assert before.exists()
    assert not newest.exists()
    assert CheckpointFolder(newest.parent).load().meta == snapshot.meta


def test_every_byte_of_a_checkpoint_is_under_its_checksum(tmp_path):
    import numpy as np

    folder = CheckpointFolder(tmp_path)
    folder.save(lambda: Snapshot({"a": np.arange(3, dtype="float32")}, {"n": 1}), wait=True)
    (path,) = tmp_path.glob("checkpoint-*")
    data = path.read_bytes()
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(PetrflowError, match="no usable checkpoint"):
            CheckpointFolder(tmp_path).load()


@pytest.mark.parametrize("size", [0, 3, 8, 40, 200])
def test_a_file_that_is_no_checkpoint_is_unusable_and_nothing_else(size, tmp_path):
    path = tmp_path / "checkpoint-00000001-00.safetensors"
    path.write_bytes(random.Random(size).randbytes(size))
    with pytest.raises(Unusable):
        parse(path)


# ----------------------------------------------------------------------------------------------------------------- full disks


def test_a_full_disk_fails_the_write_keeps_the_old_checkpoint_and_says_what_is_needed(calm, tmp_path, monkeypatch):
    request = make_request(tmp_path, **EAGER)
    parts = fake_parts(request)
    plain = checkpoint.atomic_path

    @contextlib.contextmanager
    def full_from_step_six(path, needed=None):
        with plain(path, needed) as temporary:
            if parts.model.steps > 5:
                temporary.write_bytes(b"as much as there was room for")
                raise OSError(errno.ENOSPC, "No space left on device")
            yield temporary

    monkeypatch.setattr(checkpoint, "atomic_path", full_from_step_six)
    with pytest.raises(PetrflowError, match=r"disk is full; it needs [\d,]+ bytes"):
        train.train(request, lambda request: parts)
    monkeypatch.undo()
    assert len(checkpoints(tmp_path)) == 2
    assert not list((tmp_path / "state").glob("*/.checkpoint*"))
    train.train(request, fake_parts)
    assert results(tmp_path) == calm(**EAGER)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_training_on_a_file_system_of_a_few_kilobytes_stops_with_a_clear_error_and_goes_on_with_more(
    trainings, calm, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system here")
    try:
        make_request(disk, **EAGER)
        assert trainings.run(disk) == 1
        assert "the disk is full" in (disk / "log.txt").read_text()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert trainings.run(disk) == 0
        assert results(disk) == calm(**EAGER)
    finally:
        subprocess.run(["umount", str(disk)], check=False)
