"""The model by itself: cameras, odd batches, randomness, unknown velocities."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from tests.helpers.models import fake_batch, small_model_config

paddle = pytest.importorskip("paddle")

from paddle3d.models.detection.petr import petr3d
from paddle3d.models.heads.dense_heads.target_assigner.hungarian_assigner import HungarianAssigner3D

from petrflow.errors import PetrflowError
from petrflow.model import build_model
from petrflow.model.box_codes import encode
from petrflow.model.image_network import GridMask
from petrflow.model.loss import match, regression_targets


def _losses(model: Any, batch: dict[str, Any], step: tuple[int, int, int] = (0, 0, 0)) -> dict[str, float]:
    model.seed_step(*step)
    return {name: float(value) for name, value in model.losses(batch).items()}


@pytest.fixture(scope="module")
def model() -> Any:
    paddle.seed(3)
    model = build_model(small_model_config())
    model.train()
    return model


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    return fake_batch(small_model_config())


@pytest.mark.parametrize("cameras", [1, 4, 6, 12])
def test_any_number_of_cameras_trains_and_predicts_with_the_same_weights(cameras: int, model: Any) -> None:
    config = small_model_config()
    other = build_model(config, num_cameras=cameras)
    weights = model.state_dict()
    assert {name: value.shape for name, value in other.state_dict().items()} == {n: v.shape for n, v in weights.items()}
    batch = fake_batch(config, cameras=cameras)
    other.train()
    losses = other.losses(batch)
    sum(losses.values()).backward()
    assert all(np.isfinite(float(value)) for value in losses.values())
    assert all(
        np.isfinite(parameter.grad.numpy()).all() for parameter in other.parameters() if parameter.grad is not None
    )
    assert len(other.predict(batch)[0].boxes) > 0


def test_thirteen_cameras_are_refused() -> None:
    with pytest.raises(PetrflowError, match="1 to 12"):
        build_model(small_model_config(), num_cameras=13)


def test_an_unknown_component_is_named_with_its_place() -> None:
    config = small_model_config()
    config["model"]["neck"]["type"] = "Nek"
    with pytest.raises(PetrflowError, match=r"model\.neck\.type.*Nek"):
        build_model(config)


def test_a_wrong_argument_is_named_with_its_place() -> None:
    config = small_model_config()
    config["model"]["neck"]["colour"] = "red"
    with pytest.raises(PetrflowError, match=r"model\.neck \(CPFPN\).*colour"):
        build_model(config)


def test_a_wrong_argument_of_the_model_itself_is_named() -> None:
    config = small_model_config()
    config["model"]["use_gridmask"] = True
    with pytest.raises(PetrflowError, match=r"model \(Petr3D\).*use_gridmask"):
        build_model(config)


def test_a_batch_of_one_serves_twice_and_stays_as_it_was(model: Any) -> None:
    batch = fake_batch(small_model_config(), batch_size=1)
    before = copy.deepcopy(batch)
    first, second = (_losses(model, batch) for _ in range(2))
    assert first == second
    for key, value in before.items():
        np.testing.assert_array_equal(batch[key], value)


def test_two_frames_of_one_time_show_no_motion_and_train(model: Any, batch: dict[str, Any]) -> None:
    still = {**batch, "timestamp": np.zeros_like(batch["timestamp"])}
    assert all(np.isfinite(value) for value in _losses(model, still).values())
    assert not model.predict(still)[0].boxes[:, 7:].any()


@pytest.mark.parametrize("denoising", [False, True])
def test_batches_without_boxes_train(denoising: bool) -> None:
    config = small_model_config(denoising)
    model = build_model(config)
    model.train()
    batch = fake_batch(config)
    for without in ([0], [0, 1]):
        for index in without:
            batch["gt_bboxes_3d"][index] = np.zeros((0, 9), "float32")
            batch["gt_labels_3d"][index] = np.zeros(0, "int64")
        losses = model.losses(batch)
        sum(losses.values()).backward()
        assert all(np.isfinite(float(value)) for value in losses.values())


def test_more_boxes_than_queries_train(model: Any) -> None:
    losses = _losses(model, fake_batch(small_model_config(), boxes=70))
    assert all(np.isfinite(value) for value in losses.values())


def test_unknown_velocities_cost_the_velocity_terms_and_no_other(batch: dict[str, Any]) -> None:
    config = small_model_config()
    unknown = copy.deepcopy(batch)
    for boxes in unknown["gt_bboxes_3d"]:
        boxes[:, 7:] = np.nan
    model = build_model(config)
    model.train()
    with_nan = _losses(model, unknown)
    assert with_nan != _losses(model, batch)
    head = model.pts_bbox_head
    weights = head.code_weights.numpy()
    weights[8:] = 0.0
    head.code_weights.set_value(weights)
    without_weight = _losses(model, batch)
    assert with_nan == pytest.approx(without_weight, rel=1e-6)


def test_a_box_of_unknown_size_is_dropped_whole() -> None:
    boxes = np.ones((3, 9))
    boxes[0, 7] = np.nan
    boxes[1, 3] = 0
    targets, weights = regression_targets(encode(boxes))
    np.testing.assert_array_equal(weights, [[1] * 8 + [0] * 2, [0] * 10, [1] * 10])
    assert np.isfinite(targets).all()


def test_matching_equals_stock_assigner() -> None:
    rng = np.random.default_rng(0)
    batch = fake_batch(small_model_config(), boxes=15)
    boxes, labels = batch["gt_bboxes_3d"][0], batch["gt_labels_3d"][0]
    logits, codes = rng.normal(size=(40, 10)).astype("float32"), rng.normal(size=(40, 10)).astype("float32") * 3
    codes[3, 1] = np.nan
    arguments = [paddle.to_tensor(array) for array in (codes, logits, boxes, labels.astype("int64"))]
    expected = HungarianAssigner3D(pc_range=[0] * 6).assign(*arguments).gt_inds.numpy()
    queries, assigned = match(logits, codes, encode(boxes), labels)
    actual = np.zeros(40, int)
    actual[queries] = assigned + 1
    np.testing.assert_array_equal(actual, expected)


def _random_model() -> tuple[Any, dict[str, Any]]:
    config = small_model_config(denoising=True)
    config["model"]["use_grid_mask"] = True
    layer = config["model"]["pts_bbox_head"]["transformer"]["decoder"]["transformerlayers"]
    layer["ffn_dropout"] = 0.1
    for attention in layer["attns"]:
        attention.update(attn_drop=0.1, drop_prob=0.1)
    model = build_model(config)
    model.train()
    return model, fake_batch(config)


def test_a_step_is_a_pure_function_of_seed_epoch_and_iteration() -> None:
    model, batch = _random_model()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    first = _losses(model, batch, (5, 1, 9))
    model.set_state_dict(state)
    paddle.rand([7])
    np.random.rand(3)
    assert _losses(model, batch, (5, 1, 9)) == first
    for other in ((6, 1, 9), (5, 2, 9), (5, 1, 10)):
        assert _losses(model, batch, other) != first


class _Replay:
    """Hands the same numbers to numpy's old interface and to ours."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def random(self) -> float:
        return 0.0

    def integers(self, low: int, high: int | None = None) -> int:
        return self.numbers.pop(0)


