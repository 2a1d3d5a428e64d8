"""Processes that train together are started, stopped and ended together; stand-ins without Paddle play the trainings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from petrflow.training import launch as launching
from petrflow.training.launch import launch, rank_environment
from petrflow.training.stopping import stop_signals

HEAD = """
import os, signal, sys, time
rank = int(os.environ.get("PADDLE_TRAINER_ID", "0"))
"""
STOPS = (
    HEAD
    + """
def stop(number, frame):
    print(f"rank {rank} got {signal.Signals(number).name}", flush=True)
    time.sleep(0.5)  # writes a checkpoint
    sys.exit(75)

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, stop)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
open(f"{sys.argv[2]}.{rank}", "w").close()
time.sleep(60)
"""
)


def script(folder: Path, text: str) -> Path:
    path = folder / "stand_in.py"
    path.write_text(text)
    return path


def run(folder: Path, text: str, devices: int) -> int:
    return launch(folder / "request.json", devices, script(folder, text))


def test_the_first_process_that_fails_is_named_with_its_last_words_and_ends_the_others(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(launching, "SECONDS_AFTER_FAILURE", 0.2)
    text = HEAD + "if rank == 1:\n    print('Boom, and why')\n    sys.exit(3)\ntime.sleep(60)\n"
    began = time.monotonic()
    assert run(tmp_path, text, 3) == 3
    assert time.monotonic() - began < 20
    said = capfd.readouterr().err
    assert "number 2 of 3 ended with code 3" in said
    assert "Boom, and why" in said


def test_a_killed_process_is_named_with_its_signal(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(launching, "SECONDS_AFTER_FAILURE", 0.2)
    assert run(tmp_path, HEAD + "os.kill(os.getpid(), signal.SIGKILL)\n", 1) == -signal.SIGKILL
    assert "was killed by SIGKILL. The system kills with SIGKILL when memory runs out" in capfd.readouterr().err


def test_no_process_is_ended_because_another_is_done_a_little_earlier(tmp_path):
    assert run(tmp_path, HEAD + "time.sleep(rank)\n", 2) == 0
    assert run(tmp_path, HEAD + "time.sleep(rank)\nsys.exit(75)\n", 2) == 75


def test_the_first_process_is_shown_and_the_environment_is_written_nowhere(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-mine")
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "default.log").write_text("a-secret-of-mine")  # Paddle's launcher wrote this
    assert run(tmp_path, HEAD + "print('hello from', rank)\n", 2) == 0
    assert "hello from 0" in capfd.readouterr().err
    assert (tmp_path / "launch" / "rank-1.log").read_text() == "hello from 1\n"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "secret" in path.read_text()]


def test_variables_of_another_job_do_not_reach_the_processes(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "PADDLE_MASTER", "PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM"):
        monkeypatch.setenv(name, "7")
    alone = rank_environment(0, ["127.0.0.1:1"])
    assert not {"MASTER_ADDR", "MASTER_PORT", "PADDLE_MASTER", "PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM"} & set(alone)
    second = rank_environment(1, ["127.0.0.1:1", "127.0.0.1:2"])
    assert second["PADDLE_MASTER"] == "127.0.0.1:1"
    assert second["PADDLE_CURRENT_ENDPOINT"] == "127.0.0.1:2"
    assert second["FLAGS_selected_gpus"] == "1"
    elsewhere = rank_environment(2, ["a:1", "a:2", "b:1", "b:2"], local_rank=0)
    assert (elsewhere["PADDLE_TRAINER_ID"], elsewhere["FLAGS_selected_gpus"]) == ("2", "0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_one_signal_is_passed_on_to_all_however_often_it_comes(number, tmp_path):
    code = (
        "import sys; from pathlib import Path; from petrflow.training.launch import launch;"
        f"sys.exit(launch(Path({str(tmp_path / 'request.json')!r}), 2, Path({str(script(tmp_path, STOPS))!r})))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while len(list(tmp_path.glob("request.json.*"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, number)
    time.sleep(0.1)
    os.kill(process.pid, number)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 75
    assert said.count("rank 0 got ") == 1
    assert f"rank 0 got {number.name}" in said


def test_a_hangup_asks_to_stop_unless_it_was_ignored_at_the_start():
    assert stop_signals() == {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert stop_signals() == {signal.SIGTERM, signal.SIGINT}
    finally:
        signal.signal(signal.SIGHUP, before)
