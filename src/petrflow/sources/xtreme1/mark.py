"""Has an export changed? Its content decides, not the times of its files, and no file is read twice
for it.

What is known of each file stands in `data/.cache/xtreme1/NAME/sources.json`: size, time and inode,
and a digest. A file with all three as they were has the digest that it had; where all files are as
they were, `mark.json` beside it has the answer. JSON goes by its content without what changes with
every export: signatures of links, the time of the export. Media goes by name and size until a file
is replaced; then the digests that the import took tell a repaired image from a copied one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.files import fingerprint, read_json, sha256_file, write_json
from petrflow.sources.ownership import is_inside, same_place
from petrflow.sources.xtreme1.frames import EXPORT_TIME, is_junk

# A link's host and signature, and the time of the export, are new each time.
_OF_THE_EXPORT = (
    (re.compile(rb"https?:(?:\\?/){2}[^/\\\"]+"), b""),
    (re.compile(rb"\?X-Amz-[^\"]*"), b""),
    (re.compile(rb'"exportTime"\s*:\s*"[^"]*"'), b""),
)


def source_mark(dataset: Mapping[str, Any], root: Path) -> str:
    """A text that changes when the export does: for the workflow, which would not see a new export
    at an old path otherwise.

    It covers all files of the export, of `media_root` and those that the settings name: relabelled
    frames, repaired images, new clouds. An export that is gone, to save space, has not changed: the
    mark that its import noted in `root` stands.
    """
    source = Path(str(dataset.get("source"))).expanduser()
    if not source.exists():
        noted = read_json(root / "import.json") if (root / "import.json").exists() else {}
        return str(noted.get("source_mark", "missing"))
    places = list(_places(dataset, source))
    found = [sorted(_files(place)) for place in places]
    stamps = hashlib.sha256(repr([[(name, *stamp) for name, stamp in files] for files in found]).encode()).hexdigest()
    noted = _read(root, "mark.json")
    if noted.get("stamps") == stamps:
        return str(noted["mark"])
    known = _read(root, "sources.json")
    entries: list[Any] = []
    remembered: dict[str, dict[str, Any]] = {}
    for number, (place, files) in enumerate(zip(places, found, strict=True)):
        paths = [place / name if name else place for name, _ in files]
        own = [_entry(path, stamp, known.get(str(path))) for path, (_, stamp) in zip(paths, files, strict=True)]
        entries.append([number, sorted(zip(_plain([name for name, _ in files]), map(_mark_of, own), strict=True))])
        remembered |= {str(path): entry for path, entry in zip(paths, own, strict=True)}
    mark = fingerprint(entries)
    # What lies in the user's own folder is left as it is, whoever looks.
    if not any(is_inside(root, place) or is_inside(place, root) or same_place(root, place) for place in places):
        _remember(root, "sources.json", remembered)
        _remember(root, "mark.json", {"stamps": stamps, "mark": mark})
    return mark


def remember_digests(root: Path, digests: Mapping[Path, str]) -> None:
    """Note the SHA-256 of media files that an import read."""
    known = _read(root, "sources.json")
    for path, digest in digests.items():
        if str(path) in known:
            known[str(path)]["sha256"] = digest
    if known:
        _remember(root, "sources.json", known)


def cache_of(root: Path) -> Path:
    """Where the door keeps what is its own, beside the root so that images can be linked into
    it.
    """
    return root.absolute().parent / ".cache" / "xtreme1" / root.name


# ------------------------------------------------------------------------------------------------------------------ files


def _places(dataset: Mapping[str, Any], source: Path) -> Iterator[Path]:
    splits = dataset.get("splits") or {}
    named = [dataset.get(key) for key in ("media_root", "timestamps", "poses")] + [
        splits.get(key) for key in ("train", "val")
    ]
    yield source
    for name in named:
        if isinstance(name, str) and (path := Path(name).expanduser()).exists():
            yield path


def _files(place: Path) -> Iterator[tuple[str, list[int]]]:
    """Name below a place ('' for the place itself) and stamp of every file, links followed."""
    if place.is_file():
        yield "", _stamp(place.stat())
        return
    seen: set[tuple[int, int]] = set()
    pending = [(place, "")]
    while pending:
        folder, name = pending.pop()
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_junk(entry.name):
                    continue
                if entry.is_dir():
                    pending.append((folder / entry.name, f"{name}{entry.name}/"))
                elif entry.is_file():
                    yield name + entry.name, _stamp(entry.stat())


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _plain(names: list[str]) -> list[str]:
    """Names without the folders that all share and without the time of the export."""
    parts = [[EXPORT_TIME.sub("", part) for part in name.split("/")] for name in names]
    shared = 0
    while parts and all(len(own) > shared + 1 for own in parts) and len({own[shared] for own in parts}) == 1:
        shared += 1
    return ["/".join(own[shared:]) for own in parts]


# ------------------------------------------------------------------------------------------------------------------ digests


def _entry(path: Path, stamp: list[int], known: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is known of a file: its stamp, its digest (of text and archives), and of media whether
    it was replaced.
    """
    if known is not None and known["stamp"] == stamp:
        return dict(known)
    kind = path.suffix.lower()
    if kind in (".json", ".csv", ".txt"):
        return {"stamp": stamp, "digest": _digest_of_text(path.read_bytes())}
    if zipfile.is_zipfile(path):
        with contextlib.suppress(zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError):
            return {"stamp": stamp, "digest": _digest_of_zip(path)}
    entry: dict[str, Any] = {"stamp": stamp, "replaced": "" if known is None else known.get("replaced", "")}
    if known is not None:
        # Copied or repaired? What the import read says it; a file that it did not read counts as
        # changed.
        digest = sha256_file(path) if known.get("sha256") or known["stamp"][0] != stamp[0] else str(stamp[1])
        if digest != known.get("sha256"):
            entry["replaced"] = digest
        entry["sha256"] = digest if known.get("sha256") else ""
    return entry


def _mark_of(entry: Mapping[str, Any]) -> str:
    return str(entry["digest"]) if "digest" in entry else f"{entry['stamp'][0]} {entry['replaced']}"


def _digest_of_text(raw: bytes) -> str:
    for pattern, instead in _OF_THE_EXPORT:
        raw = pattern.sub(instead, raw)
    return hashlib.sha256(raw).hexdigest()


def _digest_of_zip(path: Path) -> str:
    with zipfile.ZipFile(path) as packed:
        infos = [
            info for info in packed.infolist() if not info.is_dir() and not any(map(is_junk, info.filename.split("/")))
        ]
        contents = [
            _digest_of_text(packed.read(info))
            if info.filename.lower().endswith(".json")
            else f"{info.file_size} {info.CRC}"
            for info in infos
        ]
    return fingerprint(sorted(zip(_plain([info.filename for info in infos]), contents, strict=True)))


# ------------------------------------------------------------------------------------------------------------------ memory


def _read(root: Path, name: str) -> dict[str, Any]:
    path = cache_of(root) / name
    try:
        return dict(read_json(path)) if path.is_file() else {}
    except (PetrflowError, TypeError, ValueError):
        return {}


def _remember(root: Path, name: str, content: Mapping[str, Any]) -> None:
    # A disk that cannot be written to makes the next look slower, and no different.
    with contextlib.suppress(OSError, PetrflowError):
        write_json(cache_of(root) / name, content)