@pytest.mark.parametrize("draws", [[2, 0, 1], [7, 6, 3], [31, 30, 2], [10, 0, 0]])
def test_grid_mask_equals_stock_for_the_same_draws(draws: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (True, True)
    settings = {"rotate": 1, "offset": False, "ratio": 0.5, "mode": 1, "prob": 0.7}
    images = paddle.ones([2, 3, 32, 80])
    numbers = [*draws, 0]  # stock draws the angle last, and only ever 0
    monkeypatch.setattr(np.random, "rand", lambda: 0.0)
    monkeypatch.setattr(np.random, "randint", lambda *_: numbers.pop(0))
    expected = petr3d.GridMask(*arguments, **settings)(images)
    ours = GridMask(*arguments, **settings)
    ours.rng = _Replay(list(draws))
    np.testing.assert_array_equal(ours(images).numpy(), expected.numpy())
    ours.eval()
    np.testing.assert_array_equal(ours(images).numpy(), images.numpy())


def test_parameter_names_do_not_depend_on_what_was_built_before() -> None:
    first, second = (build_model(small_model_config()) for _ in range(2))
    assert [p.name for p in first.parameters()] == [p.name for p in second.parameters()]


def test_predicting_leaves_the_training_mode_and_the_backbone_rate_follows_the_file(model: Any, batch: Any) -> None:
    model.predict(batch)
    assert model.training
    rates = {parameter.optimize_attr["learning_rate"] for parameter in model.backbone.parameters()}
    assert rates == {1.0}


def test_without_a_previous_frame_the_features_of_one_frame_serve_for_both(batch: dict[str, Any]) -> None:
    config = small_model_config()
    pairs = build_model(config)
    config["input"]["previous_frame"] = False
    single = build_model(config)
    single.set_state_dict(pairs.state_dict())
    same = {**batch, "img": batch["img"].copy()}
    same["img"][:, 6:] = same["img"][:, :6]
    changed = {**batch, "img": batch["img"].copy()}
    changed["img"][:, 6:] = 0
    inputs = [paddle.to_tensor(one["img"]) for one in (same, changed)]
    pairs.eval()
    single.eval()
    assert np.allclose(pairs.extract_features(inputs[0]).numpy(), single.extract_features(inputs[1]).numpy(), atol=1e-5)
    single.train()
    assert _losses(single, same) == _losses(single, changed)
    sum(single.losses(same).values()).backward()
    assert all(parameter.grad is not None for parameter in single.backbone.parameters() if not parameter.stop_gradient)


def test_without_its_gradient_the_previous_frame_still_speaks(batch: dict[str, Any]) -> None:
    config = small_model_config()
    config["model"]["previous_frame_gradient"] = False
    model = build_model(config)
    model.train()
    changed = {**batch, "img": batch["img"].copy()}
    changed["img"][:, 6:] = 0
    losses = _losses(model, batch)
    assert losses != _losses(model, changed)
    sum(model.losses(batch).values()).backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters() if not parameter.stop_gradient)
