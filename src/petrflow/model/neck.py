"""Feature pyramid for PETRv2: Paddle3D's CPFPN, doubling by copying."""

from __future__ import annotations

from collections.abc import Sequence

import paddle.nn.functional as F
from paddle import Tensor
from paddle3d.models.necks import cp_fpn


class Pyramid(cp_fpn.CPFPN):
    """CPFPN whose upsampling by whole factors is a broadcast.

    Upstream interpolates, which oneDNN refuses in an exported graph ("ConvertPirAttribute2RuntimeAttribute not support
    ArrayAttribute<DoubleAttribute>", Paddle 3.3.1), and adds in place, which a static graph has no safe form of.
    """

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one map a level, (K, out_channels, h, w), from the backbone's maps (K, in_channels, h, w)."""
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
