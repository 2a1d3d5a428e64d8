"""The real thing once: the tiny PETRv2 on rendered streets, killed and resumed, with and without loader workers."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import yaml

from petrflow.training.request import Request
from tests.helpers.fake_training import results

CONFIG = Path(__file__).parents[2] / "config" / "models" / "petrv2_tiny.yml"


def request_in(folder: Path, root: Path, stores: dict[str, Path], **schedule: object) -> Path:
    """Write a request for a short training of the tiny PETRv2."""
    settings = {
        "epochs": 2,
        "batch_size": 2,
        "learning_rate": 4e-4,
        "log_interval": 1,
        "save_interval": 1,
        "device": "cpu",
        **schedule,
    }
    folder.mkdir()
    request = Request(
        "tiny",
        yaml.safe_load(CONFIG.read_text()),
        settings,
        stores["train"],
        stores["val"],
        root,
        folder / "state",
        folder / "train",
    )
    request.write(folder / "request.json")
    return folder


def test_a_killed_petrv2_with_loader_workers_ends_with_the_bytes_of_a_calm_one_without(
    trainings, synthetic_root, synthetic_stores, tmp_path
):
    calm = request_in(tmp_path / "calm", synthetic_root, synthetic_stores)
    killed = request_in(tmp_path / "killed", synthetic_root, synthetic_stores, num_workers=2, checkpoint_minutes=0.0)
    assert trainings.run(calm, parts="real") == 0, (calm / "log.txt").read_text()
    faults = [
        {"at": "update", "count": 3, "when": "before", "signal": "KILL"},
        {"at": "submission", "count": 1, "when": "before", "signal": "KILL"},  # inside the first evaluation
        {"at": "step of any model", "count": 2, "when": "after", "signal": "TERM"},
    ]
    expected = [-signal.SIGKILL, -signal.SIGKILL, 75]
    for fault, status in zip(faults, expected, strict=True):
        assert trainings.run(killed, fault, parts="real") == status, (killed / "log.txt").read_text()
    assert trainings.run(killed, parts="real") == 0, (killed / "log.txt").read_text()
    assert results(killed) == results(calm)


@pytest.mark.slow
def test_a_petrv2_killed_at_ten_moments_ends_with_the_bytes_of_a_calm_one(
    trainings, synthetic_root, synthetic_stores, tmp_path
):
    calm = request_in(tmp_path / "calm", synthetic_root, synthetic_stores)
    killed = request_in(tmp_path / "killed", synthetic_root, synthetic_stores, num_workers=2, checkpoint_minutes=0.0)
    assert trainings.run(calm, parts="real") == 0, (calm / "log.txt").read_text()
    draw = random.Random(6)
    for number in range(10):
        at = draw.choice(["update", "step of any model", "fsync", "rename", "checkpoint bytes", "submission"])
        fault = {"at": at, "count": draw.randint(1, 2), "when": draw.choice(["before", "after"])}
        status = trainings.run(killed, {**fault, "signal": "TERM" if number % 3 == 2 else "KILL"}, parts="real")
        assert status in (-signal.SIGKILL, 75, 0), (killed / "log.txt").read_text()
    assert trainings.run(killed, parts="real") == 0
    assert results(killed) == results(calm)
