"""Whose folder stands at `data/{dataset}`: a root that petrflow made may be replaced, any other is
never written into.

Every door asks here before it writes:

    with new_root(root, kind="xtreme1", version="v1.0-xtreme1", reads=[source], about=about) as
    folder:
        ...  # write tables and media into `folder`; it becomes `root` at the end, whole or not at all

A folder is petrflow's if it holds the file `.petrflow-root.json` with the data set's own name. That
file is written first, and it is never a declared output of a rule, so that Snakemake does not
delete it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.files import NOBODYS, TEMPORARY_MARK, atomic_dir, read_json, write_json
from petrflow.nuscenes.names import MEDIA_FOLDERS
from petrflow.nuscenes.root import COMPLETE, RECEIPT
from petrflow.nuscenes.splits import SPLITS, split_name

MARK = ".petrflow-root.json"
"""File in a root that says: petrflow made this."""

_COMPLETE_KEYS = {"kind", "version", "splits", "fingerprint"}
# What a root may hold besides its folder of tables. Operating systems add files of their own, which
# nobody misses.
_ENTRIES = {*MEDIA_FOLDERS, MARK, COMPLETE, "import.json", "provenance.json"}


# ------------------------------------------------------------------------------------------------------------------ places


def same_place(one: Path, other: Path) -> bool:
    """Whether two paths name one file or folder, whatever their links, `..`, bind mounts or
    letters' case.
    """
    try:
        return Path(one).samefile(other)
    except OSError:
        return False


def is_inside(path: Path, folder: Path) -> bool:
    """Whether `path`, which need not exist, lies in `folder` at any depth; a folder does not lie in
    itself.
    """
    return folder.exists() and any(same_place(parent, folder) for parent in path.resolve().parents)


# ------------------------------------------------------------------------------------------------------------------ marks


def made_by_petrflow(root: Path, dataset: str | None = None) -> bool:
    """Whether petrflow made the folder `root` for the data set of this name (its own name where
    None).
    """
    mark = _read(root / MARK)
    if mark is not None:
        return mark.get("made_by") == "petrflow" and mark.get("dataset") == (dataset or root.name)
    # Versions before the mark: the last file that a door wrote, or nothing but links and splits.
    complete = _read(root / COMPLETE)
    if complete is not None:
        return set(complete) >= _COMPLETE_KEYS
    return _holds_only_links(root)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except PetrflowError:
        return {}
    return content if isinstance(content, dict) else {}


def _holds_only_links(root: Path) -> bool:
    """Whether a folder is what earlier nuScenes doors made before their last step: links, and
    `splits.json` beside the tables.
    """
    entries = _entries(root)
    tables = [entry for entry in entries if not entry.is_symlink()]
    if not tables or not all(entry.is_dir() for entry in tables):
        return False
    if not all(entry.name in _ENTRIES for entry in entries if entry.is_symlink()):
        return False
    return all(_are_links_and_splits(folder) for folder in tables)


def _are_links_and_splits(folder: Path) -> bool:
    own = [entry for entry in _entries(folder) if not entry.is_symlink()]
    return [entry.name for entry in own] == [SPLITS] and split_name("train") in (_read(own[0]) or {})


def _entries(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.name not in NOBODYS and TEMPORARY_MARK not in path.name]


def _foreign(root: Path) -> list[str]:
    """Names in a root of petrflow's that no door put there."""
    mark = _read(root / MARK) or _read(root / COMPLETE) or {}
    known = _ENTRIES | {str(name) for name in mark.get("entries", ())} | {str(mark.get("version"))}
    return [
        entry.name
        for entry in _entries(root)
        if entry.name not in known and split_name("train") not in (_read(entry / SPLITS) or {})
    ]


# ------------------------------------------------------------------------------------------------------------------ claiming


