"""Lens distortion in a camera_config entry: read it, and undo it in the images, with OpenCV's
pinhole and fisheye models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from petrflow.errors import PetrflowError

_MODELS = {
    "pinhole": ("pinhole", "perspective", "plumb_bob", "plumbbob", "radtan", "rational_polynomial", "brown", "normal", "opencv", "standard"),
    "fisheye": ("fisheye", "equidistant", "kannala", "kb4", "kb", "opencv_fisheye", "kannala_brandt", "kannalabrandt"),
}  # fmt: skip
# Models that OpenCV's two do not cover. Any other word may be a make or a place on the vehicle.
_OTHER_MODELS = (
    "omni", "omnidirectional", "mei", "ucm", "eucm", "ds", "double_sphere", "doublesphere", "scaramuzza", "ocam", "ocamcalib", "cylindrical",
    "spherical", "panoramic", "equirectangular", "ftheta", "f_theta", "fov", "division",
)  # fmt: skip
_MODEL_KEYS = (
    "cameraType",
    "cameraModel",
    "camera_type",
    "camera_model",
    "distortionModel",
    "distortion_model",
    "distortionType",
)
_LIST_KEYS = (
    "distortion", "distCoeffs", "dist_coeffs", "distortionCoefficients", "distortion_coefficients", "distortionCoeffs", "distCoeff", "dist",
)  # fmt: skip
# OpenCV's order.
_PINHOLE = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_FISHEYE = ("k1", "k2", "k3", "k4")


@dataclass(frozen=True)
class Lens:
    """What bends the image: OpenCV's `pinhole` (k1 k2 p1 p2 k3 k4 k5 k6) or `fisheye` (k1 k2 k3 k4)
    model and its coefficients.
    """

    model: str
    coefficients: tuple[float, ...]


def read_lens(where: str, entry: Mapping[str, Any], internal: Mapping[str, Any]) -> Lens | None:
    """Read the distortion of a camera_config entry, wherever it stands there; None for a lens that
    does not bend.

    Raises
    ------
    PetrflowError
        The model is none of OpenCV's two, or two places in the entry say different things.
    """
    model = _model(where, entry, internal)
    names = _FISHEYE if model == "fisheye" else _PINHOLE
    found: dict[str, tuple[float, ...]] = {}
    for part, holder in (("", entry), ("cameraInternal.", internal)):
        for key in _LIST_KEYS:
            if holder.get(key) not in (None, [], {}):
                found[part + key] = _coefficients(f"{where}, {part}{key}", holder[key], names)
        if any(holder.get(name) is not None for name in names):
            found[f"{part}{names[0]}"] = _coefficients(f"{where}, {part}{names[0]} to {names[-1]}", holder, names)
        radial, tangential = holder.get("distortionK"), holder.get("distortionP")
        if isinstance(radial, list) or isinstance(tangential, list):
            listed = dict(zip(("k1", "k2", "k3", "k4", "k5", "k6"), radial or [], strict=False))
            listed |= dict(zip(("p1", "p2"), tangential or [], strict=False))
            found[f"{part}distortionK"] = _coefficients(f"{where}, {part}distortionK", listed, names)
    bent = {place: values for place, values in found.items() if any(values)}
    if len(set(bent.values())) > 1:
        raise PetrflowError(
            f"{where}: {' and '.join(list(bent)[:2])} give different distortions. Leave one of them in the file."
        )
    values = next(iter(bent.values()), tuple(0.0 for _ in names))
    if model == "pinhole" and not any(values):
        return None
    return Lens(model, values)


def _model(where: str, entry: Mapping[str, Any], internal: Mapping[str, Any]) -> str:
    said = [
        (key, holder[key]) for holder in (entry, internal) for key in _MODEL_KEYS if isinstance(holder.get(key), str)
    ]
    for key, text in said:
        plain = text.strip().lower().replace(" ", "_").replace("-", "_")
        if not plain:
            continue
        known = [model for model, words in _MODELS.items() if plain in words]
        if not known and plain not in _OTHER_MODELS:
            continue
        if not known:
            raise PetrflowError(
                f"{where}: {key} is {text!r}, and images are undistorted by OpenCV's pinhole and fisheye models only. Undistort the images "
                "yourself and give their new intrinsics, or leave the camera out with `cameras`."
            )
        return known[0]
    return "pinhole"


def _coefficients(where: str, value: Any, names: Sequence[str]) -> tuple[float, ...]:
    """Coefficients in OpenCV's order, filled up with zeros."""
    if isinstance(value, Mapping):
        numbers = [value.get(name) or 0.0 for name in names]
    elif isinstance(value, list):
        numbers = list(np.array(value, dtype=object).reshape(-1))
        if len(numbers) > len(names) and any(_number(where, number) for number in numbers[len(names) :]):
            raise PetrflowError(
                f"{where} has {len(numbers)} coefficients, and OpenCV's model here has {len(names)}: {', '.join(names)}."
            )
    else:
        raise PetrflowError(f"{where} is {value!r}, neither a list nor an object of coefficients ({', '.join(names)}).")
    numbers = [_number(where, number) for number in numbers[: len(names)]]
    return tuple(numbers + [0.0] * (len(names) - len(numbers)))


def _number(where: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise PetrflowError(f"{where}: {value!r} is not a finite number. Correct it.")
    return number


# ------------------------------------------------------------------------------------------------------------------ images


def undistort(picture: np.ndarray, intrinsic: np.ndarray, lens: Lens) -> np.ndarray:
    """Return the image that a lens without distortion and of the same intrinsics would have taken.

    Parameters
    ----------
    picture : (H, W, 3) uint8
    intrinsic : (3, 3) float64, pixels
    """
    height, width = picture.shape[:2]
    across, down = _maps(intrinsic.tobytes(), lens, width, height)
    return cv2.remap(picture, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


@lru_cache(maxsize=16)
def _maps(intrinsic: bytes, lens: Lens, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    matrix = np.frombuffer(intrinsic, dtype=np.float64).reshape(3, 3)
    coefficients = np.array(lens.coefficients)
    if lens.model == "fisheye":
        maps = cv2.fisheye.initUndistortRectifyMap(
            matrix, coefficients, np.eye(3), matrix, (width, height), cv2.CV_16SC2
        )
    else:
        maps = cv2.initUndistortRectifyMap(matrix, coefficients, np.eye(3), matrix, (width, height), cv2.CV_16SC2)
    return maps[0], maps[1]
