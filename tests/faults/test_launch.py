"""A training in a process of its own, as the workflow starts it: signals passed on, an end with its parents."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.fake_training import make_request, results

SCRIPT = Path(__file__).parents[1] / "helpers" / "fake_training.py"
SLOW = {"step_seconds": 0.2}
EAGER = {"checkpoint_minutes": 0.0}


def start(folder: Path, devices: int = 1) -> subprocess.Popen[bytes]:
    """Launch the training of ``folder`` and wait until it has written a checkpoint."""
    code = (
        "import sys; from pathlib import Path; from petrflow.training.launch import launch;"
        f"sys.exit(launch(Path({str(folder / 'request.json')!r}), {devices}, script=Path({str(SCRIPT)!r})))"
    )
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-c", code], stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((folder / "state").glob("*/checkpoint-*")):
        assert process.poll() is None, (folder / "log.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group_stops_training_with_its_own_code_and_message(number, trainings, calm, tmp_path):
    make_request(tmp_path, SLOW, **EAGER)
    process = start(tmp_path)
    began = time.monotonic()
    os.killpg(process.pid, number)
    time.sleep(0.05)
    os.killpg(process.pid, number)  # people press Ctrl-C twice
    assert process.wait() == 75
    assert time.monotonic() - began < 30
    assert "Run the same command again to go on" in (tmp_path / "log.txt").read_text()
    assert trainings.run(tmp_path) == 0
    assert results(tmp_path) == calm(SLOW, **EAGER)


def test_a_training_whose_parent_was_killed_stops_by_itself_and_the_next_one_waits_for_it(trainings, calm, tmp_path):
    make_request(tmp_path, SLOW, **EAGER)
    process = start(tmp_path)
    process.kill()
    process.wait()
    assert trainings.run(tmp_path) == 0, (tmp_path / "log.txt").read_text()
    assert "Going on from epoch" in (tmp_path / "log.txt").read_text()
    assert results(tmp_path) == calm(SLOW, **EAGER)


def test_two_processes_write_a_checkpoint_however_often_people_press_ctrl_c(tmp_path):
    make_request(tmp_path, SLOW, devices=2, batch_size=2, **EAGER)
    process = start(tmp_path, devices=2)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    assert process.wait() == 75, (tmp_path / "log.txt").read_text()
    said = (tmp_path / "log.txt").read_text()
    assert "Stopped by SIGINT" in said
    assert "Traceback" not in said
