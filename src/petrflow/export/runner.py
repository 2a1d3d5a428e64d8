"""Boxes from camera pictures with an exported model: numpy, onnxruntime and OpenCV, nothing else.

This file is complete in itself. An export carries a copy of it, beside ``deploy.json`` and the two
ONNX graphs, and README.md explains every step.

    python runner.py MOMENTS.json                  # a line of JSON for every moment with boxes
    python runner.py MOMENTS.json --threads 2 --variant int8 --score 0.3

From another program::

    runner = Runner(Path("export"))
    for moment in stream:
        found = runner.step(pictures, cameras, world_from_lidar, time)
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time as clock
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

FRACTION_BITS = 22
"""Bits behind the point of the weights by which pictures are resized."""
LONGEST_AGE = 2.0
"""s. A larger difference of a picture's time and its moment's means another unit or another
clock.
"""


@dataclass(frozen=True)
class Camera:
    """One camera at one moment.

    Attributes
    ----------
    intrinsics : (3, 3) float64
        Of the picture as it is given to the runner, pixels.
    world_from_camera : (4, 4) float64
        The camera's frame (x right, y down, z ahead) at its exposure to a frame that stands still,
        m. Odometry will do.
    time : float
        Of the exposure, s.
    """

    intrinsics: np.ndarray
    world_from_camera: np.ndarray
    time: float


@dataclass(frozen=True)
class Boxes:
    """What is found at one moment, the highest score first.

    Attributes
    ----------
    boxes : (K, 9) float32
        x, y, z of the centre, width, length, height (m), yaw (rad, from x towards y), vx, vy (m/s),
        in the lidar frame of the moment.
    scores : (K,) float32
    labels : (K,) int64
        Places in ``class_names`` of ``deploy.json``.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Moment:
    """What is kept of a moment: its features, and where and when its cameras were."""

    time: float
    features: np.ndarray
    intrinsics: list[np.ndarray]
    cameras: Sequence[Camera]


