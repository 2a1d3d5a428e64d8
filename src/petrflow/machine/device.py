"""Which device a stage runs on, and which trainings must not start on a CPU by accident."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from petrflow.errors import InputError, MachineError
from petrflow.machine import processes
from petrflow.messages import _

LARGE_MODEL_PARAMETERS = 50_000_000
LARGE_RUN_SAMPLES = 500
# Measured with the 8.4 M model at 96x256 on two cores: about 1.1 s a sample. The work grows with
# the pixels and, roughly, with the weights.
CPU_SECONDS_PER_SAMPLE = 1.1 / (8.4e6 * 96 * 256)
SUPPORTED_PADDLE = "3.3.x (tested: 3.3.1); 2.6.2 and 3.0 to 3.2 are not part of the tests"
GPU_DOCS = "docs/gpu.md"


@dataclass(frozen=True)
class PaddleAnswer:
    """What Paddle itself says about this machine."""

    version: str = ""
    cuda_build: str = ""  # '' for a CPU build
    device_count: int = 0
    names: tuple[str, ...] = ()
    capabilities: tuple[tuple[int, int], ...] = ()
    architectures: tuple[
        int, ...
    ] = ()  # compute capabilities that this build has kernels for, as 75, 80, 90; () when it does not say
    error: str = ""  # import or driver trouble, in Paddle's words


def ask_paddle() -> PaddleAnswer:
    """Ask the installed Paddle about its build and the GPUs it can see. Never raises."""
    try:
        import paddle
    except Exception as error:  # a broken driver or library can make the import fail in any way
        return PaddleAnswer(version=_installed_version(), error=f"{type(error).__name__}: {error}")
    version = str(paddle.version.full_version)
    if not paddle.is_compiled_with_cuda():
        return PaddleAnswer(version=version)
    cuda_build = str(paddle.version.cuda())
    architectures = _parse_architectures(
        getattr(paddle.version, "compiled_cuda_archs", None) or getattr(paddle.version, "cuda_archs", list)
    )
    try:
        count = int(paddle.device.cuda.device_count())
        names = tuple(str(paddle.device.cuda.get_device_name(index)) for index in range(count))
        capabilities = tuple(tuple(paddle.device.cuda.get_device_capability(index)) for index in range(count))
    except Exception as error:
        return PaddleAnswer(
            version, cuda_build, 0, (), (), architectures, f"{type(error).__name__}: {_first_line(error)}"
        )
    return PaddleAnswer(version, cuda_build, count, names, capabilities, architectures)


def _installed_version() -> str:
    for name in ("paddlepaddle-gpu", "paddlepaddle"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _parse_architectures(answer: Any) -> tuple[int, ...]:
    if callable(answer):
        try:
            answer = answer()
        except Exception:
            return ()
    return tuple(sorted({int(number) for number in re.findall(r"\d+", str(answer))}))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not set(line.strip()) <= set("-=")]
    return lines[0] if lines else "no message"


# ------------------------------------------------------------------------------------------------------------------ policy


def gpu_problem(answer: PaddleAnswer, index: int = 0) -> str:
    """Return one sentence on why GPU ``index`` cannot be used, with the remedy; '' when it can."""
    if answer.error and not answer.device_count:
        return _(
            "Paddle {version} cannot use the GPU ({error}): check `nvidia-smi`; if that works, install the Paddle build for this driver's CUDA version ({gpu_docs}).",
            version=answer.version or _("(not installed)"),
            error=answer.error,
            gpu_docs=GPU_DOCS,
        )
    if not answer.cuda_build:
        return _(
            "The installed Paddle {version} is the CPU build: run with `--sdm conda` and `environment: gpu-cuda126` in the config, or put the GPU build into this environment with `make gpu` ({gpu_docs}).",
            version=answer.version,
            gpu_docs=GPU_DOCS,
        )
    if answer.device_count <= index:
        return _(
            "Paddle {version} (CUDA {cuda_build}) sees {count} GPU{plural}: check `nvidia-smi`, CUDA_VISIBLE_DEVICES, and that the container was started with `--gpus all`.",
            version=answer.version,
            cuda_build=answer.cuda_build,
            count=answer.device_count or _("no"),
            plural="s" if answer.device_count > 1 else "",
        )
    if answer.capabilities and answer.architectures:
        major, minor = answer.capabilities[index]
        # Kernels of one architecture run on later ones of the same generation, never on earlier or
        # on other generations.
        if not any(built // 10 == major and built % 10 <= minor for built in answer.architectures):
            return _(
                "{name} has compute capability {major}.{minor}, and this Paddle {version} (CUDA {cuda_build}) has kernels for {covered} only: install the build that covers it ({gpu_docs}).",
                name=answer.names[index],
                major=major,
                minor=minor,
                version=answer.version,
                cuda_build=answer.cuda_build,
                covered=", ".join(f"{a // 10}.{a % 10}" for a in answer.architectures),
                gpu_docs=GPU_DOCS,
            )
    return ""


def select_device(name: str, answer: PaddleAnswer | None = None, index: int = 0) -> str:
    """Turn ``auto``, ``cpu`` or ``gpu`` into Paddle's name of a device.

    ``gpu`` without a usable GPU raises and says what to do; ``auto`` falls to the CPU with one line on
    stderr.

    Parameters
    ----------
    name : str
    answer : PaddleAnswer, optional
        What Paddle says about this machine; it is asked when None.
    index : int
        Which of the visible GPUs to take. Processes that train together take one each.

    Returns
    -------
    'cpu' or 'gpu:INDEX'
    """
    if name == "cpu":
        return "cpu"
    if name not in ("auto", "gpu"):
        raise InputError(_("device: {name!r} is not known; use auto, cpu or gpu.", name=name))
    answer = answer or ask_paddle()
    problem = gpu_problem(answer)
    if not problem:
        # Processes that train together must not fall to a CPU one by one: they would wait for each
        # other in vain.
        if index and (missing := gpu_problem(answer, index)):
            raise MachineError(
                _(
                    "schedule.devices asks for GPU number {index}. {missing} Or lower `schedule.devices`.",
                    index=index + 1,
                    missing=missing,
                )
            )
        return f"gpu:{index}"
    if name == "gpu":
        raise MachineError(
            _(
                "device: gpu was asked for. {problem} To run on the CPU all the same, set `device: cpu`.",
                problem=problem,
            )
        )
    if given := _gpus_of_this_job():
        raise MachineError(
            _(
                "Slurm gave this job GPU {given} and a CPU would compute on it. {problem} To use the CPU, set `device: cpu`: the job then asks for no GPU.",
                given=given,
                problem=problem,
            )
        )
    print(_("device: auto takes the CPU. {problem}", problem=problem), file=sys.stderr, flush=True)
    return "cpu"


def _gpus_of_this_job() -> str:
    """Return the GPUs that Slurm gave to this job, as it names them; '' outside of such a job."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "") if "SLURM_JOB_ID" in os.environ else ""
    return "" if given == "NoDevFiles" else given


