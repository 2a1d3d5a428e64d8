"""Whatever the door, the source and the state of `data/{dataset}`: a user's folder is byte for byte what it was."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from petrflow.errors import PetrflowError
from petrflow.files import write_json
from petrflow.sources import nuscenes
from petrflow.sources.ownership import MARK
from petrflow.sources.synthetic.generate import prepare as prepare_synthetic
from tests.helpers.trees import state_of

# The package hands on a function of the module's name.
generate = importlib.import_module("petrflow.sources.synthetic.generate")
SPLITS = {"train": ["scene-0061"], "val": ["scene-0103"]}
SETTINGS = {"scenes": 2, "keyframes": 1, "image_size": [64, 36], "sweeps": 0}


@pytest.fixture(scope="module")
def source(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("source") / "nuscenes"
    shutil.copytree(synthetic_root, folder, ignore=shutil.ignore_patterns(".*", "splits.json"))
    yield folder


@pytest.fixture(scope="module", autouse=True)
def rendered_once() -> Iterator[None]:
    """Scenes are rendered for the first root; the next ones get the same rows, and no pictures."""
    made: list[Any] = []
    real = generate._make_all

    def make_all(*arguments: Any) -> Any:
        if not made:
            made.append(real(*arguments))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "_make_all", make_all)
        patch.setattr(generate, "cores", lambda: 1)
        yield


def nuscenes_door(root: Path, source: Path) -> None:
    dataset = {"kind": "nuscenes", "version": "v1.0-mini", "source": str(source), "splits": SPLITS}
    nuscenes.prepare(dataset, root, root.parents[1] / "results" / root.name / "root", progress=False)


def synthetic_door(root: Path, source: Path) -> None:
    prepare_synthetic(SETTINGS, root, root.parents[1] / "results" / root.name / "root", progress=False)


DOORS = {"nuscenes": nuscenes_door, "synthetic": synthetic_door}


def folder_of_the_users(root: Path, source: Path) -> None:
    (root / "samples").mkdir(parents=True)
    (root / "samples" / "precious.jpg").write_text("precious")


def nuscenes_of_the_users(root: Path, source: Path) -> None:
    shutil.copytree(source, root)


def nuscenes_of_the_users_without_media(root: Path, source: Path) -> None:
    shutil.copytree(source / "v1.0-mini", root / "v1.0-mini")


def export_of_the_users(root: Path, source: Path) -> None:
    (root / "scene" / "camera_image_0").mkdir(parents=True)
    (root / "scene" / "camera_image_0" / "1.jpg").write_text("precious")
    (root / "export.zip").write_text("precious")


def petrflows_with_an_archive_of_the_users(root: Path, source: Path) -> None:
    synthetic_door(root, source)
    (root / "v1.0-mini.tgz").write_text("precious")


def petrflows_under_another_name(root: Path, source: Path) -> None:
    synthetic_door(root.with_name("before"), source)
    root.with_name("before").rename(root)


def tables_linked_by_hand(root: Path, source: Path) -> None:
    root.mkdir(parents=True)
    for name in ("v1.0-mini", "samples", "sweeps", "maps"):
        (root / name).symlink_to(source / name)


USERS = [
    folder_of_the_users, nuscenes_of_the_users, nuscenes_of_the_users_without_media, export_of_the_users,
    petrflows_with_an_archive_of_the_users, petrflows_under_another_name, tables_linked_by_hand,
]  # fmt: skip
NAMES = ["nuscenes", "a", "zz top", "停车场"]


def attempt(door: Callable[[Path, Path], None], root: Path, source: Path) -> str:
    """The door's one sentence, '' where it ended well."""
    try:
        door(root, source)
    except PetrflowError as error:
        assert "delete" not in str(error).lower()
        assert "\n" not in str(error)
        return str(error)
    return ""


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("fill", USERS)
@pytest.mark.parametrize("place", ["folder", "link"])
def test_what_the_user_has_at_the_roots_place_stays(
    door: str, fill: Callable[[Path, Path], None], place: str, source: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data" / NAMES[USERS.index(fill) % len(NAMES)]
    if place == "link":
        elsewhere = tmp_path / "disk" / "data" / root.name
        elsewhere.parent.mkdir(parents=True)
        fill(elsewhere, source)
        root.parent.mkdir()
        root.symlink_to(elsewhere)
    else:
        fill(root, source)
    before = state_of(tmp_path / "data", *([tmp_path / "disk"] if place == "link" else []))
    shutil.rmtree(tmp_path / "results", ignore_errors=True)
    said = attempt(DOORS[door], root, source)
    assert f"`datasets.{root.name}`" in said
    assert "other name" in said or "Move" in said
    after = state_of(tmp_path / "data", *([tmp_path / "disk"] if place == "link" else []))
    assert {path: what for path, what in after.items() if ".cache" not in path} == before
    assert not (tmp_path / "results").exists()
    assert state_of(source) == state_of(source)


@pytest.mark.parametrize("spelling", ["as it is", "through a link", "with dots", "linked root", "another case"])
@pytest.mark.parametrize("inside", ["", "v1.0-mini"])
def test_a_source_that_stands_at_the_roots_place_is_used_there(
    spelling: str, inside: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data" / "nuscenes"
    real = tmp_path / "disk" / "nuscenes" if spelling == "linked root" else root
    shutil.copytree(source, real)
    if spelling == "linked root":
        root.parent.mkdir()
        root.symlink_to(real)
    name = root / inside
    if spelling == "through a link":
        (tmp_path / "mine").symlink_to(root)
        name = tmp_path / "mine" / inside
    elif spelling == "with dots":
        name = root / "samples" / ".." / inside
    elif spelling == "another case":
        # What a disk that is blind to letters' case shows: two names, one folder.
        (tmp_path / "DATA").symlink_to(tmp_path / "data")
        name = tmp_path / "DATA" / "nuscenes" / inside
    before = state_of(real)
    nuscenes_door(root, name)
    assert state_of(real) == before
    assert (tmp_path / "results" / "nuscenes" / "root" / "receipt.json").is_file()
    with pytest.raises(PetrflowError, match="is a nuScenes root that petrflow did not make"):
        synthetic_door(root, name)
    assert state_of(real) == before


@pytest.mark.parametrize("where", ["samples", "sweeps/deep/er"])
def test_a_source_inside_a_root_of_petrflows_is_refused(where: str, source: Path, tmp_path: Path) -> None:
    root = tmp_path / "data" / "d"
    synthetic_door(root, source)
    shutil.copytree(source, root / where, dirs_exist_ok=True)
    before = state_of(root)
    assert "lies inside" in attempt(nuscenes_door, root, root / where)
    assert state_of(root) == before


def test_a_root_inside_the_sources_own_folders_is_refused(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "nus")
    before = state_of(tmp_path / "nus")
    root = tmp_path / "nus" / "samples" / "data" / "d"
    assert "is a folder around" in attempt(nuscenes_door, root, tmp_path / "nus")
    shutil.rmtree(tmp_path / "nus" / "samples" / "data", ignore_errors=True)
    assert state_of(tmp_path / "nus") == before


def half_made_by_an_earlier_version(root: Path, source: Path) -> None:
    (root / "v1.0-mini").mkdir(parents=True)
    (root / "samples").symlink_to(source / "samples")
    (root / "v1.0-mini" / "scene.json").symlink_to(source / "v1.0-mini" / "scene.json")
    write_json(root / "v1.0-mini" / "splits.json", {"petrflow_train": [], "petrflow_val": []})


def made_by_an_earlier_version(root: Path, source: Path) -> None:
    synthetic_door(root, source)
    (root / MARK).unlink()


def made_and_its_complete_file_deleted_by_snakemake(root: Path, source: Path) -> None:
    synthetic_door(root, source)
    (root / ".complete.json").unlink()


def temporary_of_a_killed_door(root: Path, source: Path) -> None:
    left = root.parent / f".{root.name}.petrflow-00000000-1-1-0.tmp"
    left.mkdir(parents=True)
    (left / "half").write_text("")


PETRFLOWS: list[Any] = [
    lambda root, source: None, lambda root, source: root.mkdir(parents=True), synthetic_door, nuscenes_door,
    half_made_by_an_earlier_version, made_by_an_earlier_version, made_and_its_complete_file_deleted_by_snakemake,
    temporary_of_a_killed_door,
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("fill", PETRFLOWS)
def test_petrflows_own_roots_are_replaced_and_the_source_stays(
    door: str, fill: Callable[[Path, Path], None], source: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data" / "d"
    fill(root, source)
    before = state_of(source)
    assert attempt(DOORS[door], root, source) == ""
    assert state_of(source) == before
    assert (root / MARK).is_file()
    assert (tmp_path / "results" / "d" / "root" / "receipt.json").is_file()
