"""The stages as the workflow asks for them, one function for every rule: checks first, files in,
files out, provenance beside them.

Every function takes ``order``, what the workflow wants made
(:class:`petrflow.files.receipts.Order`), and may be called without one by hand. A stage's folder is
replaced when all of it is written, so that the last finished result stands until its successor
does.

For the scripts in ``workflow/scripts``, and by hand. Nothing below imports this module. It computes
nothing itself and knows nothing of Snakemake.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from petrflow.config import load_model
from petrflow.errors import PetrflowError
from petrflow.files import atomic_dir, read_json
from petrflow.files.provenance import Provenance, note_files, provenance, require_own_folder, stamp
from petrflow.files.receipts import Order
from petrflow.files.status import figure
from petrflow.machine.device import use_device
from petrflow.machine.gpus import own_gpus
from petrflow.nuscenes.root import mark_of
from petrflow.preflight.fitness import gate

Inputs = dict[str, "str | Path"]


@contextlib.contextmanager
def _successor(
    out_dir: Path, inputs: Inputs, settings: Mapping[str, Any] | None, order: Order | None
) -> Iterator[tuple[Path, Provenance]]:
    """Yield a folder to write a stage's results into; with its ``provenance.json`` it becomes
    ``out_dir`` when the body is over.
    """
    require_own_folder(out_dir)
    with atomic_dir(out_dir) as folder:
        with provenance(folder / "provenance.json", inputs, dict(settings or {}), order) as record:
            yield folder, record
        note_files(folder)


def _on_one_gpu(stage: Callable[..., None]) -> Callable[..., None]:
    """Keep one GPU to a stage, where its ``schedule`` lets it use one."""
    signature = inspect.signature(stage)

    @functools.wraps(stage)
    def run(*arguments: Any, **named: Any) -> None:
        with own_gpus(signature.bind(*arguments, **named).arguments["schedule"]):
            stage(*arguments, **named)

    return run


# ------------------------------------------------------------------------------------------------------------------- doors


def synthetic(settings: Mapping[str, Any], root: Path, about: Path, order: Order | None = None) -> None:
    """Render a synthetic nuScenes root.

    Parameters
    ----------
    settings : mapping
        The data set's entry in the config.
    root, about : Path
        ``data/{dataset}``, and the folder of what petrflow knows about it,
        ``results/{dataset}/root``.
    """
    from petrflow.sources.synthetic.generate import prepare

    with provenance(about / "provenance.json", {}, dict(settings), order) as record:
        prepare(settings, root, about)
        record.record(root=mark_of(root, about))


def nuscenes(settings: Mapping[str, Any], root: Path, about: Path, order: Order | None = None) -> None:
    """Bring nuScenes, or data in its form, to its place: linked from a folder, or fetched,
    extracted and verified.

    Parameters are those of :func:`synthetic`.
    """
    from petrflow.fetch.links import public
    from petrflow.sources.nuscenes import prepare

    with provenance(about / "provenance.json", {}, public(settings), order) as record:
        prepare(settings, root, about)
        record.record(root=mark_of(root, about))


def xtreme1(
    settings: Mapping[str, Any], root: Path, about: Path, class_names: Sequence[str] = (), order: Order | None = None
) -> None:
    """Turn an Xtreme1 export into a nuScenes root, and let the doctor look at it before anything is
    built on it.

    Parameters are those of :func:`synthetic`, and ``class_names`` those of :func:`doctor`.
    """
    from petrflow.doctor.examine import examine
    from petrflow.sources.xtreme1.prepare import prepare

    with provenance(about / "provenance.json", {}, dict(settings), order) as record:
        prepare(settings, root, about, class_names)
        if settings["doctor"]:
            examine(root, about.parent / "doctor", about=about, class_names=class_names)
        record.record(root=mark_of(root, about))


def weights(
    source: Mapping[str, Any], path: Path, config: Mapping[str, Any] | None = None, order: Order | None = None
) -> None:
    """Fetch published weights, check their checksum, that they hold arrays and nothing else, and
    that they belong to the runs' models.

    Parameters
    ----------
    source : mapping
        ``url`` and, optionally, ``sha256``.
    path : Path
        Where the file goes.
    config : mapping, optional
        The checked configuration: the weights are held against the models of the runs that name
        them.
    """
    from petrflow.fetch.download import fetch
    from petrflow.fetch.links import public
    from petrflow.preflight.mistakes import require_fit
    from petrflow.weights.pdparams import load_pdparams

    with provenance(path.with_name("provenance.json"), {}, public(source), order) as record:
        fetch(source, path, check=load_pdparams)
        if config is not None:
            require_fit(path, config, source)
        record.record(bytes=path.stat().st_size)


# ------------------------------------------------------------------------------------------------------------- annotations


def annotate(root: Path, about: Path, out_dir: Path, order: Order | None = None) -> None:
    """Check a root's images and build the annotation stores of both splits from its tables, which
    are read once.

    Parameters
    ----------
    root, about : Path
        ``data/{dataset}`` and ``results/{dataset}/root``.
    out_dir : Path
        Gets ``train.arrow`` and ``val.arrow``.
    """
    from petrflow.annotations import annotate as build

    require_own_folder(out_dir)
    with atomic_dir(out_dir) as folder:
        build(root, {split: folder / f"{split}.arrow" for split in ("train", "val")}, about=about)
        stamp(folder / "provenance.json", order)
        note_files(folder)


def classic(root: Path, store_path: Path, path: Path, order: Order | None = None) -> None:
    """Write one split's annotations as the pickle that stock Paddle3D reads, from the store."""
    from petrflow.annotations import write_classic

    record = path.with_name(f"{order.stage if order else 'classic'}-provenance.json")
    record.unlink(missing_ok=True)  # it says of the file in place what it was made from
    with provenance(record, {"annotations": store_path}, None, order):
        write_classic(root, store_path, path)


