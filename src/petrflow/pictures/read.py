"""Image files: the one place where they are read, and where it is decided whether they are whole.

Pixels are taken as the file stores them. An EXIF orientation is not applied, because calibration
knows nothing of it; a door that wants upright pixels turns them when it imports.

JPEGs are decoded by libjpeg-turbo through simplejpeg, which gives the pixels of OpenCV, also at
reduced sizes. OpenCV and Pillow fill what a damaged JPEG lacks with grey and say nothing;
simplejpeg passes on libjpeg's warnings.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from petrflow.errors import PetrflowError

_COLOR = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_GREY = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_START_OF_JPEG = b"\xff\xd8"
_END_OF_JPEG = b"\xff\xd9"
_START_OF_PNG = b"\x89PNG\r\n\x1a\n"
# libjpeg's warnings about files whose pixels are all there. Some cameras leave a few bytes before
# the end marker.
_HARMLESS = re.compile(
    r"\b([1-9]|1[0-6]) extraneous bytes before marker 0xd9|unknown JFIF revision|Adobe color transform"
)
_ORIENTATION = 0x0112

_HEAD_BYTES = 2048
_TAIL_BYTES = 64
# Start-of-frame markers: all of SOF0 to SOF15 but DHT, JPG and DAC.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


class Unreadable(ValueError):
    """An image file that is not there, not whole or no image; the text says which in a clause, such
    as `cut short`.
    """


# ------------------------------------------------------------------------------------------------------------------ pixels


def read_image(path: Path, size: tuple[int, int], owner: str, reduction: int = 1) -> NDArray[np.uint8]:
    """Read a camera's picture, or say which file of which camera of which sample cannot be used and
    why.

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
        picture = read_pixels(path, reduction)
    except Unreadable as error:
        raise PetrflowError(
            f"{where(path)} ({owner}) {error}. Restore the file there, then run the same command again."
        ) from None
    expected = (-(-size[1] // reduction), -(-size[0] // reduction))
    if picture.shape[:2] != expected:
        height, width = picture.shape[:2]
        fraction = f" at 1/{reduction} of its size" if reduction > 1 else ""
        raise PetrflowError(
            f"{where(path)} ({owner}) is {width}x{height} px{fraction}, but the tables say {size[0]}x{size[1]}. "
            "Correct the tables or the file."
        )
    return picture


def read_pixels(path: Path, reduction: int = 1, *, grey: bool = False) -> NDArray[np.uint8]:
    """Decode an image of whatever size.

    Parameters
    ----------
    path : Path
    reduction : 1, 2, 4 or 8
        Decode at that fraction of the size.
    grey : bool
        Decode the brightness alone.

    Returns
    -------
    (H, W, 3) uint8, BGR, or (H, W) uint8

    Raises
    ------
    Unreadable
        The file is missing, damaged or no image.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise Unreadable("is missing") from None
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from None
    if not data:
        raise Unreadable("is empty")
    if data[:2] == _START_OF_JPEG:
        return _decode_jpeg(data, reduction, grey)
    if data[:8] == _START_OF_PNG:
        _check_png(data)
    flags = (_GREY if grey else _COLOR)[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    picture = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    if picture is None:
        raise Unreadable("is no image that can be decoded")
    return np.asarray(picture, dtype=np.uint8)


def _decode_jpeg(data: bytes, reduction: int, grey: bool) -> NDArray[np.uint8]:
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        least = (-(-height // reduction), -(-width // reduction)) if reduction > 1 else (0, 0)
        from_colors = grey and space not in ("Gray", "GRAY", "YCbCr")
        wanted = "GRAY" if grey and not from_colors else "BGR"
        options = {"colorspace": wanted, "min_height": least[0], "min_width": least[1], "min_factor": 1}
        try:
            pixels = simplejpeg.decode_jpeg(data, **options)
        except ValueError as error:
            if not _HARMLESS.search(str(error)):
                raise
            pixels = simplejpeg.decode_jpeg(data, **options, strict=False)
    except ValueError as error:
        cut = _END_OF_JPEG not in data[-4096:]
        raise Unreadable("is cut short" if cut else f"is damaged ({error})") from None
    if from_colors:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    return np.asarray(pixels[..., 0] if grey and pixels.ndim == 3 else pixels, dtype=np.uint8)


def _check_png(data: bytes) -> None:
    """Compare the checksums of a PNG's chunks, which OpenCV does not insist on."""
    position = len(_START_OF_PNG)
    while position + 12 <= len(data):
        length = struct.unpack(">I", data[position : position + 4])[0]
        chunk = memoryview(data)[position + 4 : position + 8 + length]
        checksum = data[position + 8 + length : position + 12 + length]
        if len(checksum) < 4:
            break
        if zlib.crc32(chunk) != struct.unpack(">I", checksum)[0]:
            raise Unreadable("is damaged (a checksum inside it is wrong)")
        if bytes(chunk[:4]) == b"IEND":
            return
        position += 12 + length
    raise Unreadable("is cut short")


def where(path: Path) -> str:
    """Return the place of a file as a person should look for it: behind the links of a root, in the
    source.
    """
    real = Path(path).resolve()
    return str(path if real == Path(path).absolute() else real)


def exif_orientation(path: Path) -> int:
    """Return a file's EXIF orientation: 1 for upright or unsaid, up to 8; only the header is
    read.
    """
    try:
        with Image.open(path) as image:
            return int(image.getexif().get(_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError):
        return 1


# ------------------------------------------------------------------------------------------------------------------ integrity


def picture_fault(path: Path, size: tuple[int, int] | None = None, *, full: bool = False) -> str:
    """Say in a clause what is wrong with an image file, such as `is cut short`; '' if nothing is.

    Parameters
    ----------
    path : Path
    size : (width, height) px, optional
        What the tables say of it.
    full : bool
        Decode it, at an eighth of its size where the format allows that, instead of reading its
        header and its end.
    """
    try:
        found = header_size(path)
        if full:
            read_pixels(path, 8, grey=True)
    except Unreadable as error:
        return str(error)
    if size is not None and found != size:
        return f"is {found[0]}x{found[1]}, sample_data.json says {size[0]}x{size[1]}"
    return ""


def header_size(path: Path) -> tuple[int, int]:
    """Return width and height of a JPEG or PNG from its header, having seen that the file has its
    end.

    Raises
    ------
    Unreadable
        It is not there or no whole JPEG or PNG.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise Unreadable("is missing") from None
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from None
    try:
        length = os.fstat(descriptor).st_size
        if length == 0:
            raise Unreadable("is empty")
        head = os.pread(descriptor, _HEAD_BYTES, 0)
        if head[:2] == _START_OF_JPEG:
            size = _jpeg_size(descriptor, head)
            end = _END_OF_JPEG
        elif head[:8] == _START_OF_PNG and head[12:16] == b"IHDR":
            size = struct.unpack(">II", head[16:24])
            end = b"IEND"
        else:
            raise Unreadable("is neither a JPEG nor a PNG")
        tail = os.pread(descriptor, _TAIL_BYTES, max(0, length - _TAIL_BYTES))
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from None
    finally:
        os.close(descriptor)
    if end not in tail:
        # Some cameras append data of their own; only a decoder can tell those files from one that
        # was cut off.
        read_pixels(path, 8, grey=True)
    return size


def _jpeg_size(descriptor: int, head: bytes) -> tuple[int, int]:
    """Walk a JPEG's segments to its frame header; previews and profiles ahead of it may be large,
    so only headers are read.
    """
    position = 2
    while True:
        inside = position + 9 <= len(head)
        segment = head[position : position + 9] if inside else os.pread(descriptor, 9, position)
        if len(segment) < 4 or segment[0] != 0xFF:
            raise Unreadable("has a JPEG header that is damaged or cut off")
        marker = segment[1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            position += 2
        elif marker in _JPEG_FRAMES:
            if len(segment) < 9:
                raise Unreadable("has a JPEG header that is cut off")
            height, width = struct.unpack(">HH", segment[5:9])
            return width, height
        elif marker in (0xD9, 0xDA):
            raise Unreadable("has a JPEG header without a frame")
        else:
            position += 2 + struct.unpack(">H", segment[2:4])[0]


def cloud_fault(path: Path) -> str:
    """Say in a clause what is wrong with a point cloud or any other file by its first bytes and its
    size; '' if nothing is.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            head = handle.read(8)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    name = path.name.lower()
    if size == 0:
        return "is empty"
    if name.endswith(".pcd.bin"):
        return "" if size % 20 == 0 else "is cut short (not a whole number of points)"
    if name.endswith(".pcd"):
        return "" if head[:1] == b"#" or head[:7] == b"VERSION" else "is no point cloud"
    return ""


def file_fault(path: Path) -> str:
    """Say in a clause what is wrong with a file of a data set, image or cloud; '' if nothing is."""
    name = path.name.lower()
    return picture_fault(path) if name.endswith((".jpg", ".jpeg", ".png")) else cloud_fault(path)
