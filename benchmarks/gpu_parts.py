"""What gpu.py measures. Each part runs in a process of its own: a full memory ends that process and nothing else.

python benchmarks/gpu_parts.py REQUEST.json      # what gpu.py starts; the answer is written beside it, as ANSWER.json
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import paddle

from benchmarks.rates import batches_of, loader_rate
from petrflow.annotations import AnnotationStore
from petrflow.config import load_model
from petrflow.evaluation.evaluate import evaluate
from petrflow.export.networks import full_float32
from petrflow.export.parity import Sample, compare, run_eager, steady_sample
from petrflow.export.static import export
from petrflow.machine.device import ask_paddle, use_device
from petrflow.model import build_model
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.loader import Loader
from petrflow.training import step as training_step
from petrflow.training.gpu import GPU_MEMORY_FULL
from petrflow.training.launch import end_with_parent
from petrflow.training.request import Schedule
from petrflow.training.state import Progress, make_optimizer
from petrflow.training.step import LossScale, take_step
from petrflow.training.watch import Watch
from petrflow.weights.load import load_weights
from tests.helpers.models import fake_batch

PHASES = ("inputs", "forward", "loss", "backward", "clip", "check", "optimizer", "rest")
"""Of a step, in this order: arrays to the device, network, matching and losses, gradients, their norm, the losses read by the
host, the update, what is left.
"""


class Trainer:
    """The training's own step, on a model of its own."""

    def __init__(self, request: dict[str, Any], batch_size: int, amp: str = "none") -> None:
        level, _, dtype = amp.partition(":")
        given = {"epochs": 1, "batch_size": batch_size, "learning_rate": 1e-5, "device": request["device"]}
        mixed = {} if level == "none" else {"amp": level, "amp_dtype": dtype or "bfloat16"}
        self.settings = Schedule.from_schedule({**given, **mixed})
        self.device = use_device(request["device"])
        self.model = make_model(request)
        self.model.train()
        self.optimizer = make_optimizer(self.model, self.settings)
        self.progress, self.watch = Progress(), Watch(self.settings.nan_limit)
        self.scale = LossScale(self.progress, self.settings.amp is not None and self.settings.amp_dtype == "float16")

    def step(self, batch: Any) -> None:
        """Train on a batch, and wait until the device has done it."""
        self.model.seed_step(0, 0, self.progress.step)
        take_step(
            self.model,
            self.optimizer,
            batch,
            settings=self.settings,
            progress=self.progress,
            watch=self.watch,
            scale=self.scale,
        )
        self.progress.step += 1
        wait(self.device)


def make_model(request: dict[str, Any], cameras: int = 6) -> Any:
    """Build the request's model with its weights, or with those of seed 0."""
    config = request["model_config"]
    paddle.seed(0)
    model = build_model(config, num_cameras=request.get("cameras", cameras))
    if request["weights"]:
        load_weights(model, Path(request["weights"]), config.get("fresh", ()), False, config["class_names"])
    return model


