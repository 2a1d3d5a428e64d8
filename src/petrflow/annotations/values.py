"""Values that cannot be: each is one sentence with table, token and remedy, before anything trains
on them.

Only the scenes of the splits are looked at. What is odd but possible is the doctor's subject.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from petrflow.errors import PetrflowError
from petrflow.nuscenes.columns import Columns
from petrflow.nuscenes.root import Root

# How far a quaternion's length may be from 1.
_LENGTH_TOLERANCE = 0.05
# Boxes stand on the ground: a box whose z axis is more than 45 degrees from the world's leans, and
# where more than this share does, the quaternions are in another order.
_LEANING, _LEANING_SHARE = 0.7071, 0.05
# Focal length as a share of the image's width, below which a pinhole camera would see 175 degrees.
_LEAST_FOCAL = 0.02
# µs: keyframes that follow each other faster, by their median, have their times in another unit.
_SHORTEST_STEP = 10_000
# µs: how far the times of images may be from those of their keyframes, by the median.
_LARGEST_OFFSET = 60_000_000
# Median time and what it would be the unit of, if counted since 1970: from, to, name, factor to µs.
_UNITS = (
    (1e8, 1e11, "seconds", "multiply them by 1,000,000"),
    (1e11, 1e14, "milliseconds", "multiply them by 1,000"),
    (1e17, 1e20, "nanoseconds", "divide them by 1,000"),
)
_REMEDY = "Correct the table, or take the scene out of the splits."


def check_values(root: Root, tables: dict[str, Columns]) -> None:
    """Raise a `PetrflowError` for the first value in the tables of :func:`read_tables` that cannot
    be.
    """
    check = _Check(root, tables)
    check.tokens()
    check.times()
    check.calibrations()
    check.ego_poses()
    check.boxes()


class _Check:
    def __init__(self, root: Root, tables: dict[str, Columns]) -> None:
        self._folder, self._tables = root.folder / root.version, tables
        wanted = {name for names in root.splits.values() for name in names}
        scenes = np.array([name in wanted for name in tables["scene"]["name"].to_pylist()], dtype=bool)
        used = scenes[tables["sample"]["scene_row"]]
        self._samples = np.flatnonzero(used)
        self._data = np.flatnonzero(used[tables["sample_data"]["sample_row"]])
        self._boxes = np.flatnonzero(used[tables["sample_annotation"]["sample_row"]])

    def _path(self, table: str) -> Path:
        path = self._folder / f"{table}.json"
        return path.resolve() if path.is_symlink() else path

    def _refuse(
        self, table: str, rows: np.ndarray, bad: np.ndarray, record: str, what: str, values: Any = None
    ) -> None:
        """Raise if any of ``bad``, which belongs to ``rows`` of a table; ``record`` says what the
        token names.
        """
        if not bad.any():
            return
        first = int(np.flatnonzero(bad)[0])
        tokens_of = "sample_data" if table == "ego_pose" else table
        token = self._tables[tokens_of]["token"][int(rows[first])].as_py()
        shown = "" if values is None else f" ({np.asarray(values)[first].tolist()})"
        count = int(bad.sum())
        more = f" {count:,} records are like it." if count > 1 else ""
        raise PetrflowError(f"{self._path(table)}: {record} {token} {what}{shown}.{more} {_REMEDY}")

    # -------------------------------------------------------------------------------------------------------------- tokens

    def tokens(self) -> None:
        """Every record has a token of its own."""
        for table, columns in self._tables.items():
            tokens = columns["token"]
            if len(pc.unique(tokens)) == len(tokens):
                continue
            counts = pc.value_counts(tokens)
            twice = next(entry["values"] for entry in counts if entry["counts"].as_py() > 1)
            raise PetrflowError(
                f"{self._path(table)} holds two records with the token {twice}. Take one of them out, or give it a token of its own."
            )

    # --------------------------------------------------------------------------------------------------------------- times

    def times(self) -> None:
        """Times are in microseconds, and what comes before is earlier."""
        sample, data, boxes = (self._tables[name] for name in ("sample", "sample_data", "sample_annotation"))
        samples = self._samples[sample["prev_row"][self._samples] >= 0]
        steps = sample["timestamp"][samples] - sample["timestamp"][sample["prev_row"][samples]]
        self._check_unit("sample", sample["timestamp"][self._samples], steps)
        self._refuse("sample", samples, steps <= 0, "sample", "is not later than the sample that it names as `prev`")

        frames = self._data[data["prev_row"][self._data] >= 0]
        steps = data["timestamp"][frames] - data["timestamp"][data["prev_row"][frames]]
        self._refuse(
            "sample_data", frames, steps <= 0, "sample_data", "is not later than the image that it names as `prev`"
        )
        own = self._data[data["is_key_frame"][self._data]]
        offsets = np.abs(data["timestamp"][own] - sample["timestamp"][data["sample_row"][own]])
        if len(offsets) and np.median(offsets) > _LARGEST_OFFSET:
            raise PetrflowError(
                f"{self._path('sample_data')}: key frames are {np.median(offsets) / 1e6:,.0f} s away from their samples' times (median): the "
                "two tables have different units or clocks. Give both microseconds of one clock."
            )

        for column, sign, words in (("prev_row", 1, "later than"), ("next_row", -1, "earlier than")):
            rows = self._boxes[boxes[column][self._boxes] >= 0]
            time = sample["timestamp"][boxes["sample_row"]]
            steps = sign * (time[rows] - time[boxes[column][rows]])
            name = column.removesuffix("_row")
            self._refuse(
                "sample_annotation", rows, steps <= 0, "annotation", f"is not {words} the one that it names as `{name}`"
            )

    def _check_unit(self, table: str, times: np.ndarray, steps: np.ndarray) -> None:
        if not len(steps):
            return
        step, time = float(np.median(steps)), float(np.median(times))
        unit = next(((name, cure) for low, high, name, cure in _UNITS if low <= time < high), None)
        if step >= _SHORTEST_STEP and (unit is None or unit[0] != "nanoseconds"):
            return
        if unit is not None:
            raise PetrflowError(
                f"{self._path(table)}: the timestamps look like {unit[0]}; nuScenes' are microseconds. In sample.json, sample_data.json and "
                f"ego_pose.json, {unit[1]}."
            )
        raise PetrflowError(
            f"{self._path(table)}: keyframes are {max(step, 0):,.0f} microseconds apart (median), which is too short: timestamps are "
            "microseconds, and each sample has its own. Correct them in sample.json, sample_data.json and ego_pose.json."
        )

    # --------------------------------------------------------------------------------------------------------------- poses

    def calibrations(self) -> None:
        """Sensors have a pose, and cameras focal lengths in pixels."""
        calibrated, data = self._tables["calibrated_sensor"], self._tables["sample_data"]
        rows = np.unique(data["calibrated_sensor_row"][self._data])
        self._poses(
            "calibrated_sensor",
            rows,
            calibrated["translation"][rows],
            calibrated["rotation"][rows],
            "calibrated_sensor",
        )
        images = self._data[data["camera"][self._data] >= 0]
        widths = np.zeros(len(calibrated["translation"]))
        np.maximum.at(widths, data["calibrated_sensor_row"][images], data["width"][images])
        cameras = np.unique(data["calibrated_sensor_row"][images])
        matrices = calibrated["camera_intrinsic"][cameras].reshape(-1, 3, 3)
        empty = np.isnan(matrices).all(axis=(1, 2))
        self._refuse(
            "calibrated_sensor", cameras, empty, "calibrated_sensor", "belongs to a camera and has no camera_intrinsic"
        )
        focal = np.diagonal(matrices, axis1=1, axis2=2)[:, :2]
        with np.errstate(invalid="ignore"):
            sound = np.isfinite(matrices).all(axis=(1, 2)) & (focal > 0).all(axis=1)
            sound &= np.abs(matrices[:, 2] - [0.0, 0.0, 1.0]).max(axis=1, initial=0.0) < 1e-6
        words = "has a camera_intrinsic that is no camera matrix [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"
        self._refuse("calibrated_sensor", cameras, ~sound, "calibrated_sensor", words, matrices.reshape(-1, 9))
        small = focal.min(axis=1, initial=np.inf) < _LEAST_FOCAL * widths[cameras]
        words = "has a camera_intrinsic whose focal lengths are not in pixels of its images"
        self._refuse("calibrated_sensor", cameras, small, "calibrated_sensor", words, focal)

    def ego_poses(self) -> None:
        """Every image's vehicle pose is one."""
        poses = self._tables["sample_data"]["ego_pose"][self._data]
        self._poses("ego_pose", self._data, poses[:, :3], poses[:, 3:], "the pose of sample_data")

    def boxes(self) -> None:
        """Boxes stand somewhere, look somewhere and have three sizes above 0."""
        annotation, rows = self._tables["sample_annotation"], self._boxes
        self._poses(
            "sample_annotation", rows, annotation["translation"][rows], annotation["rotation"][rows], "annotation"
        )
        size = annotation["size"][rows]
        with np.errstate(invalid="ignore"):
            bad = ~(np.isfinite(size) & (size > 0)).all(axis=1)
        words = "has a size that is not three lengths above 0 (width, length, height in metres)"
        self._refuse("sample_annotation", rows, bad, "annotation", words, size)
        # The third element of the rotated z axis: 1 for a box that stands, 0 for one on its side.
        upright = 1.0 - 2.0 * (annotation["rotation"][rows, 1] ** 2 + annotation["rotation"][rows, 2] ** 2)
        leaning = upright < _LEANING
        if leaning.sum() > _LEANING_SHARE * len(rows):
            words = "leans more than 45 degrees; a rotation is a quaternion in the order w, x, y, z"
            self._refuse("sample_annotation", rows, leaning, "annotation", words, annotation["rotation"][rows])

    def _poses(self, table: str, rows: np.ndarray, translation: np.ndarray, rotation: np.ndarray, record: str) -> None:
        bad = ~np.isfinite(translation).all(axis=1)
        self._refuse(table, rows, bad, record, "has a translation that is not three finite numbers", translation)
        with np.errstate(invalid="ignore"):
            bad = ~(np.abs(np.linalg.norm(rotation, axis=1) - 1.0) <= _LENGTH_TOLERANCE)
        self._refuse(table, rows, bad, record, "has a rotation that is no quaternion w, x, y, z of length 1", rotation)
