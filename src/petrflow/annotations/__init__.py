"""Annotation stores: the keyframes, cameras and boxes of one split as memory-mapped columns.

For everything after the doors: the samples, the doctor, evaluation, reports and stages read labels
from here and not from the tables. The package must not write into the nuScenes root, and must not
know a model or the kind of a data set. The same root must give the same bytes.
"""

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
