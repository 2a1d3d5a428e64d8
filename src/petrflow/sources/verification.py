"""Is every file there that the tables name? What is missing is listed by sensor and count, with the
archive that should have held it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from petrflow.errors import PetrflowError
from petrflow.fetch.archive_records import Record, forget, read_records
from petrflow.files.status import tqdm
from petrflow.nuscenes.arrays import arrow
from petrflow.nuscenes.columns import BOOL, INT, LIST, TEXT, read_columns
from petrflow.nuscenes.names import CAMERA_ORDER
from petrflow.nuscenes.records import read_table, table_remedy
from petrflow.pictures.read import file_fault

THREADS = 16
_BATCH = 512


@dataclass
class Faults:
    """What is wrong with the files of one sensor."""

    checked: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)  # name, what is wrong

    def add(self, name: str, fault: str) -> None:
        """Count one checked file with what :func:`petrflow.pictures.read.file_fault` says of it."""
        self.checked += 1
        if fault == "is missing":
            self.missing.append(name)
        elif fault:
            self.damaged.append((name, fault))

    def names(self) -> list[str]:
        """All files that are not as they should be."""
        return self.missing + [name for name, _ in self.damaged]


def verify(
    root: Path,
    version: str,
    scenes: Sequence[str],
    source: Path,
    progress: bool = True,
    *,
    cameras: Sequence[str] | None = None,
    leave_out: bool = False,
    sweeps: bool = True,
) -> dict[str, Any]:
    """Check the files of some scenes and return what a receipt says of the tables.

    Missing or damaged camera images raise. Lidar, radar and maps, which petrflow does not read for
    training, are reported on stderr.

    Parameters
    ----------
    root
        A nuScenes root.
    version
        Name of the folder of its tables.
    scenes
        Names of the scenes whose files must be there.
    source
        The folder that holds the records of unpacked archives.
    cameras
        Channels whose images are used; all without it.
    leave_out
        Scenes that lack images are named in the result (``scenes_left_out``) and do not raise.
    sweeps
        Look at files between keyframes, too.
    """
    tables = _Tables(root / version)
    faults: dict[str, Faults] = defaultdict(Faults)
    names, channels = tables.files_of(scenes, sweeps)
    with tqdm(
        total=len(names), desc="verifying files", unit="file", file=sys.stderr, disable=not progress, mininterval=1.0
    ) as bar:
        for name, channel, fault in _check_all(root, names, channels):
            faults[channel].add(name, fault)
            bar.update()
    for row in tables.rows("map") if (root / version / "map.json").is_file() else []:
        name = str(row.get("filename", ""))
        if name:
            faults["maps"].add(name, file_fault(root / name))
    bad = {channel: entry for channel, entry in sorted(faults.items()) if entry.names()}
    used = tables.used(cameras)
    needed = {channel: entry for channel, entry in bad.items() if channel in used}
    incomplete = tables.scenes_of([name for entry in needed.values() for name in entry.names()])
    if needed and not leave_out:
        raise PetrflowError(_report(root, version, needed, source))
    for channel in needed:
        del bad[channel]
    if bad:
        absent = ", ".join(f"{channel} {len(entry.names()):,} of {entry.checked:,}" for channel, entry in bad.items())
        print(f"Note: files that training does not read are missing or damaged: {absent}.", file=sys.stderr)
    return {
        "cameras": used,
        **({"cameras_recorded": tables.cameras} if used != tables.cameras else {}),
        **({"scenes_left_out": incomplete} if incomplete else {}),
        "has_points": tables.has_points,
        "counts": tables.counts(),
        "has_velocity": tables.has_velocity,
        "has_attributes": tables.has_attributes,
        "files_checked": sum(entry.checked for entry in faults.values()),
        "files_absent": {channel: len(entry.names()) for channel, entry in bad.items()},
    }


# ------------------------------------------------------------------------------------------------------------------ tables


class _Tables:
    """What verification needs of the tables, read in streams."""

    def __init__(self, folder: Path):
        self._folder = folder
        sensors = {str(row["token"]): row for row in self.rows("sensor")}
        self._channel_of: dict[str, str] = {}
        for row in self.rows("calibrated_sensor"):
            sensor = sensors.get(str(row["sensor_token"]))
            if sensor is None:
                raise PetrflowError(
                    f"{folder / 'calibrated_sensor.json'} refers to sensor {row['sensor_token']!r} (record {row['token']}), which "
                    f"sensor.json does not hold: {table_remedy(folder.name)}"
                )
            self._channel_of[str(row["token"])] = str(sensor["channel"])
        self._data = read_columns(
            folder / "sample_data.json",
            {"sample_token": TEXT, "calibrated_sensor_token": TEXT, "filename": TEXT, "is_key_frame": BOOL},
        )
        # A vehicle may have sensors that recorded nothing here.
        used = {self._channel_of.get(token) for token in pc.unique(self._data["calibrated_sensor_token"]).to_pylist()}
        modality = {str(row["channel"]): str(row["modality"]) for row in sensors.values()}
        found = {channel for channel, kind in modality.items() if kind == "camera" and channel in used}
        self.cameras = [name for name in CAMERA_ORDER if name in found] + sorted(found - set(CAMERA_ORDER))
        if not self.cameras:
            raise PetrflowError(
                f"{folder / 'sensor.json'} names no camera that recorded anything (modalities: {sorted(set(modality.values()))}): "
                "petrflow needs camera images."
            )
        self._samples = read_columns(folder / "sample.json", {"token": TEXT, "scene_token": TEXT})
        annotations = read_columns(
            folder / "sample_annotation.json",
            {"prev": TEXT, "next": TEXT, "attribute_tokens": LIST, "num_lidar_pts": INT, "num_radar_pts": INT},
            optional=("attribute_tokens", "num_radar_pts"),
        )
        self.has_points = bool((annotations["num_lidar_pts"] + annotations["num_radar_pts"] > 0).any())
        self._annotations = len(annotations["prev"])
        self.has_velocity = any(value for value in _distinct(annotations["prev"]) + _distinct(annotations["next"]))
        self.has_attributes = any(_distinct(annotations["attribute_tokens"]))

    def rows(self, name: str) -> list[dict[str, Any]]:
        return read_table(self._folder.parent, self._folder.name, name)

    def used(self, cameras: Sequence[str] | None) -> list[str]:
        """Return the cameras of a data set's entry in the tables' order; all without such."""
        if unknown := [name for name in cameras or () if name not in self.cameras]:
            raise PetrflowError(
                f"cameras: no camera {unknown[0]} recorded anything in {self._folder}; there are {', '.join(self.cameras)}."
            )
        return [name for name in self.cameras if not cameras or name in cameras]

    def scenes_of(self, names: Sequence[str]) -> list[str]:
        """Return the names of the scenes that some files belong to, in order."""
        frames = self._data["sample_token"].filter(pc.is_in(self._data["filename"], pa.array(names, pa.string())))
        tokens = set(self._samples["scene_token"].filter(pc.is_in(self._samples["token"], frames)).to_pylist())
        return sorted(str(row["name"]) for row in self.rows("scene") if str(row["token"]) in tokens)

    def counts(self) -> dict[str, int]:
        """Rows of the tables that people count."""
        return {
            "scenes": len(self.rows("scene")),
            "keyframes": len(self._samples["token"]),
            "sample_data": len(self._data["filename"]),
            "annotations": self._annotations,
        }

    def files_of(self, scenes: Sequence[str], sweeps: bool) -> tuple[pa.Array, list[str]]:
        """Files and channels of all frames of some scenes, keyframes and, if wanted, sweeps."""
        tokens = [str(row["token"]) for row in self.rows("scene") if row["name"] in set(scenes)]
        samples = self._samples["token"].filter(pc.is_in(self._samples["scene_token"], pa.array(tokens, pa.string())))
        chosen = pc.is_in(self._data["sample_token"], samples)
        if not sweeps:
            chosen = pc.and_(chosen, arrow(self._data["is_key_frame"]))
        names = self._data["filename"].filter(chosen)
        calibrations = self._data["calibrated_sensor_token"].filter(chosen).dictionary_encode()
        by_index = [self._channel_of.get(token, "unknown sensor") for token in calibrations.dictionary.to_pylist()]
        return names, [by_index[index] for index in calibrations.indices.to_pylist()]


def _distinct(column: Any) -> list[str]:
    # Two values decide; a million annotations need not become Python strings.
    return [str(value) for value in pc.unique(column).slice(0, 2).to_pylist()]


# ------------------------------------------------------------------------------------------------------------------ files


def _check_all(root: Path, names: pa.Array, channels: Sequence[str]) -> Iterable[tuple[str, str, str]]:
    """Check every file from many threads, because the time goes into waiting for the disk or the
    network.
    """

    def check(start: int) -> list[tuple[str, str, str]]:
        batch = names.slice(start, _BATCH).to_pylist()
        return [
            (name, channel, file_fault(root / name))
            for name, channel in zip(batch, channels[start : start + _BATCH], strict=True)
        ]

    with ThreadPoolExecutor(THREADS) as pool:
        for results in pool.map(check, range(0, len(names), _BATCH)):
            yield from results


# ------------------------------------------------------------------------------------------------------------------ the report


def _report(root: Path, version: str, needed: dict[str, Faults], source: Path) -> str:
    total = sum(len(entry.names()) for entry in needed.values())
    checked = sum(entry.checked for entry in needed.values())
    lines = [f"{root}: {total:,} of {checked:,} files that the {version} tables name are missing or damaged:"]
    for channel, entry in needed.items():
        parts = [f"{len(entry.missing):,} missing"] if entry.missing else []
        parts += [
            f"{count:,} {fault.removeprefix('is ')}"
            for fault, count in sorted(Counter(fault for _, fault in entry.damaged).items())
        ]
        lines.append(f"  {channel:<16} {', '.join(parts)} of {entry.checked:,}; the first: {entry.names()[0]}")
    names = [name for entry in needed.values() for name in entry.names()]
    records = read_records(source)
    lines += [f"  {line}" for line in holding_archives(names, version, records)]
    if records:
        for record in records:
            if _logs(names) & set(record.logs):
                forget(source, record)
        lines.append("Run the same command again: the archives that should have held them will be unpacked anew.")
    else:
        lines.append(
            f"Extract those archives into {source} again (or name all of them as the data set's `source`), then run the same command again."
        )
    return "\n".join(lines)


def holding_archives(names: Sequence[str], version: str, records: Sequence[Record] = ()) -> list[str]:
    """Lines that say which archives should have held some files.

    An archive that was unpacked here is known by the logs (the part of a file's name before `__`)
    of what it held; the others are named as nuScenes names them.
    """
    by_log: dict[str, str] = {}
    for record in records:
        for log in record.logs:
            by_log.setdefault(log, record.archive)
    found: Counter[str] = Counter()
    unknown = []
    for name in names:
        log = _log(name)
        if log in by_log:
            found[by_log[log]] += 1
        else:
            unknown.append(name)
    lines = [
        f"{count:,} should have come from {archive}, which was unpacked here."
        for archive, count in sorted(found.items())
    ]
    if unknown:
        lines.append(
            f"{len(unknown):,} should be in {_published_archive(unknown, version, [record.archive for record in records])}."
        )
    return lines


def _published_archive(names: Sequence[str], version: str, given: Sequence[str]) -> str:
    if version == "v1.0-mini":
        return "v1.0-mini.tgz"
    if all(name.startswith("maps/") for name in names):
        return f"{version}_meta.tgz"
    if not re.fullmatch(r"v1\.0-(trainval|test)", version):
        return f"the archives of {version}"
    if version == "v1.0-test":
        return "v1.0-test_blobs.tgz"
    parts = [f"v1.0-trainval{number:02d}_blobs.tgz" for number in range(1, 11)]
    if given:
        parts = [part for part in parts if not any(part.split("_")[0] in archive for archive in given)] or parts
    if all(name.startswith("sweeps/") for name in names) and any("keyframes" in archive for archive in given):
        return "the *_blobs.tgz archives (the *_keyframes.tgz ones that were given hold no sweeps)"
    logs = sorted(_logs(names))
    of = f" (logs {', '.join(logs[:3])}{' …' if len(logs) > 3 else ''})" if logs else ""
    return f"one of {parts[0]} … {parts[-1]} ({len(parts)} archives){of}" if len(parts) > 1 else f"{parts[0]}{of}"


def _log(name: str) -> str:
    base = name.rpartition("/")[2]
    return base.partition("__")[0] if "__" in base else ""


def _logs(names: Iterable[str]) -> set[str]:
    return {log for log in map(_log, names) if log}
