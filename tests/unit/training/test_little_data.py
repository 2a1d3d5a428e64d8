"""The settings for little data: averaged weights, patience, frozen parts, balanced sampling."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from petrflow.config import settings, validate
from petrflow.errors import PetrflowError
from petrflow.files import read_json
from petrflow.model import build_model
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.loader import balanced_weights, weighted_order
from petrflow.training import train
from petrflow.training.request import Schedule
from petrflow.training.state import make_optimizer
from petrflow.weights.load import read_weights
from tests.helpers.fake_training import fake_parts, interrupted, make_request, results
from tests.helpers.loader_fakes import model_config, small_store
from tests.helpers.models import fake_batch, small_model_config


def learnt(model) -> dict[str, np.ndarray]:
    """Copies of what training changes by gradients: Paddle counts running statistics among parameters."""
    return {name: p.numpy().copy() for name, p in model.named_parameters() if not p.stop_gradient}


def test_the_averaged_weights_are_those_of_an_independent_sum(tmp_path):
    seen: list[dict[str, np.ndarray]] = []

    def watched(request):
        parts = fake_parts(request)
        seen.append(learnt(parts.model))
        plain = parts.model.losses

        def losses(batch):
            if parts.model.steps:
                seen.append(learnt(parts.model))
            return plain(batch)

        parts.model.losses = losses
        kept.append(parts.model)
        return parts

    kept: list = []
    train.train(make_request(tmp_path, ema_decay=0.6, learning_rate=0.05), watched)
    seen.append(learnt(kept[0]))
    expected = {name: value.astype(np.float64) for name, value in seen[0].items()}
    for number, weights in enumerate(seen[1:], 1):
        decay = min(0.6, (1 + number) / (10 + number))
        expected = {name: decay * expected[name] + (1 - decay) * value for name, value in weights.items()}
    assert len(seen) == 19
    delivered = read_weights(tmp_path / "train" / "last_model" / "model.pdparams")
    for name, value in expected.items():
        np.testing.assert_allclose(delivered[name], value, atol=1e-6)
        assert np.abs(delivered[name] - seen[-1][name]).max() > 1e-4, "the last step's weights are others"


@pytest.mark.parametrize("schedule", [{"ema_decay": 0.8}, {"patience": 1, "epochs": 9}])
def test_an_interrupted_training_ends_with_the_bytes_of_a_calm_one(schedule, tmp_path):
    train.train(make_request(tmp_path / "calm", **schedule), fake_parts)
    interrupted(make_request(tmp_path / "broken", checkpoint_minutes=0.0, **schedule))
    assert results(tmp_path / "calm") == results(tmp_path / "broken")


def test_training_ends_when_the_figure_has_not_risen_for_as_long_as_patience_says(tmp_path):
    figures = iter([0.1, 0.3, 0.2, 0.25, 0.3, 0.9])

    def parts(request):
        made = fake_parts(request)
        made.evaluate = lambda model: {"mAP": 0.0, "NDS": next(figures), "not_available": [], "per_class": {}}
        return made

    train.train(make_request(tmp_path, epochs=6, patience=3), parts)
    metrics = read_json(tmp_path / "train" / "metrics.json")
    assert (metrics["epochs"], metrics["best"]["epoch"], metrics["best"]["NDS"]) == (5, 2, 0.3)


def test_patience_without_evaluations_is_refused():
    config = {
        "datasets": {"a": {"kind": "synthetic"}},
        "runs": {"r": {"dataset": "a", "model": "petrv2_tiny", "schedule": {"patience": 2, "do_eval": False}}},
    }
    with pytest.raises(PetrflowError, match=r"runs.r.schedule.patience.*do_eval"):
        validate(config)


def test_settings_that_are_left_out_shape_nothing(tmp_path):
    plain = make_request(tmp_path).fingerprint_fields()
    same = make_request(tmp_path, ema_decay=None, patience=None, frozen=[], sampling="uniform").fingerprint_fields()
    assert plain == same
    assert make_request(tmp_path, frozen=["backbone"]).fingerprint_fields() != plain


@pytest.mark.parametrize(
    ("key", "value"), [("ema_decay", 1.0), ("frozen", ["head"]), ("sampling", "even"), ("patience", 0)]
)
def test_a_wrong_value_is_named(key, value):
    with pytest.raises(PetrflowError, match=key):
        settings("schedule", {key: value})


def test_a_frozen_part_stays_as_it_is_and_the_others_learn():
    config = small_model_config()
    paddle.seed(0)
    model = build_model(config)
    model.freeze(["backbone"])
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    optimizer = make_optimizer(model, Schedule.from_schedule({"learning_rate": 1e-3}))
    model.train()
    sum(model.losses(fake_batch(config)).values()).backward()
    optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if (tensor.numpy() != before[name]).any()}
    assert moved and not any(name.startswith("backbone.") for name in moved)
    assert any(name.startswith("neck.") for name in moved)


def test_balanced_epochs_show_rare_classes_as_often_as_their_weights_say():
    classes = np.zeros((200, 3), dtype=bool)
    classes[:, 0], classes[:50, 1], classes[:8, 2] = True, True, True
    weights = balanced_weights(classes)
    np.testing.assert_allclose(weights[[0, 20, 100]], [5.0, 2.0, 1.0])
    expected = weights / weights.sum() * 200
    counts = np.zeros(200)
    for epoch in range(60):
        order = weighted_order(7, epoch, weights)
        assert len(order) == 200
        found = np.bincount(order, minlength=200)
        assert (np.abs(found - expected) < 1 + 1e-9).all(), "no sample is off by one or more"
        counts += found
    np.testing.assert_allclose(counts[:8].sum() / 60, expected[:8].sum(), rtol=0.05)
    np.testing.assert_array_equal(weighted_order(7, 3, weights), weighted_order(7, 3, weights))
    assert (weighted_order(7, 3, weights) != weighted_order(7, 4, weights)).any()


def test_the_classes_of_samples_are_those_of_their_boxes(tmp_path):
    dataset = PetrDataset(
        None, tmp_path, model_config((64, 160), resize_lim=[0.1, 0.13]), training=True, store=small_store(tmp_path)
    )
    held = dataset.classes()
    for index in range(len(dataset)):
        assert set(np.flatnonzero(held[index])) == set(np.asarray(dataset.load(index)["gt_labels_3d"]).tolist())
