"""The rows of a class head go by the names of their classes, not by their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from petrflow.config.network import PUBLISHED_CLASSES, class_heads
from petrflow.errors import PetrflowError
from petrflow.files import read_json

CLASSES_NAME = "classes.json"
"""Beside a weights file: its classes, a list of names in the order of the network's outputs."""


def classes_of_weights(path: Path) -> tuple[str, ...] | None:
    """Return the classes of a weights file where ``classes.json`` beside it says them.

    Raises
    ------
    PetrflowError
        The file holds no list of names.
    """
    beside = Path(path).with_name(CLASSES_NAME)
    if not beside.is_file():
        return None
    names = read_json(beside)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise PetrflowError(f"{beside} is no list of class names: correct it, or move it elsewhere.")
    return tuple(names)


def assumed_classes(weights: Mapping[str, Sequence[int]], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return what the classes of weights must be that do not say them.

    Ten are nuScenes': in the model's order where the model has the same ten, and else in the order
    of published weights. As many as the model has, and not ten, are the model's. Of others nothing
    is known.

    Parameters
    ----------
    weights : mapping
        Shape of each entry by name.
    class_names : sequence of str
        The model's classes.
    """
    ends = [name for name in class_heads(weights) if ".cls_branches." in name and name.endswith(".bias")]
    counts = {weights[name][0] for name in ends}
    if counts == {len(PUBLISHED_CLASSES)} and set(class_names) != set(PUBLISHED_CLASSES):
        return PUBLISHED_CLASSES
    return tuple(class_names) if counts == {len(class_names)} else ()


def carried(
    name: str, own: np.ndarray, given: np.ndarray, own_classes: Sequence[str], given_classes: Sequence[str]
) -> np.ndarray | None:
    """Return ``own`` with the rows of the classes that both have, from ``given``; None where it has
    no rows of classes, or the other sides differ.

    Parameters
    ----------
    name : str
        Of the entry, one of :func:`petrflow.config.network.class_heads`.
    own, given : array
        The network's and the weights' entry.
    """
    # Paddle keeps a linear layer's weight as (inputs, outputs). The dense head's `embed` takes
    # classes as its first inputs, the others' outputs are classes.
    inputs = name.endswith("monocular.embed.weight")
    axis = 0 if inputs or name.endswith("bias") else 1
    rest = own.shape[axis] - len(own_classes) if inputs else 0
    if own.ndim != given.ndim or given.shape[axis] != len(given_classes) + rest:
        return None
    mine, theirs = np.moveaxis(own.copy(), axis, 0), np.moveaxis(given, axis, 0)
    if mine.shape[1:] != theirs.shape[1:]:
        return None
    for place, label in enumerate(own_classes):
        if label in given_classes:
            mine[place] = theirs[given_classes.index(label)]
    if rest:
        mine[len(own_classes) :] = theirs[len(given_classes) :]
    return np.moveaxis(mine, 0, axis)
