"""The workflow on a real Slurm of two nodes: the whole DAG, and what a cluster does to a training."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.rig import Rig, missing, run, wait_for
from tests.faults.test_dag_kills import results
from tests.helpers.workflow import copy_workflow, run_snakemake
from tests.workflow.test_whole_dag import small_config, small_project

pytestmark = [
    pytest.mark.skipif("PETRFLOW_CLUSTER" not in os.environ, reason="a Slurm is brought up by `make test-cluster`"),
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]

QUICK = ("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5")
PROFILE = ("--workflow-profile", "profiles/slurm")


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    folder = Path(
        tempfile.mkdtemp(prefix="petrflow-slurm-")
    )  # the database's user must reach it; pytest's folders are private
    slurm = Rig(folder)
    try:
        slurm.up()
        yield slurm
    finally:
        slurm.down()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after an undisturbed training on this machine."""
    config = small_config(epochs=40, save_interval=40, checkpoint_minutes=0.02)
    folder = small_project(tmp_path_factory.mktemp("calm") / "project", config)
    run_snakemake(folder, "annotate_all", timeout=900)
    shutil.copytree(folder, folder.with_name("before"), symlinks=True)
    run_snakemake(folder, "train_all", timeout=900)
    return folder


@pytest.fixture
def project(calm: Path, tmp_path: Path) -> Path:
    """The same project with its data and without a training."""
    return Path(shutil.copytree(calm.with_name("before"), tmp_path / "project", symlinks=True))


def head(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start Snakemake on the login node."""
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *PROFILE, *QUICK, *arguments],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=(folder / "head.log").open("a"), text=True, start_new_session=True,
    )  # fmt: skip


def said(folder: Path) -> str:
    return (folder / "head.log").read_text()


def jobs(folder: Path, rule: str = "train") -> list[dict[str, str]]:
    """Jobs of a rule that Slurm knows for a folder: waiting, running or lately ended."""
    found = []
    for line in run("squeue", "--noheader", "--states=all", "--format=%i|%T|%Z|%k|%N").splitlines():
        number, state, where, comment, node = line.split("|", 4)
        if where == str(folder) and comment.startswith(f"rule_{rule}_"):
            found.append({"number": number, "state": state, "node": node})
    return found


def training_runs(folder: Path, steps: int = 3) -> str:
    """Wait until a training has taken some steps in this start; return its job's number."""
    progress = folder / "results" / "small" / "state" / "progress.json"

    def at_work() -> bool:
        return progress.exists() and json.loads(progress.read_text()).get("step", 0) >= steps

    wait_for("a running training", at_work, 180)
    return next(job["number"] for job in jobs(folder) if job["state"] == "RUNNING")


def best(folder: Path) -> bytes:
    return (folder / "results" / "small" / "train" / "best_model" / "model.pdparams").read_bytes()


def test_the_whole_dag_gives_the_bytes_of_one_machine(rig: Rig, tmp_path: Path) -> None:
    config = small_config(checkpoint_minutes=0.02)
    here, there = small_project(tmp_path / "here", config), small_project(tmp_path / "there", config)
    run_snakemake(here, "all", timeout=900)
    assert head(there, "all").wait(1200) == 0, said(there)
    assert results(there) == results(here)


# ------------------------------------------------------------------------------------------------ faults


def cancelled(rig: Rig, folder: Path, number: str) -> None:
    run("scancel", number)


def requeued_by_hand(rig: Rig, folder: Path, number: str) -> None:
    run("scontrol", "requeue", number)


def told_to_end(rig: Rig, folder: Path, number: str) -> None:
    """What the time limit and a preemption's grace do first: SIGTERM to the job's steps."""
    run("scancel", "--signal=TERM", number)


def preempted(rig: Rig, folder: Path, number: str) -> None:
    other = run("sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5")
    wait_for("the other job", lambda: "COMPLETED" in run("sacct", "-nX", "-j", other, "-o", "state"), 120)


def node_lost(rig: Rig, folder: Path, number: str) -> None:
    node = int(next(job["node"] for job in jobs(folder) if job["number"] == number)[1:])
    rig.kill_node(node)
    time.sleep(15)
    rig.start_node(node)


FAULTS = [cancelled, requeued_by_hand, told_to_end, preempted, node_lost]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_training_goes_on_by_itself_to_the_same_bytes(
    rig: Rig, calm: Path, project: Path, fault: Callable[[Rig, Path, str], None]
) -> None:
    snakemake = head(project, "train_all")
    fault(rig, project, training_runs(project))
    assert snakemake.wait(1200) == 0, said(project)
    assert best(project) == best(calm)
    starts = json.loads((project / "results" / "small" / "state" / "progress.json").read_text())["starts"]
    assert len(starts) > 1, "the fault came too late to disturb anything"


def test_a_stopped_training_goes_on_when_its_snakemake_is_gone(rig: Rig, calm: Path, project: Path) -> None:
    snakemake = head(project, "train_all")
    number = training_runs(project)
    os.killpg(snakemake.pid, signal.SIGKILL)
    snakemake.wait()
    run("scancel", "--signal=TERM", number)
    wait_for(
        "the end", lambda: not any(job["state"] in ("PENDING", "RUNNING", "COMPLETING") for job in jobs(project)), 300
    )
    assert best(project) == best(calm)
    assert [job["number"] for job in jobs(project)] == [number]


def test_a_new_snakemake_waits_for_the_jobs_of_a_killed_one(rig: Rig, calm: Path, project: Path) -> None:
    first = head(project, "train_all")
    number = training_runs(project)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert head(project, "train_all").wait(1200) == 0, said(project)
    assert f"{number} (train small, running)" in said(project)
    assert "unlock" not in said(project)
    assert [job["number"] for job in jobs(project)] == [number], "the training was submitted twice"
    assert best(project) == best(calm)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_snakemake_that_is_told_to_end_cancels_its_jobs(rig: Rig, project: Path, number: signal.Signals) -> None:
    snakemake = head(project, "train_all")
    training_runs(project)
    snakemake.send_signal(number)
    assert snakemake.wait(120) != 0
    wait_for("the end", lambda: [job["state"] for job in jobs(project)] == ["CANCELLED"], 60)
    assert "the same command goes on from here" in said(project)
    assert "Traceback" not in said(project)


def test_a_failed_job_says_run_stage_sentence_and_log(rig: Rig, tmp_path: Path) -> None:
    folder = copy_workflow(tmp_path / "project", small_config(), stub=True)
    (folder / "config" / "config.yaml").write_text(
        (folder / "config" / "config.yaml").read_text().replace("petrv2_test", "petrv2_tiny")
    )
    (folder / "fails").write_text("train small")
    assert head(folder, "train_all", "--retries", "0").wait(200) == 1
    assert "train small: train small was told to fail." in said(folder)
    assert "log: logs/small/train.log" in said(folder)


def test_twenty_runs_share_four_gpus(rig: Rig, tmp_path: Path) -> None:
    config = small_config(device="gpu")
    one = config["runs"]["small"] | {"model": "petrv2_tiny"}
    config["runs"] = {f"run{k:02}": one for k in range(20)}
    folder = copy_workflow(tmp_path / "project", config, stub=True)
    (folder / "seconds").write_text("1.0")
    snakemake = head(folder, "train_all", "--set-threads", "train=2", "--set-resources", "train:mem_mb=1000")
    most = 0
    while snakemake.poll() is None:
        most = max(most, sum(job["state"] == "RUNNING" for job in jobs(folder)))
        time.sleep(1)
    assert snakemake.returncode == 0, said(folder)
    assert most == 4
