"""Rules of an evaluation are data: ranges by size, bands, and what contradicts itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from petrflow.evaluation.judge import judge, judge_classes, match_keyframes, parts_of
from petrflow.evaluation.protocol import NUSCENES, default_range, has_heading, is_symmetric, protocol_of_classes
from tests.helpers.devkit_oracle import CATEGORIES, Case, make

# Mean width, length and height of nuScenes' annotations, m.
SIZES = {
    "car": (1.95, 4.62, 1.73),
    "truck": (2.51, 6.93, 2.84),
    "bus": (2.94, 11.2, 3.47),
    "trailer": (2.9, 12.28, 3.87),
    "construction_vehicle": (2.73, 6.37, 3.19),
    "pedestrian": (0.67, 0.73, 1.77),
    "motorcycle": (0.77, 2.11, 1.47),
    "bicycle": (0.6, 1.7, 1.28),
    "traffic_cone": (0.41, 0.41, 1.07),
    "barrier": (2.53, 0.5, 0.98),
}


def test_ranges_by_size_are_nuscenes_own_for_its_classes() -> None:
    assert {name: default_range(size) for name, size in SIZES.items()} == dict(NUSCENES.class_ranges)


def test_own_classes_get_ranges_by_size_and_those_given_by_name() -> None:
    sizes = {"moose": (0.9, 2.4, 2.0), "fence": (3.0, 0.2, 1.0), "bin": (0.4, 0.4, 1.0)}
    given = {"car": {"range": 80.0}, "crate": {"symmetric": True, "without": ["AVE"]}}
    protocol = protocol_of_classes(["moose", "car", "crate", "fence", "bin"], sizes, given)
    assert protocol.class_ranges == {"moose": 40.0, "car": 80.0, "crate": 40.0, "fence": 50.0, "bin": 30.0}
    assert protocol.symmetric_classes == {"crate", "fence"}
    assert protocol.undefined_errors == {
        "moose": ("attr_err",),
        "crate": ("vel_err",),
        "fence": ("attr_err",),
        "bin": ("orient_err", "attr_err"),
    }
    assert protocol_of_classes(["moose", "car", "crate", "fence", "bin"], {}, protocol.rules()) == protocol


def test_rules_by_size_are_nuscenes_own_for_its_classes() -> None:
    assert {name for name, size in SIZES.items() if is_symmetric(size)} == NUSCENES.symmetric_classes
    headless = {name for name, errors in NUSCENES.undefined_errors.items() if "orient_err" in errors}
    assert {name for name, size in SIZES.items() if not has_heading(size)} == headless


def test_nuscenes_ten_are_judged_by_its_protocol_and_fewer_alone() -> None:
    assert protocol_of_classes(list(reversed(NUSCENES.class_names))) is NUSCENES
    some = protocol_of_classes(["bus", "traffic_cone"])
    assert some.class_ranges == {"bus": 50.0, "traffic_cone": 30.0}
    assert some.undefined_errors == {"traffic_cone": NUSCENES.undefined_errors["traffic_cone"]}


@pytest.mark.parametrize(
    "change",
    [
        {"error_threshold": 3.0},
        {"distance_thresholds": (4.0, 2.0)},
        {"min_precision": 1.0},
        {"bands": ((0, 20), (10, 30))},
    ],
)
def test_rules_that_contradict_each_other_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        dataclasses.replace(NUSCENES, **change)


def test_bands_divide_labelled_boxes_and_reach_as_far_as_a_class_counts(tmp_path: Path) -> None:
    _, store, found = make(Case(5, keyframes=6, truths=60, found=120, spread=70.0), tmp_path)
    names = list(CATEGORIES)
    far = dataclasses.replace(NUSCENES, class_ranges={**NUSCENES.class_ranges, "car": 90.0})
    _, matches, judged = judge(store, found, names, far)
    assert list(judged["car"].bands) == ["0-20 m", "20-35 m", "35-50 m", "50+ m"]
    assert list(judged["barrier"].bands) == ["0-20 m", "20-35 m"]
    for name in names:
        assert sum(one.truths for one in judged[name].bands.values()) == judged[name].whole.truths
    assert judged["car"].bands["50+ m"].truths == int(
        ((matches.truth_label == far.class_names.index("car")) & (matches.truth_band == 3)).sum()
    )


def test_one_band_that_holds_everything_and_one_scene_have_the_figures_of_the_whole(tmp_path: Path) -> None:
    _, store, found = make(Case(8, keyframes=4, truths=30, found=90, score_digits=1), tmp_path)
    protocol = dataclasses.replace(NUSCENES, bands=((0.0, np.inf),))
    judged = judge_classes(
        match_keyframes(store, range(4), found, list(CATEGORIES), protocol), protocol, parts_of(store)
    )
    for one in judged.values():
        for part in (one.bands["0+ m"], one.groups["night"], *one.scenes.values()):
            np.testing.assert_array_equal(part.aps, one.whole.aps)
            np.testing.assert_array_equal(part.errors, one.whole.errors)
