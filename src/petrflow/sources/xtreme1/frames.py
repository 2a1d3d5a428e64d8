"""Find the frames of an Xtreme1 upload or export: which files belong together, and where the media lies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from petrflow.errors import PetrflowError
from petrflow.files import fingerprint

_IMAGE_FOLDER = re.compile(r"(?:camera_)?image_?(\d+)")
_CLOUD_FOLDER = re.compile(r"(?:lidar_)?point_cloud(?:_0)?")
_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass
class FrameFiles:
    """The files of one frame; `scene` is '' where the export has no scenes."""

    scene: str
    name: str
    images: dict[int, Path] = field(default_factory=dict)
    cloud: Path | None = None
    config: Path | None = None
    result: Path | None = None

    @property
    def label(self) -> str:
        """`scene/name`, as file lists and messages give it."""
        return f"{self.scene}/{self.name}" if self.scene else self.name


def image_folder_index(folder: str) -> int | None:
    """Camera index of `camera_image_3`, `image_3` or `image3`; None for any other folder."""
    match = _IMAGE_FOLDER.fullmatch(folder)
    return int(match.group(1)) if match else None


def load_json(path: Path) -> Any:
    """Read a JSON file of the export; a broken one is named."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise PetrflowError(f"{path} is not readable JSON ({error}). Export it from Xtreme1 again.") from error


def find_frames(folder: Path, media_root: Path | None = None) -> list[FrameFiles]:
    """List every frame under an export folder, sorted by scene and name.

    Parameters
    ----------
    folder
        An upload or export folder: the known sub-folders at its root or in one folder a scene, wrapped in other folders or not.
    media_root
        Where media lies that the export names only in `data/*.json`: matched by file name and as much of the path as is the same.
    """
    media = _MediaIndex(media_root) if media_root else None
    frames: list[FrameFiles] = []
    scene_folders = [found for found in (folder, *_subfolders(folder)) if _is_scene_folder(found)]
    for scene_folder in scene_folders:
        scene = "" if len(scene_folders) == 1 else "-".join(scene_folder.relative_to(folder).parts)
        if any(frame.scene == scene for frame in frames):
            raise PetrflowError(f"{scene_folder} and another folder would both be scene '{scene}'. Rename one.")
        frames += _frames_of_folder(scene_folder, scene, media)
    if not frames:
        raise PetrflowError(
            f"{folder} holds no Xtreme1 frame: no camera_config/, camera_image_0/ (image0/), lidar_point_cloud_0/ (point_cloud/) or data/ "
            "was found in it. Point `source` at the folder, or the zip, that Xtreme1 exported."
        )
    return frames


