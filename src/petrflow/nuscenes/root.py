"""A nuScenes root: its marker and its splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.files import fingerprint, read_json, sha256_file
from petrflow.nuscenes.names import STORE_TABLES

COMPLETE = ".complete.json"
"""Marks a root that is whole, and says what it holds."""


@dataclass(frozen=True)
class Root:
    """What a nuScenes root says about itself."""

    folder: Path
    version: str
    splits: dict[str, list[str]]
    fingerprint: str
    cameras: tuple[str, ...] | None


def describe_root(root: Path, version: str | None = None, splits: Mapping[str, Sequence[str]] | None = None) -> Root:
    """Read version, splits, cameras and fingerprint of a root from ``.complete.json`` and ``splits.json``, or from its tables.

    Parameters
    ----------
    root : Path
        Folder with the ``<version>/`` tables.
    version : str, optional
        Needed only where there is no ``.complete.json`` and more than one version.
    splits : mapping, optional
        ``{"train": [scene names], "val": [...]}``; by default from ``splits.json``.
    """
    root = Path(root)
    marker: dict[str, Any] = read_json(root / COMPLETE) if (root / COMPLETE).exists() else {}
    if version is None:
        version = marker.get("version")
    if version is None:
        found = sorted(path.parent.name for path in root.glob("*/sample_data.json"))
        if len(found) != 1:
            raise PetrflowError(
                f"{root} holds {len(found)} nuScenes versions ({', '.join(found) or 'no folder with sample_data.json'}): "
                "name one as the data set's version."
            )
        version = found[0]
    if splits is None:
        path = root / version / "splits.json"
        if not path.exists():
            raise PetrflowError(f"{path} is missing: run the data step, which writes it, or pass the splits.")
        named = read_json(path)
        splits = {key: named[f"petrflow_{key}"] for key in ("train", "val") if f"petrflow_{key}" in named}
    tables = root / version
    mark = marker.get("fingerprint") or fingerprint(
        {name: sha256_file(tables / f"{name}.json") for name in STORE_TABLES}
    )
    cameras = tuple(marker["cameras"]) if "cameras" in marker else None
    return Root(root, version, {key: list(names) for key, names in splits.items()}, mark, cameras)
