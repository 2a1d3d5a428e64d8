"""A trained model as static ones for ``paddle.inference`` and onnxruntime, proven equal to the
eager one on real samples.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.export.exported import GRAPHS, Arrays, Predictor, in_two_parts
from petrflow.export.networks import BoxNetwork, FeatureNetwork, Network, full_float32, save
from petrflow.export.onnx import to_onnx
from petrflow.export.package import facts, write_package
from petrflow.export.parity import BOX_SCALE, SCORE_SCALE, TOLERANCE, Parity, compare, steady_sample
from petrflow.files import atomic_path, remove, temporary_path, write_json
from petrflow.model import PetrV2, build_model
from petrflow.samples.dataset import PetrDataset
from petrflow.weights.load import load_weights


def export(
    model_config: Mapping[str, Any],
    weights: Mapping[str, np.ndarray] | Path | None,
    store_path: Path,
    root: Path,
    out_dir: Path,
    samples: int = 4,
    *,
    variants: Sequence[str] = (),
    train_store: Path | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the static models, compare them with the eager one, and add what somebody needs to use
    them without petrflow.

    Parameters
    ----------
    model_config : mapping
        Parsed model file.
    weights : mapping, Path or None
        What :func:`petrflow.weights.load.load_weights` takes; None exports fresh weights.
    store_path, root : Path
        Annotation store of the split to compare on, and the nuScenes root it was made from.
    out_dir : Path
        Gets ``GRAPH.json`` and ``GRAPH.pdiparams`` (program and parameters) of each of
        :data:`GRAPHS`, ``GRAPH.onnx`` where paddle2onnx manages it, the files of
        :mod:`petrflow.export.package`, ``variants.json`` where variants are asked for, and, last,
        ``parity.json``.
    samples : int
        How many samples to compare on, spread over the split.
    variants : of ``float16`` and ``int8``
        Smaller ONNX graphs to add (:mod:`petrflow.export.variants`).
    train_store : Path, optional
        Annotation store of the training split, whose pictures set INT8's ranges.
    evaluation : mapping, optional
        How to score variants: ``batch_size``, ``num_workers`` and ``judge`` of
        :func:`petrflow.evaluation.evaluate.evaluate`.

    Returns
    -------
    dict
        What ``parity.json`` holds.

    Raises
    ------
    PetrflowError
        When an exported model differs from the eager one; then nothing is left in ``out_dir``.
    """
    # ---- what the eager model makes of some samples
    dataset = PetrDataset(store_path, root, dict(model_config), training=False)
    cameras = AnnotationStore.open(store_path).camera_names
    model = build_model(model_config, num_cameras=len(cameras))
    if weights is not None:
        print(load_weights(model, weights), file=sys.stderr)
    model.eval()
    out_dir.mkdir(parents=True, exist_ok=True)
    with full_float32(), scratch_folder(out_dir) as folder:
        wanted = sorted({int(index) for index in np.linspace(0, len(dataset) - 1, min(samples, len(dataset)))})
        compared = [steady_sample(model, dataset, index) for index in wanted]
        inputs, expected = [sample.inputs for sample in compared], [sample.outputs for sample in compared]

        # ---- the static graphs, compared with it
        features = save_graphs(model, inputs[0], folder)
        predictors = {graph: Predictor(folder, graph) for graph in GRAPHS}
        one, two = (run(predictors, inputs, expected) for run in (compare_one, compare_two))
        record = _parity_record(model, inputs[0], expected[0], one, two)
        record["samples"] = [dataset.token(sample.index) for sample in compared]
        record["class_names"] = list(model_config["class_names"])
        _require_equal({"model": one, "two exported graphs": two}, record["samples"])

        # ---- ONNX, and what goes with it
        record["onnx"] = to_onnx(folder, ("model",), lambda graphs: compare_one(graphs, inputs, expected))
        record["onnx_two_graphs"] = to_onnx(
            folder, ("features", "boxes"), lambda graphs: compare_two(graphs, inputs, expected)
        )
        if variants:
            write_json(
                folder / "variants.json",
                _variants(folder, variants, model_config, record, train_store, (store_path, root), evaluation or {}),
            )
        write_package(folder, facts(dataset, cameras, record, features), record)
        for made in sorted(folder.iterdir()):
            with atomic_path(out_dir / made.name) as path:
                shutil.copyfile(made, path)
    write_json(out_dir / "parity.json", record)
    return record


