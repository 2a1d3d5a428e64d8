"""The names of nuScenes: tables, channels and their order, categories and classes, visibilities."""

from __future__ import annotations

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
"""nuScenes category to detection class; any other category keeps its own name, as in stock infos."""
VISIBILITY_LEVELS = {"v0-40": 1, "v40-60": 2, "v60-80": 3, "v80-100": 4}


CAMERA_ORDER = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
"""Order of the cameras in Paddle3D's infos and loader."""
LIDAR = "LIDAR_TOP"


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
