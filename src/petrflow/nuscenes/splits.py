"""Splits: nuScenes' own by name, and those of a data set in `splits.json`, which nuscenes-devkit
reads, too.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.files import read_json, write_json

SPLITS = "splits.json"
"""File beside the tables, or beside the receipt where the root is the user's own: lists of scene
names by split.
"""
PARTS = ("train", "val")


def split_name(part: str) -> str:
    """Return what a data set's own split of a part is called in `splits.json`, so that no split of
    nuScenes' is meant.
    """
    return f"petrflow_{part}"


def named_splits(splits: Mapping[str, Sequence[str]], others: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what `splits.json` holds: scene names by part, and other splits that the source
    names.
    """
    return {**(others or {}), **{split_name(part): list(splits[part]) for part in PARTS}}


def write_splits(folder: Path, splits: Mapping[str, Sequence[str]], others: Mapping[str, Any] | None = None) -> None:
    """Write `splits.json` into a folder; see :func:`named_splits`."""
    write_json(folder / SPLITS, named_splits(splits, others))


def read_splits(folder: Path) -> dict[str, Any]:
    """Return all that a folder's `splits.json` names; nothing where there is none."""
    path = folder / SPLITS
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise PetrflowError(
            f"{path} is no mapping of split names to lists of scene names: correct it, or move it away."
        )
    return content


def own_splits(folder: Path) -> dict[str, list[str]]:
    """Return the scene names by part that petrflow wrote into a folder's `splits.json`."""
    named = read_splits(folder)
    return {part: named[split_name(part)] for part in PARTS if split_name(part) in named}


@cache
def official_splits() -> dict[str, list[str]]:
    """Scene names of ``train``, ``val``, ``test``, ``mini_train``, ``mini_val`` and the devkit's
    other splits.

    The lists are read out of the devkit's source: importing that module takes seconds, since it
    imports the whole devkit.
    """
    package = find_spec("nuscenes")
    assert package is not None and package.submodule_search_locations
    source = Path(next(iter(package.submodule_search_locations))) / "utils" / "splits.py"
    lists: dict[str, list[str]] = {}
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if isinstance(statement.value, ast.List):
                lists[name] = [str(scene) for scene in ast.literal_eval(statement.value)]
    lists["train"] = sorted({*lists["train_detect"], *lists["train_track"]})
    return {
        name: lists[name] for name in ("train", "val", "test", "mini_train", "mini_val", "train_detect", "train_track")
    }
