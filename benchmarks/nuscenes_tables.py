"""nuScenes tables of any size without images: what benchmarks and tests of the annotate stage feed on.

Sizes are those of the real thing: a scene has 40 keyframes at 2 Hz, six cameras at 12 Hz, a lidar at 20 Hz and five radars at 13 Hz, about
3,100 sample_data and ego_pose rows and 34 boxes a keyframe; the text is laid out as nuScenes lays it out.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")
CATEGORIES = (
    "human.pedestrian.adult",
    "vehicle.car",
    "vehicle.truck",
    "vehicle.bus.rigid",
    "vehicle.bicycle",
    "vehicle.motorcycle",
    "vehicle.trailer",
    "vehicle.construction",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.debris",
    "animal",
)
ATTRIBUTES = ("vehicle.moving", "vehicle.parked", "pedestrian.moving", "pedestrian.standing", "cycle.with_rider")
LEVELS = ("v0-40", "v40-60", "v60-80", "v80-100")
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


class Tokens:
    """Reproducible tokens of 32 hex digits, all with the same first ones."""

    def __init__(self, seed: list[int], prefix: str = "") -> None:
        self._rng, self._prefix = np.random.default_rng(seed), prefix

    def take(self, count: int) -> list[str]:
        text, size = self._rng.bytes(16 * count).hex(), 32 - len(self._prefix)
        return [self._prefix + text[k : k + size] for k in range(0, 32 * count, 32)]


class Records(list[str]):
    """Records of a table that are kept to be written more than once."""

    def write(self, records: Iterable[str]) -> None:
        self.extend(records)


class Table:
    """A table that is written record by record, one field a line."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = open(path, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        self._separator = "[\n"

    def write(self, records: Iterable[str]) -> None:
        for record in records:
            self._file.write(self._separator + record)
            self._separator = ",\n"

    def close(self) -> None:
        self._file.write("\n]" if self._separator == ",\n" else "[]")
        self._file.close()


def record(**fields: Any) -> str:
    return json.dumps(fields, indent=0)


def _numbers(values: Iterable[float]) -> str:
    return "[\n" + ",\n".join(map(repr, values)) + "\n]"


def write_tables(
    root: Path,
    scenes: int,
    *,
    keyframes: int = 40,
    boxes_per_keyframe: int = 34,
    version: str = "v1.0-trainval",
    val_share: float = 150 / 850,
    cameras: tuple[str, ...] = CAMERAS,
    seed: int = 0,
    distinct: int = 850,
) -> Path:
    """Write all 13 tables, ``splits.json`` and ``.complete.json`` under ``root``; return the folder of the tables.

    A scene's records depend on the seed and its number alone: the first scenes of a large root are those of a small one. Scenes are
    written one by one. Past ``distinct`` scenes, the first ``COPIED`` are written again and again under other tokens, names and times,
    which takes the time of a copy.
    """
    folder = root / version
    folder.mkdir(parents=True, exist_ok=True)
    (root / "maps").mkdir(exist_ok=True)
    (root / "maps" / "blank.png").write_bytes(PIXEL)
    tokens = Tokens([seed])
    sensors = ("LIDAR_TOP", *cameras, *RADARS)
    sensor_tokens, category_tokens, attribute_tokens = (
        tokens.take(len(names)) for names in (sensors, CATEGORIES, ATTRIBUTES)
    )
    tables = {name: Table(folder / f"{name}.json") for name in _TABLES}
    modality = {"L": "lidar", "C": "camera", "R": "radar"}
    tables["sensor"].write(
        record(token=t, channel=c, modality=modality[c[0]]) for t, c in zip(sensor_tokens, sensors, strict=True)
    )
    tables["category"].write(
        record(token=t, name=n, description="") for t, n in zip(category_tokens, CATEGORIES, strict=True)
    )
    tables["attribute"].write(
        record(token=t, name=n, description="") for t, n in zip(attribute_tokens, ATTRIBUTES, strict=True)
    )
    tables["visibility"].write(record(token=str(k + 1), level=n, description="") for k, n in enumerate(LEVELS))
    names = [scene_name(number) for number in range(scenes)]
    logs: list[str] = []
    copied: list[dict[str, Records]] = []
    for number in range(scenes):
        if number >= distinct:
            original = number % len(copied)
            _write_copy(tables, copied[original], original, number)
            continue
        records = {name: Records() for name in _TABLES}
        scene = _Scene(seed, number, keyframes)
        log = scene.tokens.take(1)[0]
        logs.append(log)
        records["log"].write(
            [record(token=log, logfile=scene.logfile, vehicle="n000", date_captured="2018-07-24", location="a")]
        )
        samples = scene.write_samples(records, names[number], log)
        scene.write_sensor_data(records, sensors, sensor_tokens, samples)
        scene.write_boxes(records, samples, category_tokens, attribute_tokens, boxes_per_keyframe)
        for name, kept in records.items():
            tables[name].write(kept)
        if scenes > distinct and number < COPIED:
            copied.append(records)
    tables["map"].write(
        [record(token=tokens.take(1)[0], log_tokens=logs, category="semantic_prior", filename="maps/blank.png")]
    )
    for table in tables.values():
        table.close()
    val = max(1, round(scenes * val_share)) if scenes > 1 else 0
    splits = {"petrflow_train": names[: scenes - val] or names, "petrflow_val": names[scenes - val :] or names}
    (folder / "splits.json").write_text(json.dumps(splits))
    marker = {
        "kind": "nuscenes",
        "version": version,
        "cameras": list(cameras),
        "fingerprint": f"tables-{scenes}-{keyframes}-{seed}",
    }
    (root / ".complete.json").write_text(json.dumps(marker))
    return folder


COPIED = 85
"""Scenes that are written again where more than ``distinct`` are wanted; they begin within 10,000 s."""


def scene_name(number: int) -> str:
    return f"scene-{number + 1:04d}"


def _prefix(number: int) -> str:
    """First digits of all tokens of a scene."""
    return f"{number:06x}"


def _write_copy(tables: dict[str, Table], records: dict[str, Records], original: int, number: int, times: int) -> None:
    start = str(FIRST_SECOND)[:6]
    for name, kept in records.items():
        if name != "log" and kept:
            text = ",\n".join(kept).replace(f'"{_prefix(original)}', f'"{_prefix(number)}')
            if name in ("sample", "sample_data", "ego_pose"):
                text = text.replace(start, str(int(start) + times))  # 10,000 s later each time
            if name == "scene":
                text = text.replace(scene_name(original), scene_name(number))
                text = text.replace(f'"log_token": "{_prefix(number)}', f'"log_token": "{_prefix(original)}')
            tables[name].write([text])


FIRST_SECOND = 1_532_402_927

_TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)