def doctor(
    root: Path,
    stores: Mapping[str, Path],
    out_dir: Path,
    class_names: Sequence[str] = (),
    order: Order | None = None,
) -> None:
    """Look at a data set's labels against its calibration and images, and say whether training on
    it makes sense.

    Parameters
    ----------
    root, stores, out_dir : Path, mapping of split to Path, Path
        The data set, its annotation stores, and where the findings go.
    class_names : sequence of str
        Classes of the models that are trained on it; nuScenes' ten without them.
    """
    from petrflow.doctor.examine import examine

    record = out_dir / "provenance.json"
    record.unlink(missing_ok=True)  # a verdict against training leaves its findings, and is no finished stage
    with provenance(record, {f"{split} annotations": path for split, path in stores.items()}, None, order):
        examine(root, out_dir, dict(stores), out_dir.parent / "root", class_names)


# -------------------------------------------------------------------------------------------------------------------- runs


@_on_one_gpu
def baseline(
    model_file: Path,
    weights: Path | None,
    store_path: Path,
    root: Path,
    out_dir: Path,
    schedule: Mapping[str, Any],
    expect: Mapping[str, Any] | None = None,
    partial_weights: bool = False,
    order: Order | None = None,
) -> None:
    """Score weights on a split before any training.

    Parameters
    ----------
    model_file : Path
        Model file (YAML).
    weights : Path, optional
        ``.pdparams``; without it the model is scored as training would start it.
    store_path, root : Path
        The split's annotation store and the nuScenes root it was made from.
    out_dir : Path
        Gets what :func:`petrflow.evaluation.evaluate.evaluate` writes.
    schedule : mapping
        Of the run: seed, device and workers are used.
    expect : mapping, optional
        Figures that the weights are known to reach.
    partial_weights : bool
        Take weights that hold less than nine tenths of the model's entries.
    """
    import paddle

    from petrflow.annotations import AnnotationStore
    from petrflow.evaluation.evaluate import evaluate
    from petrflow.evaluation.table import format_table
    from petrflow.model import build_model
    from petrflow.weights.load import load_weights

    model_config = load_model(model_file)
    gate(schedule, model_config, out_dir)
    device = use_device(schedule["device"])
    inputs: Inputs = {"model file": model_file, "annotations": store_path, "weights": weights or "none"}
    with _successor(out_dir, inputs, {"seed": schedule["seed"]}, order) as (folder, record):
        record.device = device
        paddle.seed(schedule["seed"])
        model = build_model(model_config, num_cameras=len(AnnotationStore.open(store_path).camera_names))
        if weights is not None:
            fresh, classes = model_config.get("fresh", ()), model_config["class_names"]
            print(load_weights(model, weights, fresh, partial_weights, classes), file=sys.stderr)
        model.eval()
        metrics = evaluate(
            model,
            store_path,
            root,
            model_config,
            folder,
            batch_size=schedule["batch_size"],
            num_workers=schedule["num_workers"],
            judge=schedule.get("judge", "petrflow"),
            expect=expect or None,
        )
    assert metrics is not None  # this process is alone
    figure(f"mAP {metrics['mAP']:.3f}  NDS {metrics['NDS']:.3f}")
    print(format_table(metrics), file=sys.stderr)


