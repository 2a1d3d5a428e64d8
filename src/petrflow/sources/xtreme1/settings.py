"""What a `kind: xtreme1` entry of the config may say, checked once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from petrflow.config import nearest_file, settings
from petrflow.errors import PetrflowError
from petrflow.messages import _

_UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_UNIT_OF = ("boxes", "externals", "cloud")


@dataclass(frozen=True)
class Settings:
    """A dataset's settings with their defaults filled in; docs/config.md says what each means."""

    source: Path
    version: str
    media_root: Path | None
    cameras: dict[str, str] | None
    camera_order: list[str] | None
    class_map: dict[str, str | None]
    timestamps: str | None
    poses: Path | None
    splits: dict[str, Any]
    result_source: str | None
    external_layout: str
    external_direction: str
    external_rotation: str
    scale_intrinsics: bool
    yaw_offset: float
    size_order: str
    length_unit: dict[str, float]
    forward: str
    origin_height: float | None
    scene_gap: float
    doctor: bool
    media: str | None
    ego: str | None
    angle_unit: str
    max_missing: float


def parse_settings(dataset: Mapping[str, Any]) -> Settings:
    """Check a config entry against the schema, fill in defaults, and see that the files it names
    are there.
    """
    entry = settings("xtreme1", {"kind": "xtreme1", **dataset})
    mistakes = [f"{'.'.join(map(str, path))}: {says}" for path, says in missing_files(entry)]
    if mistakes:
        raise PetrflowError("\n".join(mistakes))
    return conventions(entry)


def conventions(dataset: Mapping[str, Any]) -> Settings:
    """Return a config entry's settings with their defaults, whether the files it names are there or
    not: for frames that come from elsewhere.
    """
    entry = settings("xtreme1", {"kind": "xtreme1", **dataset})
    units = entry["length_unit"]
    return Settings(
        **{field.name: entry[field.name] for field in fields(Settings)}
        | {
            "source": Path(entry["source"]),
            "media_root": None if entry["media_root"] is None else Path(entry["media_root"]),
            "poses": None if entry["poses"] is None else Path(entry["poses"]),
            "cameras": entry["cameras"] or None,
            "camera_order": entry["camera_order"] or None,
            "class_map": entry["class_map"] or {},
            "length_unit": {
                name: _UNITS[units if isinstance(units, str) else units.get(name, "m")] for name in _UNIT_OF
            },
        }
    )


def missing_files(entry: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield key and sentence for each file or folder that an entry, with its defaults, names and
    that is not there.
    """
    source, timestamps = Path(entry["source"]), entry["timestamps"]
    if not source.exists():
        yield (
            ("source",),
            _(
                "{source} does not exist{hint}. Give the path of the Xtreme1 export: a folder, a zip or a JSON file.",
                source=source,
                hint=nearest_file(source),
            ),
        )
    if timestamps not in (None, "names", "none") and not Path(timestamps).is_file():
        yield (
            ("timestamps",),
            _(
                "{timestamps} is no file. It may be `names`, `none`, or the path of a CSV with columns name,timestamp.",
                timestamps=timestamps,
            ),
        )
    for key, kind, there in (("poses", "file", Path.is_file), ("media_root", "folder", Path.is_dir)):
        if entry[key] is not None and not there(Path(entry[key])):
            yield (key,), f"{entry[key]} is no {kind}{nearest_file(Path(entry[key]))}."
    for part in ("train", "val"):
        listed = entry["splits"].get(part)
        if isinstance(listed, str) and not Path(listed).expanduser().is_file():
            yield (
                ("splits", part),
                f"{listed} is no file. Give a text file with one frame a line, or a list of scene names.",
            )
