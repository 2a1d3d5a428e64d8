"""Write weights to be shipped: in half precision, as safetensors.

``python -m petrflow.weights.halve results/RUN/train/best_model/model.pdparams MODEL.safetensors``
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from petrflow.errors import PetrflowError
from petrflow.files import write_atomic
from petrflow.weights.load import read_weights


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
    halved = {}
    for name, array in read_weights(source).items():
        values = np.ascontiguousarray(array)
        if np.issubdtype(values.dtype, np.floating):
            if not np.abs(values, dtype="float64").max(initial=0) <= np.finfo("float16").max:
                raise PetrflowError(
                    f"{source}: {name} holds numbers above 65504 or NaN; half precision cannot carry these weights."
                )
            values = values.astype("float16")
        halved[name] = values
    write_atomic(target, save(halved))


def main() -> int:
    """Run :func:`halve` from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m petrflow.weights.halve", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="weights of a run: .pdparams or .safetensors")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    options = parser.parse_args()
    try:
        halve(options.source, options.target)
    except PetrflowError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
