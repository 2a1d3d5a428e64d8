"""From the class names people use in Xtreme1 to nuScenes categories."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from petrflow.nuscenes.names import CATEGORY_OF_DETECTION
from petrflow.nuscenes.synonyms import detection_of, plain_name

_MORE_CATEGORIES = (
    "vehicle.bus.bendy", "human.pedestrian.child", "human.pedestrian.construction_worker", "human.pedestrian.police_officer",
    "human.pedestrian.personal_mobility", "human.pedestrian.stroller", "human.pedestrian.wheelchair", "animal", "vehicle.emergency.ambulance",
    "vehicle.emergency.police", "movable_object.debris", "movable_object.pushable_pullable", "static_object.bicycle_rack",
)  # fmt: skip


def category_of(name: str, class_map: Mapping[str, str | None]) -> tuple[str | None, bool]:
    """Return the nuScenes category of a class name, and whether anything mapped it.

    The config's `class_map` comes first (exactly, then by :func:`plain_name`), then the built-in
    names. Its targets are detection names (`car`), nuScenes categories (`vehicle.car`), names of
    one's own, which become categories as they are, or null, which leaves the boxes out: (None,
    True). A name that nothing maps stays its own category.
    """
    folded = {plain_name(key): target for key, target in class_map.items()}
    if name in class_map or plain_name(name) in folded:
        target = class_map[name] if name in class_map else folded[plain_name(name)]
        return (target if target is None else CATEGORY_OF_DETECTION.get(target, target)), True
    if is_category(name):
        return name, True
    detection = detection_of(name)
    if detection is not None:
        return CATEGORY_OF_DETECTION[detection], True
    return name or "unnamed", False


def is_category(name: str) -> bool:
    """Whether a name is a category of nuScenes."""
    return name in CATEGORY_OF_DETECTION.values() or name in _MORE_CATEGORIES


def class_map_to_paste(names: Iterable[str]) -> str:
    """Return a `class_map` with the names that nothing maps, ready to paste into the config; a
    target takes the place of each null.
    """
    return "class_map: {" + ", ".join(f"{json.dumps(name, ensure_ascii=False)}: null" for name in names) + "}"
