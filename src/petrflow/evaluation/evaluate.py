"""Predict a split and score it, in one process or in one a device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.evaluation.expectations import compare_with_expected
from petrflow.evaluation.score import score
from petrflow.evaluation.submission import to_submission
from petrflow.evaluation.table import format_table
from petrflow.files import atomic_dir, write_atomic, write_json
from petrflow.machine import processes
from petrflow.samples.types import Batch, SampleDetections


def evaluate_split(
    model: Any,
    store_path: Path,
    root: Path,
    model_config: Mapping[str, Any],
    out_dir: Path,
    batch_size: int,
    num_workers: int,
) -> dict[str, Any] | None:
    """Evaluate on a split, each process predicting a part of it; the first gathers and scores, the others return None.

    Takes what :func:`evaluate` takes. Processes hand their detections over in ``shares`` beside ``out_dir``.
    """
    if processes.world_size() == 1:
        return evaluate(model, store_path, root, model_config, out_dir, batch_size=batch_size, num_workers=num_workers)
    detections = predict_share(model, store_path, root, model_config, batch_size, num_workers)
    folder = out_dir.with_name("shares")
    _write_share(folder / f"{processes.rank()}.npz", detections)
    processes.barrier()
    metrics = None
    if processes.rank() == 0:
        store = AnnotationStore.open(store_path)
        for rank in range(1, processes.world_size()):
            share = _read_share(folder / f"{rank}.npz")
            if twice := sorted(set(share) & set(detections)):
                raise PetrflowError(f"sample {twice[0]} was predicted by two processes: the loader shards wrongly")
            detections |= share
        submission = to_submission(store, detections, list(model_config["class_names"]))
        metrics = score(submission, root, store.version)
        write_evaluation(out_dir, metrics, submission)
    processes.barrier()  # nobody writes the next share before this one is read
    return metrics


def predict_share(
    model: Any, store_path: Path, root: Path, model_config: Mapping[str, Any], batch_size: int, num_workers: int
) -> dict[str, Any]:
    """Predict this process's part of the val split; all parts together are every sample once."""
    from petrflow.samples.dataset import PetrDataset
    from petrflow.samples.loader import Loader, epoch_batches

    rank, world = processes.rank(), processes.world_size()
    dataset = PetrDataset(store_path, root, dict(model_config), training=False)
    if not epoch_batches(
        np.arange(len(dataset)), batch_size, drop_last=False, rank=rank, world_size=world, equal_steps=False
    ):
        return {}
    loader = Loader(dataset, batch_size, 0, num_workers, shuffle=False, drop_last=False, rank=rank, world_size=world)
    try:
        return predict(model, loader.epoch(0), len(loader))
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


def predict(model: Any, batches: Iterable[Batch], total: int | None = None) -> dict[str, SampleDetections]:
    """Run ``model.predict`` over batches of the loader and return detections by sample token."""
    detections: dict[str, SampleDetections] = {}
    for batch in tqdm(batches, total=total, desc="evaluate", unit="batch", leave=False):
        for token, found in zip(batch["token"], model.predict(batch), strict=True):
            detections[token] = SampleDetections(found.boxes, found.scores, found.labels)
    return detections


def evaluate(
    model: Any,
    store_path: Path,
    root: Path,
    model_config: Mapping[str, Any],
    out_dir: Path,
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    expect: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Predict a split with ``model``, score it and leave ``metrics.json``, ``results_nusc.json`` and ``table.txt``.

    Parameters
    ----------
    model : PetrV2 or ExportedModel
        Anything with ``predict(batch)``.
    store_path, root : Path
        The split's annotation store and the nuScenes root it was made from.
    model_config : mapping
        The parsed model file.
    out_dir : Path
        Appears whole when everything is written.
    batch_size, num_workers : int
        Of the loader.
    expect : mapping, optional
        ``{metric: {"value": float, "tolerance": float}}``; see :func:`petrflow.evaluation.expectations.compare_with_expected`.

    Returns
    -------
    dict
        As :func:`score` returns it, with ``expect`` added when figures are expected.
    """
    from petrflow.samples.dataset import PetrDataset
    from petrflow.samples.loader import Loader

    store = AnnotationStore.open(store_path)
    dataset = PetrDataset(store_path, root, dict(model_config), training=False)
    loader = Loader(dataset, batch_size=batch_size, seed=0, num_workers=num_workers, shuffle=False, drop_last=False)
    try:
        detections = predict(model, loader.epoch(0), len(loader))
    finally:
        loader.close()
    submission = to_submission(store, detections, list(model_config["class_names"]))
    metrics = score(submission, root, store.version)
    if expect:
        metrics["expect"] = compare_with_expected(metrics, expect)
    write_evaluation(out_dir, metrics, submission)
    return metrics


def write_evaluation(out_dir: Path, metrics: Mapping[str, Any], submission: Mapping[str, Any]) -> None:
    """Write ``metrics.json``, ``results_nusc.json`` and ``table.txt`` into ``out_dir``, whole or not at all."""
    with atomic_dir(Path(out_dir)) as folder:
        write_json(folder / "metrics.json", dict(metrics))
        write_json(folder / "results_nusc.json", dict(submission))
        write_atomic(folder / "table.txt", format_table(metrics))
