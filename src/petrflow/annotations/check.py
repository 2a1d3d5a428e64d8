"""Check the image files that a store refers to, before anything trains on them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from petrflow.annotations import layout
from petrflow.errors import PetrflowError
from petrflow.files.status import tqdm
from petrflow.machine.hardware import cores
from petrflow.pictures.read import picture_fault, where

DECODED_AT_MOST = 20_000
"""Images of a data set up to which all are decoded before the first training: 40 s on one core, at
1600x900.
"""
_BATCH = 256
_MOST_NAMED = 5


def check_frames(
    root: Path,
    stores: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    *,
    decode: bool | None = None,
    progress: bool = True,
    threads: int | None = None,
) -> int:
    """Check that every image file is there, whole, and of the size that the tables say.

    Parameters
    ----------
    root : Path
        nuScenes root.
    stores : sequence of (columns, metadata)
        Columns ``camera_frame.*`` of stores, read or about to be written.
    decode : bool, optional
        Decode every image instead of reading its header and its end. Default: only where there are
        not too many; whoever reads an image later finds damage inside it too.
    threads : int, optional
        Default: four per core for headers, which wait for the disk; one per core for decoding.

    Returns
    -------
    int
        Files checked.

    Raises
    ------
    PetrflowError
        Names file, sample_data token, camera and fault of the first few bad images, and how many
        there are.
    """
    root = Path(root)
    faults: list[str] = []
    total = sum(len(columns["camera_frame.timestamp"]) for columns, _ in stores)
    full = total <= DECODED_AT_MOST if decode is None else decode
    with (
        ThreadPoolExecutor(threads or (cores() if full else 4 * cores())) as pool,
        tqdm(total=total, desc="check images", unit="file", disable=not progress) as bar,
    ):
        for columns, metadata in stores:
            frames = _Frames(root, columns, metadata["cameras"])
            for found, size in pool.map(lambda rows, f=frames: f.check(rows, full), frames.batches()):
                faults += found
                bar.update(size)
    if faults:
        listed = "; ".join(faults[:_MOST_NAMED]) + ("; …" if len(faults) > _MOST_NAMED else "")
        raise PetrflowError(
            f"{len(faults)} of {total} images under {root} cannot be used: {listed}. "
            "Restore these files where they come from, or take their scenes out of the splits, then run the same command again."
        )
    return total


class _Frames:
    """Camera frames of one store, as far as their files are concerned."""

    def __init__(self, root: Path, columns: dict[str, Any], cameras: Sequence[str]) -> None:
        self.root, self.cameras = root, cameras
        self.paths, self.tokens = (layout.texts(columns[f"camera_frame.{name}"]) for name in ("path", "token"))
        self.sizes, self.camera = columns["camera_frame.size"], columns["camera_frame.camera"]

    def batches(self) -> list[range]:
        return [range(start, min(start + _BATCH, len(self.paths))) for start in range(0, len(self.paths), _BATCH)]

    def check(self, rows: range, full: bool) -> tuple[list[str], int]:
        """Return the faults among some frames, as text, and how many frames were checked."""
        faults = []
        sizes = self.sizes[rows.start : rows.stop].tolist()
        for row, name, (width, height) in zip(rows, self.paths.take(rows), sizes, strict=True):
            if fault := picture_fault(self.root / name, (width, height), full=full):
                owner = f"{self.cameras[self.camera[row]]}, sample_data {self.tokens[row]}"
                faults.append(f"{where(self.root / name)} ({owner}) {fault}")
        return faults, len(rows)
