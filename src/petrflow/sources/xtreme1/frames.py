"""What a frame of an Xtreme1 upload or export is, how its folders are called, and which files its
JSON documents name.

`finding` lists the frames of an export.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from petrflow.errors import PetrflowError

_IMAGE_FOLDER = re.compile(r"(?:camera_)?image_?(\d+)|camera_image_?(.+)")
_CLOUD_FOLDER = re.compile(r"(?:lidar_)?point_cloud(?:_(\d+))?")
# The server adds the time of the export to the name of the data set.
EXPORT_TIME = re.compile(r"-\d{14}$")


@dataclass(frozen=True)
class Document:
    """A JSON file of the export, or the part of one that speaks of one frame; `where` names it in
    messages.
    """

    where: str
    path: Path | None = None
    content: Any = None

    def load(self) -> Any:
        """Return the content."""
        return self.content if self.path is None else load_json(self.path)


@dataclass(frozen=True)
class Named:
    """A file that the export names and does not hold: paths under which it may be found, most
    telling first, and its address.
    """

    where: str
    references: tuple[PurePosixPath, ...]
    url: str | None = None


@dataclass
class FrameFiles:
    """The files of one frame; `scene` is '' where the export has no scenes.

    images by camera: the number of the image folder ('0'), or its name ('front'). `named` holds
    what is elsewhere, by slot: 'cloud', 'config', and 'image 0'. `problem` says why the frame
    cannot be used, where that is known from its files.
    """

    scene: str
    name: str
    images: dict[str, Path] = field(default_factory=dict)
    cloud: Path | None = None
    config: Document | None = None
    result: Document | None = None
    named: dict[str, Named] = field(default_factory=dict)
    problem: str = ""

    @property
    def label(self) -> str:
        """`scene/name`, as file lists and messages give it."""
        return f"{self.scene}/{self.name}" if self.scene else self.name

    @property
    def cameras(self) -> set[str]:
        """Cameras of which the frame has an image, here or elsewhere."""
        return set(self.images) | {slot[6:] for slot in self.named if slot.startswith("image ")}


# ------------------------------------------------------------------------------------------------------------------ names


def camera_of_folder(folder: str) -> str | None:
    """'3' for `camera_image_3`, `image_3`, `image3`; 'front' for `camera_image_front`; None for any
    other folder.
    """
    match = _IMAGE_FOLDER.fullmatch(folder.strip().lower())
    if match is None:
        return None
    return str(int(match[1])) if match[1] else match[2].strip(" _-")


def cloud_of_folder(folder: str) -> int | None:
    match = _CLOUD_FOLDER.fullmatch(folder.strip().lower())
    return int(match[1] or 0) if match else None


def canonical(folder: str) -> str:
    """One name for all generations of folder names, whatever their case, trailing blanks and camera
    numbers.
    """
    if camera_of_folder(folder) is not None:
        return "camera_image"
    return "lidar_point_cloud" if cloud_of_folder(folder) is not None else folder.strip().lower()


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which frame_2 comes before frame_10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def is_junk(name: str) -> bool:
    """Archives packed on a Mac bring `__MACOSX` and `._NAME` along."""
    return name == "__MACOSX" or name.startswith(".")


# ------------------------------------------------------------------------------------------------------------------ JSON


def load_json(path: Path) -> Any:
    """Read a JSON file of the export, in UTF-8, UTF-16 or GBK; a broken one is named."""
    try:
        return json.loads(read_text(path))
    except (ValueError, OSError, RecursionError) as error:
        raise PetrflowError(f"{path} is not readable JSON ({error}). Export it from Xtreme1 again.") from error


def read_text(path: Path) -> str:
    """Read a text file in UTF-8 or UTF-16, with a byte order mark or without, or in GBK, as
    programs on Chinese Windows write it.
    """
    raw = path.read_bytes()
    if not raw:
        raise ValueError("it is empty")
    encoding = json.detect_encoding(raw)  # type: ignore[attr-defined]
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return raw.decode("gb18030")


# ------------------------------------------------------------------------------------------------------------------ data/NAME.json


def add_data(paths: list[Path], frame: Any) -> dict[str, str]:
    """Read `data/NAME.json` files, in which the server names media; return frame names by the names
    of those files.

    Until 0.6 the server wrote `NAME-DATAID.json`: such a frame is called by its name where no other
    has the same.
    """
    contents: dict[Path, dict[str, Any]] = {}
    for path in paths:
        data = load_json(path)
        data = data[0] if isinstance(data, list) and data else data
        if not isinstance(data, dict):
            raise PetrflowError(f"{path} is not an object that names a frame's files. Export it from Xtreme1 again.")
        contents[path] = data
    plain = {path: path.stem.strip().removesuffix(f"-{_id_of(data)}") for path, data in contents.items()}
    counts = Counter(plain.values())
    names = {path.stem.strip(): plain[path] if counts[plain[path]] == 1 else path.stem.strip() for path in contents}
    for path, data in contents.items():
        _name_media(frame(names[path.stem.strip()]), str(path), data)
    return names


def _id_of(data: Mapping[str, Any]) -> Any:
    return next((data[key] for key in ("dataId", "id") if data.get(key) is not None), None)


def _name_media(frame: FrameFiles, where: str, data: Mapping[str, Any]) -> None:
    """Note what a frame's data names. The open-source server writes addresses and leaves the media
    behind.
    """
    for position, node in enumerate(_nodes(data.get("cameraImages"))):
        named = _named(where, node)
        device = str(node.get("deviceName") or "") if isinstance(node, Mapping) else ""
        cameras = (camera_of_folder(device), *map(_camera_in_path, named.references))
        camera = next((found for found in cameras if found is not None), str(position))
        frame.named[f"image {camera}"] = named
    clouds = _nodes(data.get("lidarPointClouds") or data.get("pointClouds"))
    cloud = _named(where, clouds[-1]) if clouds else _named(where, data, "pointCloudUrl", "pointCloudZipPath")
    if cloud.references:
        frame.named["cloud"] = cloud
    config = data.get("cameraConfig")
    named = _named(where, config) if config else _named(where, data, "cameraConfigUrl", "cameraConfigZipPath")
    if named.references:
        frame.named["config"] = named


def _nodes(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _named(where: str, node: Any, *keys: str) -> Named:
    if isinstance(node, str):
        node = {"url": node}
    if not isinstance(node, dict):
        return Named(where, ())
    values = [str(node[key]) for key in keys or ("zipPath", "filePath", "url", "filename", "name") if node.get(key)]
    url = next((value for value in values if urlsplit(value).scheme in ("http", "https")), None)
    return Named(where, tuple(PurePosixPath(unquote(urlsplit(value).path)) for value in values), url)


def _camera_in_path(path: PurePosixPath) -> str | None:
    return next((found for part in reversed(path.parts[:-1]) if (found := camera_of_folder(part)) is not None), None)


# ------------------------------------------------------------------------------------------------------------------ one JSON file


def frames_of_document(path: Path) -> list[FrameFiles]:
    """Read an export that is one JSON file: `{contents: [{data, result}]}`, or `{data: [...],
    results: [...]}` matched by data id.
    """
    content = load_json(path)
    if isinstance(content, dict) and isinstance(content.get("data"), dict):  # the answer of the server's API
        content = content["data"]
    pairs = _pairs(content)
    if pairs is None:
        raise PetrflowError(
            f"{path} is no export of Xtreme1: it has neither `contents` nor `data` and `results`. Point `source` at the folder, the zip or the "
            "JSON file that Xtreme1 exported."
        )
    if not pairs:
        raise PetrflowError(f"{path} holds no frame. Export the data set again with its data and results.")
    names = [
        (str(data.get("sceneName") or ""), str(data.get("name") or _id_of(data) or index))
        for index, (data, _) in enumerate(pairs)
    ]
    counts = Counter(names)
    frames = []
    for index, ((data, result), (scene, name)) in enumerate(zip(pairs, names, strict=True)):
        where = f"{path}, entry {index}"
        unique = name if counts[scene, name] == 1 else f"{name}-{_id_of(data) or index}"
        frame = FrameFiles(scene, unique)
        _name_media(frame, where, data)
        if result is not None:
            frame.result = Document(where, content=result)
        frames.append(frame)
    return sorted(frames, key=lambda frame: (frame.scene, natural_key(frame.name)))


def _pairs(content: Any) -> list[tuple[dict[str, Any], Any]] | None:
    """(data, result) of each frame; None for what is no export."""
    if isinstance(content, dict) and isinstance(content.get("contents"), list):
        entries = [
            entry for entry in content["contents"] if isinstance(entry, dict) and isinstance(entry.get("data"), dict)
        ]
        return [(entry["data"], entry.get("result", entry.get("results"))) for entry in entries]
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        results: dict[str, list[Any]] = {}
        for result in _nodes(content.get("results")):
            if isinstance(result, dict):
                results.setdefault(str(result.get("dataId")), []).append(result)
        data = [entry for entry in content["data"] if isinstance(entry, dict)]
        return [(entry, results.get(str(_id_of(entry)))) for entry in data]
    return None