def wait(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device.startswith("gpu"):
        paddle.device.synchronize(device)


def card(request: dict[str, Any]) -> dict[str, Any]:
    """Say what the device is."""
    device, paddle_says = use_device(request["device"]), ask_paddle()
    if device == "cpu":
        return {"device": device}
    total = paddle.device.cuda.get_device_properties(device).total_memory
    return {
        "device": device,
        "name": paddle_says.names[0],
        "compute_capability": list(paddle_says.capabilities[0]),
        "memory_gb": total / 1e9,
        "cuda": paddle_says.cuda_build,
    }


# ------------------------------------------------------------------------------------------------------------------- steps


def steps(request: dict[str, Any]) -> dict[str, Any]:
    """Time training steps on one batch: whole, then by phase, which waits for the device after every one of them."""
    trainer = Trainer(request, request["batch"], request["amp"])
    batch = fake_batch(request["model_config"], request["batch"], cameras=request.get("cameras", 6), boxes=30)
    for _ in range(request["warm"]):
        trainer.step(batch)
    whole = [seconds_of(lambda: trainer.step(batch)) for _ in range(request["steps"])]
    parts = [phases_of(trainer, batch) for _ in range(request["steps"])]
    median = float(np.median(whole))
    return {
        "device": trainer.device,
        "samples_per_s": request["batch"] / median,
        "step_ms": 1e3 * median,
        "phases_ms": {name: 1e3 * float(np.median([one.get(name, 0.0) for one in parts])) for name in PHASES},
        "skipped_steps": trainer.progress.skipped_steps,
        **memory(trainer.device),
    }


def seconds_of(function: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def phases_of(trainer: Trainer, batch: Any) -> dict[str, float]:
    """Return the seconds of each phase of one step."""
    ends: list[tuple[str, float]] = []

    def note(name: str) -> None:
        wait(trainer.device)
        ends.append((name, time.perf_counter()))

    def between(function: Callable[..., Any], before: str | None, after: str) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            if before:
                note(before)
            answer = function(*arguments, **named)
            note(after)
            return answer

        return noted

    model, optimizer = trainer.model, trainer.optimizer
    with (
        patch.object(model, "all_outputs", between(model.all_outputs, "inputs", "forward")),
        patch.object(model, "losses", between(model.losses, None, "loss")),
        patch.object(training_step, "clip", between(training_step.clip, "backward", "clip")),
        patch.object(optimizer, "step", between(optimizer.step, "check", "optimizer")),
    ):
        began = time.perf_counter()
        trainer.step(batch)
        note("rest")
    starts = [began, *(end for _, end in ends)]
    return {name: end - start for (name, end), start in zip(ends, starts, strict=False)}


def memory(device: str) -> dict[str, float]:
    """Return the most memory that was taken, GB (10^9 bytes): of the GPU, and resident in the host's."""
    host = {"host_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}
    if not device.startswith("gpu"):
        return host
    allocated, reserved = (
        paddle.device.cuda.max_memory_allocated(device),
        paddle.device.cuda.max_memory_reserved(device),
    )
    return {"gpu_peak_gb": allocated / 1e9, "gpu_reserved_gb": reserved / 1e9, **host}


# ------------------------------------------------------------------------------------------------------------------ loader


def loader(request: dict[str, Any]) -> dict[str, Any]:
    """Time the loader alone, then steps on what it loads, and how long they wait for it."""
    store = Path(request["annotations"]) / "train.arrow"
    dataset = PetrDataset(store, request["root"], request["model_config"], training=True)
    size = min(request["batch"], len(dataset))
    trainer = Trainer(request, size)
    with Loader(dataset, size, 0, request["workers"], shuffle=True, drop_last=True) as alone:
        first, rate = loader_rate(alone, request["warm"], request["steps"])
    waited = stepped = 0.0
    with Loader(dataset, size, 0, request["workers"], shuffle=True, drop_last=True) as loading:
        stream = batches_of(loading)
        for number in range(request["warm"] + request["steps"]):
            began = time.perf_counter()
            batch = next(stream)
            loaded = time.perf_counter()
            trainer.step(batch)
            if number >= request["warm"]:
                waited, stepped = waited + loaded - began, stepped + time.perf_counter() - loaded
        stream.close()  # type: ignore[attr-defined]
    return {
        "batch": size,
        "first_batch_s": first,
        "loader_samples_per_s": rate,
        "step_samples_per_s": size * request["steps"] / stepped,
        "training_samples_per_s": size * request["steps"] / (waited + stepped),
        "waiting_percent": 100 * waited / (waited + stepped),
    }


# ------------------------------------------------------------------------------------------------------------------ scores


def outputs(request: dict[str, Any]) -> dict[str, Any]:
    """Leave the model's outputs on some validation samples in ``request["outputs"]``."""
    use_device(request["device"])
    with float32_of(request):
        given = eager_outputs(request)
    np.savez(
        request["outputs"],
        indices=np.array([sample.index for sample in given]),
        **{f"{name}{k}": sample.outputs[n] for k, sample in enumerate(given) for n, name in enumerate(("l", "c"))},
    )
    return {"samples": len(given)}


def eager_outputs(request: dict[str, Any], indices: Any = None) -> list[Sample]:
    """Run the model on validation samples whose boxes do not hang on rounding, or on those of given numbers."""
    store = Path(request["annotations"]) / "val.arrow"
    dataset = PetrDataset(store, request["root"], request["model_config"], training=False)
    model = make_model({**request, "cameras": dataset.num_cameras})
    model.eval()
    if indices is None:
        wanted = np.linspace(0, len(dataset) - 1, min(request["samples"], len(dataset))).astype(int)
        return [steady_sample(model, dataset, int(index)) for index in dict.fromkeys(wanted)]
    return [run_eager(model, dataset, int(index)) for index in indices]


@contextlib.contextmanager
def float32_of(request: dict[str, Any]) -> Iterator[None]:
    """Compute in full float32 where the request says so."""
    with full_float32() if request["full_float32"] else contextlib.nullcontext():
        yield


def against_cpu(request: dict[str, Any]) -> dict[str, Any]:
    """Compare the device's outputs with those that the CPU left."""
    device = use_device(request["device"])
    with np.load(request["outputs"], allow_pickle=False) as kept:
        indices = kept["indices"]
        expected = [(kept[f"l{k}"], kept[f"c{k}"]) for k in range(len(indices))]
    with float32_of(request):
        found = compare(expected, [sample.outputs for sample in eager_outputs(request, indices)])
    return {
        "device": device,
        "full_float32": request["full_float32"],
        "samples": len(indices),
        "boxes_relative": found.boxes,
        "scores_relative": found.scores,
    }


def scores(request: dict[str, Any]) -> dict[str, Any]:
    """Evaluate the validation split, and compare with figures that the weights are known to reach."""
    device = use_device(request["device"])
    store = AnnotationStore.open(Path(request["annotations"]) / "val.arrow")
    model = make_model({**request, "cameras": len(store.camera_names)})
    model.eval()
    with float32_of(request), tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        metrics = evaluate(
            model,
            store.path,
            Path(request["root"]),
            request["model_config"],
            Path(folder) / "scores",
            batch_size=request["batch"],
            num_workers=request["workers"],
            expect=request["expect"] or None,
        )
        seconds = time.perf_counter() - began
    assert metrics is not None  # this process is alone
    return {
        "device": device,
        "full_float32": request["full_float32"],
        "samples": len(store),
        "seconds": seconds,
        "samples_per_s": len(store) / seconds,
        "mAP": metrics["mAP"],
        "NDS": metrics["NDS"],
        "expect": metrics.get("expect"),
        **memory(device),
    }


def exporting(request: dict[str, Any]) -> dict[str, Any]:
    """Export the model and return how far the static graphs are from it; ``export`` computes in full float32."""
    device = use_device(request["device"])
    weights = Path(request["weights"]) if request["weights"] else None
    store = Path(request["annotations"]) / "val.arrow"
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        record = export(
            request["model_config"],
            weights,
            store,
            Path(request["root"]),
            Path(folder) / "export",
            samples=request["samples"],
        )
        seconds = time.perf_counter() - began
    found = record["max_relative_difference"]
    return {
        "device": device,
        "samples": len(record["samples"]),
        "seconds": seconds,
        "boxes_relative": found["boxes"],
        "scores_relative": found["scores"],
        "onnx": record["onnx"].get("max_relative_difference") or record["onnx"].get("reason"),
    }


PARTS = {part.__name__: part for part in (card, steps, loader, outputs, against_cpu, scores, exporting)}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run a part; a full memory is an answer, too."""
    try:
        return PARTS[request["part"]](request)
    except Exception as error:
        words = next((line.strip() for line in str(error).splitlines() if line.strip(" -")), "no message")
        if isinstance(error, MemoryError) or GPU_MEMORY_FULL.search(str(error)):
            return {"failed": "out of memory", "message": words}
        return {"failed": type(error).__name__, "message": words}


def main() -> None:
    end_with_parent()
    path = Path(sys.argv[1])
    request = json.loads(path.read_text())
    if "model" in request:
        request["model_config"] = load_model(Path(request["model"]))
    path.with_name("ANSWER.json").write_text(json.dumps(answer(request)))


if __name__ == "__main__":
    main()
