"""Load weights with a report of what fitted; halve weights to be shipped.

``python -m petrflow.model.weights results/RUN/train/best_model/model.pdparams MODEL.safetensors`` writes them in half precision.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from petrflow.files import PetrflowError


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
    weights = source if isinstance(source, Mapping) else _read(Path(source))
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


def _read(path: Path) -> Mapping[str, np.ndarray]:
    if not path.is_file():
        raise PetrflowError(f"{path}: no such file. Correct the run's weights or leave them null.")
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    from petrflow.unpickle import load_pdparams

    return load_pdparams(path)


def halve(source: Path, target: Path) -> None:
    """Write weights as safetensors with their floating point numbers in half precision (float16).

    Parameters
    ----------
    source : Path
        ``.pdparams`` or ``.safetensors``.
    target : Path
        Appears whole or not at all.

    Raises
    ------
    PetrflowError
        When a number is too large for half precision.
    """
    from safetensors.numpy import save

    from petrflow.files import write_atomic

    halved = {}
    for name, array in _read(source).items():
        values = np.ascontiguousarray(array)
        if np.issubdtype(values.dtype, np.floating):
            if np.abs(values, dtype="float64").max(initial=0) > np.finfo("float16").max:
                raise PetrflowError(
                    f"{source}: {name} holds numbers above 65504; keep these weights in full precision."
                )
            values = values.astype("float16")
        halved[name] = values
    write_atomic(target, save(halved))


def main() -> None:
    """Run :func:`halve` from the command line."""
    parser = argparse.ArgumentParser(description="Write weights in half precision, as safetensors.")
    parser.add_argument("source", type=Path, help="weights of a run: .pdparams or .safetensors")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    options = parser.parse_args()
    halve(options.source, options.target)


if __name__ == "__main__":
    main()
