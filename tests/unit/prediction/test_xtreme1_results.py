"""Boxes go back into Xtreme1 as the exact inverse of the import."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petrflow import stages
from petrflow.errors import InputError
from petrflow.files import read_json, write_json
from petrflow.geometry import transform_boxes
from petrflow.prediction.detections import write_detections
from petrflow.prediction.xtreme1_results import FrameResult, Way, write_results
from petrflow.samples.types import Detections
from petrflow.sources.xtreme1.camera_names import lidar_from_cloud
from petrflow.sources.xtreme1.parse import read_objects
from petrflow.sources.xtreme1.prepare import FRAMES, prepare
from petrflow.sources.xtreme1.settings import parse_settings
from tests.helpers.xtreme1_writer import Export, stores_of, write_export

pytestmark = pytest.mark.xdist_group("xtreme1")


def in_millimetres(entry: dict[str, Any]) -> None:
    for key in ("center3D", "size3D"):
        entry["contour"][key] = {axis: 1000 * value for axis, value in entry["contour"][key].items()}


def width_first(entry: dict[str, Any]) -> None:
    length, width, height = (entry["contour"]["size3D"][axis] for axis in "xyz")
    entry["contour"]["size3D"] = {"x": height, "y": width, "z": length}


def in_degrees(entry: dict[str, Any]) -> None:
    entry["contour"]["rotation3D"]["z"] = math.degrees(entry["contour"]["rotation3D"]["z"])


def quarter_turn(entry: dict[str, Any]) -> None:
    entry["contour"]["rotation3D"]["z"] -= math.pi / 2


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (None, {}),
    "all": (
        lambda entry: (in_millimetres(entry), width_first(entry), quarter_turn(entry), in_degrees(entry)),
        {"length_unit": {"boxes": "mm"}, "size_order": "hwl", "yaw_offset": 90.0, "angle_unit": "deg", "forward": "+y", "origin_height": 1.0},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def media(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("way-back") / "export"
    write_export(synthetic_root, folder, Export(clouds=False))
    return folder


def imported(folder: Path, place: Path, settings: dict[str, Any]) -> Path:
    root = place / "data" / "set"
    prepare({"kind": "xtreme1", "source": str(folder), **settings}, root, place / "about")
    return root


def true_boxes(root: Path, scratch: Path) -> list[FrameResult]:
    """The labels of a root, as if they had been found."""
    scratch.mkdir()
    found = []
    for store in stores_of(root, scratch).values():
        for index in range(len(store)):
            frame = store[index]
            scores = np.linspace(0.9, 0.1, len(frame.names))
            found.append(FrameResult(frame.token, frame.boxes, list(frame.names), scores, list(frame.instance_tokens)))
    return found


@pytest.mark.parametrize("case", CASES)
def test_labels_written_as_results_and_imported_again_are_the_same(media: Path, tmp_path: Path, case: str) -> None:
    edit, settings = CASES[case]
    export = tmp_path / "export"
    shutil.copytree(media, export)
    for path in export.rglob("result/*.json"):
        content = json.loads(path.read_text())
        for entry in content[0]["objects"]:
            if entry["type"] == "3D_BOX" and edit is not None:
                edit(entry)
        path.write_text(json.dumps(content))

    before = true_boxes(imported(export, tmp_path / "first", settings), tmp_path / "stores-1")
    way = Way(tmp_path / "first" / "about" / FRAMES)
    told = write_results(tmp_path / "results.zip", way, before, "default")
    assert told == {"frames": sum(len(one.names) > 0 for one in before), "boxes": sum(len(one.names) for one in before),
                    "classes_without_id": {}}  # fmt: skip
    for path in export.rglob("result/*.json"):
        path.unlink()
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        archive.extractall(export)

    again = {
        one.token: one for one in true_boxes(imported(export, tmp_path / "second", settings), tmp_path / "stores-2")
    }
    for one in before:
        if not len(one.names):
            continue
        other = again[one.token]
        assert list(other.names) == list(one.names)
        np.testing.assert_allclose(other.boxes[:, :6], one.boxes[:, :6], atol=1e-5)
        turn = other.boxes[:, 6] - one.boxes[:, 6]
        np.testing.assert_allclose((turn + np.pi) % (2 * np.pi) - np.pi, 0, atol=1e-5)


@pytest.mark.parametrize("axis", ["+x", "-x", "+y", "-y"])
@pytest.mark.parametrize("order", ["".join(order) for order in itertools.permutations("lwh")])
def test_contours_are_read_back_as_the_boxes_they_were_made_of(tmp_path: Path, axis: str, order: str) -> None:
    boxes = np.random.default_rng(0).uniform([-50, -50, -3, 0.3, 0.3, 0.3, -3.1], [50, 50, 3, 3, 12, 4, 3.1], (40, 7))
    for unit, turn, angle, height in itertools.product(
        ("m", "cm", "mm"), (0.0, 90.0, -37.5), ("rad", "deg"), (None, 2.5)
    ):
        settings = parse_settings(
            {
                "source": str(tmp_path),
                "length_unit": {"boxes": unit},
                "size_order": order,
                "yaw_offset": turn,
                "angle_unit": angle,
            }
        )
        lidar = lidar_from_cloud(axis, height)
        conventions = {
            "length_unit": settings.length_unit["boxes"],
            "size_order": order,
            "yaw_offset": turn,
            "angle_unit": angle,
        }
        content = {
            "lidar_from_cloud": lidar.tolist(),
            "conventions": conventions,
            "names": {},
            "class_ids": {},
            "frames": [],
        }
        (tmp_path / FRAMES).write_text(json.dumps(content))
        contours = Way(tmp_path / FRAMES).contours(boxes)
        objects = [{"type": "3D_BOX", "className": "Car", "contour": contour} for contour in contours]
        again = transform_boxes(read_objects("here", objects, settings).boxes, lidar)
        np.testing.assert_allclose(again[:, :6], boxes[:, :6], atol=1e-9)
        np.testing.assert_allclose(np.cos(again[:, 6] - boxes[:, 6]), 1.0, atol=1e-12)


def test_a_result_is_what_the_server_reads(media: Path, tmp_path: Path) -> None:
    before = true_boxes(imported(media, tmp_path / "first", {}), tmp_path / "stores")
    way = Way(tmp_path / "first" / "about" / FRAMES, {"Car": 7})
    empty = FrameResult(before[0].token, np.zeros((0, 7)), [], np.zeros(0), [])
    unknown = FrameResult(before[1].token, before[1].boxes[:1], ["小汽车"], np.array([0.5]), [""])
    told = write_results(tmp_path / "results.zip", way, [empty, unknown, *before[2:]], "default")
    assert told["classes_without_id"] == {"小汽车": 1}
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        names = archive.namelist()
        files = [archive.read(name) for name in names]
    assert not any(way.frames[empty.token]["name"] in name for name in names), "an empty list is an error on the server"
    assert all(name.split("/")[-2] == "result" for name in names)
    assert all(raw.isascii() for raw in files)
    objects = [entry for raw in files for result in json.loads(raw) for entry in result["objects"]]
    assert {entry["classId"] for entry in objects if entry["className"] == "Car"} == {7}
    assert all(
        len(entry["trackId"]) == 16 and entry["type"] == "3D_BOX" and entry["classValues"] == [] for entry in objects
    )
    assert len({entry["id"] for entry in objects}) == len(objects)


def test_the_same_detections_give_the_same_bytes(media: Path, tmp_path: Path) -> None:
    before = true_boxes(imported(media, tmp_path / "first", {}), tmp_path / "stores")
    way = Way(tmp_path / "first" / "about" / FRAMES)
    for name in ("a.zip", "b.zip"):
        write_results(tmp_path / name, way, before, "default")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_the_stage_hands_over_what_reaches_its_classs_score(media: Path, tmp_path: Path, capsys: Any) -> None:
    root = imported(media, tmp_path / "first", {})
    (tmp_path / "stores").mkdir()
    store = stores_of(root, tmp_path / "stores")["val"]
    names, found = ["car", "pedestrian"], []
    for index in range(len(store)):
        frame = store[index]
        labels = np.array([names.index(name) if name in names else -1 for name in frame.names])
        boxes = np.concatenate([frame.boxes, np.zeros((len(frame.boxes), 2))], axis=1)[labels >= 0]
        scores = np.linspace(0.9, 0.1, (labels >= 0).sum())
        found.append(Detections(boxes, scores, labels[labels >= 0]))
    predicted = tmp_path / "predict"
    predicted.mkdir()
    write_detections(predicted / "detections.parquet", store, found, names)
    write_json(predicted / "thresholds.json", {"car": {"score": 0.5}, "pedestrian": {"score": 2.0}})
    out = tmp_path / "results" / "mine" / "prelabel" / "set"
    stages.prelabel("mine", predicted, tmp_path / "first" / "about", out, {"Car": 7})

    wanted = {
        store[index].token: one.boxes[(one.labels == 0) & (one.scores >= 0.5), :3] for index, one in enumerate(found)
    }
    assert read_json(out / "summary.json") == {
        "frames": sum(len(boxes) > 0 for boxes in wanted.values()),
        "boxes": sum(map(len, wanted.values())),
        "classes_without_id": {},
    }
    assert (out / "provenance.json").is_file()
    way = Way(tmp_path / "first" / "about" / FRAMES)
    with zipfile.ZipFile(out / "prelabels.zip") as archive:
        for token, boxes in wanted.items():
            if len(boxes):
                frame = way.frames[token]
                (result,) = json.loads(archive.read(f"{frame['scene']}/result/{frame['name']}.json"))
                assert {entry["classId"] for entry in result["objects"]} == {7}
                assert result["sourceName"] == "mine"
                assert len(result["objects"]) == len(boxes)

    about = tmp_path / "first" / "about" / FRAMES
    write_json(about, {**read_json(about), "class_ids": {}})
    stages.prelabel("mine", predicted, tmp_path / "first" / "about", out)
    assert "No number is known for Car" in capsys.readouterr().err
    assert read_json(out / "summary.json")["classes_without_id"] == {"Car": sum(map(len, wanted.values()))}


def test_an_import_without_a_way_back_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Give the data set another name in the config"):
        Way(tmp_path / FRAMES)


def test_a_frame_of_another_import_is_a_sentence(media: Path, tmp_path: Path) -> None:
    imported(media, tmp_path / "first", {})
    way = Way(tmp_path / "first" / "about" / FRAMES)
    stray = FrameResult("0" * 32, np.zeros((1, 7)), ["car"], np.ones(1), [""])
    with pytest.raises(InputError, match="predict it again"):
        write_results(tmp_path / "results.zip", way, [stray], "default")
    assert not (tmp_path / "results.zip").exists()
