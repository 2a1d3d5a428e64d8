"""The networks that are exported, and how they are written."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn

from petrflow.model import PetrV2


class Network(nn.Layer):
    """The whole model: images and calibration in, the last decoder layer's class logits and box
    codes out.
    """

    def __init__(self, model: PetrV2) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, img2lidars: Tensor, timestamps: Tensor) -> tuple[Tensor, Tensor]:
        """Return (1, Q, C) class logits and (1, Q, 10) box codes."""
        logits, codes = self.model.raw_outputs(images, img2lidars, timestamps)
        return logits[-1], codes[-1]


class FeatureNetwork(nn.Layer):
    """The image network: pictures of one moment in, their features out."""

    def __init__(self, model: PetrV2) -> None:
        super().__init__()
        self.backbone, self.neck = model.backbone, model.neck
        self.level = model.pts_bbox_head.position_level

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised images (N, 3, H, W) into features (N, C, h, w)."""
        return self.neck(self.backbone(images))[self.level].astype("float32")


class BoxNetwork(nn.Layer):
    """The head: features of two moments and calibration in, the last decoder layer's class logits
    and box codes out.

    Parameters
    ----------
    model : PetrV2
    padded_size : (height, width)
        Of the images that the features come from, pixels.
    """

    def __init__(self, model: PetrV2, padded_size: Sequence[int]) -> None:
        super().__init__()
        self.head = model.pts_bbox_head
        self.padded_size, self.image_size = list(padded_size), list(model.image_shape)

    def forward(
        self, features_now: Tensor, features_before: Tensor, img2lidars: Tensor, timestamps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (1, Q, C) class logits and (1, Q, 10) box codes of features (N, C, h, w) now and
        before.
        """
        features = paddle.concat([features_now, features_before], axis=0).unsqueeze(0)
        logits, codes, _ = self.head.decode_queries(features, img2lidars, timestamps, self.padded_size, self.image_size)
        return logits[-1], codes[-1]


def save(network: nn.Layer, inputs: Mapping[str, Sequence[int]], path: Path) -> None:
    """Trace a network whose model has run eagerly on inputs of these shapes; write ``path``.json
    and ``path``.pdiparams.

    Parameters
    ----------
    inputs : mapping of name to shape
        In the order of the network's arguments; -1 for a size that the graph leaves open.
    """
    network.eval()
    spec = [paddle.static.InputSpec(list(shape), "float32", name) for name, shape in inputs.items()]
    logging.getLogger("paddle").setLevel(logging.ERROR)
    paddle.jit.save(network, str(path), input_spec=spec)


@contextlib.contextmanager
def full_float32(core: Any = None) -> Iterator[None]:
    """Keep cuDNN and cuBLAS from TF32, which Paddle allows them on Ampere and newer; CPUs know no
    such thing.

    TF32 rounds the factors of convolutions to 10 bits: that moves boxes by up to 0.016 relative,
    more than the parity tolerance. The libraries read the variable when they start; Paddle's own
    switches serve where they have started before.
    """
    core = core or paddle.base.core
    switches = [
        (getattr(core, f"set_{name}_switch"), getattr(core, f"get_{name}_switch")()) for name in ("cudnn", "cublas")
    ]
    said = os.environ.get("NVIDIA_TF32_OVERRIDE")
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    for switch, _ in switches:
        switch(False)
    try:
        yield
    finally:
        for switch, before in switches:
            switch(before)
        if said is None:
            del os.environ["NVIDIA_TF32_OVERRIDE"]
        else:
            os.environ["NVIDIA_TF32_OVERRIDE"] = said
