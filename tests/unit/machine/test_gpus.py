"""Every stage takes the first free GPU of those it can see, by UUID, and keeps it until its processes have ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from petrflow.errors import MachineError
from petrflow.files import lock
from petrflow.machine import gpus
from petrflow.training import launch as launching

REPOSITORY = Path(__file__).parents[3]
RECORDED = yaml.safe_load((REPOSITORY / "tests/unit/recorded/gpu_hosts.yaml").read_text())
CASES = RECORDED["cases"]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes this machine look like a recorded host to whom asks it, and returns where locks lie."""
    monkeypatch.setattr(gpus, "paddle_has_cuda", lambda: True)
    monkeypatch.setattr(gpus, "lock_folder", lambda: tmp_path / "locks")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def become(name: str, asked: str | None = None) -> Path:
        entry = RECORDED["hosts"][name]
        stand_in = tmp_path / "bin" / "nvidia-smi"
        stand_in.parent.mkdir(exist_ok=True)
        (tmp_path / "list.txt").write_text(entry["list"])
        stand_in.write_text(f'#!/bin/sh\n[ "$*" = -L ] && cat "{tmp_path}/list.txt"\n')
        stand_in.chmod(0o755)
        monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
        nodes = entry.get("nodes", 0)
        plain = gpus.visible
        monkeypatch.setattr(gpus, "visible", lambda wanted, listed, _: plain(wanted, listed, nodes))
        if asked is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
        return tmp_path / "locks"

    return become


@pytest.mark.parametrize("case", CASES, ids=[f"{case['host']}-{case['asked']}" for case in CASES])
def test_the_first_free_gpu_of_those_visible_is_taken(case: dict[str, Any], host: Any) -> None:
    folder = host(case["host"], case["asked"])
    names = gpus.visible_here()
    assert (len(names) if isinstance(case["names"], int) else names) == case["names"]
    with contextlib.ExitStack() as others:
        for busy in case.get("busy", ()):
            others.enter_context(lock(folder / gpus.lock_name(busy), public=True))
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        with gpus.own_gpus({"device": "auto"}) as taken:
            assert taken.names == (() if case["taken"] is None else (case["taken"],))
            if case["taken"]:
                assert os.environ["CUDA_VISIBLE_DEVICES"] == case["taken"]
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


def test_the_page_shows_the_table_that_is_tested() -> None:
    rows = [
        f"| {case['host']} | {'not set' if case['asked'] is None else '`' + case['asked'] + '`' if case['asked'] else 'empty'} "
        f"| {', '.join(case.get('busy', ())) or 'none'} | {case['taken'] or 'none'} |"
        for case in CASES
    ]
    assert "\n".join(rows) in (REPOSITORY / "docs/gpu.md").read_text()


def test_two_runs_of_four_devices_share_eight_gpus_and_a_third_waits(host: Any, capsys: Any, monkeypatch: Any) -> None:
    host("eight")

    def gives_up(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpus, "sleep", gives_up)
    with gpus.own_gpus({"device": "gpu"}, 4) as first:
        os.environ.pop("CUDA_VISIBLE_DEVICES")  # another process sees all of them
        with gpus.own_gpus({"device": "gpu"}, 4) as second:
            assert not set(first.names) & set(second.names)
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            with pytest.raises(KeyboardInterrupt), gpus.own_gpus({"device": "gpu"}, 1):
                pass
            assert "Waiting for a GPU of 8" in capsys.readouterr().err
            with gpus.own_gpus({"device": "gpu", "share_gpu": True}, 1) as sharing:
                assert sharing.names == ()


def test_a_run_that_waits_holds_no_part_of_what_it_needs(host: Any, monkeypatch: Any) -> None:
    folder = host("mig")
    tries: list[bool] = []

    def look(_: float) -> None:
        with lock(folder / gpus.lock_name("MIG-c1")):  # the waiting run has let it go
            tries.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(gpus, "sleep", look)
    with lock(folder / gpus.lock_name("MIG-c0")), pytest.raises(KeyboardInterrupt), gpus.own_gpus({}, 3):
        pass
    assert tries == [True]


def test_more_gpus_than_can_be_seen_are_refused_with_what_limits_them(host: Any) -> None:
    host("eight", "1,2")
    with pytest.raises(MachineError, match=r"asks for 3 GPUs, and 2 can be used here.*=1,2"), gpus.own_gpus({}, 3):
        pass


def test_nothing_is_locked_for_a_cpu_or_with_the_cpu_build(host: Any, monkeypatch: Any) -> None:
    folder = host("eight")
    with gpus.own_gpus({"device": "cpu"}) as taken:
        assert taken.names == ()
    monkeypatch.setattr(gpus, "paddle_has_cuda", lambda: False)
    with gpus.own_gpus({"device": "auto"}) as taken:
        assert taken.names == ()
    assert not folder.exists()


def test_a_lock_that_nobody_holds_does_not_count_whoever_made_it(host: Any) -> None:
    folder = host("one")
    folder.mkdir()
    left = folder / gpus.lock_name("GPU-a0")
    left.write_text("process 1 on another-host #someone\n")
    left.chmod(0o444)
    with gpus.own_gpus({}) as taken:
        assert taken.names == ("GPU-a0",)


def test_training_processes_keep_the_gpus_of_a_killed_stage(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'started')!r}).touch()\n"
        f"while not pathlib.Path({str(tmp_path / 'end')!r}).exists(): time.sleep(0.05)\n"
    )
    stage = tmp_path / "stage.py"
    stage.write_text(
        "import os, pathlib, sys\nfrom petrflow.files import lock\nfrom petrflow.training.launch import launch\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "with lock(folder / 'gpu.lock', public=True) as descriptor:\n"
        "    launch(folder / 'request.json', 1, folder / 'child.py', keep=[descriptor])\n"
    )
    process = subprocess.Popen([sys.executable, str(stage)], env=launching.child_environment())
    try:
        wait_until((tmp_path / "started").exists)
    finally:
        process.kill()
        process.wait()
    with pytest.raises(Exception, match="is held by"), lock(tmp_path / "gpu.lock"):
        pass
    (tmp_path / "end").touch()
    with lock(tmp_path / "gpu.lock", timeout=20.0):
        pass


def wait_until(true: Any) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
