"""The nuScenes door: a folder is linked, an archive or URL is fetched, unpacked and verified, and a nuScenes root stands at the end.

Nothing is copied: `data/{dataset}/` holds links to `samples/`, `sweeps/`, `maps/` and to each table, in a version folder of its own, because
`splits.json` stands beside the tables and the source may be read-only and shared.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.fetch.archive import extract, finished_record, is_archive
from petrflow.fetch.download import fetch, file_name, public_url, read_url_list
from petrflow.fetch.transfer import scheme_of
from petrflow.files import (
    atomic_dir,
    disk_errors,
    fingerprint,
    patient_lock,
    read_json,
    remove,
    sha256_file,
    temporary_path,
    write_json,
)
from petrflow.nuscenes.names import TABLE_NAMES
from petrflow.nuscenes.records import read_table, table_remedy
from petrflow.nuscenes.root import COMPLETE

MEDIA_FOLDERS = ("samples", "sweeps", "maps")
CAMERA_ORDER = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
CACHE = ".cache"


@dataclass(frozen=True)
class Folder:
    """An extracted nuScenes root (or the folder around one)."""

    path: Path


@dataclass(frozen=True)
class Archive:
    """An archive on disk."""

    path: Path


@dataclass(frozen=True)
class Remote:
    """An archive behind a URL, with mirrors."""

    urls: tuple[str, ...]
    sha256: str | None = None


# ------------------------------------------------------------------------------------------------------------------ the one entry


def prepare(dataset: Mapping[str, Any], root: Path, cache: Path | None = None, progress: bool = True) -> dict[str, Any]:
    """Bring a nuScenes data set to `root` and return what its `.complete.json` says.

    Parameters
    ----------
    dataset : the config's entry: `source`, `version`, `splits` (`train` and `val`, each a split's name or a list of scenes),
        `remove_archives`
    root : folder to make, `data/{dataset}`
    cache : where archives and what they held are kept; `.cache` beside `root` when None

    Raises
    ------
    PetrflowError
        the source is not there or not nuScenes, a scene or split is unknown, files that the tables name are missing or damaged; each
        message says what to do
    """
    from petrflow.sources.verification import verify

    root = Path(root)
    cache = Path(cache) if cache is not None else root.parent / CACHE
    version = str(dataset.get("version", "v1.0-mini"))
    with disk_errors(root, permissions=True):
        root.mkdir(parents=True, exist_ok=True)
    with patient_lock(cache / f".{root.name}.lock"):
        remove(root / COMPLETE)
        items = read_source(dataset["source"])
        source = _bring(items, cache, bool(dataset.get("remove_archives", False)), progress)
        source = find_root(source, version)
        check_tables(source, version)
        splits = resolve_splits(dataset.get("splits") or {}, source, version)
        _link(source, version, splits, root)
        facts = verify(root, version, sorted({*splits["train"], *splits["val"]}), source, progress=progress)
        complete = {
            "kind": "nuscenes",
            "version": version,
            "splits": splits,
            **facts,
            "fingerprint": _fingerprint(root, version),
        }
        write_json(root / COMPLETE, complete)
    return complete


# ------------------------------------------------------------------------------------------------------------------ sources


def read_source(source: Any) -> list[Folder | Archive | Remote]:
    """Understand the config's `source`: a folder, archives, URLs, a text file of URLs, or a list of archives and URLs."""
    if isinstance(source, Mapping) and "file" in source:
        return [Remote((url,)) for url in read_url_list(Path(str(source["file"])).expanduser())]
    if isinstance(source, Mapping):
        urls = [source["url"]] if isinstance(source["url"], str) else list(source["url"])
        return [Remote(tuple(urls), source.get("sha256"))]
    if isinstance(source, (list, tuple)):
        items = [item for entry in source for item in read_source(entry)]
        if not items:
            raise PetrflowError("source is an empty list: name a folder, archives or URLs.")
        if len(items) > 1 and any(isinstance(item, Folder) for item in items):
            folder = next(item.path for item in items if isinstance(item, Folder))
            raise PetrflowError(
                f"source: the folder {folder} cannot be joined with other parts: extract everything into one folder and name that."
            )
        return items
    text = str(source)
    if scheme_of(text) in ("http", "https", "file"):
        return [Remote((text,))]
    path = Path(text).expanduser()
    if path.is_dir():
        return [Folder(path)]
    if path.is_file() and is_archive(path):
        return [Archive(path)]
    if path.is_file() and path.suffix == ".txt":
        return [Remote((url,)) for url in read_url_list(path)]
    if path.is_file():
        raise PetrflowError(
            f"source: {path} is neither an archive (.tgz, .tar, .zip) nor a list of URLs (.txt): name one of those or an extracted folder."
        )
    near = (
        difflib.get_close_matches(path.name, [entry.name for entry in path.absolute().parent.iterdir()], 1)
        if path.absolute().parent.is_dir()
        else []
    )
    hint = f" (there is {path.parent / near[0]})" if near else ""
    raise PetrflowError(
        f"source: {path.absolute()} does not exist{hint}: give an extracted folder, an archive or a URL, seen from {Path.cwd()}."
    )


