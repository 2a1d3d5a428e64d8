"""``status.json``: right after any number of interruptions, written by several processes, readable elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from petrflow.errors import PetrflowError
from petrflow.files.receipts import Order
from petrflow.files.status import StageStatus, figure, read_status, state_of, tqdm
from petrflow.reports.status import text


def make_order(folder: Path, fingerprint: str = "0" * 16) -> Order:
    return Order("train", "run", fingerprint, {}, {}, folder / "run" / "receipts" / f"train-{fingerprint}.json")


def entry(folder: Path) -> dict:
    return read_status(folder / "run" / "status.json")["stages"]["train"]


def test_a_stage_notes_its_bar_its_figure_and_its_end(tmp_path: Path) -> None:
    with make_order(tmp_path).account():
        assert entry(tmp_path)["state"] == "running"
        for _ in tqdm(range(3), desc="frames", disable=False):
            pass
        figure("3 frames")
    found = entry(tmp_path)
    assert (found["state"], found["figure"], found["done"], found["total"]) == ("done", "3 frames", 3, 3)
    assert "3 frames" in text(tmp_path)


def test_a_failure_and_a_stop_are_told_apart_and_the_failure_stands_for_the_page(tmp_path: Path) -> None:
    with pytest.raises(PetrflowError), make_order(tmp_path).account():
        raise PetrflowError("No such scene.")
    record = read_status(tmp_path / "run" / "status.json")
    assert (record["state"], record["stage"], record["sentence"]) == ("failed", "train", "No such scene.")
    assert "No such scene." in text(tmp_path)
    with pytest.raises(KeyboardInterrupt), make_order(tmp_path).account():
        raise KeyboardInterrupt
    assert entry(tmp_path)["state"] == "stopped"
    assert "state" not in read_status(tmp_path / "run" / "status.json")


KILLED = """
import sys, time
from pathlib import Path
from petrflow.files.receipts import Order
Order.__post_init__ = lambda self: None
with Order("train", "run", "0" * 16, {}, {}, Path(sys.argv[1]) / "run" / "receipts" / ("train-" + "0" * 16 + ".json")).account():
    print("ready", flush=True)
    time.sleep(60)
"""


def test_kills_add_up_and_a_killed_stage_is_called_killed(tmp_path: Path) -> None:
    for start in (1, 2, 3):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline()
        assert state_of(entry(tmp_path)) == "running"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert state_of(entry(tmp_path)) == "killed"
        assert entry(tmp_path)["starts"] == start
    with make_order(tmp_path).account():
        time.sleep(0.05)
    found = entry(tmp_path)
    assert (found["state"], found["starts"], found["earlier_seconds"]) == ("done", 4, 0.0)


def test_what_other_settings_have_cost_is_not_forgotten(tmp_path: Path) -> None:
    with make_order(tmp_path).account():
        time.sleep(0.05)
    first = entry(tmp_path)["seconds"]
    with make_order(tmp_path, "1" * 16).account():
        pass
    assert entry(tmp_path)["earlier_seconds"] == first > 0


def test_another_machines_stage_runs_while_it_writes_and_is_silent_later(tmp_path: Path) -> None:
    with make_order(tmp_path).account():
        record = read_status(tmp_path / "run" / "status.json")
    there = {**record["stages"]["train"], "state": "running", "owner": "deadbeef-1-1", "machine": "far"}
    (tmp_path / "run" / "status.json").write_text(json.dumps({**record, "stages": {"train": there}}))
    assert state_of(there, there["updated"] + 10) == "running"
    assert state_of(there, there["updated"] + 600) == "silent"
    assert "no word from far for 10:00" in text(tmp_path, there["updated"] + 600)


def test_two_processes_write_one_entry_and_neither_loses_the_others_words(tmp_path: Path) -> None:
    one, other = (StageStatus(tmp_path / "status.json", "train") for _ in range(2))
    one.begin("0" * 16, 0.0, 1)
    other.update(now=True, epoch=3)
    one.update(now=True, seconds=5.0)
    other.add("lines", "epoch 3")
    one.end("failed", 6.0, "what it said stands above")
    found = read_status(tmp_path / "status.json")["stages"]["train"]
    assert (found["epoch"], found["seconds"], found["lines"]) == (3, 6.0, ["epoch 3"])


def test_money_and_the_forecast_follow_the_seconds_of_all_starts(tmp_path: Path) -> None:
    status = StageStatus(tmp_path / "run" / "status.json", "train")
    status.begin("0" * 16, 3600.0, 2)
    status.update(now=True, left=1800.0, total=10, done=5, unit="step")
    plan = {"began": time.time(), "price_per_hour": 2.0}
    planned = [{"stage": "train", "subject": "run", "fingerprint": "0" * 16, "seconds": None}]
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "stages": planned}))
    said = text(tmp_path)
    assert "1:00:00 so far (2.00), about 1:30:00 at the end (3.00)" in said
    assert "left 30:00" in said and "about 30:00" in said.splitlines()[-1]


def test_a_file_that_cannot_be_written_does_not_end_the_stage(tmp_path: Path) -> None:
    (tmp_path / "run" / "status.json").mkdir(parents=True)
    with make_order(tmp_path).account():
        figure("done all the same")
    assert (tmp_path / "run" / "receipts" / f"train-{'0' * 16}.json").exists()
