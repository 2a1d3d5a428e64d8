"""A full disk while media are fetched is no fault of the export, and no frame is left out for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from petrflow.errors import CannotWrite
from petrflow.sources.xtreme1 import media, reading
from petrflow.sources.xtreme1.frames import Named


def test_a_full_disk_is_said_as_it_is(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise CannotWrite("the disk is full")

    monkeypatch.setattr(media, "fetch", full)
    made = media.Media.__new__(media.Media)
    made.patience = None
    made.wanted = {tmp_path / "a.jpg": (Named("frame a", (), "https://host.example/a.jpg"), "image 0")}
    with pytest.raises(CannotWrite, match=r"^the disk is full$"):
        made._fetch(tmp_path / "a.jpg")


def test_no_previous_frame_is_left_out_for_a_full_disk(monkeypatch):
    def full(*_: object) -> None:
        raise CannotWrite("the disk is full")

    frame = SimpleNamespace(label="a", scene="")
    importer = SimpleNamespace(
        times={"a": 0, "b": 1},
        poses=None,
        scenes=[SimpleNamespace(frames=[SimpleNamespace(label="b", scene="")])],
        names={},
    )
    monkeypatch.setattr(reading, "_between", lambda *_: [frame])
    with pytest.raises(CannotWrite):
        owner = next(kind for kind in vars(reading).values() if hasattr(kind, "_add_sweeps"))
        owner._add_sweeps(importer, [frame], None, SimpleNamespace(bring=full))
