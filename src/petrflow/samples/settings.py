"""The input settings of a model file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petrflow.errors import PetrflowError
from petrflow.pictures.resample import normalisation_table


@dataclass(frozen=True)
class InputSettings:
    """The model file's `input` and `augmentation` sections, checked.

    Attributes
    ----------
    image_size : (height, width) px
        Size after resize and crop.
    padded_size : (height, width) px
        `image_size` rounded up to multiples of the size divisor.
    resize_limits : (low, high)
        Factor of the random resize, for pictures 1600 px wide; others scale by ``1600 / width``.
    bottom_limits : (low, high)
        Share of the resized picture that may be cut off below.
    mean, std : three numbers, BGR
    sweep_range : (first, past last)
        Previous frames to choose from, counted back from the keyframe.
    scene_rotation, scene_scale : (low, high) rad, factor
    augment : bool
        False switches every random step off, for training on exactly what validation sees.
    fast_decode : bool
        Decode pictures at a fraction of their size where that serves; see `PetrDataset`.
    """

    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    padded_size: tuple[int, int]
    resize_limits: tuple[float, float]
    bottom_limits: tuple[float, float]
    image_rotation: tuple[float, float]
    random_flip: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    sweep_range: tuple[int, int]
    point_cloud_range: tuple[float, ...]
    scene_rotation: tuple[float, float]
    scene_scale: tuple[float, float]
    reverse_angle: bool
    augment: bool
    fast_decode: bool
    table: NDArray[np.float32] = field(repr=False, compare=False)

    @classmethod
    def from_model_config(cls, model_config: dict[str, Any]) -> InputSettings:
        """Read a parsed model file; a missing or malformed key is named."""
        picture = _section(model_config, "input")
        scene = model_config.get("augmentation") or {}
        height, width = (int(value) for value in _numbers(picture, "image_size", 2))
        divisor = int(picture.get("size_divisor", 32))
        mean, std = _numbers(picture, "mean", 3), _numbers(picture, "std", 3)
        resize_limits = _pair(picture, "resize_lim", (0.47, 0.625))
        if resize_limits[0] <= 0:
            raise PetrflowError(f"input.resize_lim in the model file is {list(resize_limits)}: both must be above 0.")
        first, past_last = (int(value) for value in _numbers(picture, "sweep_range", 2, (3, 27)))
        if not 0 <= first < past_last:
            raise PetrflowError(
                f"input.sweep_range in the model file is [{first}, {past_last}]: the first must be at least 0 and below the second."
            )
        return cls(
            class_names=tuple(model_config["class_names"]),
            image_size=(height, width),
            padded_size=(-(-height // divisor) * divisor, -(-width // divisor) * divisor),
            resize_limits=resize_limits,
            bottom_limits=_pair(picture, "bot_pct_lim", (0.0, 0.0)),
            image_rotation=_pair(picture, "rot_lim", (0.0, 0.0)),
            random_flip=bool(picture.get("rand_flip", True)),
            mean=mean,
            std=std,
            sweep_range=(first, past_last),
            point_cloud_range=_numbers(picture, "point_cloud_range", 6),
            scene_rotation=_pair(scene, "rotation", (-0.3925, 0.3925)),
            scene_scale=_pair(scene, "scale", (0.95, 1.05)),
            reverse_angle=bool(scene.get("reverse_angle", True)),
            augment=bool(scene.get("enabled", True)),
            fast_decode=bool(picture.get("fast_decode", False)),
            table=normalisation_table(list(mean), list(std)),
        )


def _section(model_config: dict[str, Any], name: str) -> dict[str, Any]:
    section = model_config.get(name)
    if not isinstance(section, dict):
        raise PetrflowError(f"The model file has no section {name!r}; config/models holds complete examples.")
    return section


def _numbers(section: dict[str, Any], key: str, count: int, default: Any = None) -> tuple[Any, ...]:
    value = section.get(key, default)
    if not isinstance(value, list | tuple) or len(value) != count:
        raise PetrflowError(f"Key {key!r} in the model file must be a list of {count} numbers, but is {value!r}.")
    return tuple(value)


def _pair(section: dict[str, Any], key: str, default: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(value) for value in _numbers(section, key, 2, default))
    if low > high:
        raise PetrflowError(f"Key {key!r} in the model file is [{low}, {high}]: the first must not exceed the second.")
    return low, high
