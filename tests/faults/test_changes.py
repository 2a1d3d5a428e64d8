"""Inputs that change under a paused training: another result is another training, and the log says which field it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from petrflow.files import read_json
from petrflow.training import request as training_request
from petrflow.training.request import Request
from tests.helpers.fake_training import make_request, results

EAGER = {"checkpoint_minutes": 0.0}


def change(folder: Path, kind: str) -> None:
    """Change one input of the training in ``folder``."""
    request = read_json(folder / "request.json")
    area, _, key = kind.partition(": ")
    if area == "schedule":
        values = {
            "learning_rate": 2e-3, "batch_size": 3, "seed": 1, "weight_decay": 0.02, "warmup_steps": 3, "clip_norm": 1.0,
            "save_interval": 2, "do_eval": False, "amp": "O1", "amp_dtype": "float16", "devices": 1, "nan_limit": 3,
        }  # fmt: skip
        request["schedule"][key] = values[key]
    elif area == "model file":
        request["model_config"]["dropout"] = 0.2
    elif area == "weights":
        (folder / "weights.pdparams").write_bytes(b"weights")
        request["weights"] = str(folder / "weights.pdparams")
    else:
        (folder / f"{area.split()[0]}.arrow").write_text("other annotations")
    Request(**request).write(folder / "request.json")


SHAPING = [
    "learning_rate",
    "batch_size",
    "seed",
    "weight_decay",
    "warmup_steps",
    "clip_norm",
    "save_interval",
    "do_eval",
]
SHAPING += ["amp", "amp_dtype", "nan_limit"]
KINDS = [
    *(f"schedule: {key}" for key in SHAPING),
    "model file: dropout",
    "weights",
    "train annotations",
    "val annotations",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_input_sets_the_old_state_aside_and_names_itself(kind, trainings, tmp_path):
    make_request(tmp_path, **EAGER)
    trainings.run(tmp_path, {"at": "step", "count": 5})
    old = [path.parent for path in (tmp_path / "state").glob("*/newest.json")]
    change(tmp_path, kind)
    trainings.run(tmp_path, {"at": "step", "count": 1})
    log = (tmp_path / "log.txt").read_text()
    assert f"has changed: {kind} (" in log
    assert "training starts afresh" in log
    assert log.count("Going on from epoch") == 0
    assert list(old[0].glob("checkpoint-*")), "the old state is still there"


def test_another_version_of_the_loop_sets_the_old_state_aside(tmp_path, monkeypatch, caplog):
    request = make_request(tmp_path, **EAGER)
    first = training_request.state_folder(request)
    monkeypatch.setattr(training_request, "LOOP_VERSION", 1000)
    assert training_request.state_folder(request) != first
    assert "loop version (1 -> 1000)" in caplog.text


def test_going_back_to_the_old_input_finds_the_old_state(trainings, calm, tmp_path):
    make_request(tmp_path, **EAGER)
    trainings.run(tmp_path, {"at": "step", "count": 5})
    make_request(tmp_path, learning_rate=2e-3, **EAGER)
    trainings.run(tmp_path, {"at": "step", "count": 5})
    make_request(tmp_path, **EAGER)
    assert trainings.run(tmp_path) == 0
    assert "have a state of their own" in (tmp_path / "log.txt").read_text()
    assert results(tmp_path) == calm(**EAGER)


@pytest.mark.parametrize("key", ["checkpoint_minutes", "num_workers", "share_gpu", "slow_factor", "judge"])
def test_a_setting_that_shapes_nothing_keeps_the_state(key, trainings, calm, tmp_path):
    make_request(tmp_path, **EAGER)
    trainings.run(tmp_path, {"at": "step", "count": 5})
    other = {"checkpoint_minutes": 30.0, "num_workers": 2, "share_gpu": True, "slow_factor": 50.0, "judge": "devkit"}[
        key
    ]
    make_request(tmp_path, **{**EAGER, key: other})
    assert trainings.run(tmp_path) == 0
    assert "Going on from epoch" in (tmp_path / "log.txt").read_text()
    assert results(tmp_path) == calm(**EAGER)


def test_another_log_interval_keeps_the_state_and_the_weights(trainings, calm, tmp_path):
    make_request(tmp_path, **EAGER)
    trainings.run(tmp_path, {"at": "step", "count": 5})
    make_request(tmp_path, log_interval=3, **EAGER)
    assert trainings.run(tmp_path) == 0
    assert "Going on from epoch" in (tmp_path / "log.txt").read_text()
    found, expected = results(tmp_path), calm(**EAGER)
    assert {name for name in found if found[name] != expected[name]} == {"scalars"}, "only the points of the curves"


def test_more_epochs_go_on_from_the_end_and_say_what_happens_to_the_rate(trainings, tmp_path):
    make_request(tmp_path, epochs=2)
    assert trainings.run(tmp_path) == 0
    make_request(tmp_path, epochs=4)
    assert trainings.run(tmp_path) == 0
    log = (tmp_path / "log.txt").read_text()
    assert "12 steps were planned, now 24. From step 12 on" in log
    metrics = read_json(tmp_path / "train" / "metrics.json")
    assert metrics["plans"] == [[0, 12], [12, 24]]
    assert metrics["steps"] == 24
    history = (tmp_path / "train" / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in history] == ["epoch", "1", "2", "3", "4"]


def test_an_extended_training_is_as_exact_when_killed_as_any_other(trainings, tmp_path):
    for name, faults in (("calm", [None]), ("killed", [{"at": "step", "count": 3}, {"at": "fsync", "count": 9}, None])):
        folder = tmp_path / name
        make_request(folder, epochs=2, **EAGER)
        assert trainings.run(folder) == 0
        make_request(folder, epochs=4, **EAGER)
        for fault in faults:
            trainings.run(folder, fault)
    assert results(tmp_path / "calm") == results(tmp_path / "killed")


def test_fewer_epochs_than_were_trained_start_afresh_and_say_so(trainings, calm, tmp_path):
    make_request(tmp_path, epochs=4, **EAGER)
    assert trainings.run(tmp_path) == 0
    make_request(tmp_path, **EAGER)
    assert trainings.run(tmp_path) == 0
    assert "set aside" in (tmp_path / "log.txt").read_text()
    assert results(tmp_path) == calm(**EAGER)


def test_two_trainings_in_one_folder_exclude_each_other(trainings, tmp_path):
    from petrflow.files import lock

    request = make_request(tmp_path)
    with lock(request.state_dir / "lock"):
        pid = trainings.start(tmp_path)
        assert pid
        import time

        time.sleep(1.0)
        assert not list((tmp_path / "state").glob("*/visualdl")), "it waits for the one before to end"
    assert trainings.wait() == 0
