"""Write docs/config.md and docs/model-files.md from their schemas: every key with its type, default
and description; and the same in Chinese in docs/zh/, by tools/pages.zh_CN.po.

python tools/config_page.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from babel.messages.pofile import read_po

from petrflow.config import schema_of

REPOSITORY = Path(__file__).resolve().parents[1]
CHINESE = REPOSITORY / "tools" / "pages.zh_CN.po"
Translate = Callable[[str], str]
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
    "notify": "notify",
    "serve": "serve",
    "synthetic": "datasets.NAME, kind: synthetic",
    "vehicle": "datasets.NAME.vehicle, kind: synthetic",
    "nuscenes": "datasets.NAME, kind: nuscenes",
    "xtreme1": "datasets.NAME, kind: xtreme1",
    "run": "runs.NAME",
    "schedule": "runs.NAME.schedule",
    "demo": "runs.NAME.demo",
    "fetch": "A file to fetch (weights, parts of a source)",
}


def chinese() -> dict[str, str]:
    """The catalogue of Chinese texts by their English ones."""
    with CHINESE.open("rb") as handle:
        return {str(entry.id): str(entry.string) for entry in read_po(handle) if entry.id and entry.string}


class Page:
    """A page of one schema as Markdown.

    Parameters
    ----------
    name : str
        Name of the schema.
    translate : callable
        Gives an English text in the page's language.
    """

    def __init__(self, name: str, translate: Translate) -> None:
        self._name = name
        self._schema = schema_of(name)
        self._translate = translate

    def render(self, title: str, sections: Mapping[str, str]) -> str:
        """Return the page's text."""
        translate, schema = self._translate, self._schema
        made = translate("Made from `{schema}` by `make generate`.")
        lines = [f"# {translate(title)}", "", made.format(schema=f"src/petrflow/config/schemas/{self._name}.yaml"), ""]
        lines += [self._text(schema["description"]), "", *self._table(self._rows(schema["properties"], ""))]
        for part_name, heading in sections.items():
            part = schema["$defs"][part_name]
            lines += ["", f"## {translate(heading)}", "", self._text(part["description"]), ""]
            lines += self._table(self._rows(part["properties"], ""))
        return "\n".join(lines) + "\n"

    def _text(self, description: str) -> str:
        return self._translate(" ".join(description.split())) if description else ""

    def _rows(self, properties: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
        """Yield (key, type, default, description) of each key, those of nested groups after their group."""
        for key, entry in properties.items():
            whole = self._resolved(entry)
            default = f"`{json.dumps(whole['default'])}`" if "default" in whole and whole["default"] != {} else ""
            description = entry.get("description") or whole.get("description", "")
            yield f"`{prefix}{key}`", self._kind(whole), default, self._text(description)
            if "properties" in whole and "$ref" not in entry:
                yield from self._rows(whole["properties"], f"{prefix}{key}.")

    def _resolved(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """An entry with what it refers to filled in below it."""
        if "$ref" not in entry:
            return dict(entry)
        return {**self._schema["$defs"][entry["$ref"].removeprefix("#/$defs/")], **entry}

    def _kind(self, entry: Mapping[str, Any]) -> str:
        """What a value may be, in a few words."""
        translate = self._translate
        if "enum" in entry:
            return ", ".join(
                "null" if value is None else str(value).lower() if isinstance(value, bool) else f"`{value}`"
                for value in entry["enum"]
            )
        if "const" in entry:
            return f"`{entry['const']}`"
        if "oneOf" in entry:
            return translate(" or ").join(
                dict.fromkeys(self._kind(self._resolved(choice)) for choice in entry["oneOf"])
            )
        kinds = entry.get("type", "")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        names = {
            "object": "group",
            "array": "list",
            "string": "text",
            "integer": "whole number",
            "boolean": "true or false",
        }
        text = translate(" or ").join(translate(names.get(kind, kind)) for kind in kinds)
        if "prefixItems" in entry:
            inner = list(dict.fromkeys(self._kind(self._resolved(item)) for item in entry["prefixItems"]))
            form = "{kind} of {count}: {item}" if len(inner) == 1 else "{kind} of {count}"
            text = translate(form).format(kind=text, count=len(entry["prefixItems"]), item=inner[0])
        elif isinstance(entry.get("items"), Mapping):
            inner_kind = self._kind(self._resolved(entry["items"]))
            if inner_kind and inner_kind != translate("group"):
                text = translate("{kind} of {item}").format(kind=text, item=inner_kind)
        bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
        limits = ", ".join(f"{sign} {entry[bound]}" for bound, sign in bounds.items() if bound in entry)
        return f"{text}, {limits}" if limits else text

    def _table(self, rows: Iterator[tuple[str, str, str, str]]) -> list[str]:
        cells = [[cell.replace("|", "\\|").replace("\n", " ").strip() for cell in row] for row in rows]
        header = " | ".join(self._translate(name) for name in ("key", "value", "default", "what it says"))
        return [f"| {header} |", "|---|---|---|---|", *("| " + " | ".join(row) + " |" for row in cells)]


def pages() -> tuple[dict[str, str], set[str]]:
    """The pages by their names in docs/, and the English texts for which no Chinese one was found."""
    catalogue = chinese()
    missing: set[str] = set()

    def into_chinese(text: str) -> str:
        if text and text not in catalogue and re.search("[a-z]{3}", text.replace("null", "")):
            missing.add(text)
        return catalogue.get(text, text)

    made = {}
    for folder, translate in (("", str), ("zh/", into_chinese)):
        made[f"{folder}config.md"] = Page("config", translate).render("The config, key by key", SECTIONS)
        made[f"{folder}model-files.md"] = Page("model", translate).render("Model files, key by key", MODEL_SECTIONS)
    headings = {*SECTIONS.values(), *MODEL_SECTIONS.values()}
    return made, {text for text in missing if text not in headings}


def main() -> int:
    """Write the page, or with --check say whether it is out of date."""
    made, missing = pages()
    for text in sorted(missing):
        print(f"{CHINESE.relative_to(REPOSITORY)} has no Chinese text for: {text}", file=sys.stderr)
    for name, text in made.items():
        page = REPOSITORY / "docs" / name
        if "--check" not in sys.argv:
            page.write_text(text, encoding="utf-8")
        elif not page.exists() or page.read_text(encoding="utf-8") != text:
            print(f"docs/{name} is out of date.", file=sys.stderr)
            return 1
    return 1 if missing and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
