"""What stopping and killing a training costs: work lost, seconds to stop, seconds to be back in training, checkpoints' size and share.

``python benchmarks/resume.py`` renders a small synthetic set, trains the tiny PETRv2 on it on the CPU, stops it with SIGTERM, kills its
process group with SIGKILL, goes on after each, and compares the weights with those of a training that nothing happened to. It prints a
table for people and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from petrflow.annotations import build
from petrflow.files import read_json
from petrflow.sources import synthetic
from petrflow.training.request import Request

PROJECT = Path(__file__).resolve().parents[1]
DATA = {"scenes": 3, "keyframes": 8, "image_size": [400, 225], "sweeps": 2, "seed": 0}


def prepare(folder: Path) -> None:
    """Render the data and build its annotation stores."""
    synthetic.generate(folder, DATA, progress=False)
    for split in ("train", "val"):
        build(folder, split, folder / f"{split}.arrow", progress=False)


def request_in(folder: Path, data: Path, epochs: int, checkpoint_minutes: float) -> Path:
    """Write the request of one training; returns its file."""
    folder.mkdir(parents=True)
    config = yaml.safe_load((PROJECT / "config" / "models" / "petrv2_tiny.yml").read_text())
    schedule = {
        "epochs": epochs,
        "batch_size": 2,
        "learning_rate": 4e-4,
        "log_interval": 1,
        "save_interval": epochs,
        "device": "cpu",
        "checkpoint_minutes": checkpoint_minutes,
    }
    stores = (data / "train.arrow", data / "val.arrow")
    request = Request("benchmark", config, schedule, *stores, data, folder / "state", folder / "train")
    request.write(folder / "request.json")
    return folder / "request.json"


class Training:
    """One process of a training, seen from outside by the scalars it logs after each step."""

    def __init__(self, request: Path) -> None:
        code = "import sys; from pathlib import Path; from petrflow.training.launch import launch; sys.exit(launch(Path(sys.argv[1])))"
        self.state = request.parent / "state"
        self.start = time.monotonic()
        self.log = (request.parent / "log.txt").open("a")
        command = [sys.executable, "-c", code, str(request)]
        self.process = subprocess.Popen(command, stderr=self.log, start_new_session=True)

    def scalars(self) -> tuple[int, float]:
        """Return size and time of change of the log of scalars, (0, 0) while there is none."""
        for path in self.state.glob("*/visualdl/*.log"):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            return found.st_size, found.st_mtime
        return 0, 0.0

    def wait_for_steps(self, count: int, first_size: int | None = None) -> float:
        """Wait for ``count`` steps of this process; return the seconds from its start to the end of the first."""
        began = time.time() - (time.monotonic() - self.start)
        base, seen, first = first_size, 0, 0.0
        while seen < count:
            if self.process.poll() is not None:
                raise SystemExit(f"training ended early with {self.process.returncode}: see {self.log.name}")
            size, changed = self.scalars()
            if changed >= began and size:
                if base is None:
                    base = size
                elif size > base:
                    base, seen = size, seen + 1
                    first = first or time.monotonic() - self.start
            time.sleep(0.02)
        return first

    def end(self, number: int) -> float:
        """Send a signal to the whole group; return the seconds until it is gone."""
        sent = time.monotonic()
        os.killpg(self.process.pid, number)
        self.process.wait()
        return time.monotonic() - sent


def newest_checkpoint(state: Path) -> Path:
    """Return the newest checkpoint's file."""
    return max(state.glob("*/checkpoint-*.safetensors"))


def interrupted(folder: Path, data: Path, options: argparse.Namespace, number: int) -> dict[str, Any]:
    """Train, interrupt after a few steps, go on to the end."""
    request = request_in(folder, data, options.epochs, options.checkpoint_minutes)
    training = Training(request)
    fresh = training.wait_for_steps(1)
    training.wait_for_steps(random.Random(number).randint(5, 8))
    before = time.time()
    stopped = training.end(number)
    code = training.process.returncode
    lost = max(0.0, before - newest_checkpoint(folder / "state").stat().st_mtime)
    again = Training(request)
    resumed = again.wait_for_steps(1)
    if again.process.wait() != 0:
        raise SystemExit(f"going on failed: see {again.log.name}")
    return {
        "exit_code": code,
        "seconds_of_work_lost": round(lost, 2) if number == signal.SIGKILL else 0.0,
        "seconds_to_stop": round(stopped, 2),
        "seconds_to_first_step": round(resumed, 2),
        "seconds_to_first_step_of_a_fresh_start": round(fresh, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--checkpoint-minutes", type=float, default=0.05)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="petrflow-resume-") as name:
        folder = Path(name)
        data = folder / "data"
        prepare(data)
        calm = Training(request_in(folder / "calm", data, options.epochs, options.checkpoint_minutes))
        if calm.process.wait() != 0:
            raise SystemExit((folder / "calm" / "log.txt").read_text())
        rows = {
            signal.Signals(number).name: interrupted(folder / signal.Signals(number).name, data, options, number)
            for number in (signal.SIGTERM, signal.SIGKILL)
        }
        weights = [(folder / run / "train" / "best_model" / "model.pdparams").read_bytes() for run in ("calm", *rows)]
        costs = read_json(folder / "calm" / "train" / "provenance.json")["extra"]
    figures = {
        **rows,
        "same_bytes": all(entry == weights[0] for entry in weights),
        "checkpoint_minutes": options.checkpoint_minutes,
        "checkpoint_bytes": costs["checkpoints"]["bytes_each"],
        "checkpoints": costs["checkpoints"]["count"],
        "training_seconds": costs["training_seconds"],
        "share_of_training_time_writing": costs["checkpoints"]["share_of_training_time"],
        "seconds_training_waits_for_one": round(
            costs["checkpoints"]["seconds_training_waited"] / costs["checkpoints"]["count"], 3
        ),
    }
    keys = list(rows["SIGTERM"])
    print(f"{'':44}{'SIGTERM':>10}{'SIGKILL':>10}")
    for key in keys:
        print(f"{key.replace('_', ' '):44}{rows['SIGTERM'][key]:>10}{rows['SIGKILL'][key]:>10}")
    for key, value in figures.items():
        if key not in rows:
            print(f"{key.replace('_', ' '):44}{value!s:>10}")
    print(json.dumps({"benchmark": "resume", **figures}))


if __name__ == "__main__":
    main()
