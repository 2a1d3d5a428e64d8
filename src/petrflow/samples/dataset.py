"""Samples for PETRv2: the pictures of a keyframe and of a frame before it, their matrices and
times, and the true boxes.

Nothing here imports Paddle, so that loader workers stay small.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from petrflow.errors import InputError
from petrflow.geometry import boxes_to_petr
from petrflow.nuscenes.synonyms import labels_of
from petrflow.pictures.read import read_image
from petrflow.pictures.resample import normalise_into, resize_crop
from petrflow.samples.settings import InputSettings
from petrflow.samples.transforms import (
    SECONDS_PER_SWEEP,
    Augmentation,
    camera_from_lidar,
    draw_augmentation,
    in_range,
    no_augmentation,
    pad_intrinsics,
    plan_image,
    rotate_boxes,
    rotate_matrices,
    wrap_petr_yaw,
)
from petrflow.samples.types import Sample

LARGEST_ENLARGEMENT = 1.3
"""With fast_decode, how far a picture decoded at a fraction of its size may be enlarged again: some
blur for less work.
"""

_SAME_RATE = (0.55, 1.8)
"""How many times the model file's `frames_per_second` the frames of a store may come in a second for
`sweep_range` to count them.
"""


class Frames(Protocol):
    """The cameras of one moment: what keyframes and sweeps of the annotation store have in
    common.
    """

    image_paths: Sequence[str]
    image_timestamps: NDArray[np.int64]
    image_sizes: NDArray[Any]
    intrinsics: NDArray[np.float64]
    lidar_from_camera: NDArray[np.float64]


class PetrDataset:
    """Samples of one split.

    Parameters
    ----------
    store_path : Path
        Annotation store of the split.
    root : Path
        Dataset folder that the store's picture paths are relative to.
    model_config : dict
        Parsed model file.
    training : bool
        Whether samples carry boxes and are augmented. A training set leaves out keyframes without a
        single usable box (a detection class, at least one lidar or radar point, inside the point
        cloud range), from which nothing can be learnt; stock Paddle3D puts a random other keyframe
        in their place.
    fast_decode : bool, optional
        Decode pictures at half size or less where the model's input needs no more. Faster, and not
        the same pixels. Not given, `input.fast_decode` of the model file holds.
    store : object, optional
        An opened store to use in place of `store_path`; it must be picklable if workers are to load
        from it.
    """

    def __init__(
        self,
        store_path: Path | str | None,
        root: Path | str,
        model_config: dict[str, Any],
        training: bool,
        fast_decode: bool | None = None,
        *,
        store: Any = None,
    ) -> None:
        if store is None and store_path is None:
            raise InputError("A dataset needs the path of an annotation store.")
        self.store_path = None if store_path is None else Path(store_path)
        self.root = Path(root)
        self.model_config = model_config
        self.settings = InputSettings.from_model_config(model_config)
        self.training = training
        self.fast_decode = self.settings.fast_decode if fast_decode is None else fast_decode
        self._store = store
        self.num_cameras = len(self.store.camera_names)
        names = self.store.metadata["names"]
        self._labels = dict(zip(names, labels_of(names, self.settings.class_names), strict=True))
        self.by_time = self._other_rate()
        self.indices = self._usable() if training else np.arange(len(self.store))

    def __getstate__(self) -> dict[str, Any]:
        # A store is memory-mapped: a worker opens it for itself and shares the pages.
        return {**self.__dict__, "_store": None if self.store_path is not None else self._store}

    @property
    def store(self) -> Any:
        """The annotation store, opened on first use."""
        if self._store is None and self.store_path is not None:
            from petrflow.annotations.store import AnnotationStore

            self._store = AnnotationStore.open(self.store_path)
        return self._store

    def __len__(self) -> int:
        """Return the number of samples; in training, of keyframes with at least one usable box."""
        return len(self.indices)

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """Shape of a sample's pictures: (2 * cameras, 3, height, width)."""
        return (2 * self.num_cameras, 3, *self.settings.padded_size)

    def token(self, index: int) -> str:
        """Sample token of sample `index`."""
        return str(self.store[int(self.indices[index])].token)

    def _usable_boxes(self) -> NDArray[np.bool_]:
        """Return which of the store's boxes (M,) training learns from."""
        columns = self.store.columns
        wanted = np.array([self._labels[name] >= 0 for name in self.store.metadata["names"]], dtype=bool)
        valid = columns["box.valid"].astype(bool) & wanted[columns["box.name"]]
        return np.asarray(valid & in_range(self.settings, columns["box.box"]))

    def classes(self) -> NDArray[np.bool_]:
        """Return which of the model's classes each sample holds a usable box of: (len, classes)."""
        columns = self.store.columns
        usable = self._usable_boxes()
        keyframe = np.repeat(np.arange(len(self.store)), np.diff(columns["keyframe.box_offset"]))
        labels = np.array([self._labels[name] for name in self.store.metadata["names"]])
        held = np.zeros((len(self.store), len(self.settings.class_names)), dtype=bool)
        held[keyframe[usable], labels[columns["box.name"]][usable]] = True
        return held[self.indices]

    def _usable(self) -> NDArray[np.int64]:
        columns = self.store.columns
        usable = self._usable_boxes()
        before = np.concatenate([[0], np.cumsum(usable)])[columns["keyframe.box_offset"]]
        kept = np.flatnonzero(np.diff(before))
        if len(kept) == 0:
            present = self.store.metadata["names"]
            where = self.store_path or "The annotation store"
            raise InputError(
                f"{where} holds no keyframe with a usable box (one of the model's classes, {', '.join(self.settings.class_names)}, seen by the "
                f"lidar or radar, inside the point cloud range {list(self.settings.point_cloud_range)}): there is nothing to train on. "
                f"The data has {', '.join(sorted(set(present))) or 'no boxes'}: correct class_names, the class map or the splits."
            )
        return kept

    def _boxes(self, keyframe: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the PETR boxes (M, 9) float32 and labels (M,) that stock's filters leave."""
        label = np.array([self._labels[name] for name in keyframe.names], dtype=np.int64)
        boxes = np.concatenate([keyframe.boxes, keyframe.velocities], axis=1).reshape(-1, 9)
        keep = np.asarray(keyframe.valid, bool) & (label >= 0) & in_range(self.settings, boxes)
        return wrap_petr_yaw(boxes_to_petr(boxes[keep]).astype(np.float32)), label[keep]

    def load(
        self,
        index: int,
        rng: np.random.Generator | None = None,
        *,
        augmentation: Augmentation | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> Sample:
        """Load one sample.

        Parameters
        ----------
        index : int
            Below ``len(self)``.
        rng : Generator, optional
            Source of the augmentation. Without it (or with a dataset not made for training) the
            sample is not augmented.
        augmentation : Augmentation, optional
            The augmentation itself, in place of `rng`.
        out : (2N, 3, H, W) float32, optional
            Where to write the pictures.

        Returns
        -------
        Sample
            With ``gt_bboxes_3d`` and ``gt_labels_3d`` in training.
        """
        row = int(self.indices[index])
        keyframe = self.store[row]
        if augmentation is None:
            augment = self.training and rng is not None
            # By time the whole range may be drawn: it counts no frames of the store.
            drawable = self.settings.sweep_range[1] if self.by_time and keyframe.num_sweeps else keyframe.num_sweeps
            augmentation = (
                draw_augmentation(self.settings, rng, drawable)
                if augment and rng is not None
                else no_augmentation(self.settings)
            )
        if out is None:
            out = np.empty(self.image_shape, np.float32)
        previous = self._previous(keyframe, row, augmentation)

        pictures = self._write_pictures(keyframe, augmentation, out[: self.num_cameras], str(keyframe.token))
        times = keyframe.timestamp / 1e6 - np.asarray(keyframe.image_timestamps) / 1e6
        if previous is None:
            out[self.num_cameras :] = out[: self.num_cameras]
            matrices = [*pictures, *pictures]
            times = np.concatenate([times, times + sum(self.settings.sweep_range) / 2.0 * SECONDS_PER_SWEEP])
        else:
            older = self._write_pictures(
                previous, augmentation, out[self.num_cameras :], str(keyframe.token), dtype=np.float32
            )
            matrices = [*pictures, *older]
            older_times = keyframe.timestamp / 1e6 - np.asarray(previous.image_timestamps) / 1e6
            times = np.concatenate([times, older_times])

        lidar2img = rotate_matrices(augmentation, [matrix for matrix, _ in matrices])
        sample: Sample = {
            "img": out,
            "lidar2img": np.stack([matrix.astype(np.float32) for matrix in lidar2img]),
            "intrinsics": np.stack([intrinsic.astype(np.float32) for _, intrinsic in matrices]),
            "timestamp": times.astype(np.float32),
            "token": str(keyframe.token),
        }
        if self.training:
            boxes, labels = self._boxes(keyframe)
            sample["gt_bboxes_3d"] = rotate_boxes(self.settings, augmentation, boxes)
            sample["gt_labels_3d"] = labels
        return sample

    def _previous(self, keyframe: Any, row: int, augmentation: Augmentation) -> Frames | None:
        """Choose the frame before; None if the keyframe has none with all cameras.

        Stock counts frames. Where they come at another rate than the model file means, the count is
        one of time.
        """
        count = keyframe.num_sweeps
        if count == 0 or not self.settings.previous_frame:
            return None
        wanted = int(sum(self.settings.sweep_range) / 2) - 1 if augmentation.sweep is None else augmentation.sweep
        if self.by_time:
            candidates = self._nearest_in_time(row, (wanted + 1) / self.settings.frames_per_second)
        else:
            wanted = 0 if count == 1 else min(wanted, count - 1)
            # A frame that lacks a camera gives way to the next one nearer to the keyframe, then to
            # those farther away.
            candidates = [*range(wanted, -1, -1), *range(wanted + 1, count)]
        for candidate in candidates:
            frames: Frames = keyframe.sweep(candidate)
            if len(frames.image_paths) == self.num_cameras:
                return frames
        return None

    def _nearest_in_time(self, row: int, seconds: float) -> list[int]:
        """Sweeps of keyframe ``row`` of the store, the one taken nearest to so many seconds before it
        first.
        """
        columns = self.store.columns
        first, last = (int(place) for place in columns["keyframe.sweep_offset"][row : row + 2])
        taken = columns["camera_frame.timestamp"][columns["sweep.camera_frame"][first:last, 0]]
        before = (int(columns["keyframe.timestamp"][row]) - taken) / 1e6
        return [int(place) for place in np.argsort(np.abs(before - seconds), kind="stable")]

    def _other_rate(self) -> bool:
        """Whether frames come at so different a rate from the model file's that previous frames are
        chosen by time.
        """
        columns = getattr(self.store, "columns", {})
        if "sweep.camera_frame" not in columns or not len(columns["sweep.camera_frame"]):
            return False
        offset = columns["keyframe.sweep_offset"]
        filled = np.flatnonzero(offset[1:] > offset[:-1])
        times = columns["camera_frame.timestamp"]
        own, before = columns["keyframe.camera_frame"][filled, 0], columns["sweep.camera_frame"][offset[filled], 0]
        step = float(np.median(times[own] - times[before])) / 1e6
        low, high = _SAME_RATE
        return step <= 0 or not low < 1.0 / (step * self.settings.frames_per_second) < high

    def _reduction(self, resized: int, width: int) -> int:
        """Return the fraction to decode at, for a picture `width` px wide that will be `resized` px
        wide.
        """
        fitting = (fraction for fraction in (8, 4, 2) if resized * fraction <= LARGEST_ENLARGEMENT * width)
        return next(fitting, 1) if self.fast_decode else 1

    def _write_pictures(
        self, frames: Frames, augmentation: Augmentation, out: NDArray[np.float32], token: str, dtype: Any = np.float64
    ) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Fill `out` with the pictures of `frames`; return (lidar2img, intrinsics), each (4, 4), by
        camera.

        Stock keeps a sweep's matrices in single precision and a keyframe's in double; `dtype` says
        which.
        """
        intrinsics = pad_intrinsics(np.asarray(frames.intrinsics)).astype(dtype)
        extrinsics = camera_from_lidar(np.asarray(frames.lidar_from_camera)).astype(dtype)
        matrices = []
        for camera, path in enumerate(frames.image_paths):
            width, height = (int(value) for value in frames.image_sizes[camera])
            plan = plan_image(self.settings, augmentation, width, height)
            picture = read_image(
                self.root / path,
                (width, height),
                f"camera {self.store.camera_names[camera]} of sample {token}",
                self._reduction(plan.resized[0], width),
            )
            final_height, final_width = self.settings.image_size
            picture = resize_crop(picture, plan.resized, plan.origin, (final_width, final_height))
            if plan.rotation % 360.0:
                picture = _rotate(picture, plan.flip, plan.rotation)
            normalise_into(picture, self.settings.table, plan.flip and not plan.rotation % 360.0, out[camera])
            intrinsics[camera, :3, :3] = plan.matrix @ intrinsics[camera, :3, :3]
            matrices.append((intrinsics[camera] @ extrinsics[camera], intrinsics[camera]))
        return matrices


def _rotate(picture: NDArray[np.uint8], flip: bool, degrees: float) -> NDArray[np.uint8]:
    """Mirror, then turn counter-clockwise about the centre, as Pillow does for stock."""
    from PIL import Image

    picture = cv2.flip(picture, 1) if flip else picture
    return np.asarray(Image.fromarray(picture).rotate(degrees))
