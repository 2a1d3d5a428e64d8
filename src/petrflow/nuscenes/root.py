"""A nuScenes root: its marker and its splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.files import fingerprint, read_json, sha256_file
from petrflow.nuscenes.names import STORE_TABLES
from petrflow.nuscenes.splits import SPLITS, own_splits

COMPLETE = ".complete.json"
"""File in a root that petrflow made: what the root holds."""
RECEIPT = "receipt.json"
"""File in `results/{dataset}/root/`: what the finished root holds. A door writes it last."""


@dataclass(frozen=True)
class Root:
    """What a nuScenes root says about itself."""

    folder: Path
    version: str
    splits: dict[str, list[str]]
    fingerprint: str
    cameras: tuple[str, ...] | None
    has_points: bool | None = None
    """Whether any box holds a lidar or radar point; None where no door has looked."""
    load_every: int = 1
    """Of every scene's keyframes each so many-th is used."""
    use_sweeps: bool = True
    """Images between keyframes are used; if not, previous frames are those of earlier keyframes."""
    leave_out_unseen: bool = False
    """Boxes that no used camera sees are neither trained on nor judged."""


def describe_root(
    root: Path,
    version: str | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    about: Path | None = None,
) -> Root:
    """Read version, splits, cameras and fingerprint of a root from what its door wrote, or from its
    tables.

    Parameters
    ----------
    root : Path
        Folder with the ``<version>/`` tables.
    version : str, optional
        Needed only where no door said it and there is more than one version.
    splits : mapping, optional
        ``{"train": [scene names], "val": [...]}``; by default from the receipt or from
        ``splits.json``.
    about : Path, optional
        ``results/{dataset}/root/``. Its ``receipt.json`` goes before ``.complete.json`` in the
        root.
    """
    root = Path(root)
    receipt = read_receipt(root, about)
    if version is None:
        version = receipt.get("version")
    if version is None:
        found = sorted(path.parent.name for path in root.glob("*/sample_data.json"))
        if len(found) != 1:
            raise PetrflowError(
                f"{root} holds {len(found)} nuScenes versions ({', '.join(found) or 'no folder with sample_data.json'}): "
                "name one as the data set's version."
            )
        version = found[0]
    if splits is None:
        splits = receipt.get("splits") or own_splits(root / version)
    if not splits:
        raise PetrflowError(
            f"{root / version / SPLITS} is missing: run the data step, which writes it, or pass the splits."
        )
    tables = root / version
    mark = receipt.get("fingerprint") or fingerprint(
        {name: sha256_file(tables / f"{name}.json") for name in STORE_TABLES if (tables / f"{name}.json").exists()}
    )
    cameras = tuple(receipt["cameras"]) if "cameras" in receipt else None
    return Root(
        root,
        version,
        {key: list(names) for key, names in splits.items()},
        mark,
        cameras,
        receipt.get("has_points"),
        receipt.get("load_every", 1),
        receipt.get("use_sweeps", True),
        receipt.get("leave_out_unseen", False),
    )


def read_receipt(root: Path, about: Path | None = None) -> dict[str, Any]:
    """Return what a door wrote about a root: the receipt in `about`, else `.complete.json` in the
    root, else nothing.
    """
    for path in ([Path(about) / RECEIPT] if about is not None else []) + [Path(root) / COMPLETE]:
        if path.exists():
            content: dict[str, Any] = read_json(path)
            return content
    return {}


def mark_of(root: Path, about: Path) -> str:
    """Fingerprint of what doors wrote about a root, in it and beside it: another one means that the
    root was made anew since.

    Parameters
    ----------
    root, about : Path
        ``data/{dataset}`` and ``results/{dataset}/root``.
    """
    written = (root / COMPLETE, about / RECEIPT)
    return fingerprint([path.read_bytes() if path.is_file() else None for path in written])
