"""Values that cannot be are named with table, token and remedy before a store is built."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petrflow.annotations import build_all
from petrflow.errors import PetrflowError

Tables = dict[str, list[dict[str, Any]]]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def tables_only(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tables]:
    folder = tmp_path_factory.mktemp("values") / "root"
    shutil.copytree(synthetic_root / "v1.0-mini", folder / "v1.0-mini")
    return folder, {path.stem: json.loads(path.read_text()) for path in (folder / "v1.0-mini").glob("*.json")}


def put(table: str, field: str, value: Any, place: int = 5) -> Callable[[Tables], None]:
    """An edit of one record."""

    def edit(tables: Tables) -> None:
        tables[table][min(place, len(tables[table]) - 1)][field] = value

    return edit


def twice(table: str) -> Callable[[Tables], None]:
    return lambda tables: tables[table].append(copy.deepcopy(tables[table][0]))


def times(change: Callable[[int], float]) -> Callable[[Tables], None]:
    def edit(tables: Tables) -> None:
        for table in ("sample", "sample_data", "ego_pose"):
            for row in tables[table]:
                row["timestamp"] = change(row["timestamp"])

    return edit


def only_image_times(change: Callable[[int], float]) -> Callable[[Tables], None]:
    def edit(tables: Tables) -> None:
        for row in tables["sample_data"]:
            row["timestamp"] = change(row["timestamp"])

    return edit


def own_previous(table: str) -> Callable[[Tables], None]:
    def edit(tables: Tables) -> None:
        row = next(row for row in tables[table] if row["prev"])
        row["prev"] = row["token"]

    return edit


def cameras(change: Callable[[list[list[float]]], Any]) -> Callable[[Tables], None]:
    def edit(tables: Tables) -> None:
        for row in tables["calibrated_sensor"]:
            if row["camera_intrinsic"]:
                row["camera_intrinsic"] = change(row["camera_intrinsic"])

    return edit


def scalar_last(tables: Tables) -> None:
    for row in tables["sample_annotation"]:
        w, *rest = row["rotation"]
        row["rotation"] = [*rest, w]


BOX = "sample_annotation"
CASES: list[tuple[Callable[[Tables], None], str]] = [
    *((put(table, "translation", [value, 1.0, 2.0], place), rf"{table}.json: .*[0-9a-f]{{32}} has a translation that is not three finite")
      for table in (BOX, "ego_pose", "calibrated_sensor") for value, place in ((NAN, 0), (-INF, 7))),
    *((put(table, "rotation", value, place), rf"{table}.json: .*[0-9a-f]{{32}} has a rotation that is no quaternion")
      for table in (BOX, "ego_pose", "calibrated_sensor") for value, place in (([0.0] * 4, 7), ([2.0, 0, 0, NAN], 0))),
    *((put(BOX, "size", value, place), r"sample_annotation.json: annotation [0-9a-f]{32} has a size that is not three lengths above 0")
      for value, place in (([0.0, 4, 1.5], 0), ([2, -4, 1.5], 3), ([2, 4, NAN], 10**6))),
    *((twice(table), rf"{table}.json holds two records with the token [0-9a-f]+")
      for table in ("scene", "sample", "sample_data", BOX, "instance", "category", "sensor", "calibrated_sensor")),
    (times(lambda time: time / 1e6), "look like seconds.*multiply them by 1,000,000"),
    (times(lambda time: time // 1_000_000), "look like seconds"),
    (times(lambda time: time // 1000), "look like milliseconds.*multiply them by 1,000"),
    (times(lambda time: time * 1000), "look like nanoseconds.*divide them by 1,000"),
    (times(lambda time: 1_500_000_000_000_000), "0 microseconds apart"),
    (times(lambda time: 2 * 1_531_419_601_000_000 - time), "microseconds apart"),
    (only_image_times(lambda time: time * 1000), "different units or clocks"),
    (only_image_times(lambda time: time // 1000), "different units or clocks"),
    *((own_previous(table), rf"{table}.json: .*[0-9a-f]{{32}} is not later than .* `prev`") for table in ("sample", "sample_data", BOX)),
    (cameras(lambda matrix: []), "belongs to a camera and has no camera_intrinsic"),
    (cameras(lambda matrix: [[0.0, 0, 0], [0, 0, 0], [0, 0, 1]]), "no camera matrix"),
    (cameras(lambda matrix: [[NAN, 0, 0], [0, 100, 0], [0, 0, 1]]), "no camera matrix"),
    (cameras(lambda matrix: [list(row) for row in zip(*matrix, strict=True)]), "no camera matrix"),
    (cameras(lambda matrix: [[0.8, 0, 0.5], [0, 0.8, 0.5], [0, 0, 1]]), "not in pixels"),
    (cameras(lambda matrix: [[*row, 0.0] for row in matrix]), "'camera_intrinsic' of record [0-9a-f]{32} is no 3x3 matrix"),
    (cameras(lambda matrix: [number for row in matrix for number in row]), "a record is not as nuScenes has it"),
    (scalar_last, r"sample_annotation.json: annotation [0-9a-f]{32} leans more than 45 degrees; .* in the order w, x, y, z"),
    (put("sample_data", "calibrated_sensor_token", "elsewhere"), "refers to calibrated_sensor 'elsewhere'"),
    *((put(table, field, "zz"), rf"{table}.json refers to {target} 'zz' in record [0-9a-f]{{32}}, which {target}.json does not hold")
      for table, field, target in (
          (BOX, "instance_token", "instance"), (BOX, "next", BOX), (BOX, "sample_token", "sample"), ("sample", "prev", "sample"),
          ("sample_data", "ego_pose_token", "ego_pose"), ("instance", "category_token", "category"))),
    (put(BOX, "attribute_tokens", ["zz"]), "refers to attribute 'zz' in record"),
]  # fmt: skip


def built(folder: Path, tables: Tables, out: Path) -> None:
    version = folder / "v1.0-mini"
    before = {path.name: path.read_bytes() for path in version.iterdir()}
    try:
        for name, rows in tables.items():
            if rows != json.loads(before[f"{name}.json"]):
                (version / f"{name}.json").write_text(json.dumps(rows))
        build_all(folder, {split: out / f"{split}.arrow" for split in ("train", "val")}, progress=False)
    finally:
        for name, content in before.items():
            (version / name).write_bytes(content)


@pytest.mark.parametrize(("edit", "message"), CASES)
def test_a_value_that_cannot_be_is_refused_with_table_token_and_remedy(
    edit: Callable[[Tables], None], message: str, tables_only: tuple[Path, Tables], tmp_path: Path
) -> None:
    folder, tables = tables_only
    tables = copy.deepcopy(tables)
    edit(tables)
    with pytest.raises(PetrflowError, match=message) as error:
        built(folder, tables, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_single_box_on_its_side_is_no_mistake_of_the_order(tables_only: tuple[Path, Tables], tmp_path: Path) -> None:
    folder, tables = tables_only
    tables = copy.deepcopy(tables)
    tables[BOX][0]["rotation"] = [0.7071, 0.7071, 0.0, 0.0]
    built(folder, tables, tmp_path)
    assert list(tmp_path.iterdir())


def test_scenes_outside_the_splits_may_hold_what_they_like(tables_only: tuple[Path, Tables], tmp_path: Path) -> None:
    folder, tables = tables_only
    tables = copy.deepcopy(tables)
    scene = next(row["token"] for row in tables["scene"] if row["name"] == "scene-0061")
    samples = {row["token"] for row in tables["sample"] if row["scene_token"] == scene}
    for row in tables["sample_annotation"]:
        if row["sample_token"] in samples:
            row["size"] = [0.0, 0.0, 0.0]
    tables["splits"] = {"petrflow_train": ["scene-0553"], "petrflow_val": ["scene-0103"]}  # type: ignore[assignment]
    built(folder, tables, tmp_path)
