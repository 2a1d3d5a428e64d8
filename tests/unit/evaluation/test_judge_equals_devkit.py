"""petrflow's judge says what nuscenes-devkit says, on splits that try everything that a figure
could hang on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nuscenes.eval.detection.tests import test_algo as published

from petrflow.evaluation.figures import ClassFigures, combine
from petrflow.evaluation.judge import join, judge, judge_classes, match_boxes, match_keyframes
from petrflow.evaluation.matching import Boxes
from petrflow.evaluation.protocol import ERRORS, NUSCENES, Protocol
from tests.helpers.devkit_oracle import CATEGORIES, Case, devkit_summary, largest_difference, make

NAMES = list(CATEGORIES)
TOLERANCE = 1e-9

cases = st.builds(
    Case,
    seed=st.integers(0, 2**31),
    keyframes=st.integers(1, 5),
    truths=st.integers(1, 14),
    found=st.integers(0, 40),
    classes=st.sampled_from([1, 2, 10]),
    racks=st.sampled_from([0, 0, 2]),
    score_digits=st.sampled_from([0, 1, 2, 8]),
    grid=st.booleans(),
    unknown_velocity=st.sampled_from([0.0, 0.3, 1.0]),
    without_attribute=st.sampled_from([0.0, 0.3, 1.0]),
    tilt=st.sampled_from([0.0, 0.05]),
    spread=st.sampled_from([4.0, 15.0, 60.0]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("devkit")


def _difference(case: Case, folder: Path, protocol: Protocol = NUSCENES) -> float:
    tables, store, found = make(case, folder)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        theirs = devkit_summary(tables, store, found, NAMES, folder, protocol)
    ours, _, _ = judge(store, found, NAMES, protocol)
    return largest_difference(ours, {key: theirs[key] for key in ours})


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases)
def test_every_figure_is_the_devkits(case: Case, folder: Path) -> None:
    assert _difference(case, folder) <= TOLERANCE


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=cases,
    ranges=st.lists(st.floats(1, 60), min_size=10, max_size=10),
    thresholds=st.sampled_from([(0.5, 1.0, 2.0, 4.0), (1.0, 2.0), (0.25, 2.0, 8.0)]),
    min_recall=st.sampled_from([0.0, 0.1, 0.5]),
    min_precision=st.sampled_from([0.0, 0.1, 0.3]),
)
def test_ranges_and_thresholds_are_settings_as_they_are_the_devkits(
    case: Case,
    folder: Path,
    ranges: list[float],
    thresholds: tuple[float, ...],
    min_recall: float,
    min_precision: float,
) -> None:
    protocol = dataclasses.replace(
        NUSCENES,
        class_ranges=dict(zip(NUSCENES.class_names, ranges, strict=True)),
        distance_thresholds=thresholds,
        min_recall=min_recall,
        min_precision=min_precision,
    )
    assert _difference(case, folder, protocol) <= TOLERANCE


def test_thousands_of_boxes_and_more_than_the_devkit_takes_of_a_keyframe(folder: Path) -> None:
    case = Case(3, keyframes=4, truths=150, found=700, score_digits=3, unknown_velocity=0.1, without_attribute=0.1)
    assert _difference(case, folder) <= TOLERANCE


@settings(max_examples=40, deadline=None)
@given(case=cases, shares=st.integers(2, 4))
def test_shared_scoring_gives_the_same_figures_to_the_last_bit(case: Case, shares: int, tmp_path_factory: Any) -> None:
    _, store, found = make(dataclasses.replace(case, keyframes=5), tmp_path_factory.getbasetemp() / "shares")
    whole, _, _ = judge(store, found, NAMES, NUSCENES)
    numbers = np.random.default_rng(case.seed).permutation(5)
    parts = [match_keyframes(store, numbers[k::shares].tolist(), found, NAMES, NUSCENES) for k in range(shares)]
    joined = join(parts, store, NUSCENES)
    judged: dict[str, Any] = {}
    for k in range(shares):
        judged |= judge_classes(joined, NUSCENES, classes=NUSCENES.class_names[k::shares])
    shared = combine({name: judged[name].whole for name in NUSCENES.class_names}, NUSCENES)
    np.testing.assert_equal(shared, whole)


# ------------------------------------------------------------------------------------------------- the devkit's published values


def _columns(boxes: Any, names: list[str], keyframes: list[str], attributes: list[str]) -> Boxes:
    """Convert the devkit's ``EvalBoxes``."""
    listed = boxes.all
    from nuscenes.eval.common.utils import quaternion_yaw
    from pyquaternion import Quaternion

    return Boxes(
        keyframe=np.array([keyframes.index(box.sample_token) for box in listed], dtype=np.int64),
        label=np.array([names.index(box.detection_name) for box in listed], dtype=np.int16),
        centre=np.array([box.translation for box in listed], dtype=np.float64).reshape(-1, 3),
        size=np.array([box.size for box in listed], dtype=np.float64).reshape(-1, 3),
        heading=np.array([quaternion_yaw(Quaternion(box.rotation)) for box in listed], dtype=np.float64),
        velocity=np.array([box.velocity for box in listed], dtype=np.float64).reshape(-1, 2),
        attribute=np.array([attributes.index(box.attribute_name) for box in listed], dtype=np.int16),
        distance=np.zeros(len(listed)),
        score=np.array([box.detection_score for box in listed], dtype=np.float64),
    )


def _ours(gt: Any, pred: Any, class_name: str, dist_fcn: Any = None, dist_th: float = 2.0) -> ClassFigures:
    """Stand in for the devkit's ``accumulate`` with petrflow's judge at one distance."""
    protocol = dataclasses.replace(
        NUSCENES, distance_thresholds=(dist_th,), error_threshold=dist_th, undefined_errors={}
    )
    names, keyframes = list(protocol.class_names), sorted({*gt.sample_tokens, *pred.sample_tokens})
    attributes = ["", *sorted({box.attribute_name for box in [*gt.all, *pred.all]} - {""})]
    truth, found = (_columns(boxes, names, keyframes, attributes) for boxes in (gt, pred))
    matches = match_boxes(np.arange(len(keyframes)), found, truth, protocol)
    return judge_classes(matches, protocol)[class_name].whole


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (case, name)
        for case in (published.TestAPSimple, published.TestTPSimple)
        for name in dir(case)
        if name.startswith("test_")
    ],
)
def test_the_devkits_own_unit_tests_pass_on_petrflows_judge(
    case: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "accumulate", _ours)
    monkeypatch.setattr(published, "calc_ap", lambda one, min_recall, min_precision: one.aps[0])
    monkeypatch.setattr(
        published, "calc_tp", lambda one, min_recall, metric_name: one.errors[ERRORS.index(metric_name)]
    )
    test = case(name)
    test.setUp()
    getattr(test, name)()


def test_the_devkits_published_detection_score() -> None:
    random.seed(42)
    np.random.seed(42)
    classes = {}
    for name in sorted(NUSCENES.class_names, key=list(published.TestAlgo.cfg.class_names).index):
        gt, pred = published.TestAlgo._mock_results(30, 3, 25, name)
        one = _ours(gt, pred, name)
        errors = one.errors.copy()
        errors[[ERRORS.index(error) for error in NUSCENES.undefined_errors.get(name, ())]] = np.nan
        classes[name] = ClassFigures(one.truths, np.repeat(one.aps, 4), errors)  # it puts 2 m for all four distances
    assert combine(classes, NUSCENES)["nd_score"] == pytest.approx(0.08606662159639042, abs=1e-12)
