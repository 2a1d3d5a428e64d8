"""Finds the frames of an Xtreme1 upload or export: its scene folders, and which files belong
together.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from petrflow.errors import PetrflowError
from petrflow.sources.xtreme1.frames import (
    EXPORT_TIME,
    Document,
    FrameFiles,
    add_data,
    camera_of_folder,
    canonical,
    cloud_of_folder,
    frames_of_document,
    is_junk,
    natural_key,
)

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_LEAVES = ("camera_config", "camera_image", "lidar_point_cloud", "data", "result")


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
        return frames_of_document(source)
    folders = list(_scene_folders(source))
    if not folders:
        documents = [path for path in _files(source) if path.suffix.lower() == ".json"]
        documents += [path for child in _folders(source) for path in _files(child) if path.suffix.lower() == ".json"]
        if len(documents) == 1:
            return frames_of_document(documents[0])
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


@dataclass
class _Listed:
    """The files of one scene's folders, before they are put together.

    `frames` and `configs` go by frame name; `lidars` has the number of the lidar whose cloud a
    frame has. `named` holds the documents of `data` and `result`, and `unread` counts, by kind of
    folder, files by endings that are not read.
    """

    scene: str
    frames: dict[str, FrameFiles] = field(default_factory=dict)
    lidars: dict[str, int] = field(default_factory=dict)
    configs: dict[str, Path] = field(default_factory=dict)
    named: dict[str, list[Path]] = field(default_factory=lambda: {"data": [], "result": []})
    unread: dict[str, Counter[str]] = field(
        default_factory=lambda: {kind: Counter() for kind in ("camera_image", "lidar_point_cloud")}
    )

    def frame(self, name: str) -> FrameFiles:
        """Return the frame of that name, made where there is none yet."""
        return self.frames.setdefault(name, FrameFiles(self.scene, name))

    def add(self, folder: Path, path: Path) -> None:
        """Note the file `path` of the sub-folder `folder`."""
        kind, camera, lidar = canonical(folder.name), camera_of_folder(folder.name), cloud_of_folder(folder.name)
        ending, name = path.suffix.lower(), path.stem.strip()
        if camera is not None and ending in _IMAGE_ENDINGS:
            images = self.frame(name).images
            if camera in images:
                raise PetrflowError(f"{path} has a twin, {images[camera]}: keep one of the two there.")
            images[camera] = path
        elif lidar is not None and ending == ".pcd" and lidar >= self.lidars.get(name, 0):
            self.frame(name).cloud = path  # of several lidars the last one, which the viewer shows
            self.lidars[name] = lidar
        elif kind == "camera_config" and ending == ".json":
            self.configs[name] = path
        elif kind in self.named and ending == ".json":
            self.named[kind].append(path)
        elif kind in self.unread:
            self.unread[kind][ending] += 1


def _frames_of_folder(folder: Path, scene: str, notes: list[str]) -> list[FrameFiles]:
    """Return the frames of one scene's folder, in the order of their names."""
    listed = _Listed(scene)
    for child in _folders(folder):
        if canonical(child.name) in _LEAVES:
            for path in _files(child):
                listed.add(child, path)
    for kind, endings in listed.unread.items():
        for ending, count in sorted(endings.items()):
            notes.append(f"{count} files ending in {ending or 'nothing'} in {folder}'s {kind} folders are not read.")
    if max(listed.lidars.values(), default=0):
        notes.append(
            f"{folder} has several lidars: boxes are taken to be in the frame of the last one, which Xtreme1 shows."
        )
    names = add_data(listed.named["data"], listed.frame)
    _add_configs(listed, notes)
    _add_results(listed, names)
    return [listed.frames[name] for name in sorted(listed.frames, key=natural_key)]


def _add_configs(listed: _Listed, notes: list[str]) -> None:
    """Give each frame its calibration. A single file that no frame is called after is for all."""
    configs, frames = listed.configs, listed.frames
    shared = next(iter(configs)) if len(configs) == 1 and frames and next(iter(configs)) not in frames else None
    if shared is not None:
        notes.append(f"{configs[shared]} is the only calibration there: it is taken for all {len(frames)} frames.")
        for entry in frames.values():
            entry.config = Document(str(configs[shared]), configs[shared])
        return
    for name, path in configs.items():
        listed.frame(name).config = Document(str(path), path)


def _add_results(listed: _Listed, names: Mapping[str, str]) -> None:
    """Give each frame its labels. `names` are frame names by the names of `data/NAME.json` files."""
    for path in listed.named["result"]:
        name = names.get(path.stem.strip(), path.stem.strip())
        if name not in listed.frames:
            listed.frame(name).problem = (
                f"{path} is a result without data: no image, point cloud, camera_config or data/{path.name} goes with it. Add them, or move it "
                "out of the export."
            )
        listed.frames[name].result = Document(str(path), path)
