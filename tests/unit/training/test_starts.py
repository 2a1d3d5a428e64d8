"""What a training has cost is counted over all its starts, however they ended."""

from __future__ import annotations

import os
import signal
import time

import pytest

from petrflow.errors import PetrflowError
from petrflow.files import read_json, write_json
from petrflow.training import train
from petrflow.training.starts import Starts
from petrflow.training.stopping import Stopped
from tests.helpers.fake_training import fake_parts, make_request


def interrupted_at(step: int, how: str):
    """Return parts whose training meets an error or a signal at a step."""

    def parts(request):
        made = fake_parts(request)
        plain = made.model.losses

        def losses(batch):
            if made.model.steps == step:
                if how == "error":
                    raise RuntimeError("gone")
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(batch)

        made.model.losses = losses
        return made

    return parts


def test_seconds_steps_and_checkpoints_of_all_starts_are_counted(tmp_path):
    request = make_request(tmp_path, {"step_seconds": 0.02}, checkpoint_minutes=0.0)
    with pytest.raises(RuntimeError):
        train.train(request, interrupted_at(4, "error"))
    with pytest.raises(Stopped):
        train.train(request, interrupted_at(3, "signal"))
    train.train(request, fake_parts)
    record = read_json(tmp_path / "state" / "progress.json")
    starts = record["starts"]
    assert [start["ended"] for start in starts] == ["failed", "stopped", "done"]
    assert [start["from_step"] for start in starts] == [0, 4, 8]
    assert all(start["began"] + start["seconds"] <= record["updated"] + 0.1 for start in starts)
    assert starts[-1]["to_step"] == record["step"] == record["total"] == 18
    written = read_json(tmp_path / "train" / "provenance.json")
    assert written["seconds"] >= sum(start["seconds"] for start in starts[:2]) + 10 * 0.02
    extra = written["extra"]
    assert extra["starts"] == 3
    assert extra["training_seconds"] == pytest.approx(sum(start["training_seconds"] for start in starts), abs=0.2)
    assert extra["checkpoints"]["count"] == sum(start["checkpoints"]["count"] for start in starts) >= 18


def test_a_start_that_was_killed_counts_with_what_it_last_noted(tmp_path):
    path = tmp_path / "progress.json"
    killed = Starts(path, "state-1")
    killed.note(7, 20, 1, 3.5, {"count": 2}, now=True)  # and then a kill: nobody says how it ended
    again = Starts(path, "state-1")
    assert [start["ended"] for start in again.earlier] == ["killed"]
    assert again.earlier_sum("training_seconds") == 3.5
    assert Starts(path, "state-2").earlier == [], "another state's starts are another training's"


def test_the_estimate_is_made_of_this_starts_own_steps(tmp_path):
    starts = Starts(tmp_path / "progress.json", "state")
    starts.note(10, 30, 0, 0.0, {}, now=True)
    assert read_json(tmp_path / "progress.json")["seconds_left"] is None
    starts.note(14, 30, 0, 8.0, {}, now=True)
    assert read_json(tmp_path / "progress.json")["seconds_left"] == 32


@pytest.mark.parametrize(
    "content", ["", "[]", '{"state": "state", "starts": [{}]}', '{"state": "state", "starts": null}']
)
def test_a_damaged_record_stops_no_training(content, tmp_path):
    (tmp_path / "progress.json").write_text(content)
    assert Starts(tmp_path / "progress.json", "state").earlier == []


def test_a_signal_before_the_first_step_ends_training_at_once_with_one_sentence(tmp_path):
    request = make_request(tmp_path)

    def parts(request):
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(30)
        return fake_parts(request)

    with pytest.raises(Stopped, match=r"Stopped by SIGHUP before the first step\. Run the same command again"):
        train.train(request, parts)


@pytest.mark.parametrize(("bad", "fails"), [(24, True), (14, True), (1, False)])
def test_a_training_in_which_most_steps_were_skipped_is_a_failure(bad, fails, tmp_path):
    # the limit of skipped steps in a row of 100 is never reached
    request = make_request(tmp_path, {"bad_samples": list(range(bad))}, nan_limit=100, batch_size=1, epochs=2)
    if not fails:
        assert train.train(request, fake_parts)["steps"] == 48
        return
    for _ in range(2):  # the same when it is run again
        with pytest.raises(PetrflowError, match=f"{2 * bad} of 48 steps had no finite loss or gradient"):
            train.train(request, fake_parts)
    assert not (tmp_path / "train").exists()


def test_an_old_state_without_the_newer_figures_is_resumed(tmp_path):
    request = make_request(tmp_path, checkpoint_minutes=0.0)
    with pytest.raises(Stopped):
        train.train(request, interrupted_at(3, "signal"))
    write_json(tmp_path / "state" / "progress.json", {"step": 3, "total": 18})
    assert train.train(request, fake_parts)["steps"] == 18