def _parity_record(model: PetrV2, inputs: Arrays, outputs: Any, one: Parity, two: Parity) -> dict[str, Any]:
    """Return what ``parity.json`` says of the graphs and of how they were compared.

    ``inputs`` and ``outputs`` are those of any sample; ``one`` and ``two`` are the whole model's
    differences and those of the two graphs.
    """
    coder = model.pts_bbox_head.bbox_coder
    return {
        "tolerance": TOLERANCE,
        "max_relative_difference": {"boxes": one.boxes, "scores": one.scores},
        "two_graphs": {"boxes": two.boxes, "scores": two.scores},
        "scale": {"boxes": BOX_SCALE, "scores": SCORE_SCALE},
        "precision": "float32, TF32 switched off",
        "inputs": {name: list(array.shape) for name, array in zip(GRAPHS["model"][0], inputs, strict=True)},
        "outputs": {"class_logits": list(outputs[0].shape), "box_codes": list(outputs[1].shape)},
        "decode": {"max_num": coder.max_num, "centre_range": list(coder.post_center_range)},
        "paddle": paddle.__version__,
    }


def _require_equal(parities: Mapping[str, Parity], samples: Sequence[str]) -> None:
    """Raise when an exported model differs from the eager one."""
    for name, parity in parities.items():
        if not parity.holds:
            raise PetrflowError(
                f"The exported model ({name}) differs from the eager one by {parity.boxes:.2g} (boxes) and {parity.scores:.2g} "
                f"(scores) relative, more than {TOLERANCE}, over samples {', '.join(samples)}. Nothing was kept; "
                "look for a part of the model that a static graph computes differently."
            )


def save_graphs(model: PetrV2, inputs: Arrays, folder: Path) -> list[int]:
    """Write all static graphs of a model that has run eagerly on these inputs; return the shape (C,
    h, w) of a picture's features.
    """
    images, img2lidars, timestamps = inputs
    with paddle.no_grad():
        features = FeatureNetwork(model)(paddle.to_tensor(images[0, :1])).shape[1:]
    model.pts_bbox_head.register_constants()
    shapes = [array.shape for array in inputs]
    save(Network(model), dict(zip(GRAPHS["model"][0], shapes, strict=True)), folder / "model")
    # The image network takes any number of pictures. The head's reshapes leave one size open at
    # most: it takes one sample.
    save(FeatureNetwork(model), {"images": [-1, *images.shape[2:]]}, folder / "features")
    stack = [images.shape[1] // 2, *features]
    parts = [stack, stack, list(img2lidars.shape), list(timestamps.shape)]
    network = BoxNetwork(model, images.shape[-2:])
    save(network, dict(zip(GRAPHS["boxes"][0], parts, strict=True)), folder / "boxes")
    return list(features)


def compare_one(graphs: Mapping[str, Any], inputs: list[Arrays], expected: list[Any]) -> Parity:
    """Compare the graph of the whole model, of whatever library, with what the eager model made of
    the inputs.
    """
    return compare(expected, [graphs["model"].run(arrays) for arrays in inputs])


def compare_two(graphs: Mapping[str, Any], inputs: list[Arrays], expected: list[Any]) -> Parity:
    """Compare the two graphs likewise."""
    outputs: list[Any] = [in_two_parts(graphs["features"], graphs["boxes"], arrays) for arrays in inputs]
    return compare(expected, outputs)


def _variants(
    folder: Path,
    names: Sequence[str],
    model_config: Mapping[str, Any],
    record: Mapping[str, Any],
    train_store: Path | None,
    validation: tuple[Path, Path],
    evaluation: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what ``variants.json`` holds: the variants, or why there are none."""
    from petrflow.export.variants import make_variants

    if not record["onnx_two_graphs"]["written"]:
        return {"written": False, "reason": record["onnx_two_graphs"]["reason"]}
    train = (train_store or validation[0], validation[1])
    return {
        "written": True,
        **make_variants(folder, names, model_config, record, train, validation, evaluation),
    }


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder that is gone afterwards; if this process is killed, the next writer beside it sweeps
    it up.
    """
    folder = temporary_path(parent / "export")
    folder.mkdir()
    try:
        yield folder
    finally:
        remove(folder)
