"""Whatever is edited, fails or is killed: a run that ever had a best model has one, whole, with a record of where it came from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.workflow import SNAKEMAKE, copy_workflow, planned, read_config, run_snakemake, write_config
from tests.workflow.test_whole_dag import small_config, small_project

CHAIN: dict[str, Any] = {
    "datasets": {"streets": {"kind": "synthetic", "scenes": 2, "seed": 0}},
    "runs": {
        "first": {"dataset": "streets", "model": "petrv2_tiny", "schedule": {"epochs": 2}},
        "second": {"dataset": "streets", "model": "petrv2_tiny", "weights": {"run": "first"}, "schedule": {"epochs": 2}},
    },
}  # fmt: skip
STAGES = ("synthetic streets", "annotate streets", "baseline first", "train first", "export first", "train second")


def best_models(folder: Path) -> dict[str, str]:
    """SHA-256 of each run's best model, after a look at the record beside it."""
    found = {}
    for run in CHAIN["runs"]:
        train = folder / "results" / run / "train"
        if train.exists():
            content = (train / "best_model" / "model.pdparams").read_bytes()
            assert json.loads(content)["made"] == json.loads((train / "metrics.json").read_bytes())["made"], (
                "of one piece"
            )
            record = json.loads((train / "provenance.json").read_bytes())
            assert record["settings"], "the record says which settings it came from"
            found[run] = hashlib.sha256(content).hexdigest()
    return found


