"""A predicted data set holds the model's boxes in every form, with the same numbers in each, whatever kills came between."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petrflow import geometry
from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.evaluation.thresholds import confident
from petrflow.files import atomic_dir
from petrflow.prediction import parts as parts_of
from petrflow.prediction import predict
from petrflow.prediction.detections import read_detections
from petrflow.prediction.parts import Parts
from tests.helpers.found import near_truth
from tests.unit.reports.test_demo import CLASS_NAMES, MODEL_CONFIG

SCORES = np.linspace(0.2, 0.6, len(CLASS_NAMES))


@dataclass
class Oracle:
    """Finds near the true boxes; dies at the keyframe after ``last``."""

    found: dict[str, Any]
    last: int = 1_000_000
    asked: int = 0

    def predict(self, batch: dict[str, Any]) -> list[Any]:
        self.asked += 1
        if self.asked > self.last:
            raise KeyboardInterrupt
        return [self.found[token] for token in batch["token"]]


@pytest.fixture(scope="module")
def oracle(synthetic_stores: dict[str, Path]) -> Oracle:
    return Oracle(near_truth(AnnotationStore.open(synthetic_stores["val"]), CLASS_NAMES, seed=3))


def run(
    model: Any, store: Path, root: Path, folder: Path, name: str = "out", **options: Any
) -> tuple[Path, dict[str, Any] | None]:
    parts = Parts(folder / f".{name}", "key")
    with atomic_dir(folder / name) as made:
        metrics = predict.predict_dataset(model, store, root, MODEL_CONFIG, made, parts, scores=SCORES, **options)
    parts.remove()
    return folder / name, metrics


@pytest.fixture(scope="module")
def predicted(
    oracle: Oracle, synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any] | None]:
    return run(oracle, synthetic_stores["val"], synthetic_root, tmp_path_factory.mktemp("predicted"))


def test_the_columnar_file_holds_the_models_numbers(
    predicted: tuple[Path, Any], oracle: Oracle, synthetic_stores: dict[str, Path]
) -> None:
    table = read_detections(predicted[0] / "detections.parquet")
    store = AnnotationStore.open(synthetic_stores["val"])
    assert table.tokens == [store[k].token for k in range(len(store))] and table.class_names == CLASS_NAMES
    for token, found in zip(table.tokens, table.found, strict=True):
        np.testing.assert_array_equal(found.boxes, oracle.found[token].boxes)
        np.testing.assert_array_equal(found.scores, oracle.found[token].scores)
        np.testing.assert_array_equal(found.labels, oracle.found[token].labels)


def test_the_devkit_loads_the_submission_and_its_judge_says_what_the_metrics_say(
    predicted: tuple[Path, Any], synthetic_root: Path, synthetic_stores: dict[str, Path]
) -> None:
    from nuscenes.eval.common.loaders import load_prediction
    from nuscenes.eval.detection.data_classes import DetectionBox

    from petrflow.evaluation.evaluate import scene_names
    from petrflow.evaluation.score import score

    store = AnnotationStore.open(synthetic_stores["val"])
    boxes, meta = load_prediction(str(predicted[0] / "results_nusc.json"), 500, DetectionBox)
    assert len(boxes.sample_tokens) == len(store) and meta["use_camera"]
    judged = score(predicted[0] / "results_nusc.json", synthetic_root, store.version, scenes=scene_names(store))
    metrics = json.loads((predicted[0] / "metrics.json").read_text())
    assert metrics["NDS"] == pytest.approx(judged["NDS"], abs=1e-9)
    assert metrics["mAP"] == pytest.approx(judged["mAP"], abs=1e-9) and metrics["mAP"] > 0.1


def test_the_counts_are_those_of_boxes_counted_one_by_one(
    predicted: tuple[Path, Any], oracle: Oracle, synthetic_stores: dict[str, Path]
) -> None:
    store = AnnotationStore.open(synthetic_stores["val"])
    rows = list(csv.DictReader(io.StringIO((predicted[0] / "counts.csv").read_text())))
    expected = dict.fromkeys(CLASS_NAMES, 0)
    near = dict.fromkeys(CLASS_NAMES, 0)
    for index in range(len(store)):
        found = oracle.found[store[index].token]
        pose = store.columns["keyframe.lidar_to_ego"][index]
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            if score >= SCORES[label]:
                name = CLASS_NAMES[label]
                place = geometry.transform(pose[:3], pose[3:]) @ [*box[:3], 1.0]
                expected[name] += 1
                near[name] += bool(np.hypot(place[0], place[1]) < 20)
    assert {row["class"]: int(row["all"]) for row in rows} == expected and sum(expected.values()) > 10
    assert {row["class"]: int(row["0-20 m"]) for row in rows} == near


def test_pictures_and_a_film_show_the_first_scenes(predicted: tuple[Path, Any]) -> None:
    import av

    frames = sorted((predicted[0] / "frames").iterdir())
    with av.open(str(predicted[0] / "predict.mp4")) as film:
        assert film.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in film.decode(video=0)) == len(frames) == 4


def test_a_set_that_is_ended_in_the_middle_goes_on_and_leaves_the_same_bytes(
    predicted: tuple[Path, Any],
    oracle: Oracle,
    synthetic_root: Path,
    synthetic_stores: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts_of, "SECONDS", -1.0)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(Oracle(oracle.found, last=1), synthetic_stores["val"], synthetic_root, tmp_path)
    third = Oracle(oracle.found)
    folder, _ = run(third, synthetic_stores["val"], synthetic_root, tmp_path)
    assert third.asked == 2
    for path in sorted(path for path in predicted[0].rglob("*") if path.is_file() and path.suffix != ".mp4"):
        name = path.relative_to(predicted[0])
        assert (folder / name).read_bytes() == path.read_bytes(), name
    assert not (tmp_path / ".out").exists()


def test_parts_of_another_model_and_damaged_ones_are_predicted_again(
    oracle: Oracle, synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path: Path
) -> None:
    found = list(oracle.found.values())
    parts = Parts(tmp_path / "parts", "one")
    parts.add(found[:1])
    parts.add(found[1:3])
    assert len(Parts(tmp_path / "parts", "one").found) == 3
    (second,) = (tmp_path / "parts").glob("*1.npz")
    second.write_bytes(second.read_bytes()[:-40])
    assert len(Parts(tmp_path / "parts", "one").found) == 1
    (tmp_path / "parts" / ".00000001.npz.petrflow-1-2-3-4.tmp.npz").write_bytes(b"half a part of a killed process")
    assert len(Parts(tmp_path / "parts", "one").found) == 1
    assert Parts(tmp_path / "parts", "other").found == []


def test_with_tracks_all_files_but_theirs_stay_as_they_were_and_the_pictures_show_numbers(
    predicted: tuple[Path, Any], oracle: Oracle, synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path: Path
) -> None:
    folder, _ = run(oracle, synthetic_stores["val"], synthetic_root, tmp_path, tracks=True)
    table = read_detections(folder / "detections.parquet")
    assert table.tracks is not None and max(one.max() for one in table.tracks) > 1
    for one, numbers in zip(table.found, table.tracks, strict=True):
        np.testing.assert_array_equal(numbers > 0, one.scores >= SCORES[one.labels])
    assert list(json.loads((folder / "tracks_nusc.json").read_text())["results"]) == table.tokens
    for name in ("results_nusc.json", "metrics.json", "counts.csv"):
        assert (folder / name).read_bytes() == (predicted[0] / name).read_bytes()
    for path in sorted((folder / "frames").iterdir()):
        assert path.read_bytes() != (predicted[0] / "frames" / path.name).read_bytes()
    assert read_detections(predicted[0] / "detections.parquet").tracks is None
    assert not (predicted[0] / "tracks_nusc.json").exists()


def test_a_test_split_without_labels_has_a_zip_for_the_leaderboard_and_no_metrics(
    oracle: Oracle, synthetic_root: Path, tmp_path: Path
) -> None:
    from petrflow.annotations import build

    root = tmp_path / "root"
    root.mkdir()
    for name in ("samples", "sweeps"):
        (root / name).symlink_to(synthetic_root / name)
    tables = root / "v1.0-test"
    tables.mkdir()
    for path in (synthetic_root / "v1.0-mini").iterdir():
        empty = path.name in ("sample_annotation.json", "instance.json")
        (tables / path.name).write_text("[]" if empty else path.read_text())
    build(root, "val", tmp_path / "val.arrow", progress=False, version="v1.0-test")
    folder, metrics = run(oracle, tmp_path / "val.arrow", root, tmp_path, scenes=0)
    assert metrics is None and not (folder / "metrics.json").exists() and not (folder / "frames").exists()
    with zipfile.ZipFile(folder / "results_nusc.zip") as packed:
        assert packed.namelist() == ["results_nusc.json"] and packed.testzip() is None
        assert packed.read("results_nusc.json") == (folder / "results_nusc.json").read_bytes()


def test_a_file_that_is_no_detections_is_named(tmp_path: Path) -> None:
    (tmp_path / "detections.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(PetrflowError, match="holds no detections of petrflow"):
        read_detections(tmp_path / "detections.parquet")


def test_no_box_below_its_classs_score_is_shown(oracle: Oracle) -> None:
    for found in oracle.found.values():
        shown = confident(found, SCORES)
        keep = [k for k in range(len(found.scores)) if found.scores[k] >= SCORES[found.labels[k]]]
        np.testing.assert_array_equal(shown.scores, found.scores[keep])
