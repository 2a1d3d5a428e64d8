"""What the Snakefile's global code and its handlers call: the plan of stages, the terminal, the checks before the first job.

Snakemake 9.27 has no handler between reading the Snakefile and building its DAG, and a result's file name must become a receipt
there: :func:`attach` puts one in, around ``Workflow._prepare_dag``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import locks
import notify
import signals
import slurm
import terminal
from console import Console
from plan import Plan
from preflight import EXPENSIVE, Starting, check_machine, run_module, runs_to_judge, too_many_gpus
from stage import DOORS
from targets import translate

from petrflow.config import load_config, training_settings
from petrflow.errors import PetrflowError
from petrflow.files import sweep_stale, write_json
from petrflow.files.receipts import Contents
from petrflow.machine.gpus import visible_here
from petrflow.messages import _
from petrflow.preflight import mistakes

CAPTIONS = ("demo", "history", "metrics", "parity", "report")
"""Captions of ``snakemake --report`` in workflow/report."""

_SHOWN = (
    ("baseline", "metrics.json", "metrics", "baseline"),
    ("baseline", "table.txt", "metrics", "baseline table"),
    ("train", "history.csv", "history", "training"),
    ("train", "metrics.json", "metrics", "trained"),
    ("export", "parity.json", "parity", "export"),
    ("demo", "demo.mp4", "demo", "demo"),
)


_consoles: list[Console] = []
_hook: dict[str, Any] = {}
"""The section ``notify``. It may hold a token, and Snakemake writes the config that it knows into scripts and records."""


def enter(folder: Path) -> None:
    """Take part in a folder's runs, as early as possible: locks of a killed run go.

    Parameters
    ----------
    folder : Path
        The ``.snakemake`` folder.
    """
    locks.enter(folder)


def read_config(workflow: Any, models: list[Path]) -> dict[str, Any]:
    """Read and check the configuration; leave with all mistakes together when it, or what it names, has any.

    A job's own process reads the file again and looks no further: the main process has looked at everything. The section ``notify`` is
    kept here, out of what is returned.

    Parameters
    ----------
    workflow : Workflow
        Snakemake's.
    models : list of Path
        Folders in which models are looked up by name.
    """
    files, overrides = workflow.configfiles, workflow.config_settings.config
    if workflow.is_main_process:
        document = mistakes.read_all(files, overrides, models)
    else:
        document = load_config(files, overrides)
    if document.mistakes:
        sys.exit(mistakes.report(document.mistakes))
    _hook.update(document.values.pop("notify"))
    return document.values


def plan_stages(config: Mapping[str, Any], models: Mapping[str, Path], save: bool) -> Plan:
    """Make the plan of a configuration's stages.

    Parameters
    ----------
    config, models
        As :class:`plan.Plan` takes them.
    save : bool
        Put back results whose replacement was killed: for the main process, and not for jobs.
    """
    contents = Contents(Path("results/.contents.json"))
    plan = Plan(config, models, contents)
    for stage in plan.all():  # also those that nobody asks for now: their mistakes are said now
        if save and stage.folder.parent.is_dir():
            _put_back(stage.folder)
    return plan


def _put_back(folder: Path) -> None:
    """Put back a result whose replacement was killed between two renames."""
    if not folder.exists():
        sweep_stale(folder.parent)


def attach(workflow: Any, plan: Plan) -> None:
    """Connect a plan to Snakemake's main process: its terminal, the signals it gets, and the targets it was given."""
    from snakemake.logging import logger
    from snakemake.settings.enums import RerunTrigger

    console = Console(plan, _hook)
    console.enter(logger)
    _consoles.append(console)
    if terminal.wanted(workflow):
        console.terminal = terminal.Terminal(console.stage_of)
        console.terminal.enter(logger)

    def asked_to_stop(number: int) -> None:
        console.asked_to_stop()
        # Snakemake waits for a cluster's jobs when it is told to end; Ctrl-C cancels them.
        if number != signal.SIGINT and not workflow.local_exec:
            os.kill(os.getpid(), signal.SIGINT)

    signals.pass_signals_on(asked_to_stop)
    _quote_interpreter()
    prepare: Callable[..., Any] = workflow._prepare_dag

    def prepare_translated(*arguments: Any, **options: Any) -> Any:
        given = workflow.dag_settings
        rules = {rule.name for rule in workflow.rules}
        try:
            wanted = translate(plan, given.targets, given.forcerun, rules, given.forceall)
            until, omit_from = (
                set(translate(plan, names, (), rules).targets) for names in (given.until, given.omit_from)
            )
        except PetrflowError as error:
            sys.exit(str(error))
        plan.save_contents()  # nothing was wrong with what was asked for
        if wanted.runs and not workflow.dryrun and not workflow.local_exec:
            slurm.wait_for_earlier_jobs(Path.cwd())
            wanted = translate(plan, given.targets, given.forcerun, rules, given.forceall)
        plan.runs = wanted.runs
        workflow.dag_settings = dataclasses.replace(
            given,
            targets=wanted.targets,
            forcerun=wanted.forced,
            until=until,
            omit_from=omit_from,
            rerun_triggers={RerunTrigger.MTIME},
        )
        # A receipt is written last and whole: what a killed Snakemake noted of it says nothing.
        return prepare(*arguments, **{**options, "ignore_incomplete": True})

    workflow._prepare_dag = prepare_translated
    _offer_gpus(workflow)


