"""Predict a split and score it, in one process or in one a device."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.evaluation.boxes import labelled
from petrflow.evaluation.expectations import compare_with_expected
from petrflow.evaluation.figures import combine
from petrflow.evaluation.judge import (
    Judged,
    Matches,
    from_plain,
    join,
    judge_classes,
    match_keyframes,
    parts_of,
    to_plain,
)
from petrflow.evaluation.protocol import NUSCENES, Protocol, protocol_of_classes
from petrflow.evaluation.score import require_devkit_can_score, score
from petrflow.evaluation.submission import read_lines, require_all, submission_lines, write_submission
from petrflow.evaluation.summary import details, summary
from petrflow.evaluation.table import format_table
from petrflow.evaluation.thresholds import FILE as THRESHOLDS
from petrflow.evaluation.thresholds import best_scores
from petrflow.files import atomic_dir, atomic_path, read_json, remove, write_atomic, write_json
from petrflow.files.status import tqdm
from petrflow.machine import processes
from petrflow.nuscenes.synonyms import labels_of
from petrflow.samples.types import Batch, Detections, Predicts

log = logging.getLogger("petrflow.evaluation")


def evaluate(
    model: Any,
    store_path: Path,
    root: Path,
    model_config: Mapping[str, Any],
    out_dir: Path,
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    judge: str = "petrflow",
    expect: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Predict a split with ``model``, score it and leave ``metrics.json``, ``results_nusc.json``,
    ``table.txt`` and ``thresholds.json``.

    Processes that train together each predict a part of the split, match that part with its boxes,
    and sum up some of the classes. They hand over what they found in ``shares`` beside ``out_dir``;
    the first one writes ``out_dir``.

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
    judge : str
        ``petrflow``, or ``devkit``: nuscenes-devkit in the first process, while the others wait.
    expect : mapping, optional
        ``{metric: {"value": float, "tolerance": float}}``; see
        :func:`petrflow.evaluation.expectations.compare_with_expected`.

    Returns
    -------
    dict or None
        As :func:`petrflow.evaluation.summary.summary` returns it, with ``bands``, ``groups`` and
        ``scenes`` of petrflow's own judge, and with ``expect`` where figures are expected. None in
        all processes but the first.
    """
    store, names = AnnotationStore.open(store_path), list(model_config["class_names"])
    judging = model_config.get("judging")
    require_scorable(store, names, root, judge, judging)
    detections = predict_share(model, store_path, root, model_config, batch_size, num_workers)
    return score_detections(store, detections, names, root, out_dir, judge=judge, judging=judging, expect=expect)


def require_scorable(
    store: AnnotationStore,
    class_names: Sequence[str],
    root: Path,
    judge: str = "petrflow",
    judging: Mapping[str, Any] | None = None,
) -> Protocol:
    """Say before anything is predicted why a split could not be scored; return the protocol by
    which it is.

    Raises
    ------
    PetrflowError
        No box of the split counts for the model's classes, or the devkit is to judge and cannot.
    """
    protocol = protocol_of_classes(class_names, typical_sizes(store, class_names), judging)
    names = store.metadata["names"]
    codes = np.array(labels_of(names, protocol.class_names)) >= 0
    of_class = codes[store.columns["box.name"]] if len(names) else np.zeros(0, dtype=bool)
    truth, _ = labelled(store, np.arange(len(store)), protocol)
    if not len(truth):
        pointless = int((of_class & (store.columns["box.valid"] == 0)).sum())
        others = [name for name, known in zip(names, codes, strict=True) if not known]
        raise PetrflowError(
            f"Nothing in {store.path} can be scored: of its {len(of_class)} boxes, {len(of_class) - int(of_class.sum())} are of no "
            f"class of the model ({', '.join(class_names)}; the data has {', '.join(sorted(set(others))[:8]) or 'no others'}), {pointless} hold no lidar or radar point, and the others lie beyond "
            f"{max(protocol.class_ranges.values()):g} m. Choose other scenes for the {store.split} split, correct class_names in the "
            "model file, or train with do_eval: false"
        )
    if judge == "devkit":
        if set(class_names) != set(NUSCENES.class_names):
            raise PetrflowError(
                f"nuscenes-devkit knows no classes but nuScenes' ten, and judges all of them; the model has {', '.join(class_names)}: "
                "remove judge: devkit, petrflow's own judge takes any classes"
            )
        if judging:
            raise PetrflowError(
                "nuscenes-devkit judges by nuScenes' own rules: remove judge: devkit, or judging from the model file"
            )
        points = store.columns["box.num_lidar_pts"] + store.columns["box.num_radar_pts"]
        if ((store.columns["box.valid"] != 0) != (points > 0)).any():
            raise PetrflowError(
                "nuscenes-devkit judges boxes that hold a lidar or radar point and no others; this data has no points, or leaves out "
                "boxes that no camera sees: remove judge: devkit"
            )
        if processes.rank() == 0:
            _let_devkit_try(store.path, Path(root))
    elif processes.rank() == 0 and (several := int((store.columns["box.attribute_count"] > 1).sum())):
        log.warning("%d boxes of %s carry more than one attribute: the first one counts", several, store.path)
    return protocol


