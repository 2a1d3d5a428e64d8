"""Whether the machine can do what is about to start, judged in a process of its own; and what a run
may ask for.

Asking Paddle means importing it, and it must be the Paddle that the stages will use: run as a
script, this module reads a request as JSON from standard input and ends with code 1 when the
machine cannot do it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petrflow.messages import _

EXPENSIVE = ("baseline", "train", "export", "demo", "predict")
"""Rules that are worth a look at the machine before anything starts."""


@dataclass(frozen=True)
class Starting:
    """A job that is about to start: its rule, its run, and the GPUs it takes."""

    rule: str
    run: str
    gpus: int


def runs_to_judge(jobs: Iterable[Starting], runs: Mapping[str, Any]) -> dict[str, Any]:
    """The runs that the machine is judged for, with their settings.

    Evaluating a large model on a CPU is slow, but it ends; only training takes weeks. So a run that
    does not train is allowed a slow CPU.
    """
    jobs = [job for job in jobs if job.rule in EXPENSIVE]
    training = {job.run for job in jobs if job.rule == "train"}
    judged = {}
    for name in dict.fromkeys(job.run for job in jobs):
        entry = runs[name]
        slow = {} if name in training else {"allow_slow_cpu": True}
        judged[name] = entry | {"schedule": entry["schedule"] | slow}
    return judged


def too_many_gpus(jobs: Iterable[Starting], offered: int | None) -> str | None:
    """A sentence about the first job that asks for more GPUs than the workflow was given; None when
    there is none.
    """
    for job in jobs:
        if offered is not None and job.gpus > offered:
            return _(
                "runs.{run}.schedule.devices asks for {gpus} GPUs and this workflow was given {offered}: add --resources gpu={gpus}, or lower devices. Nothing was started.",
                run=job.run,
                gpus=job.gpus,
                offered=offered,
            )
    return None


def check_machine(
    config: Mapping[str, Any],
    models: Mapping[str, Any],
    python: str = sys.executable,
    making: Iterable[str] | None = None,
    in_short: Callable[[str], None] | None = None,
) -> bool:
    """Print what this machine is good for, and say whether it can do what the config asks for.

    Parameters
    ----------
    config, models : mapping
        The checked config with the runs that are about to start, and the path of each run's model
        file.
    python : str
        Interpreter of the environment in which the stages run.
    making : iterable of str, optional
        Data sets that are about to be made; without it, those that are not there yet.
    in_short : callable, optional
        Is given the whole table where the machine is fit, in place of the terminal.
    """
    paths = {run: str(models[run]) for run in config["runs"]}
    request = {"config": config, "models": paths, "making": None if making is None else list(making)}
    if in_short is None:
        return run_module(Path(__file__), request, python) == 0
    ended = _run(Path(__file__), request, python, stderr=subprocess.PIPE)
    if ended.returncode:
        print(ended.stderr, end="", file=sys.stderr, flush=True)
    else:
        in_short(ended.stderr)
    return ended.returncode == 0


def run_module(script: Path, request: Mapping[str, Any], python: str = sys.executable) -> int:
    """Run a script of this folder with a request as JSON on its standard input; return its exit
    code.
    """
    return _run(script, request, python).returncode


def _run(
    script: Path, request: Mapping[str, Any], python: str, stderr: int | None = None
) -> subprocess.CompletedProcess[str]:
    source = str(Path(__file__).resolve().parents[1] / "src")
    search_path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": search_path, "PYTHONWARNINGS": "ignore"}
    text = json.dumps(request, default=str)
    return subprocess.run([python, str(script)], input=text, text=True, env=environment, check=False, stderr=stderr)


def judge(request: Mapping[str, Any]) -> None:
    """Judge this machine for a request; leave the process with a sentence when it cannot do it."""
    from petrflow.config import load_model
    from petrflow.errors import PetrflowError
    from petrflow.preflight.fitness import main

    try:
        models = {run: load_model(Path(path)) for run, path in request["models"].items()}
        main(request["config"], models, request["making"])
    except PetrflowError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    judge(json.load(sys.stdin))
