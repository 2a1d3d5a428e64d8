"""VoVNet for PETRv2: Paddle3D's VoVNetCP with its block sizes and its recomputation open to the config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from paddle import nn
from paddle3d.models.backbones import vovnetcp


class VoVNet(vovnetcp.VoVNetCP):
    """VoVNetCP whose recomputation can be switched off and whose block sizes may come from the config.

    Parameters
    ----------
    spec_name : str, optional
        One of Paddle3D's own sizes, for example ``V-99-eSE``.
    spec : mapping, optional
        Sizes of our own in place of a name: ``stem`` (3 channel counts; or one, for a single 7x7
        convolution of stride 4), ``stage_conv_ch``, ``stage_out_ch``, ``block_per_stage`` (4 each), ``layer_per_block``, ``eSE``, ``dw``.
    use_recompute : bool
        Recompute every block in the backward pass (less memory, about a third more time). Upstream always does, whatever
        its config says.
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
