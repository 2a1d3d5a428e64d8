"""A trained model as a static one for ``paddle.inference``, proven equal to the eager one on real samples."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from scipy.optimize import linear_sum_assignment

from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.files import atomic_path, read_json, remove, temporary_path, write_json
from petrflow.model import Detections, PetrV2, build_model, load_weights
from petrflow.model.decode import decode, decode_boxes
from petrflow.model.petr import network_inputs
from petrflow.samples.dataset import PetrDataset

INPUTS = ("images", "img2lidars", "timestamps")
TOLERANCE = 1e-3
"""Largest difference between exported and eager model, relative to the number or to the scale below, whichever is larger."""
BOX_SCALE, SCORE_SCALE = 1.0, 1e-2
FILES = ("model.json", "model.pdiparams")
STEADY, CANDIDATES = 1e-4, 10
"""Margin in logits above which rounding changes no choice of cells, and how many samples are tried for it."""


class Network(paddle.nn.Layer):
    """What is exported: images and calibration in, the last decoder layer's class logits and box codes out."""

    def __init__(self, model: PetrV2) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: paddle.Tensor, img2lidars: paddle.Tensor, timestamps: paddle.Tensor) -> tuple[Any, Any]:
        """Return (1, Q, C) class logits and (1, Q, 10) box codes."""
        logits, codes = self.model.raw_outputs(images, img2lidars, timestamps)
        return logits[-1], codes[-1]


@dataclass(frozen=True)
class Parity:
    """Largest differences between two models over some samples, before the choice of the best boxes."""

    boxes: float
    scores: float

    @property
    def holds(self) -> bool:
        """Whether both stay within the tolerance (NaN does not)."""
        return self.boxes <= TOLERANCE and self.scores <= TOLERANCE


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
        What :func:`petrflow.model.load_weights` takes; None exports fresh weights.
    store_path, root : Path
        Annotation store of the split to compare on, and the nuScenes root it was made from.
    out_dir : Path
        Gets ``model.json`` and ``model.pdiparams`` (the program and its parameters), ``model.onnx`` where paddle2onnx
        manages it, and, last, ``parity.json``.
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
    """A folder that is gone afterwards; if this process is killed, the next writer beside it sweeps it up."""
    folder = temporary_path(parent / "export")
    folder.mkdir()
    try:
        yield folder
    finally:
        remove(folder)


@dataclass(frozen=True)
class Sample:
    """What the eager model makes of one sample.

    Attributes
    ----------
    index : int
        In the data set.
    inputs : of the network.
    outputs : class logits (1, Q, C) and box codes (1, Q, 10) of the last decoder layer.
    margin : float
        As :meth:`petrflow.model.head.PetrV2Head.margin`; infinite without a dense head.
    """

    index: int
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, np.ndarray]
    margin: float


def run_eager(model: PetrV2, dataset: PetrDataset, index: int) -> Sample:
    """Run the eager model on one sample."""
    inputs = network_inputs(_batch_of_one(dataset.load(index)))
    with paddle.no_grad():
        logits, codes, sight = model.all_outputs(*(paddle.to_tensor(array) for array in inputs))
    margin = math.inf if sight is None else model.pts_bbox_head.margin(sight)
    return Sample(index, inputs, (logits[-1].numpy(), codes[-1].numpy()), margin)


def steady_sample(model: PetrV2, dataset: PetrDataset, index: int) -> Sample:
    """Return the first sample from ``index`` on whose queries and keys do not hang on rounding, or the steadiest of a few.

    A dense head's cells become queries and keys by how bold they are. Where the last one chosen and the first one left out differ by
    less than rounding, an exact copy of the model may choose the other, and no comparison of outputs would hold.
    """
    best: Sample | None = None
    for candidate in range(index, min(index + CANDIDATES, len(dataset))):
        sample = run_eager(model, dataset, candidate)
        if best is None or sample.margin > best.margin:
            best = sample
        if best.margin > STEADY:
            break
    assert best is not None
    return best


def save(model: PetrV2, shapes: list[tuple[int, ...]], path: Path) -> None:
    """Trace a model that has run eagerly on inputs of these shapes, and write ``path``.json and ``path``.pdiparams."""
    model.pts_bbox_head.register_constants()
    network = Network(model)
    network.eval()
    spec = [paddle.static.InputSpec(list(shape), "float32", name) for shape, name in zip(shapes, INPUTS, strict=True)]
    logging.getLogger("paddle").setLevel(logging.ERROR)
    paddle.jit.save(network, str(path), input_spec=spec)


def compare(expected: list[tuple[np.ndarray, np.ndarray]], actual: list[tuple[np.ndarray, np.ndarray]]) -> Parity:
    """Compare class logits and box codes of two models, as scores and as boxes, whatever order their queries have.

    Queries that start from a dense head's cells come by how bold the cells are: the last digit decides between two alike.
    """
    boxes, scores = [], []
    for (logits, codes), unordered in zip(expected, actual, strict=True):
        other_logits, other_codes = _in_order_of((logits, codes), unordered)
        scores.append(_difference(_sigmoid(logits), _sigmoid(other_logits), SCORE_SCALE))
        # Without the yaw, which jumps at pi; its sine and cosine are compared in its place.
        box, other_box = (np.delete(decode_boxes(c), 6, axis=-1) for c in (codes, other_codes))
        boxes.append(_difference(box, other_box, BOX_SCALE))
        boxes.append(_difference(codes[..., 6:8], other_codes[..., 6:8], BOX_SCALE))
    return Parity(boxes=float(np.max(boxes)), scores=float(np.max(scores)))


