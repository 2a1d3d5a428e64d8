"""What people see of a training while it runs."""

from __future__ import annotations

import time

import pytest

from petrflow.files.status import read_status
from petrflow.training import train
from tests.helpers.fake_training import fake_parts, make_request


def test_a_training_leaves_a_line_an_epoch_its_figures_and_nothing_left(tmp_path):
    request = make_request(tmp_path, save_interval=2)
    metrics = train.train(request, fake_parts)
    found = read_status(tmp_path / "status.json")["stages"]["train"]
    assert [line.partition("  ")[0] for line in found["lines"]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert ["NDS" in line for line in found["lines"]] == [False, True, True]
    assert found["done"] == found["total"] == metrics["steps"]
    assert found["left"] == 0
    assert found["best"]["NDS"] == pytest.approx(metrics["best"]["NDS"])
    assert found["metrics"]["epoch"] == 3
    assert "checkpoint" in found


def test_evaluations_are_part_of_the_time_that_is_left(tmp_path):
    left = []

    def parts(request):
        made = fake_parts(request)
        evaluate = made.evaluate

        def slow(model):
            time.sleep(0.5)
            found = read_status(tmp_path / "status.json")["stages"]["train"]
            left.append(found.get("left"))
            return evaluate(model)

        made.evaluate = slow
        return made

    train.train(make_request(tmp_path, epochs=4), parts)
    found = read_status(tmp_path / "status.json")["stages"]["train"]
    assert found["evaluation_seconds"] >= 0.5
    assert left[1] >= 1.0, "after the first of four, at least two more come"
