"""Tracks follow objects whose paths are known, and nuScenes' own judge of tracking finds no fault with those of true boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petrflow.annotations import AnnotationStore
from petrflow.evaluation import score as devkit
from petrflow.evaluation.evaluate import scene_names
from petrflow.evaluation.submission import write_submission
from petrflow.prediction.detections import read_detections, write_detections
from petrflow.prediction.tracking import DISTANCES, NONE, Tracker, class_distances, track, tracking_lines
from petrflow.samples.types import Detections
from tests.helpers.found import ground_truth_detections, near_truth
from tests.unit.reports.test_demo import CLASS_NAMES

HALF = 0.5
CAR, PEDESTRIAN = 0, 1


def follow(frames: list[list[tuple[Any, ...]]], distances: tuple[float, ...] = (4.0, 1.0)) -> list[list[int]]:
    """Track keyframes half a second apart; a detection is x, y, vx, vy and, where they matter, class and score."""
    tracker, numbers = Tracker(np.array(distances)), []
    for place, frame in enumerate(frames):
        rows = [(*one, *(CAR, 0.5)[len(one) - 4 :]) for one in frame]
        table = np.array(rows, dtype=np.float64).reshape(-1, 6)
        labels = table[:, 4].astype(np.int64)
        numbers.append(tracker.step(place * HALF, table[:, :2], table[:, 2:4], labels, table[:, 5]).tolist())
    return numbers


def test_cars_that_pass_each_other_keep_their_numbers() -> None:
    # 0.5 m beside each other at 10 m/s, in opposite directions: after the passing, the nearest old place is the other's.
    frames = [[(-10 + 5 * k, 0.0, 10, 0), (10 - 5 * k, 0.5, -10, 0)] for k in range(5)]
    assert follow(frames) == [[1, 2]] * 5
    # Their order in the file says nothing.
    turned = [frame if k % 2 else frame[::-1] for k, frame in enumerate(frames)]
    assert follow(turned) == [[1, 2], [2, 1], [1, 2], [2, 1], [1, 2]]


@pytest.mark.parametrize(("gap", "last"), [(0, 1), (1, 1), (3, 1), (4, 2)])
def test_a_track_outlives_three_keyframes_without_a_detection(gap: int, last: int) -> None:
    def car(k: int) -> tuple[float, ...]:
        return (6.0 * k, 0.0, 12.0, 0.0)

    numbers = follow([[car(0)], [car(1)], *[[] for _ in range(gap)], [car(2 + gap)]])
    assert numbers == [[1], [1], *[[] for _ in range(gap)], [last]]


def test_a_new_object_gets_a_number_that_nobody_had() -> None:
    frames = [[(0, 0, 0, 0), (20, 0, 0, 0)], [(0, 0, 0, 0)], [(0, 0, 0, 0), (0, 30, 0, 0)]]
    assert follow(frames) == [[1, 2], [1], [1, 3]]


def test_no_track_goes_from_one_class_to_another() -> None:
    assert follow([[(0, 0, 0, 0, CAR, 0.9)], [(0.1, 0, 0, 0, PEDESTRIAN, 0.9)]]) == [[1], [2]]
    both = [[(0, 0, 0, 0, CAR, 0.9), (0.2, 0, 0, 0, PEDESTRIAN, 0.8)], [(0.2, 0, 0, 0, PEDESTRIAN, 0.9), (0, 0, 0, 0)]]
    assert follow(both) == [[1, 2], [2, 1]]


def test_the_distance_is_that_of_the_class() -> None:
    assert follow([[(0, 0, 0, 0, CAR)], [(3.9, 0, 0, 0, CAR)], [(8, 0, 0, 0, CAR)]]) == [[1], [1], [2]]
    assert follow([[(0, 0, 0, 0, PEDESTRIAN)], [(0.9, 0, 0, 0, PEDESTRIAN)], [(2, 0, 0, 0, PEDESTRIAN)]]) == [
        [1],
        [1],
        [2],
    ]


def test_the_highest_score_takes_the_track_that_two_want() -> None:
    assert follow([[(0, 0, 0, 0)], [(1, 0, 0, 0, CAR, 0.4), (2, 0, 0, 0, CAR, 0.6)]]) == [[1], [2, 1]]
    assert follow([[(0, 0, 0, 0)], [(1, 0, 0, 0, CAR, 0.6), (2, 0, 0, 0, CAR, 0.6)]]) == [[1], [1, 2]]


def test_an_unknown_velocity_is_that_of_a_standing_object() -> None:
    nan = float("nan")
    assert follow([[(0, 0, nan, nan)], [(3, 0, nan, nan)], [], [(4, 0, nan, 1.0)]]) == [[1], [1], [], [1]]


def test_own_classes_have_a_distance_by_the_longer_side_of_their_boxes() -> None:
    names = ["car", "cone", "cart", "crane", "never_seen"]
    boxes = np.zeros((6, 9))
    boxes[:, 3:5] = [[2, 4.6], [0.3, 0.3], [2.0, 1.0], [1.0, 3.0], [1.0, 2.5], [3.0, 14.0]]
    found = [
        Detections(boxes[:4], np.ones(4), np.array([0, 1, 2, 2])),
        Detections(boxes[4:], np.ones(2), np.array([2, 3])),
    ]
    np.testing.assert_array_equal(class_distances(names, found), [4.0, 1.0, 2.5, 4.0, 1.0])
    nothing = [Detections(np.zeros((0, 9)), np.zeros(0), np.zeros(0, np.int64))]
    assert class_distances(list(DISTANCES), nothing).tolist() == list(DISTANCES.values())


# ------------------------------------------------------------------------------------------------------------------- stores


def written(store: AnnotationStore, found: dict[str, Detections], scores: np.ndarray, folder: Path) -> list[np.ndarray]:
    folder.mkdir()
    keyframes = range(len(store))
    ordered = [found[token] for token in store.columns["keyframe.token"].take(keyframes)]
    numbers = track(store, ordered, CLASS_NAMES, scores)
    write_detections(folder / "detections.parquet", store, ordered, CLASS_NAMES, numbers)
    lines = tracking_lines(store, ordered, numbers, CLASS_NAMES)
    write_submission(folder / "tracks_nusc.json", [(keyframes, lines)])
    return numbers


def test_every_file_holds_the_same_numbers_and_the_same_detections_give_the_same_bytes(
    synthetic_stores: dict[str, Path], tmp_path: Path
) -> None:
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.loaders import load_prediction
    from nuscenes.eval.tracking.data_classes import TrackingBox

    store = AnnotationStore.open(synthetic_stores["train"])
    found = near_truth(store, CLASS_NAMES, seed=3)
    scores = np.full(len(CLASS_NAMES), 0.3)
    numbers = written(store, found, scores, tmp_path / "one")
    written(store, found, scores, tmp_path / "two")
    for name in ("detections.parquet", "tracks_nusc.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    table = read_detections(tmp_path / "one" / "detections.parquet")
    assert table.tracks is not None and len(table.tracks) == len(store) == 8
    config_factory("tracking_nips_2019")  # the devkit learns its classes from it
    boxes, _ = load_prediction(str(tmp_path / "one" / "tracks_nusc.json"), 500, TrackingBox)
    scenes = store.columns["keyframe.scene_name"]
    for index, (token, read) in enumerate(zip(table.tokens, table.tracks, strict=True)):
        np.testing.assert_array_equal(read, numbers[index])
        one = found[token]
        np.testing.assert_array_equal(read == NONE, one.scores < 0.3)
        assert len(set(read[read != NONE].tolist())) == (read != NONE).sum()
        names = [CLASS_NAMES[label] for label in one.labels]
        expected = {
            (f"{scenes[index]}/{number}", name, score)
            for number, name, score in zip(read.tolist(), names, one.scores.tolist(), strict=True)
            if number != NONE and name in DISTANCES
        }
        assert {(box.tracking_id, box.tracking_name, box.tracking_score) for box in boxes[token]} == expected
    for scene in set(scenes.take(range(len(store)))):
        given = np.concatenate([read for k, read in enumerate(numbers) if scenes[k] == scene])
        assert sorted(set(given[given != NONE].tolist())) == list(range(1, given.max() + 1))


def test_true_boxes_are_tracked_as_the_devkits_judge_wants_it(
    synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path: Path
) -> None:
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.tracking.evaluate import TrackingEval

    store = AnnotationStore.open(synthetic_stores["train"])
    written(store, ground_truth_detections(store, CLASS_NAMES), np.full(len(CLASS_NAMES), 0.3), tmp_path / "made")

    def judged(path: Path) -> Any:
        with devkit._splits(tmp_path, "petrflow_val", scene_names(store)):
            judge = TrackingEval(
                config_factory("tracking_nips_2019"), str(path), "petrflow_val", str(tmp_path / path.stem),
                store.version, str(synthetic_root), verbose=False,
            )  # fmt: skip
            return judge.evaluate()[0].serialize()

    figures = judged(tmp_path / "made" / "tracks_nusc.json")
    present = {name for name, count in figures["label_metrics"]["gt"].items() if count > 0}
    assert len(present) >= 2
    for name in present:
        assert figures["label_metrics"]["amota"][name] > 0.95, name
        assert figures["label_metrics"]["ids"][name] == figures["label_metrics"]["fn"][name] == 0, name
    # The judge does see wrong numbers: every box a track of its own.
    content = json.loads((tmp_path / "made" / "tracks_nusc.json").read_text())
    for number, box in enumerate(box for boxes in content["results"].values() for box in boxes):
        box["tracking_id"] = str(number)
    (tmp_path / "apart.json").write_text(json.dumps(content))
    assert judged(tmp_path / "apart.json")["ids"] > 0
