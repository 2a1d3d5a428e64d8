"""The names and figures of nuScenes: channels and their order, tables, categories and classes,
attributes, visibilities, sizes.
"""

from __future__ import annotations

from collections.abc import Iterable

DETECTION_NAMES = {
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
"""nuScenes category to detection class; any other category keeps its own name, as in stock
infos.
"""
VISIBILITIES = ("v0-40", "v40-60", "v60-80", "v80-100")
"""Shares of an object's pixels that are seen in all images together, in %; their tokens are 1 to
4.
"""
ATTRIBUTES = {
    "vehicle.moving": "Moving.",
    "vehicle.stopped": "Not moving, but not parked.",
    "vehicle.parked": "Parked.",
    "cycle.with_rider": "Someone is on it.",
    "cycle.without_rider": "Nobody is on it.",
    "pedestrian.sitting_lying_down": "Sitting.",
    "pedestrian.standing": "Standing.",
    "pedestrian.moving": "Walking.",
}
"""Attribute and what it says, in nuScenes' order."""
TYPICAL_SIZES = {
    "car": (1.95, 4.6, 1.73), "truck": (2.5, 6.9, 2.8), "bus": (2.9, 11.0, 3.4), "trailer": (2.9, 12.3, 3.9),
    "construction_vehicle": (2.8, 6.4, 3.2), "pedestrian": (0.67, 0.73, 1.77), "motorcycle": (0.77, 2.1, 1.47), "bicycle": (0.6, 1.7, 1.28),
    "traffic_cone": (0.41, 0.41, 1.07), "barrier": (2.53, 0.5, 0.98),
}  # fmt: skip
"""m: width, length and height that boxes of a detection class have on average."""
VELOCITY_SECONDS = 1.5
"""s: the devkit gives no velocity from annotations further apart than this; twice as far where it
uses both neighbours.
"""
LIDAR_HEIGHT = 1.84
"""m: height of LIDAR_TOP above the ground."""

CAMERA_ORDER = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
"""Order of the cameras in Paddle3D's infos and loader."""
LIDAR = "LIDAR_TOP"


def in_camera_order(channels: Iterable[str]) -> tuple[str, ...]:
    """Return cameras in the order in which a model is given them: nuScenes' own in stock order,
    then others as they come.
    """
    names = list(channels)
    return tuple(
        [name for name in CAMERA_ORDER if name in names] + [name for name in names if name not in CAMERA_ORDER]
    )


TABLE_NAMES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample", "sample_annotation", "sample_data", "scene",
    "sensor", "visibility",
)  # fmt: skip
NEEDED_TABLES = tuple(name for name in TABLE_NAMES if name not in ("log", "map", "visibility"))
"""The tables that a data set must have: nothing here needs the others."""
STORE_TABLES = tuple(name for name in TABLE_NAMES if name not in ("log", "map"))
"""The tables that the annotation store is made from."""


CATEGORY_OF_DETECTION = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "construction_vehicle": "vehicle.construction",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "barrier": "movable_object.barrier",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
}

MEDIA_FOLDERS = ("samples", "sweeps", "maps")
"""Folders of a root beside the folder of its tables."""
