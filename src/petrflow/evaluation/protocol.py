"""What a detection has to do to count: classes, ranges, distances and weights of an evaluation, as
data.

:data:`NUSCENES` is nuScenes' own protocol, ``detection_cvpr_2019`` of nuscenes-devkit. Own classes
get a protocol from :func:`protocol_of_classes`. Nothing below this module knows the name of a
class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
"""The five errors of a true positive, in the devkit's order: m, 1 - IoU, rad, m/s, 1 - accuracy."""
ERROR_OF = dict(zip(("ATE", "ASE", "AOE", "AVE", "AAE"), ERRORS, strict=True))
"""Errors by the names that people know."""


@dataclass(frozen=True)
class Protocol:
    """The rules of an evaluation.

    Attributes
    ----------
    class_ranges : mapping of str to float
        Classes in the order of the table, and the distance from the vehicle (m) up to which each
        counts.
    distance_thresholds : tuple of float
        m, ascending. A detection matches a box whose centre is nearer than this, seen from above.
    error_threshold : float
        m, one of ``distance_thresholds``: the errors are those of its matches.
    min_recall, min_precision : float
        Parts of the curve that do not count.
    max_boxes_per_keyframe : int
        The best detections of a keyframe that are looked at.
    mean_ap_weight : float
        Weight of mAP in NDS; each error has weight 1.
    symmetric_classes : frozenset of str
        Classes whose front and rear look alike: their heading is known up to half a turn.
    undefined_errors : mapping of str to tuple of str
        Errors (of :data:`ERRORS`) that mean nothing for a class.
    rack_category, racked_classes : str, frozenset of str
        Boxes of these classes inside a box of this category do not count, neither labelled nor
        detected.
    bands : tuple of (float, float)
        Distances from the vehicle (m), from and below, for which figures are given apart.
    """

    class_ranges: Mapping[str, float]
    distance_thresholds: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    error_threshold: float = 2.0
    min_recall: float = 0.1
    min_precision: float = 0.1
    max_boxes_per_keyframe: int = 500
    mean_ap_weight: float = 5.0
    symmetric_classes: frozenset[str] = frozenset()
    undefined_errors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rack_category: str = ""
    racked_classes: frozenset[str] = frozenset()
    bands: tuple[tuple[float, float], ...] = ((0.0, 20.0), (20.0, 35.0), (35.0, 50.0), (50.0, math.inf))

    def __post_init__(self) -> None:
        """Refuse rules that contradict each other."""
        if self.error_threshold not in self.distance_thresholds:
            raise ValueError(f"{self.error_threshold} m is none of the distances {self.distance_thresholds}")
        if tuple(sorted(self.distance_thresholds)) != self.distance_thresholds:
            raise ValueError(f"the distances {self.distance_thresholds} do not ascend")
        if not (0 <= self.min_precision < 1 and 0 <= self.min_recall <= 1):
            raise ValueError("min_precision is from 0 to below 1, min_recall from 0 to 1")
        ends = [edge for band in self.bands for edge in band]
        if ends != sorted(ends):
            raise ValueError(f"the bands {self.bands} overlap or do not ascend")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes in the order of the table."""
        return tuple(self.class_ranges)

    def ranges(self) -> np.ndarray:
        """Return the range of every class: (C,) float64, m."""
        return np.array([self.class_ranges[name] for name in self.class_names], dtype=np.float64)

    def heading_periods(self) -> np.ndarray:
        """Return the turn after which a box of each class looks the same: (C,) float64, rad."""
        return np.array([np.pi if name in self.symmetric_classes else 2 * np.pi for name in self.class_names])

    def rules(self) -> dict[str, dict[str, Any]]:
        """Return the rules of every class in the form of ``judging`` of the model file."""
        short = {error: name for name, error in ERROR_OF.items()}
        return {
            name: {
                "range": reach,
                "symmetric": name in self.symmetric_classes,
                "without": [short[error] for error in self.undefined_errors.get(name, ())],
            }
            for name, reach in self.class_ranges.items()
        }

    def band_of(self, distance: np.ndarray) -> np.ndarray:
        """Return the number of each distance's band: (n,) uint8; ``len(bands)`` for one that lies
        in none.
        """
        band = np.full(distance.shape, len(self.bands), dtype=np.uint8)
        for number, (low, high) in enumerate(self.bands):
            band[(distance >= low) & (distance < high)] = number
        return band

    def band_names(self) -> list[str]:
        """Return ``0-20 m``, …, ``50+ m``."""
        return [f"{low:g}+ m" if math.isinf(high) else f"{low:g}-{high:g} m" for low, high in self.bands]


NUSCENES = Protocol(
    class_ranges={
        "car": 50.0,
        "truck": 50.0,
        "bus": 50.0,
        "trailer": 50.0,
        "construction_vehicle": 50.0,
        "pedestrian": 40.0,
        "motorcycle": 40.0,
        "bicycle": 40.0,
        "traffic_cone": 30.0,
        "barrier": 30.0,
    },
    symmetric_classes=frozenset({"barrier"}),
    undefined_errors={"traffic_cone": ("orient_err", "vel_err", "attr_err"), "barrier": ("vel_err", "attr_err")},
    rack_category="static_object.bicycle_rack",
    racked_classes=frozenset({"bicycle", "motorcycle"}),
)
"""nuScenes' protocol as nuscenes-devkit 1.2.0 has it in ``detection_cvpr_2019.json`` and in its
code.
"""

LARGE_LENGTH = 3.0
"""m. A class whose boxes are typically at least this long counts up to 50 m, as nuScenes' vehicles
do.
"""
SMALL_HEIGHT = 1.2
"""m. A shorter class whose boxes are typically lower than this counts up to 30 m, as nuScenes'
cones and barriers do.
"""


def default_range(size: Sequence[float]) -> float:
    """Return the range (m) of a class from its typical ``size`` (width, length, height in m).

    The rule gives each of nuScenes' ten classes the range that nuScenes gives it.
    """
    if max(size[0], size[1]) >= LARGE_LENGTH:
        return 50.0
    return 30.0 if size[2] < SMALL_HEIGHT else 40.0


SMALL_SIDE = 0.6
"""m. A class that is typically neither wider nor longer, and about square, has no heading, as
nuScenes' cones have none.
"""


def is_symmetric(size: Sequence[float]) -> bool:
    """Whether front and rear of a class look alike, from its typical ``size``: it stands across, as
    nuScenes' barriers do.
    """
    return size[0] >= 2 * size[1]


def has_heading(size: Sequence[float]) -> bool:
    """Whether a heading means something for a class, from its typical ``size``."""
    sides = sorted(size[:2])
    return sides[1] >= SMALL_SIDE or sides[1] > 1.2 * sides[0]


def protocol_of_classes(
    class_names: Sequence[str],
    sizes: Mapping[str, Sequence[float]] | None = None,
    judging: Mapping[str, Mapping[str, Any]] | None = None,
) -> Protocol:
    """Return the protocol for the classes of a model.

    Parameters
    ----------
    class_names : sequence of str
        Where they are nuScenes' ten and nothing else is given, the protocol is nuScenes' own. Rules
        of nuScenes' classes are nuScenes' in any case; attributes of others are not judged.
    sizes : mapping, optional
        Typical width, length and height of each class (m), from which the rules of other classes
        follow. A class without a size counts up to 40 m.
    judging : mapping, optional
        Rules of some classes in place of those: ``judging`` of the model file.
    """
    if not judging and set(class_names) == set(NUSCENES.class_names):
        return NUSCENES
    sizes, judging = sizes or {}, judging or {}
    ranges, symmetric, undefined = {}, set(), {}
    for name in class_names:
        given, size = judging.get(name, {}), sizes.get(name)
        if name in NUSCENES.class_ranges:
            reach, alike = NUSCENES.class_ranges[name], name in NUSCENES.symmetric_classes
            without = NUSCENES.undefined_errors.get(name, ())
        else:
            reach = 40.0 if size is None else default_range(size)
            alike = size is not None and is_symmetric(size)
            without = ("attr_err",) if size is None or has_heading(size) else ("orient_err", "attr_err")
        ranges[name] = float(given.get("range", reach))
        symmetric |= {name} if given.get("symmetric", alike) else set()
        undefined[name] = tuple(ERROR_OF[short] for short in given["without"]) if "without" in given else without
    return Protocol(
        class_ranges=ranges,
        symmetric_classes=frozenset(symmetric),
        undefined_errors={name: errors for name, errors in undefined.items() if errors},
        rack_category=NUSCENES.rack_category,
        racked_classes=NUSCENES.racked_classes & set(class_names),
    )
