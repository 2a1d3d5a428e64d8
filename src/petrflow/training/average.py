"""An exponential moving average of a model's weights: what is evaluated and delivered in place of
the last step's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import paddle

from petrflow.training.parts import TrainableModel


class Average:
    """The average of all parameters that train, in float32.

    Statistics of normalisation layers are averages already and are taken as they are.

    Parameters
    ----------
    model : TrainableModel
        The average begins as its weights.
    optimizer : paddle Optimizer
        Its float32 copies count where the model trains in lower precision.
    decay : float
        Share of the old average that stays at each step; less in the first steps, (1 + n) / (10 + n)
        at most, so that a short training is no average of weights that it started from.
    stored : mapping, optional
        The average of a checkpoint, by name.
    """

    def __init__(
        self, model: TrainableModel, optimizer: Any, decay: float, stored: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.decay = decay
        self._optimizer = optimizer
        self._parameters = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
        if stored:
            self._averages = {name: paddle.to_tensor(stored[name]) for name in self._parameters}
        else:
            self._averages = {name: _single(self._source(p)).clone() for name, p in self._parameters.items()}

    def _source(self, parameter: Any) -> Any:
        return getattr(self._optimizer, "_master_weights", {}).get(parameter.name, parameter)

    @paddle.no_grad()
    def update(self, updates: int) -> None:
        """Take the weights of the step just done into the average; it was the ``updates``-th that
        changed them.
        """
        decay = min(self.decay, (1.0 + updates) / (10.0 + updates))
        for name, parameter in self._parameters.items():
            average = self._averages[name]
            average.scale_(decay)
            average.add_(_single(self._source(parameter)) * (1.0 - decay))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model, and the model's own weights back at the end."""
        own = {name: parameter.clone() for name, parameter in self._parameters.items()}
        try:
            for name, parameter in self._parameters.items():
                # A parameter may share the memory of what it is set to: it gets a copy.
                parameter.set_value(self._averages[name].astype(parameter.dtype).clone())
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.set_value(own[name])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return a copy of the average, float32 by the names of ``state_dict``."""
        return {name: np.array(average.numpy(), copy=True) for name, average in self._averages.items()}


def _single(tensor: Any) -> Any:
    return tensor.astype("float32").detach()