def _quaternions(yaw: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    """Turns by ``yaw`` (n,) about z after small tilts (n, 2) about x and y."""
    half = yaw / 2
    w, z = np.cos(half), np.sin(half)
    a, b = tilt[:, 0] / 2, tilt[:, 1] / 2
    quaternion = np.stack([w, w * a - z * b, w * b + z * a, z], axis=1)
    return quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)


class _Scene:
    """One scene: a smooth drive, twelve sensors on their own clocks, and boxes that live for some keyframes."""

    def __init__(self, seed: int, number: int, keyframes: int) -> None:
        self.tokens, self.rng, self.keyframes = (
            Tokens([seed, number, 0], _prefix(number)),
            np.random.default_rng([seed, number, 1]),
            keyframes,
        )
        rng = self.rng
        self.start = FIRST_SECOND * 1_000_000 + number * 25_000_000
        self.seconds = (keyframes - 1) * 0.5
        self.logfile = f"n000-2018-07-24-11-{number // 60 % 60:02d}-{number % 60:02d}+0800"
        self.turn, self.speed = rng.uniform(-0.08, 0.08), rng.uniform(0, 12)
        self.heading, self.origin = rng.uniform(-3, 3), rng.uniform(100, 2000, 2)
        # The lidar decides when a keyframe is; every tenth turn of it is one.
        self.times = self.start + (np.arange(keyframes) * 500_000 + rng.integers(-900, 900, keyframes)).astype(np.int64)

    def pose(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ego poses at times (n,) in µs: translations (n, 3), quaternions (n, 4)."""
        seconds = (times - self.start) * 1e-6
        heading = self.heading + self.turn * seconds
        travelled = self.speed * seconds
        xy = self.origin + travelled[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)
        z = 0.05 * np.sin(seconds)
        tilt = 0.02 * np.stack([np.sin(seconds), np.cos(1.3 * seconds)], axis=1)
        return np.concatenate([xy, z[:, None]], axis=1), _quaternions(heading, tilt)

    def write_samples(self, tables: dict[str, Records], name: str, log: str) -> list[str]:
        scene = self.tokens.take(1)[0]
        samples = self.tokens.take(self.keyframes)
        tables["scene"].write(
            [
                record(
                    token=scene,
                    log_token=log,
                    nbr_samples=self.keyframes,
                    first_sample_token=samples[0],
                    last_sample_token=samples[-1],
                    name=name,
                    description="tables only",
                )
            ]
        )
        chain = ["", *samples, ""]
        tables["sample"].write(
            record(token=token, timestamp=int(self.times[k]), prev=chain[k], next=chain[k + 2], scene_token=scene)
            for k, token in enumerate(samples)
        )
        return samples

    def write_sensor_data(
        self, tables: dict[str, Records], sensors: tuple[str, ...], sensor_tokens: list[str], samples: list[str]
    ) -> None:
        calibrated = self.tokens.take(len(sensors))
        for number, (channel, token) in enumerate(zip(sensors, calibrated, strict=True)):
            camera = channel.startswith("CAM")
            focal = 1260 + self.rng.normal(0, 5)
            tables["calibrated_sensor"].write(
                [
                    record(
                        token=token,
                        sensor_token=sensor_tokens[number],
                        translation=self.rng.normal((0.8, 0, 1.6), 0.8).tolist(),
                        rotation=self._mounting(channel, number).tolist(),
                        camera_intrinsic=[[focal, 0.0, 816.2], [0.0, focal, 491.5], [0.0, 0.0, 1.0]] if camera else [],
                    )
                ]
            )
            tables["sample_data"].write(self._rows(tables["ego_pose"], channel, token, samples))

    def _mounting(self, channel: str, number: int) -> np.ndarray:
        tilt = self.rng.normal(0, 0.02, (1, 2))
        if not channel.startswith("CAM"):
            return _quaternions(np.array([-np.pi / 2]), tilt)[0]
        facing = _quaternions(np.array([-np.pi / 3 * (number - 1)]), tilt)[0]
        w, x, y, z = facing  # times the turn from camera axes to axes that look along x
        return 0.5 * np.array([w + x - y + z, -w + x + y + z, w - x + y + z, -w - x - y + z])

    def _rows(self, ego_pose: Records, channel: str, calibrated: str, samples: list[str]) -> Iterator[str]:
        rate = {"L": 20, "C": 12, "R": 13}[channel[0]]
        step = 1_000_000 / rate
        times = self.start + np.arange(0, self.seconds * 1e6 + 120_000, step) + self.rng.integers(0, int(step))
        times = times.astype(np.int64) + self.rng.integers(-2000, 2000, len(times))
        key = np.abs(times[:, None] - self.times).argmin(axis=0)
        if channel == "LIDAR_TOP":
            times[key] = self.times
        following = np.searchsorted(self.times, times).clip(max=self.keyframes - 1)
        following[key] = np.arange(self.keyframes)
        is_key = np.zeros(len(times), dtype=bool)
        is_key[key] = True
        tokens = self.tokens.take(len(times))
        translations, rotations = self.pose(times)
        ego_pose.write(
            f'{{\n"token": "{token}",\n"timestamp": {time},\n"rotation": {_numbers(rotation)},\n"translation": {_numbers(translation)}\n}}'
            for token, time, rotation, translation in zip(
                tokens, times.tolist(), rotations.tolist(), translations.tolist(), strict=True
            )
        )
        form, ending = ("jpg", "jpg") if channel[0] == "C" else ("pcd", "pcd.bin" if channel[0] == "L" else "pcd")
        height, width = (900, 1600) if channel[0] == "C" else (0, 0)
        chain = ["", *tokens, ""]
        for k, (token, time) in enumerate(zip(tokens, times.tolist(), strict=True)):
            kind, flag = ("samples", "true") if is_key[k] else ("sweeps", "false")
            yield (
                f'{{\n"token": "{token}",\n"sample_token": "{samples[following[k]]}",\n"ego_pose_token": "{token}",\n'
                f'"calibrated_sensor_token": "{calibrated}",\n"timestamp": {time},\n"fileformat": "{form}",\n"is_key_frame": {flag},\n'
                f'"height": {height},\n"width": {width},\n"filename": "{kind}/{channel}/{self.logfile}__{channel}__{time}.{ending}",\n'
                f'"prev": "{chain[k]}",\n"next": "{chain[k + 2]}"\n}}'
            )

    def write_boxes(
        self,
        tables: dict[str, Records],
        samples: list[str],
        categories: list[str],
        attributes: list[str],
        per_keyframe: int,
    ) -> None:
        """Instances that live 1 to 30 keyframes, until about ``per_keyframe`` boxes a keyframe are written."""
        wanted = per_keyframe * self.keyframes
        while wanted > 0:
            life = min(int(self.rng.integers(1, 31)), wanted, self.keyframes)
            first = int(self.rng.integers(0, self.keyframes - life + 1))
            # Now and then an instance is not seen for some keyframes: the devkit gives no velocity across a long gap.
            at = first + np.arange(life)
            if life > 8 and self.rng.random() < 0.3:
                at = np.delete(at, slice(2, 6))
            self._write_instance(tables, [samples[k] for k in at], self.times[at], categories, attributes)
            wanted -= len(at)

    def _write_instance(
        self,
        tables: dict[str, Records],
        samples: list[str],
        times: np.ndarray,
        categories: list[str],
        attributes: list[str],
    ) -> None:
        rng = self.rng
        instance, *tokens = self.tokens.take(1 + len(times))
        tables["instance"].write(
            [
                record(
                    token=instance,
                    category_token=categories[int(rng.integers(len(categories)))],
                    nbr_annotations=len(times),
                    first_annotation_token=tokens[0],
                    last_annotation_token=tokens[-1],
                )
            ]
        )
        seconds = (times - self.start) * 1e-6
        position = self.origin + rng.normal(0, 30, 2) + seconds[:, None] * rng.normal(0, 3, 2)
        rotations = _quaternions(rng.uniform(-3, 3) + 0.1 * seconds, np.zeros((len(times), 2))).tolist()
        size = rng.uniform(0.4, 5, 3).tolist()
        attribute = f'[\n"{attributes[int(rng.integers(len(attributes)))]}"\n]' if rng.random() < 0.7 else "[]"
        points = rng.integers(0, 40, (len(times), 2)) * (rng.random((len(times), 2)) < 0.7)
        chain = ["", *tokens, ""]
        tables["sample_annotation"].write(
            f'{{\n"token": "{tokens[k]}",\n"sample_token": "{samples[k]}",\n"instance_token": "{instance}",\n'
            f'"visibility_token": "{1 + k % 4}",\n"attribute_tokens": {attribute},\n'
            f'"translation": {_numbers([*position[k].tolist(), 0.8])},\n"size": {_numbers(size)},\n"rotation": {_numbers(rotations[k])},\n'
            f'"prev": "{chain[k]}",\n"next": "{chain[k + 2]}",\n"num_lidar_pts": {points[k, 0]},\n"num_radar_pts": {points[k, 1]}\n}}'
            for k in range(len(times))
        )