def source_mark(dataset: Mapping[str, Any], root: Path) -> str:
    """A text that changes when the export does: for the workflow, which would not see a new export at an old path otherwise.

    Of a zip, and of the files that the settings name, size and time; of a folder those of its JSON files, as relabelling changes no media.
    An export that is gone, to save space, has not changed: the mark that its import noted in `root` stands.
    """
    source = Path(str(dataset.get("source"))).expanduser()
    if not source.exists():
        noted = load_json(root / "import.json") if (root / "import.json").exists() else {}
        return str(noted.get("source_mark", "missing"))
    named = [dataset.get("timestamps"), dataset.get("poses"), *(dict(dataset.get("splits") or {}).values())]
    files = (
        [source]
        if source.is_file()
        else [path for path in source.rglob("*.json") if not _is_junk(path.relative_to(source))]
    )
    files += [path for name in named if isinstance(name, str) and (path := Path(name).expanduser()).is_file()]
    return fingerprint(sorted([str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_dir() and not _is_junk(path.relative_to(folder)))


def _is_junk(path: Path) -> bool:
    """Archives packed on a Mac bring `__MACOSX` and `._NAME` along."""
    return any(part == "__MACOSX" or part.startswith(".") for part in path.parts)


def _is_scene_folder(folder: Path) -> bool:
    names = [child.name for child in folder.iterdir() if child.is_dir()]
    return any(_canonical(name) in ("camera_config", "camera_image", "lidar_point_cloud") for name in names) or (
        "data" in names and any((folder / "data").glob("*.json"))
    )


def _canonical(folder: str) -> str:
    """One name for both generations of folder names, camera numbers left out."""
    if _IMAGE_FOLDER.fullmatch(folder):
        return "camera_image"
    return "lidar_point_cloud" if _CLOUD_FOLDER.fullmatch(folder) else folder


def _frames_of_folder(folder: Path, scene: str, media: _MediaIndex | None) -> list[FrameFiles]:
    frames: dict[str, FrameFiles] = {}

    def frame(name: str) -> FrameFiles:
        return frames.setdefault(name, FrameFiles(scene, name))

    for child in sorted(path for path in folder.iterdir() if path.is_dir()):
        kind, index = _canonical(child.name), image_folder_index(child.name)
        for path in sorted(child.iterdir()):
            ending = path.suffix.lower()
            if not path.is_file() or path.name.startswith("."):
                continue
            if index is not None and ending in _IMAGE_ENDINGS:
                if index in frame(path.stem).images:
                    raise PetrflowError(f"{path} has a twin, {frame(path.stem).images[index]}: keep one of the two.")
                frame(path.stem).images[index] = path
            elif kind == "lidar_point_cloud" and ending == ".pcd":
                frame(path.stem).cloud = path
            elif kind == "camera_config" and ending == ".json":
                frame(path.stem).config = path
    for path in sorted((folder / "data").glob("*.json")):
        if not path.name.startswith("."):
            _add_named_media(frame(path.stem), path, media)
    for path in sorted((folder / "result").glob("*.json")):
        if path.name.startswith("."):
            continue
        if path.stem not in frames:
            raise PetrflowError(
                f"{path} is a result without data: no image, point cloud, camera_config or data/{path.name} goes with it. Add them, or delete it."
            )
        frames[path.stem].result = path
    return [frames[name] for name in sorted(frames, key=natural_key)]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which frame_2 comes before frame_10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


# ------------------------------------------------------------------------------------------------------------------ data/NAME.json


def _add_named_media(frame: FrameFiles, path: Path, media: _MediaIndex | None) -> None:
    """Fill in what a `data/NAME.json` names and the folder does not hold. The open-source server writes URLs and leaves the media behind."""
    data = load_json(path)
    data = data[0] if isinstance(data, list) and data else data
    if not isinstance(data, dict):
        raise PetrflowError(f"{path} is not an object that names a frame's files. Export it from Xtreme1 again.")
    for position, node in enumerate(data.get("cameraImages") or []):
        references = _references(node)
        index = next((found for found in map(_index_in_path, references) if found is not None), position)
        if index not in frame.images:
            frame.images[index] = _locate(path, references, f"image of camera {index}", media)
    clouds = data.get("lidarPointClouds") or data.get("pointClouds") or []
    cloud = _references(clouds[0]) if clouds else _references(data, "pointCloudUrl", "pointCloudZipPath")
    if frame.cloud is None and cloud:
        frame.cloud = _locate(path, cloud, "point cloud", media)
    config = (
        _references(data["cameraConfig"])
        if data.get("cameraConfig")
        else _references(data, "cameraConfigUrl", "cameraConfigZipPath")
    )
    if frame.config is None and config:
        frame.config = _locate(path, config, "camera_config", media)


def _references(node: Any, *keys: str) -> list[PurePosixPath]:
    """Paths under which a file node of `data/NAME.json` may be found, most telling first."""
    if isinstance(node, str):
        node = {"url": node}
    if not isinstance(node, dict):
        return []
    values = [node.get(key) for key in keys or ("zipPath", "filePath", "url", "filename", "name")]
    return [PurePosixPath(unquote(urlsplit(str(value)).path)) for value in values if value]


def _index_in_path(path: PurePosixPath) -> int | None:
    return next((index for part in reversed(path.parts[:-1]) if (index := image_folder_index(part)) is not None), None)


def _locate(data_file: Path, references: list[PurePosixPath], what: str, media: _MediaIndex | None) -> Path:
    if not references:
        raise PetrflowError(f"{data_file} names no file for the {what}. Export it from Xtreme1 again.")
    if media is None:
        raise PetrflowError(
            f"{data_file} names the {what} only as {references[0]}: the export leaves media on the server. Set `media_root` to a folder with the files."
        )
    return media.find(data_file, references, what)


class _MediaIndex:
    """Files under `media_root` by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.by_name: dict[str, list[Path]] = {}
        for path in sorted(root.rglob("*")):
            if path.is_file() and not _is_junk(path.relative_to(root)):
                self.by_name.setdefault(path.name, []).append(path)

    def find(self, data_file: Path, references: Iterable[PurePosixPath], what: str) -> Path:
        """Return the file that shares most of its path's end with one of the references."""
        for reference in references:
            candidates = self.by_name.get(reference.name, [])
            if not candidates:
                continue
            scores = [self._shared(path, reference) for path in candidates]
            best = [path for path, score in zip(candidates, scores, strict=True) if score == max(scores)]
            if len(best) > 1:
                raise PetrflowError(
                    f"{data_file} names the {what} as {reference}, which fits {best[0]} and {best[1]} alike. "
                    "Keep the media in folders named as in the path, such as camera_image_0/."
                )
            return best[0]
        names = ", ".join(str(reference) for reference in references)
        raise PetrflowError(
            f"{data_file} names the {what} as {names}, and media_root {self.root} holds no file of that name. Copy it there."
        )

    def _shared(self, path: Path, reference: PurePosixPath) -> int:
        shared = 0
        for ours, theirs in zip(reversed(path.relative_to(self.root).parts), reversed(reference.parts), strict=False):
            same = ours == theirs or (
                image_folder_index(ours) is not None and image_folder_index(ours) == image_folder_index(theirs)
            )
            same = same or (_CLOUD_FOLDER.fullmatch(ours) is not None and _CLOUD_FOLDER.fullmatch(theirs) is not None)
            if not same:
                break
            shared += 1
        return shared
