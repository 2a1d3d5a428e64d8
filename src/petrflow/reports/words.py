"""The words of the page and of the viewer, in English and in Chinese, from one catalogue:
``words.toml``.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any

from markupsafe import Markup, escape

LANGUAGES = {"en": "en", "zh": "zh-CN"}
"""Key in the catalogue -> value of HTML's ``lang``."""


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """Return ``{key: {"en": text, "zh": text}}``."""
    return tomllib.loads(resources.files("petrflow.reports").joinpath("words.toml").read_text(encoding="utf-8"))


def pair(key: str, **values: Any) -> dict[str, str]:
    """Return a text in both languages as plain text, with ``{name}`` filled in; a value may itself
    be such a pair.
    """
    texts = catalogue()[key]
    return {
        language: texts[language].format_map({name: _in(value, language) for name, value in values.items()})
        for language in LANGUAGES
    }


def both(key: str, **values: Any) -> Markup:
    """Return a text in both languages as HTML, of which the page shows one."""
    return as_html(pair(key, **values))


def as_html(texts: dict[str, str]) -> Markup:
    """Return a pair of texts as HTML, of which the page shows one."""
    if texts["en"] == texts["zh"]:
        return escape(texts["en"])
    return Markup("").join(
        Markup('<span lang="{}">{}</span>').format(code, texts[language]) for language, code in LANGUAGES.items()
    )


def _in(value: Any, language: str) -> Any:
    return value[language] if isinstance(value, dict) else value
