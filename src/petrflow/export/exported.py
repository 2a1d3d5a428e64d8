"""An exported model, loaded and run by Paddle's inference library or by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from petrflow.errors import PetrflowError
from petrflow.files import read_json
from petrflow.model.box_codes import best_detections
from petrflow.model.petr import network_inputs
from petrflow.samples.types import Detections

GRAPHS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model": (("images", "img2lidars", "timestamps"), ("class_logits", "box_codes")),
    "features": (("images",), ("features",)),
    "boxes": (("features_now", "features_before", "img2lidars", "timestamps"), ("class_logits", "box_codes")),
}
"""The exported graphs, with the names of their inputs and outputs in order: the whole model, and
the same in two parts.
"""

Arrays = tuple[np.ndarray, ...]


def files_of(graph: str) -> tuple[str, str]:
    """Return the files of a static graph: its program and its parameters."""
    return f"{graph}.json", f"{graph}.pdiparams"


class Predictor:
    """``paddle.inference`` over one graph of an export folder."""

    def __init__(self, folder: Path, graph: str = "model") -> None:
        from paddle import inference

        files = [folder / name for name in files_of(graph)]
        for file in files:
            if not file.is_file():
                raise PetrflowError(f"{file}: no such file. Export the run first.")
        config = inference.Config(*(str(file) for file in files))
        config.disable_glog_info()
        device = paddle.get_device()
        if device.startswith("gpu"):
            config.enable_use_gpu(256, int(device.partition(":")[2] or 0))
        else:
            config.disable_gpu()
        self._inputs = GRAPHS[graph][0]
        self._predictor = inference.create_predictor(config)

    def run(self, arrays: Arrays) -> Arrays:
        """Return the graph's outputs for its inputs, both in the order of :data:`GRAPHS`."""
        for name, array in zip(self._inputs, arrays, strict=True):
            handle = self._predictor.get_input_handle(name)
            handle.reshape(list(array.shape))
            handle.copy_from_cpu(np.ascontiguousarray(array))
        self._predictor.run()
        return tuple(self._predictor.get_output_handle(n).copy_to_cpu() for n in self._predictor.get_output_names())


class OnnxGraph:
    """onnxruntime's CPU provider over one ONNX file."""

    def __init__(self, path: Path, graph: str, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in runner.py
        self._names = GRAPHS[graph]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, arrays: Arrays) -> Arrays:
        """Return the graph's outputs for its inputs, both in the order of :data:`GRAPHS`."""
        inputs, outputs = self._names
        return tuple(self._session.run(list(outputs), dict(zip(inputs, arrays, strict=True))))


def in_two_parts(features: Any, boxes: Any, arrays: Arrays) -> Arrays:
    """Run the two graphs on the inputs of one: images (1, 2N, 3, H, W), img2lidars (1, 2N, 4, 4)
    and timestamps (1, 2N).
    """
    images, img2lidars, timestamps = arrays
    now, before = (features.run((half,))[0] for half in np.split(images[0], 2))
    outputs: Arrays = boxes.run((now, before, img2lidars, timestamps))
    return outputs


class ExportedModel:
    """An exported model that predicts as the eager one does.

    Parameters
    ----------
    folder : Path
        What :func:`petrflow.export.static.export` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "parity.json").is_file():
            raise PetrflowError(f"{self.folder / 'parity.json'}: no such file. Export the run first.")
        self.record = read_json(self.folder / "parity.json")
        self._run = self._load()

    def _load(self) -> Any:
        return Predictor(self.folder).run

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
            logits, codes = self._run(tuple(array[index : index + 1] for array in arrays))
            detections += best_detections(logits, codes, **self.record["decode"])
        return detections


class OnnxModel(ExportedModel):
    """The two ONNX graphs of an export folder, as a model.

    Parameters
    ----------
    folder : Path
    files : (str, str)
        The two graphs' files; a variant has other ones.
    record : mapping
        What ``parity.json`` will hold, or holds.
    """

    def __init__(self, folder: Path, files: Sequence[str], record: Mapping[str, Any]) -> None:
        self.folder, self.record = Path(folder), dict(record)
        features, boxes = (
            OnnxGraph(self.folder / f, graph) for f, graph in zip(files, ("features", "boxes"), strict=True)
        )
        self._run = lambda arrays: in_two_parts(features, boxes, arrays)
