"""What the training loop works with, made from a request: the model, the loader, the evaluation."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import paddle

from petrflow.annotations import AnnotationStore
from petrflow.evaluation.evaluate import evaluate, require_scorable
from petrflow.machine import processes
from petrflow.samples.types import Batch
from petrflow.training.learning_rate import PUBLISHED_BATCH, PUBLISHED_RATE, rate_warning
from petrflow.training.request import Request

log = logging.getLogger("petrflow.training")


class TrainableModel(Protocol):
    """What training asks of a model. Tensors, parameters and layers are Paddle's, which has no
    types.
    """

    def train(self) -> None:
        """Switch to training, frozen parts apart."""

    def eval(self) -> None:
        """Switch to evaluation."""

    def seed_step(self, seed: int, epoch: int, iteration: int) -> None:
        """Make all randomness of the next forward a function of these numbers."""

    def losses(self, batch: Batch) -> dict[str, Any]:
        """Return the losses of a batch by name, scalar tensors; training minimises their sum."""

    def parameters(self) -> Iterable[Any]:
        """Return the parameters, those that are not trained included."""

    def named_parameters(self) -> Iterable[tuple[str, Any]]:
        """Return the parameters with their names in ``state_dict``."""

    def buffers(self) -> Iterable[Any]:
        """Return the tensors of the state that are no parameters."""

    def sublayers(self, include_self: bool = False) -> Iterable[Any]:
        """Return all layers."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return parameters and persistable buffers by name."""


class Batches(Protocol):
    """What training asks of a loader."""

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Return an epoch's batches from ``start_batch`` on: a function of these numbers and of
        nothing else.
        """

    def close(self) -> None:
        """End what loads."""


@dataclass
class Parts:
    """What the loop works with.

    Attributes
    ----------
    model : TrainableModel
    loader : Batches
        Of this process.
    evaluate : callable
        Returns the model's metrics; None in all processes but the first.
    """

    model: TrainableModel
    loader: Batches
    evaluate: Callable[[Any], dict[str, Any] | None]


def petrflow_parts(request: Request) -> Parts:
    """Build PETRv2, the loader of the train split and the evaluation on the val split."""
    from petrflow.model import build_model
    from petrflow.samples.dataset import PetrDataset
    from petrflow.samples.loader import Loader, balanced_weights
    from petrflow.weights.load import load_weights

    settings = request.settings
    dataset = PetrDataset(request.train_store, request.root, request.model_config, training=True)
    loader = Loader(
        dataset,
        batch_size=settings.batch_size,
        seed=settings.seed,
        num_workers=settings.num_workers,
        shuffle=True,
        drop_last=True,
        rank=processes.rank(),
        world_size=processes.world_size(),
        weights=balanced_weights(dataset.classes()) if settings.sampling == "balanced" else None,
    )
    random.seed(settings.seed)
    np.random.seed(settings.seed)
    paddle.seed(settings.seed)
    model = build_model(request.model_config, num_cameras=len(dataset.store.camera_names))
    if request.weights is not None:
        fresh, classes = request.model_config.get("fresh", ()), request.model_config["class_names"]
        log.info("%s", load_weights(model, request.weights, fresh, request.partial_weights, classes))
    model.freeze(settings.frozen)
    _warn_about_rate(request)

    def evaluate_val(model: Any) -> dict[str, Any] | None:
        return evaluate(
            model,
            request.val_store,
            request.root,
            request.model_config,
            request.state_dir / "evaluation",
            batch_size=request.settings.batch_size,
            num_workers=request.settings.num_workers,
            judge=request.settings.judge,
        )

    if settings.do_eval:  # said now, and not after the first epochs
        class_names = list(request.model_config["class_names"])
        judging = request.model_config.get("judging")
        require_scorable(AnnotationStore.open(request.val_store), class_names, request.root, settings.judge, judging)
    return Parts(model, loader, evaluate_val)


def _warn_about_rate(request: Request) -> None:
    settings = request.settings
    reference = request.model_config.get("reference_learning_rate") or {}
    pair = (reference.get("rate", PUBLISHED_RATE), reference.get("batch", PUBLISHED_BATCH))
    warning = rate_warning(settings.learning_rate, settings.batch_size, settings.devices, pair)
    if warning and processes.rank() == 0:
        log.warning(warning)
