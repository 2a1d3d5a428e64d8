"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Two workers share two cores: libraries that start a thread pool per process only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def keyframe_root() -> Path:
    """A nuScenes root with one real keyframe, where the machine has one (it cannot be part of the project: CC BY-NC-SA)."""
    root = Path(__file__).resolve().parents[2] / "shared" / "nuscenes-keyframe"
    if not root.exists():
        pytest.skip("no real nuScenes keyframe at ../shared/nuscenes-keyframe")
    return root
