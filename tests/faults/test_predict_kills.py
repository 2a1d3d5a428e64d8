"""Twenty kills anywhere in a prediction: the same bytes of detections, submission and counts as without any."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]


def start(store: Path, root: Path, folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    script = [sys.executable, "-m", "tests.faults.predict_here", str(store), str(root), str(folder), str(seconds)]
    return subprocess.Popen(script, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def test_twenty_kills_leave_the_same_bytes(
    synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path: Path
) -> None:
    store, draw = synthetic_stores["train"], random.Random(4)
    assert start(store, synthetic_root, tmp_path / "calm", 0.0).wait() == 0
    kills = asked = 0
    while kills < 20:
        process = start(store, synthetic_root, tmp_path / "killed", 0.15)
        assert process.stdout is not None
        for _ in range(draw.randint(1, 3)):  # so many keyframes, and a bit
            asked += bool(process.stdout.readline())
        try:
            process.wait(draw.uniform(0, 0.3))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert start(store, synthetic_root, tmp_path / "killed", 0.0).wait() == 0
    assert asked >= 20
    calm = tmp_path / "calm" / "out"
    files = sorted(path.relative_to(calm) for path in calm.rglob("*") if path.is_file())
    assert {"detections.parquet", "results_nusc.json", "counts.csv", "metrics.json"} <= {str(path) for path in files}
    for path in files:
        assert (tmp_path / "killed" / "out" / path).read_bytes() == (calm / path).read_bytes(), path
    assert not [path for path in (tmp_path / "killed").iterdir() if path.name != "out"]
