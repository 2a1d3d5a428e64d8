"""The learning rate is computed from the step alone, so it needs no saved state.

Stock Paddle3D drops its decay when ``--learning_rate`` is given; here nothing replaces the decay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

WARMUP_START = 1.0 / 3.0
"""Share of the peak at which the warm-up starts, as published."""
FLOOR = 1e-3
"""Share of the peak at which the cosine ends, as published."""
PUBLISHED_RATE = 2e-4
PUBLISHED_BATCH = 8
"""PETRv2 was published with a peak of 2e-4 for a batch of 8 (8 devices, 1 sample each)."""
RATE_TOLERANCE = 10.0
"""Factor between a peak and the suggested one from which on a warning is given."""


def warmup_length(total_steps: int, warmup_steps: int | None = None) -> int:
    """Return the steps of warm-up: those asked for, or the published 500 but never more than a
    tenth of the run.
    """
    if warmup_steps is None:
        warmup_steps = min(500, total_steps // 10)
    return max(0, min(warmup_steps, total_steps - 1))


def learning_rate(step: int, total_steps: int, peak: float, warmup_steps: int | None = None) -> float:
    """Return the rate of a step: a line up to the peak, then half a cosine down to a thousandth of
    it.

    Parameters
    ----------
    step : int
        Steps taken before this one, 0 to ``total_steps - 1``.
    total_steps : int
        Batches per epoch times epochs.
    peak : float
        What the config calls ``learning_rate``.
    warmup_steps : int, optional
        See :func:`warmup_length`.
    """
    warmup = warmup_length(total_steps, warmup_steps)
    if step < warmup:
        return peak * (WARMUP_START + (1.0 - WARMUP_START) * step / warmup)
    progress = min(1.0, (step - warmup) / max(1, total_steps - 1 - warmup))
    return peak * (FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def suggested_peak(global_batch: int, reference: Sequence[float] = (PUBLISHED_RATE, PUBLISHED_BATCH)) -> float:
    """Return the peak that the published one suggests for another batch, in proportion to the
    samples a step.
    """
    rate, batch = reference
    return rate * global_batch / batch


def rate_warning(
    peak: float, batch_size: int, devices: int, reference: Sequence[float] = (PUBLISHED_RATE, PUBLISHED_BATCH)
) -> str | None:
    """Return a sentence when the peak is more than ten times off what batch size and devices
    suggest, else None.
    """
    suggested = suggested_peak(batch_size * devices, reference)
    if suggested / RATE_TOLERANCE <= peak <= suggested * RATE_TOLERANCE:
        return None
    side = "above" if peak > suggested else "below"
    return (
        f"learning_rate {peak:g} is far {side} what a batch of {batch_size} x {devices} device(s) suggests: about "
        f"{suggested:.2g} ({reference[0]:g} for {reference[1]:g} samples a step, in proportion). If that is meant, ignore this"
    )
