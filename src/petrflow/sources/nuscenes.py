"""The nuScenes door: a folder is linked or used where it stands; an archive or URL is fetched and
unpacked first.

Nothing is copied. `data/{dataset}/` holds links to `samples/`, `sweeps/`, `maps/` and to each
table. The tables' links lie in a folder of petrflow's own, because `splits.json` stands beside the
tables, and the source may be read-only and shared.

A source that already stands at `data/{dataset}` is used there, and nothing is written into it.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.fetch.archive import extract, is_archive
from petrflow.fetch.archive_records import finished_record
from petrflow.fetch.download import fetch, read_url_list
from petrflow.fetch.links import file_name, link_fault, public_url, scheme_of
from petrflow.files import disk_errors, fingerprint, patient_lock, remove, sha256_file, write_json
from petrflow.messages import _
from petrflow.nuscenes.names import MEDIA_FOLDERS, NEEDED_TABLES
from petrflow.nuscenes.records import read_table, table_remedy
from petrflow.nuscenes.root import COMPLETE
from petrflow.nuscenes.splits import SPLITS, named_splits, official_splits, read_splits
from petrflow.sources.found import find_root, tables_of
from petrflow.sources.ownership import claim, claim_about, new_root, same_place, write_receipt
from petrflow.sources.splits import split_by_ratio

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


def prepare(
    dataset: Mapping[str, Any],
    root: Path,
    about: Path | None = None,
    *,
    cache: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Bring a nuScenes data set to `root` and return its receipt.

    Parameters
    ----------
    dataset
        The config's entry: `source`, `version`, `splits` (`train` and `val`, each a split's name or
        a list of scenes), `remove_archives`.
    root
        `data/{dataset}`: it is replaced whole at the end, and only if petrflow made it; see
        `petrflow.sources.ownership`.
    about
        `results/{dataset}/root/`: `receipt.json` is written there last. If the source stands at
        `root`, so is `splits.json`.
    cache
        Where archives and what they held are kept; `.cache` beside `root` when None.

    Raises
    ------
    PetrflowError
        The source is not there or not nuScenes, a scene or split is unknown, files that the tables
        name are missing or damaged, or something that petrflow did not make stands at `root`. Each
        message says what to do.
    """
    from petrflow.sources.verification import verify

    root = Path(root)
    cache = Path(cache) if cache is not None else root.parent / CACHE
    version = str(dataset.get("version", "v1.0-mini"))
    items = read_source(dataset["source"])
    archives = [item.path for item in items if isinstance(item, Archive)]
    if not any(isinstance(item, Folder) for item in items):
        claim(root, archives, about)
    with patient_lock(cache / f".{root.name}.lock"):
        folder = _bring(items, cache, bool(dataset.get("remove_archives", False)), progress)
        source = find_root(folder, version)
        check_tables(source, version)
        in_place = same_place(source, root)
        if in_place:
            claim_about(root, about)
        else:
            claim(root, _read_by_links(source, version), about)
        splits = resolve_splits(dataset.get("splits") or {}, source, version)
        facts = verify(
            source,
            version,
            sorted({*splits["train"], *splits["val"]}),
            source,
            progress=progress,
            cameras=dataset.get("cameras"),
            leave_out=dataset.get("incomplete_scenes") == "leave_out",
            sweeps=dataset.get("use_sweeps", True),
        )
        splits = _without(splits, facts.get("scenes_left_out", ()))
        chosen = _chosen(dataset, facts)
        hashes = {path.name: sha256_file(path) for path in tables_of(source, version)}
        named = named_splits(splits, read_splits(source / version))
        receipt = {
            "kind": "nuscenes",
            "version": version,
            "splits": splits,
            **facts,
            **chosen,
            "fingerprint": fingerprint({"tables": hashes, "splits": named, **chosen}),
        }
        if in_place:
            if about is not None:
                write_json(Path(about) / SPLITS, named)
        else:
            reads = _read_by_links(source, version)
            with new_root(root, kind="nuscenes", version=version, reads=reads, about=about) as made:
                _link(source, version, named, made)
                write_json(made / COMPLETE, receipt)
            if about is not None:
                remove(Path(about) / SPLITS)
        write_receipt(about, receipt)
    return receipt


def _without(splits: Mapping[str, list[str]], left_out: Sequence[str]) -> dict[str, list[str]]:
    """Return splits without the scenes that lack images."""
    if not left_out:
        return dict(splits)
    print(
        f"Note: {len(left_out)} scene(s) lack images and are left out: {', '.join(left_out[:5])}{' …' if len(left_out) > 5 else ''}.",
        file=sys.stderr,
    )
    whole = {part: [name for name in names if name not in set(left_out)] for part, names in splits.items()}
    for part, names in whole.items():
        if not names:
            raise PetrflowError(
                f"splits.{part}: none of its {len(splits[part])} scenes has all its images ({', '.join(left_out[:3])} …): choose other scenes, or "
                "fetch the archives that hold them."
            )
    return whole


