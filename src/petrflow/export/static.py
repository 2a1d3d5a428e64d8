"""A trained model as a static one for ``paddle.inference``, proven equal to the eager one on real
samples.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.export.exported import FILES, INPUTS, Predictor
from petrflow.export.onnx import to_onnx
from petrflow.export.parity import BOX_SCALE, SCORE_SCALE, TOLERANCE, compare, steady_sample
from petrflow.files import atomic_path, remove, temporary_path, write_json
from petrflow.model import PetrV2, build_model
from petrflow.samples.dataset import PetrDataset
from petrflow.weights.load import load_weights


class Network(paddle.nn.Layer):
    """What is exported: images and calibration in, the last decoder layer's class logits and box
    codes out.
    """

    def __init__(self, model: PetrV2) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: paddle.Tensor, img2lidars: paddle.Tensor, timestamps: paddle.Tensor) -> tuple[Any, Any]:
        """Return (1, Q, C) class logits and (1, Q, 10) box codes."""
        logits, codes = self.model.raw_outputs(images, img2lidars, timestamps)
        return logits[-1], codes[-1]


def export(
    model_config: Mapping[str, Any],
    weights: Mapping[str, np.ndarray] | Path | None,
    store_path: Path,
    root: Path,
    out_dir: Path,
    samples: int = 4,
) -> dict[str, Any]:
    """Write a static model and compare it with the eager one.

    Parameters
    ----------
    model_config : mapping
        Parsed model file.
    weights : mapping, Path or None
        What :func:`petrflow.weights.load.load_weights` takes; None exports fresh weights.
    store_path, root : Path
        Annotation store of the split to compare on, and the nuScenes root it was made from.
    out_dir : Path
        Gets ``model.json`` and ``model.pdiparams`` (the program and its parameters), ``model.onnx``
        where paddle2onnx manages it, and, last, ``parity.json``.
    samples : int
        How many samples to compare on, spread over the split.

    Returns
    -------
    dict
        What ``parity.json`` holds.

    Raises
    ------
    PetrflowError
        When the exported model differs from the eager one; then nothing is left in ``out_dir``.
    """
    dataset = PetrDataset(store_path, root, dict(model_config), training=False)
    cameras = len(AnnotationStore.open(store_path).camera_names)
    model = build_model(model_config, num_cameras=cameras)
    if weights is not None:
        print(load_weights(model, weights), file=sys.stderr)
    model.eval()
    wanted = sorted({int(index) for index in np.linspace(0, len(dataset) - 1, min(samples, len(dataset)))})
    compared = [steady_sample(model, dataset, index) for index in wanted]
    inputs, expected = [sample.inputs for sample in compared], [sample.outputs for sample in compared]

    out_dir.mkdir(parents=True, exist_ok=True)
    with scratch_folder(out_dir) as folder:
        save(model, [array.shape for array in inputs[0]], folder / "model")
        predictor = Predictor(folder)
        parity = compare(expected, [predictor.run(arrays) for arrays in inputs])
        coder = model.pts_bbox_head.bbox_coder
        record: dict[str, Any] = {
            "tolerance": TOLERANCE,
            "max_relative_difference": {"boxes": parity.boxes, "scores": parity.scores},
            "scale": {"boxes": BOX_SCALE, "scores": SCORE_SCALE},
            "samples": [dataset.token(sample.index) for sample in compared],
            "inputs": {name: list(array.shape) for name, array in zip(INPUTS, inputs[0], strict=True)},
            "outputs": {"class_logits": list(expected[0][0].shape), "box_codes": list(expected[0][1].shape)},
            "class_names": list(model_config["class_names"]),
            "decode": {"max_num": coder.max_num, "centre_range": list(coder.post_center_range)},
            "paddle": paddle.__version__,
        }
        if not parity.holds:
            raise PetrflowError(
                f"The exported model differs from the eager one by {parity.boxes:.2g} (boxes) and {parity.scores:.2g} "
                f"(scores) relative, more than {TOLERANCE}, over samples {', '.join(record['samples'])}. Nothing was kept; "
                "look for a part of the model that a static graph computes differently."
            )
        record["onnx"] = to_onnx(folder, inputs, expected)
        for name in (*FILES, "model.onnx"):
            if (folder / name).exists():
                with atomic_path(out_dir / name) as path:
                    shutil.copyfile(folder / name, path)
    write_json(out_dir / "parity.json", record)
    return record


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


def save(model: PetrV2, shapes: list[tuple[int, ...]], path: Path) -> None:
    """Trace a model that has run eagerly on inputs of these shapes, and write ``path``.json and
    ``path``.pdiparams.
    """
    model.pts_bbox_head.register_constants()
    network = Network(model)
    network.eval()
    spec = [paddle.static.InputSpec(list(shape), "float32", name) for shape, name in zip(shapes, INPUTS, strict=True)]
    logging.getLogger("paddle").setLevel(logging.ERROR)
    paddle.jit.save(network, str(path), input_spec=spec)
