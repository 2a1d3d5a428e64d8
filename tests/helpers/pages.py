"""Markdown pages, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def lines(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the kind of each line (heading, code, prose) and the line."""
    fenced, blank, in_list, code = False, True, False, False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            yield "code", line
        elif line.startswith("    ") and (code or blank) and not in_list:
            code = True
            yield "code", line[4:]
        elif line.startswith("#"):
            in_list, code = False, False
            yield "heading", line
        else:
            in_list = line.startswith("- ") or (in_list and (not line or line.startswith(" ")))
            code = code and not line
            yield "prose", line
        blank = not line
