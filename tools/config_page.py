"""Write docs/config.md and docs/model-files.md from their schemas: every key with its type, default and description.

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
MODEL_SECTIONS = {
    "input": "input",
    "augmentation": "augmentation",
    "model": "model",
    "backbone": "model.backbone",
    "neck": "model.neck",
    "head": "model.pts_bbox_head",
    "transformer": "model.pts_bbox_head.transformer",
    "attention": "model.pts_bbox_head.transformer.decoder.transformerlayers.attns[]",
    "positional_encoding": "model.pts_bbox_head.positional_encoding",
    "bbox_coder": "model.pts_bbox_head.bbox_coder",
    "loss_cls": "model.pts_bbox_head.loss_cls",
    "loss_bbox": "model.pts_bbox_head.loss_bbox",
}
SECTIONS = {
    "synthetic": "datasets.NAME, kind: synthetic",
    "vehicle": "datasets.NAME.vehicle, kind: synthetic",
    "nuscenes": "datasets.NAME, kind: nuscenes",
    "xtreme1": "datasets.NAME, kind: xtreme1",
    "run": "runs.NAME",
    "schedule": "runs.NAME.schedule",
    "demo": "runs.NAME.demo",
    "fetch": "A file to fetch (weights, parts of a source)",
}


def render(name: str, title: str, sections: Mapping[str, str]) -> str:
    """Return the page of one schema as Markdown."""
    schema = schema_of(name)
    lines = [f"# {title}", "", f"Made from `src/petrflow/config/schemas/{name}.yaml` by `make generate`.", ""]
    lines += [f"{schema['description']}", "", *_table(_rows(schema["properties"], schema, ""))]
    for part_name, heading in sections.items():
        part = schema["$defs"][part_name]
        lines += ["", f"## {heading}", "", part["description"], ""]
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
    if "prefixItems" in entry:
        inner = list(dict.fromkeys(_kind(_resolved(item, schema), schema) for item in entry["prefixItems"]))
        text += (
            f" of {len(entry['prefixItems'])}: {', '.join(inner)}"
            if len(inner) == 1
            else f" of {len(entry['prefixItems'])}"
        )
    elif isinstance(entry.get("items"), Mapping):
        inner_kind = _kind(_resolved(entry["items"], schema), schema)
        text += f" of {inner_kind}" if inner_kind and inner_kind != "group" else ""
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
    pages = {
        "config.md": render("config", "The config, key by key", SECTIONS),
        "model-files.md": render("model", "Model files, key by key", MODEL_SECTIONS),
    }
    for name, text in pages.items():
        page = REPOSITORY / "docs" / name
        if "--check" not in sys.argv:
            page.write_text(text, encoding="utf-8")
        elif not page.exists() or page.read_text(encoding="utf-8") != text:
            print(f"docs/{name} is out of date.", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