def train(request_path: Path, order: Order | None = None, **request: Any) -> None:
    """Train in a process of its own, or in one a device when ``devices`` > 1.

    The training process replaces ``out_dir`` itself, when the last epoch is over.

    Parameters
    ----------
    request_path : Path
        Where the request is left for the processes, and for whoever wants to train it by hand.
    request
        Fields of :class:`petrflow.training.request.Request`; ``model_config`` may be the model
        file's path.

    Raises
    ------
    KeyboardInterrupt
        It was asked to stop and has left a checkpoint.
    PetrflowError
        When a process ended in any other way.
    """
    from petrflow.annotations import AnnotationStore
    from petrflow.training.launch import launch
    from petrflow.training.request import Request

    if isinstance(request["model_config"], Path):
        request["model_config"] = load_model(request["model_config"])
    out_dir = Path(request["out_dir"])
    require_own_folder(out_dir)
    schedule = request["schedule"]
    with own_gpus(schedule, schedule["devices"]) as taken:
        samples = len(AnnotationStore.open(request["train_store"]))
        gate(schedule, request["model_config"], out_dir, samples=samples)
        Request(**request).write(request_path)
        code = launch(request_path, schedule["devices"], keep=taken.descriptors)
    if code == os.EX_TEMPFAIL:
        raise KeyboardInterrupt
    if code:
        raise PetrflowError("Training failed; what it said stands above.")
    stamp(out_dir / "provenance.json", order)
    best = read_json(out_dir / "metrics.json").get("best")
    if best:
        figure(f"best mAP {best['mAP']:.3f}  NDS {best['NDS']:.3f} at epoch {best['epoch']}")


@_on_one_gpu
def export(
    model_file: Path,
    weights: Path,
    store_path: Path,
    root: Path,
    out_dir: Path,
    schedule: Mapping[str, Any],
    train_store: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    order: Order | None = None,
) -> None:
    """Export trained weights as static models and compare them with the eager one on samples of a split.

    Parameters
    ----------
    store_path, train_store : Path
        Annotation stores of the validation split, and of the training split, whose pictures set INT8's ranges.
    settings : mapping, optional
        ``export`` of the run's configuration.
    """
    from petrflow.export import static as exporting

    model_config = load_model(model_file)
    gate(schedule, model_config, out_dir)
    device = use_device(schedule["device"])
    inputs: Inputs = {"model file": model_file, "annotations": store_path, "weights": weights}
    variants = (settings or {}).get("variants", [])
    with _successor(out_dir, inputs, settings, order) as (folder, record):
        record.device = device
        exporting.export(
            model_config,
            weights,
            store_path,
            root,
            folder,
            variants=variants,
            train_store=train_store,
            evaluation={
                "batch_size": schedule["batch_size"],
                "num_workers": schedule["num_workers"],
                "judge": schedule.get("judge", "petrflow"),
            },
        )


