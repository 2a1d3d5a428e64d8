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

# Stands for every stage: makes each declared output and leaves the inputs alone.
STUB = """
from pathlib import Path
from rule_job import rule_job

with rule_job(snakemake):
    for output in snakemake.output:
        path = Path(output)
        if path.suffix or path.name.startswith("."):
            path.write_text(f"{snakemake.rule} {dict(snakemake.wildcards)} {dict(snakemake.params)}")
        else:
            path.mkdir(parents=True, exist_ok=True)
            (path / "content").write_text("made")
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
            if script.name != "rule_job.py":
                script.write_text(STUB)
        # Empty stages need no machine to be fit for them.
        guard = folder / "workflow" / "guard.py"
        guard.write_text(guard.read_text() + "\n\ndef check_machine(*_: object) -> bool:\n    return True\n")
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
        connection.send({f"{stage.rule} {stage.subject}" for stage in stages})
    except BaseException as error:
        connection.send(f"{type(error).__name__}: {error}")
    connection.close()


def planned(folder: Path, *arguments: str) -> set[str]:
    """What a dry run would start, as ``{"train first", ...}``.

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
    assert isinstance(answer, set), answer
    return answer


def jobs_run(output: str) -> dict[str, int]:
    """Count finished jobs by rule in Snakemake's output."""
    counts: dict[str, int] = {}
    for rule in re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", output):
        counts[rule] = counts.get(rule, 0) + 1
    return counts
