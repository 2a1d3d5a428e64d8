"""Categories of a data set find the classes of a model by their names."""

from __future__ import annotations

import pytest

from petrflow.nuscenes.names import CATEGORY_OF_DETECTION, DETECTION_NAMES
from petrflow.nuscenes.synonyms import labels_of

TEN = list(CATEGORY_OF_DETECTION)
NO_CLASS = [
    "animal",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "static_object.bicycle_rack",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
]


def test_nuscenes_categories_are_the_classes_that_the_devkit_makes_of_them() -> None:
    assert labels_of(list(DETECTION_NAMES), TEN) == [TEN.index(name) for name in DETECTION_NAMES.values()]
    assert labels_of(NO_CLASS, TEN) == [-1] * len(NO_CLASS)


@pytest.mark.parametrize(
    ("category", "classes", "label"),
    [
        ("forklift", ["tricycle", "forklift"], 1),
        ("Fork Lift", ["tricycle", "forklift"], 1),
        ("ＦＯＲＫＬＩＦＴ", ["tricycle", "forklift"], 1),
        ("小汽车", TEN, 0),
        ("行人", TEN, 8),
        ("car", ["行人", "小汽车"], 1),
        ("vehicle.car", ["小汽车"], 0),
        ("van", ["car", "van"], 1),
        ("suv", ["car", "van"], 0),
        ("suv", ["van", "taxi"], -1),
        ("Car", ["car", "CAR"], 0),
        ("叉车", TEN, -1),
    ],
)
def test_names_are_compared_as_people_mean_them(category: str, classes: list[str], label: int) -> None:
    assert labels_of([category], classes) == [label]