@_on_one_gpu
def demo(
    model_file: Path,
    exported: Path,
    store_path: Path,
    root: Path,
    out_dir: Path,
    schedule: Mapping[str, Any],
    settings: Mapping[str, Any],
    min_score: Any = None,
    thresholds: Path | None = None,
    order: Order | None = None,
) -> None:
    """Run an exported model over a scene and draw what it finds.

    Parameters
    ----------
    min_score, thresholds
        As :func:`petrflow.evaluation.thresholds.class_scores` takes them.
    """
    from petrflow.export.exported import ExportedModel
    from petrflow.reports.demo import demo as draw_scene

    model_config = load_model(model_file)
    gate(schedule, model_config, out_dir)
    device = use_device(schedule["device"])
    inputs: Inputs = {
        "model file": model_file,
        "annotations": store_path,
        "exported model": exported / "parity.json",
    }
    with _successor(out_dir, inputs, settings, order) as (folder, record):
        record.device = device
        draw_scene(
            ExportedModel(exported),
            store_path,
            root,
            model_config,
            folder,
            num_workers=schedule["num_workers"],
            min_score=min_score,
            thresholds=thresholds,
            **settings,
        )


@_on_one_gpu
def predict(
    model_file: Path,
    exported: Path | None,
    weights: Path,
    store_path: Path,
    root: Path,
    out_dir: Path,
    schedule: Mapping[str, Any],
    min_score: Any = None,
    thresholds: Path | None = None,
    scenes: int = 1,
    tracks: bool = False,
    order: Order | None = None,
) -> None:
    """Run a trained model over a data set, labelled or not, from where an earlier start was ended.

    Parameters
    ----------
    exported, weights : Path
        The run's export, and its trained weights, which predict where there is none.
    store_path, root : Path
        The data set's annotation store, and its nuScenes root.
    out_dir : Path
        Gets what :func:`petrflow.prediction.predict.predict_dataset` writes, ``thresholds.json`` (the scores from which on
        boxes are counted and drawn) and ``viewer/``.
    min_score, thresholds
        As :func:`petrflow.evaluation.thresholds.class_scores` takes them.
    scenes : int
        How many scenes are drawn.
    tracks : bool
        Number the objects of each scene.
    """
    from petrflow.annotations import AnnotationStore
    from petrflow.evaluation.table import format_table
    from petrflow.evaluation.thresholds import class_scores
    from petrflow.export.exported import ExportedModel, files_of
    from petrflow.files import write_json
    from petrflow.model import build_model
    from petrflow.prediction.film import score_note
    from petrflow.prediction.parts import Parts
    from petrflow.prediction.predict import SUBMISSION, predict_dataset, prediction_key
    from petrflow.reports.detections import DetectionSet
    from petrflow.reports.viewer import write_viewer
    from petrflow.reports.words import pair
    from petrflow.weights.load import load_weights

    model_config = load_model(model_file)
    names = list(model_config["class_names"])
    scores = class_scores(thresholds, names, min_score)
    gate(schedule, model_config, out_dir)
    device = use_device(schedule["device"])
    by = [weights] if exported is None else [exported / name for name in ("parity.json", *files_of("model"))]
    inputs: Inputs = {"model file": model_file, "annotations": store_path, "model": by[0]}
    require_own_folder(out_dir)
    parts = Parts(out_dir.with_name(f".{out_dir.name}"), prediction_key(by, store_path, model_config))
    with _successor(out_dir, inputs, {"min_score": min_score, "scenes": scenes, "tracks": tracks}, order) as (
        folder,
        record,
    ):
        record.device = device
        if exported is not None:
            model: Any = ExportedModel(exported)
        else:
            model = build_model(model_config, num_cameras=len(AnnotationStore.open(store_path).camera_names))
            load_weights(model, weights, ())
        model.eval()
        write_json(
            folder / "thresholds.json", {name: {"score": float(s)} for name, s in zip(names, scores, strict=True)}
        )
        metrics = predict_dataset(
            model,
            store_path,
            root,
            model_config,
            folder,
            parts,
            scores=scores,
            scenes=scenes,
            tracks=tracks,
            note=score_note(scores, min_score is not None),
            num_workers=schedule["num_workers"],
        )
        shown = DetectionSet("predict", pair("viewer_set_predict"), folder / SUBMISSION)
        write_viewer(
            store_path,
            root,
            [shown],
            folder / "viewer",
            class_names=names,
            title=f"{out_dir.parents[1].name}, {out_dir.name}",
        )
    parts.remove()
    if metrics is not None:
        print(format_table(metrics), file=sys.stderr)


