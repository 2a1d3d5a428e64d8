"""Small nuScenes tables as records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson

from petrflow.errors import PetrflowError


def read_table(root: Path, version: str, name: str) -> list[dict[str, Any]]:
    """All records of a table; for the small ones (`petrflow.annotations` streams the large
    ones).
    """
    path = Path(root) / version / f"{name}.json"
    try:
        rows = _parse(path.read_bytes())
    except FileNotFoundError as error:
        raise PetrflowError(
            f"{path} is missing: a nuScenes root holds all of its tables in one folder; {table_remedy(version)}"
        ) from error
    except ValueError as error:
        raise PetrflowError(f"{path} is cut short or damaged ({error}): {table_remedy(version)}") from error
    if not isinstance(rows, list):
        raise PetrflowError(f"{path} is no table of records: {table_remedy(version)}")
    return rows


def _parse(content: bytes) -> Any:
    """Parse JSON; NaN and Infinity, which JSON does not have and Python writes, are left for those
    who check values.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        if b"NaN" in content or b"Infinity" in content:
            return json.loads(content)
        raise


def table_remedy(version: str) -> str:
    """Where the tables of a version come from."""
    archive = {"v1.0-mini": "v1.0-mini.tgz"}.get(version, f"{version}_meta.tgz")
    return f"extract {archive} again."
