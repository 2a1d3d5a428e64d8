"""Read a camera's picture, or say which file of which camera of which sample cannot be read and why."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from petrflow.files import PetrflowError

# The sample's pictures are as the file stores them: calibration knows nothing of an EXIF rotation.
_FULL = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_HALF = cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION
_START_OF_JPEG = b"\xff\xd8"
_END_OF_JPEG = b"\xff\xd9"


def read_image(path: Path, size: tuple[int, int], owner: str, half: bool = False) -> NDArray[np.uint8]:
    """Decode a picture.

    Parameters
    ----------
    path : Path
    size : (width, height) px
        What the file must have.
    owner : str
        Whose picture it is, for messages.
    half : bool
        Decode at half the size (libjpeg does so at a lower price).

    Returns
    -------
    (height, width, 3) uint8, BGR; half of both, rounded up, if `half`
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise PetrflowError(f"{path} ({owner}) is missing. Restore the file, then run again.") from None
    except OSError as error:
        raise PetrflowError(f"{path} ({owner}) cannot be read: {error}.") from None
    # What a cut file lacks some decoders fill with grey, and only warn.
    if data[:2].tobytes() == _START_OF_JPEG and _END_OF_JPEG not in data[-4096:].tobytes():
        raise PetrflowError(
            f"{path} ({owner}) is cut short: it ends after {data.size} bytes without a JPEG's end. Restore it."
        )
    picture = cv2.imdecode(data, _HALF if half else _FULL) if data.size else None
    if picture is None:
        raise PetrflowError(
            f"{path} ({owner}) is no picture that can be decoded ({data.size} bytes). Restore the file."
        )
    expected = ((size[1] + 1) // 2, (size[0] + 1) // 2) if half else (size[1], size[0])
    if picture.shape[:2] != expected:
        height, width = picture.shape[:2]
        raise PetrflowError(
            f"{path} ({owner}) is {width}x{height} px{' at half size' if half else ''}, but the tables say {size[0]}x{size[1]}. "
            "Correct the tables or the file."
        )
    return np.asarray(picture, dtype=np.uint8)