def real_models(folder: Path) -> dict[str, str]:
    """As :func:`best_models`, of the real stages: the weights can be loaded."""
    from petrflow.weights.pdparams import load_pdparams

    found = {}
    for train in sorted(folder.glob("results/*/train")):
        path = train / "best_model" / "model.pdparams"
        assert len(load_pdparams(path)) > 50
        assert json.loads((train / "provenance.json").read_bytes())["settings"]["epochs"] > 0
        found[train.parent.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def sweep(folder: Path) -> None:
    """Put back what a kill between two renames left under another name, as the next start does."""
    run_snakemake(folder, "-n", check=False)


class Steps:
    """Random things that happen to a folder of results."""

    def __init__(self, folder: Path, seed: int, longest: float = 12.0) -> None:
        self.folder = folder
        self.draw = random.Random(seed)
        self.longest = longest

    def edit(self) -> None:
        """Another value of a setting, sometimes one that was there before, sometimes one that cannot be."""
        config = read_config(self.folder)
        run = config["runs"][self.draw.choice(sorted(config["runs"]))]
        choice = self.draw.randrange(6)
        if choice == 0:
            config["datasets"]["streets"]["seed"] = self.draw.randrange(2)
        elif choice == 1:
            run["schedule"]["learning_rate"] = self.draw.choice([1.0e-4, 2.0e-4])
        elif choice == 2:
            run["schedule"]["epochs"] = self.draw.choice([2, 3])
        elif choice == 3:
            run["weights"] = self.draw.choice([None, "nowhere.pdparams"]) if run.get("weights") is None else None
        elif choice == 4:
            run["schedule"]["num_workers"] = self.draw.randrange(3)
        else:
            run["demo"] = {"score_threshold": self.draw.choice([0.2, 0.4])}
        write_config(self.folder, config)

    def fail(self) -> None:
        """A run in which a stage fails half way."""
        (self.folder / "fails").write_text(self.draw.choice(STAGES))
        run_snakemake(self.folder, "all", check=False, timeout=1800)
        (self.folder / "fails").unlink()

    def forbid(self) -> None:
        """A run with a setting that cannot be, found out before the first job or by the stage itself; then the old ones again."""
        old = read_config(self.folder)
        config = read_config(self.folder)
        run = config["runs"][self.draw.choice(sorted(config["runs"]))]
        choice = self.draw.randrange(3)
        if choice == 0:
            run["schedule"]["batch_size"] = 64
        elif choice == 1:
            run["demo"] = {"scene": "scene-9999"}
        else:
            run["schedule"] = {**run["schedule"], "learning_rate": 1.0e30, "nan_limit": 0}
        write_config(self.folder, config)
        run_snakemake(self.folder, "all", check=False, timeout=1800)
        write_config(self.folder, old)

    def kill(self) -> None:
        """A run that is killed, or told to stop, at a random moment."""
        number = self.draw.choice([signal.SIGKILL, signal.SIGTERM])
        (self.folder / "seconds").write_text("0.1")
        process = subprocess.Popen(
            [*SNAKEMAKE, "--cores", "2", "all"],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=self.draw.uniform(1.0, self.longest))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait(timeout=60)
        time.sleep(0.2)
        (self.folder / "seconds").unlink()

    def run(self) -> None:
        """A run that is left in peace."""
        run_snakemake(self.folder, "all", check=False, timeout=1800)

    def lose(self) -> None:
        """Records and copies that go when a machine does."""
        for path in self.draw.choice([[".snakemake"], ["data"], ["results/first/export", "results/first/demo"]]):
            subprocess.run(["rm", "-rf", str(self.folder / path)], check=True)


def property_holds(folder: Path, seed: int, steps: int, real: bool = False) -> None:
    """Drive random steps and look at the models after each; in the end a run in peace makes exactly what the config asks for."""
    happening = Steps(folder, seed, 90.0 if real else 12.0)
    kinds = [happening.edit, happening.edit, happening.kill, happening.run, happening.lose]
    kinds.append(happening.forbid if real else happening.fail)
    models = real_models if real else best_models
    ever: set[str] = set(models(folder))
    for number in range(steps):
        step = happening.draw.choice(kinds)
        step()
        if step == happening.kill:
            sweep(folder)
        now = models(folder)
        assert ever <= set(now), f"seed {seed}, step {number} ({step.__name__}): a best model is gone"
        ever |= set(now)
    config = read_config(folder)
    for run in config["runs"].values():
        if isinstance(run.get("weights"), str):
            run["weights"] = None
    write_config(folder, config)
    run_snakemake(folder, "all", timeout=1800)
    assert planned(folder) == set()
    for run in config["runs"]:
        record = json.loads((folder / "results" / run / "train" / "provenance.json").read_text())
        (receipt,) = (folder / "results" / run / "receipts").glob("train-*.json")
        assert record["made_from"]["fingerprint"] == json.loads(receipt.read_text())["fingerprint"]


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_workflow(tmp_path_factory.mktemp("chain") / "project", CHAIN, stub=True)
    run_snakemake(folder, "all")
    return folder


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """A folder in which everything has been made."""
    subprocess.run(["cp", "-a", str(finished_once), str(tmp_path / "project")], check=True)
    return tmp_path / "project"


def test_a_failed_successor_leaves_the_old_result_and_the_page_says_so(finished: Path) -> None:
    before = best_models(finished)
    config = read_config(finished)
    config["runs"]["first"]["schedule"]["learning_rate"] = 3.0e-4
    write_config(finished, config)
    (finished / "fails").write_text("train first")
    said = run_snakemake(finished, "all", check=False)
    assert said.returncode != 0
    assert best_models(finished) == before
    last = said.stderr.strip().splitlines()[-2:]
    assert [line.strip() for line in last] == [
        "train first: train first was told to fail.",
        "log: logs/first/train.log",
    ]
    assert "Error in rule" not in said.stderr
    page = (finished / "results" / "report" / "index.html").read_text()
    assert "train failed: train first was told to fail." in page
    assert "made from other settings than the configuration" in page
    assert "learning_rate 0.0002 -&gt; 0.0003" in page


def test_one_failing_run_does_not_take_the_page_from_the_others(tmp_path: Path) -> None:
    config = {**CHAIN, "runs": {**CHAIN["runs"], "second": {**CHAIN["runs"]["second"], "weights": None}}}
    folder = copy_workflow(tmp_path / "project", config, stub=True)
    (folder / "fails").write_text("train first")
    assert run_snakemake(folder, "all", check=False).returncode != 0
    page = (folder / "results" / "report" / "index.html").read_text()
    assert "train failed: train first was told to fail." in page
    assert (folder / "results" / "second" / "demo" / "demo.mp4").exists()
    (folder / "fails").unlink()
    assert planned(folder) == {"train first", "export first", "demo first", "report all runs"}
    log = folder / "logs" / "first" / "train.log"
    run_snakemake(folder, "train_all")
    assert "told to fail" in log.read_text(), "a log is gone on with"


def test_going_back_to_the_old_settings_after_a_failure_writes_the_page_and_nothing_else(finished: Path) -> None:
    old = read_config(finished)
    config = read_config(finished)
    config["runs"]["first"]["schedule"]["learning_rate"] = 3.0e-4
    write_config(finished, config)
    (finished / "fails").write_text("train first")
    run_snakemake(finished, "all", check=False)
    write_config(finished, old)
    assert planned(finished) == {"report all runs"}, "the page tells of the failure"


def test_a_root_that_was_replaced_by_a_door_that_then_failed_is_not_taken_for_the_old_one(finished: Path) -> None:
    old = read_config(finished)
    write_config(finished, {**old, "datasets": {"streets": {**old["datasets"]["streets"], "seed": 1}}})
    (finished / "fails").write_text("after")
    said = run_snakemake(finished, "results/streets/annotations/val.arrow", check=False)
    assert said.returncode != 0
    (finished / "fails").unlink()
    write_config(finished, old)
    assert planned(finished) == set(), "nobody needs the data"
    assert planned(finished, "data/streets") == {"synthetic streets"}
    changed = {**old, "runs": {**old["runs"], "third": old["runs"]["first"]}}
    write_config(finished, changed)
    assert planned(finished, "results/third/baseline/metrics.json") == {"synthetic streets", "baseline third"}


def test_a_stage_that_is_told_to_stop_ends_in_one_sentence(finished: Path) -> None:
    config = read_config(finished)
    config["runs"]["first"]["schedule"]["learning_rate"] = 3.0e-4
    write_config(finished, config)
    (finished / "seconds").write_text("5")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process = subprocess.Popen(
            [*SNAKEMAKE, "--cores", "2", "train_all"],
            cwd=finished,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        log, deadline = finished / "logs" / "first" / "train.log", time.monotonic() + 60
        size = log.stat().st_size
        while log.stat().st_size == size:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(0.5)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
        assert process.returncode != 0
        assert said.strip().splitlines()[-1] == "Stopped on request (train first); the same command goes on from here."
        assert "Traceback" not in said
        assert "Error" not in said
    account = json.loads((finished / "results" / "first" / "receipts" / ".train.running.json").read_text())
    assert account["starts"] == 3


def test_a_best_model_survives_random_edits_failures_and_kills(finished: Path) -> None:
    property_holds(finished, seed=1, steps=6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_best_model_survives_many_random_edits_failures_and_kills(finished: Path, seed: int) -> None:
    property_holds(finished, seed=100 + seed, steps=25)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_best_model_of_the_real_stages_survives_random_edits_failures_and_kills(tmp_path: Path, seed: int) -> None:
    config = small_config(checkpoint_minutes=0.02)
    config["runs"]["other"] = {**config["runs"]["small"], "weights": {"run": "small"}}
    folder = small_project(tmp_path / "project", config)
    run_snakemake(folder, "all", timeout=1800)
    property_holds(folder, seed=seed, steps=8, real=True)
