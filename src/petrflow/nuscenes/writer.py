"""nuScenes' table rows: the fixed tables, and one scene's rows filled in as its frames are made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

TABLE_NAMES = (
    "category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose", "log", "scene", "sample", "sample_data",
    "sample_annotation", "map",
)  # fmt: skip

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
_ATTRIBUTES = {
    "cycle.with_rider": "Someone is on it.",
    "cycle.without_rider": "Nobody is on it.",
    "pedestrian.moving": "Walking.",
    "pedestrian.sitting_lying_down": "Sitting.",
    "pedestrian.standing": "Standing.",
    "vehicle.moving": "Moving.",
    "vehicle.parked": "Parked.",
    "vehicle.stopped": "Not moving, but not parked.",
}
_VISIBILITIES = {
    "1": ("v0-40", "0 to 40 %"),
    "2": ("v40-60", "40 to 60 %"),
    "3": ("v60-80", "60 to 80 %"),
    "4": ("v80-100", "80 to 100 %"),
}


def token(*parts: object) -> str:
    """A 32-digit token that depends on its parts alone."""
    return hashlib.md5("/".join(str(part) for part in parts).encode(), usedforsecurity=False).hexdigest()


def visibility_token(share: float) -> str:
    """Visibility level, in nuScenes' terms, of an object that shows `share` (0..1) of itself in the six images."""
    return "1" if share < 0.4 else "2" if share < 0.6 else "3" if share < 0.8 else "4"


def fixed_tables(cameras: Sequence[str], lidar: str) -> dict[str, list[dict]]:
    """The tables that do not depend on the scenes, with sensors of these channels."""
    return {
        "category": [
            {"token": token("category", n), "name": n, "description": text} for n, text in _CATEGORIES.items()
        ],
        "attribute": [
            {"token": token("attribute", n), "name": n, "description": text} for n, text in _ATTRIBUTES.items()
        ],
        "visibility": [
            {"token": level, "level": name, "description": f"{text} of the object's pixels are seen in the six images."}
            for level, (name, text) in _VISIBILITIES.items()
        ],
        "sensor": [
            {"token": token("sensor", n), "channel": n, "modality": "lidar" if n == lidar else "camera"}
            for n in (*cameras, lidar)
        ],
    }


def link_chain(rows: list[dict]) -> None:
    """Fill `prev` and `next` of consecutive rows."""
    for i, row in enumerate(rows):
        row["prev"] = rows[i - 1]["token"] if i else ""
        row["next"] = rows[i + 1]["token"] if i + 1 < len(rows) else ""
