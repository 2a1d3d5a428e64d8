"""Media that an export names and leaves on the server: found under `media_root`, or fetched while
the export's links live.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from petrflow.errors import CannotWrite, PetrflowError
from petrflow.fetch.download import fetch
from petrflow.fetch.transfer import Patience
from petrflow.files import fingerprint
from petrflow.files.status import tqdm
from petrflow.sources.xtreme1.frames import (
    Document,
    FrameFiles,
    Named,
    camera_of_folder,
    canonical,
    cloud_of_folder,
    is_junk,
    load_json,
)
from petrflow.sources.xtreme1.images import look_at
from petrflow.sources.xtreme1.settings import Settings

_LINES = 8


class Media:
    """Where files come from that the export only names.

    Parameters
    ----------
    settings
        `media_root` and `media`.
    place
        Folder of petrflow's own where fetched files are kept: links expire, and a later import
        needs the files again.
    """

    def __init__(self, settings: Settings, place: Path, patience: Patience | None = None) -> None:
        self.index = MediaIndex(settings.media_root) if settings.media_root else None
        self.download = settings.media == "download"
        self.place = place
        self.patience = patience
        self.wanted: dict[Path, tuple[Named, str]] = {}

    def bring(self, frames: Iterable[FrameFiles], cameras: Iterable[str]) -> None:
        """Fill in what frames need and do not hold; only frames that are used need anything."""
        self.wanted = {}
        place_media(frames, list(cameras), self._find)
        if not self.wanted:
            return
        with (
            ThreadPoolExecutor(_LINES) as lines,
            tqdm(
                total=len(self.wanted), desc="media of the export", unit="file", file=sys.stderr, mininterval=1.0
            ) as bar,
        ):
            try:
                for _ in lines.map(self._fetch, self.wanted):
                    bar.update()
            except PetrflowError:
                lines.shutdown(cancel_futures=True)
                raise

    def _find(self, named: Named, slot: str) -> Path:
        if not named.references:
            raise PetrflowError(f"{named.where} names no file for the {what(slot)}. Export it from Xtreme1 again.")
        if self.index is not None and not (self.download and named.url and not self._is_here(named)):
            return self.index.find(named, slot)
        if self.download and named.url:
            path = self._kept(named.url)
            self.wanted[path] = (named, slot)
            return path
        remedy = (
            "it gives no address to fetch it from. Set `media_root` to a folder with the files."
            if self.download
            else "the export leaves media on the server. Set `media_root` to a folder with the files, or `media: download` to fetch them."
        )
        raise PetrflowError(f"{named.where} names the {what(slot)} only as {named.references[0]}: {remedy}")

    def _is_here(self, named: Named) -> bool:
        return self.index is not None and any(reference.name in self.index.by_name for reference in named.references)

    def _kept(self, url: str) -> Path:
        # Host and signature change from export to export, the path of a stored file does not.
        path = unquote(urlsplit(url).path)
        name = fingerprint(path)[:32]
        return self.place / name[:3] / f"{name}{PurePosixPath(path).suffix.lower()[:10]}"

    def _fetch(self, path: Path) -> None:
        named, slot = self.wanted[path]
        check = look_at if slot.startswith("image ") else load_json if slot == "config" else None
        try:
            fetch(
                str(named.url), path, checksums=path.with_name(f"{path.name}.sum.json"), check=check, patience=self.patience, progress=False
            )  # fmt: skip
        except CannotWrite:  # not the link's fault
            raise
        except PetrflowError as error:
            raise PetrflowError(
                f"{named.where}: the {what(slot)} could not be fetched. Links of an export live for five days: export again and name the new "
                f"export as `source`; what was fetched is kept.\n{error}"
            ) from error


# ------------------------------------------------------------------------------------------------------------------ media elsewhere


class MediaIndex:
    """Files under `media_root` by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.by_name: dict[str, list[Path]] = {}
        for folder, folders, files in os.walk(root, followlinks=True):
            folders[:] = sorted(name for name in folders if not is_junk(name))
            for name in sorted(files):
                if not is_junk(name):
                    self.by_name.setdefault(name, []).append(Path(folder, name))

    def find(self, named: Named, slot: str) -> Path:
        """Return the file that shares most of its path's end with one of the references."""
        for reference in named.references:
            candidates = self.by_name.get(reference.name, [])
            if not candidates:
                continue
            scores = [self._shared(path, reference) for path in candidates]
            best = [path for path, score in zip(candidates, scores, strict=True) if score == max(scores)]
            best = [path for path in best if _fits(path.parent.name, slot)] or best
            if len(best) > 1:
                raise PetrflowError(
                    f"{named.where} names the {what(slot)} as {reference}, which fits {best[0]} and {best[1]} alike. "
                    "Keep the media in folders named as in the path, such as camera_image_0/."
                )
            return best[0]
        names = ", ".join(str(reference) for reference in named.references)
        raise PetrflowError(
            f"{named.where} names the {what(slot)} as {names}, and media_root {self.root} holds no file of that name. Copy it there."
        )

    def _shared(self, path: Path, reference: PurePosixPath) -> int:
        shared = 0
        for ours, theirs in zip(reversed(path.relative_to(self.root).parts), reversed(reference.parts), strict=False):
            camera = camera_of_folder(ours)
            same = ours == theirs or (camera is not None and camera == camera_of_folder(theirs))
            same = same or (cloud_of_folder(ours) is not None and cloud_of_folder(theirs) is not None)
            if not same:
                break
            shared += 1
        return shared


def _fits(folder: str, slot: str) -> bool:
    """Whether a folder's name is that of a slot's folder."""
    if slot.startswith("image "):
        return camera_of_folder(folder) == slot[6:]
    return canonical(folder) == {"cloud": "lidar_point_cloud", "config": "camera_config"}[slot]


def what(slot: str) -> str:
    """Words for a slot of `FrameFiles.named`."""
    return {"cloud": "point cloud", "config": "camera_config"}.get(slot, slot.replace("image ", "image of camera "))


def place_media(frames: Iterable[FrameFiles], cameras: Iterable[str], find: Any) -> None:
    """Fill in the files of frames that stand elsewhere: images of the cameras used, clouds and
    calibration.

    Parameters
    ----------
    find
        Called with a `Named` and its slot; returns the file's path.
    """
    wanted = [f"image {camera}" for camera in cameras]
    for frame in frames:
        for slot, named in frame.named.items():
            if slot in wanted and slot[6:] not in frame.images:
                frame.images[slot[6:]] = find(named, slot)
            elif slot == "cloud" and frame.cloud is None:
                frame.cloud = find(named, slot)
            elif slot == "config" and frame.config is None:
                path = find(named, slot)
                frame.config = Document(str(path), path)
