"""Images of an export: what they are as the labelling tool shows them, and how they come into a
root.

The calibration belongs to the picture as Xtreme1 shows it, and a browser turns a picture as its
EXIF says. So this door turns it once, at import. JPEG and PNG that need nothing are linked,
everything else is decoded and written as JPEG.
"""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from petrflow.errors import PetrflowError
from petrflow.files import sha256_file
from petrflow.pictures.read import header_size
from petrflow.sources.xtreme1.lens import Lens, undistort

_ORIENTATION = 0x0112
# Orientations that exchange width and height.
_LYING = (5, 6, 7, 8)
_QUALITY = 95
# What cameras write; JPEG stands for MPO, too. Pillow knows more, and hands some of it to other programs.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
_CURE = "Put a sound copy there: the next run takes it in."


@dataclass(frozen=True)
class Picture:
    """An image file of the export.

    size : (width, height) px as the labelling tool shows it; orientation : EXIF's, 1 for upright; ending : '.jpg' or '.png' for what can
    be linked, '' for what must be converted.
    """

    path: Path
    size: tuple[int, int]
    orientation: int
    ending: str


def look_at(path: Path) -> Picture:
    """Read an image's header and see that its file has an end; a broken one is named with the
    cure.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large pictures, odd EXIF
            with Image.open(path, formats=_FORMATS) as opened:
                size, kind = opened.size, opened.format
                orientation = opened.getexif().get(_ORIENTATION, 1)
        ending = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png"}.get(str(kind), "")
        if ending:
            header_size(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PetrflowError(f"{path} is no readable image ({error}). {_CURE}") from error
    orientation = orientation if orientation in range(1, 9) else 1
    return Picture(path, size[::-1] if orientation in _LYING else size, orientation, ending)


def bring(picture: Picture, target: Path, intrinsic: np.ndarray, lens: Lens | None) -> tuple[Path, str]:
    """Bring an image into a root, turned and undistorted where it must be.

    Parameters
    ----------
    target
        Where it goes, without an ending.

    Returns
    -------
    The file, and the SHA-256 of its content.
    """
    if picture.ending and picture.orientation == 1 and lens is None:
        path = target.with_name(target.name + picture.ending)
        _link(picture.path, path)
        return path, sha256_file(path)
    pixels = _decode(picture)
    if lens is not None:
        pixels = undistort(pixels, intrinsic, lens)
    path = target.with_name(target.name + ".jpg")
    written, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not written:
        raise PetrflowError(f"{picture.path} could not be written as JPEG. {_CURE}")
    path.write_bytes(data.tobytes())
    return path, sha256_file(path)


def _decode(picture: Picture) -> np.ndarray:
    """Decode to (H, W, 3) uint8, BGR, upright."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(picture.path, formats=_FORMATS) as opened:
                upright = ImageOps.exif_transpose(opened)
                if upright.mode.startswith("I") or upright.mode == "F":  # 16 bits and more
                    values = np.asarray(upright, dtype=np.float64)
                    upright = Image.fromarray(
                        (values / (257.0 if values.max() > 255 else 1.0)).clip(0, 255).astype(np.uint8)
                    )
                pixels = np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PetrflowError(f"{picture.path} does not decode ({error}). {_CURE}") from error
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _link(source: Path, target: Path) -> None:
    """Bring a file into the root without a second copy on disk where the file system can."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
