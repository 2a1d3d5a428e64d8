"""Two processes train as one does."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from petrflow.training.request import Request
from petrflow.weights.pdparams import load_pdparams
from tests.helpers.fake_training import FakeModel, evaluate, make_request, results

SCRIPTS = {"fake_training.py": Path(__file__).parents[1] / "helpers", "one_step.py": Path(__file__).parent}
CONFIG = Path(__file__).parents[2] / "config" / "models" / "petrv2_tiny.yml"


def launch(folder: Path, devices: int, script: str = "fake_training.py", **environment: str) -> int:
    """Launch a training as the workflow does; return its exit code."""
    code = (
        "import sys; from pathlib import Path; from petrflow.training.launch import launch;"
        f"sys.exit(launch(Path({str(folder / 'request.json')!r}), {devices}, script=Path({str(SCRIPTS[script] / script)!r})))"
    )
    with (folder / "log.txt").open("a") as log:
        return subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environment}, stderr=log, check=False
        ).returncode


def tiny_request(folder: Path, root: Path, stores: dict[str, Path], **schedule: object) -> Request:
    """Write a request for the tiny PETRv2 with its normalisation frozen, so that a batch may be cut in two."""
    config = copy.deepcopy(yaml.safe_load(CONFIG.read_text()))
    config["model"]["backbone"]["norm_eval"] = True
    settings = {"epochs": 1, "save_interval": 1, "device": "cpu", **schedule}
    folder.mkdir(parents=True)
    request = Request(
        "tiny", config, settings, stores["train"], stores["val"], root, folder / "state", folder / "train"
    )
    request.write(folder / "request.json")
    return request


def test_gradients_of_two_processes_are_those_of_one_with_the_doubled_batch(synthetic_root, synthetic_stores, tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    tiny_request(two, synthetic_root, synthetic_stores, batch_size=1, devices=2)
    tiny_request(one, synthetic_root, synthetic_stores, batch_size=2)
    assert launch(two, 2, "one_step.py") == 0, (two / "log.txt").read_text()
    assert launch(one, 1, "one_step.py") == 0, (one / "log.txt").read_text()
    said = (two / "log.txt").read_text() + "".join(path.read_text() for path in two.rglob("rank-*.log"))
    assert "Modified FLAGS" not in said and "tcp_" not in said
    with np.load(one / "gradients-0.npz") as expected, np.load(two / "gradients-0.npz") as first:
        with np.load(two / "gradients-1.npz") as second:
            assert sorted(expected) == sorted(first) == sorted(second)
            # A bias of attention's keys shifts all scores alike: its gradient is rounding noise of larger ones.
            noise = np.finfo(np.float32).eps * max(np.abs(expected[name]).max() for name in expected)
            for name in expected:
                np.testing.assert_array_equal(first[name], second[name])
                tolerance = max(1e-5 * np.abs(expected[name]).max(), noise)
                np.testing.assert_allclose(first[name], expected[name], rtol=1e-5, atol=tolerance, err_msg=name)
    shares = [json.loads((two / f"tokens-{rank}.json").read_text()) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == json.loads((one / "tokens-0.json").read_text()), "every sample once"
    assert all(shares)


def test_a_kill_of_either_process_ends_both_and_the_next_run_goes_on_to_the_same_bytes(tmp_path):
    # Normalisation that is not frozen: each process sees other images, and all must know the same means and variances.
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    make_request(calm, batch_size=2, devices=2)
    make_request(killed, batch_size=2, devices=2, checkpoint_minutes=0.0)
    # On a CPU it does not matter which GPUs are visible, nor what other jobs' variables say.
    assert launch(calm, 2, FAKE_SCORES=str(calm), CUDA_VISIBLE_DEVICES="") == 0, (calm / "log.txt").read_text()
    foreign = {"MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1", "PADDLE_TRAINER_ID": "5", "SECRET": "hush-hush"}
    for victim in ("1:5", "0:4"):
        assert launch(killed, 2, FAKE_KILL=victim, CUDA_VISIBLE_DEVICES="0", **foreign) not in (0, 75)
        assert not (killed / "train").exists()
    assert "A training process was lost: number 2 of 2 was killed by SIGKILL" in (killed / "log.txt").read_text()
    assert launch(killed, 2) == 0, (killed / "log.txt").read_text()
    assert "Going on from epoch" in (killed / "log.txt").read_text()
    assert results(killed) == results(calm)
    assert not [path for path in killed.rglob("*") if path.is_file() and b"hush-hush" in path.read_bytes()]

    # the metrics are those of the delivered model, which every process has
    scores = [(calm / f"scores-{rank}.txt").read_text().split() for rank in range(2)]
    assert scores[0] == scores[1]
    delivered = FakeModel({})
    delivered.set_state_dict(load_pdparams(calm / "train" / "last_model" / "model.pdparams"))
    delivered.eval()
    last = json.loads((calm / "train" / "metrics.json").read_text())["last"]["NDS"]
    assert evaluate(delivered, {})["NDS"] == pytest.approx(last, rel=1e-6)


def test_two_processes_end_where_one_with_the_doubled_batch_does(trainings, tmp_path):
    # nothing random and frozen normalisation: then one process with the doubled batch must agree
    model = {"noise": 0.0, "dropout": 0.0, "norm_eval": True}
    two, single = tmp_path / "two", tmp_path / "single"
    make_request(two, model, batch_size=2, devices=2)
    make_request(single, model, batch_size=4)
    assert trainings.run(single) == 0
    assert launch(two, 2) == 0, (two / "log.txt").read_text()
    ours = load_pdparams(two / "train" / "last_model" / "model.pdparams")
    theirs = load_pdparams(single / "train" / "last_model" / "model.pdparams")
    for name, weight in theirs.items():
        np.testing.assert_allclose(ours[name], weight, rtol=1e-5, atol=1e-5)
