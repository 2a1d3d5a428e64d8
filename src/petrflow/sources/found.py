"""The nuScenes root that a source names, and what its tables hold: cheap, because every command
asks.

A folder serves if it is the root, its folder of tables, or one level around it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.files import fingerprint
from petrflow.files.receipts import Contents
from petrflow.messages import _
from petrflow.nuscenes.splits import SPLITS
from petrflow.sources.ownership import made_by_petrflow, same_place

# Bytes at each end of an archive that tell it from another: formats keep their checksums there.
_END_BYTES = 1 << 20


def find_root(folder: Path, version: str) -> Path:
    """Return the nuScenes root at, around or one level below a folder: where `{version}/scene.json`
    is.

    Roots that petrflow made count below a folder only if there is no other: `source: data` means
    the user's data in there.
    """
    if folder.name == version and _is_file(folder / "scene.json"):
        return folder.parent
    if _is_file(folder / version / "scene.json"):
        return folder
    below = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = [entry for entry in below if _is_file(entry / version / "scene.json")]
    found = [entry for place, entry in enumerate(found) if not any(same_place(entry, one) for one in found[:place])]
    if len(found) > 1:
        found = [entry for entry in found if not made_by_petrflow(entry.resolve(), entry.name)] or found
    if len(found) > 1:
        names = ", ".join(entry.name for entry in found)
        raise PetrflowError(f"{folder} holds several roots with {version} ({names}): name one of them as `source`.")
    if found:
        return found[0]
    versions = sorted(
        {
            path.name
            for candidate in (folder, *below)
            for path in (candidate.iterdir() if os.access(candidate, os.R_OK | os.X_OK) else ())
            if _is_file(path / "scene.json")
        }
    )
    if versions:
        raise PetrflowError(
            _(
                "{folder} holds {versions}, not {version}: set the data set's `version` to {first}, or name the right source.",
                folder=folder,
                versions=", ".join(versions),
                version=version,
                first=versions[0],
            )
        )
    raise PetrflowError(
        _(
            "{folder} is no nuScenes root: it has no {version}/scene.json. It should hold {version}/, samples/ and sweeps/; of several archives, the tables are in {archive}.",
            folder=folder,
            version=version,
            archive="v1.0-mini.tgz" if version == "v1.0-mini" else version + "_meta.tgz",
        )
    )


def _is_file(path: Path) -> bool:
    """As `path.is_file()`; a folder that may not be entered holds no file."""
    try:
        return path.is_file()
    except PermissionError:
        return False


def tables_of(source: Path, version: str) -> list[Path]:
    """Return the tables of a root, without `splits.json`."""
    return sorted(path for path in (source / version).glob("*.json") if path.name != SPLITS)


def content_of_source(path: Path, version: str, contents: Contents) -> Any:
    """Return what changes when a folder or an archive that a data set comes from does.

    Parameters
    ----------
    path
        It exists. Of a folder the tables are hashed; of an archive, which may be hundreds of
        gigabytes, the size and both ends.
    version
        Name of the folder of the tables.
    contents
        Remembers what was hashed.
    """
    if path.is_file():
        return [path.name, contents.take(path, "ends", _ends)]
    try:
        source = find_root(path, version)
    except PetrflowError:  # the door says what is wrong with it
        return {}
    own = [source / version / SPLITS]
    return {table.name: contents.sha256(table) for table in [*tables_of(source, version), *own] if table.is_file()}


def _ends(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as handle:
        first = handle.read(_END_BYTES)
        handle.seek(max(0, size - _END_BYTES))
        return fingerprint([size, first, handle.read()])
