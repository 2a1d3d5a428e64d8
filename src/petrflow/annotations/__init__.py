"""The compact store of keyframes, cameras and boxes that everything after the doors reads."""

from __future__ import annotations

from petrflow.annotations.builder import annotate, build, build_all
from petrflow.annotations.classic import write_classic
from petrflow.annotations.store import AnnotationStore, CameraFrames, Keyframe
from petrflow.nuscenes.names import CAMERA_ORDER, DETECTION_NAMES

__all__ = [
    "CAMERA_ORDER",
    "DETECTION_NAMES",
    "AnnotationStore",
    "CameraFrames",
    "Keyframe",
    "annotate",
    "build",
    "build_all",
    "write_classic",
]