class Runner:
    """A stream of moments through the two graphs; each picture goes through the image network once.

    Parameters
    ----------
    folder : Path
        The export.
    threads : int
        That onnxruntime may use; 0 leaves it the choice.
    variant : str, optional
        ``float16`` or ``int8`` where the export has them; without it float32.
    """

    def __init__(self, folder: Path, threads: int = 0, variant: str | None = None) -> None:
        self.facts = json.loads((Path(folder) / "deploy.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Idle threads of one graph would otherwise spin and take the cores from the other graph and
        # from numpy.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.graphs = {}
        for name, graph in self.facts["graphs"].items():
            file = Path(folder) / f"{Path(graph['file']).stem}{'.' + variant if variant else ''}.onnx"
            if variant and not file.is_file() and name == "boxes":
                file = Path(folder) / graph["file"]  # this variant changes the image network alone
            if not file.is_file():
                raise FileNotFoundError(f"{file}: no such file. parity.json and variants.json say what was exported.")
            self.graphs[name] = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.seconds: dict[str, float] = {}
        self._past: deque[Moment] = deque()

    def reset(self) -> None:
        """Forget the past, after a jump in time or in the world frame."""
        self._past.clear()

    def step(
        self, pictures: Sequence[np.ndarray], cameras: Sequence[Camera], world_from_lidar: np.ndarray, time: float
    ) -> Boxes:
        """Find the boxes of a moment.

        Parameters
        ----------
        pictures : one (H, W, 3) uint8 a camera, BGR
            In the order of ``cameras`` of ``deploy.json``, as the cameras give them.
        cameras : one :class:`Camera` a picture
        world_from_lidar : (4, 4) float64
            The lidar frame at ``time`` to the world frame of the cameras, m.
        time : float
            Of the moment, s.
        """
        now = self._seen(pictures, cameras, time)
        found = self.boxes_of(now, self._moment_before(time), world_from_lidar)
        self._past.append(now)
        return found

    def watch(self, pictures: Sequence[np.ndarray], cameras: Sequence[Camera], time: float) -> None:
        """Keep a moment's features for later ones, and find no boxes; arguments as :meth:`step`."""
        self._past.append(self._seen(pictures, cameras, time))

    def _seen(self, pictures: Sequence[np.ndarray], cameras: Sequence[Camera], time: float) -> Moment:
        count = self.facts["num_cameras"]
        if len(pictures) != count or len(cameras) != count:
            raise ValueError(f"{len(pictures)} pictures and {len(cameras)} cameras; this export takes {count} of each")
        for camera in cameras:
            if not abs(time - camera.time) <= LONGEST_AGE:
                raise ValueError(
                    f"a picture of {camera.time} at a moment of {time}: times are seconds, and a moment's pictures are of the same time"
                )
        if self._past and time <= self._past[-1].time:
            raise ValueError(f"a moment of {time} s after one of {self._past[-1].time} s: call reset() between streams")
        began = clock.perf_counter()
        images, intrinsics = self.preprocess(pictures, cameras)
        self._took("preprocess", began)
        began = clock.perf_counter()
        (features,) = self.graphs["features"].run(None, {"images": images})
        self._took("features", began)
        return Moment(time, features, intrinsics, cameras)

    def preprocess(
        self, pictures: Sequence[np.ndarray], cameras: Sequence[Camera]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the image network's input (N, 3, H, W) float32, and each camera's intrinsics (3,
        3) in its pixels.
        """
        settings = self.facts["input"]
        size, padded = settings["image_size"], settings["padded_size"]
        table = normalisation_table(settings["mean"], settings["std"])
        images = np.zeros((len(pictures), 3, *padded), np.float32)
        intrinsics = []
        for picture, camera, image in zip(pictures, cameras, images, strict=True):
            height, width = picture.shape[:2]
            scale, resized, (left, top) = crop_plan(height, width, size, settings["bottom_share"])
            small = resize_crop(picture, resized, (left, top), size)
            for channel in range(3):
                image[channel, : size[0], : size[1]] = table[channel][small[..., channel]]
            pixels = np.array([[scale, 0.0, -left], [0.0, scale, -top], [0.0, 0.0, 1.0]])
            intrinsics.append(pixels @ np.asarray(camera.intrinsics, np.float64))
        return images, intrinsics

    def boxes_of(self, now: Moment, before: Moment | None, world_from_lidar: np.ndarray) -> Boxes:
        """Run the second graph on the features of two moments and decode what it says."""
        began = clock.perf_counter()
        ages = [now.time - camera.time for camera in now.cameras]
        lidar2img = projections(now, world_from_lidar, np.float64)
        if before is None:  # the first moment of a stream: nothing moves between it and itself
            before, older = now, [age + self.facts["before"]["seconds_if_none"] for age in ages]
            lidar2img = [*lidar2img, *lidar2img]
        else:
            older = [now.time - camera.time for camera in before.cameras]
            lidar2img = [*lidar2img, *projections(before, world_from_lidar, np.float32)]
        rounded = np.stack(lidar2img).astype(np.float32).astype(np.float64)
        inputs = {
            "features_now": now.features,
            "features_before": before.features,
            "img2lidars": np.linalg.inv(rounded).astype(np.float32)[None],
            "timestamps": np.array([[*ages, *older]], np.float64).astype(np.float32),
        }
        logits, codes = self.graphs["boxes"].run(None, inputs)
        self._took("boxes", began)
        began = clock.perf_counter()
        found = decode(logits[0], codes[0], **self.facts["decode"])
        self._took("decode", began)
        return found

    def _moment_before(self, time: float) -> Moment | None:
        """Return the kept moment whose first picture's age is nearest to what the model was trained
        with; forget those much older.
        """
        wanted = self.facts["before"]["seconds"]
        while self._past and time - self._past[0].time > 2 * wanted:
            self._past.popleft()
        return min(self._past, key=lambda moment: abs(time - moment.cameras[0].time - wanted), default=None)

    def _took(self, stage: str, began: float) -> None:
        self.seconds[stage] = clock.perf_counter() - began


# ------------------------------------------------------------------------------------------------------------------- pictures


def crop_plan(
    height: int, width: int, size: Sequence[int], bottom_share: float
) -> tuple[float, tuple[int, int], tuple[int, int]]:
    """Return by how much a picture is resized, its (width, height) then, and (left, top) of the
    crop in it, pixels.
    """
    scale = max(size[0] / height, size[1] / width)
    resized = (int(width * scale), int(height * scale))
    top = int((1 - bottom_share) * resized[1]) - size[0]
    return scale, resized, (max(0, resized[0] - size[1]) // 2, top)


def resize_crop(
    picture: np.ndarray, resized: tuple[int, int], origin: tuple[int, int], size: Sequence[int]
) -> np.ndarray:
    """Resize with Pillow's bicubic filter and crop: (H, W, 3) uint8 -> (size[0], size[1], 3) uint8.
    Black lies outside the picture.

    Rows are filtered first and rounded to bytes, then columns.
    """
    across = bicubic_weights(picture.shape[1], resized[0], origin[0], size[1])
    down = bicubic_weights(picture.shape[0], resized[1], origin[1], size[0])
    used = np.flatnonzero(down.any(axis=0))
    if not len(used):
        return np.zeros((*size, 3), np.uint8)
    first, last = used[0], used[-1] + 1
    columns = cv2.transpose(picture[first:last]).reshape(picture.shape[1], -1)
    filtered = _weighted(across, columns).reshape(size[1], last - first, 3)
    rows = cv2.transpose(filtered).reshape(last - first, -1)
    return _weighted(down[:, first:last], rows).reshape(size[0], size[1], 3)


def _weighted(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    # Every sum is a whole number below 2 ** 53, so that float64 holds it exactly.
    total = weights @ values.astype(np.float64) + 2.0 ** (FRACTION_BITS - 1)
    return np.clip(np.floor(total / 2.0**FRACTION_BITS), 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def bicubic_weights(source: int, resized: int, first: int, size: int) -> np.ndarray:
    """Return (size, source) float64, whole numbers: the weights of an axis' source pixels in target
    pixels ``first``, ``first`` + 1, …
    """
    scale = source / resized
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    weights = np.zeros((size, source))
    for row, position in enumerate(range(first, first + size)):
        if not 0 <= position < resized:
            continue
        center = (position + 0.5) * scale
        start, end = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), source)
        values = [_cubic((tap - center + 0.5) * (1.0 / stretch)) for tap in range(start, end)]
        total = 0.0
        for value in values:
            total += value
        for tap, value in zip(range(start, end), values, strict=True):
            share = value / total * (1 << FRACTION_BITS)
            weights[row, tap] = math.trunc(share + (0.5 if share >= 0 else -0.5))
    return weights


def _cubic(x: float) -> float:
    """Keys' cubic convolution with a = -0.5."""
    x = abs(x)
    if x < 1.0:
        return ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2.0 else 0.0


def normalisation_table(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return (3, 256) float32: the value of every byte of the channels B, G, R after ``(x - mean) /
    std``.
    """
    centered = np.arange(256, dtype=np.float32) - np.asarray(mean, np.float32)[:, None]
    inverse = 1 / np.asarray(std, np.float32).astype(np.float64)[:, None]
    return (centered.astype(np.float64) * inverse).astype(np.float32)


# --------------------------------------------------------------------------------------------------------------- calibration


def projections(moment: Moment, world_from_lidar: np.ndarray, dtype: Any) -> list[np.ndarray]:
    """Return one (4, 4) a camera: the lidar frame of now -> (u d, v d, d, 1) in the image network's
    pixels.

    The model was trained with matrices of float32 for the frame before, and of float64 for the
    frame of now.
    """
    lidar_from_world = np.linalg.inv(np.asarray(world_from_lidar, np.float64))
    found = []
    for intrinsics, camera in zip(moment.intrinsics, moment.cameras, strict=True):
        lidar_from_camera = lidar_from_world @ np.asarray(camera.world_from_camera, np.float64)
        camera_from_lidar, pixels = np.eye(4), np.eye(4)
        camera_from_lidar[:3, :3] = np.linalg.inv(lidar_from_camera[:3, :3])
        camera_from_lidar[:3, 3] = -(lidar_from_camera[:3, 3] @ camera_from_lidar[:3, :3].T)
        pixels[:3, :3] = intrinsics
        found.append(pixels.astype(dtype) @ camera_from_lidar.astype(dtype))
    return found


# ------------------------------------------------------------------------------------------------------------------ decoding


def decode(logits: np.ndarray, codes: np.ndarray, max_num: int, centre_range: Sequence[float]) -> Boxes:
    """Turn class logits (Q, C) and box codes (Q, 10) into boxes: the best ``max_num`` pairs of
    query and class, those in range.
    """
    scores = 1 / (1 + np.exp(-logits.astype(np.float32).reshape(-1)))
    best = np.argsort(-scores, kind="stable")[:max_num]
    query, label = np.divmod(best, logits.shape[-1])
    x, y, ln_width, ln_length, z, ln_height, sine, cosine, vx, vy = codes[query].astype(np.float64).T
    yaw = -np.arctan2(sine, cosine) - np.pi / 2  # the network's yaw is -yaw - pi / 2
    yaw = (yaw + np.pi) % (2 * np.pi) - np.pi
    boxes = np.stack([x, y, z, np.exp(ln_width), np.exp(ln_length), np.exp(ln_height), yaw, vx, vy], axis=-1)
    boxes = boxes.astype(np.float32)
    low, high = np.split(np.asarray(centre_range, np.float64), 2)
    inside = ((boxes[:, :3] >= low) & (boxes[:, :3] <= high)).all(axis=1)
    return Boxes(boxes[inside], scores[best][inside], label[inside].astype(np.int64))


# ---------------------------------------------------------------------------------------------------------------- from files


def read_picture(path: Path) -> np.ndarray:
    """Read a picture's pixels as the file stores them: an EXIF orientation is not applied,
    calibration knows nothing of it.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if picture is None:
        raise FileNotFoundError(f"{path}: no picture there, or a damaged one")
    return np.asarray(picture, np.uint8)


def read_moments(path: Path) -> Iterable[tuple[list[Path], list[Camera], np.ndarray | None, float]]:
    """Read moments from JSON; README.md shows its form. Paths of pictures are relative to the
    file.
    """
    try:
        moments = json.loads(path.read_text(encoding="utf-8"))["moments"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'no JSON of {{"moments": [...]}} ({error})') from error
    for number, moment in enumerate(moments):
        try:
            yield moment_from(moment, path.parent)
        except KeyError as error:
            raise ValueError(f"moments[{number}] lacks the key {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"moments[{number}]: {error}") from error


def moment_from(moment: Mapping[str, Any], folder: Path) -> tuple[list[Path], list[Camera], np.ndarray | None, float]:
    """Return picture paths, cameras, world_from_lidar (None: no boxes wanted) and time of one
    moment of the JSON file.
    """
    cameras = [
        Camera(
            _matrix(one["intrinsics"], 3, "intrinsics"),
            _matrix(one["world_from_camera"], 4, "world_from_camera"),
            float(one["time"]),
        )
        for one in moment["cameras"]
    ]
    pictures = [folder / one["picture"] for one in moment["cameras"]]
    pose = moment.get("world_from_lidar")
    return pictures, cameras, None if pose is None else _matrix(pose, 4, "world_from_lidar"), float(moment["time"])


def _matrix(rows: Any, size: int, name: str) -> np.ndarray:
    matrix = np.array(rows, np.float64)
    if matrix.shape != (size, size) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
        raise ValueError(f"{name} is no invertible matrix of {size} rows of {size} finite numbers")
    return matrix


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stream of a file of moments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("moments", type=Path, help="JSON file of moments, see README.md")
    parser.add_argument(
        "--export", type=Path, default=Path(__file__).parent, help="the export (default: beside this file)"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads of onnxruntime (default: its choice)")
    parser.add_argument("--variant", help="float16 or int8, where the export has them")
    parser.add_argument("--score", type=float, default=0.3, help="boxes below this score are left out (default: 0.3)")
    options = parser.parse_args(arguments)
    try:
        runner = Runner(options.export, options.threads, options.variant)
        _print_boxes(runner, options)
    except FileNotFoundError as error:
        sys.exit(str(error) if error.filename is None else f"{error.filename}: no such file.")
    except ValueError as error:
        sys.exit(f"{options.moments}: {error}.")


def _print_boxes(runner: Runner, options: argparse.Namespace) -> None:
    """Print a line of JSON for every moment with boxes."""
    names = runner.facts["class_names"]
    for pictures, cameras, world_from_lidar, time in read_moments(options.moments):
        began = clock.perf_counter()
        pixels = [read_picture(path) for path in pictures]
        runner.seconds["read"] = clock.perf_counter() - began
        if world_from_lidar is None:
            runner.watch(pixels, cameras, time)
            continue
        found = runner.step(pixels, cameras, world_from_lidar, time)
        boxes = [
            {"class": names[label], "score": round(float(score), 5), "box": [round(float(v), 5) for v in box]}
            for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
            if score >= options.score
        ]
        milliseconds = {stage: round(1e3 * value, 1) for stage, value in runner.seconds.items()}
        print(json.dumps({"time": time, "boxes": boxes, "milliseconds": milliseconds}))


if __name__ == "__main__":
    main()
