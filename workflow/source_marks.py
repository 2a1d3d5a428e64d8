"""What of users' sources goes into a fingerprint: marks of data sources, addresses without what is
personal in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.fetch.links import weights_key
from petrflow.files.fingerprints import fingerprint
from petrflow.files.receipts import Contents, made_from


def weights_source(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Where weights of a key are fetched from."""
    for run in config["runs"].values():
        source = run["weights"]
        if isinstance(source, Mapping) and "url" in source and weights_key(source) == key:
            return dict(source)
    raise PetrflowError(f"No run of this configuration fetches the weights data/weights/{key}.")


def source_mark(settings: Mapping[str, Any], dataset: str, contents: Contents) -> str | None:
    """A text that changes when a data set's source does; None where the settings say it all.

    A source that is gone, to save space, has not changed: the mark that its import left stands.
    """
    if settings["kind"] == "xtreme1":
        from petrflow.sources.xtreme1.mark import source_mark as export_mark  # imports numpy

        return export_mark(settings, Path("data") / dataset)
    if settings["kind"] != "nuscenes":
        return None
    source = settings["source"]
    if isinstance(source, Mapping) and "file" in source:
        return None
    parts = [str(part) for part in (source if isinstance(source, list) else [source]) if isinstance(part, str)]
    local = [Path(part).expanduser() for part in parts if "://" not in part]
    if not local:
        return None
    if not all(path.exists() for path in local):
        origin = made_from(Path("results") / dataset / "root" / "provenance.json")
        return None if origin is None else origin["settings"].get("content of source")
    from petrflow.sources.found import content_of_source

    return fingerprint([content_of_source(path, str(settings["version"]), contents) for path in local])
