"""Charts of the page as Vega-Lite specifications. A text is ``{"en": …, "zh": …}``; the page takes
the language it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from petrflow.reports.words import pair

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F5A2B", "#000000", "#8C8C8C", "#5B3A9B")
"""Okabe and Ito's colours, which people with any colour vision can tell apart, and three more for
many runs.
"""

BEFORE_AFTER = ("#9AA7BD", "#0072B2")

Spec = dict[str, Any]


def curve(
    rows: Sequence[Mapping[str, Any]],
    title: Mapping[str, str],
    restarts: Sequence[Mapping[str, Any]] = (),
    zero: bool = False,
) -> Spec:
    """Return curves over training steps.

    Parameters
    ----------
    rows : sequence of ``{"step": int, "value": float, "series": str}``
    title : pair of texts
    restarts : sequence of ``{"step": int, "why": text or pair}``
        Marked by dashed vertical lines.
    zero : bool
        Whether the axis begins at 0.
    """
    names = list(dict.fromkeys(row["series"] for row in rows))
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "point": len(rows) < 200, "strokeWidth": 1.8, "tooltip": True},
            "encoding": {
                "x": {"field": "step", "type": "quantitative", "title": pair("step"), "axis": {"tickMinStep": 1}},
                "y": {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": zero}},
                "color": {
                    "field": "series",
                    "type": "nominal",
                    "title": None,
                    "scale": {"domain": names, "range": [PALETTE[k % len(PALETTE)] for k in range(len(names))]},
                    "legend": {"orient": "bottom", "columns": 2, "labelLimit": 260} if len(names) > 1 else None,
                },
                "tooltip": [
                    {"field": "series", "title": pair("series")},
                    {"field": "step", "title": pair("step")},
                    {"field": "value", "title": pair("value"), "format": ".4f"},
                ],
            },
        }
    ]
    if restarts:
        layers.append(
            {
                "data": {"values": list(restarts)},
                "mark": {"type": "rule", "strokeDash": [4, 3], "color": "#8a5a00", "tooltip": True},
                "encoding": {
                    "x": {"field": "step", "type": "quantitative"},
                    "tooltip": [
                        {"field": "step", "title": pair("step")},
                        {"field": "why", "title": pair("interruption")},
                    ],
                },
            }
        )
    return _chart(title, {"data": {"values": list(rows)}, "layer": layers}, 190)


def paired_bars(
    rows: Sequence[Mapping[str, Any]], title: Mapping[str, str], value: Mapping[str, str], order: Sequence[str]
) -> Spec:
    """Return horizontal bars before and after training.

    Parameters
    ----------
    rows : sequence of ``{"name": str, "which": "before" or "after", "value": float}``
    title, value : pairs of texts
    order : sequence of str
        Names from top to bottom.
    """
    both = [pair("before"), pair("after")]
    body = {
        "data": {"values": [{**row, "which": pair(row["which"])} for row in rows]},
        "mark": {"type": "bar", "tooltip": True},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "sort": list(order), "title": None, "axis": {"labelLimit": 220}},
            "yOffset": {"field": "which", "sort": both},
            "x": {"field": "value", "type": "quantitative", "title": value},
            "color": {
                "field": "which",
                "title": None,
                "scale": {"domain": both, "range": list(BEFORE_AFTER)},
                "legend": {"orient": "bottom"},
            },
            "tooltip": [
                {"field": "name", "title": pair("series")},
                {"field": "which", "title": pair("series")},
                {"field": "value", "title": value, "format": ".4f"},
            ],
        },
    }
    return _chart(title, body, 24 * len(order))


def recall_curves(rows: Sequence[Mapping[str, Any]], title: Mapping[str, str]) -> Spec:
    """Return precision over recall, a curve a class: rows of ``{"class", "recall", "precision",
    "score"}``.
    """
    names = list(dict.fromkeys(row["class"] for row in rows))
    body = {
        "data": {"values": list(rows)},
        "mark": {"type": "line", "tooltip": True, "strokeWidth": 1.8},
        "encoding": {
            "x": {"field": "recall", "type": "quantitative", "title": pair("recall"), "scale": {"domain": [0, 1]}},
            "y": {
                "field": "precision",
                "type": "quantitative",
                "title": pair("precision"),
                "scale": {"domain": [0, 1]},
            },
            "order": {"field": "recall"},
            "color": {
                "field": "class",
                "type": "nominal",
                "title": None,
                "scale": {"domain": names, "range": [PALETTE[k % len(PALETTE)] for k in range(len(names))]},
                "legend": {"orient": "bottom", "columns": 3, "labelLimit": 160},
            },
            "tooltip": [
                {"field": "class", "title": pair("class")},
                {"field": "recall", "title": pair("recall"), "format": ".3f"},
                {"field": "precision", "title": pair("precision"), "format": ".3f"},
                {"field": "score", "title": pair("score"), "format": ".3f"},
            ],
        },
    }
    return _chart(title, body, 260)


def score_counts(rows: Sequence[Mapping[str, Any]], title: Mapping[str, str]) -> Spec:
    """Return how many detections of each score are right and false: rows of ``{"score", "which",
    "count"}``.
    """
    body = {
        "data": {"values": [{**row, "which": pair(row["which"])} for row in rows]},
        "mark": {"type": "bar", "tooltip": True},
        "encoding": {
            "x": {
                "field": "score",
                "type": "ordinal",
                "title": pair("score"),
                "axis": {"labelAngle": 0, "labelOverlap": True},
            },
            "y": {"field": "count", "type": "quantitative", "title": pair("detections"), "stack": True},
            "color": {
                "field": "which",
                "title": None,
                "scale": {"domain": [pair("right"), pair("false")], "range": ["#56B4E9", "#D55E00"]},
                "legend": {"orient": "bottom"},
            },
            "tooltip": [
                {"field": "score", "title": pair("score")},
                {"field": "which", "title": pair("series")},
                {"field": "count", "title": pair("detections")},
            ],
        },
    }
    return _chart(title, body, 220)


def confusion(rows: Sequence[Mapping[str, Any]], title: Mapping[str, str], order: Sequence[str]) -> Spec:
    """Return how labelled classes were called: rows of ``{"true", "found", "count", "share"}``."""
    domain: list[Any] = [*order, pair("nothing")]
    axis = {"labelLimit": 140}
    body = {
        "data": {"values": [_named(row) for row in rows]},
        "encoding": {
            "y": {"field": "true", "type": "nominal", "sort": domain, "title": pair("true_class"), "axis": axis},
            "x": {
                "field": "found",
                "type": "nominal",
                "sort": domain,
                "title": pair("found_class"),
                "axis": {**axis, "labelAngle": -40},
            },
        },
        "layer": [
            {
                "mark": {"type": "rect", "tooltip": True},
                "encoding": {
                    "color": {
                        "field": "share",
                        "type": "quantitative",
                        "scale": {"scheme": "blues", "domain": [0, 1]},
                        "legend": None,
                    }
                },
            },
            {
                "mark": {"type": "text", "fontSize": 10},
                "encoding": {
                    "text": {"field": "count"},
                    "color": {"condition": {"test": "datum.share > 0.5", "value": "white"}, "value": "#222"},
                },
            },
        ],
    }
    return _chart(title, body, 26 * (len(domain)))


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the confusion with a word for an object or a box that has no partner
    (None).
    """
    return {**row, **{side: pair("nothing") for side in ("true", "found") if row[side] is None}}


def _chart(title: Mapping[str, str], body: Spec, height: int) -> Spec:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "title": {"text": title, "anchor": "start", "fontSize": 13, "fontWeight": 600},
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        **body,
    }
