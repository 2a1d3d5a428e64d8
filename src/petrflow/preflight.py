"""What this machine is good for: one table before anything expensive, with what is wrong and what to do about it.

`petrflow.machine.hardware` and `petrflow.machine.device` ask; here the answers are judged, so that the judgement is tested on recorded ones.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from petrflow.sources.needs import disk_need, samples_of

# Linux drivers from which on CUDA's minor-version compatibility holds.
OLDEST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
RESULTS_BYTES = 5 * GIGABYTE
ADVISED_GPU_BYTES = 15 * GIGABYTE


@dataclass(frozen=True)
class Row:
    """One line of the table. `verdict` is 'ok', 'note' or 'wrong'."""

    subject: str
    found: str
    verdict: str = "ok"
    remedy: str = ""


# ------------------------------------------------------------------------------------------------------------------ judgement


def judge(
    config: Mapping[str, Any], models: Mapping[str, Any], paddle: PaddleAnswer, smi: SmiAnswer, machine: Machine
) -> list[Row]:
    """Judge a machine for a configuration.

    Parameters
    ----------
    config : the checked configuration
    models : run -> parsed model file
    paddle, smi, machine : recorded or fresh answers
    """
    return [
        _python_row(machine),
        _paddle_row(paddle),
        *_gpu_rows(config, paddle, smi),
        *_run_rows(config, models, paddle, machine),
        *_host_rows(config, models, machine),
        *_disk_rows(config, machine),
        _clock_row(machine),
    ]


def _python_row(machine: Machine) -> Row:
    if machine.python.split(".")[:2] in (["3", "11"], ["3", "12"], ["3", "13"]):
        return Row("Python", machine.python)
    return Row(
        "Python",
        machine.python,
        "wrong",
        "petrflow needs Python 3.11, 3.12 or 3.13: `make run` finds or brings one, or use the environments in envs/.",
    )


def _paddle_row(paddle: PaddleAnswer) -> Row:
    build = f"CUDA {paddle.cuda_build}" if paddle.cuda_build else "CPU build"
    try:
        warning = check_paddle_version(paddle.version)
    except PetrflowError as error:
        return Row("Paddle", paddle.version or "not installed", "wrong", str(error))
    return Row("Paddle", f"{paddle.version}, {build}", "note" if warning else "ok", warning)


def _wants_gpu(config: Mapping[str, Any]) -> str:
    devices = {entry.get("schedule", {}).get("device", "auto") for entry in config.get("runs", {}).values()}
    return "gpu" if "gpu" in devices else "auto" if "auto" in devices else "cpu"


def _gpu_rows(config: Mapping[str, Any], paddle: PaddleAnswer, smi: SmiAnswer) -> list[Row]:
    wanted = _wants_gpu(config)
    if not smi.gpus:
        return [Row("GPU", "none", "wrong" if wanted == "gpu" else "ok" if wanted == "cpu" else "note", smi.problem)]
    rows = [_driver_row(paddle, smi)]
    for gpu in smi.gpus:
        found = gpu.name + (f", {human_bytes(gpu.memory_total)}" if gpu.memory_total else "")
        found += f" ({human_bytes(gpu.memory_free)} free)" if gpu.memory_free is not None else ""
        found += f", capability {gpu.capability[0]}.{gpu.capability[1]}" if gpu.capability else ""
        rows.append(Row(f"GPU {gpu.index}", found, *_gpu_verdict(gpu, paddle)))
    if smi.problem:
        rows.append(Row("GPU", "one does not answer", "wrong", smi.problem))
    problem = gpu_problem(paddle)
    if problem:
        rows.append(Row("Paddle on GPU", "cannot use it", "wrong" if wanted == "gpu" else "note", problem))
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
            "16 GB or more are advised for the published model with batch 2: lower batch_size if memory runs out.",
        )
    if gpu.memory_total and gpu.memory_free is not None and gpu.memory_free < gpu.memory_total // 2:
        return "note", "another program holds more than half of its memory: `nvidia-smi` shows which."
    return "ok", ""


def _driver_row(paddle: PaddleAnswer, smi: SmiAnswer) -> Row:
    driver = smi.gpus[0].driver
    major = int(paddle.cuda_build.split(".")[0]) if paddle.cuda_build[:1].isdigit() else 0
    numbers = [int(part) for part in re.findall(r"\d+", driver)[:2]]
    needed = OLDEST_DRIVER.get(major)
    if needed and numbers and tuple(numbers) < needed:
        oldest = f"{needed[0]}.{needed[1]}"
        return Row(
            "Driver",
            driver,
            "wrong",
            f"Paddle's CUDA {paddle.cuda_build} needs driver {oldest} or newer: update it, or install a build for an older CUDA ({GPU_DOCS}).",
        )
    return Row("Driver", driver)


def parameters_of(model: Mapping[str, Any]) -> int:
    """Rough number of weights of a model file, by its backbone: enough to tell the published model from a small one."""
    return 85_170_000 if "V-99" in str(model) else 10_000_000


def _run_rows(
    config: Mapping[str, Any], models: Mapping[str, Any], paddle: PaddleAnswer, machine: Machine
) -> list[Row]:
    rows = []
    problem = gpu_problem(paddle)
    for name, entry in config.get("runs", {}).items():
        schedule = entry.get("schedule", {})
        requested = schedule.get("device", "auto")
        if requested == "gpu" and problem:
            rows.append(Row(f"run {name}", "device: gpu", "wrong", f"{problem} Or set `device: cpu`."))
            continue
        device = "cpu" if requested == "cpu" or (requested == "auto" and problem) else "gpu"
        parameters = parameters_of(models.get(name, {}))
        samples = int(entry.get("samples") or samples_of(config.get("datasets", {}).get(entry.get("dataset"), {})))
        image_size = (models.get(name, {}).get("input") or {}).get("image_size", (320, 800))
        try:
            refuse_slow_cpu(
                device, requested, parameters=parameters, epochs=int(schedule.get("epochs", 24)), samples=samples,
                image_size=(int(image_size[0]), int(image_size[1])), cores=machine.cores, allow=bool(schedule.get("allow_slow_cpu")),
            )  # fmt: skip
        except PetrflowError as error:
            rows.append(Row(f"run {name}", f"device: {requested}, on the CPU", "wrong", str(error)))
            continue
        slow = device == "cpu" and parameters >= LARGE_MODEL_PARAMETERS
        rows.append(
            Row(
                f"run {name}",
                f"device: {requested}, on the {device.upper()}",
                "note" if slow else "ok",
                "a large model on a CPU" if slow else "",
            )
        )
    return rows


def _host_rows(config: Mapping[str, Any], models: Mapping[str, Any], machine: Machine) -> list[Row]:
    workers = max(
        (int(entry.get("schedule", {}).get("num_workers", 0)) for entry in config.get("runs", {}).values()), default=0
    )
    rows = [
        Row(
            "CPU",
            f"{machine.cores} cores",
            "note" if workers > machine.cores else "ok",
            _workers_remedy(workers, machine.cores),
        )
    ]
    memory = min(machine.memory_total, machine.memory_limit or machine.memory_total)
    limited = " (the container's limit)" if memory < machine.memory_total else ""
    small = memory < 6 * GIGABYTE
    rows.append(
        Row(
            "Memory",
            human_bytes(memory) + limited,
            "note" if small else "ok",
            "6 GB or more are advised: lower batch_size and num_workers." if small else "",
        )
    )
    if machine.shared_memory is not None:
        needed = max(
            (_shared_bytes(entry, models.get(name, {})) for name, entry in config.get("runs", {}).items()), default=0
        )
        short = machine.shared_memory < needed
        remedy = f"loader workers may need {human_bytes(needed)}: start the container with `--shm-size={max(1, round(needed * 2 / 2**30))}g`, or set num_workers: 0."
        rows.append(
            Row("/dev/shm", human_bytes(machine.shared_memory), "note" if short else "ok", remedy if short else "")
        )
    return rows


def _workers_remedy(workers: int, cores: int) -> str:
    return (
        f"num_workers is {workers}: more than {cores} workers only get in each other's way." if workers > cores else ""
    )


def _shared_bytes(entry: Mapping[str, Any], model: Mapping[str, Any]) -> int:
    """Bytes of batches that workers may hold ready: two a worker, 12 float32 images a sample."""
    schedule = entry.get("schedule", {})
    height, width = (model.get("input") or {}).get("image_size", (320, 800))
    return (
        int(schedule.get("num_workers", 0))
        * 2
        * int(schedule.get("batch_size", 1))
        * 12
        * 3
        * int(height)
        * int(width)
        * 4
    )


def _disk_rows(config: Mapping[str, Any], machine: Machine) -> list[Row]:
    rows = []
    for folder, free in machine.free.items():
        if Path(folder).name == "data":
            needs = {
                name: disk_need(entry, Path(folder, name, ".complete.json").is_file())
                for name, entry in config.get("datasets", {}).items()
            }
            needed = sum(needs.values())
            what = ", ".join(f"{name} {human_bytes(need)}" for name, need in needs.items() if need)
        else:
            needed, what = RESULTS_BYTES * max(1, len(config.get("runs", {}))), "checkpoints and reports"
        short = free < needed
        remedy = f"about {human_bytes(needed)} are needed ({what}): free {human_bytes(needed - free)}, or put {Path(folder).name}/ on a larger disk (a link will do)."
        rows.append(
            Row(
                f"Disk {folder}",
                f"{human_bytes(free)} free, {human_bytes(needed)} needed",
                "wrong" if short and what and needed else "ok",
                remedy if short else "",
            )
        )
    return rows


def _clock_row(machine: Machine) -> Row:
    found = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(machine.now))
    if machine.now < machine.newest_file - 86400:
        return Row(
            "Clock",
            found,
            "wrong",
            "it is behind petrflow's own files: certificates will look invalid; set the clock (`sudo timedatectl set-ntp true`).",
        )
    return Row("Clock", found)


# ------------------------------------------------------------------------------------------------------------------ the table


def table(rows: Iterable[Row]) -> str:
    """The rows as text: subject, verdict, what was found, and the remedy on a line of its own."""
    rows = list(rows)
    width = max((len(row.subject) for row in rows), default=0)
    signs = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}
    lines = []
    for row in rows:
        lines.append(f"{row.subject:<{width}}  {signs[row.verdict]}  {row.found}")
        if row.remedy:
            lines.append(f"{'':<{width}}         {row.remedy}")
    return "\n".join(lines)


def preflight(
    config: Mapping[str, Any], models: Mapping[str, Any], folders: Iterable[Path] = (Path("data"), Path("results"))
) -> list[Row]:
    """Ask this machine and judge it for a configuration."""
    return judge(config, models, ask_paddle(), ask_nvidia_smi(), ask_machine(folders))


def require(rows: Iterable[Row]) -> None:
    """Raise with the rows that are wrong, if any are."""
    wrong = [row for row in rows if row.verdict == "wrong"]
    if wrong:
        raise PetrflowError("This machine cannot do what the config asks for:\n" + table(wrong))


def main(config: Mapping[str, Any], models: Mapping[str, Any]) -> None:
    """Print the table; raise when something is wrong."""
    rows = preflight(config, models)
    print(table(rows), file=sys.stderr, flush=True)
    require(rows)


def gate(
    schedule: Mapping[str, Any], model_config: Mapping[str, Any], results: Path, samples: int | None = None
) -> None:
    """Look at the machine before a run's expensive stages, where there is something to lose: a GPU asked for, or a large model.

    The workflow prints the whole table before it starts; this is for jobs that a cluster runs on another machine.

    Parameters
    ----------
    schedule, model_config : the run's schedule and parsed model file
    results : folder that the stage writes under
    samples : samples a pass when the stage trains, None when it only evaluates: slow, but it ends

    Raises
    ------
    PetrflowError
        the machine cannot do it, or `auto` would start weeks of work on a CPU
    """
    if schedule.get("device") != "gpu" and parameters_of(model_config) < LARGE_MODEL_PARAMETERS:
        return
    plan = {**schedule, "allow_slow_cpu": samples is None or bool(schedule.get("allow_slow_cpu"))}
    rows = preflight({"runs": {"here": {"schedule": plan, "samples": samples}}}, {"here": model_config}, [results])
    require(rows)
