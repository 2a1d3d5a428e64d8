"""What this machine is good for: one table before anything expensive, with what is wrong and what
to do about it.

``petrflow.machine.hardware`` and ``petrflow.machine.device`` ask; here the answers are judged, so
that the judgement is tested on recorded ones.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from petrflow.config import with_defaults, with_model_defaults
from petrflow.config.network import parameter_count
from petrflow.errors import PetrflowError
from petrflow.files import human_bytes
from petrflow.files.disk import GIGABYTE
from petrflow.machine.device import (
    GPU_DOCS,
    LARGE_MODEL_PARAMETERS,
    PaddleAnswer,
    ask_paddle,
    check_paddle_version,
    gpu_problem,
    refuse_slow_cpu,
)
from petrflow.machine.hardware import Gpu, Machine, SmiAnswer, ask_machine, ask_nvidia_smi
from petrflow.messages import _
from petrflow.sources.needs import disk_need, is_made, samples_of

# Linux drivers from which on CUDA's minor-version compatibility holds.
OLDEST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
# Bytes under results/ a number of the model: checkpoints of weights and the optimizer's two
# moments, best and last model, two exports.
BYTES_A_PARAMETER = 50
# Bytes of a run's tables, curves, pictures and video.
RUN_BYTES = 200_000_000
ADVISED_GPU_BYTES = 15 * GIGABYTE


@dataclass(frozen=True)
class Row:
    """One line of the table. ``verdict`` is 'ok', 'note' or 'wrong'."""

    subject: str
    found: str
    verdict: str = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class RunPlan:
    """What a run asks of the machine.

    Attributes
    ----------
    schedule, model : the run's schedule and model file, with defaults
    samples : samples a pass
    """

    schedule: Mapping[str, Any]
    model: Mapping[str, Any]
    samples: int

    @property
    def parameters(self) -> int:
        """Numbers that the model holds."""
        return parameter_count(self.model)


@dataclass(frozen=True)
class Plan:
    """What is about to happen on this machine: runs by name, and the data sets that are about to be
    made.
    """

    runs: Mapping[str, RunPlan]
    making: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def plan_of(config: Mapping[str, Any], models: Mapping[str, Any], making: Iterable[str] | None = None) -> Plan:
    """Make the plan of a configuration.

    Parameters
    ----------
    config : mapping
        The checked configuration with the runs that are about to start.
    models : mapping
        Run -> checked model file.
    making : names of data sets, optional
        Those that are about to be made; without it, those that are not there yet.
    """
    datasets = config["datasets"]
    names = [name for name in datasets if not is_made(Path("data", name))] if making is None else list(making)
    runs = {
        name: RunPlan(entry["schedule"], with_model_defaults(models[name]), samples_of(datasets[entry["dataset"]]))
        for name, entry in config["runs"].items()
    }
    return Plan(runs, {name: datasets[name] for name in names})


# ------------------------------------------------------------------------------------------------------------------ judgement


def judge(plan: Plan, paddle: PaddleAnswer, smi: SmiAnswer, machine: Machine) -> list[Row]:
    """Judge a machine for a plan.

    Parameters
    ----------
    plan : what is about to happen on it
    paddle, smi, machine : recorded or fresh answers
    """
    return [
        _python_row(machine),
        _paddle_row(paddle),
        *_gpu_rows(plan, paddle, smi),
        *_run_rows(plan, paddle, machine),
        *_host_rows(plan, machine),
        *_disk_rows(plan, machine),
        _clock_row(machine),
    ]


def _python_row(machine: Machine) -> Row:
    if machine.python.split(".")[:2] in (["3", "11"], ["3", "12"], ["3", "13"]):
        return Row("Python", machine.python)
    return Row(
        "Python",
        machine.python,
        "wrong",
        _(
            "petrflow needs Python 3.11, 3.12 or 3.13: `make run` finds or brings one, or use the environments in envs/."
        ),
    )


def _paddle_row(paddle: PaddleAnswer) -> Row:
    build = f"CUDA {paddle.cuda_build}" if paddle.cuda_build else _("CPU build")
    try:
        warning = check_paddle_version(paddle.version)
    except PetrflowError as error:
        return Row("Paddle", paddle.version or _("not installed"), "wrong", str(error))
    return Row("Paddle", f"{paddle.version}, {build}", "note" if warning else "ok", warning)


def _wants_gpu(plan: Plan) -> str:
    devices = {run.schedule["device"] for run in plan.runs.values()}
    return "gpu" if "gpu" in devices else "auto" if "auto" in devices else "cpu"


def _gpu_rows(plan: Plan, paddle: PaddleAnswer, smi: SmiAnswer) -> list[Row]:
    wanted = _wants_gpu(plan)
    if not smi.gpus:
        return [Row("GPU", _("none"), "wrong" if wanted == "gpu" else "ok" if wanted == "cpu" else "note", smi.problem)]
    rows = [_driver_row(paddle, smi)]
    for gpu in smi.gpus:
        found = gpu.name + (f", {human_bytes(gpu.memory_total)}" if gpu.memory_total else "")
        found += _(" ({free} free)", free=human_bytes(gpu.memory_free)) if gpu.memory_free is not None else ""
        found += (
            _(", capability {major}.{minor}", major=gpu.capability[0], minor=gpu.capability[1])
            if gpu.capability
            else ""
        )
        rows.append(Row(f"GPU {gpu.index}", found, *_gpu_verdict(gpu, paddle)))
    if smi.problem:
        rows.append(Row("GPU", _("one does not answer"), "wrong", smi.problem))
    problem = gpu_problem(paddle)
    if problem:
        rows.append(Row(_("Paddle on GPU"), _("cannot use it"), "wrong" if wanted == "gpu" else "note", problem))
    return rows


def _gpu_verdict(gpu: Gpu, paddle: PaddleAnswer) -> tuple[str, str]:
    if gpu.capability and paddle.architectures and paddle.cuda_build:
        problem = gpu_problem(
            PaddleAnswer(paddle.version, paddle.cuda_build, 1, (gpu.name,), (gpu.capability,), paddle.architectures)
        )
        if problem:
            return "wrong", problem
    if gpu.memory_total is not None and gpu.memory_total < ADVISED_GPU_BYTES:
        return (
            "note",
            _("16 GB or more are advised for the published model with batch 2: lower batch_size if memory runs out."),
        )
    if gpu.memory_total and gpu.memory_free is not None and gpu.memory_free < gpu.memory_total // 2:
        return "note", _("another program holds more than half of its memory: `nvidia-smi` shows which.")
    return "ok", ""


def _driver_row(paddle: PaddleAnswer, smi: SmiAnswer) -> Row:
    driver = smi.gpus[0].driver
    major = int(paddle.cuda_build.split(".")[0]) if paddle.cuda_build[:1].isdigit() else 0
    numbers = [int(part) for part in re.findall(r"\d+", driver)[:2]]
    needed = OLDEST_DRIVER.get(major)
    if needed and numbers and tuple(numbers) < needed:
        oldest = f"{needed[0]}.{needed[1]}"
        return Row(
            _("Driver"),
            driver,
            "wrong",
            _(
                "Paddle's CUDA {cuda_build} needs driver {oldest} or newer: update it, or install a build for an older CUDA ({gpu_docs}).",
                cuda_build=paddle.cuda_build,
                oldest=oldest,
                gpu_docs=GPU_DOCS,
            ),
        )
    return Row(_("Driver"), driver)


def _run_rows(plan: Plan, paddle: PaddleAnswer, machine: Machine) -> list[Row]:
    rows = []
    problem = gpu_problem(paddle)
    for name, run in plan.runs.items():
        requested = run.schedule["device"]
        if requested == "gpu" and problem:
            rows.append(
                Row(
                    _("run {name}", name=name),
                    "device: gpu",
                    "wrong",
                    _("{problem} Or set `device: cpu`.", problem=problem),
                )
            )
            continue
        device = "cpu" if requested == "cpu" or (requested == "auto" and problem) else "gpu"
        height, width = run.model["input"]["image_size"]
        try:
            refuse_slow_cpu(
                device, requested, parameters=run.parameters, epochs=run.schedule["epochs"], samples=run.samples,
                image_size=(height, width), cores=machine.cores, allow=run.schedule["allow_slow_cpu"],
            )  # fmt: skip
        except PetrflowError as error:
            rows.append(
                Row(
                    _("run {name}", name=name),
                    _("device: {requested}, on the CPU", requested=requested),
                    "wrong",
                    str(error),
                )
            )
            continue
        slow = device == "cpu" and run.parameters >= LARGE_MODEL_PARAMETERS
        found = _("device: {requested}, on the {device}", requested=requested, device=device.upper())
        rows.append(
            Row(
                _("run {name}", name=name), found, "note" if slow else "ok", _("a large model on a CPU") if slow else ""
            )
        )
    return rows


def _host_rows(plan: Plan, machine: Machine) -> list[Row]:
    workers = max((run.schedule["num_workers"] for run in plan.runs.values()), default=0)
    remedy = _workers_remedy(workers, machine.cores)
    rows = [Row("CPU", _("{cores} cores", cores=machine.cores), "note" if remedy else "ok", remedy)]
    memory = min(machine.memory_total, machine.memory_limit or machine.memory_total)
    limited = _(" (the container's limit)") if memory < machine.memory_total else ""
    small = _("6 GB or more are advised: lower batch_size and num_workers.") if memory < 6 * GIGABYTE else ""
    rows.append(Row(_("Memory"), human_bytes(memory) + limited, "note" if small else "ok", small))
    if machine.shared_memory is not None:
        needed = max((_shared_bytes(run) for run in plan.runs.values()), default=0)
        short = machine.shared_memory < needed
        remedy = _(
            "loader workers may need {needed}: start the container with `--shm-size={size}g`, or set num_workers: 0.",
            needed=human_bytes(needed),
            size=max(1, round(needed * 2 / 2**30)),
        )
        rows.append(
            Row("/dev/shm", human_bytes(machine.shared_memory), "note" if short else "ok", remedy if short else "")
        )
    return rows


def _workers_remedy(workers: int, cores: int) -> str:
    return (
        _(
            "num_workers is {workers}: more than {cores} workers only get in each other's way.",
            workers=workers,
            cores=cores,
        )
        if workers > cores
        else ""
    )


def _shared_bytes(run: RunPlan) -> int:
    """Bytes of batches that workers may hold ready: two a worker, 12 float32 images a sample."""
    height, width = run.model["input"]["image_size"]
    return int(run.schedule["num_workers"] * 2 * run.schedule["batch_size"] * 12 * 3 * height * width * 4)


def _disk_rows(plan: Plan, machine: Machine) -> list[Row]:
    """One row a folder: what the data sets that are about to be made still need, and what the runs
    leave.
    """
    rows = []
    for folder, free in machine.free.items():
        if Path(folder).name == "data":
            needs = {name: disk_need(entry, Path(folder, name)) for name, entry in plan.making.items()}
        else:
            needs = {name: run.parameters * BYTES_A_PARAMETER + RUN_BYTES for name, run in plan.runs.items()}
        needed = sum(needs.values())
        what = ", ".join(f"{name} {human_bytes(need)}" for name, need in needs.items() if need)
        short = free < needed
        remedy = _(
            "about {needed} are needed ({what}): free {missing}, or put {name}/ on a larger disk (a link will do).",
            needed=human_bytes(needed),
            what=what,
            missing=human_bytes(needed - free),
            name=Path(folder).name,
        )
        found = _("{free} free, {needed} needed", free=human_bytes(free), needed=human_bytes(needed))
        rows.append(Row(_("Disk {folder}", folder=folder), found, "wrong" if short else "ok", remedy if short else ""))
    return rows


def _clock_row(machine: Machine) -> Row:
    found = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(machine.now))
    if machine.now < machine.newest_file - 86400:
        return Row(
            _("Clock"),
            found,
            "wrong",
            _(
                "it is behind petrflow's own files: certificates will look invalid; set the clock (`sudo timedatectl set-ntp true`)."
            ),
        )
    return Row(_("Clock"), found)


# ------------------------------------------------------------------------------------------------------------------ the table


def table(rows: Iterable[Row]) -> str:
    """The rows as text: subject, verdict, what was found, and the remedy on a line of its own."""
    rows = list(rows)
    width = max((len(row.subject) for row in rows), default=0)
    signs = {"ok": _("ok   "), "note": _("note "), "wrong": _("WRONG")}
    lines = []
    for row in rows:
        lines.append(f"{row.subject:<{width}}  {signs[row.verdict]}  {row.found}")
        if row.remedy:
            lines.append(f"{'':<{width}}         {row.remedy}")
    return "\n".join(lines)


def preflight(plan: Plan, folders: Iterable[Path] = (Path("data"), Path("results"))) -> list[Row]:
    """Ask this machine and judge it for a plan."""
    return judge(plan, ask_paddle(), ask_nvidia_smi(), ask_machine(folders))


def require(rows: Iterable[Row]) -> None:
    """Raise with the rows that are wrong, if any are."""
    wrong = [row for row in rows if row.verdict == "wrong"]
    if wrong:
        raise PetrflowError(_("This machine cannot do what the config asks for:\n") + table(wrong))


def main(config: Mapping[str, Any], models: Mapping[str, Any], making: Iterable[str] | None = None) -> None:
    """Print the table for what :func:`plan_of` makes of a configuration; raise when something is
    wrong.
    """
    rows = preflight(plan_of(config, models, making))
    print(table(rows), file=sys.stderr, flush=True)
    require(rows)


def gate(
    schedule: Mapping[str, Any], model_config: Mapping[str, Any], results: Path, samples: int | None = None
) -> None:
    """Look at the machine before a run's expensive stages, where there is something to lose: a GPU
    asked for, or a large model.

    The workflow prints the whole table before it starts; this is for jobs that a cluster runs on
    another machine.

    Parameters
    ----------
    schedule, model_config : the run's schedule and parsed model file
    results : folder that the stage writes under
    samples : samples a pass when the stage trains, None when it only evaluates: slow, but it ends

    Raises
    ------
    PetrflowError
        the machine cannot do it, or ``auto`` would start weeks of work on a CPU
    """
    run = RunPlan(with_defaults("schedule", schedule), with_model_defaults(model_config), samples or 0)
    if run.schedule["device"] != "gpu" and run.parameters < LARGE_MODEL_PARAMETERS:
        return
    if samples is None:
        run = replace(run, schedule={**run.schedule, "allow_slow_cpu": True})
    require(preflight(Plan({"here": run}), [results]))
