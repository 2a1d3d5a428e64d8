"""Load weights with a report of what fitted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from petrflow.errors import PetrflowError
from petrflow.weights.class_rows import assumed_classes, carried, classes_of_weights
from petrflow.weights.fit import Fit, fit, require
from petrflow.weights.pdparams import load_pdparams


def load_weights(
    model: paddle.nn.Layer,
    source: Mapping[str, np.ndarray] | Path | str,
    fresh: Collection[str] = (),
    partial: bool = False,
    class_names: Sequence[str] = (),
) -> Fit:
    """Copy weights into a model wherever name and shape agree, and say what did not.

    Constants that the model file says (the loss's ``code_weights``) are never overwritten.

    Parameters
    ----------
    model : Layer
    source : mapping of arrays, or a ``.pdparams`` or ``.safetensors`` file
        Half precision is widened.
    fresh : collection of str
        Beginnings of names of entries that keep their initial values (``fresh`` in the model file).
    partial : bool
        Take weights that hold less than nine tenths of the model's entries.
    class_names : sequence of str
        The model's classes: rows of class heads go by name. Without them they go by place.

    Raises
    ------
    PetrflowError
        When nothing matched, or too little and ``partial`` is false.
    """
    weights = source if isinstance(source, Mapping) else read_weights(Path(source))
    own = model.state_dict()
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    found = fit(shapes, given, fresh)
    where = "the given weights" if isinstance(source, Mapping) else str(source)
    if not found.matched:
        raise PetrflowError(
            f"{where}: none of {len(weights)} entries fits this model ({len(own)} entries). "
            "Name the weights that belong to the run's model file."
        )
    if not partial:
        require(found, shapes, given, where)
    taken = [*found.matched, *(name for name in found.wrong_shape if name in found.class_heads)]
    broken = [name for name in taken if not _is_finite(np.asarray(weights[name]))]
    if broken:
        raise PetrflowError(
            f"{where}: {len(broken)} of {len(taken)} entries hold values that are no finite numbers ({', '.join(broken[:3])}): "
            "get the file from its publisher again, or name weights of a training that did not diverge."
        )
    if class_names:
        classes = None if isinstance(source, Mapping) else classes_of_weights(Path(source))
        classes = assumed_classes(given, class_names) if classes is None else classes
        found = _carry_classes(own, weights, found, class_names, classes)
    for name in found.matched:
        own[name].set_value(np.asarray(weights[name]).astype(str(own[name].dtype).rpartition(".")[2]))
    return found


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _carry_classes(
    own: Mapping[str, Any], weights: Mapping[str, Any], found: Fit, class_names: Sequence[str], classes: Sequence[str]
) -> Fit:
    """Copy the rows of class heads by the names of their classes; return what is left to copy."""
    if tuple(classes) == tuple(class_names):
        return found
    done, wrong = [], []
    for name in sorted(found.class_heads & {*found.matched, *found.wrong_shape}):
        dtype = str(own[name].dtype).rpartition(".")[2]
        value = carried(name, own[name].numpy(), np.asarray(weights[name]).astype(dtype), class_names, classes)
        if value is not None:
            own[name].set_value(value)
            done.append(name)
        elif name in found.wrong_shape or not name.endswith("embed.bias"):
            wrong.append(name)
    return replace(
        found,
        matched=tuple(name for name in found.matched if name not in {*done, *wrong}),
        wrong_shape=tuple(wrong),
        by_class=tuple(done),
        kept_classes=tuple(name for name in class_names if name in classes) if done else (),
        fresh_classes=tuple(name for name in class_names if not done or name not in classes),
    )


def read_weights(path: Path) -> Mapping[str, np.ndarray]:
    """Return the arrays of a ``.pdparams`` or ``.safetensors`` file by name."""
    if not path.is_file():
        raise PetrflowError(f"{path}: no such file. Correct the run's weights or leave them null.")
    return load_pdparams(path)