def _bring(items: Sequence[Folder | Archive | Remote], cache: Path, remove_archives: bool, progress: bool) -> Path:
    """Fetch and unpack what must be; returns the folder that holds the data set."""
    first = items[0]
    if isinstance(first, Folder):
        return first.path.resolve()
    target = cache / "extracted" / _extraction_name(items)
    for number, item in enumerate(items, 1):
        name = (
            item.path.name if isinstance(item, Archive) else file_name(item.urls[0]) if isinstance(item, Remote) else ""
        )
        if finished_record(target, name) is not None:
            continue
        if len(items) > 1:
            print(f"Part {number} of {len(items)}: {name}", file=sys.stderr, flush=True)
        if isinstance(item, Remote):
            archive = cache / "downloads" / fingerprint(_path_of(item))[:8] / name
            fetch(
                list(item.urls),
                archive,
                sha256=item.sha256,
                checksums=cache / "downloads" / "checksums.json",
                progress=progress,
            )
        else:
            archive = item.path  # type: ignore[union-attr]
        extract(archive, target, remove_archive=remove_archives, progress=progress)
    return target.resolve()


def _path_of(item: Remote) -> str:
    """What stays the same of a link when it is renewed: the query is a signature, and the host may be another mirror."""
    return public_url(item.urls[0]).partition("://")[2].partition("/")[2]


def _extraction_name(items: Sequence[Folder | Archive | Remote]) -> str:
    """Folder name for a set of archives."""
    identity = []
    for item in items:
        if isinstance(item, Archive):
            identity.append(["archive", str(item.path.resolve())])
        elif isinstance(item, Remote):
            identity.append(["url", file_name(item.urls[0]), item.sha256 or _path_of(item)])
    first = items[0]
    stem = (
        first.path.name
        if isinstance(first, Archive)
        else file_name(first.urls[0])
        if isinstance(first, Remote)
        else "folder"
    ).split(".t")[0]
    return f"{stem}-{fingerprint(identity)[:8]}"


def find_root(folder: Path, version: str) -> Path:
    """The nuScenes root at, around or one level below a folder: where `{version}/scene.json` is."""
    if folder.name == version and (folder / "scene.json").is_file():
        return folder.parent
    below = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    for candidate in (folder, *below):
        if (candidate / version / "scene.json").is_file():
            return candidate
    found = sorted({path.parent.name for candidate in (folder, *below) for path in candidate.glob("*/scene.json")})
    if found:
        raise PetrflowError(
            f"{folder} holds {', '.join(found)}, not {version}: set the data set's `version` to {found[0]}, or name the right source."
        )
    raise PetrflowError(
        f"{folder} is no nuScenes root: it has no {version}/scene.json. It should hold {version}/, samples/, sweeps/ and maps/; of several archives, the "
        f"tables are in {'v1.0-mini.tgz' if version == 'v1.0-mini' else version + '_meta.tgz'}."
    )


def check_tables(source: Path, version: str) -> None:
    """Raise when one of the 13 tables is missing."""
    missing = [name for name in TABLE_NAMES if not (source / version / f"{name}.json").is_file()]
    if missing:
        raise PetrflowError(
            f"{source / version} lacks {', '.join(f'{name}.json' for name in missing)}: {table_remedy(version)}"
        )


# ------------------------------------------------------------------------------------------------------------------ splits