def cpu_hours(parameters: int, samples: int, image_size: tuple[int, int], cores: int) -> float:
    """Return roughly how many hours a CPU needs to train on ``samples`` samples in all (samples a
    pass times passes) of (H, W) images.
    """
    height, width = image_size
    return CPU_SECONDS_PER_SAMPLE * parameters * height * width * samples * 2 / max(cores, 1) / 3600


def refuse_slow_cpu(
    device: str,
    requested: str,
    *,
    parameters: int,
    epochs: int,
    samples: int,
    image_size: tuple[int, int] = (320, 800),
    cores: int = 2,
    allow: bool = False,
) -> None:
    """Raise when ``auto`` fell to a CPU and the run is a large model's: weeks of work that nobody
    meant to start.

    Parameters
    ----------
    device, requested : what ``select_device`` returned and was given
    parameters : number of weights of the model
    epochs, samples : passes and samples a pass
    image_size : (H, W) in pixels
    allow : the config's ``schedule.allow_slow_cpu``
    """
    if (
        device != "cpu"
        or requested != "auto"
        or allow
        or parameters < LARGE_MODEL_PARAMETERS
        or epochs * samples < LARGE_RUN_SAMPLES
    ):
        return
    days = cpu_hours(parameters, epochs * samples, image_size, cores) / 24
    raise MachineError(
        _(
            "No usable GPU was found, and training a model of {parameters:.0f} M parameters for {epochs} epochs of {samples} samples would take roughly {days:,.0f} days on this CPU: run it on a GPU ({gpu_docs}), choose a smaller model (petrv2_tiny), or set `schedule.device: cpu` (or `schedule.allow_slow_cpu: true`) if this is what you want.",
            parameters=parameters / 1000000.0,
            epochs=epochs,
            samples=samples,
            days=days,
            gpu_docs=GPU_DOCS,
        )
    )


def check_paddle_version(version: str | None = None) -> str:
    """Raise for a Paddle that petrflow cannot work with; return a line of warning, or '', for the
    others.

    Parameters
    ----------
    version : Paddle's version; the installed one when None
    """
    version = _installed_version() if version is None else version
    match = re.match(r"(\d+)\.(\d+)", version)
    if not match:
        raise MachineError(
            _(
                "Paddle is not installed (version {version!r}): run `make run`, or see {gpu_docs}.",
                version=version,
                gpu_docs=GPU_DOCS,
            )
        )
    release = (int(match[1]), int(match[2]))
    if release < (2, 6):
        raise MachineError(
            _(
                "Paddle {version} is too old for petrflow, which supports {supported_paddle}: install 3.3.1 ({gpu_docs}).",
                version=version,
                supported_paddle=SUPPORTED_PADDLE,
                gpu_docs=GPU_DOCS,
            )
        )
    if release > (3, 3):
        return _(
            "Paddle {version} is newer than what petrflow was tested with ({supported_paddle}).",
            version=version,
            supported_paddle=SUPPORTED_PADDLE,
        )
    if release < (3, 3):
        return _(
            "Paddle {version} is older than what petrflow is tested with ({supported_paddle}).",
            version=version,
            supported_paddle=SUPPORTED_PADDLE,
        )
    return ""


def use_device(asked: str) -> str:
    """Choose a device (``auto``, ``cpu`` or ``gpu``), make it Paddle's, and return its name
    (``cpu``, ``gpu:0``, …).

    Of several processes that train together, each takes the GPU that its launcher named.
    """
    import paddle

    index = int(os.environ.get("FLAGS_selected_gpus", "0")) if processes.world_size() > 1 else 0  # noqa: SIM112
    device = select_device(asked, index=index)
    paddle.set_device(device)
    return device
