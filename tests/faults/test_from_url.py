"""One command from a URL to a trained model, killed on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.misbehaving_server import MisbehavingServer
from tests.helpers.workflow import SNAKEMAKE, copy_workflow, run_snakemake

pytestmark = pytest.mark.slow


def kill_when(folder: Path, reached: Callable[[], bool], timeout: float = 300) -> None:
    """Start the one command and kill all of it, Snakemake and jobs, as soon as something is there."""
    process = subprocess.Popen(
        [*SNAKEMAKE, "--cores", "2", "train_all"],
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + timeout
    while not reached():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for entry in sorted(Path("/proc").glob("[0-9]*")):  # jobs lead sessions of their own
        try:
            same = entry.joinpath("cwd").resolve() == folder.resolve()
        except OSError:
            continue
        if same and int(entry.name) != os.getpid():
            os.kill(int(entry.name), signal.SIGKILL)
    process.wait()


def test_from_a_url_to_a_trained_model_in_one_command_killed_twice(synthetic_root: Path, tmp_path: Path) -> None:
    archive = tmp_path / "v1.0-mini.tgz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for name in ("v1.0-mini", "samples", "sweeps", "maps"):
            tar.add(
                synthetic_root / name, name, filter=lambda info: None if info.name.endswith("splits.json") else info
            )
    faults = ("cut", "status_503", "stall", "cut")
    plan: Callable[[int], str] = lambda number: faults[number] if number < len(faults) else "none"  # noqa: E731
    with MisbehavingServer(archive.read_bytes(), plan) as server:
        server.stall_seconds = 3600.0  # the first kill finds the line hanging
        config = {
            "datasets": {"mini": {"kind": "nuscenes", "source": f"{server.url}/v1.0-mini.tgz?signature=personal"}},
            "runs": {
                "small": {
                    "dataset": "mini",
                    "model": "petrv2_tiny",
                    "schedule": {"epochs": 1, "batch_size": 2, "do_eval": False, "device": "cpu"},
                }
            },
        }
        folder = copy_workflow(tmp_path / "project", config)
        kill_when(folder, lambda: len(server.log) >= 3 and any((folder / "data").rglob("*.part")))
        assert not list((folder / "data").rglob("*.tgz"))
        kill_when(folder, lambda: any((folder / "data" / ".cache" / "extracted").rglob("*.jpg")))
        assert not (folder / "data" / "mini" / ".complete.json").exists()
        run_snakemake(folder, "train_all", timeout=1200)
    assert server.log[3][2] is not None  # the second command resumed by range
    assert (folder / "results" / "small" / "train" / "best_model" / "model.pdparams").stat().st_size > 10**6
    for path in sorted((synthetic_root / "samples").rglob("*.jpg")):
        assert (folder / "data" / "mini" / path.relative_to(synthetic_root)).read_bytes() == path.read_bytes()
    shutil.rmtree(folder)
