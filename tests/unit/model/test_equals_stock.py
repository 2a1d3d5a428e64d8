"""Our model against stock Paddle3D's, built from the same file, with the same weights, on the same batch."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.models import fake_batch, read_model_config, small_model_config

paddle = pytest.importorskip("paddle")

from petrflow import geometry
from petrflow.model import build_model

STOCK = Path(__file__).parents[2] / "helpers" / "stock_model.py"
PUBLISHED = "petrv2_vovnet_gridmask_p4_800x320"
STEP = (1, 2, 3)


def _case(name: str) -> dict[str, Any]:
    config = small_model_config(denoising=name == "denoising")
    if name == "padded":
        config["input"]["image_size"] = [29, 70]
    if name == "frozen":
        config["model"]["backbone"]["norm_eval"] = True
        config["model"]["use_recompute"] = True
    paddle.seed(7)
    model = build_model(config)
    batch = fake_batch(config, boxes=12)
    case = {"model_config": config, "batch": batch, "weights": {n: v.numpy() for n, v in model.state_dict().items()}}
    if name == "denoising":
        model.seed_step(*STEP)
        count = 5 * sum(len(labels) for labels in batch["gt_labels_3d"])
        case["noise"] = model.rng.random((count, 3), dtype="float32")
    return case


CASES = ("plain", "denoising", "padded", "frozen")


@pytest.fixture(scope="module")
def cases() -> dict[str, Any]:
    return {name: _case(name) for name in CASES}


@pytest.fixture(scope="module")
def stock(cases: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("stock")
    requests = {**cases, "published": {"model_config": read_model_config(PUBLISHED)}}
    (folder / "requests").write_bytes(pickle.dumps(requests))
    command = [sys.executable, str(STOCK), str(folder / "requests"), str(folder / "answers")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return pickle.loads((folder / "answers").read_bytes())


def _ours(case: dict[str, Any]) -> Any:
    model = build_model(case["model_config"])
    model.set_state_dict(case["weights"])
    return model


@pytest.fixture(scope="module")
def ours(cases: dict[str, Any]) -> dict[str, Any]:
    answers = {}
    for name, case in cases.items():
        model = _ours(case)
        model.train()
        model.seed_step(*STEP)
        losses = model.losses(case["batch"])
        sum(losses.values()).backward()
        gradients = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
        answers[name] = {"losses": {n: float(v) for n, v in losses.items()}, "gradients": gradients}
    return answers


@pytest.mark.parametrize("name", CASES)
def test_losses_equal_stock_to_1e_5(name: str, ours: dict[str, Any], stock: dict[str, Any]) -> None:
    assert ours[name]["losses"].keys() == stock[name]["losses"].keys()
    for loss, value in stock[name]["losses"].items():
        assert ours[name]["losses"][loss] == pytest.approx(value, rel=1e-5), loss


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_stock_to_1e_4(name: str, ours: dict[str, Any], stock: dict[str, Any]) -> None:
    mine, theirs = ours[name]["gradients"], stock[name]["gradients"]
    assert mine.keys() == theirs.keys()
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    for parameter, gradient in theirs.items():
        scale = max(np.abs(gradient).max(), 1e-3 * largest)
        assert np.abs(mine[parameter] - gradient).max() <= 1e-4 * scale, parameter


@pytest.mark.parametrize("name", ["plain", "padded"])
def test_detections_equal_stock(name: str, cases: dict[str, Any], stock: dict[str, Any]) -> None:
    detections = _ours(cases[name]).predict(cases[name]["batch"])
    for mine, (boxes, velocities, scores, labels) in zip(detections, stock[name]["detections"], strict=True):
        np.testing.assert_allclose(mine.scores, scores, rtol=1e-4)
        np.testing.assert_array_equal(mine.labels, labels)
        bottom = np.concatenate([boxes, velocities], axis=1).astype("float64")
        bottom[:, 2] -= bottom[:, 5] / 2  # stock ends with the centre in the middle, in its own order
        # Fresh weights score boxes alike to the last digit: their order says nothing.
        theirs = geometry.boxes_from_petr(bottom)
        np.testing.assert_allclose(_by_place(mine.boxes), _by_place(theirs), atol=2e-3)


def _by_place(boxes: np.ndarray) -> np.ndarray:
    return boxes[np.argsort(boxes[:, 0])]


def test_published_model_has_the_915_entries_of_stock_and_85_million_parameters(stock: dict[str, Any]) -> None:
    model = build_model(read_model_config(PUBLISHED))
    keys = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert keys == stock["published"]["keys"]
    assert len(keys) == 915
    assert sum(parameter.size for parameter in model.parameters()) / 1e6 == pytest.approx(85.17, abs=0.1)


def test_small_models_have_the_entries_of_stock(cases: dict[str, Any], stock: dict[str, Any]) -> None:
    for name in CASES:
        assert {key: value.shape for key, value in cases[name]["weights"].items()} == stock[name]["keys"]
