"""Find the frames of an Xtreme1 upload or export: which files belong together, and where the media
lies.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from petrflow.errors import PetrflowError

_IMAGE_FOLDER = re.compile(r"(?:camera_)?image_?(\d+)|camera_image_?(.+)")
_CLOUD_FOLDER = re.compile(r"(?:lidar_)?point_cloud(?:_(\d+))?")
_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_LEAVES = ("camera_config", "camera_image", "lidar_point_cloud", "data", "result")
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


# ------------------------------------------------------------------------------------------------------------------ frames


def find_frames(source: Path, notes: list[str] | None = None) -> list[FrameFiles]:
    """List every frame of an export, sorted by scene and name.

    Parameters
    ----------
    source
        An upload or export folder: the known sub-folders at its root or in one folder a scene,
        wrapped in other folders or not. Or one JSON file with all frames, as Xtreme1 0.5 exported
        it and the SDK's `getDataAndResult` answers.
    notes
        Gets a line for whatever was taken for granted.
    """
    notes = [] if notes is None else notes
    if source.is_file():
        return _frames_of_document(source)
    folders = list(_scene_folders(source))
    if not folders:
        documents = [path for path in _files(source) if path.suffix.lower() == ".json"]
        documents += [path for child in _folders(source) for path in _files(child) if path.suffix.lower() == ".json"]
        if len(documents) == 1:
            return _frames_of_document(documents[0])
    frames: list[FrameFiles] = []
    for folder, scene in zip(folders, _scene_names(source, folders), strict=True):
        frames += _frames_of_folder(folder, scene, notes)
    if not frames:
        raise PetrflowError(
            f"{source} holds no Xtreme1 frame: no camera_config/, camera_image_0/ (image0/), lidar_point_cloud_0/ (point_cloud/) or data/ "
            "was found in it. Point `source` at the folder, the zip or the JSON file that Xtreme1 exported."
        )
    return frames


def _scene_folders(folder: Path) -> Iterator[Path]:
    """Folders that hold a scene's sub-folders, in order. Links are followed, a circle of them
    once.
    """
    seen: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:
        here = pending.pop(0)
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        children = _folders(here)
        kinds = {canonical(child.name): child for child in children}
        if not kinds.keys().isdisjoint(_LEAVES[:3]) or (
            "data" in kinds and any(path.suffix.lower() == ".json" for path in _files(kinds["data"]))
        ):
            yield here
        pending += [child for child in children if canonical(child.name) not in _LEAVES]


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if entry.is_dir() and not is_junk(entry.name))


def _files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if entry.is_file() and not is_junk(entry.name))


def _scene_names(source: Path, folders: list[Path]) -> list[str]:
    """Names of scene folders without what they share and without the time of the export: a new
    export has the same scenes.
    """
    if len(folders) == 1:
        return [""]
    parts = [folder.relative_to(source).parts for folder in folders]
    shared = 0
    while all(len(own) > shared for own in parts) and len({own[shared] for own in parts}) == 1:
        shared += 1
    names = ["-".join(EXPORT_TIME.sub("", part) for part in own[shared:]) for own in parts]
    for folder, name in zip(folders, names, strict=True):
        if names.count(name) > 1:
            other = next(path for path, same in zip(folders, names, strict=True) if same == name and path != folder)
            raise PetrflowError(
                f"{folder} and {other} would both be scene '{name}'. Rename one; of two exports of one data set, name the newer as `source`."
            )
    return names


def _frames_of_folder(folder: Path, scene: str, notes: list[str]) -> list[FrameFiles]:
    frames: dict[str, FrameFiles] = {}
    clouds: dict[str, int] = {}
    configs: dict[str, Path] = {}

    def frame(name: str) -> FrameFiles:
        return frames.setdefault(name, FrameFiles(scene, name))

    named: dict[str, list[Path]] = {"data": [], "result": []}
    unread: dict[str, Counter[str]] = {kind: Counter() for kind in ("camera_image", "lidar_point_cloud")}
    for child in _folders(folder):
        kind, camera, cloud = canonical(child.name), camera_of_folder(child.name), cloud_of_folder(child.name)
        if kind not in _LEAVES:
            continue
        for path in _files(child):
            ending, name = path.suffix.lower(), path.stem.strip()
            if camera is not None and ending in _IMAGE_ENDINGS:
                if camera in frame(name).images:
                    raise PetrflowError(f"{path} has a twin, {frame(name).images[camera]}: keep one of the two there.")
                frame(name).images[camera] = path
            elif (
                cloud is not None and ending == ".pcd" and cloud >= clouds.get(name, 0)
            ):  # the viewer shows the last lidar
                frame(name).cloud = path
                clouds[name] = cloud
            elif kind == "camera_config" and ending == ".json":
                configs[name] = path
            elif kind in named and ending == ".json":
                named[kind].append(path)
            elif kind in unread:
                unread[kind][ending] += 1
    for kind, endings in unread.items():
        for ending, count in sorted(endings.items()):
            notes.append(f"{count} files ending in {ending or 'nothing'} in {folder}'s {kind} folders are not read.")
    if max(clouds.values(), default=0):
        notes.append(
            f"{folder} has several lidars: boxes are taken to be in the frame of the last one, which Xtreme1 shows."
        )
    names = _add_data(named["data"], frame)
    shared = next(iter(configs)) if len(configs) == 1 and frames and next(iter(configs)) not in frames else None
    if shared is not None:
        notes.append(f"{configs[shared]} is the only calibration there: it is taken for all {len(frames)} frames.")
        for entry in frames.values():
            entry.config = Document(str(configs[shared]), configs[shared])
    else:
        for name, path in configs.items():
            frame(name).config = Document(str(path), path)
    for path in named["result"]:
        name = names.get(path.stem.strip(), path.stem.strip())
        if name not in frames:
            frame(name).problem = (
                f"{path} is a result without data: no image, point cloud, camera_config or data/{path.name} goes with it. Add them, or move it "
                "out of the export."
            )
        frames[name].result = Document(str(path), path)
    return [frames[name] for name in sorted(frames, key=natural_key)]


# ------------------------------------------------------------------------------------------------------------------ data/NAME.json


def _add_data(paths: list[Path], frame: Any) -> dict[str, str]:
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


def _frames_of_document(path: Path) -> list[FrameFiles]:
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
