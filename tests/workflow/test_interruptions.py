"""A Snakemake that is told to end, or killed: its jobs hear of it, and the same command goes on without being asked for flags."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers.workflow import REPOSITORY, SNAKEMAKE, run_snakemake

# Two rules that work until they are told to end and take a moment to do so, as training does to write its checkpoint.
SNAKEFILE = f"""
sys.path.insert(0, {str(REPOSITORY / "workflow")!r})
import locks, signals
if workflow.is_main_process:
    locks.enter(Path(".snakemake"))
    signals.pass_signals_on()
shell.prefix("set -euo pipefail; exec ")

rule work:
    output: "{{name}}.txt"
    params: log="{{name}}.log"
    script: "work.py"
"""
SCRIPT = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY / "workflow" / "scripts")!r})
from rule_job import rule_job

with rule_job(snakemake):
    name = snakemake.wildcards.name
    try:
        Path(name + ".started").touch()
        while not Path(name + ".go").exists():
            time.sleep(0.05)
        Path(snakemake.output[0]).write_text("whole")
    except KeyboardInterrupt:
        time.sleep(float(Path("ending").read_text()) if Path("ending").exists() else 0)
        Path(name + ".checkpoint").touch()
        raise
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "work.py").write_text(SCRIPT)
    (tmp_path / "profiles" / "default").mkdir(parents=True)
    (tmp_path / "profiles" / "default" / "config.yaml").write_text(
        (REPOSITORY / "profiles/default/config.yaml").read_text()
    )
    yield tmp_path
    for process in _under(tmp_path):
        with contextlib.suppress(psutil.Error):
            process.kill()


def _under(folder: Path) -> list[psutil.Process]:
    """Processes that a test started and that still live."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.cwd() == str(folder):
                found.append(process)
    return found


def start(project: Path, *targets: str) -> subprocess.Popen[bytes]:
    """Start Snakemake in a process group of its own and wait until its first job works."""
    with (project / f"{targets[0]}.out").open("wb") as output:
        process = subprocess.Popen(
            [*SNAKEMAKE, "--cores", "2", *targets],
            cwd=project,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    started = (project / targets[0]).with_suffix(".started")
    wait_for(lambda: started.exists() or process.poll() is not None)
    assert process.poll() is None, (project / f"{targets[0]}.out").read_text()
    return process


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def let_go(project: Path) -> None:
    for name in ("a", "b"):
        (project / f"{name}.go").touch()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
def test_a_signal_to_snakemake_reaches_its_job_which_ends_in_its_own_time(
    project: Path, number: signal.Signals, group: bool
) -> None:
    (project / "ending").write_text("1.5")
    process = start(project, "a.txt")
    (os.killpg if group else os.kill)(process.pid, number)
    assert process.wait(30) != 0
    assert (project / "a.checkpoint").exists(), "Snakemake waited for the job"
    assert "the same command makes this stage again" in (project / "a.log").read_text()
    assert not list((project / ".snakemake").glob("locks/*"))
    let_go(project)
    run_snakemake(project, "a.txt")
    assert (project / "a.txt").read_text() == "whole"


def test_after_a_kill_of_everything_the_same_command_goes_on(project: Path) -> None:
    process = start(project, "a.txt")
    os.killpg(process.pid, signal.SIGKILL)
    for survivor in _under(project):
        survivor.kill()
    process.wait()
    assert list((project / ".snakemake").glob("locks/*")), "Snakemake left its locks, or this tests nothing"
    let_go(project)
    finished = run_snakemake(project, "a.txt")
    assert "the lock that it left was removed" in finished.stderr
    assert (project / "a.txt").read_text() == "whole"


def test_a_job_whose_snakemake_was_killed_ends_and_the_next_run_waits_for_it(project: Path) -> None:
    (project / "ending").write_text("4")
    process = start(project, "a.txt")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = subprocess.Popen([*SNAKEMAKE, "--cores", "2", "a.txt"], cwd=project, stderr=subprocess.PIPE, text=True)
    wait_for((project / "a.checkpoint").exists)
    let_go(project)
    _, said = finished.communicate(timeout=60)
    assert finished.returncode == 0, said
    assert (project / "a.txt").read_text() == "whole"


def test_two_live_runs_of_the_same_file_stay_apart(project: Path) -> None:
    process = start(project, "a.txt")
    second = run_snakemake(project, "a.txt", check=False)
    assert second.returncode != 0
    assert "cannot be locked" in second.stderr
    assert process.poll() is None, "the first run is untouched"
    assert list((project / ".snakemake").glob("locks/*"))
    let_go(project)
    assert process.wait(60) == 0


def test_the_locks_of_a_live_run_stay_when_another_beside_it_was_killed(project: Path) -> None:
    """Snakemake lets runs of different files share a folder; the death of one must not make the other look dead."""
    killed = start(project, "a.txt")
    living = start(project, "b.txt")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    third = run_snakemake(project, "b.txt", check=False, timeout=120)
    assert third.returncode != 0
    assert "cannot be locked" in third.stderr
    let_go(project)
    assert living.wait(60) == 0
    assert (project / "b.txt").read_text() == "whole"


def test_a_dry_run_beside_a_live_run_disturbs_neither(project: Path) -> None:
    process = start(project, "a.txt")
    assert run_snakemake(project, "-n", "a.txt").returncode == 0
    assert list((project / ".snakemake").glob("locks/*"))
    let_go(project)
    assert process.wait(60) == 0


def test_an_error_a_person_can_mend_is_one_line_without_a_traceback(project: Path) -> None:
    script = project / "work.py"
    script.write_text(
        SCRIPT.replace(
            "    name = snake",
            "    from petrflow.errors import PetrflowError\n    raise PetrflowError('the disk is full: free 3 GB')\n    name = snake",
        )
    )
    finished = run_snakemake(project, "a.txt", check=False)
    assert "work: the disk is full: free 3 GB" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert "the disk is full: free 3 GB" in (project / "a.log").read_text()


def test_two_signals_at_once_end_a_script_without_a_traceback() -> None:
    code = f"""
import os, signal, sys
sys.path[:0] = [{str(REPOSITORY / "workflow")!r}, {str(REPOSITORY / "src")!r}]
import signals
both = {{signal.SIGINT, signal.SIGTERM}}
signals.interrupt_on_signals()
signal.pthread_sigmask(signal.SIG_BLOCK, both)
for number in both:
    os.kill(os.getpid(), number)
try:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
except KeyboardInterrupt:
    print("asked to end")
os.kill(os.getpid(), signal.SIGTERM)
print("ended")
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "asked to end\nended\n", "")
