"""The input settings of a model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petrflow.config import with_model_defaults
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
    frames_per_second : float
        Rate at which `sweep_range` counts; data at another rate is counted in time.
    previous_frame : bool
        False: every keyframe is paired with itself.
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
    frames_per_second: float
    previous_frame: bool
    point_cloud_range: tuple[float, ...]
    scene_rotation: tuple[float, float]
    scene_scale: tuple[float, float]
    reverse_angle: bool
    augment: bool
    fast_decode: bool
    table: NDArray[np.float32] = field(repr=False, compare=False)

    @classmethod
    def from_model_config(cls, model_config: Mapping[str, Any]) -> InputSettings:
        """Take a checked model file (:func:`petrflow.config.load_model`); its schema has the
        defaults.
        """
        filled = with_model_defaults(model_config)
        picture, scene = filled["input"], filled["augmentation"]
        height, width = picture["image_size"]
        divisor = picture["size_divisor"]
        mean, std = tuple(picture["mean"]), tuple(picture["std"])
        return cls(
            class_names=tuple(filled["class_names"]),
            image_size=(height, width),
            padded_size=(-(-height // divisor) * divisor, -(-width // divisor) * divisor),
            resize_limits=_pair(picture["resize_lim"]),
            bottom_limits=_pair(picture["bot_pct_lim"]),
            image_rotation=_pair(picture["rot_lim"]),
            random_flip=picture["rand_flip"],
            mean=mean,
            std=std,
            sweep_range=tuple(picture["sweep_range"]),
            previous_frame=picture["previous_frame"],
            frames_per_second=float(picture["frames_per_second"]),
            point_cloud_range=tuple(picture["point_cloud_range"]),
            scene_rotation=_pair(scene["rotation"]),
            scene_scale=_pair(scene["scale"]),
            reverse_angle=scene["reverse_angle"],
            augment=scene["enabled"],
            fast_decode=picture["fast_decode"],
            table=normalisation_table(list(mean), list(std)),
        )


def _pair(values: Sequence[float]) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
