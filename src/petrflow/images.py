"""Read a camera's picture, or say which file of which camera of which sample cannot be read and why."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from petrflow.errors import PetrflowError

# The sample's pictures are as the file stores them: calibration knows nothing of an EXIF rotation.
_FLAGS = {
    1: cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
}
_START_OF_JPEG = b"\xff\xd8"
_END_OF_JPEG = b"\xff\xd9"


def read_image(path: Path, size: tuple[int, int], owner: str, reduction: int = 1) -> NDArray[np.uint8]:
    """Decode a picture.

    Parameters
    ----------
    path : Path
    size : (width, height) px
        What the file must have.
    owner : str
        Whose picture it is, for messages.
    reduction : 1, 2, 4 or 8
        Decode at that fraction of the size, which costs libjpeg less.

    Returns
    -------
    (height, width, 3) uint8, BGR; both divided by `reduction` and rounded up
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
    picture = cv2.imdecode(data, _FLAGS[reduction]) if data.size else None
    if picture is None:
        raise PetrflowError(
            f"{path} ({owner}) is no picture that can be decoded ({data.size} bytes). Restore the file."
        )
    expected = (-(-size[1] // reduction), -(-size[0] // reduction))
    if picture.shape[:2] != expected:
        height, width = picture.shape[:2]
        fraction = f" at 1/{reduction} of its size" if reduction > 1 else ""
        raise PetrflowError(
            f"{path} ({owner}) is {width}x{height} px{fraction}, but the tables say {size[0]}x{size[1]}. "
            "Correct the tables or the file."
        )
    return np.asarray(picture, dtype=np.uint8)
