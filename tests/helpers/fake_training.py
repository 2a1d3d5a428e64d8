"""A training of a handful of parameters with everything random that a real one has, for faults that must be tried many times.

Run as a script it is ``python -m petrflow.training`` with the fake parts: ``fake_training.py --request request.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from petrflow.machine import processes
from petrflow.training import stopping, train
from petrflow.training.parts import Parts
from petrflow.training.request import Request

SAMPLES = 24
FEATURES = 6


class FakeModel(paddle.nn.Layer):
    """Two layers, normalisation with running statistics, dropout: all the kinds of state that PETRv2 has."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.first = paddle.nn.Linear(FEATURES, 8)
        self.norm = paddle.nn.BatchNorm1D(8)
        self.dropout = paddle.nn.Dropout(options.get("dropout", 0.1))
        self.second = paddle.nn.Linear(8, 3)
        self.noise = options.get("noise", 0.05)
        self.generator = np.random.default_rng(0)
        self.steps, self.hang_at = 0, options.get("hang_at_step")
        self.norm_eval = options.get("norm_eval", False)
        self.first.weight.optimize_attr["learning_rate"] = 0.1

    def train(self) -> None:
        super().train()
        if self.norm_eval:
            self.norm.eval()

    def seed_step(self, seed: int, epoch: int, iteration: int) -> None:
        paddle.seed((seed * 1000 + epoch) * 1000 + iteration)
        self.generator = np.random.default_rng([seed, epoch, iteration])

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        return self.second(self.dropout(paddle.nn.functional.relu(self.norm(self.first(image)))))

    def losses(self, batch: dict[str, Any]) -> dict[str, paddle.Tensor]:
        self.steps += 1
        if os.environ.get("FAKE_KILL") == f"{processes.rank()}:{self.steps}":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == self.hang_at:
            # one long call that no signal interrupts, as one large operation of Paddle is
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)
        image = batch["img"] + self.noise * self.generator.normal(size=batch["img"].shape).astype("float32")
        out = self.forward(paddle.to_tensor(image))
        target = paddle.to_tensor(np.stack([boxes.mean(axis=0)[:3] for boxes in batch["gt_bboxes_3d"]]))
        return {"loss_bbox": paddle.abs(out - target).mean(), "loss_cls": 0.1 * paddle.square(out).mean()}


class FakeLoader:
    """Batches that are a pure function of seed, epoch and index, as the real loader's are."""

    def __init__(self, request: Request) -> None:
        self.settings = request.settings
        self.options = request.model_config
        self.rank, self.world = processes.rank(), processes.world_size()

    def __len__(self) -> int:
        return self.options.get("samples", SAMPLES) // (self.settings.batch_size * self.world)

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        generator = np.random.default_rng([self.settings.seed, epoch, index])
        image = generator.normal(size=FEATURES).astype("float32")
        if index in self.options.get("bad_samples", []):
            image[:] = np.nan
        boxes = np.tile(image[:3] * 2 + 1, (1 + index % 3, 3)).astype("float32")
        return {"img": image, "gt_bboxes_3d": boxes, "token": f"sample-{index}"}

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[dict[str, Any]]:
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(self.options.get("samples", SAMPLES))
        whole = self.settings.batch_size * self.world
        for number in range(start_batch, len(self)):
            mine = order[number * whole + self.rank * self.settings.batch_size :][: self.settings.batch_size]
            samples = [self.sample(epoch, int(index)) for index in mine]
            time.sleep(self.options.get("step_seconds", 0.0))
            batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
            batch["img"] = np.stack(batch["img"])
            yield batch

    def close(self) -> None:
        pass


def evaluate(model: FakeModel, options: dict[str, Any]) -> dict[str, Any]:
    """Judge the model on fixed inputs; takes as long as it is told."""
    time.sleep(options.get("evaluation_seconds", 0.0))
    inputs = paddle.to_tensor(np.linspace(-1, 1, 4 * FEATURES, dtype="float32").reshape(4, FEATURES))
    score = float(paddle.abs(model(inputs)).mean())
    if folder := os.environ.get("FAKE_SCORES"):  # what each process finds the model to be worth
        with open(f"{folder}/scores-{processes.rank()}.txt", "a") as file:
            file.write(f"{score!r}\n")
    return {"mAP": score / 2, "NDS": score, "not_available": [], "per_class": {}}


def fake_parts(request: Request) -> Parts:
    """Build the fake parts, seeded as the real ones are."""
    options = request.model_config
    stopping.PATIENCE = options.get("patience", stopping.PATIENCE)
    paddle.seed(request.settings.seed)
    return Parts(FakeModel(options), FakeLoader(request), lambda model: evaluate(model, options))


def interrupted(request: Request, at: int = 4) -> None:
    """Train with an error at the `at`-th step of every start, until a start is too short for one."""

    def dies(request: Request) -> Parts:
        parts = fake_parts(request)
        plain = parts.model.losses

        def losses(batch: dict[str, Any]) -> dict[str, paddle.Tensor]:
            if parts.model.steps == at:
                raise RuntimeError("gone")
            return plain(batch)

        parts.model.losses = losses
        return parts

    for _ in range(20):
        try:
            train.train(request, dies)
            return
        except RuntimeError:
            continue
    raise AssertionError("never came to an end")


def make_request(folder: Path, model: dict[str, Any] | None = None, **schedule: Any) -> Request:
    """Write a request and stand-ins for its inputs below ``folder``; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train.arrow", "val.arrow"):
        (folder / name).write_text(name)
    settings = {
        "epochs": 3,
        "batch_size": 4,
        "log_interval": 2,
        "save_interval": 1,
        "device": "cpu",
        "learning_rate": 1e-3,
        "warmup_steps": 2,
    }
    request = Request(
        "fake",
        {"class_names": ["car"], **(model or {})},
        {**settings, **schedule},
        folder / "train.arrow",
        folder / "val.arrow",
        folder,
        folder / "state",
        folder / "train",
    )
    request.write(folder / "request.json")
    return request


def results(folder: Path) -> dict[str, Any]:
    """Return what must be equal between a calm and an interrupted training."""
    from visualdl import LogReader

    out = folder / "train"
    log = LogReader(file_path=str(next((out / "visualdl").glob("*.log"))))
    scalars = {}
    for tag in sorted(log.get_tags()["scalar"]):
        timed = tag.lower().startswith("timing")
        scalars[tag] = [(row.id, 0.0 if timed else row.value) for row in log.get_data("scalar", tag)]
    files = ("best_model/model.pdparams", "last_model/model.pdparams", "history.csv", "metrics.json")
    return {"scalars": json.dumps(scalars), **{name: (out / name).read_bytes() for name in files}}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    plain_train = train.train
    train.train = lambda request: plain_train(request, fake_parts)
    sys.exit(train.main())
