"""What can be known of a data set of each kind before it is made: mistakes, scenes, samples, and
the disk space it still needs.

Nothing here fetches, unpacks or reads more than a table of scenes, so that it takes milliseconds.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petrflow.config import nearest_file
from petrflow.errors import PetrflowError
from petrflow.fetch.archive import is_archive
from petrflow.fetch.archive_records import bytes_unpacked
from petrflow.fetch.links import link_fault, scheme_of
from petrflow.files.disk import GIGABYTE
from petrflow.messages import _
from petrflow.nuscenes.records import read_table
from petrflow.nuscenes.root import COMPLETE, RECEIPT
from petrflow.sources.nuscenes import (
    CACHE,
    Archive,
    Folder,
    Remote,
    bytes_fetched,
    check_tables,
    extraction_folder,
    find_root,
    read_source,
    resolve_splits,
)

# (version, archives, unpacked): published sizes of what a data set needs on disk.
DATASET_SIZES = {
    "v1.0-mini": (4 * GIGABYTE, 4 * GIGABYTE),
    "v1.0-trainval": (300 * GIGABYTE, 350 * GIGABYTE),
    "v1.0-test": (55 * GIGABYTE, 60 * GIGABYTE),
}
DATASET_SAMPLES = {"v1.0-mini": 323, "v1.0-trainval": 28130}
# Bytes of a synthetic picture a pixel, and of everything else a keyframe has.
_PICTURE_SHARE, _KEYFRAME_BYTES = 0.25, 200_000

KINDS = ("synthetic", "nuscenes", "xtreme1")
"""Kinds of data sets, each with a door of its own."""

Complaint = tuple[tuple[str | int, ...], str]


@dataclass(frozen=True)
class Knowledge:
    """What is known of a data set before it is made.

    Attributes
    ----------
    mistakes : list of (key path inside the data set's entry, sentence)
    scenes : names of the scenes of each split; None where the tables cannot be read yet
    samples : keyframes of each split; None where the tables cannot be read yet
    """

    mistakes: list[Complaint] = field(default_factory=list)
    scenes: dict[str, list[str]] | None = None
    samples: dict[str, int] | None = None


def look(dataset: Mapping[str, Any], root: Path) -> Knowledge:
    """Look at a data set's entry, its source, and the root that may be there already.

    Parameters
    ----------
    dataset : mapping
        The checked entry of the configuration.
    root : Path
        ``data/{dataset}``.
    """
    kinds: dict[str, Callable[[Mapping[str, Any], Path], Knowledge]] = {
        "synthetic": _look_at_synthetic,
        "nuscenes": _look_at_nuscenes,
        "xtreme1": _look_at_xtreme1,
    }
    return kinds[dataset["kind"]](dataset, root)


def is_made(root: Path) -> bool:
    """Whether a data set's root is finished; ``root`` is ``data/{dataset}``."""
    return (root / COMPLETE).is_file() or (root.parent.parent / "results" / root.name / "root" / RECEIPT).is_file()


def _stands_alone(root: Path) -> bool:
    """Whether a root is finished and none of its folders is a link that leads nowhere: its source
    may be gone, to save space.
    """
    return is_made(root) and root.is_dir() and all(path.exists() for path in root.iterdir())


def samples_of(dataset: Mapping[str, Any]) -> int:
    """Samples a pass, as far as the config tells before the data set is there."""
    if dataset["kind"] == "synthetic":
        return int(dataset["scenes"]) * int(dataset["keyframes"])
    return DATASET_SAMPLES.get(str(dataset["version"]), DATASET_SAMPLES["v1.0-mini"])


def disk_need(dataset: Mapping[str, Any], root: Path) -> int:
    """Bytes that a data set which is about to be made still needs on the disk of its root.

    What is fetched or unpacked already is not counted again.
    """
    kinds: dict[str, Callable[[Mapping[str, Any], Path], int]] = {
        "synthetic": _synthetic_bytes,
        "nuscenes": _nuscenes_bytes,
        "xtreme1": _xtreme1_bytes,
    }
    return kinds[dataset["kind"]](dataset, root)


def _complaint(error: PetrflowError, default: str) -> Complaint:
    """A door's sentence as key path and sentence: it begins with the key where it knows one."""
    key, colon, says = str(error).partition(": ")
    if colon and key.split(".")[0] in ("source", "splits", "version"):
        return tuple(key.split(".")), says
    return (default,), str(error)


# ------------------------------------------------------------------------------------------------------------------ synthetic


def _look_at_synthetic(dataset: Mapping[str, Any], root: Path) -> Knowledge:
    from petrflow.sources.synthetic.generate import scene_names, split_scenes

    try:
        scenes = split_scenes(scene_names(dataset["scenes"]), dataset["splits"])
    except PetrflowError as error:
        return Knowledge([_complaint(error, "splits")])
    return Knowledge([], scenes, {part: len(names) * dataset["keyframes"] for part, names in scenes.items()})


def _synthetic_bytes(dataset: Mapping[str, Any], root: Path) -> int:
    width, height = dataset["image_size"]
    pictures = 6 * (1 + dataset["sweeps"])
    return int(samples_of(dataset) * (pictures * width * height * _PICTURE_SHARE + _KEYFRAME_BYTES))


# ------------------------------------------------------------------------------------------------------------------ nuscenes


def _look_at_nuscenes(dataset: Mapping[str, Any], root: Path) -> Knowledge:
    items, mistakes = _items(dataset, root)
    folders = [item.path for item in items if isinstance(item, Folder)]
    version = str(dataset["version"])
    made = root if is_made(root) and (root / version / "scene.json").is_file() else None
    folder = folders[0] if folders else made
    if folder is None or mistakes:
        return Knowledge(mistakes)
    try:
        source = find_root(folder, version)
        check_tables(source, version)
        with contextlib.redirect_stderr(io.StringIO()):  # the door says its notes when it runs
            scenes = resolve_splits(dataset["splits"], source, version)
    except PetrflowError as error:
        return Knowledge([_complaint(error, "source")])
    counts = {str(row["name"]): int(row.get("nbr_samples", 0)) for row in read_table(source, version, "scene")}
    return Knowledge([], scenes, {part: sum(counts[name] for name in names) for part, names in scenes.items()})


def _items(dataset: Mapping[str, Any], root: Path) -> tuple[list[Folder | Archive | Remote], list[Complaint]]:
    """What a source is made of, and what is wrong with each part; an archive that has been unpacked
    may be gone.
    """
    source = dataset["source"]
    parts: list[tuple[tuple[str | int, ...], Any]] = [(("source",), source)]
    if isinstance(source, list):
        parts = [(("source", index), part) for index, part in enumerate(source)]
    items: list[Folder | Archive | Remote] = []
    mistakes: list[Complaint] = []
    whole = _stands_alone(root)
    for path, part in parts:
        gone = isinstance(part, str) and not scheme_of(part) and not Path(part).expanduser().exists()
        if gone and (whole or (dataset.get("remove_archives") and is_archive(Path(part)))):
            continue
        try:
            found = read_source(part)
            items += found
            mistakes += [(path, says) for says in _link_faults(found)]
        except PetrflowError as error:
            mistakes.append((path, str(error).removeprefix("source: ")))
    if not mistakes and len(items) > 1:
        try:
            read_source(source)
        except PetrflowError as error:
            mistakes.append((("source",), str(error).removeprefix("source: ")))
    return items, mistakes


def _link_faults(items: list[Folder | Archive | Remote]) -> Iterator[str]:
    """Yield a sentence for each link that cannot be fetched, and for each ``file:`` link that leads
    nowhere.
    """
    for item in items:
        links = item.urls if isinstance(item, Remote) else ()
        yield from filter(None, map(link_fault, links))
        missing = [link for link in links if scheme_of(link) == "file" and not _path_of_link(link).is_file()]
        if missing and len(missing) == len(links):
            path = _path_of_link(missing[0])
            yield _("{link} leads to no file{hint}.", link=missing[0], hint=nearest_file(path))


def _path_of_link(link: str) -> Path:
    from urllib.parse import unquote, urlsplit

    return Path(unquote(urlsplit(link).path))


def _nuscenes_bytes(dataset: Mapping[str, Any], root: Path) -> int:
    """Of archives and what comes out of them, what is neither fetched nor unpacked yet; a folder is
    linked and takes nothing.
    """
    items, _names = _items(dataset, root)
    if not items or any(isinstance(item, Folder) for item in items):
        return 0
    archives, unpacked = DATASET_SIZES.get(str(dataset["version"]), (0, 0))
    cache = root.parent / CACHE
    local = [item.path for item in items if isinstance(item, Archive)]
    remote = [item for item in items if isinstance(item, Remote)]
    if not remote:  # pictures do not shrink in an archive: what comes out is hardly more than what goes in
        archives, unpacked = 0, max(unpacked, sum(path.stat().st_size for path in local))
    if dataset["remove_archives"] and archives > 20 * GIGABYTE:
        archives //= 8  # one part at a time
    done = bytes_unpacked(extraction_folder(items, cache))
    fetched = sum(bytes_fetched(item, cache) for item in remote)
    left = max(0, unpacked - done)
    # An archive that is unpacked need not be fetched again, and may have been removed.
    return left + max(0, min(archives - fetched, left))


# ------------------------------------------------------------------------------------------------------------------ xtreme1


def _look_at_xtreme1(dataset: Mapping[str, Any], root: Path) -> Knowledge:
    from petrflow.sources.xtreme1.settings import missing_files

    mistakes = list(missing_files(dataset))
    if _stands_alone(root) and Path(dataset["source"]).suffix == ".zip":
        mistakes = [(path, says) for path, says in mistakes if path != ("source",)]
    return Knowledge(mistakes)


def _xtreme1_bytes(dataset: Mapping[str, Any], root: Path) -> int:
    """A folder is linked; of a zip its unpacked size is not known, and hardly more than its own."""
    source = Path(dataset["source"])
    return source.stat().st_size if source.is_file() else 0
