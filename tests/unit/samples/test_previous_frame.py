"""Which frame before a keyframe goes into a sample: nuScenes' by stock's count, data at another rate by the same time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from petrflow.annotations import build
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.loader import sample_rng
from petrflow.samples.transforms import SECONDS_PER_SWEEP
from petrflow.sources.xtreme1.prepare import prepare
from tests.helpers.loader_fakes import model_config
from tests.helpers.xtreme1_tiny import write_tiny

CONFIG = model_config((64, 160), resize_lim=[0.1, 0.13])
RANGE = (3 * SECONDS_PER_SWEEP, 27 * SECONDS_PER_SWEEP)


def times_back(folder: Path, step: float, frames: int, training: bool, draws: int = 1, every: int = 1) -> list[float]:
    """Seconds from the last keyframe to its previous frame, of data at a rate."""
    source = write_tiny(
        folder / "e",
        frames=frames,
        step=round(step * 1e6),
        labelled=lambda index: index % every == (frames - 1) % every,
    )
    prepare({"source": str(source)}, folder / "root")
    build(folder / "root", "train", folder / "train.arrow", progress=False)
    dataset = PetrDataset(folder / "train.arrow", folder / "root", CONFIG, training=training)
    assert dataset.by_time == (not 0.04 < step < 0.2)
    found = []
    for draw in range(draws):
        times = dataset.load(len(dataset) - 1, sample_rng(0, draw, 0) if training else None)["timestamp"]
        found.append(float(times[len(times) // 2 :].mean()))
    return found


@pytest.mark.parametrize("step", [0.5, 1.0, 0.25, 0.02])
def test_validation_looks_back_by_the_middle_of_the_range_in_seconds(step: float, tmp_path: Path) -> None:
    back = times_back(tmp_path, step, 12, training=False)[0]
    reachable = min(5 * 2 * step, sum(RANGE) / 2)  # the store holds five keyframes and five frames before each
    assert abs(back - reachable) <= max(step / 2, reachable - 6 * step if step < 0.2 else 0) + 1e-3
    assert back < 2.0


def test_training_draws_from_the_range_in_seconds(tmp_path: Path) -> None:
    drawn = times_back(tmp_path, 0.5, 12, training=True, draws=60)
    assert min(drawn) >= RANGE[0] - 0.25 and max(drawn) <= RANGE[1] + 0.25
    assert len(set(np.round(drawn, 2))) >= 4


def test_unlabelled_frames_between_are_drawn_too(tmp_path: Path) -> None:
    drawn = times_back(tmp_path, 0.25, 13, training=True, draws=60, every=4)
    assert {0.25, 0.5, 0.75, 1.0} <= {round(value, 2) for value in drawn}


def test_nuscenes_own_rate_keeps_stock_s_rule(synthetic_root: Path, synthetic_stores: dict[str, Path]) -> None:
    assert not PetrDataset(synthetic_stores["train"], synthetic_root, CONFIG, training=False).by_time
