"""Batches for training and evaluation, in an order that is a pure function of (seed, epoch)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from petrflow.errors import InputError
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.pool import Pending, Pool, Slots, WorkerFailure, collate
from petrflow.samples.types import Batch

_ORDER, _AUGMENTATION, _BALANCE = 0, 1, 2
"""Keys of three streams of random numbers, so that they never share a number."""


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the random numbers of one sample in one epoch: a function of these three numbers and
    nothing else.
    """
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence([seed, epoch], spawn_key=(_AUGMENTATION, index)))
    )


def epoch_order(seed: int, epoch: int, length: int, shuffle: bool) -> NDArray[np.int64]:
    """Return the order of an epoch's samples, (length,) int64: a function of its arguments and
    nothing else.
    """
    if not shuffle:
        return np.arange(length)
    sequence = np.random.SeedSequence([seed, epoch], spawn_key=(_ORDER,))
    return np.random.Generator(np.random.Philox(sequence)).permutation(length)


def balanced_weights(classes: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how often each sample is worth seeing, (N,), by the rarest class of those that it
    holds, (N, C) bool: one over the root of the share of samples that hold the class.
    """
    share = np.maximum(classes.mean(axis=0), 1.0 / max(1, len(classes)))
    return np.asarray(np.max(np.where(classes, 1.0 / np.sqrt(share), 1.0), axis=1))


def weighted_order(seed: int, epoch: int, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return an epoch of as many samples as there are, (N,) int64, each as often as its weight
    says: the whole part of its expected number surely, the rest by chance.

    A function of its arguments and nothing else.
    """
    sequence = np.random.SeedSequence([seed, epoch], spawn_key=(_BALANCE,))
    rng = np.random.Generator(np.random.Philox(sequence))
    order = rng.permutation(len(weights))
    ends = np.cumsum(weights[order] / weights.sum()) * len(weights)
    drawn = np.minimum(np.searchsorted(ends, np.arange(len(weights)) + rng.uniform(), side="right"), len(weights) - 1)
    return np.asarray(rng.permutation(order[drawn]))


def epoch_batches(
    order: NDArray[np.int64], batch_size: int, *, drop_last: bool, rank: int, world_size: int, equal_steps: bool
) -> list[NDArray[np.int64]]:
    """Cut an order into this rank's batches.

    Step k of all ranks together is step k of one process with ``world_size`` times the batch size.
    What is left over at the end is dropped (`drop_last`); or filled up from the start of the order,
    so that every rank takes as many steps (`equal_steps`, for training on several devices); or
    dealt out, so that each sample comes exactly once.
    """
    whole = batch_size * world_size
    full = len(order) // whole * whole
    batches = [order[start + rank * batch_size :][:batch_size] for start in range(0, full, whole)]
    rest = order[full:]
    if len(rest) == 0 or drop_last:
        return batches
    if equal_steps and world_size > 1:
        rest = np.concatenate([rest, np.resize(order, whole - len(rest))])
    share = rest[rank * batch_size :][:batch_size]
    return [*batches, share] if len(share) else batches


class Loader:
    """Iterate over a dataset in batches.

    Parameters
    ----------
    dataset : PetrDataset
    batch_size : int
        Of this rank.
    seed : int
    num_workers : int
        Processes that load; 0 loads in this process. The batches are the same, byte for byte.
    shuffle, drop_last : bool
    rank, world_size : int
        See :func:`epoch_batches`. A training dataset has as many steps on every rank; otherwise
        every sample comes once.
    prefetch : int
        Batches loaded ahead of the one in hand.
    weights : (N,) float64, optional
        See :func:`weighted_order`, which then gives an epoch's samples.
    """

    def __init__(
        self,
        dataset: PetrDataset,
        batch_size: int,
        seed: int,
        num_workers: int,
        *,
        shuffle: bool,
        drop_last: bool,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        if batch_size < 1 or num_workers < 0 or not 0 <= rank < world_size:
            raise InputError(
                f"Loader needs batch_size >= 1 (got {batch_size}), num_workers >= 0 (got {num_workers}) "
                f"and 0 <= rank < world_size (got {rank} of {world_size})."
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.weights = weights
        self.rank = rank
        self.world_size = world_size
        if prefetch is None:
            prefetch = 1 + -(-num_workers // batch_size)
        self.prefetch = prefetch if num_workers else 0
        # One batch in the caller's hand while it asks for the next, one being handed over, the rest
        # being filled.
        self._slots = Slots((batch_size, *dataset.image_shape), self.prefetch + 2)
        self._pool: Pool | None = None
        if len(dataset) == 0 or (drop_last and len(dataset) < batch_size * world_size):
            raise InputError(
                f"{len(dataset)} samples make no batch of {batch_size} on each of {world_size} devices. "
                "Use a smaller batch size or more data."
            )

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the sample indices of each of this rank's batches."""
        if self.weights is None:
            order = epoch_order(self.seed, epoch, len(self.dataset), self.shuffle)
        else:
            order = weighted_order(self.seed, epoch, self.weights)
        return epoch_batches(
            order,
            self.batch_size,
            drop_last=self.drop_last,
            rank=self.rank,
            world_size=self.world_size,
            equal_steps=self.dataset.training,
        )

    def __len__(self) -> int:
        """Batches of this rank per epoch."""
        return len(self.batches(0))

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Iterate over an epoch's batches from `start_batch` on; what comes before is not loaded.

        A batch holds ``img`` (B, 2N, 3, H, W) float32, ``lidar2img`` and ``intrinsics`` (B, 2N, 4,
        4) float32, ``timestamp`` (B, 2N) float32, ``token`` and, in training, ``gt_bboxes_3d`` and
        ``gt_labels_3d`` as lists; see :meth:`PetrDataset.load`. Its memory is used again once
        nothing refers to it any more.
        """
        todo = self.batches(epoch)[start_batch:]
        if self.num_workers == 0:
            return self._here(epoch, todo)
        return self._by_workers(epoch, todo)

    def close(self) -> None:
        """End the workers. The loader can be used again; it starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _here(self, epoch: int, todo: list[NDArray[np.int64]]) -> Iterator[Batch]:
        # A slot is free again when nothing refers to its array any more. While a generator is
        # suspended at ``yield``, its local variables still refer to what they name. So we delete
        # every name of the last batch before the next slot is taken.
        for indices in todo:
            images = self._slots.take()[1] if self._slots.free else np.empty(self._slots.shape, np.float32)
            samples = [
                self.dataset.load(int(index), sample_rng(self.seed, epoch, int(index)), out=images[position])
                for position, index in enumerate(indices)
            ]
            batch = collate(samples, images[: len(indices)])
            del images, samples
            yield batch
            del batch

    def _by_workers(self, epoch: int, todo: list[NDArray[np.int64]]) -> Iterator[Batch]:
        if self._pool is not None and self._pool.closed:  # a worker died; what it was to fill may still be referred to
            self._slots = Slots(self._slots.shape, self._slots.count)
            self._pool = None
        if self._pool is None:
            self._pool = Pool(self.dataset, self.seed, self.num_workers, self._slots)
        pool, slots = self._pool, self._slots
        pool.drain()
        waiting: deque[Pending] = deque()
        upcoming = iter(todo)
        try:
            for _ in todo:
                while len(waiting) <= self.prefetch and slots.free and (indices := next(upcoming, None)) is not None:
                    waiting.append(pool.submit(epoch, indices))
                batch = pool.complete(waiting.popleft())
                if isinstance(batch, WorkerFailure):
                    raise batch.error()
                # If the caller still holds all other slots, give it a copy of this one. Otherwise
                # no slot would become free and loading would stop.
                if not waiting and not slots.free:
                    batch["img"] = batch["img"].copy()
                yield batch
                del batch  # as in _here: or this name would keep the slot
        finally:
            waiting.clear()  # a caught exception keeps this frame, and through it the slots of the batches that wait
