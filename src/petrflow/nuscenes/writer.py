"""nuScenes' table rows: the fixed tables, and one scene's rows filled in as its frames are made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petrflow.files import write_json
from petrflow.nuscenes.names import ATTRIBUTES, LIDAR, TABLE_NAMES, VISIBILITIES
from petrflow.nuscenes.splits import write_splits

# What the synthetic door draws, and what a person reads in category.json.
_CATEGORIES = {
    "human.pedestrian.adult": "Adult.",
    "human.pedestrian.child": "Child.",
    "human.pedestrian.construction_worker": "Construction worker.",
    "movable_object.barrier": "Temporary road barrier.",
    "movable_object.pushable_pullable": "Bin or other object that can be pushed; not a detection class.",
    "movable_object.trafficcone": "Traffic cone.",
    "vehicle.bicycle": "Bicycle, with its rider if it has one.",
    "vehicle.bus.rigid": "Rigid bus.",
    "vehicle.car": "Car.",
    "vehicle.construction": "Construction vehicle.",
    "vehicle.motorcycle": "Motorcycle, with its rider if it has one.",
    "vehicle.trailer": "Trailer.",
    "vehicle.truck": "Truck.",
}


def token(*parts: object) -> str:
    """A 32-digit token that depends on its parts alone."""
    return hashlib.md5("/".join(str(part) for part in parts).encode(), usedforsecurity=False).hexdigest()


def visibility_token(share: float) -> str:
    """Visibility level, in nuScenes' terms, of an object that shows `share` (0..1) of itself in the
    six images.
    """
    return "1" if share < 0.4 else "2" if share < 0.6 else "3" if share < 0.8 else "4"


def _seen(level: str) -> str:
    low, high = level.removeprefix("v").split("-")
    return f"{low} to {high} % of the object's pixels are seen in the six images."


def fixed_tables(cameras: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The tables that do not depend on the scenes, with sensors of these cameras and LIDAR_TOP."""
    return {
        "category": [
            {"token": token("category", n), "name": n, "description": text} for n, text in _CATEGORIES.items()
        ],
        "attribute": [
            {"token": token("attribute", n), "name": n, "description": ATTRIBUTES[n]} for n in sorted(ATTRIBUTES)
        ],
        "visibility": [
            {"token": str(number), "level": level, "description": _seen(level)}
            for number, level in enumerate(VISIBILITIES, 1)
        ],
        "sensor": [
            {"token": token("sensor", n), "channel": n, "modality": "lidar" if n == LIDAR else "camera"}
            for n in (*cameras, LIDAR)
        ],
    }


def link_chain(rows: list[dict[str, Any]]) -> None:
    """Fill `prev` and `next` of consecutive rows."""
    for i, row in enumerate(rows):
        row["prev"] = rows[i - 1]["token"] if i else ""
        row["next"] = rows[i + 1]["token"] if i + 1 < len(rows) else ""


def write_tables(folder: Path, tables: Mapping[str, list[dict[str, Any]]], splits: Mapping[str, Sequence[str]]) -> None:
    """Write all tables and `splits.json` into the folder of a version, which must not exist."""
    folder.mkdir(parents=True)
    for name in TABLE_NAMES:
        write_json(folder / f"{name}.json", tables[name])
    write_splits(folder, splits)
