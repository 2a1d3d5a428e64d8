"""Messages in the language of whoever reads them: English as it stands in the code, or Chinese.

``PETRFLOW_LANG``, else ``LC_ALL``, else ``LC_MESSAGES``, else ``LANG`` chooses; every language but Chinese is English.
Only what goes to a person passes through here, never what goes into a result. The catalogue is
``locale/zh_CN/LC_MESSAGES/petrflow.po``; ``make generate`` collects the texts for it and compiles it.
"""

from __future__ import annotations

import gettext
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

LOCALE = Path(__file__).parent / "locale"


def language(environment: Mapping[str, str] = os.environ) -> str:
    """``zh_CN`` where the environment asks for Chinese, ``en`` otherwise."""
    names = ("PETRFLOW_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
    asked = next((environment[name] for name in names if environment.get(name)), "")
    return "zh_CN" if asked.lower().startswith("zh") else "en"


@cache
def _catalogue(name: str) -> gettext.NullTranslations:
    if name == "en":
        return gettext.NullTranslations()
    return gettext.translation("petrflow", LOCALE, [name], fallback=True)


def _(text: str, /, **values: object) -> str:
    """A text in the reader's language, with values put in where it has ``{name}``."""
    translated = _catalogue(language()).gettext(text) if text else ""
    return translated.format(**values) if values else translated


def N_(text: str) -> str:
    """Mark a text for the catalogue that is translated later, by :func:`_`."""
    return text
