"""One page that says what the runs came to: metrics before and after training, curves, a demo frame, what each stage cost."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from petrflow.errors import PetrflowError
from petrflow.evaluation.expectations import ERROR_NAMES
from petrflow.files import read_json, write_atomic

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STYLE = """
body { font: 15px/1.5 system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #1c2330; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #d5dae2; } h3 { font-size: 1rem; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #e6e9ee; }
th:first-child, td:first-child { text-align: left; }
.better { color: #16794a; } .worse { color: #b3261e; } .muted { color: #69748a; } .warn { background: #fff4d6; padding: .5rem .8rem; }
img { max-width: 100%; height: auto; } .wide { overflow-x: auto; }
"""

HIGHER_IS_BETTER = {
    "mAP": True,
    "mAP_present_classes": True,
    "NDS": True,
    "NDS_available_terms": True,
    **dict.fromkeys(ERROR_NAMES.values(), False),
}


def write_report(
    runs: Mapping[str, Path],
    out: Path,
    settings: Mapping[str, Any] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a self-contained HTML page over runs.

    Parameters
    ----------
    runs : mapping of run name to its folder ``results/{run}``
        Each holds ``baseline/``, ``train/``, ``export/`` and ``demo/``; a stage that is absent is left out of the page.
    out : Path
        The page (UTF-8 HTML, pictures embedded).
    settings : mapping of run name to its part of the config, optional
        Shown in a line under the run's name.
    notes : mapping of run name to sentences, optional
        What of the run is not as the config asks for: a stage that failed, results of other settings.

    Raises
    ------
    PetrflowError
        When no run is given.
    """
    if not runs:
        raise PetrflowError("report: the config names no runs; add one under runs:")
    sections = [_summary_table(runs)]
    for name, folder in runs.items():
        sections.append(_run_section(name, Path(folder), (settings or {}).get(name), (notes or {}).get(name, ())))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>petrflow report</title>'
        f"<style>{STYLE}</style></head><body><h1>petrflow report</h1>{''.join(sections)}</body></html>\n"
    )
    write_atomic(Path(out), page)


def _summary_table(runs: Mapping[str, Path]) -> str:
    rows = []
    for name, folder in runs.items():
        before, after = _before_and_after(Path(folder))
        cells = [f'<a href="#{html.escape(name)}">{html.escape(name)}</a>']
        for metric in ("mAP", "NDS"):
            cells += [_figure(before, metric), _figure(after, metric)]
        rows.append(cells)
    head = ["run", "mAP before", "mAP after", "NDS before", "NDS after"]
    return _table(head, rows)


def _run_section(name: str, folder: Path, settings: Mapping[str, Any] | None, notes: Sequence[str] = ()) -> str:
    parts = [f'<h2 id="{html.escape(name)}">{html.escape(name)}</h2>']
    parts += [f'<p class="warn">{html.escape(note)}</p>' for note in notes]
    if settings:
        schedule = ", ".join(f"{key} {value}" for key, value in settings.get("schedule", {}).items())
        parts.append(
            f'<p class="muted">data set {html.escape(str(settings.get("dataset")))}, model '
            f"{html.escape(str(settings.get('model')))}; {html.escape(schedule)}</p>"
        )
    before, after = _before_and_after(folder)
    parts.append(_metrics_table(before, after))
    parts += [_notes(label, metrics) for label, metrics in (("baseline", before), ("trained", after))]
    if before or after:
        parts.append(
            _figure_tag(per_class_figure(before, after), "average precision by class before and after training")
        )
    history = folder / "train" / "history.csv"
    if history.is_file():
        parts.append(_figure_tag(curves_figure(pd.read_csv(history)), "losses and metrics over training steps"))
    parts.append(_export_note(folder / "export" / "parity.json"))
    frames = sorted((folder / "demo" / "frames").glob("*.jpg"))
    if frames:
        frame = frames[len(frames) // 2]
        parts.append(f"<h3>Demo: {html.escape(frame.relative_to(folder).as_posix())}</h3>")
        parts.append(_image_tag(frame.read_bytes(), "jpeg", "predicted and true boxes on six cameras and from above"))
    parts.append(_costs(folder))
    return "".join(parts)


def _before_and_after(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the baseline's metrics and those of the best model; None for a stage that is absent or did not evaluate."""
    baseline, trained = folder / "baseline" / "metrics.json", folder / "train" / "metrics.json"
    before = read_json(baseline) if baseline.is_file() else None
    after = read_json(trained).get("best") if trained.is_file() else None
    return before, after


def _figure(metrics: Mapping[str, Any] | None, name: str) -> str:
    value = None if metrics is None else metrics.get(name)
    return "–" if value is None else f"{value:.4f}"


def _metrics_table(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    rows = []
    for name, higher in HIGHER_IS_BETTER.items():
        values = [None if m is None else m.get(name) for m in (before, after)]
        unavailable = name in set((after or before or {}).get("not_available", []))
        shown = after or before or {}
        if name == "NDS_available_terms" and not shown.get("not_available"):
            continue
        if name == "mAP_present_classes" and len(shown.get("ground_truth", ())) == len(shown.get("per_class", ())):
            continue
        change = ""
        if values[0] is not None and values[1] is not None and not unavailable:
            difference = values[1] - values[0]
            kind = "muted" if abs(difference) < 5e-5 else "better" if (difference > 0) == higher else "worse"
            change = f'<span class="{kind}">{difference:+.4f}</span>'
        text = ["not available" if unavailable else _figure(m, name) for m in (before, after)]
        rows.append([f"{name} {'↑' if higher else '↓'}", *text, change])
    return _table(["metric", "before", "after", "change"], rows)


def _notes(label: str, metrics: Mapping[str, Any] | None) -> str:
    if not metrics:
        return ""
    notes = []
    if metrics.get("not_available"):
        names = ", ".join(metrics["not_available"])
        notes.append(f"{names}: the split has no ground truth for it; the devkit's NDS counts each as an error of 1.")
    expected = metrics.get("expect")
    if expected and not expected["met"]:
        notes.append("Expected figures were missed. " + " ".join(expected["explanations"]))
    return "".join(f'<p class="warn">{label}: {html.escape(note)}</p>' for note in notes)


def _export_note(path: Path) -> str:
    if not path.is_file():
        return ""
    differences = read_json(path)["max_relative_difference"]
    pairs = ", ".join(f"{key} {value:.1e}" for key, value in differences.items())
    return f'<p class="muted">Export against the eager model, largest relative difference: {html.escape(pairs)}</p>'


def _costs(folder: Path) -> str:
    """Return a table of seconds (of all starts) and peak memory from the stages' provenance."""
    rows = []
    for path in sorted(folder.glob("*/provenance.json")):
        record = read_json(path)
        if path.parent.name != "state" and "seconds" in record:
            memory = record.get("peak_memory_bytes", 0) / 1e6
            rows.append([path.parent.name, f"{record['seconds']:.1f}", f"{memory:.0f}"])
    return "<h3>What each stage cost</h3>" + _table(["stage", "seconds", "peak memory, MB"], rows) if rows else ""


def per_class_figure(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> plt.Figure:
    """Draw average precision by class before and after training as paired bars."""
    names = list((after or before or {})["per_class"])
    figure, axes = plt.subplots(figsize=(9, 3), layout="constrained")
    width = 0.4
    for shift, label, metrics, color in (
        (-width / 2, "before", before, "#9aa7bd"),
        (width / 2, "after", after, "#2f6fde"),
    ):
        if metrics:
            heights = [metrics["per_class"][name]["AP"] for name in names]
            axes.bar([i + shift for i in range(len(names))], heights, width, label=label, color=color)
    known = (after or before or {})["ground_truth"]
    axes.set_xticks(
        range(len(names)), [name if name in known else f"{name}\n(none in split)" for name in names], rotation=20
    )
    axes.set_ylabel("average precision")
    axes.set_ylim(0.0, max(0.1, axes.get_ylim()[1]))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def curves_figure(history: pd.DataFrame) -> plt.Figure:
    """Draw the curves of a ``history.csv``: mean losses of each epoch, and metrics where they were computed.

    Parameters
    ----------
    history : DataFrame
        One row an epoch with ``step`` and any of ``total_loss``, ``loss_cls``, ``loss_bbox``, ``mAP``, ``NDS``.
    """
    panels: list[tuple[str, Sequence[str]]] = [
        ("loss of all decoder layers", ["total_loss"]),
        ("loss of the last decoder layer", ["loss_cls", "loss_bbox"]),
        ("validation", ["mAP", "NDS"]),
    ]
    shown = [(title, [c for c in columns if c in history and history[c].notna().any()]) for title, columns in panels]
    shown = [(title, columns) for title, columns in shown if columns]
    figure, axes = plt.subplots(
        1, max(1, len(shown)), figsize=(4 * max(1, len(shown)), 3), layout="constrained", squeeze=False
    )
    for axis, (title, columns) in zip(axes[0], shown, strict=False):
        for column in columns:
            values = history[["step", column]].dropna()
            marker = "o" if len(values) < 30 else None
            axis.plot(values["step"], values[column], label=column, marker=marker, markersize=3, linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _figure_tag(figure: plt.Figure, description: str) -> str:
    buffer = io.BytesIO()
    # No date in the file: the same figures give the same bytes.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return _image_tag(buffer.getvalue(), "png", description)


def _image_tag(data: bytes, kind: str, description: str) -> str:
    encoded = base64.b64encode(data).decode()
    return f'<p><img alt="{html.escape(description)}" src="data:image/{kind};base64,{encoded}"></p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    header = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'
