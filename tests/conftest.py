"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

import petrflow  # noqa: F401  (lets the stock parts of paddle3d be imported on every Python)

# A shell that starts this in the background has SIGINT ignored, and every process under it would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests compare what is said in English, whatever the locale of the machine.
os.environ["PETRFLOW_LANG"] = "en"

# Two workers share two cores: libraries that start a thread pool per process only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def keyframe_root() -> Path:
    """A nuScenes root with one real keyframe, where the machine has one (it cannot be part of the project: CC BY-NC-SA)."""
    root = Path(__file__).resolve().parents[2] / "shared" / "nuscenes-keyframe"
    if not root.exists():
        pytest.skip("no real nuScenes keyframe at ../shared/nuscenes-keyframe")
    return root


def _made_once(name: str, tmp_path_factory: pytest.TempPathFactory, make: Callable[[Path], None]) -> Path:
    """Return a folder that `make` fills once for all of pytest's worker processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    with filelock.FileLock(str(folder) + ".lock"):
        if not folder.exists():
            making = folder.with_name(folder.name + ".making")
            make(making)
            making.rename(folder)
    return folder


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic nuScenes root (v1.0-mini): three scenes of four keyframes, one of them the validation split. Read only."""
    from petrflow.sources import synthetic

    settings = {"scenes": 3, "keyframes": 4, "image_size": [320, 180], "sweeps": 2, "seed": 7}
    return _made_once(
        "synthetic-root",
        tmp_path_factory,
        lambda folder: synthetic.generate(folder, settings, progress=False, workers=1),
    )


@pytest.fixture(scope="session")
def synthetic_stores(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The annotation stores of `synthetic_root` by split: train and val. Read only."""
    from petrflow.annotations import build

    def make(folder: Path) -> None:
        for split in ("train", "val"):
            build(synthetic_root, split, folder / f"{split}.arrow", progress=False)

    folder = _made_once("synthetic-stores", tmp_path_factory, make)
    return {split: folder / f"{split}.arrow" for split in ("train", "val")}
