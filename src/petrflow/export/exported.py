"""An exported model, loaded and run by Paddle's inference library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from petrflow.errors import PetrflowError
from petrflow.files import read_json
from petrflow.model.box_codes import best_detections
from petrflow.model.petr import network_inputs
from petrflow.samples.types import Detections

INPUTS = ("images", "img2lidars", "timestamps")
FILES = ("model.json", "model.pdiparams")


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
        """Return class logits (1, Q, C) and box codes (1, Q, 10) of images, img2lidars and
        timestamps.
        """
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
            detections += best_detections(*outputs, **self.record["decode"])
        return detections
