"""Weights written as safetensors, as other frameworks publish them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from petrflow.files import write_atomic


def save_safetensors(path: Path, weights: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write weights in the order of their names: equal weights give equal bytes."""
    arrays = {name: np.asarray(value, order="C") for name, value in sorted(weights.items())}
    write_atomic(path, save(arrays, dict(metadata or {}) or None))
