"""Which frame before a keyframe goes into a sample: nuScenes' by stock's count, data at another rate by the same time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petrflow.annotations import build
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.loader import sample_rng
from petrflow.sources.synthetic.generate import generate
from petrflow.sources.xtreme1.prepare import prepare
from tests.helpers.loader_fakes import model_config
from tests.helpers.models import read_model_config
from tests.helpers.xtreme1_tiny import write_tiny

CONFIG = model_config((64, 160), resize_lim=[0.1, 0.13])
RANGE = (4 / 12, 27 / 12)


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
    assert dataset.by_time
    found = []
    for draw in range(draws):
        times = dataset.load(len(dataset) - 1, sample_rng(0, draw, 0) if training else None)["timestamp"]
        found.append(float(times[len(times) // 2 :].mean()))
    return found


@pytest.mark.parametrize("step", [0.5, 1.0, 0.25, 0.02])
def test_validation_looks_back_by_the_middle_of_the_range_in_seconds(step: float, tmp_path: Path) -> None:
    back = times_back(tmp_path, step, 12, training=False)[0]
    reachable = min(5 * 2 * step, 15 / 12)  # the store holds five keyframes and five frames before each
    assert abs(back - reachable) <= max(step / 2, reachable - 6 * step if step < 0.2 else 0) + 1e-3
    assert back < 2.0


def test_training_draws_from_the_range_in_seconds(tmp_path: Path) -> None:
    drawn = times_back(tmp_path, 0.5, 12, training=True, draws=60)
    assert min(drawn) >= RANGE[0] - 0.25 and max(drawn) <= RANGE[1] + 0.25
    assert len(set(np.round(drawn, 2))) >= 4


def test_a_model_of_one_frame_pairs_keyframes_with_themselves(
    synthetic_root: Path, synthetic_stores: dict[str, Path]
) -> None:
    config = model_config((64, 160), resize_lim=[0.1, 0.13], previous_frame=False)
    dataset = PetrDataset(synthetic_stores["train"], synthetic_root, config, training=True)
    sample = dataset.load(len(dataset) - 1, sample_rng(0, 0, 0))
    assert np.array_equal(sample["img"][:6], sample["img"][6:])
    assert np.array_equal(sample["lidar2img"][:6], sample["lidar2img"][6:])


def test_unlabelled_frames_between_are_drawn_too(tmp_path: Path) -> None:
    drawn = times_back(tmp_path, 0.25, 13, training=True, draws=60, every=4)
    assert {0.25, 0.5, 0.75, 1.0} <= {round(value, 2) for value in drawn}


def test_data_at_the_model_files_own_rate_is_counted_in_frames(
    synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path: Path
) -> None:
    """Stock's count, bit by bit: nuScenes' 12 frames a second with the published model, the default's 4 with the small one."""

    def by_time(config: dict[str, Any], sweeps: int) -> bool:
        root = tmp_path / f"{sweeps}"
        if not root.exists():
            settings = {"scenes": 2, "keyframes": 2, "image_size": [64, 36], "sweeps": sweeps, "density": 0.3}
            generate(root, settings, progress=False, workers=1)
            build(root, "train", tmp_path / f"{sweeps}.arrow", progress=False)
        return PetrDataset(tmp_path / f"{sweeps}.arrow", root, config, training=False).by_time

    tiny = read_model_config("petrv2_tiny")
    assert not by_time(CONFIG, 5) and by_time(CONFIG, 1) and by_time(tiny, 5) and not by_time(tiny, 1)
