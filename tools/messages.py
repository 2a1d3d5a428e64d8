"""Collect the texts that the code gives to ``petrflow.messages._`` into the Chinese catalogue, and compile it.

python tools/messages.py [--check]

What has no Chinese yet stands in the catalogue with an empty translation; what the code no longer says leaves it.
"""

from __future__ import annotations

import ast
import io
import string
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

REPOSITORY = Path(__file__).resolve().parents[1]
CATALOGUE = REPOSITORY / "src/petrflow/locale/zh_CN/LC_MESSAGES/petrflow.po"
COMPILED = CATALOGUE.with_suffix(".mo")
SOURCES = ("src/petrflow/**/*.py", "src/snakemake_logger_plugin_petrflow/*.py", "workflow/*.py")


def texts() -> dict[str, list[str]]:
    """Every marked text with the files that say it."""
    found: dict[str, list[str]] = {}
    for pattern in SOURCES:
        for path in sorted(REPOSITORY.glob(pattern)):
            for text in _marked(ast.parse(path.read_text(encoding="utf-8"))):
                found.setdefault(text, []).append(path.relative_to(REPOSITORY).as_posix())
    return found


def _marked(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "N_"):
            text = node.args[0]
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield text.value


def translations(path: Path = CATALOGUE) -> dict[str, str]:
    """Chinese texts by their English ones; those without are left out."""
    if not path.exists():
        return {}
    with path.open("rb") as handle:
        return {str(entry.id): str(entry.string) for entry in read_po(handle) if entry.id and entry.string}


def fields(text: str) -> set[str]:
    """Names in braces that a text has places for."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def catalogue() -> Catalog:
    """The catalogue of all texts, in the order of the alphabet, with what is translated of them."""
    known = translations()
    made = Catalog(
        locale="zh_CN", project="petrflow", version="", header_comment="# What petrflow says, in Chinese.", fuzzy=False
    )
    for text, places in sorted(texts().items()):
        made.add(text, known.get(text, ""), locations=[(place, 0) for place in dict.fromkeys(places)])
    for entry in made:
        entry.flags -= {"python-format", "python-brace-format"}
    return made


def rendered(made: Catalog) -> tuple[bytes, bytes]:
    """The catalogue as text and compiled, without times, so that the same texts give the same bytes."""
    text, compiled = io.BytesIO(), io.BytesIO()
    write_po(text, made, width=100, include_lineno=False)
    lines = text.getvalue().decode().splitlines(keepends=True)
    moving = (
        "Project-Id-Version",
        "Report-Msgid-Bugs-To",
        "POT-Creation-Date",
        "PO-Revision-Date",
        "Last-Translator",
        "Language-Team",
        "Generated-By",
    )
    kept = "".join(line for line in lines if not line.startswith(tuple(f'"{name}:' for name in moving)))
    known = read_po(io.BytesIO(kept.encode()))
    known.creation_date = known.revision_date = datetime(2000, 1, 1, tzinfo=UTC)
    write_mo(compiled, known)
    return kept.encode(), compiled.getvalue()


def main() -> int:
    """Write catalogue and compiled form, or with --check say whether they are out of date."""
    text, compiled = rendered(catalogue())
    if "--check" in sys.argv:
        current = CATALOGUE.exists() and CATALOGUE.read_bytes() == text
        if not current or not COMPILED.exists() or COMPILED.read_bytes() != compiled:
            print(f"{CATALOGUE.relative_to(REPOSITORY)} is out of date.", file=sys.stderr)
            return 1
        return 0
    CATALOGUE.parent.mkdir(parents=True, exist_ok=True)
    CATALOGUE.write_bytes(text)
    COMPILED.write_bytes(compiled)
    missing = set(texts()) - set(translations())
    for name in sorted(missing):
        print(f"{CATALOGUE.relative_to(REPOSITORY)} has no Chinese text for: {name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