def _chosen(dataset: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What of the data an entry chooses, other than its splits; nothing where it uses all."""
    chosen: dict[str, Any] = {}
    if "cameras_recorded" in facts:
        chosen["cameras"] = facts["cameras"]
    unseen = dataset.get("unseen_boxes")
    if unseen == "leave_out" or (unseen is None and "cameras_recorded" in facts):
        chosen["leave_out_unseen"] = True
    if dataset.get("load_every", 1) > 1:
        chosen["load_every"] = dataset["load_every"]
    if not dataset.get("use_sweeps", True):
        chosen["use_sweeps"] = False
    return chosen


# ------------------------------------------------------------------------------------------------------------------ sources


def read_source(source: Any) -> list[Folder | Archive | Remote]:
    """Understand the config's `source`: a folder, archives, URLs, a text file of URLs, or a list of
    archives and URLs.
    """
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
    if "://" in text:
        raise PetrflowError(f"source: {link_fault(text)}")
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
    hint = _(" (there is {path})", path=path.parent / near[0]) if near else ""
    raise PetrflowError(
        "source: "
        + _(
            "{path} does not exist{hint}: give an extracted folder, an archive or a URL, seen from {here}.",
            path=path.absolute(),
            hint=hint,
            here=Path.cwd(),
        )
    )


def _bring(items: Sequence[Folder | Archive | Remote], cache: Path, remove_archives: bool, progress: bool) -> Path:
    """Fetch and unpack what must be; returns the folder that holds the data set."""
    first = items[0]
    if isinstance(first, Folder):
        return first.path.resolve()
    target = extraction_folder(items, cache)
    for number, item in enumerate(items, 1):
        name = (
            item.path.name if isinstance(item, Archive) else file_name(item.urls[0]) if isinstance(item, Remote) else ""
        )
        # Two parts may have one name, and a fetched archive may have been removed: its address
        # tells.
        origin = item.sha256 or _path_of(item) if isinstance(item, Remote) else ""
        if origin and finished_record(target, name, origin) is not None:
            continue
        if len(items) > 1:
            print(f"Part {number} of {len(items)}: {name}", file=sys.stderr, flush=True)
        if isinstance(item, Remote):
            archive = _download(item, cache)
            fetch(
                list(item.urls),
                archive,
                sha256=item.sha256,
                checksums=cache / "downloads" / "checksums.json",
                progress=progress,
            )
        else:
            archive = item.path  # type: ignore[union-attr]
        extract(archive, target, remove_archive=remove_archives, progress=progress, origin=origin)
    return target.resolve()


def extraction_folder(items: Sequence[Folder | Archive | Remote], cache: Path) -> Path:
    """Where a set of archives is unpacked to."""
    return cache / "extracted" / _extraction_name(items)


def bytes_fetched(item: Remote, cache: Path) -> int:
    """Bytes of an archive that a fetch has left in the cache so far."""
    archive = _download(item, cache)
    return sum(path.stat().st_size for path in (archive, archive.with_name(f"{archive.name}.part")) if path.is_file())


def _download(item: Remote, cache: Path) -> Path:
    return cache / "downloads" / fingerprint(_path_of(item))[:8] / file_name(item.urls[0])


def _path_of(item: Remote) -> str:
    """What stays the same of a link when it is renewed: the query is a signature, and the host may
    be another mirror.
    """
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


def check_tables(source: Path, version: str) -> None:
    """Raise when a table is missing that petrflow reads."""
    missing = [name for name in NEEDED_TABLES if not (source / version / f"{name}.json").is_file()]
    if missing:
        raise PetrflowError(
            f"{source / version} lacks {', '.join(f'{name}.json' for name in missing)}: {table_remedy(version)}"
        )


# ------------------------------------------------------------------------------------------------------------------ splits


def resolve_splits(splits: Mapping[str, Any], source: Path, version: str) -> dict[str, list[str]]:
    """Scene names of the training and the validation split.

    Parameters
    ----------
    splits : `ratio` and `seed`, or `train` and `val`, each a list of scene names, one scene name, or the name of a split (nuScenes' own, or of the source's
        `splits.json`)
    """
    scenes = sorted(str(row["name"]) for row in read_table(source, version, "scene"))
    own = read_splits(source / version)
    # A test split has no labels: it is there to be predicted, and its scenes stand in for both.
    kind = {"v1.0-mini": "mini", "v1.0-test": "test"}.get(version, "")
    defaults = {part: "test" if kind == "test" else f"{kind}_{part}".lstrip("_") for part in ("train", "val")}
    if "ratio" in splits:
        return split_by_ratio(scenes, splits)
    resolved = {}
    for part in ("train", "val"):
        wanted = splits.get(part) or defaults[part]
        resolved[part] = (
            _scenes_by_name(wanted, part, scenes, own)
            if isinstance(wanted, str)
            else _checked_scenes(wanted, part, scenes, version)
        )
    both = sorted(set(resolved["train"]) & set(resolved["val"]))
    if both and kind != "test":
        print(
            f"Note: {len(both)} scene(s) are in both splits ({', '.join(both[:3])}): metrics will flatter the model.",
            file=sys.stderr,
        )
    return resolved


def _scenes_by_name(name: str, part: str, scenes: Sequence[str], own: Mapping[str, Any]) -> list[str]:
    if name in scenes:
        return [name]
    known = {**official_splits(), **{key: list(value) for key, value in own.items() if isinstance(value, list)}}
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


# ------------------------------------------------------------------------------------------------------------------ links


def _read_by_links(source: Path, version: str) -> list[Path]:
    """The folders of a source that a root's links lead into."""
    return [source / name for name in (version, *MEDIA_FOLDERS) if (source / name).exists()]


def _link(source: Path, version: str, splits: Mapping[str, Any], root: Path) -> None:
    """Fill the empty folder `root` with links, and with a version folder of its own for
    `splits.json`.
    """
    with disk_errors(root, permissions=True):
        for name in MEDIA_FOLDERS:
            if (source / name).is_dir():
                (root / name).symlink_to((source / name).resolve())
        (root / version).mkdir()
        for table in tables_of(source, version):
            (root / version / table.name).symlink_to(table.resolve())
    write_json(root / version / SPLITS, splits)
