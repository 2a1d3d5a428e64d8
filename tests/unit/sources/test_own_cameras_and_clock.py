"""The nuScenes door takes data as people have it: some of the cameras, every n-th keyframe, no lidar, some of the archives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petrflow.annotations import AnnotationStore, build
from petrflow.config import load_config
from petrflow.errors import PetrflowError
from petrflow.evaluation.evaluate import require_scorable
from petrflow.sources.nuscenes import prepare
from petrflow.sources.splits import split_by_hash
from petrflow.sources.synthetic.generate import split_scenes

SCENES = {"train": "mini_train", "val": "mini_val"}


@pytest.fixture
def source(synthetic_root: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    return Path(shutil.copytree(synthetic_root, folder, ignore=shutil.ignore_patterns(".*", "splits.json")))


def store_of(source: Path, folder: Path, **settings: Any) -> AnnotationStore:
    entry = {"kind": "nuscenes", "version": "v1.0-mini", "source": str(source), "splits": SCENES, **settings}
    prepare(entry, folder / "root", progress=False)
    build(folder / "root", "train", folder / "train.arrow", progress=False)
    return AnnotationStore.open(folder / "train.arrow")


def edit(source: Path, table: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    path = source / "v1.0-mini" / f"{table}.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_boxes_that_no_used_camera_sees_do_not_count(source: Path, tmp_path: Path) -> None:
    from nuscenes.nuscenes import NuScenes
    from nuscenes.utils.geometry_utils import BoxVisibility, box_in_image

    whole = store_of(source, tmp_path / "whole")
    front = store_of(source, tmp_path / "front", cameras=["CAM_FRONT_LEFT", "CAM_FRONT"])
    kept = store_of(source, tmp_path / "kept", cameras=["CAM_FRONT"], unseen_boxes="keep")
    assert front.camera_names == ("CAM_FRONT", "CAM_FRONT_LEFT") and kept.camera_names == ("CAM_FRONT",)
    assert np.array_equal(kept.columns["box.valid"], whole.columns["box.valid"])
    devkit = NuScenes("v1.0-mini", str(source), verbose=False)
    seen, extra = 0, 0
    for index in range(len(front)):
        keyframe, full = front[index], whole[index]
        visible = set()
        for channel in front.camera_names:
            token = devkit.get("sample", keyframe.token)["data"][channel]
            _, boxes, intrinsic = devkit.get_sample_data(token, box_vis_level=BoxVisibility.NONE)
            size = devkit.get("sample_data", token)
            visible |= {
                box.token
                for box in boxes
                if box_in_image(box, intrinsic, (size["width"], size["height"]), BoxVisibility.ANY)
            }
        for token, valid, before in zip(keyframe.annotation_tokens, keyframe.valid, full.valid, strict=True):
            assert not (token in visible and before) or valid
            assert before or not valid
            seen += int(valid)
            extra += int(valid and token not in visible)
    assert 0 < seen < int((whole.columns["box.valid"] != 0).sum()) and extra <= 0.02 * seen  # only its centre is seen
    with pytest.raises(PetrflowError, match="nuscenes-devkit judges boxes that hold a lidar or radar point"):
        require_scorable(front, list(NAMES), tmp_path / "front" / "root", judge="devkit")


NAMES = ("car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone")  # fmt: skip


def test_six_cameras_give_the_same_store_whatever_the_settings_say(source: Path, tmp_path: Path) -> None:
    store_of(source, tmp_path / "whole")
    cameras = ["CAM_BACK", "CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"]
    store_of(source, tmp_path / "named", cameras=cameras, load_every=1)
    assert (tmp_path / "named/train.arrow").read_bytes() == (tmp_path / "whole/train.arrow").read_bytes()


def test_a_camera_that_is_not_there_is_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PetrflowError, match=r"cameras: no camera CAM_TOP .*there are CAM_FRONT, "):
        store_of(source, tmp_path / "set", cameras=["CAM_TOP"])


def test_every_second_keyframe_keeps_its_previous_frames(source: Path, tmp_path: Path) -> None:
    whole = store_of(source, tmp_path / "whole")
    half = store_of(source, tmp_path / "half", load_every=2)
    by_scene: dict[str, list[Any]] = {}
    for index in range(len(whole)):
        by_scene.setdefault(whole[index].scene_name, []).append(whole[index])
    wanted = {keyframe.token: keyframe for frames in by_scene.values() for keyframe in frames[::2]}
    assert {half[index].token for index in range(len(half))} == wanted.keys()
    for index in range(len(half)):
        found, same = half[index], wanted[half[index].token]
        assert np.array_equal(found.boxes, same.boxes)
        assert np.array_equal(found.velocities, same.velocities, equal_nan=True)
        assert found.num_sweeps == same.num_sweeps
        for k in range(found.num_sweeps):
            assert found.sweep(k).image_paths == same.sweep(k).image_paths


def test_without_sweeps_previous_frames_are_those_of_earlier_keyframes(source: Path, tmp_path: Path) -> None:
    whole = store_of(source, tmp_path / "whole")
    shutil.rmtree(source / "sweeps")
    with pytest.raises(PetrflowError, match="are missing or damaged"):
        store_of(source, tmp_path / "set")
    store = store_of(source, tmp_path / "set", use_sweeps=False)
    earlier: dict[str, list[list[str]]] = {}
    for index in range(len(store)):
        keyframe, before = store[index], earlier.setdefault(store[index].scene_name, [])
        assert keyframe.image_paths == whole[index].image_paths and np.array_equal(keyframe.boxes, whole[index].boxes)
        paths = [keyframe.sweep(k).image_paths for k in range(keyframe.num_sweeps)]
        assert all(one in before for one in paths) and all(one in paths for one in before)
        before.append(keyframe.image_paths)


@pytest.mark.parametrize("points", [0, -1])
def test_labels_without_lidar_are_usable(source: Path, tmp_path: Path, points: int) -> None:
    whole = store_of(source, tmp_path / "whole")
    edit(
        source, "sample_annotation", lambda rows: [{**row, "num_lidar_pts": points, "num_radar_pts": 0} for row in rows]
    )
    edit(source, "sample_data", lambda rows: [row for row in rows if "LIDAR" not in row["filename"]])
    store = store_of(source, tmp_path / "set")
    assert store.columns["box.valid"].all() and len(store) == len(whole)
    for index in range(len(store)):
        own, known = store[index], whole[index]
        assert own.annotation_tokens == known.annotation_tokens
        for mine, theirs in ((own, own.lidar_from_camera), (known, known.lidar_from_camera)):
            assert np.isfinite(mine.boxes).all() and np.isfinite(theirs).all()
        # The same box lies at the same place of every image, whichever frame it is told in.
        for camera in range(len(store.camera_names)):
            first, second = (
                np.linalg.inv(one.lidar_from_camera[camera])
                @ np.concatenate([one.boxes[:, :3], np.ones((len(one.boxes), 1))], axis=1).T
                for one in (own, known)
            )
            assert np.allclose(first, second, atol=1e-6)
    require_scorable(store, list(NAMES), tmp_path / "set" / "root")
    with pytest.raises(PetrflowError, match="this data has no points"):
        require_scorable(store, list(NAMES), tmp_path / "set" / "root", judge="devkit")


def test_scenes_that_lack_images_may_be_left_out(source: Path, tmp_path: Path) -> None:
    rows = json.loads((source / "v1.0-mini" / "sample_data.json").read_text())
    scenes = {row["token"]: row["name"] for row in json.loads((source / "v1.0-mini" / "scene.json").read_text())}
    scene_of = {
        row["token"]: scenes[row["scene_token"]] for row in json.loads((source / "v1.0-mini/sample.json").read_text())
    }
    entry = {"kind": "nuscenes", "version": "v1.0-mini", "source": str(source), "splits": SCENES}
    train = prepare(entry, tmp_path / "whole", progress=False)["splits"]["train"]
    lost = next(row for row in rows if "CAM_BACK/" in row["filename"] and scene_of[row["sample_token"]] == train[0])
    (source / lost["filename"]).unlink()
    with pytest.raises(PetrflowError, match="are missing or damaged"):
        prepare(entry, tmp_path / "set", progress=False)
    receipt = prepare({**entry, "incomplete_scenes": "leave_out"}, tmp_path / "set", progress=False)
    assert receipt["splits"]["train"] == train[1:] and receipt["scenes_left_out"] == [train[0]]
    only = {**entry, "splits": {"train": [train[0]], "val": "mini_val"}, "incomplete_scenes": "leave_out"}
    with pytest.raises(PetrflowError, match=r"splits\.train: none of its 1 scenes has all its images"):
        prepare(only, tmp_path / "other", progress=False)
    front = prepare({**entry, "cameras": ["CAM_FRONT"]}, tmp_path / "front", progress=False)
    assert front["splits"]["train"] == train  # its images are all there


def test_a_share_of_the_scenes_is_drawn_by_hash_at_every_door(source: Path, tmp_path: Path) -> None:
    names = sorted(row["name"] for row in json.loads((source / "v1.0-mini" / "scene.json").read_text()))
    entry = {"kind": "nuscenes", "version": "v1.0-mini", "source": str(source), "splits": {"ratio": 0.4, "seed": 2}}
    splits = prepare(entry, tmp_path / "set", progress=False)["splits"]
    drawn = split_by_hash(names, 0.4, 2)
    assert splits == {part: [name for name in names if drawn[name] == part] for part in ("train", "val")}
    assert split_scenes(names, {"ratio": 0.4, "seed": 2}) == splits
    with pytest.raises(PetrflowError, match=r"splits\.ratio: 1 scene cannot be divided"):
        split_scenes(names[:1], {"ratio": 0.4})


def test_a_share_in_the_config_of_a_rendered_set_is_no_contradiction(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "datasets: {a: {kind: synthetic, splits: {ratio: 0.3}}}\nruns: {r: {dataset: a, model: petrv2_tiny}}\n"
    )
    assert not load_config([path]).mistakes
    path.write_text(path.read_text().replace("ratio: 0.3", "ratio: 0.3, val: [scene-0103]"))
    assert "says both" in str(load_config([path]).mistakes[0])
