"""What keeps an eye on training, and the loop's numbers on a model of a handful of parameters."""

from __future__ import annotations

import contextlib
import logging
import math

import numpy as np
import paddle
import pytest

from petrflow.errors import PetrflowError
from petrflow.files import lock, read_json
from petrflow.training import step as one_step
from petrflow.training import train
from petrflow.training.gpu import own_gpu
from petrflow.training.log import Scalars
from petrflow.training.request import Request, Schedule
from petrflow.training.results import history_csv
from petrflow.training.state import Progress, capture, deliverable_weights, make_optimizer, restore
from petrflow.training.stopping import Stopped, StopRequest
from petrflow.training.watch import Watch
from tests.helpers.fake_training import FakeModel, fake_parts, interrupted, make_request, results


@pytest.fixture(autouse=True)
def log_reaches_caplog(caplog):
    caplog.set_level(logging.INFO, "petrflow.training")


def test_a_batch_of_nans_is_skipped_reported_and_leaves_the_weights_finite(tmp_path, caplog):
    request = make_request(tmp_path, {"bad_samples": [5]})
    train.train(request, fake_parts)
    reports = [record.getMessage() for record in caplog.records if "step skipped" in record.getMessage()]
    assert len(reports) == 3, "once an epoch"
    assert "sample-5" in reports[0]
    assert "learning rate" in reports[0]
    history = (tmp_path / "train" / "history.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in history[1:]] == ["1", "1", "1"]
    assert "nan" not in (tmp_path / "train" / "history.csv").read_text()


def test_too_many_skipped_steps_stop_training_with_advice_and_the_checkpoint_stands(tmp_path):
    request = make_request(tmp_path, {"bad_samples": list(range(24))}, nan_limit=3, checkpoint_minutes=0.0)
    with pytest.raises(PetrflowError, match="Lower learning_rate"):
        train.train(request, fake_parts)
    assert list((tmp_path / "state").glob("*/checkpoint-*"))
    with pytest.raises(PetrflowError, match="4 of the last 100 steps"):  # going on does not forget those before
        train.train(request, fake_parts)


def test_skipped_steps_are_as_exact_as_others_when_resumed(tmp_path):
    model = {"bad_samples": [3, 9]}
    calm = make_request(tmp_path / "calm", model)
    train.train(calm, fake_parts)
    broken = make_request(tmp_path / "broken", model, checkpoint_minutes=0.0)

    interrupted(broken)
    assert results(tmp_path / "calm") == results(tmp_path / "broken")


def test_a_box_loss_of_exactly_zero_with_boxes_present_is_reported(caplog):
    watch = Watch()
    watch.check_boxes(7, {"loss_bbox": 0.0}, 3, 1e-4, ["token-a"])
    assert "loss_bbox is exactly 0 with 3 boxes present" in caplog.text
    assert "token-a" in caplog.text
    caplog.clear()
    watch.check_boxes(7, {"loss_bbox": 0.0}, 0, 1e-4, ["token-a"])
    watch.check_boxes(7, {"loss_bbox": 0.1}, 3, 1e-4, ["token-a"])
    assert not caplog.records


def test_a_step_of_twenty_times_the_median_is_reported_with_what_it_waited_for(caplog):
    watch = Watch()
    for step in range(20):
        watch.check_time(step, 0.01, 0.09, 1e-4, ["token-b"])
    assert not caplog.records
    watch.check_time(20, 2.0, 0.125, 1e-4, ["token-b"])
    assert "iteration 20 took 2.1 s (2.0 s of it waiting for data)" in caplog.text
    assert "token-b" in caplog.text


def test_the_backbone_factor_reaches_the_update():
    model = FakeModel({"dropout": 0.0, "noise": 0.0})
    optimizer = make_optimizer(model, Schedule.from_schedule({"learning_rate": 0.1, "weight_decay": 0.0}))
    before = {name: parameter.numpy().copy() for name, parameter in model.named_parameters()}
    paddle.abs(model(paddle.to_tensor(np.ones((4, 6), "float32") + np.eye(4, 6, dtype="float32"))) - 3).sum().backward()
    optimizer.step()
    moved = {name: float(np.abs(p.numpy() - before[name]).max()) for name, p in model.named_parameters()}
    assert moved["first.weight"] == pytest.approx(0.01, rel=1e-2), "a tenth, as optimize_attr says"
    assert moved["second.weight"] == pytest.approx(0.1, rel=1e-2)


def test_gradients_are_clipped_to_the_norm_and_unscaled():
    parameter = paddle.create_parameter([4], "float32")
    scale = 1024.0
    (parameter * paddle.to_tensor([3.0, 4.0, 0.0, 0.0]) * scale).sum().backward()
    norm = one_step.clip([parameter], 1.0, scale)
    assert norm == pytest.approx(5.0)
    np.testing.assert_allclose(parameter.grad.numpy(), [0.6, 0.8, 0.0, 0.0], rtol=1e-6)


def test_an_overflow_of_float16_halves_the_scale_and_costs_no_skipped_step(tmp_path, caplog):
    request = make_request(tmp_path, amp="O1", amp_dtype="float16", epochs=1)
    parts = fake_parts(request)
    original = one_step.clip
    calls = []

    def overflow(parameters, limit, scale):
        norm = original(parameters, limit, scale)
        calls.append(scale)
        return math.inf if len(calls) == 2 else norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_step, "clip", overflow)
        train.train(request, lambda request: parts)
    assert calls[:3] == [2.0**15, 2.0**15, 2.0**14]
    assert "step skipped" not in caplog.text


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_bfloat16_runs_as_a_smoke_test_on_the_cpu_and_says_what_it_does(level, tmp_path, caplog):
    train.train(make_request(tmp_path, amp=level, epochs=1), fake_parts)
    assert f"amp {level} has no effect on a CPU" in caplog.text


