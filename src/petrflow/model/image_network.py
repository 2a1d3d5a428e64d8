"""The image network of PETRv2: Paddle3D's VoVNetCP, CPFPN and GridMask, with what the config must
be able to choose.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle3d.models.backbones import vovnetcp
from paddle3d.models.detection.petr import petr3d
from paddle3d.models.necks import cp_fpn


class VoVNet(vovnetcp.VoVNetCP):
    """VoVNetCP whose recomputation can be switched off and whose block sizes may come from the
    config.

    Parameters
    ----------
    spec_name : str, optional
        One of Paddle3D's own sizes, for example ``V-99-eSE``.
    spec : mapping, optional
        Sizes of our own in place of a name: ``stem`` (3 channel counts; or one, for a single 7x7
        convolution of stride 4), ``stage_conv_ch``, ``stage_out_ch``, ``block_per_stage`` (4 each),
        ``layer_per_block``, ``eSE``, ``dw``.
    use_recompute : bool
        Recompute every block in the backward pass (less memory, about a third more time). Upstream
        always does, whatever its config says.
    """

    def __init__(
        self,
        spec_name: str | None = None,
        spec: Mapping[str, Any] | None = None,
        use_recompute: bool = True,
        **arguments: Any,
    ) -> None:
        patch = None
        if spec is not None:
            spec = dict(spec)
            if len(spec["stem"]) == 1:
                patch = spec["stem"][0]
                spec["stem"] = [8, 8, patch]
            spec_name = "petrflow " + json.dumps(spec, sort_keys=True)
            vovnetcp._STAGE_SPECS[spec_name] = spec
        super().__init__(spec_name=spec_name, **arguments)
        if patch is not None:
            channels = arguments.get("input_ch", 3)
            self.stem = nn.Sequential(
                *vovnetcp.conv3x3(channels, patch, "stem", "1", stride=4, kernel_size=7, padding=3)
            )
        for layer in self.sublayers():
            if isinstance(layer, vovnetcp._OSA_layer):
                layer.use_checkpoint = use_recompute


class GridMask(petr3d.GridMask):
    """GridMask that draws from a generator of its owner in place of numpy's global state."""

    rng: np.random.Generator

    def forward(self, images: Tensor) -> Tensor:
        """Blank a grid out of all images (K, C, H, W) alike, with probability ``prob``, in training
        only.
        """
        if not self.training or self.rng.random() > self.prob:
            return images
        height, width = images.shape[-2:]
        period = int(self.rng.integers(2, height))
        stripe = min(max(int(period * self.ratio + 0.5), 1), period - 1)
        start_row, start_column = (int(self.rng.integers(period)) for _ in range(2))
        keep = (
            _stripes(height, period, stripe, start_row)[:, None] & _stripes(width, period, stripe, start_column)[None]
        )
        if self.mode == 1:
            keep = ~keep
        return images * paddle.to_tensor(keep.astype("float32"))


def _stripes(size: int, period: int, stripe: int, start: int) -> np.ndarray:
    """Return (size,) bool: False on the stripes that fall on the middle ``size`` of 1.5 times as
    many rows.
    """
    whole = int(1.5 * size)
    row = np.arange(whole)
    index = (row - start) // period
    blank = (row >= start) & ((row - start) % period < stripe) & (index < whole // period)
    offset = (whole - size) // 2
    return ~blank[offset : offset + size]


class Pyramid(cp_fpn.CPFPN):
    """CPFPN whose upsampling by whole factors is a broadcast.

    Upstream interpolates, which oneDNN refuses in an exported graph
    ("ConvertPirAttribute2RuntimeAttribute not support ArrayAttribute<DoubleAttribute>", Paddle
    3.3.1), and adds in place, which a static graph has no safe form of.
    """

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one map a level, (K, out_channels, h, w), from the backbone's maps (K,
        in_channels, h, w).
        """
        if self.num_outs > len(inputs) or self.start_level or self.add_extra_convs:
            return super().forward(inputs)
        laterals = [convolution(inputs[index]) for index, convolution in enumerate(self.lateral_convs)]
        for index in range(len(laterals) - 1, 0, -1):
            laterals[index - 1] = laterals[index - 1] + upsample(laterals[index], laterals[index - 1].shape[2:])
        return (self.fpn_convs[0](laterals[0]), *laterals[1:])


def upsample(level: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge (K, C, h, w) to (K, C, *size) by nearest neighbours."""
    count, channels, height, width = level.shape
    rows, columns = size[0] // height, size[1] // width
    if (height * rows, width * columns) != tuple(size):
        return F.interpolate(level, size=size, mode="nearest")
    cells = level.reshape([count, channels, height, 1, width, 1])
    return cells.expand([count, channels, height, rows, width, columns]).reshape([count, channels, *size])
