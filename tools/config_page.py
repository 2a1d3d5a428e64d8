"""Write docs/config.md from the config's schema: every key with its type, default and description.

python tools/config_page.py [--check]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from petrflow.config import schema_of

REPOSITORY = Path(__file__).resolve().parents[1]
SECTIONS = {
    "synthetic": "datasets.NAME, kind: synthetic",
    "nuscenes": "datasets.NAME, kind: nuscenes",
    "xtreme1": "datasets.NAME, kind: xtreme1",
    "run": "runs.NAME",
    "schedule": "runs.NAME.schedule",
    "demo": "runs.NAME.demo",
    "fetch": "A file to fetch (weights, parts of a source)",
}


def render(schema: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    lines = [
        "# The config, key by key",
        "",
        "Made from `src/petrflow/config/schemas/config.yaml` by `make generate`.",
        "",
    ]
    lines += [f"{schema['description']}", "", *_table(_rows(schema["properties"], schema, ""))]
    for name, title in SECTIONS.items():
        part = schema["$defs"][name]
        lines += ["", f"## {title}", "", part["description"], ""]
        lines += _table(_rows(part["properties"], schema, ""))
    return "\n".join(lines) + "\n"


def _rows(properties: Mapping[str, Any], schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, type, default, description) of each key, those of nested groups after their group."""
    for key, entry in properties.items():
        whole = _resolved(entry, schema)
        default = f"`{json.dumps(whole['default'])}`" if "default" in whole and whole["default"] != {} else ""
        yield (
            f"`{prefix}{key}`",
            _kind(whole, schema),
            default,
            entry.get("description") or whole.get("description", ""),
        )
        if "properties" in whole and "$ref" not in entry:
            yield from _rows(whole["properties"], schema, f"{prefix}{key}.")


def _resolved(entry: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with what it refers to filled in below it."""
    if "$ref" not in entry:
        return dict(entry)
    return {**schema["$defs"][entry["$ref"].removeprefix("#/$defs/")], **entry}


def _kind(entry: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What a value may be, in a few words."""
    if "enum" in entry:
        return ", ".join(
            "null" if value is None else str(value).lower() if isinstance(value, bool) else f"`{value}`"
            for value in entry["enum"]
        )
    if "const" in entry:
        return f"`{entry['const']}`"
    if "oneOf" in entry:
        return " or ".join(dict.fromkeys(_kind(_resolved(choice, schema), schema) for choice in entry["oneOf"]))
    kinds = entry.get("type", "")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    names = {
        "object": "group",
        "array": "list",
        "string": "text",
        "integer": "whole number",
        "boolean": "true or false",
    }
    text = " or ".join(names.get(kind, kind) for kind in kinds)
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = ", ".join(f"{sign} {entry[bound]}" for bound, sign in bounds.items() if bound in entry)
    return f"{text}, {limits}" if limits else text


def _table(rows: Iterator[tuple[str, str, str, str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|").replace("\n", " ").strip() for cell in row] for row in rows]
    return [
        "| key | value | default | what it says |",
        "|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in cells),
    ]


def main() -> int:
    """Write the page, or with --check say whether it is out of date."""
    page = REPOSITORY / "docs" / "config.md"
    text = render(schema_of("config"))
    if "--check" in sys.argv:
        return int(not page.exists() or page.read_text(encoding="utf-8") != text)
    page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
