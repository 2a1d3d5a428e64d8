"""Read a camera's picture, or say which file of which camera of which sample cannot be read and why."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

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


_HEAD_BYTES = 2048
_TAIL_BYTES = 64

_PNG_START = b"\x89PNG\r\n\x1a\n"
# Start-of-frame markers: all of SOF0 to SOF15 but DHT, JPG and DAC.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


def header_size(path: Path) -> tuple[int, int]:
    """Return width and height of a JPEG or PNG from its header, having seen that the file has its end.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is no whole JPEG or PNG; the text says what is wrong.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        length = os.fstat(descriptor).st_size
        if length == 0:
            raise ValueError("it is empty")
        head = os.pread(descriptor, _HEAD_BYTES, 0)
        if head[:2] == b"\xff\xd8":
            size = _jpeg_size(descriptor, head)
            end = b"\xff\xd9"
        elif head[:8] == _PNG_START and head[12:16] == b"IHDR":
            size = struct.unpack(">II", head[16:24])
            end = b"IEND"
        else:
            raise ValueError("it is neither a JPEG nor a PNG")
        tail = os.pread(descriptor, _TAIL_BYTES, max(0, length - _TAIL_BYTES))
    finally:
        os.close(descriptor)
    if end not in tail:
        # Some cameras append data of their own; only a decoder can tell those files from one that was cut off.
        decode(path)
    return size


def _jpeg_size(descriptor: int, head: bytes) -> tuple[int, int]:
    """Walk a JPEG's segments to its frame header; previews and profiles ahead of it may be large, so only headers are read."""
    position = 2
    while True:
        inside = position + 9 <= len(head)
        segment = head[position : position + 9] if inside else os.pread(descriptor, 9, position)
        if len(segment) < 4 or segment[0] != 0xFF:
            raise ValueError("its JPEG header is damaged or cut off")
        marker = segment[1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            position += 2
        elif marker in _JPEG_FRAMES:
            if len(segment) < 9:
                raise ValueError("its JPEG header is cut off")
            height, width = struct.unpack(">HH", segment[5:9])
            return width, height
        elif marker in (0xD9, 0xDA):
            raise ValueError("its JPEG header has no frame")
        else:
            position += 2 + struct.unpack(">H", segment[2:4])[0]


def decode(path: Path) -> tuple[int, int]:
    """Decode a whole image and return its width and height; ValueError if that fails anywhere."""
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.load()
            return image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"it does not decode ({error})") from None


def _fault(path: Path, width: int, height: int, full: bool) -> str:
    """Say what is wrong with an image; '' if nothing is."""
    try:
        found = decode(path) if full else header_size(path)
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except ValueError as error:
        return str(error)
    if found != (width, height):
        return f"it is {found[0]}x{found[1]}, sample_data.json says {width}x{height}"
    return ""


def file_fault(path: Path) -> str:
    """What is wrong with a file of the data set by its first and last bytes: '' when nothing is, `missing` when it is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return str(error.strerror)
    try:
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, 8, 0)
        # Two bytes would do; some cameras leave padding behind the end marker.
        tail = os.pread(descriptor, 64, max(0, size - 64))
    except OSError as error:
        return str(error.strerror)
    finally:
        os.close(descriptor)
    return _content_fault(path.name.lower(), size, head, tail)


def _content_fault(name: str, size: int, head: bytes, tail: bytes) -> str:
    if size == 0:
        return "empty"
    if name.endswith((".jpg", ".jpeg")):
        return "not a JPEG" if head[:3] != b"\xff\xd8\xff" else "" if b"\xff\xd9" in tail else "cut short"
    if name.endswith(".png"):
        return "not a PNG" if head != b"\x89PNG\r\n\x1a\n" else "" if b"IEND" in tail else "cut short"
    if name.endswith(".pcd.bin"):
        return "" if size % 20 == 0 else "cut short (not a whole number of points)"
    if name.endswith(".pcd"):
        return "" if head[:1] == b"#" or head[:7] == b"VERSION" else "not a point cloud"
    return ""