@functools.cache
def _let_devkit_try(store_path: Path, root: Path) -> None:
    """Let the devkit load what it scores with, once in a process: it takes as long as for an
    evaluation.
    """
    store = AnnotationStore.open(store_path)
    tokens = store.columns["keyframe.token"].take(range(len(store)))
    require_devkit_can_score(tokens, root, store.version, scene_names(store))


def scene_names(store: AnnotationStore) -> list[str]:
    """Return the names of a split's scenes."""
    names: list[str] = store.columns["scene.name"].take(range(len(store.columns["scene.name"])))
    return names


def typical_sizes(store: AnnotationStore, class_names: Sequence[str]) -> dict[str, list[float]]:
    """Return the median width, length and height (m) of each class that the store has boxes of."""
    sizes, codes = store.columns["box.box"][:, 3:6], store.columns["box.name"]
    labels, found = np.array(labels_of(store.metadata["names"], class_names), dtype=np.int64), {}
    for label, name in enumerate(class_names):
        rows = np.isin(codes, np.flatnonzero(labels == label))
        if rows.any():
            found[name] = np.median(sizes[rows], axis=0).tolist()
    return found


def predict_share(
    model: Any, store_path: Path, root: Path, model_config: Mapping[str, Any], batch_size: int, num_workers: int
) -> dict[str, Detections]:
    """Predict this process's part of a split; all parts together are every sample once."""
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


def predict(model: Predicts, batches: Iterable[Batch], total: int | None = None) -> dict[str, Detections]:
    """Run ``model.predict`` over batches of the loader and return detections by sample token."""
    detections: dict[str, Detections] = {}
    for batch in tqdm(batches, total=total, desc="evaluate", unit="batch", leave=False):
        detections.update(zip(batch["token"], model.predict(batch), strict=True))
    return detections


# --------------------------------------------------------------------------------------------------------------------- scoring


