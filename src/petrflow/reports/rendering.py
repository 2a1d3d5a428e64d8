"""Figures as text, and the templates that pages are made from."""

from __future__ import annotations

import json
import math
import time
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from petrflow.files import human_bytes
from petrflow.reports import words


def fixed(value: float | None, digits: int = 4) -> str:
    """Return a figure with ``digits`` places, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """Return a change with its sign and four places, or nothing where there is none."""
    return "" if value is None else f"{value:+.4f}"


def duration(seconds: float | None) -> str:
    """Return seconds as ``12 s``, ``3:05`` (minutes) or ``2:03:05`` (hours)."""
    if seconds is None or not math.isfinite(float(seconds)):
        return "–"
    whole = round(float(seconds))
    if whole < 60:
        return f"{float(seconds):.1f} s"
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def local_time(value: float | None) -> str:
    return "–" if value is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(float(value)))


def _chart_json(spec: Any) -> Markup:
    """Return JSON that may stand inside a script element."""
    return Markup(json.dumps(spec, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def packaged_text(folder: str, name: str) -> str:
    return resources.files("petrflow.reports").joinpath(folder, name).read_text(encoding="utf-8")


def page_environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("petrflow.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"t": words.both, "p": words.pair}
    environment.filters |= {
        "fixed": fixed,
        "signed": signed,
        "duration": duration,
        "chart": _chart_json,
        "bytes": human_bytes,
        "both": words.as_html,
    }
    return environment
