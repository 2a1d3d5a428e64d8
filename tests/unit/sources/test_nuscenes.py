"""The nuScenes door: folders are linked, archives and URLs arrive whole, and what is missing is named with where it should be."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from petrflow.annotations import AnnotationStore, annotate
from petrflow.errors import PetrflowError
from petrflow.fetch.archive_records import Record
from petrflow.files import read_json
from petrflow.files.receipts import Contents
from petrflow.nuscenes.names import NEEDED_TABLES
from petrflow.nuscenes.records import read_table
from petrflow.nuscenes.root import describe_root
from petrflow.sources.found import content_of_source
from petrflow.sources.nuscenes import prepare, read_source, resolve_splits
from petrflow.sources.verification import holding_archives
from tests.helpers.misbehaving_server import MisbehavingServer
from tests.helpers.trees import state_of

SCENES = {"train": "mini_train", "val": "mini_val"}


@pytest.fixture(scope="module")
def source(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that tests may not harm but archives are made of."""
    folder = tmp_path_factory.mktemp("source") / "nuscenes"
    shutil.copytree(synthetic_root, folder, ignore=shutil.ignore_patterns(".*", "splits.json"))
    return folder


@pytest.fixture(scope="module")
def archives(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The set as three archives, like trainval: tables and maps, keyframes, sweeps."""
    folder = tmp_path_factory.mktemp("archives")
    parts = {"meta.tgz": ("v1.0-mini", "maps"), "part01_blobs.tgz": ("samples",), "part02_blobs.tgz": ("sweeps",)}
    for name, members in parts.items():
        with tarfile.open(folder / name, "w:gz", compresslevel=1) as tar:
            for member in members:
                tar.add(source / member, member)
    return [folder / name for name in parts]


@pytest.fixture
def broken(source: Path, tmp_path: Path) -> Path:
    """A copy that a test may harm."""
    return Path(shutil.copytree(source, tmp_path / "broken"))


def door(source: Any, root: Path, about: Path | None = None, **more: Any) -> dict[str, Any]:
    dataset = {"kind": "nuscenes", "version": "v1.0-mini", "source": source, "splits": SCENES, **more}
    return prepare(dataset, root, about, progress=False)


# ------------------------------------------------------------------------------------------------------------------ folders


def test_a_folder_is_linked_and_nothing_is_copied_or_written_into_it(source: Path, tmp_path: Path) -> None:
    before = sorted((str(path), path.stat().st_mtime_ns) for path in source.rglob("*"))
    complete = door(str(source), tmp_path / "data" / "set")
    root = tmp_path / "data" / "set"
    assert (root / "samples").is_symlink()
    assert (root / "v1.0-mini" / "sample_data.json").is_symlink()
    assert not (root / "v1.0-mini").is_symlink()
    assert read_json(root / ".complete.json") == complete
    assert complete["counts"]["scenes"] == len(read_table(source, "v1.0-mini", "scene"))
    assert complete["counts"]["annotations"] == len(read_table(source, "v1.0-mini", "sample_annotation"))
    assert complete["cameras"] == [
        "CAM_FRONT",
        "CAM_FRONT_RIGHT",
        "CAM_FRONT_LEFT",
        "CAM_BACK",
        "CAM_BACK_LEFT",
        "CAM_BACK_RIGHT",
    ]
    assert complete["has_velocity"]
    assert complete["has_attributes"]
    assert read_json(root / "v1.0-mini" / "splits.json") == {
        f"petrflow_{part}": names for part, names in complete["splits"].items()
    }
    assert sorted((str(path), path.stat().st_mtime_ns) for path in source.rglob("*")) == before


def test_the_real_keyframe_goes_through_the_door_and_the_devkit_loads_it(keyframe_root: Path, tmp_path: Path) -> None:
    complete = door(str(keyframe_root), tmp_path / "kf", splits={"train": ["scene-0061"], "val": ["scene-0061"]})
    assert complete["counts"] == {"scenes": 1, "keyframes": 1, "sample_data": 7, "annotations": 68}
    assert not complete["has_velocity"]
    assert not complete["has_attributes"]
    from nuscenes import NuScenes
    from nuscenes.utils.splits import get_scenes_of_split

    devkit = NuScenes("v1.0-mini", str(tmp_path / "kf"), verbose=False)
    assert get_scenes_of_split("petrflow_val", devkit) == ["scene-0061"]


def test_the_same_input_gives_the_same_bytes_and_other_splits_another_fingerprint(source: Path, tmp_path: Path) -> None:
    first = door(str(source), tmp_path / "a")
    door(str(source), tmp_path / "b")
    assert (tmp_path / "a" / ".complete.json").read_bytes() == (tmp_path / "b" / ".complete.json").read_bytes()
    second = door(str(source), tmp_path / "a", splits={"train": first["splits"]["train"][:1], "val": "mini_val"})
    assert second["fingerprint"] != first["fingerprint"]


def test_a_folder_around_the_root_or_its_table_folder_serves_too(source: Path, tmp_path: Path) -> None:
    door(str(source.parent), tmp_path / "a")
    door(str(source / "v1.0-mini"), tmp_path / "b")
    assert (tmp_path / "b" / "samples").resolve() == source / "samples"


def test_a_failed_door_leaves_the_finished_root_as_it_was(source: Path, tmp_path: Path) -> None:
    first = door(str(source), tmp_path / "set")
    with pytest.raises(PetrflowError):
        door(str(source), tmp_path / "set", splits={"train": ["scene-9999"], "val": "mini_val"})
    assert read_json(tmp_path / "set" / ".complete.json") == first


def test_a_folder_of_another_kind_under_the_name_is_not_removed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "set" / "samples").mkdir(parents=True)
    (tmp_path / "set" / "samples" / "precious.jpg").write_text("")
    with pytest.raises(PetrflowError, match="did not make"):
        door(str(source), tmp_path / "set")
    assert (tmp_path / "set" / "samples" / "precious.jpg").exists()


# ------------------------------------------------------------------------------------------------------------------ splits, sources


def test_splits_go_by_name_by_scene_and_by_the_sources_own_splits_file(broken: Path) -> None:
    scenes = sorted(row["name"] for row in read_table(broken, "v1.0-mini", "scene"))
    (broken / "v1.0-mini" / "splits.json").write_text(json.dumps({"rainy": scenes[:1]}))
    assert resolve_splits({"train": "rainy", "val": scenes[1]}, broken, "v1.0-mini") == {
        "train": scenes[:1],
        "val": [scenes[1]],
    }
    assert resolve_splits({"train": scenes[::-1], "val": [scenes[0]]}, broken, "v1.0-mini")["train"] == scenes


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        (
            {"train": ["scene-0016"], "val": "mini_val"},
            r"splits\.train: there is no scene 'scene-0016' in v1\.0-mini; the nearest is scene-0061",
        ),
        (
            {"train": "mini_trian", "val": "mini_val"},
            r"there is no split or scene 'mini_trian'; the nearest name is mini_train",
        ),
        (
            {"train": "mini_train", "val": "test"},
            r"splits\.val: none of the 150 scenes of split 'test' is in these tables.*mini_train",
        ),
        ({"train": "mini_train", "val": []}, None),
    ],
)
def test_a_scene_or_split_that_is_not_there_is_named_with_the_nearest(
    splits: Any, says: str | None, source: Path, tmp_path: Path
) -> None:
    if says is None:
        assert door(str(source), tmp_path / "set", splits=splits)["splits"][
            "val"
        ]  # an empty list means the usual split
        return
    with pytest.raises(PetrflowError, match=says):
        door(str(source), tmp_path / "set", splits=splits)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: str(path / "nuscenez"), r"nuscenez does not exist \(there is .*nuscenes\)"),
        (lambda path: str(path / "notes.md"), "is neither an archive"),
        (lambda path: {"file": str(path / "gone.txt")}, "Cannot read the list of URLs"),
        (lambda path: [], "empty list"),
        (lambda path: [str(path / "nuscenes"), str(path / "nuscenes")], "cannot be joined"),
        (lambda path: str(path / "empty"), r"is no nuScenes root: it has no v1\.0-mini/scene\.json"),
        (
            lambda path: str(path / "other"),
            r"holds v1\.0-trainval, not v1\.0-mini: set the data set's `version` to v1\.0-trainval",
        ),
    ],
)
def test_a_source_that_cannot_serve_is_named_with_the_remedy(make: Any, says: str, tmp_path: Path) -> None:
    (tmp_path / "nuscenes").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "v1.0-trainval").mkdir(parents=True)
    (tmp_path / "other" / "v1.0-trainval" / "scene.json").write_text("[]")
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(PetrflowError, match=says):
        door(make(tmp_path), tmp_path / "set")


def test_every_form_of_source_is_understood(tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("https://x/a.tgz\nhttps://x/b.tgz\n")
    (tmp_path / "c.tgz").write_text("")
    sha256 = "0" * 64
    items = read_source(
        [{"url": ["https://x/a.tgz", "https://y/a.tgz"], "sha256": sha256}, str(tmp_path / "c.tgz"), "https://x/d.tgz"]
    )
    assert [getattr(item, "urls", None) for item in items] == [
        ("https://x/a.tgz", "https://y/a.tgz"),
        None,
        ("https://x/d.tgz",),
    ]
    assert read_source({"file": str(tmp_path / "urls.txt")}) == read_source(str(tmp_path / "urls.txt"))
    assert len(read_source(str(tmp_path / "urls.txt"))) == 2


# ------------------------------------------------------------------------------------------------------------------ what is missing


def test_missing_and_damaged_files_are_listed_by_camera_and_count(broken: Path, tmp_path: Path) -> None:
    front = sorted((broken / "samples" / "CAM_FRONT").iterdir())
    for path in front[:3]:
        path.unlink()
    front[3].write_bytes(front[3].read_bytes()[:-200])
    back = sorted((broken / "sweeps" / "CAM_BACK").iterdir())
    back[0].write_bytes(b"<html>")
    with pytest.raises(PetrflowError) as caught:
        door(str(broken), tmp_path / "set")
    message = str(caught.value)
    assert "5 of " in message
    assert "CAM_FRONT        3 missing, 1 cut short of" in message
    assert "CAM_BACK         1 neither a JPEG nor a PNG of" in message
    assert front[0].name in message
    assert "5 should be in v1.0-mini.tgz" in message
    assert "Extract those archives into" in message


def test_missing_lidar_is_noted_and_does_not_stop_what_reads_cameras(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lidar = sorted((broken / "samples" / "LIDAR_TOP").iterdir())
    lidar[0].unlink()
    complete = door(str(broken), tmp_path / "set")
    assert complete["files_absent"] == {"LIDAR_TOP": 1}
    assert "LIDAR_TOP 1 of" in capsys.readouterr().err


def test_files_of_scenes_outside_the_splits_need_not_be_there(broken: Path, tmp_path: Path) -> None:
    scenes = {row["name"]: row["token"] for row in read_table(broken, "v1.0-mini", "scene")}
    name = sorted(scenes)[0]
    samples = {row["token"] for row in read_table(broken, "v1.0-mini", "sample") if row["scene_token"] == scenes[name]}
    for row in read_table(broken, "v1.0-mini", "sample_data"):
        if row["sample_token"] not in samples:
            (broken / row["filename"]).unlink()
    door(str(broken), tmp_path / "set", splits={"train": [name], "val": [name]})


@pytest.mark.parametrize("table", NEEDED_TABLES)
def test_a_missing_table_is_named(table: str, broken: Path, tmp_path: Path) -> None:
    (broken / "v1.0-mini" / f"{table}.json").unlink()
    with pytest.raises(PetrflowError, match=f"{table}\\.json|no nuScenes root"):
        door(str(broken), tmp_path / "set")


def test_what_nothing_needs_may_be_missing(broken: Path, tmp_path: Path) -> None:
    shutil.rmtree(broken / "maps")
    for name in ("map", "log", "visibility"):
        (broken / "v1.0-mini" / f"{name}.json").unlink()
    path = broken / "v1.0-mini" / "sample_annotation.json"
    annotations = json.loads(path.read_text())
    for row in annotations:
        del row["visibility_token"], row["num_radar_pts"], row["attribute_tokens"]
    path.write_text(json.dumps(annotations))
    receipt = door(str(broken), tmp_path / "set")
    assert not receipt["has_attributes"]
    annotate(tmp_path / "set", {split: tmp_path / f"{split}.arrow" for split in ("train", "val")}, progress=False)
    store = AnnotationStore.open(tmp_path / "train.arrow")
    assert set(store[0].visibility.tolist()) == {0}
    assert set(store[0].attributes) == {""}


def test_cameras_that_recorded_nothing_are_left_out(broken: Path, tmp_path: Path) -> None:
    path = broken / "v1.0-mini" / "sample_data.json"
    rows = [row for row in json.loads(path.read_text()) if "CAM_BACK_LEFT" not in row["filename"]]
    path.write_text(json.dumps(rows))
    assert "CAM_BACK_LEFT" not in door(str(broken), tmp_path / "set")["cameras"]


# ------------------------------------------------------------------------------------------------------------------ in place


@pytest.mark.parametrize("name", ["nuscenes", "nuscenes/v1.0-mini", ".", "link", "nuscenes/../nuscenes"])
def test_a_root_that_stands_at_its_place_is_used_there_and_nothing_is_written_into_it(
    name: str, source: Path, tmp_path: Path
) -> None:
    root, about = tmp_path / "data" / "nuscenes", tmp_path / "results" / "nuscenes" / "root"
    shutil.copytree(source, root)
    (tmp_path / "data" / "link").symlink_to(root)
    before = state_of(root)
    receipt = door(str(tmp_path / "data" / name), root, about=about)
    assert state_of(root) == before
    assert read_json(about / "receipt.json") == receipt
    described = describe_root(root, about=about)
    assert described.splits == receipt["splits"]
    assert described.fingerprint == receipt["fingerprint"]
    assert read_json(about / "splits.json")["petrflow_val"] == receipt["splits"]["val"]
    stores = {split: tmp_path / "results" / f"{split}.arrow" for split in ("train", "val")}
    annotate(root, stores, about=about, progress=False)
    assert state_of(root) == before


def test_a_root_in_place_behind_a_link_and_one_that_petrflow_made_serve_too(source: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(source)
    before = state_of(source)
    receipt = door(str(tmp_path / "data" / "linked"), tmp_path / "data" / "linked", about=tmp_path / "about")
    assert receipt["counts"]["scenes"] == 3
    door(str(source), tmp_path / "data" / "made")
    made = state_of(tmp_path / "data" / "made")
    again = door(str(tmp_path / "data" / "made"), tmp_path / "data" / "made", about=tmp_path / "again")
    assert again["splits"] == receipt["splits"]
    assert state_of(tmp_path / "data" / "made") == made
    assert state_of(source) == before


def test_the_users_data_and_not_petrflows_own_roots_are_meant_by_a_folder_around_them(
    source: Path, tmp_path: Path
) -> None:
    shutil.copytree(source, tmp_path / "data" / "recordings")
    for _ in range(2):
        door(str(tmp_path / "data"), tmp_path / "data" / "a")
        assert (tmp_path / "data" / "a" / "samples").resolve() == tmp_path / "data" / "recordings" / "samples"
    shutil.copytree(source, tmp_path / "data" / "other")
    with pytest.raises(PetrflowError, match=re.escape("several roots with v1.0-mini (other, recordings)")):
        door(str(tmp_path / "data"), tmp_path / "data" / "a")


# ------------------------------------------------------------------------------------------------------------------ marks


def mark(source: Path, contents: Contents | None = None) -> Any:
    return content_of_source(source, "v1.0-mini", contents or Contents(source.parent / "no-cache.json"))


def test_the_mark_changes_with_the_tables_and_not_with_their_times(broken: Path, tmp_path: Path) -> None:
    before = mark(broken)
    assert mark(broken / "v1.0-mini") == mark(broken.parent) == before
    path = broken / "v1.0-mini" / "sample_annotation.json"
    os.utime(path, (1, 1))
    assert mark(broken) == before
    path.write_text(path.read_text().replace("0.5", "0.6", 1))
    assert mark(broken) != before


def test_the_mark_is_the_users_data_beside_petrflows_own_roots(broken: Path, tmp_path: Path) -> None:
    before = mark(tmp_path)
    door(str(tmp_path), tmp_path / "a")
    assert mark(tmp_path) == before


def test_the_mark_of_an_archive_changes_with_its_content(archives: list[Path], tmp_path: Path) -> None:
    copy = Path(shutil.copy(archives[0], tmp_path / "meta.tgz"))
    before = mark(copy)
    os.utime(copy, (1, 1))
    assert mark(copy) == before
    content = bytearray(copy.read_bytes())
    content[-8] ^= 1
    copy.write_bytes(bytes(content))
    assert mark(copy) != before


def test_the_archive_that_should_have_held_a_file_is_found_by_its_log_or_by_nuscenes_names() -> None:
    records = [Record("v1.0-trainval01_blobs.tgz")]
    records[0].add("samples/CAM_FRONT/log1__CAM_FRONT__1.jpg", 1)
    lines = holding_archives(
        ["samples/CAM_BACK/log1__CAM_BACK__2.jpg", "samples/CAM_BACK/log2__CAM_BACK__2.jpg"], "v1.0-trainval", records
    )
    assert lines[0] == "1 should have come from v1.0-trainval01_blobs.tgz, which was unpacked here."
    assert "one of v1.0-trainval02_blobs.tgz … v1.0-trainval10_blobs.tgz (9 archives) (logs log2)" in lines[1]
    assert (
        "hold no sweeps"
        in holding_archives(
            ["sweeps/CAM_BACK/l__C__1.jpg"], "v1.0-trainval", [Record("v1.0-trainval01_keyframes.tgz")]
        )[0]
    )
    assert holding_archives(["maps/a.png"], "v1.0-trainval") == ["1 should be in v1.0-trainval_meta.tgz."]


# ------------------------------------------------------------------------------------------------------------------ archives, URLs


def test_archives_on_disk_are_unpacked_once_and_kept(archives: list[Path], tmp_path: Path) -> None:
    complete = door([str(path) for path in archives], tmp_path / "data" / "set")
    assert all(path.exists() for path in archives)
    assert (tmp_path / "data" / "set" / "samples").resolve().is_relative_to(tmp_path / "data" / ".cache")
    assert door([str(path) for path in archives], tmp_path / "data" / "other")["counts"] == complete["counts"]
    assert len(list((tmp_path / "data" / ".cache" / "extracted").iterdir())) == 1


def test_a_file_lost_after_unpacking_is_named_with_its_archive_and_comes_back(
    archives: list[Path], tmp_path: Path
) -> None:
    door([str(path) for path in archives], tmp_path / "data" / "set")
    lost = sorted((tmp_path / "data" / "set" / "sweeps" / "CAM_BACK").iterdir())[0]
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(
        PetrflowError, match=r"1 should have come from .*_blobs\.tgz, which was unpacked here"
    ) as caught:
        door([str(path) for path in archives], tmp_path / "data" / "set")
    assert "Run the same command again" in str(caught.value)
    door([str(path) for path in archives], tmp_path / "data" / "set")
    assert lost.read_bytes() == content


def test_a_renewed_link_is_the_same_archive(archives: list[Path], tmp_path: Path) -> None:
    contents = {path.name: path.read_bytes() for path in archives}
    root = tmp_path / "data" / "set"
    old, new = ([MisbehavingServer(content, lambda _number: "none") for content in contents.values()] for _ in range(2))
    for servers, signature in ((old, "expired"), (new, "renewed")):
        for server in servers:
            server.__enter__()
        urls = [f"{server.url}/public/{name}?s={signature}" for server, name in zip(servers, contents, strict=True)]
        door(urls, root)
        for server in servers:
            server.__exit__(None, None, None)
    assert all(len(server.log) == 1 for server in old)
    assert all(server.log == [] for server in new)


CODE = """
import sys, json
from functools import partial
from pathlib import Path
from petrflow.errors import PetrflowError
from petrflow.fetch import archive
from petrflow.fetch.download import fetch
from petrflow.fetch.transfer import Patience
from petrflow.sources import nuscenes
from petrflow.sources.nuscenes import prepare
archive.FLUSH_BYTES = 1 << 20
nuscenes.fetch = partial(fetch, patience=Patience(backoff=0.01, longest_wait=0.05, stall_timeout=0.3))
try:
    prepare(json.loads(sys.argv[1]), Path(sys.argv[2]), progress=False)
except PetrflowError as error:
    sys.exit(str(error))
"""


def test_from_urls_over_a_bad_line_killed_twice_to_a_whole_root(
    archives: list[Path], source: Path, tmp_path: Path
) -> None:
    contents = {path.name: path.read_bytes() for path in archives}
    servers = [
        MisbehavingServer(
            content, lambda number: ("cut", "stall", "status_503", "cut")[number % 5] if number % 5 < 4 else "none"
        )
        for content in contents.values()
    ]
    with servers[0], servers[1], servers[2]:
        for server in servers:
            server.stall_seconds = 0.5
        (tmp_path / "urls.txt").write_text(
            "".join(f"{server.url}/{name}?signature=1\n" for server, name in zip(servers, contents, strict=True))
        )
        dataset = {
            "version": "v1.0-mini",
            "source": {"file": str(tmp_path / "urls.txt")},
            "splits": SCENES,
            "remove_archives": True,
        }
        root = tmp_path / "data" / "set"
        command = [sys.executable, "-c", CODE, json.dumps(dataset), str(root)]
        cache = tmp_path / "data" / ".cache"
        for wait_for in ("downloads/*/*.part", "extracted/*/samples/CAM_*/*.jpg"):
            process = subprocess.Popen(command, start_new_session=True)
            deadline = time.monotonic() + 60
            while (
                not any(path.stat().st_size for path in cache.glob(wait_for))
                and process.poll() is None
                and time.monotonic() < deadline
            ):
                time.sleep(0.01)
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert not (root / ".complete.json").exists()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()):
        assert (root / name).read_bytes() == (source / name).read_bytes(), name
    assert not list(cache.rglob("*.tgz"))
    assert not list(cache.rglob("*.part"))
    assert not list(cache.rglob("*.tmp*"))


def test_a_test_split_without_labels_becomes_stores_that_can_be_predicted(source: Path, tmp_path: Path) -> None:
    from nuscenes.utils.splits import test as names

    from petrflow.annotations import AnnotationStore, annotate

    (tables,) = (path.parent for path in source.glob("*/scene.json"))
    (tmp_path / "source").mkdir()
    for folder in ("samples", "sweeps"):
        (tmp_path / "source" / folder).symlink_to(source / folder)
    own = tmp_path / "source" / "v1.0-test"
    own.mkdir()
    for path in tables.glob("*.json"):
        if path.name != "splits.json":
            empty = path.name in ("sample_annotation.json", "instance.json")
            (own / path.name).write_text("[]" if empty else path.read_text())
    scenes = json.loads((own / "scene.json").read_text())
    for row, name in zip(scenes, names, strict=False):
        row["name"] = name
    (own / "scene.json").write_text(json.dumps(scenes))
    root, about = tmp_path / "data" / "test", tmp_path / "results" / "test" / "root"
    receipt = door(str(tmp_path / "source"), root, about, version="v1.0-test", splits={})
    assert sorted(receipt["splits"]["val"]) == sorted(names[: len(scenes)])
    annotate(
        root, {part: tmp_path / "stores" / f"{part}.arrow" for part in ("train", "val")}, about=about, progress=False
    )
    store = AnnotationStore.open(tmp_path / "stores" / "val.arrow")
    assert len(store) == sum(row["nbr_samples"] for row in scenes) and not len(store.columns["box.box"])
