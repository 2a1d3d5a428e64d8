"""From the class names people use in Xtreme1 to nuScenes categories."""

from __future__ import annotations

import re
from collections.abc import Mapping

from petrflow.errors import PetrflowError
from petrflow.nuscenes.names import CATEGORY_OF_DETECTION

_MORE_CATEGORIES = (
    "vehicle.bus.bendy", "human.pedestrian.child", "human.pedestrian.construction_worker", "human.pedestrian.police_officer",
    "human.pedestrian.personal_mobility", "human.pedestrian.stroller", "human.pedestrian.wheelchair", "animal", "vehicle.emergency.ambulance",
    "vehicle.emergency.police", "movable_object.debris", "movable_object.pushable_pullable", "static_object.bicycle_rack",
)  # fmt: skip
# Names seen in ontologies of Xtreme1, PandaSet and KITTI, written without case, spaces and punctuation.
_SYNONYMS = {
    "car": "car", "suv": "car", "sedan": "car", "van": "car", "minivan": "car", "taxi": "car", "vehicle": "car", "automobile": "car",
    "pickup": "truck", "pickuptruck": "truck", "truck": "truck", "lorry": "truck", "mediumsizedtruck": "truck", "semitruck": "truck",
    "constructionvehicle": "construction_vehicle", "otherconstructionvehicle": "construction_vehicle", "excavator": "construction_vehicle",
    "bus": "bus", "coach": "bus", "schoolbus": "bus", "trailer": "trailer", "towedobject": "trailer",
    "barrier": "barrier", "constructionbarrier": "barrier", "temporaryconstructionbarriers": "barrier", "roadbarriers": "barrier",
    "motorcycle": "motorcycle", "motorbike": "motorcycle", "motorizedscooter": "motorcycle", "motorcyclist": "motorcycle",
    "bicycle": "bicycle", "bike": "bicycle", "cyclist": "bicycle", "ebike": "bicycle",
    "pedestrian": "pedestrian", "person": "pedestrian", "people": "pedestrian", "adult": "pedestrian", "child": "pedestrian",
    "human": "pedestrian", "worker": "pedestrian",
    "trafficcone": "traffic_cone", "cone": "traffic_cone", "cones": "traffic_cone",
}  # fmt: skip


def category_of(name: str, class_map: Mapping[str, str | None]) -> tuple[str | None, bool]:
    """Return the nuScenes category of a class name, and whether anything mapped it.

    The config's `class_map` comes first (exactly, then without regard to case), then the built-in names. Its targets are detection
    names (`car`), nuScenes categories (`vehicle.car`) or null, which leaves the boxes out: (None, True). A name that nothing maps
    stays its own category, which training and evaluation pass over.
    """
    folded = {key.casefold(): target for key, target in class_map.items()}
    if name in class_map or name.casefold() in folded:
        target = class_map[name] if name in class_map else folded[name.casefold()]
        if target is None:
            return None, True
        if target in CATEGORY_OF_DETECTION:
            return CATEGORY_OF_DETECTION[target], True
        if target in CATEGORY_OF_DETECTION.values() or target in _MORE_CATEGORIES:
            return target, True
        raise PetrflowError(
            f"`class_map` sends '{name}' to '{target}', which is no class. Use one of {', '.join(CATEGORY_OF_DETECTION)}, or null."
        )
    if name in CATEGORY_OF_DETECTION.values() or name in _MORE_CATEGORIES:
        return name, True
    plain = re.sub(r"[^a-z0-9]", "", name.casefold())
    known = {re.sub(r"_", "", detection): detection for detection in CATEGORY_OF_DETECTION} | _SYNONYMS
    if plain in known:
        return CATEGORY_OF_DETECTION[known[plain]], True
    return name or "unnamed", False
