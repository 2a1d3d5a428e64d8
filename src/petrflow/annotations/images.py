"""Check the image files that a store refers to, before anything trains on them."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from petrflow.annotations import layout
from petrflow.errors import PetrflowError

_HEAD_BYTES = 2048
_TAIL_BYTES = 64
_BATCH = 256
_MOST_NAMED = 5

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


def check_images(
    root: Path, store_paths: Sequence[Path], *, full: bool = False, progress: bool = True, threads: int | None = None
) -> int:
    """Check every image file that some stores refer to; see :func:`check_frames`."""
    return check_frames(
        root, [layout.read(path) for path in store_paths], full=full, progress=progress, threads=threads
    )


def check_frames(
    root: Path,
    stores: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    *,
    full: bool = False,
    progress: bool = True,
    threads: int | None = None,
) -> int:
    """Check that every image file is there, whole, and of the size that the tables say.

    Parameters
    ----------
    root : Path
        nuScenes root.
    stores : sequence of (columns, metadata)
        Columns ``camera_frame.*`` of stores, read or about to be written.
    full : bool
        Decode every image instead of reading its header and its end.
    threads : int, optional
        Default: four per core for headers, which wait for the disk; one per core for decoding.

    Returns
    -------
    int
        Files checked.

    Raises
    ------
    PetrflowError
        Names file, sample_data token, camera and fault of the first few bad images, and how many there are.
    """
    root = Path(root)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    faults: list[str] = []
    total = sum(len(columns["camera_frame.timestamp"]) for columns, _ in stores)
    with (
        ThreadPoolExecutor(threads or (cores if full else 4 * cores)) as pool,
        tqdm(total=total, desc="check images", unit="file", disable=not progress) as bar,
    ):
        for columns, metadata in stores:
            frames = _Frames(root, columns, metadata["cameras"])
            for found, size in pool.map(lambda rows, f=frames: f.check(rows, full), frames.batches()):
                faults += found
                bar.update(size)
    if faults:
        listed = "; ".join(faults[:_MOST_NAMED]) + ("; …" if len(faults) > _MOST_NAMED else "")
        raise PetrflowError(
            f"{len(faults)} of {total} images under {root} cannot be used: {listed}. "
            "Copy or extract these files again, or take their scenes out of the splits."
        )
    return total


class _Frames:
    """Camera frames of one store, as far as their files are concerned."""

    def __init__(self, root: Path, columns: dict[str, Any], cameras: Sequence[str]) -> None:
        self.root, self.cameras = root, cameras
        self.paths, self.tokens = (layout.texts(columns[f"camera_frame.{name}"]) for name in ("path", "token"))
        self.sizes, self.camera = columns["camera_frame.size"], columns["camera_frame.camera"]

    def batches(self) -> list[range]:
        return [range(start, min(start + _BATCH, len(self.paths))) for start in range(0, len(self.paths), _BATCH)]

    def check(self, rows: range, full: bool) -> tuple[list[str], int]:
        """Return the faults among some frames, as text, and how many frames were checked."""
        faults = []
        sizes = self.sizes[rows.start : rows.stop].tolist()
        for row, name, (width, height) in zip(rows, self.paths.take(rows), sizes, strict=True):
            if fault := _fault(self.root / name, width, height, full):
                faults.append(f"{name} ({self.cameras[self.camera[row]]}, sample_data {self.tokens[row]}): {fault}")
        return faults, len(rows)


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
