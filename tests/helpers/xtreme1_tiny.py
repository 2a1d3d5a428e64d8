"""A small Xtreme1 export made by hand: tiny images, a box or two a frame, imported in a blink. Tests plant their oddities in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

START = 1_700_000_000_000_000  # µs
SIZE = (32, 18)
# Two cameras: one looks along the cloud's y, one against it.
_LOOKS = (
    [[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
    [[-1, 0, 0, 0], [0, 0, -1, 0], [0, -1, 0, 0], [0, 0, 0, 1]],
)


def box(track: str = "a", name: str = "Car", x: float = 0.0, y: float = 10.0, **contour: Any) -> dict[str, Any]:
    """An object of a result."""
    return {
        "type": "3D_BOX",
        "className": name,
        "trackId": track,
        "contour": {
            "pointN": 5,
            "center3D": {"x": x, "y": y, "z": 0.0},
            "size3D": {"x": 4.0, "y": 2.0, "z": 1.5},
            "rotation3D": {"x": 0, "y": 0, "z": 1.5},
            **contour,
        },
    }


def camera(which: int) -> dict[str, Any]:
    """An entry of camera_config: 0 looks ahead, 1 back."""
    return {
        "cameraInternal": {"fx": 20.0, "fy": 20.0, "cx": SIZE[0] / 2, "cy": SIZE[1] / 2},
        "cameraExternal": [float(value) for row in _LOOKS[which % 2] for value in row],
        "rowMajor": True,
        "width": SIZE[0],
        "height": SIZE[1],
    }


def write_tiny(
    folder: Path,
    *,
    scenes: Sequence[str] = ("one", "two"),
    frames: int = 3,
    folders: Sequence[str] = ("camera_image_0", "camera_image_1"),
    step: int = 500_000,
    name: Callable[[int], str] = str,
    objects: Callable[[int], list[dict[str, Any]]] | None = None,
    labelled: Callable[[int], bool] = lambda index: True,
) -> Path:
    """Write the export; `name` names a frame by its time in µs, `objects` gives the boxes of frame number N."""
    for number, scene in enumerate(scenes):
        for index in range(frames):
            time = START + number * 1_000_000_000 + index * step
            frame = name(time)
            for which, images in enumerate(folders):
                shade = np.full((SIZE[1], SIZE[0], 3), 40 + 10 * which + index % 150, dtype=np.uint8)
                _path(folder / scene / images / f"{frame}.jpg").write_bytes(b"")
                Image.fromarray(shade).save(folder / scene / images / f"{frame}.jpg")
            cameras = [camera(which) for which in range(len(folders))]
            _path(folder / scene / "camera_config" / f"{frame}.json").write_text(json.dumps(cameras))
            if labelled(index):
                boxes = objects(index) if objects else [box()]
                result = [{"version": "1", "sourceName": "Ground Truth", "objects": boxes}]
                _path(folder / scene / "result" / f"{frame}.json").write_text(json.dumps(result, ensure_ascii=False))
    return folder


def edit_all(folder: Path, pattern: str, change: Callable[[Any], Any]) -> None:
    """Change JSON files in place; what `change` returns, if anything, takes the place of the content."""
    for path in sorted(folder.rglob(pattern)):
        content = json.loads(path.read_text())
        changed = change(content)
        path.write_text(json.dumps(content if changed is None else changed))


def table(root: Path, name: str) -> list[dict[str, Any]]:
    """Rows of a table of an imported root."""
    rows: list[dict[str, Any]] = json.loads((root / "v1.0-xtreme1" / f"{name}.json").read_text())
    return rows


def snapshot(folder: Path) -> dict[str, Any]:
    """Every file under a folder with its bytes, and every link with where it leads."""
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def _path(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
