"""Resize, crop, flip, normalise and pad a picture in two passes, with the very bytes that Pillow's
bicubic resize gives.

Stock Paddle3D resizes whole frames with Pillow and then throws most rows away. Pillow cannot resize
a part of a picture to the bytes that the whole would have had: its ``box`` is single precision and
shifts the filter. So the filter is computed here as Pillow computes it (double precision, then 22
bits of fixed point; rows are filtered first, rounded to bytes, then columns), and applied only
where the crop looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 22
BICUBIC_SUPPORT = 2.0


@dataclass(frozen=True)
class Filter:
    """One axis of a resize: which source pixels make a target pixel, and their weights.

    Attributes
    ----------
    start : (size,) int64
        First source pixel of each target pixel.
    count : (size,) int64
        Number of source pixels; 0 where the target lies outside the resized picture and stays
        black.
    weights : (size, taps) int32
        Fixed point, ``2**22`` is one.
    """

    start: NDArray[np.int64]
    count: NDArray[np.int64]
    weights: NDArray[np.int32]

    @property
    def source_range(self) -> tuple[int, int]:
        """First source pixel used and one past the last; (0, 0) if none is."""
        used = self.count > 0
        if not used.any():
            return 0, 0
        return int(self.start[used].min()), int((self.start + self.count)[used].max())


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution with a = -0.5, in the order of operations that Pillow uses."""
    x = np.abs(x)
    near = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


@lru_cache(maxsize=256)
def bicubic_filter(source: int, resized: int, first: int, size: int) -> Filter:
    """Weights for the target pixels ``first .. first + size - 1`` of an axis resized from `source`
    to `resized` pixels.

    Parameters
    ----------
    source, resized : int
        Length of the axis before and after the resize, px.
    first : int
        First target pixel wanted; may be negative, as a crop that reaches beyond the picture.
    size : int
        Number of target pixels wanted.
    """
    scale = source / resized
    stretch = max(scale, 1.0)
    support = BICUBIC_SUPPORT * stretch
    taps = math.ceil(support) * 2 + 1
    position = np.arange(first, first + size)
    center = (position + 0.5) * scale
    start = np.maximum((center - support + 0.5).astype(np.int64), 0)
    end = np.minimum((center + support + 0.5).astype(np.int64), source)
    inside = (position >= 0) & (position < resized)
    count = np.where(inside, end - start, 0)
    start = np.where(inside, start, 0)

    offset = np.arange(taps)
    weights = _bicubic((offset + start[:, None] - center[:, None] + 0.5) * (1.0 / stretch))
    weights[offset >= count[:, None]] = 0.0
    total = np.zeros(size)
    for tap in range(taps):  # one after the other: a pairwise sum may round differently from Pillow's
        total += weights[:, tap]
    weights = weights / np.where(total != 0.0, total, 1.0)[:, None]
    fixed = np.trunc(weights * (1 << PRECISION_BITS) + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)
    result = Filter(start, count, fixed)
    for array in (result.start, result.count, result.weights):
        array.flags.writeable = False
    return result


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile on first use; kept on disk for the next process where a folder for it can be
    written.
    """
    try:
        compiled: Callable[..., None] = numba.njit(function, cache=True, nogil=True)
    except RuntimeError:  # "no locator available": neither the package's folder nor the user's cache is writable
        compiled = numba.njit(function, nogil=True)
    return compiled


@_compiled
def _filter_columns(
    rows: np.ndarray, axis: tuple[np.ndarray, np.ndarray, np.ndarray], first_row: int, out: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Resize the columns of `rows` (R, width * 3), whose first row is row `first_row` of the
    picture, into `out`.

    `axis` holds start, count and weights of a :class:`Filter`.
    """
    start, count, weights = axis
    total = np.empty(rows.shape[1], np.int32)
    for y in range(out.shape[0]):
        if count[y] == 0:
            out[y, :] = 0
            continue
        total[:] = 1 << (PRECISION_BITS - 1)
        begin = start[y] - first_row
        for tap in range(count[y]):
            weight = weights[y, tap]
            row = rows[begin + tap]
            for x in range(total.shape[0]):
                total[x] += weight * np.int32(row[x])
        for x in range(total.shape[0]):
            out[y, x] = min(max(total[x] >> PRECISION_BITS, 0), 255)