def prelabel(
    run: str,
    predicted: Path,
    about: Path,
    out_dir: Path,
    class_ids: Mapping[str, int] | None = None,
    order: Order | None = None,
) -> None:
    """Write what a run found in an Xtreme1 data set as results that Xtreme1 takes in an upload.

    Parameters
    ----------
    run : str
        Its name is what the labeller sees as the labels' source.
    predicted : Path
        What :func:`predict` left: ``detections.parquet``, and ``thresholds.json`` with the score of each class from which
        on boxes are handed over.
    about : Path
        ``results/{dataset}/root``, with the import's ``frames.json``.
    out_dir : Path
        Gets ``prelabels.zip`` and ``summary.json``.
    class_ids : mapping, optional
        Numbers of classes on the server, over those that imported labels had.
    """
    from petrflow.evaluation.thresholds import FILE as THRESHOLDS
    from petrflow.files import write_json
    from petrflow.prediction.detections import FILE as DETECTIONS
    from petrflow.prediction.xtreme1_results import Way, frame_results, write_results
    from petrflow.sources.xtreme1.prepare import FRAMES

    way = Way(about / FRAMES, class_ids)
    inputs: Inputs = {"detections": predicted / DETECTIONS, "way back": about / FRAMES}
    with _successor(out_dir, inputs, {"class_ids": class_ids}, order) as (folder, _):
        found = frame_results(predicted / DETECTIONS, predicted / THRESHOLDS, way)
        summary = write_results(folder / "prelabels.zip", way, found, run)
        write_json(folder / "summary.json", summary)
    print(f"{summary['boxes']} boxes in {summary['frames']} frames: {out_dir / 'prelabels.zip'}", file=sys.stderr)
    if unknown := summary["classes_without_id"]:
        print(
            f"No number is known for {', '.join(unknown)}: the labeller will have to class these boxes by hand. Give the numbers in "
            "`class_ids` of the data set.",
            file=sys.stderr,
        )


def report(
    runs: Mapping[str, Any],
    notes: Mapping[str, list[str]],
    path: Path,
    price_per_hour: float | None = None,
    order: Order | None = None,
) -> None:
    """Write the page over all runs, and the viewer of every run whose detections are new.

    Parameters
    ----------
    runs : mapping
        Part of the config of each run, to be shown; ``dataset`` says where its scenes are.
    notes : mapping
        Sentences about each run's stages that are not what the config asks for.
    path : Path
        The page.
    price_per_hour : float, optional
        What an hour of the machine costs.
    """
    from petrflow.reports.page import write_report
    from petrflow.reports.viewer import update_viewer

    results, record = path.parent.parent, path.with_name("provenance.json")
    record.unlink(missing_ok=True)  # it says of the page in place what it was made from
    with provenance(record, {}, None, order):
        said = {name: list(notes.get(name, ())) for name in runs}
        for name, entry in runs.items():
            if fault := update_viewer(results, name, str(entry.get("dataset"))):
                said[name].append(fault)
        write_report(results, {"runs": runs, "price_per_hour": price_per_hour}, path, said)


def preflight(config: Mapping[str, Any], models: Mapping[str, Path]) -> None:
    """Say in one table what this machine is good for and whether it fits the config."""
    from petrflow.preflight.fitness import main

    main(config, {run: load_model(Path(path)) for run, path in models.items()})
