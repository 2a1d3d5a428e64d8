"""Every text stands in both languages, and every text that a template or a module asks for is there."""

from __future__ import annotations

import re
import string
from importlib import resources

from petrflow.reports.words import LANGUAGES, catalogue


def _names(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_say_the_same_things() -> None:
    for key, texts in catalogue().items():
        assert set(texts) == set(LANGUAGES) and all(texts.values()), key
        assert _names(texts["en"]) == _names(texts["zh"]), key


def test_no_text_is_missing_and_none_is_left_over() -> None:
    sources = resources.files("petrflow.reports")
    files = [
        path
        for folder in (sources, sources / "templates")
        for path in folder.iterdir()
        if path.name.endswith((".py", ".j2", ".js"))
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    quoted = set(re.findall(r"[\"']([A-Za-z_]\w*)[\"']", text))
    # Keys that are put together: their beginnings are quoted.
    beginnings = ("metric_", "how_", "ended_", "chart_", "verdict_", "by_", "viewer_kind_")
    left = {
        key
        for key in catalogue()
        if key not in quoted and not key.startswith(beginnings) and not key.endswith("_frames")
    }
    assert not left
    asked = set(re.findall(r"\b(?:t|pair|both|word)\(\"(\w+)\"[,)]", text))
    assert asked <= set(catalogue()), asked - set(catalogue())
