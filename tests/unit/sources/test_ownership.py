"""Whose folder stands at `data/{dataset}`: what petrflow did not make stays byte for byte what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from petrflow.errors import PetrflowError
from petrflow.files import read_json, write_json
from petrflow.sources.ownership import MARK, claim, is_inside, made_by_petrflow, new_root, same_place
from tests.helpers.trees import state_of


def make(root: Path, **more: object) -> None:
    with new_root(root, kind="synthetic", version="v1.0-mini", **more) as folder:  # type: ignore[arg-type]
        (folder / "samples").mkdir()
        (folder / "v1.0-mini").mkdir()
        (folder / "v1.0-mini" / "scene.json").write_text("[]")


def users_folder(place: Path) -> None:
    (place / "labels").mkdir(parents=True)
    (place / "labels" / "precious.json").write_text("a year of work")


def users_nuscenes(place: Path) -> None:
    (place / "v1.0-mini").mkdir(parents=True)
    (place / "v1.0-mini" / "scene.json").write_text("[]")
    (place / "samples").mkdir()


def users_export(place: Path) -> None:
    (place / "scene_1" / "camera_config").mkdir(parents=True)
    (place / "scene_1" / "camera_config" / "1.json").write_text("[]")


def users_hidden_file(place: Path) -> None:
    place.mkdir(parents=True)
    (place / ".precious").write_text("a secret")


def copied_root(place: Path) -> None:
    make(place.parent / "other")
    (place.parent / "other").rename(place)


def made_root_with_something_of_the_users(place: Path) -> None:
    make(place)
    (place / "notes.txt").write_text("what I found out")


def old_link_farm_with_something_of_the_users(place: Path) -> None:
    old_link_farm(place)
    (place / "v1.0-mini" / "mine.json").write_text("[]")


def old_link_farm(place: Path) -> None:
    elsewhere = place.parent / "elsewhere" / "samples"
    elsewhere.mkdir(parents=True, exist_ok=True)
    (place / "v1.0-mini").mkdir(parents=True)
    (place / "samples").symlink_to(elsewhere)
    (place / "v1.0-mini" / "scene.json").symlink_to(elsewhere)
    write_json(place / "v1.0-mini" / "splits.json", {"petrflow_train": [], "petrflow_val": []})


def old_root(place: Path) -> None:
    users_nuscenes(place)
    write_json(
        place / ".complete.json", {"kind": "synthetic", "version": "v1.0-mini", "splits": {}, "fingerprint": "1"}
    )


USERS: list[Callable[[Path], None]] = [
    users_folder, users_nuscenes, users_export, users_hidden_file, copied_root, made_root_with_something_of_the_users,
    old_link_farm_with_something_of_the_users,
]  # fmt: skip


@pytest.mark.parametrize("fill", USERS)
@pytest.mark.parametrize("linked", ["in place", "through a link"])
def test_a_folder_of_the_users_stays_byte_for_byte_what_it_was(
    tmp_path: Path, fill: Callable[[Path], None], linked: str
) -> None:
    root = tmp_path / "data" / "nuscenes"
    root.parent.mkdir()
    if linked == "through a link":
        real = tmp_path / "disk" / "nuscenes"
        real.parent.mkdir()
        fill(real)
        root.symlink_to(real)
    else:
        fill(root)
    before = state_of(tmp_path)
    with pytest.raises(PetrflowError) as error:
        make(root)
    assert "data/nuscenes" in str(error.value)
    assert "delete" not in str(error.value)
    assert state_of(tmp_path) == before


@pytest.mark.parametrize("place", [".", "sub", "deep/er"])
def test_a_source_at_or_inside_the_root_is_refused(tmp_path: Path, place: str) -> None:
    root = tmp_path / "data" / "d"
    make(root)
    source = root / "samples" / place
    source.mkdir(parents=True, exist_ok=True)
    (tmp_path / "link").symlink_to(source)
    before = state_of(tmp_path)
    for name in (source, tmp_path / "link", root / "v1.0-mini" / ".." / "samples" / place, root):
        with pytest.raises(PetrflowError, match="Move the source elsewhere"):
            make(root, reads=[name])
    assert state_of(tmp_path) == before


def test_a_source_around_the_root_or_the_receipts_folder_is_refused(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "data"):
        with pytest.raises(PetrflowError, match="is a folder around"):
            make(tmp_path / "data" / "d", reads=[source])
    (tmp_path / "results").mkdir()
    with pytest.raises(PetrflowError, match="is a folder around"):
        make(tmp_path / "data" / "d", reads=[tmp_path / "results"], about=tmp_path / "results" / "d" / "root")
    assert not (tmp_path / "data" / "d").exists()


def test_places_are_compared_as_the_disk_compares_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is blind to letters' case gives `Data` and `data` one inode; so does a bind mount of another name."""
    (tmp_path / "data" / "d").mkdir(parents=True)
    (tmp_path / "DATA").symlink_to(tmp_path / "data")
    assert same_place(tmp_path / "DATA" / "d", tmp_path / "data" / "d")
    real = Path.samefile
    monkeypatch.setattr(Path, "samefile", lambda one, other: real(Path(str(one).lower()), str(other).lower()))
    assert same_place(tmp_path / "Data" / "D", tmp_path / "data" / "d")
    assert is_inside(tmp_path / "Data" / "D" / "x", tmp_path / "data" / "d")