def _offer_gpus(workflow: Any) -> None:
    """Give the workflow the GPUs that can be seen here, where nobody said how many; one where there is none, so that two runs
    that want one do not share a CPU.
    """
    from snakemake.resources import Resource

    if workflow.local_exec and "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", Resource("gpu", max(1, len(visible_here()))))


def _quote_interpreter() -> None:
    """Let rules run where the interpreter's path has a space: Snakemake 9.27 puts it into a shell command as it is."""
    if shlex.quote(sys.executable) == sys.executable:
        return
    from snakemake.script import PythonScript

    execute: Callable[..., Any] = PythonScript._execute_cmd

    def execute_quoted(self: Any, command: str, **values: Any) -> Any:
        if values.get("py_exec") == sys.executable:
            values["py_exec"] = shlex.quote(sys.executable)
        return execute(self, command, **values)

    PythonScript._execute_cmd = execute_quoted


def report_inputs(plan: Plan, captions: Mapping[str, Any]) -> list[Any]:
    """Results that are there, marked for ``snakemake --report`` with their caption, category and label."""
    from snakemake.io import report

    found = [
        (plan.stage(name, run).folder / file, caption, run, label)
        for run in plan.config["runs"]
        for name, file, caption, label in _SHOWN
    ]
    found.append((plan.stage("report", "report").folder / "index.html", "report", "summary", "all runs"))
    return [
        report(str(path), caption=captions[caption], category=category, labels={"stage": label})
        for path, caption, category, label in found
        if path.exists()
    ]


def report_arguments(plan: Plan) -> dict[str, Any]:
    """What the page over all runs is written from."""
    runs = {
        name: {"dataset": entry["dataset"], "model": entry["model"], "schedule": training_settings(entry)}
        for name, entry in plan.config["runs"].items()
    }
    path = plan.stage("report", "report").folder / "index.html"
    return {"runs": runs, "notes": {}, "path": path, "price_per_hour": plan.config["price_per_hour"]}


def before_first_job(workflow: Any, plan: Plan, models: Mapping[str, Path], gpus: Callable[[Any], int]) -> None:
    """Look at the machine before jobs start on it; leave with a sentence when it cannot do them.

    Also leave the plan in ``results/plan.json``, from which ``make status`` tells what is to come.
    """
    if workflow.is_main_process:
        _save_plan(plan)
        if sentence := notify.fault_of(_hook):
            print(_("Nobody will be told how this ends: {sentence}", sentence=sentence), file=sys.stderr, flush=True)
    if plan.config["spot"] != "none" and workflow.local_exec:
        from petrflow.machine.notices import Notices, watch  # not where nobody asks for it: a no-op counts milliseconds

        watch(Notices(plan.config["spot"]), _machine_goes)
    jobs = [job for job in workflow.dag.needrun_jobs() if job.rule.name in EXPENSIVE]
    if not jobs or not workflow.local_exec:
        return
    starting = [Starting(job.rule.name, job.wildcards.run, gpus(job.wildcards)) for job in jobs]
    offered = workflow.global_resources.get("gpu")
    if sentence := too_many_gpus(starting, None if offered is None else offered.value):
        sys.exit(sentence)
    runs = runs_to_judge(starting, plan.config["runs"])
    python = _python_of(workflow, jobs[0])
    making = [job.wildcards.dataset for job in workflow.dag.needrun_jobs() if job.rule.name in DOORS]
    if not check_machine({**plan.config, "runs": runs}, models, python, making, _shown_in_short()):
        sys.exit(_("Nothing was started."))


def _machine_goes(notice: str) -> None:
    """Stop as on SIGTERM, since the cloud takes this machine away."""
    print(_("\nThe cloud takes this machine away ({notice}).", notice=notice), file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _shown_in_short() -> Callable[[str], None] | None:
    """What writes the table about the machine in short, where a terminal is shown."""
    shown = next((console.terminal for console in _consoles if console.terminal is not None), None)
    return None if shown is None else lambda text: shown.say(terminal.set_up_in_short(text))


def _save_plan(plan: Plan) -> None:
    stages = [
        {
            "stage": stage.name,
            "subject": stage.subject,
            "fingerprint": stage.fingerprint,
            "seconds": stage.past_seconds(),
        }
        for stage in sorted(plan.runs or (), key=lambda stage: stage.title)
        if stage.name != "weights"  # its status is with the weights
    ]
    record = {"began": time.time(), "price_per_hour": plan.config["price_per_hour"], "stages": stages}
    with contextlib.suppress(PetrflowError, OSError):  # only `make status` reads it
        write_json(Path("results/plan.json"), record)


def after_failure(workflow: Any, plan: Plan) -> None:
    """Write the page over all runs from what there is, where it was asked for: one failed run does not take it from the others."""
    jobs = [job for job in workflow.dag.jobs if job.rule.name == "report"]
    made = any(stage.folder.is_dir() for stage in plan.of_all_runs())
    if jobs and made:
        notes = plan.notes()
        for end in (end for console in _consoles for end in console.ends):
            if end.stage is not None and end.stage.subject in notes:
                what = "was stopped" if end.stopped else f"failed: {end.sentence}"
                notes[end.stage.subject].insert(0, f"{end.stage.name} {what}")
        request = {**report_arguments(plan), "notes": notes}
        run_module(Path(__file__).with_name("page.py"), request, _python_of(workflow, jobs[0]))


def _python_of(workflow: Any, job: Any) -> str:
    """Interpreter of the environment in which a job's script runs."""
    uses_conda = "conda" in {str(method.name).lower() for method in workflow.deployment_settings.deployment_method}
    return f"{job.conda_env.address}/bin/python" if uses_conda and job.conda_env else sys.executable