def resolve_splits(splits: Mapping[str, Any], source: Path, version: str) -> dict[str, list[str]]:
    """Scene names of the training and the validation split.

    Parameters
    ----------
    splits : `train` and `val`, each a list of scene names, one scene name, or the name of a split (nuScenes' own, or of the source's
        `splits.json`)
    """
    scenes = sorted(str(row["name"]) for row in read_table(source, version, "scene"))
    own = read_json(source / version / "splits.json") if (source / version / "splits.json").is_file() else {}
    defaults = (
        {"train": "mini_train", "val": "mini_val"} if version == "v1.0-mini" else {"train": "train", "val": "val"}
    )
    resolved = {}
    for part in ("train", "val"):
        wanted = splits.get(part) or defaults[part]
        resolved[part] = (
            _scenes_by_name(wanted, part, scenes, own)
            if isinstance(wanted, str)
            else _checked_scenes(wanted, part, scenes, version)
        )
    both = sorted(set(resolved["train"]) & set(resolved["val"]))
    if both:
        print(
            f"Note: {len(both)} scene(s) are in both splits ({', '.join(both[:3])}): metrics will flatter the model.",
            file=sys.stderr,
        )
    return resolved


def _scenes_by_name(name: str, part: str, scenes: Sequence[str], own: Mapping[str, Any]) -> list[str]:
    if name in scenes:
        return [name]
    known = {**_official_splits(), **{key: list(value) for key, value in own.items() if isinstance(value, list)}}
    if name not in known:
        near = difflib.get_close_matches(name, [*known, *scenes], 1)
        hint = f"; the nearest name is {near[0]}" if near else ""
        raise PetrflowError(
            f"splits.{part}: there is no split or scene {name!r}{hint}. Splits: {', '.join(sorted(known))}."
        )
    here = [scene for scene in known[name] if scene in set(scenes)]
    if not here:
        fitting = [
            other for other in known if set(known[other]) & set(scenes) and not other.endswith(("_detect", "_track"))
        ]
        raise PetrflowError(
            f"splits.{part}: none of the {len(known[name])} scenes of split {name!r} is in these tables (which hold {scenes[0]} … {scenes[-1]}). "
            f"Splits with scenes here: {', '.join(sorted(fitting)) or 'none; list scene names instead'}."
        )
    if len(here) < len(known[name]):
        print(f"Note: split {name!r} has {len(known[name])} scenes, and {len(here)} of them are here.", file=sys.stderr)
    return sorted(here)


def _checked_scenes(wanted: Iterable[Any], part: str, scenes: Sequence[str], version: str) -> list[str]:
    names = [str(name) for name in wanted]
    for name in names:
        if name not in scenes:
            near = difflib.get_close_matches(name, scenes, 1, cutoff=0.0)
            raise PetrflowError(
                f"splits.{part}: there is no scene {name!r} in {version}; the nearest is {near[0] if near else 'none'} (of {len(scenes)})."
            )
    if not names:
        raise PetrflowError(f"splits.{part} is an empty list: name at least one scene.")
    return sorted(set(names))


def _official_splits() -> dict[str, list[str]]:
    from nuscenes.utils.splits import create_splits_scenes

    return {name: list(scenes) for name, scenes in create_splits_scenes().items()}


# ------------------------------------------------------------------------------------------------------------------ links


def _link(source: Path, version: str, splits: Mapping[str, Sequence[str]], root: Path) -> None:
    """Make `root` a nuScenes root of links, with a version folder of its own for `splits.json`."""
    for name in MEDIA_FOLDERS:
        target = source / name
        link = root / name
        if link.is_dir() and not link.is_symlink():
            raise PetrflowError(
                f"{link} is a folder of its own, from another kind of data set under this name: delete {root} and run the command again."
            )
        if target.is_dir():
            _make_link(link, target)
        else:
            remove(link)
    tables = root / version
    if tables.is_symlink():
        remove(tables)
    with atomic_dir(tables) as folder:
        for table in sorted((source / version).glob("*.json")):
            if table.name != "splits.json":
                (folder / table.name).symlink_to(table.resolve())
        own = read_json(source / version / "splits.json") if (source / version / "splits.json").is_file() else {}
        write_json(
            folder / "splits.json",
            {**own, "petrflow_train": list(splits["train"]), "petrflow_val": list(splits["val"])},
        )


def _make_link(link: Path, target: Path) -> None:
    temporary = temporary_path(link)
    with disk_errors(link, permissions=True):
        temporary.symlink_to(target.resolve())
        temporary.replace(link)


def _fingerprint(root: Path, version: str) -> str:
    return fingerprint({path.name: sha256_file(path) for path in sorted((root / version).glob("*.json"))})
