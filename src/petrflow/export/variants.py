"""Smaller versions of the ONNX graphs, with what they are worth: float16, and INT8 for the image
network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.evaluation.evaluate import evaluate
from petrflow.export.exported import OnnxModel
from petrflow.files import remove, temporary_path
from petrflow.samples.dataset import PetrDataset

GRAPHS = ("features.onnx", "boxes.onnx")
CALIBRATION_SAMPLES = 32
"""Samples of the training split, spread over it, whose current pictures set INT8's ranges."""


def make_variants(
    folder: Path,
    names: Sequence[str],
    model_config: Mapping[str, Any],
    record: Mapping[str, Any],
    train: tuple[Path, Path],
    validation: tuple[Path, Path],
    evaluation: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the variants beside the ONNX graphs, and score them and the float32 graphs on the
    validation split.

    Parameters
    ----------
    folder : Path
        Holds ``features.onnx`` and ``boxes.onnx``.
    names : of ``float16``, ``int8``
    model_config, record : mapping
        Parsed model file; what ``parity.json`` will hold.
    train, validation : (annotation store, nuScenes root)
    evaluation : mapping
        ``batch_size``, ``num_workers`` and ``judge`` of
        :func:`petrflow.evaluation.evaluate.evaluate`.

    Returns
    -------
    dict
        By name, ``files``, ``bytes``, ``mAP`` and ``NDS``.
    """
    files = {"float32": GRAPHS}
    for name in names:
        if name == "float16":
            files[name] = tuple(_float16(folder / graph) for graph in GRAPHS)  # type: ignore[assignment]
        else:
            dataset = PetrDataset(*train, dict(model_config), training=False)
            files[name] = (_int8(folder / GRAPHS[0], dataset), GRAPHS[1])
    found = {}
    for name, graphs in files.items():
        scratch = temporary_path(folder / f"evaluation-{name}")
        metrics = evaluate(OnnxModel(folder, graphs, record), *validation, model_config, scratch, **evaluation)
        remove(scratch)
        assert metrics is not None  # this process is alone
        found[name] = {
            "files": list(graphs),
            "bytes": sum((folder / graph).stat().st_size for graph in graphs),
            "mAP": metrics["mAP"],
            "NDS": metrics["NDS"],
        }
    return found


def _float16(path: Path) -> str:
    """Convert a graph to float16 inside; what goes in and out stays float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    target = path.with_suffix(".float16.onnx")
    onnx.save(convert_float_to_float16(onnx.load(str(path)), keep_io_types=True), str(target))
    return target.name


class _Pictures:
    """Pictures of now of some samples, as onnxruntime's calibration asks for them."""

    def __init__(self, dataset: PetrDataset) -> None:
        self._next = self._pictures(dataset)

    @staticmethod
    def _pictures(dataset: PetrDataset) -> Iterator[dict[str, np.ndarray]]:
        for index in np.linspace(0, len(dataset) - 1, min(CALIBRATION_SAMPLES, len(dataset))).astype(int):
            yield {"images": dataset.load(int(index))["img"][: dataset.num_cameras]}

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._next, None)


def _int8(path: Path, dataset: PetrDataset) -> str:
    """Quantise the image network: weights per channel, activations by the ranges that calibration
    pictures show.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    target = path.with_suffix(".int8.onnx")
    quantize_static(
        str(path),
        str(target),
        _Pictures(dataset),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
    )
    return target.name
