"""The stages of a run as the workflow asks for them: files in, files out, with provenance beside what they leave."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petrflow.config import load_yaml
from petrflow.errors import PetrflowError
from petrflow.files.provenance import provenance
from petrflow.machine.device import use_device
from petrflow.preflight import gate


def baseline(
    model_file: Path,
    weights: Path | None,
    store_path: Path,
    root: Path,
    out_dir: Path,
    schedule: Mapping[str, Any],
    expect: Mapping[str, Any] | None = None,
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
    """
    import paddle

    from petrflow.annotations import AnnotationStore
    from petrflow.evaluation.evaluate import evaluate
    from petrflow.evaluation.table import format_table
    from petrflow.model import build_model
    from petrflow.weights.load import load_weights

    model_config = load_yaml(model_file)
    gate(schedule, model_config, out_dir)
    device = use_device(schedule["device"])
    inputs: dict[str, str | Path] = {"model file": model_file, "annotations": store_path, "weights": weights or "none"}
    with provenance(out_dir / "provenance.json", inputs, {"seed": schedule["seed"]}) as record:
        record.device = device
        paddle.seed(schedule["seed"])
        model = build_model(model_config, num_cameras=len(AnnotationStore.open(store_path).camera_names))
        if weights is not None:
            print(load_weights(model, weights), file=sys.stderr)
        model.eval()
        metrics = evaluate(
            model,
            store_path,
            root,
            model_config,
            out_dir,
            batch_size=schedule["batch_size"],
            num_workers=schedule["num_workers"],
            judge=schedule.get("judge", "petrflow"),
            expect=expect or None,
        )
    assert metrics is not None  # this process is alone
    print(format_table(metrics), file=sys.stderr)


def train(request_path: Path, **request: Any) -> int:
    """Train in a process of its own, or in one a device under ``paddle.distributed.launch`` when ``devices`` > 1.

    Parameters
    ----------
    request_path : Path
        Where the request is left for the processes, and for whoever wants to train it by hand.
    request
        Fields of :class:`petrflow.training.request.Request`; ``model_config`` may be the model file's path.

    Returns
    -------
    int
        0 when training is done, 75 when it was asked to stop and has left a checkpoint.

    Raises
    ------
    PetrflowError
        When a process ended in any other way.
    """
    from petrflow.annotations import AnnotationStore
    from petrflow.training.launch import launch
    from petrflow.training.request import Request
    from petrflow.training.stopping import EX_TEMPFAIL

    if isinstance(request["model_config"], Path):
        request["model_config"] = load_yaml(request["model_config"])
    gate(
        request["schedule"],
        request["model_config"],
        request["out_dir"],
        samples=len(AnnotationStore.open(request["train_store"])),
    )
    schedule = {key: value for key, value in request["schedule"].items() if key != "allow_slow_cpu"}
    schedule["amp"] = schedule.get("amp") or None
    Request(**{**request, "schedule": schedule}).write(request_path)
    code = launch(request_path, schedule.get("devices", 1))
    if code not in (0, EX_TEMPFAIL):
        raise PetrflowError("Training failed; what it said stands above.")
    return code


def export(
    model_file: Path, weights: Path, store_path: Path, root: Path, out_dir: Path, schedule: Mapping[str, Any]
) -> None:
    """Export trained weights as a static model and compare it with the eager one on samples of a split."""
    from petrflow.export import static as exporting

    device = use_device(schedule["device"])
    inputs: dict[str, str | Path] = {"model file": model_file, "annotations": store_path, "weights": weights}
    with provenance(out_dir / "provenance.json", inputs) as record:
        record.device = device
        exporting.export(load_yaml(model_file), weights, store_path, root, out_dir)


def demo(
    model_file: Path,
    exported: Path,
    store_path: Path,
    root: Path,
    out_dir: Path,
    schedule: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Run an exported model over a scene and draw what it finds."""
    from petrflow.export.exported import ExportedModel
    from petrflow.reports.demo import demo as draw_scene

    device = use_device(schedule["device"])
    inputs: dict[str, str | Path] = {
        "model file": model_file,
        "annotations": store_path,
        "exported model": exported / "parity.json",
    }
    with provenance(out_dir / "provenance.json", inputs, dict(settings)) as record:
        record.device = device
        draw_scene(
            ExportedModel(exported),
            store_path,
            root,
            load_yaml(model_file),
            out_dir,
            num_workers=schedule["num_workers"],
            **settings,
        )