def test_a_file_and_a_dangling_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "unmounted" / "disk")
    for name, words in (("file", "is a file"), ("link", "which does not exist")):
        with pytest.raises(PetrflowError, match=words):
            make(tmp_path / name)
    assert (tmp_path / "file").read_text() == "precious"
    assert (tmp_path / "link").is_symlink()


def test_petrflows_own_roots_are_replaced_whole_also_those_of_earlier_versions(tmp_path: Path) -> None:
    for number, fill in enumerate((lambda place: None, lambda place: place.mkdir(), make, old_root, old_link_farm)):
        root = tmp_path / str(number) / "d"
        root.parent.mkdir()
        fill(root)
        make(root)
        assert made_by_petrflow(root)
        assert read_json(root / MARK)["entries"] == [MARK, "samples", "v1.0-mini"]


def test_a_root_on_another_disk_is_replaced_behind_its_link(tmp_path: Path) -> None:
    make(tmp_path / "data" / "d")
    (tmp_path / "disk").mkdir()
    (tmp_path / "data" / "d").rename(tmp_path / "disk" / "somewhere")
    (tmp_path / "data" / "d").symlink_to(tmp_path / "disk" / "somewhere")
    make(tmp_path / "data" / "d")
    assert (tmp_path / "data" / "d").is_symlink()
    assert read_json(tmp_path / "disk" / "somewhere" / MARK)["dataset"] == "d"


def test_a_failed_successor_leaves_the_root_as_it_was(tmp_path: Path) -> None:
    make(tmp_path / "d")
    before = state_of(tmp_path)

    def fail() -> None:
        with new_root(tmp_path / "d", kind="synthetic", version="v1.0-mini") as folder:
            (folder / "half").write_text("")
            raise PetrflowError("the source is damaged")

    with pytest.raises(PetrflowError, match="damaged"):
        fail()
    assert state_of(tmp_path) == before


def test_what_somebody_puts_there_meanwhile_is_kept(tmp_path: Path) -> None:
    def race() -> None:
        with new_root(tmp_path / "d", kind="synthetic", version="v1.0-mini"):
            users_folder(tmp_path / "d")

    with pytest.raises(PetrflowError, match="did not make"):
        race()
    assert (tmp_path / "d" / "labels" / "precious.json").read_text() == "a year of work"


def test_a_file_of_the_users_at_the_receipts_place_is_kept(tmp_path: Path) -> None:
    receipt = tmp_path / "results" / "d" / "root" / "receipt.json"
    receipt.parent.mkdir(parents=True)
    receipt.write_text('{"paid": 20}')
    with pytest.raises(PetrflowError, match=r"receipt\.json is a file that petrflow did not make"):
        make(tmp_path / "data" / "d", about=receipt.parent)
    assert receipt.read_text() == '{"paid": 20}'
    assert not (tmp_path / "data" / "d").exists()


def test_claim_returns_where_the_root_goes(tmp_path: Path) -> None:
    assert claim(tmp_path / "data" / "d") == tmp_path / "data" / "d"
