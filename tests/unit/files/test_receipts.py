"""Receipts: what changed, whose account it is, and that a file's content is read once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from petrflow.errors import PetrflowError
from petrflow.files import read_json
from petrflow.files.provenance import provenance, stamp
from petrflow.files.receipts import (
    Contents,
    Order,
    common_differences,
    differences,
    made_from,
    receipts_of,
    running,
    shaped_fingerprint,
)


def order(folder: Path, digest: str = "0" * 16) -> Order:
    return Order("train", "default", digest, {"batch_size": 4}, {}, folder / f"train-{digest}.json")


def test_differences_name_the_key_path_and_both_values() -> None:
    old = {"batch_size": 4, "model file": {"head": {"num_query": 900}}, "weights": "a" * 64}
    new = {"batch_size": 64, "model file": {"head": {"num_query": 300, "dropout": 0.1}}, "weights": "b" * 64}
    assert differences(old, new) == [
        "batch_size 4 -> 64",
        "model file.head.dropout nothing -> 0.1",
        "model file.head.num_query 900 -> 300",
        "weights aaaaaaaa… -> bbbbbbbb…",
    ]
    assert differences({"rate": 1}, {"rate": 1.0}) == [], "1 and 1.0 are one setting"
    assert common_differences(old, {**old, "novelty": 1}) == []


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert shaped_fingerprint({"a": 1, "b": 2}, {}) == shaped_fingerprint({"b": 2, "a": 1.0}, {})
    assert shaped_fingerprint({"a": 1}, {}) != shaped_fingerprint({"a": 1}, {"root x": "1"})


def test_a_receipt_is_written_at_the_end_and_older_ones_go(tmp_path: Path) -> None:
    with order(tmp_path, "1" * 16).account():
        assert receipts_of(tmp_path, "train") == []
        alive = running(tmp_path, "train", "1" * 16)
        assert alive is not None
        assert alive["alive"]
    (tmp_path / "train-last-2222222222222222.json").write_text("{}")  # of another stage
    with order(tmp_path, "2" * 16).account():
        pass
    assert [path.name for path in receipts_of(tmp_path, "train")] == [f"train-{'2' * 16}.json"]
    assert running(tmp_path, "train", "2" * 16) is None
    assert (tmp_path / "train-last-2222222222222222.json").exists()


def test_seconds_are_those_of_all_starts(tmp_path: Path) -> None:
    for start in (1, 2):
        with pytest.raises(KeyboardInterrupt), order(tmp_path).account():
            raise KeyboardInterrupt
        left = running(tmp_path, "train", "0" * 16)
        assert left is not None
        assert (left["starts"], left["alive"]) == (start, False)
    note = tmp_path / ".train.running.json"
    note.write_text(note.read_text().replace('"seconds": ', '"seconds": 10'))
    last = order(tmp_path)
    with last.account(), provenance(tmp_path / "provenance.json", {}, None, last):
        pass
    assert read_json(tmp_path / "provenance.json")["seconds"] >= 100
    assert read_json(last.receipt)["starts"] == 3


def test_an_account_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(PetrflowError), order(tmp_path, "1" * 16).account():
        raise PetrflowError
    assert running(tmp_path, "train", "2" * 16) is None
    with order(tmp_path, "2" * 16).account():
        pass
    assert read_json(tmp_path / f"train-{'2' * 16}.json")["starts"] == 1


def test_a_stamp_says_what_results_were_made_from(tmp_path: Path) -> None:
    path = tmp_path / "provenance.json"
    assert made_from(path) is None
    with provenance(path, {}):
        pass
    assert made_from(path) is None
    stamp(path, order(tmp_path))
    record = made_from(path)
    assert record is not None
    assert record["settings"] == {"batch_size": 4}
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    assert made_from(path) is None


def test_contents_are_read_once_and_again_where_size_time_or_inode_differ(tmp_path: Path) -> None:
    source, cache = tmp_path / "weights", tmp_path / "cache.json"
    source.write_bytes(b"one")
    reads: list[Path] = []

    def take() -> str:
        contents = Contents(cache)
        value = contents.take(source, "text", lambda path: reads.append(path) or path.read_text())
        contents.save()
        return str(value)

    assert [take(), take(), take()] == ["one"] * 3
    assert len(reads) == 1
    os.utime(source, (1, 1))
    assert take() == "one"
    source.write_bytes(b"two!")
    assert take() == "two!"
    assert len(reads) == 3
    cache.write_text("damaged")
    assert take() == "two!"
