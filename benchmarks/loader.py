"""Samples per second and core: stock Paddle3D's transform chain, ours, and ours with fast_decode, interleaved in one run.

    python benchmarks/loader.py [--pictures FOLDER] [--samples N] [--workers 1 2 8]

A sample is two frames of six 1600x900 JPEGs, augmented for training and brought to 800x320 (the published model's input). All
three load the same sample with the same augmentation one after the other, and CPU time is counted, so that what else runs on
the machine weighs on all alike. Without --pictures, JPEGs of the size and weight of nuScenes' are made up; with it, the first
six in the folder (searched below it) are taken. --workers also times whole loaders, and weighs their processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import psutil

from benchmarks.rates import loader_rate
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.loader import Loader, sample_rng
from petrflow.samples.transforms import draw_augmentation
from tests.helpers.loader_fakes import FakeStore, keyframe, model_config, write_pictures
from tests.helpers.stock_loader import StockLoader

SIZE = (1600, 900)


def timed(function: Any) -> tuple[float, Any]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def compare(store: FakeStore, root: Path, scratch: Path, samples: int) -> dict[str, float]:
    """Time the three sides and compare what they make."""
    exact = PetrDataset(None, root, model_config(), training=True, store=store)
    fast = PetrDataset(None, root, model_config(), training=True, fast_decode=True, store=store)
    stock = StockLoader(store, root, exact.settings, True, scratch)
    seconds: dict[str, list[float]] = {"stock": [], "ours": [], "fast": []}
    largest, fast_difference = 0.0, []
    for number in range(samples + 1):
        augmentation = draw_augmentation(exact.settings, sample_rng(0, number, 0), store[0].num_sweeps)
        reference_seconds, reference = timed(lambda: stock.load(0, augmentation))  # noqa: B023
        exact_seconds, sample = timed(lambda: exact.load(0, augmentation=augmentation))  # noqa: B023
        fast_seconds, rough = timed(lambda: fast.load(0, augmentation=augmentation))  # noqa: B023
        for key, expected in reference.items():
            found = np.nan_to_num(sample[key])  # stock calls an unknown velocity zero
            largest = max(largest, float(np.abs(found - expected.astype(found.dtype)).max()))
        fast_difference.append(float(np.abs(rough["img"] - sample["img"]).mean()))
        if number:  # the first compiles and fills caches
            for side, value in zip(seconds, (reference_seconds, exact_seconds, fast_seconds), strict=True):
                seconds[side].append(value)
    print(
        f"{'':14}{'samples/s':>10}{'ms median':>11}{'ms best':>9}{'ratio':>7}   ({samples} samples, CPU time of one core)"
    )
    medians = {side: float(np.median(values)) for side, values in seconds.items()}
    for side, values in seconds.items():
        ratio = medians["stock"] / medians[side]
        print(f"{side:14}{1 / medians[side]:10.2f}{medians[side] * 1e3:11.1f}{min(values) * 1e3:9.1f}{ratio:7.2f}")
    return {
        "stock_samples_per_s": round(1 / medians["stock"], 3),
        "samples_per_s": round(1 / medians["ours"], 3),
        "ratio": round(medians["stock"] / medians["ours"], 3),
        "max_abs_diff": largest,
        "fast_ratio": round(medians["stock"] / medians["fast"], 3),
        "fast_mean_abs_diff": round(float(np.mean(fast_difference)), 5),
    }


def whole_loaders(store: FakeStore, root: Path, workers: list[int]) -> None:
    """Time loaders with workers, and weigh their processes."""
    print(
        f"\n{'workers':>7}{'samples/s':>11}{'first batch s':>15}{'PSS a worker MB':>17}{'shared ring MB':>16}   (batch 2, wall time)"
    )
    for count in workers:
        dataset = PetrDataset(None, root, model_config(), training=True, store=store)
        with Loader(dataset, 2, 0, count, shuffle=True, drop_last=True) as loader:
            first, rate = loader_rate(loader, warm=2 * len(loader), batches=len(loader))
            ring = loader._slots.stride * loader._slots.count
            children = [
                p for p in psutil.Process().children(recursive=True) if "petrflow.samples.worker" in p.cmdline()
            ]
            # The ring is counted once, not by its share in each process.
            memory = sum(_private(process) for process in children) / count / 2**20
        print(f"{count:7}{rate:11.2f}{first:15.2f}{memory:17.1f}{ring / 2**20:16.0f}")


def _private(process: psutil.Process) -> float:
    """PSS of a process without the ring, bytes."""
    return (
        float(sum(m.pss for m in process.memory_maps() if "petrflow-loader" not in m.path))
        if process.is_running()
        else 0.0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder with at least six 1600x900 JPEGs in it or below it")
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--workers", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        scratch = root = Path(folder)
        if arguments.pictures is None:
            names = write_pictures(root, 6, SIZE, noise=1.0)
        else:
            root = arguments.pictures.resolve()
            names = [str(path.relative_to(root)) for path in sorted(root.rglob("*.jpg"))][:6]
        print("JPEG sizes (KB):", *[(root / name).stat().st_size // 1024 for name in names])
        frames = [keyframe(number, names, [names[::-1]] * 20, SIZE) for number in range(40)]
        result = compare(FakeStore(frames[:1]), root, scratch, arguments.samples)
        if arguments.workers:
            whole_loaders(FakeStore(frames), root, arguments.workers)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
