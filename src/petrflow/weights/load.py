"""Load weights with a report of what fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from petrflow.errors import PetrflowError


@dataclass(frozen=True)
class LoadReport:
    """What became of a set of weights; every field holds names of ``state_dict`` entries.

    Attributes
    ----------
    matched : loaded.
    missing : of the model, not in the weights; they keep their initial values.
    unexpected : in the weights, not of the model.
    wrong_shape : of both, with shapes that differ; they keep their initial values.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{len(self.matched)} of {len(self.matched) + len(self.missing) + len(self.wrong_shape)} entries loaded"
        for name in ("missing", "unexpected", "wrong_shape"):
            names = getattr(self, name)
            if names:
                more = ", …" if len(names) > 3 else ""
                text += f"; {name.replace('_', ' ')} {len(names)} ({', '.join(names[:3])}{more})"
        return text


def load_weights(model: paddle.nn.Layer, source: Mapping[str, np.ndarray] | Path | str) -> LoadReport:
    """Copy weights into a model wherever name and shape agree, and say what did not.

    Parameters
    ----------
    model : Layer
    source : mapping of arrays, or a ``.pdparams`` or ``.safetensors`` file
        Half precision is widened.

    Raises
    ------
    PetrflowError
        When nothing matched.
    """
    weights = source if isinstance(source, Mapping) else read_weights(Path(source))
    own = model.state_dict()
    shared = [name for name in own if name in weights]
    matched = [name for name in shared if tuple(weights[name].shape) == tuple(own[name].shape)]
    report = LoadReport(
        matched=tuple(matched),
        missing=tuple(name for name in own if name not in weights),
        unexpected=tuple(name for name in weights if name not in own),
        wrong_shape=tuple(name for name in shared if name not in set(matched)),
    )
    if not matched:
        where = "the given weights" if isinstance(source, Mapping) else str(source)
        raise PetrflowError(
            f"{where}: none of {len(weights)} entries fits this model ({len(own)} entries). "
            "Name the weights that belong to the run's model file."
        )
    for name in matched:
        own[name].set_value(np.asarray(weights[name]).astype(str(own[name].dtype).rpartition(".")[2]))
    return report


def read_weights(path: Path) -> Mapping[str, np.ndarray]:
    """Return the arrays of a ``.pdparams`` or ``.safetensors`` file by name."""
    if not path.is_file():
        raise PetrflowError(f"{path}: no such file. Correct the run's weights or leave them null.")
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    from petrflow.weights.pdparams import load_pdparams

    return load_pdparams(path)
