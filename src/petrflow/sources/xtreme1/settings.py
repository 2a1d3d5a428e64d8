"""What a `kind: xtreme1` entry of the config may say, checked once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError

_UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_UNIT_OF = ("boxes", "externals", "cloud")
_FORWARD = ("auto", "+x", "-x", "+y", "-y")
_KEYS = {
    "kind", "version", "source", "media_root", "cameras", "camera_order", "class_map", "timestamps", "poses", "splits", "result_source",
    "external_layout", "external_direction", "external_rotation", "scale_intrinsics", "yaw_offset", "size_order", "length_unit",
    "forward", "origin_height", "scene_gap", "doctor", "media", "ego", "angle_unit",
    "max_missing",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """A dataset's settings with their defaults filled in; `petrflow.sources.xtreme1.prepare` says what each means."""

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
    length_unit: dict[str, float] = field(default_factory=dict)
    forward: str = "auto"
    origin_height: float | None = None
    scene_gap: float = 10.0
    doctor: bool = True
    media: str | None = None
    ego: str | None = None
    angle_unit: str = "rad"
    max_missing: float = 0.02


def parse_settings(dataset: Mapping[str, Any]) -> Settings:
    """Check a config entry and fill in defaults; every complaint names the key and what it may be."""
    unknown = sorted(set(dataset) - _KEYS)
    if unknown:
        raise PetrflowError(f"An xtreme1 dataset knows no key '{unknown[0]}'. It knows {', '.join(sorted(_KEYS))}.")
    if not dataset.get("source"):
        raise PetrflowError("An xtreme1 dataset needs `source`: the export's folder or zip.")
    source = Path(str(dataset["source"])).expanduser()
    if not source.exists():
        raise PetrflowError(
            f"`source: {source}` does not exist. Give the path of the Xtreme1 export, a folder or a zip."
        )
    timestamps = dataset.get("timestamps")
    if timestamps not in (None, "names", "none") and not Path(str(timestamps)).expanduser().is_file():
        raise PetrflowError(
            f"`timestamps: {timestamps}` is no file. It may be `names`, `none`, or the path of a CSV with columns name,timestamp."
        )
    return Settings(
        source=source,
        version=str(dataset.get("version") or "v1.0-xtreme1"),
        media_root=_existing_folder(dataset, "media_root"),
        cameras=_cameras(dataset.get("cameras")),
        camera_order=_camera_order(dataset.get("camera_order")),
        class_map={
            str(name): None if target is None else str(target)
            for name, target in (dataset.get("class_map") or {}).items()
        },
        timestamps=None if timestamps is None else str(timestamps),
        poses=_existing_file(dataset, "poses"),
        splits=_splits(dataset.get("splits")),
        result_source=dataset.get("result_source"),
        external_layout=_choice(dataset, "external_layout", ("file", "row_major", "column_major")),
        external_direction=_choice(dataset, "external_direction", ("cloud_to_camera", "camera_to_cloud")),
        external_rotation=_choice(dataset, "external_rotation", ("as_given", "transposed")),
        scale_intrinsics=bool(dataset.get("scale_intrinsics", False)),
        yaw_offset=_number(dataset, "yaw_offset", 0.0),
        size_order=_size_order(dataset.get("size_order") or "lwh"),
        length_unit=_length_unit(dataset.get("length_unit") or "m"),
        forward=_choice(dataset, "forward", _FORWARD),
        origin_height=None if dataset.get("origin_height") is None else _number(dataset, "origin_height", 0.0),
        scene_gap=_number(dataset, "scene_gap", 10.0),
        doctor=bool(dataset.get("doctor", True)),
        media=dataset.get("media"),
        ego=dataset.get("ego"),
        angle_unit=_choice(dataset, "angle_unit", ("rad", "deg")),
        max_missing=_number(dataset, "max_missing", 0.02),
    )


def _choice(dataset: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> str:
    value = dataset.get(key) or allowed[0]
    if value not in allowed:
        raise PetrflowError(f"`{key}: {value}` is none of {', '.join(allowed)}.")
    return str(value)


def _number(dataset: Mapping[str, Any], key: str, default: float) -> float:
    value = default if dataset.get(key) is None else dataset[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PetrflowError(f"`{key}: {value}` is not a number.")
    return float(value)


def _existing_file(dataset: Mapping[str, Any], key: str) -> Path | None:
    if not dataset.get(key):
        return None
    path = Path(str(dataset[key])).expanduser()
    if not path.is_file():
        raise PetrflowError(f"`{key}: {path}` is no file.")
    return path


def _existing_folder(dataset: Mapping[str, Any], key: str) -> Path | None:
    if not dataset.get(key):
        return None
    path = Path(str(dataset[key])).expanduser()
    if not path.is_dir():
        raise PetrflowError(f"`{key}: {path}` is no folder.")
    return path


def _splits(value: Any) -> dict[str, Any]:
    splits = dict(value or {})
    unknown = sorted(set(splits) - {"train", "val", "ratio", "seed", "by"})
    if unknown:
        raise PetrflowError(f"`splits` knows no key '{unknown[0]}'. It is {{train, val}}, or {{ratio, seed, by}}.")
    return splits


def _cameras(value: Any) -> dict[str, str] | None:
    if not value:
        return None
    if not isinstance(value, Mapping) or not all(re.fullmatch(r"CAM_[A-Z0-9_]+", str(name)) for name in value.values()):
        raise PetrflowError(
            "`cameras` maps image folders to channels, as in {camera_image_0: CAM_FRONT}; a channel is CAM_ and capitals."
        )
    if len(set(value.values())) != len(value):
        raise PetrflowError("`cameras` gives two image folders one channel. Give each its own.")
    return {str(folder): str(channel) for folder, channel in value.items()}


def _camera_order(value: Any) -> list[str] | None:
    if not value:
        return None
    if not isinstance(value, list) or len(set(value)) != len(value):
        raise PetrflowError("`camera_order` lists image folders, each once, in the order of camera_config's entries.")
    return [str(folder) for folder in value]


def _size_order(value: Any) -> str:
    if sorted(str(value)) != ["h", "l", "w"]:
        raise PetrflowError(
            f"`size_order: {value}` must name l, w and h once each: what size3D's x, y and z mean. Xtreme1 itself writes lwh."
        )
    return str(value)


def _length_unit(value: Any) -> dict[str, float]:
    units = (
        dict.fromkeys(_UNIT_OF, value) if isinstance(value, str) else dict.fromkeys(_UNIT_OF, "m") | dict(value or {})
    )
    for name, unit in units.items():
        if name not in _UNIT_OF or unit not in _UNITS:
            raise PetrflowError(
                f"`length_unit` is m, cm or mm, or one of them for each of {', '.join(_UNIT_OF)}; not {name}: {unit}."
            )
    return {name: _UNITS[str(unit)] for name, unit in units.items()}