def _in_order_of(
    expected: tuple[np.ndarray, np.ndarray], actual: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Bring the queries of ``actual`` into the order of those of ``expected`` that they are nearest to."""
    ordered = []
    for sample in range(len(expected[0])):
        wanted, given = (np.concatenate([part[sample] for part in both], axis=-1) for both in (expected, actual))
        distance = np.nan_to_num(np.abs(wanted[:, None] - given[None]).sum(-1), nan=1e9, posinf=1e9)
        ordered.append(linear_sum_assignment(distance)[1])
    return tuple(np.stack([p[o] for p, o in zip(part, ordered, strict=True)]) for part in actual)  # type: ignore[return-value]


def _difference(expected: np.ndarray, actual: np.ndarray, scale: float) -> float:
    return float(np.max(np.abs(expected - actual) / np.maximum(np.abs(expected), scale)))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.astype("float64")))


def _batch_of_one(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {key: np.asarray(sample[key])[None] for key in ("img", "lidar2img", "timestamp")}


class Predictor:
    """``paddle.inference`` over an export folder."""

    def __init__(self, folder: Path) -> None:
        from paddle import inference

        for name in FILES:
            if not (folder / name).is_file():
                raise PetrflowError(f"{folder / name}: no such file. Export the run first.")
        config = inference.Config(*(str(folder / name) for name in FILES))
        config.disable_glog_info()
        device = paddle.get_device()
        if device.startswith("gpu"):
            config.enable_use_gpu(256, int(device.partition(":")[2] or 0))
        else:
            config.disable_gpu()
        self._predictor = inference.create_predictor(config)

    def run(self, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return class logits (1, Q, C) and box codes (1, Q, 10) of images, img2lidars and timestamps."""
        for name, array in zip(INPUTS, arrays, strict=True):
            handle = self._predictor.get_input_handle(name)
            handle.reshape(list(array.shape))
            handle.copy_from_cpu(np.ascontiguousarray(array))
        self._predictor.run()
        logits, codes = (self._predictor.get_output_handle(n).copy_to_cpu() for n in self._predictor.get_output_names())
        return logits, codes


class ExportedModel:
    """An exported model that predicts as the eager one does.

    Parameters
    ----------
    folder : Path
        What :func:`export` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "parity.json").is_file():
            raise PetrflowError(f"{self.folder / 'parity.json'}: no such file. Export the run first.")
        self.record = read_json(self.folder / "parity.json")
        self._predictor = Predictor(self.folder)

    def eval(self) -> None:
        """Do nothing: an exported model always predicts."""

    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Return the detections of every sample of a batch, best first."""
        arrays = network_inputs(batch)
        if list(arrays[0].shape[1:]) != self.record["inputs"]["images"][1:]:
            raise PetrflowError(
                f"The batch's images are {arrays[0].shape[1:]}; {self.folder} was exported for "
                f"{tuple(self.record['inputs']['images'][1:])}. Export a model for these cameras and sizes."
            )
        detections = []
        for index in range(len(arrays[0])):
            outputs = self._predictor.run(tuple(array[index : index + 1] for array in arrays))
            detections += decode(*outputs, **self.record["decode"])
        return detections


def to_onnx(folder: Path, inputs: list[Any], expected: list[Any]) -> dict[str, Any]:
    """Try ``model.onnx`` beside the static model; says what came of it, and never fails.

    paddle2onnx runs in a process of its own: it aborts on programs that it cannot read.
    """
    target = folder / "model.onnx"
    arguments = ["--model_dir", str(folder), "--model_filename", FILES[0], "--params_filename", FILES[1]]
    command = [
        sys.executable,
        "-c",
        "from paddle2onnx.command import main; main()",
        *arguments,
        "--save_file",
        str(target),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"written": False, "reason": str(error)}
    if done.returncode or not target.is_file():
        target.unlink(missing_ok=True)
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        told = [line for line in lines if "Error" in line or "not support" in line]
        return {"written": False, "reason": (told or lines or [f"paddle2onnx ended with {done.returncode}"])[-1]}
    try:
        import onnxruntime
    except ImportError:
        return {"written": True, "checked": False, "reason": "onnxruntime is not installed"}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    outputs = [
        tuple(session.run(None, dict(zip(INPUTS, arrays, strict=True))))
        for arrays in inputs
        if set(names) == set(INPUTS)
    ]
    parity = compare(expected[: len(outputs)], outputs) if outputs else Parity(float("nan"), float("nan"))
    if not parity.holds:
        target.unlink()
        return {"written": False, "reason": f"ONNX differs by {parity.boxes:.2g} (boxes), {parity.scores:.2g} (scores)"}
    return {
        "written": True,
        "checked": True,
        "max_relative_difference": {"boxes": parity.boxes, "scores": parity.scores},
    }
