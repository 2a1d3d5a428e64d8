"""Whole workflows in a folder of their own: copies of the project with or without its real stages."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
SNAKEMAKE = [sys.executable, "-m", "snakemake"]

# Stands for every stage: leaves small files under the names of the real ones, in the way of the real ones: a folder that is replaced
# whole, provenance in it. Where the folder has a file `fails` with the stage's title in it, the stage fails half way; where it has a file
# `seconds`, each of its two halves takes that long.
STUB = """
import json
import time
from pathlib import Path

from rule_job import rule_job

FILES = {
    "annotate": ["train.arrow", "val.arrow"],
    "doctor": ["doctor.json"],
    "baseline": ["metrics.json", "results_nusc.json", "table.txt"],
    "train": ["best_model/model.pdparams", "last_model/model.pdparams", "history.csv", "metrics.json", "visualdl/log"],
    "export": [
        *(f"{graph}.{kind}" for graph in ("model", "features", "boxes") for kind in ("json", "pdiparams")),
        *("deploy.json", "README.md", "runner.py", "parity.json"),
    ],
    "demo": ["demo.mp4", "detections.json", "frames/0000.jpg"],
    "predict": ["detections.parquet", "results_nusc.json", "counts.csv", "viewer/index.html"],
    "prelabel": ["prelabels.zip", "summary.json"],
}


def work(title):
    pause = float(Path("seconds").read_text()) if Path("seconds").exists() else 0.0
    time.sleep(pause)
    if Path("fails").exists() and title in Path("fails").read_text().splitlines():
        raise PetrflowError(f"{title} was told to fail.")


def fill(folder, names, content):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
        work("")


with rule_job(snakemake) as order:
    from petrflow.errors import PetrflowError
    from petrflow.files import atomic_dir, write_atomic
    from petrflow.files.provenance import provenance, stamp
    from petrflow.nuscenes.root import mark_of
    from petrflow.stages import _successor

    given = snakemake.params.arguments
    title = f"{order.stage} {order.subject}"
    # The page over all runs reads metrics.
    figures = {"NDS": 0.5, "mAP": 0.5, "per_class": {}, "ground_truth": []}
    content = json.dumps({"made": f"{title} {order.fingerprint}", "best": figures, "max_relative_difference": {}, **figures})
    kind = order.stage.partition("-")[0]
    if kind in FILES and kind != "train":
        out = given.get("out_dir") or Path("results") / order.subject / order.stage
        with _successor(Path(out), {}, order.settings, order) as (folder, _):
            fill(folder, FILES[kind], content)
            work(title)
    elif order.stage == "train":
        with atomic_dir(Path(given["out_dir"])) as folder:
            with provenance(folder / "provenance.json", {}, order.settings):
                fill(folder, FILES["train"], content)
                work(title)
        stamp(Path(given["out_dir"]) / "provenance.json", order)
    elif "about" in given and order.stage != "annotate":
        with provenance(Path(given["about"]) / "provenance.json", {}, order.settings, order) as record:
            with atomic_dir(Path(given["root"])) as folder:
                version = snakemake.config["datasets"][order.subject]["version"]
                fill(folder, [f"{version}/scene.json", "samples/image.jpg", ".complete.json"], content)
                work(title)
            work("after")
            record.record(root=mark_of(Path(given["root"]), Path(given["about"])))
    else:
        path = Path(given["path"])
        record = path.with_name("provenance.json" if order.stage in ("report", "weights") else f"{order.stage}-provenance.json")
        with provenance(record, {}, order.settings, order):
            work(title)
            write_atomic(path, content)
"""

TWO_RUNS: dict[str, Any] = {
    "datasets": {"streets": {"kind": "synthetic", "scenes": 2, "seed": 0}, "roads": {"kind": "synthetic", "scenes": 2, "seed": 1}},
    "runs": {
        "first": {"dataset": "streets", "model": "petrv2_tiny", "schedule": {"epochs": 2, "learning_rate": 1.0e-4}},
        "second": {"dataset": "roads", "model": "petrv2_vovnet_gridmask_p4_800x320", "schedule": {"epochs": 2}},
    },
}  # fmt: skip


def copy_workflow(folder: Path, config: dict[str, Any], stub: bool = False) -> Path:
    """Put the workflow into a folder, with a config, and with empty stages when `stub` says so. The library stays where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("workflow", "config", "profiles", "envs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(REPOSITORY / "Snakefile", folder / "Snakefile")
    for name in ("src", "resources"):
        (folder / name).symlink_to(REPOSITORY / name)
    write_config(folder, config)
    if stub:
        for script in (folder / "workflow" / "scripts").glob("*.py"):
            if script.name not in ("rule_job.py", "preflight.py"):
                script.write_text(STUB)
        # Empty stages need no machine to be fit for them, and their page holds nothing.
        hooks = folder / "workflow" / "hooks.py"
        hooks.write_text(hooks.read_text() + "\n\ndef check_machine(*_: object) -> bool:\n    return True\n")
    return folder


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write a folder's config/config.yaml."""
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config/config.yaml."""
    content: dict[str, Any] = yaml.safe_load((folder / "config" / "config.yaml").read_text())
    return content


def run_snakemake(
    folder: Path, *arguments: str, check: bool = True, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a folder as a person would."""
    finished = subprocess.run(
        [*SNAKEMAKE, "--cores", "2", *arguments],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    if check and finished.returncode:
        raise AssertionError(f"{finished.args} ended with {finished.returncode}\n{finished.stdout}\n{finished.stderr}")
    return finished


def _plan_into(folder: Path, arguments: tuple[str, ...], connection: Any) -> None:
    os.chdir(folder)
    sys.path.insert(0, str(folder / "workflow"))
    import left

    try:
        stages = left.dry_run(arguments)
        connection.send({f"{stage.rule} {stage.subject}": stage.reason for stage in stages})
    except BaseException as error:
        connection.send(f"{type(error).__name__}: {error}")
    connection.close()


def planned(folder: Path, *arguments: str) -> set[str]:
    """What a dry run would start, as ``{"train first", ...}``."""
    return set(reasons(folder, *arguments))


def reasons(folder: Path, *arguments: str) -> dict[str, str]:
    """What a dry run would start, and why, as ``{"train first": "batch_size 4 -> 64", ...}``.

    In a forked process: it has Snakemake imported already, and leaves this one as it is.
    """
    import snakemake.cli  # noqa: F401

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_plan_into, args=(folder, arguments, sender))
    process.start()
    sender.close()
    answer: Any = "the process ended without an answer"
    with contextlib.suppress(EOFError):
        answer = receiver.recv()
    process.join()
    assert isinstance(answer, dict), answer
    return answer


def jobs_run(output: str) -> dict[str, int]:
    """Count finished jobs by rule in Snakemake's output."""
    counts: dict[str, int] = {}
    for rule in re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", output):
        counts[rule] = counts.get(rule, 0) + 1
    return counts
