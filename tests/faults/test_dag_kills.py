"""The real DAG, killed or told to stop at random moments until it is done, leaves the bytes of a calm one."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.workflow import SNAKEMAKE, run_snakemake
from tests.workflow.test_whole_dag import small_config, small_project

pytestmark = pytest.mark.slow

# Times, walltimes and logs of the runs themselves: they tell how a result was made, not what it is.
TIMED = (
    "provenance.json",
    "receipts",
    ".contents.json",
    "state",
    "visualdl",
    "report",
    "import.json",
    "status.json",
    "plan.json",
)


def results(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that a stage delivers, by path."""
    files = sorted(path for top in ("data", "results") for path in (folder / top).rglob("*") if path.is_file())
    kept = [path for path in files if not any(part in TIMED for part in path.relative_to(folder).parts)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """What an undisturbed run leaves, and the seconds it took."""
    folder = small_project(tmp_path_factory.mktemp("calm") / "project", small_config(checkpoint_minutes=0.02))
    start = time.monotonic()
    run_snakemake(folder, "all", timeout=1800)
    return results(folder), time.monotonic() - start


def interrupt(folder: Path, moment: float, number: signal.Signals) -> bool:
    """Run the DAG and send `number` to its whole process group after `moment` seconds; return whether it was still at work."""
    process = subprocess.Popen(
        [*SNAKEMAKE, "--cores", "2", "all"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, number)
        process.wait(timeout=90)
        return True
    assert process.returncode == 0
    return False


def moments(seed: int, longest: float) -> Iterator[float]:
    """Seconds after the start at which to interrupt: from the first import to what a whole run takes."""
    draw = random.Random(seed)
    while True:
        yield draw.uniform(2.0, longest)


@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 20), (signal.SIGTERM, 10)])
def test_a_dag_interrupted_at_random_moments_leaves_the_bytes_of_a_calm_one(
    calm: tuple[dict[str, str], float], tmp_path: Path, number: signal.Signals, times: int
) -> None:
    expected, seconds = calm
    done, project = 0, 0
    drawn = moments(int(number), min(40.0, seconds))
    while done < times:
        folder = small_project(tmp_path / f"project-{project}", small_config(checkpoint_minutes=0.02))
        working = True
        while working:
            working = done < times and interrupt(folder, next(drawn), number)
            done += working
        finished = run_snakemake(folder, "all", timeout=1800)
        assert finished.returncode == 0
        assert results(folder) == expected, f"after {done} interruptions"
        project += 1