@_compiled
def _normalise(
    picture: np.ndarray, table: np.ndarray, flip: bool, out: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Look every byte of `picture` (h, w, 3) up in `table` (3, 256) and write it to `out` (3, H,
    W), the rest zero.
    """
    height, width = picture.shape[:2]
    for channel in range(3):
        plane = out[channel]
        values = table[channel]
        for y in range(height):
            if flip:
                for x in range(width):
                    plane[y, x] = values[picture[y, width - 1 - x, channel]]
            else:
                for x in range(width):
                    plane[y, x] = values[picture[y, x, channel]]
            plane[y, width:] = 0
        plane[height:] = 0


def resize_crop(
    picture: NDArray[np.uint8], resized: tuple[int, int], origin: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Crop of a resized picture; equal to ``Image.resize(resized).crop(...)`` of Pillow byte for
    byte.

    Parameters
    ----------
    picture : (H, W, 3) uint8
    resized : (width, height) px
        Size of the whole picture after the resize.
    origin : (left, top) px
        Upper left corner of the crop in the resized picture; what lies outside is black.
    size : (width, height) px of the crop.

    Returns
    -------
    (height, width, 3) uint8
    """
    width, height = size
    horizontal = bicubic_filter(picture.shape[1], resized[0], origin[0], width)
    vertical = bicubic_filter(picture.shape[0], resized[1], origin[1], height)
    first, last = vertical.source_range
    if first == last or not horizontal.count.any():
        return np.zeros((height, width, 3), np.uint8)
    # Filtering along columns runs over contiguous bytes, sixteen or more at a time; along rows it
    # cannot. Two transposes cost less than half of what filtering along rows does.
    turned = cv2.transpose(picture[first:last])
    filtered = np.empty((width, last - first, 3), np.uint8)
    _filter_columns(_flat(turned), _arrays(horizontal), 0, _flat(filtered))
    out = np.empty((height, width, 3), np.uint8)
    _filter_columns(_flat(cv2.transpose(filtered)), _arrays(vertical), first, _flat(out))
    return out


def _flat(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return picture.reshape(picture.shape[0], -1)


def _arrays(axis: Filter) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    return axis.start, axis.count, axis.weights


def normalisation_table(mean: list[float], std: list[float]) -> NDArray[np.float32]:
    """Value of every byte of every channel after ``(x - mean) / std``, rounded as stock's two
    OpenCV passes round it.

    Returns
    -------
    (3, 256) float32
    """
    values = np.arange(256, dtype=np.float32)
    # Stock keeps mean and std in single precision; OpenCV subtracts in single and multiplies by
    # 1/std in double precision.
    centered = values - np.asarray(mean, np.float32)[:, None]
    inverse = 1 / np.asarray(std, np.float32).astype(np.float64)[:, None]
    return np.ascontiguousarray((centered.astype(np.float64) * inverse).astype(np.float32))


def normalise_into(
    picture: NDArray[np.uint8], table: NDArray[np.float32], flip: bool, out: NDArray[np.float32]
) -> None:
    """Write `picture` (h, w, 3), mirrored left to right if `flip`, normalised into `out` (3, H, W);
    zeros to the right and below.
    """
    _normalise(picture, table, flip, out)


def warm_up() -> None:
    """Compile what is not yet compiled, so that worker processes find it on disk."""
    picture = resize_crop(np.zeros((8, 8, 3), np.uint8), (4, 4), (0, 0), (4, 4))
    normalise_into(picture, np.zeros((3, 256), np.float32), False, np.empty((3, 4, 4), np.float32))