def claim(root: Path, reads: Sequence[Path] = (), about: Path | None = None) -> Path:
    """Return where a door may make the root of a data set, or raise before anything of the user's
    is touched.

    Parameters
    ----------
    root
        `data/{dataset}`. A link to a folder is followed: the folder behind it is what gets
        replaced.
    reads
        Files and folders of the user's that the door reads.
    about
        `results/{dataset}/root/`, where the receipt goes.

    Raises
    ------
    PetrflowError
        Something stands at `root` that petrflow did not make, or one of `reads` lies in, at or
        around `root` or `about`.
    """
    root = Path(root)
    name = f"`datasets.{root.name}`"
    for path in map(Path, reads):
        for place in (root, about):
            if place is None:
                continue
            if same_place(path, place):
                raise PetrflowError(
                    f"{name}: the source {path} stands at {place} itself, where petrflow would write. "
                    "Move the source elsewhere, or choose another name for the data set."
                )
            if is_inside(path, place):
                raise PetrflowError(
                    f"{name}: the source {path} lies inside {place}, where petrflow would write. "
                    "Move the source elsewhere, or choose another name for the data set."
                )
            if is_inside(place, path):
                raise PetrflowError(
                    f"{name}: the source {path} is a folder around {place}, where petrflow would write. "
                    "Name the folder of the data itself as `source`, or move the data elsewhere."
                )
    claim_about(root, about)
    return _claimed(root, name)


def claim_about(root: Path, about: Path | None) -> None:
    """Raise if the files that a door leaves in `results/{dataset}/root/` would take the place of
    others.
    """
    receipt = Path(about) / RECEIPT if about is not None else None
    if receipt is not None and receipt.is_file() and not set(_read(receipt) or {}) >= _COMPLETE_KEYS:
        raise PetrflowError(
            f"`datasets.{Path(root).name}`: {receipt} is a file that petrflow did not make. "
            "Choose another name for the data set, or move the file."
        )


def _claimed(root: Path, name: str) -> Path:
    if root.is_symlink() and not root.exists():
        raise PetrflowError(
            f"{name}: {root} is a link to {root.readlink()}, which does not exist. "
            "Mount or make that folder, or choose another name for the data set."
        )
    place = root.resolve()
    if not place.exists():
        return place
    if not place.is_dir():
        raise PetrflowError(
            f"{name}: {root} is a file that petrflow did not make. Choose another name for the data set, or move the file."
        )
    found = _entries(place)
    if not found:
        return place
    if not made_by_petrflow(place, root.name):
        raise PetrflowError(
            f"{name}: {_what_stands(root, place, found)} Choose another name for the data set, or move that folder."
        )
    if foreign := _foreign(place):
        raise PetrflowError(
            f"{name}: {root} was made by petrflow, but {_listed(foreign)} in it was not, and would be lost. Move it out of there."
        )
    return place


def _what_stands(root: Path, place: Path, found: Sequence[Path]) -> str:
    mark = _read(place / MARK)
    if mark and mark.get("made_by") == "petrflow":
        return f"{root} was made for the data set {mark.get('dataset')!r} and was copied or renamed since."
    tables = [path for path in found if (path / "scene.json").is_file()]
    if tables:
        return (
            f"{root} is a nuScenes root that petrflow did not make (tables {_listed([path.name for path in tables])}): it is used "
            f"where it stands if the data set has `kind: nuscenes` and `source: {root}`."
        )
    return f"{root} is a folder that petrflow did not make (it holds {_listed([path.name for path in found])})."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextmanager
def new_root(
    root: Path, *, kind: str, version: str, reads: Sequence[Path] = (), about: Path | None = None
) -> Iterator[Path]:
    """Yield an empty folder that becomes the root of a data set at the end, or goes if the body
    fails.

    What stood at `root` stays until then, and only a root of petrflow's own is replaced; see
    :func:`claim`.
    """
    root = Path(root)
    place = claim(root, reads, about)
    mark: Mapping[str, Any] = {"made_by": "petrflow", "dataset": root.name, "kind": kind, "version": version}
    with atomic_dir(place) as folder:
        write_json(folder / MARK, mark)
        yield folder
        write_json(folder / MARK, {**mark, "entries": sorted(path.name for path in folder.iterdir())})
        # Somebody may have put data there while this was made.
        claim(root, reads, about)


def write_receipt(about: Path | None, receipt: Mapping[str, Any]) -> None:
    """Write what the finished root holds to `about`, `results/{dataset}/root/`, as a door's last
    act; nothing where None.
    """
    if about is not None:
        write_json(Path(about) / RECEIPT, receipt)
