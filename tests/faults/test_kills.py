"""A training that is killed anywhere, any number of times, ends with the bytes of one that was not."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.helpers.fake_training import make_request, results

# checkpoint_minutes 0: one after every step, so that every point is passed many times
EAGER = {"checkpoint_minutes": 0.0, "save_interval": 1}
# point, and how often a training of 18 steps passes it
PASSED = {
    "step": 18,
    "update": 18,
    "evaluation": 21,
    "snapshot": 20,
    "checkpoint bytes": 40,
    "fsync": 80,
    "rename": 40,
    "removal": 16,
    "scalars": 12,
    "weights file": 2,
    "folder rename": 1,
}


def moments(count: int, seed: int) -> list[dict[str, object]]:
    """Return moments spread over all points, drawn at random but the same every time."""
    draw = random.Random(seed)
    names = list(PASSED)
    chosen = []
    for number in range(count):
        at = names[number % len(names)]
        chosen.append({"at": at, "count": draw.randint(1, PASSED[at]), "when": draw.choice(["before", "after"])})
    return chosen


def name_of(fault: dict[str, object]) -> str:
    return f"{fault['when']} {fault['at']} {fault['count']}"


@pytest.mark.parametrize("fault", moments(22, seed=1), ids=name_of)
def test_a_killed_training_ends_with_the_same_bytes_when_run_again(fault, trainings, calm, tmp_path):
    make_request(tmp_path, **EAGER)
    assert trainings.run(tmp_path, {**fault, "signal": "KILL"}) == -signal.SIGKILL
    assert trainings.run(tmp_path) == 0, (tmp_path / "log.txt").read_text()
    assert results(tmp_path) == calm(**EAGER)


@pytest.mark.slow
@pytest.mark.parametrize("fault", moments(220, seed=2), ids=name_of)
def test_a_training_killed_at_any_of_many_moments_ends_with_the_same_bytes(fault, trainings, calm, tmp_path):
    make_request(tmp_path, **EAGER)
    assert trainings.run(tmp_path, {**fault, "signal": "KILL"}) == -signal.SIGKILL
    assert trainings.run(tmp_path) == 0, (tmp_path / "log.txt").read_text()
    assert results(tmp_path) == calm(**EAGER)


def test_twenty_kills_of_one_training_leave_the_same_bytes(trainings, calm, tmp_path):
    make_request(tmp_path, **EAGER)
    draw = random.Random(3)
    kills = 0
    while True:
        at = draw.choice(["step", "update", "fsync", "rename", "checkpoint bytes", "evaluation", "snapshot"])
        fault = {"at": at, "count": draw.randint(2, 5), "when": draw.choice(["before", "after"])}
        status = trainings.run(tmp_path, fault if kills < 20 else None)
        if status == 0:
            break
        assert status == -signal.SIGKILL, (tmp_path / "log.txt").read_text()
        kills += 1
    assert kills >= 10
    assert results(tmp_path) == calm(**EAGER)


def test_a_kill_from_outside_at_no_chosen_moment_leaves_the_same_bytes(trainings, calm, tmp_path):
    slow = {"step_seconds": 0.2}  # 18 steps: not done before the last kill, on whatever machine
    make_request(tmp_path, slow, **EAGER)
    draw = random.Random(4)
    for _ in range(3):
        pid = trainings.start(tmp_path)
        time.sleep(draw.uniform(0.3, 0.8))
        os.killpg(pid, signal.SIGKILL)
        assert trainings.wait() in (-signal.SIGKILL, 0)
    assert trainings.run(tmp_path) == 0
    assert results(tmp_path) == calm(slow, **EAGER)


def test_a_kill_before_the_first_checkpoint_starts_from_the_beginning(trainings, calm, tmp_path):
    schedule = {"checkpoint_minutes": 60.0, "save_interval": 1}
    make_request(tmp_path, **schedule)
    assert trainings.run(tmp_path, {"at": "step", "count": 3}) == -signal.SIGKILL
    assert trainings.run(tmp_path) == 0
    assert results(tmp_path) == calm(**EAGER)  # how often checkpoints are written changes nothing


TERMS = [
    {**fault, "signal": "TERM"} for fault in moments(11, seed=5) if fault["at"] not in ("weights file", "folder rename")
]


@pytest.mark.parametrize(
    "fault",
    [*TERMS, {"at": "step", "count": 18, "signal": "TERM"}],
    ids=lambda fault: f"{fault['at']} {fault['count']}",
)
def test_a_stopped_training_leaves_a_checkpoint_and_ends_with_the_same_bytes(fault, trainings, calm, tmp_path):
    schedule = {"checkpoint_minutes": 60.0, "save_interval": 1} if fault["at"] in ("step", "update") else EAGER
    make_request(tmp_path, **schedule)
    status = trainings.run(tmp_path, fault)
    assert status in (75, 0), (tmp_path / "log.txt").read_text()  # 0: asked to stop when the last step was over
    if status == 75:
        assert "Run the same command again" in (tmp_path / "log.txt").read_text()
        assert list((tmp_path / "state").glob("*/checkpoint-*"))
        assert not (tmp_path / "train").exists()
    assert trainings.run(tmp_path) == 0
    assert results(tmp_path) == calm(**EAGER)


def test_a_stop_during_evaluation_does_not_wait_for_its_end(trainings, calm, tmp_path):
    slow = {"evaluation_seconds": 60.0}
    make_request(tmp_path, slow)
    pid = trainings.start(tmp_path)
    deadline = time.monotonic() + 30
    while not list((tmp_path / "state").glob("*/checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    start = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    assert trainings.wait() == 75
    assert time.monotonic() - start < 10


def test_a_step_that_outlasts_the_half_minute_is_given_up(trainings, calm, tmp_path, monkeypatch):
    make_request(tmp_path, {"hang_at_step": 4, "patience": 1.0}, checkpoint_minutes=0.0)
    pid = trainings.start(tmp_path)
    deadline = time.monotonic() + 30
    while len(list((tmp_path / "state").glob("*/checkpoint-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(pid, signal.SIGTERM)
    assert trainings.wait() == 75
    assert "giving it up" in (tmp_path / "log.txt").read_text()