def test_a_gpu_is_one_runs_until_it_is_shared(tmp_path):
    settings, sharing = Schedule.from_schedule({}), Schedule.from_schedule({"share_gpu": True})
    with StopRequest() as stop:
        with own_gpu("gpu:0", settings, stop, tmp_path):
            with own_gpu("gpu:1", settings, stop, tmp_path):
                pass
            with own_gpu("gpu:0", sharing, stop, tmp_path):
                pass
            stop.signal_name = "SIGTERM"
            with pytest.raises(Stopped, match="while waiting for gpu:0"), own_gpu("gpu:0", settings, stop, tmp_path):
                pass


def test_gpus_are_told_apart_by_what_is_visible(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with StopRequest() as stop, own_gpu("gpu:0", Schedule.from_schedule({}), stop, tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["petrflow-gpu-3.lock"]
        with pytest.raises(PetrflowError), lock(tmp_path / "petrflow-gpu-3.lock"):
            pass


def test_results_appear_whole(tmp_path):
    train.train(make_request(tmp_path), fake_parts)
    names = sorted(
        path.relative_to(tmp_path / "train").as_posix() for path in (tmp_path / "train").rglob("*") if path.is_file()
    )
    assert names == [
        "best_model/classes.json",
        "best_model/model.pdparams",
        "history.csv",
        "last_model/classes.json",
        "last_model/model.pdparams",
        "metrics.json",
        "provenance.json",
        "visualdl/vdlrecords.0000000001.log",
    ]
    metrics = read_json(tmp_path / "train" / "metrics.json")
    best = max(metrics["best"]["NDS"], metrics["last"]["NDS"])
    assert metrics["best"]["NDS"] == best
    assert metrics["steps"] == 18


def test_without_evaluation_the_best_model_is_the_last(tmp_path):
    train.train(make_request(tmp_path, do_eval=False), fake_parts)
    best, last = (tmp_path / "train" / f"{name}_model" / "model.pdparams" for name in ("best", "last"))
    assert best.read_bytes() == last.read_bytes()


def test_history_has_a_line_an_epoch_and_empty_cells_for_what_was_not_measured():
    text = history_csv([{"epoch": 1, "total_loss": 0.1}, {"epoch": 2, "total_loss": 0.25, "NDS": 0.5}])
    assert text == "epoch,total_loss,NDS\n1,0.1,\n2,0.25,0.5\n"


def test_scalars_rewritten_from_the_state_hold_no_step_twice(tmp_path):
    from visualdl import LogReader

    first = Scalars()
    first.mirror(tmp_path)
    first.add(1, {"Training/loss": 0.5})
    kept = (list(first.tags), first.arrays())
    first.add(2, {"Training/loss": 0.4})  # after the checkpoint: lost with the kill
    first.close()
    second = Scalars(*kept)
    second.mirror(tmp_path)
    second.add(2, {"Training/loss": 0.4, "Evaluation/NDS": 0.1})
    second.close()
    (path,) = tmp_path.glob("*.log")
    rows = LogReader(file_path=str(path)).get_data("scalar", "Training/loss")
    assert [(row.id, round(row.value, 6)) for row in rows] == [(1, 0.5), (2, 0.4)]
    assert path.read_bytes() == second.to_bytes()


def test_a_request_comes_back_from_its_file_as_it_was(tmp_path):
    request = make_request(tmp_path)
    again = Request.read(tmp_path / "request.json")
    assert again == request
    assert again.fingerprint_fields() == request.fingerprint_fields()


def test_low_precision_weights_and_their_master_copies_come_back_bit_for_bit():
    def made():
        layer = paddle.nn.Linear(3, 2)
        layer.to(dtype="bfloat16")
        return layer, paddle.optimizer.AdamW(1e-2, parameters=layer.parameters(), multi_precision=True)

    layer, optimizer = made()
    for parameter in layer.parameters():
        parameter.grad = paddle.ones_like(parameter)
    with contextlib.suppress(
        RuntimeError
    ):  # Paddle has no update in bfloat16 for CPUs, but it makes all of the state first
        optimizer.step()
    taken = capture(layer, optimizer, Progress(step=3), {}, best=None, meta={})
    assert "optimizer/master/weight" in taken.arrays
    other, other_optimizer = made()
    assert restore(taken, other, other_optimizer).step == 3
    again = capture(other, other_optimizer, Progress(), {}, best=None, meta={})
    assert sorted(again.arrays) == sorted(taken.arrays)
    for name, array in taken.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
    weights = deliverable_weights(layer, optimizer)
    assert all(weight.dtype == np.float32 for weight in weights.values())
