"""nuScenes' own splits, by name."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def official_splits() -> dict[str, list[str]]:
    """Scene names of ``train``, ``val``, ``test``, ``mini_train``, ``mini_val`` and the devkit's other splits.

    The lists are read out of the devkit's source: importing that module takes seconds, since it imports the whole devkit.
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