def score_detections(
    store: AnnotationStore,
    detections: Mapping[str, Detections],
    class_names: Sequence[str],
    root: Path,
    out_dir: Path,
    *,
    judge: str = "petrflow",
    judging: Mapping[str, Any] | None = None,
    expect: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Score what this process and the others predicted, and write it; see :func:`evaluate`.

    Parameters
    ----------
    detections : mapping of sample token to Detections
        This process's part of the split.
    judging : mapping, optional
        Of the model file: rules of some classes.
    """
    protocol = protocol_of_classes(class_names, typical_sizes(store, class_names), judging)
    tokens = store.columns["keyframe.token"].take(range(len(store)))
    mine = [k for k, token in enumerate(tokens) if token in detections]
    folder = Path(out_dir).with_name("shares")
    share = match_keyframes(store, mine, detections, class_names, protocol)
    whole = _matched_together(store, share, protocol, folder)
    figures = _judge_together(store, whole, protocol, folder) if judge == "petrflow" else None
    lines = submission_lines(store, mine, detections, class_names)
    if processes.world_size() == 1:
        shares = [(mine, lines)]
    else:
        with atomic_path(folder / f"{processes.rank()}.jsonl") as temporary, temporary.open("wb") as handle:
            handle.writelines(lines)
        write_json(folder / f"{processes.rank()}-keyframes.json", mine)
        processes.barrier()
        shares = [
            (read_json(folder / f"{rank}-keyframes.json"), read_lines(folder / f"{rank}.jsonl"))
            for rank in (range(processes.world_size()) if processes.rank() == 0 else ())
        ]
    metrics = None
    if processes.rank() == 0:
        _require_each_once(store, [numbers for numbers, _ in shares])
        with atomic_dir(Path(out_dir)) as made:
            write_submission(made / "results_nusc.json", shares)
            metrics = figures or score(made / "results_nusc.json", root, store.version, scenes=scene_names(store))
            if protocol is not NUSCENES:
                metrics["rules"] = protocol.rules()
            if expect:
                metrics["expect"] = compare_with_expected(metrics, expect)
            metrics["thresholds"] = best_scores(whole, protocol)
            write_json(made / "metrics.json", metrics)
            write_json(made / THRESHOLDS, metrics["thresholds"])
            write_atomic(made / "table.txt", format_table(metrics))
    processes.barrier()  # nobody writes the next share before this one is read
    if processes.world_size() > 1:
        remove(folder / f"{processes.rank()}.jsonl")  # as large as the submission
    return metrics


def judge_alone(
    store: AnnotationStore,
    detections: Mapping[str, Detections],
    class_names: Sequence[str],
    judging: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Return petrflow's metrics of a whole split, judged in this process; None where no labelled
    box counts.
    """
    protocol = protocol_of_classes(class_names, typical_sizes(store, class_names), judging)
    if not len(labelled(store, np.arange(len(store)), protocol)[0]):
        return None
    matches = match_keyframes(store, range(len(store)), detections, class_names, protocol)
    metrics = _metrics(judge_classes(matches, protocol, parts_of(store)), matches, protocol)
    if protocol is not NUSCENES:
        metrics["rules"] = protocol.rules()
    return {**metrics, "thresholds": best_scores(matches, protocol)}


def _matched_together(store: AnnotationStore, mine: Matches, protocol: Protocol, folder: Path) -> Matches:
    """Return the matches of the whole split, in every process, from what every process matched."""
    rank, world = processes.rank(), processes.world_size()
    if world == 1:
        return mine
    with atomic_path(folder / f"{rank}.npz") as temporary, temporary.open("wb") as handle:
        np.savez(handle, **cast(Any, mine.arrays()))
    processes.barrier()
    return join([_read_matches(folder / f"{number}.npz") for number in range(world)], store, protocol)


def _judge_together(store: AnnotationStore, whole: Matches, protocol: Protocol, folder: Path) -> dict[str, Any] | None:
    """Return the figures of the whole split in the first process."""
    rank, world, parts = processes.rank(), processes.world_size(), parts_of(store)
    if world == 1:
        return _metrics(judge_classes(whole, protocol, parts), whole, protocol)
    # Classes with many detections go to different processes.
    sizes = np.bincount(whole.label, minlength=len(protocol.class_names))
    classes = [protocol.class_names[k] for k in np.argsort(-sizes, kind="stable")[rank::world]]
    write_json(folder / f"{rank}.json", to_plain(judge_classes(whole, protocol, parts, classes)))
    processes.barrier()
    if rank > 0:
        return None
    judged: dict[str, Judged] = {}
    for number in range(world):
        judged |= from_plain(read_json(folder / f"{number}.json"))
    return _metrics({name: judged[name] for name in protocol.class_names}, whole, protocol)


def _read_matches(path: Path) -> Matches:
    with np.load(path, allow_pickle=False) as arrays:
        return Matches(**{name: arrays[name] for name in arrays.files})


def _metrics(judged: Mapping[str, Judged], matches: Matches, protocol: Protocol) -> dict[str, Any]:
    whole = {name: one.whole for name, one in judged.items()}
    velocity_known, attribute_known = (bool(known) for known in matches.known)
    counts = {name: one.truths for name, one in whole.items()}
    return {**summary(combine(whole, protocol), counts, velocity_known, attribute_known), **details(judged, protocol)}


def _require_each_once(store: AnnotationStore, shares: Sequence[Sequence[int]]) -> None:
    times = np.bincount(np.concatenate([np.asarray(one, dtype=np.int64) for one in shares]), minlength=len(store))
    tokens = store.columns["keyframe.token"]
    if (times > 1).any():
        twice = tokens[int(np.argmax(times > 1))]
        raise PetrflowError(f"sample {twice} was predicted by two processes: the loader shards wrongly")
    require_all(store, {tokens[int(k)]: None for k in np.flatnonzero(times)})
