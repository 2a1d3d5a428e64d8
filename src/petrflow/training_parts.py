"""What the training loop turns, made from a request: the device, the model, the loader, the evaluation."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from petrflow.errors import PetrflowError
from petrflow.files import lock
from petrflow.machine import processes
from petrflow.schedule import PUBLISHED_BATCH, PUBLISHED_RATE, rate_warning
from petrflow.training_request import Request, Settings
from petrflow.watch import Stopped, StopRequest

log = logging.getLogger("petrflow.train")


@dataclass
class Parts:
    """A model, batches of an epoch, and a judge of the model that returns its metrics (None on all processes but the first)."""

    model: Any
    loader: Any
    evaluate: Callable[[Any], dict[str, Any] | None]


def petrflow_parts(request: Request) -> Parts:
    """Build PETRv2, the loader of the train split and the evaluation on the val split."""
    from petrflow.model import build_model, load_weights
    from petrflow.samples.dataset import PetrDataset
    from petrflow.samples.loader import Loader

    settings = request.settings
    dataset = PetrDataset(request.train_store, request.root, request.model_config, training=True)
    loader = Loader(
        dataset,
        batch_size=settings.batch_size,
        seed=settings.seed,
        num_workers=settings.num_workers,
        shuffle=True,
        drop_last=True,
        rank=processes.rank(),
        world_size=processes.world_size(),
    )
    random.seed(settings.seed)
    np.random.seed(settings.seed)
    paddle.seed(settings.seed)
    model = build_model(request.model_config, num_cameras=len(dataset.store.camera_names))
    if request.weights is not None:
        log.info("%s", load_weights(model, request.weights))
    _warn_about_rate(request)
    return Parts(model, loader, lambda model: evaluate_split(request, model))


def _warn_about_rate(request: Request) -> None:
    settings = request.settings
    reference = request.model_config.get("reference_learning_rate") or {}
    pair = (reference.get("rate", PUBLISHED_RATE), reference.get("batch", PUBLISHED_BATCH))
    warning = rate_warning(settings.learning_rate, settings.batch_size, settings.devices, pair)
    if warning and processes.rank() == 0:
        log.warning(warning)


# --------------------------------------------------------------------------------------------------------------- evaluation


def evaluate_split(request: Request, model: Any) -> dict[str, Any] | None:
    """Evaluate on the val split, each process predicting a part of it; the first gathers and scores, the others return None."""
    from petrflow import evaluate

    settings = request.settings
    if processes.world_size() == 1:
        return evaluate.evaluate(
            model,
            request.val_store,
            request.root,
            request.model_config,
            request.state_dir / "evaluation",
            batch_size=settings.batch_size,
            num_workers=settings.num_workers,
        )
    from petrflow.annotations import AnnotationStore

    detections = _predict_share(request, model)
    folder = request.state_dir / "shares"
    _write_share(folder / f"{processes.rank()}.npz", detections)
    processes.barrier()
    metrics = None
    if processes.rank() == 0:
        store = AnnotationStore.open(request.val_store)
        for rank in range(1, processes.world_size()):
            share = _read_share(folder / f"{rank}.npz")
            if twice := sorted(set(share) & set(detections)):
                raise PetrflowError(f"sample {twice[0]} was predicted by two processes: the loader shards wrongly")
            detections |= share
        submission = evaluate.to_submission(store, detections, list(request.model_config["class_names"]))
        metrics = evaluate.score(submission, request.root, store.version)
        evaluate.write_evaluation(request.state_dir / "evaluation", metrics, submission)
    processes.barrier()  # nobody writes the next share before this one is read
    return metrics


def _predict_share(request: Request, model: Any) -> dict[str, Any]:
    """Predict this process's part of the val split; all parts together are every sample once."""
    from petrflow import evaluate
    from petrflow.samples.dataset import PetrDataset
    from petrflow.samples.loader import Loader, epoch_batches

    settings, rank, world = request.settings, processes.rank(), processes.world_size()
    dataset = PetrDataset(request.val_store, request.root, request.model_config, training=False)
    if not epoch_batches(
        np.arange(len(dataset)), settings.batch_size, drop_last=False, rank=rank, world_size=world, equal_steps=False
    ):
        return {}
    loader = Loader(
        dataset,
        settings.batch_size,
        0,
        settings.num_workers,
        shuffle=False,
        drop_last=False,
        rank=rank,
        world_size=world,
    )
    try:
        return evaluate.predict(model, loader.epoch(0), len(loader))
    finally:
        loader.close()


def _write_share(path: Path, detections: dict[str, Any]) -> None:
    from petrflow.files import atomic_path

    arrays: dict[str, Any] = {}
    for token, found in detections.items():
        arrays[f"{token}/boxes"] = np.asarray(found.boxes)
        arrays[f"{token}/scores"] = np.asarray(found.scores)
        arrays[f"{token}/labels"] = np.asarray(found.labels)
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **arrays)


def _read_share(path: Path) -> dict[str, Any]:
    from petrflow.samples.types import SampleDetections

    with np.load(path, allow_pickle=False) as arrays:
        tokens = sorted({name.rsplit("/", 1)[0] for name in arrays.files})
        return {
            token: SampleDetections(arrays[f"{token}/boxes"], arrays[f"{token}/scores"], arrays[f"{token}/labels"])
            for token in tokens
        }


@contextlib.contextmanager
def own_gpu(device: str, settings: Settings, stop: StopRequest, folder: Path | None = None) -> Iterator[None]:
    """Keep the GPU to this run for as long as the body lasts, waiting for it first; ``share_gpu`` and the CPU need no waiting."""
    if not device.startswith("gpu") or settings.share_gpu:
        yield
        return
    path = (folder or Path(tempfile.gettempdir())) / f"petrflow-{_physical_gpu(device)}.lock"
    told = False
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(lock(path))
                break
            except PetrflowError as error:
                if not told:
                    log.warning(
                        "Waiting for %s, which another run trains on (share_gpu: true would not wait): %s",
                        device,
                        error,
                    )
                    told = True
                if stop.asked:
                    raise Stopped(
                        f"Stopped by {stop.signal_name} while waiting for {device}; run the same command again"
                    ) from None
                time.sleep(1.0)
        yield


def _physical_gpu(device: str) -> str:
    """Return a name for a GPU that all processes of this machine agree on, whatever they can see of the others."""
    index = int(device.partition(":")[2] or 0)
    visible = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    return "gpu-" + (visible[index] if index < len(visible) else str(index)).replace("/", "_")
