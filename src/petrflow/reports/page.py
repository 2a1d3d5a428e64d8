"""One page over all runs, from whatever their stages have left so far."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import jinja2
import numpy as np
from markupsafe import Markup, escape

from petrflow.errors import PetrflowError
from petrflow.evaluation.expectations import ERROR_NAMES
from petrflow.files import fingerprint, human_bytes, read_json, write_atomic, write_json
from petrflow.reports import charts, intervals, words
from petrflow.reports.gather import STAGES, Run, link, runs_of

HIGHER_IS_BETTER = {
    "mAP": True,
    "mAP_present_classes": True,
    "NDS": True,
    "NDS_available_terms": True,
    **dict.fromkeys(ERROR_NAMES.values(), False),
}
"""Metrics in the order of the table, and whether a higher one is better."""

LARGEST_PICTURE = 1280
"""Pixels: wider pictures of the demo are embedded at this width; a page of ten runs stays below 20
MB.
"""

LONGEST_HISTORY = 500
"""Points of one curve; a longer history is thinned evenly."""

ENTRIES = "entries.json"
"""Beside the page: figures of every run and every setting that the page has ever shown."""


def write_report(
    results: Path, config: Mapping[str, Any], out: Path, notes: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Write a page that works from disk, without a network, in English and Chinese.

    It may be written at any time: what a stage has not left yet is named as missing, and a file
    that cannot be read is said.

    Parameters
    ----------
    results : Path
        Folder with one folder a run.
    config : mapping
        The whole config; its ``runs`` come first, in their order. Runs that stand in ``results``
        and that it does not name follow. ``price_per_hour``, of the config or of a run, gives the
        costs in money.
    out : Path
        The page (UTF-8 HTML). ``entries.json`` beside it keeps the figures of earlier settings.
    notes : mapping of run name to sentences, optional
        What of the run is not as the config asks for: a stage that failed, results of other
        settings.

    Raises
    ------
    PetrflowError
        When there is neither a run in the config nor one in ``results``.
    """
    results, out = Path(results), Path(out)
    runs = runs_of(results, config)
    if not runs:
        raise PetrflowError(f"report: the config names no runs and {results} holds none; add one under runs:")
    for run in runs:
        run.notes = list((notes or {}).get(run.name, ()))
    entries = _entries(out.with_name(ENTRIES), runs)
    shown = [run_view(run, out, config) for run in runs]
    page = (
        page_environment()
        .get_template("page.html.j2")
        .render(
            written=datetime.now(UTC).astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            machines=_machines(runs),
            versions=_versions(runs),
            runs=shown,
            comparison=comparison(runs, shown, entries),
            charts=_common_charts(runs),
            style=packaged_text("templates", "page.css"),
            script=packaged_text("templates", "page.js"),
            libraries=[packaged_text("bundled", name) for name in ("vega.min.js", "vega-lite.min.js")],
            resamples=intervals.RESAMPLES,
            fewest=intervals.FEWEST_SCENES,
        )
    )
    write_atomic(out, page)


# --------------------------------------------------------------------------------------------------------------- one run


def run_view(run: Run, page: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the template shows of a run."""
    price = run.settings.get("price_per_hour", config.get("price_per_hour"))
    return {
        "run": run,
        "verdict": verdict(run),
        "settings": _flat(run.settings),
        "metrics": metric_rows(run),
        "notes": _notes(run),
        "classes": class_rows(run),
        "parts": {kind: _part_rows(run, kind) for kind in ("bands", "groups", "scenes")},
        "charts": _run_charts(run),
        "frames": _frames(run, page),
        "picture": _picture(run),
        "stages": _stage_rows(run, price),
        "starts": [_start(start) for start in run.starts()],
        "position": _position(run),
        "artefacts": run.artefacts(page),
        "viewer": link(run.folder / "viewer" / "index.html", page) if run.figures else None,
        "provenance": run.provenance,
        "missing": [stage for stage in ("baseline", "train", "export", "demo") if stage not in run.provenance],
    }


def verdict(run: Run) -> dict[str, Any]:
    """Return what a run came to, as one sentence in both languages, and its kind: good, bad, even,
    open or failed.
    """
    if failure := run.failure:
        return {"kind": "failed", "text": words.pair("verdict_failed", **failure)}
    before, after = run.before, run.after
    if not before and not after:
        return {"kind": "open", "text": words.pair("verdict_nothing")}
    if before and not after:
        key = "verdict_training" if run.progress and "train" not in run.provenance else "verdict_baseline"
        return {"kind": "open", "text": words.pair(key, NDS=_number(before, "NDS"), mAP=_number(before, "mAP"))}
    assert after is not None
    if not before:
        return {
            "kind": "open",
            "text": words.pair("verdict_trained", NDS=_number(after, "NDS"), mAP=_number(after, "mAP")),
        }
    change = after["NDS"] - before["NDS"]
    figures = {"before": _number(before, "NDS"), "after": _number(after, "NDS"), "change": f"{change:+.4f}"}
    interval = intervals.of_metric(before, after, "NDS")
    if interval is None:
        count = len(after.get("scenes") or {})
        return {
            "kind": "even",
            "text": words.pair("verdict_few" if count else "verdict_no_scenes", count=count, **figures),
        }
    figures |= {"low": f"{interval.low:+.4f}", "high": f"{interval.high:+.4f}"}
    if interval.within_noise:
        return {"kind": "even", "text": words.pair("verdict_even", **figures)}
    better = interval.low > 0
    return {
        "kind": "good" if better else "bad",
        "text": words.pair("verdict_better" if better else "verdict_worse", **figures),
    }


def metric_rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of the table of metrics; those that say the same as another one are left
    out.
    """
    before, after = run.before, run.after
    shown = after or before or {}
    missing = set(shown.get("not_available", []))
    rows = []
    for name, higher in HIGHER_IS_BETTER.items():
        if name == "NDS_available_terms" and not missing:
            continue
        if name == "mAP_present_classes" and len(shown.get("ground_truth", ())) == len(shown.get("per_class", ())):
            continue
        if name not in shown:
            continue
        rows.append(
            {
                "name": name,
                "higher": higher,
                "available": name not in missing,
                "before": (before or {}).get(name),
                "after": (after or {}).get(name),
                **_change(before, after, name, higher),
            }
        )
    return rows


def class_rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of the table of classes: boxes, AP before and after, and the errors of the
    newest figures.
    """
    before, after = run.before, run.after
    shown = after or before
    if not shown:
        return []
    rows = []
    for name, figures in shown.get("per_class", {}).items():
        ap = {"before": _class_figure(before, name), "after": _class_figure(after, name)}
        change, kind, interval = None, "grey", None
        if ap["before"] is not None and ap["after"] is not None:
            change = ap["after"] - ap["before"]
            interval = intervals.of_metric(before, after, "AP", label=name)
            kind = _kind(change, interval, higher=True)
        rows.append(
            {
                "name": name,
                "count": shown.get("ground_truth", {}).get(name, 0),
                **ap,
                "change": change,
                "kind": kind,
                "interval": interval,
                "errors": {short: figures.get(short[1:]) for short in ERROR_NAMES.values()},
                "by_distance": figures.get("AP_by_distance") or {},
            }
        )
    return rows


def _change(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, name: str, higher: bool
) -> dict[str, Any]:
    old, new = ((figures or {}).get(name) for figures in (before, after))
    if old is None or new is None or name in (after or {}).get("not_available", []):
        return {"change": None, "kind": "grey", "interval": None}
    interval = intervals.of_metric(before, after, name)
    return {"change": new - old, "kind": _kind(new - old, interval, higher), "interval": interval}


def _kind(change: float, interval: intervals.Interval | None, higher: bool) -> str:
    """Return good, bad or grey; grey where the change is within noise, or where nothing says how
    large noise is.
    """
    if interval is None or interval.within_noise or change == 0:
        return "grey"
    return "good" if (interval.low > 0) == higher else "bad"


def _class_figure(figures: Mapping[str, Any] | None, name: str) -> float | None:
    return ((figures or {}).get("per_class", {}).get(name) or {}).get("AP")


def _part_rows(run: Run, kind: str) -> list[dict[str, Any]]:
    """Return figures by distance band, group of scenes or scene, before and after."""
    before, after = ((figures or {}).get(kind) or {} for figures in (run.before, run.after))
    names = list(dict.fromkeys([*(after or before), *before]))
    return [
        {
            "name": name,
            "count": (after.get(name) or before.get(name) or {}).get("ground_truth", 0),
            "before": (before.get(name) or {}).get("mAP_present_classes"),
            "after": (after.get(name) or {}).get("mAP_present_classes"),
            "errors": {short: (after.get(name) or before.get(name) or {}).get(short) for short in ERROR_NAMES.values()},
        }
        for name in names
    ]


def _notes(run: Run) -> list[Markup]:
    notes = []
    for when, figures in (("before", run.before), ("after", run.after)):
        if not figures:
            continue
        if missing := figures.get("not_available"):
            notes.append(words.both("note_not_available", when=words.pair(when), names=", ".join(missing)))
        expected = figures.get("expect")
        if expected and not expected["met"]:
            notes.append(words.both("note_expected", when=words.pair(when), text=" ".join(expected["explanations"])))
    notes += [escape(note) for note in run.notes if not (run.failure and note.endswith(run.failure["sentence"]))]
    notes += [words.both("note_unreadable", text=problem) for problem in run.problems]
    return notes


# ------------------------------------------------------------------------------------------------------------- charts


def _points(run: Run, column: str, baseline: bool) -> list[dict[str, Any]]:
    """Return a curve's points: ``{"step", "value"}``; the baseline is step 0."""
    points = []
    if baseline and (run.before or {}).get(column) is not None:
        points.append({"step": 0, "value": (run.before or {})[column]})
    history = run.history
    if history is not None and {"step", column} <= set(history.columns):
        known = history[["step", column]].dropna()
        if len(known) > LONGEST_HISTORY:
            known = known.iloc[np.linspace(0, len(known) - 1, LONGEST_HISTORY).round().astype(int)]
        points += [
            {"step": int(step), "value": float(value)}
            for step, value in zip(known["step"], known[column], strict=True)
            if math.isfinite(float(value))
        ]
    return points


def _common_charts(runs: Sequence[Run]) -> list[charts.Spec]:
    """Return the curves of all runs, a chart a figure."""
    if len(runs) < 2:
        return []  # the run's own section has them
    found = []
    for column, baseline in (("NDS", True), ("mAP", True), ("total_loss", False)):
        rows = [{**point, "series": run.name} for run in runs for point in _points(run, column, baseline)]
        if len({row["step"] for row in rows}) > 1:
            found.append(charts.curve(rows, words.pair(f"chart_{column}")))
    return found


def _run_charts(run: Run) -> dict[str, list[charts.Spec]]:
    restarts = [
        {"step": int(start["to_step"]), "why": words.pair(f"ended_{start.get('ended')}")}
        for start in run.starts()
        if start.get("ended") in ("stopped", "killed", "failed") and start.get("to_step") is not None
    ]
    curves = []
    for key, columns, baseline in (
        ("chart_metrics", ("NDS", "mAP"), True),
        ("chart_errors", tuple(ERROR_NAMES.values()), True),
        ("chart_total_loss", ("total_loss",), False),
        ("chart_losses", ("loss_cls", "loss_bbox"), False),
    ):
        rows = [{**point, "series": column} for column in columns for point in _points(run, column, baseline)]
        if len({row["step"] for row in rows}) > 1:
            curves.append(charts.curve(rows, words.pair(key), restarts))
    return {"curves": curves, "classes": _class_charts(run), "detections": _detection_charts(run)}


def _class_charts(run: Run) -> list[charts.Spec]:
    found = []
    rows = class_rows(run)
    bars = [
        {"name": row["name"], "which": which, "value": row[which]}
        for row in rows
        for which in ("before", "after")
        if row[which] is not None and row["count"]
    ]
    if bars:
        order = [row["name"] for row in sorted(rows, key=lambda row: -row["count"]) if row["count"]]
        found.append(charts.paired_bars(bars, words.pair("chart_classes"), words.pair("average_precision"), order))
    bands = _part_rows(run, "bands")
    bars = [
        {"name": row["name"], "which": which, "value": row[which]}
        for row in bands
        for which in ("before", "after")
        if row[which] is not None
    ]
    if bars:
        order = [row["name"] for row in bands]
        found.append(charts.paired_bars(bars, words.pair("chart_bands"), words.pair("mean_average_precision"), order))
    return found


def _detection_charts(run: Run) -> list[charts.Spec]:
    """Return what the viewer has counted over all detections of the newest set."""
    figures = run.figures
    found = []
    if rows := figures.get("recall_curves"):
        found.append(charts.recall_curves(rows, words.pair("chart_recall")))
    if rows := figures.get("scores"):
        found.append(charts.score_counts(rows, words.pair("chart_scores")))
    if rows := figures.get("sizes"):
        order = list(dict.fromkeys(row["name"] for row in rows))
        found.append(charts.paired_bars(rows, words.pair("chart_sizes"), words.pair("share_found"), order))
    if rows := figures.get("confusion"):
        found.append(charts.confusion(rows, words.pair("chart_confusion"), figures["classes"]))
    return found


# ------------------------------------------------------------------------------------------------- frames, stages, starts


def _frames(run: Run, page: Path) -> dict[str, list[dict[str, Any]]]:
    frames = run.figures.get("frames") or []
    viewer = link(run.folder / "viewer" / "index.html", page)
    ranked = sorted(frames, key=lambda frame: (frame["f1"], -frame["missed"] - frame["false"]))
    number = min(5, len(ranked) // 2)

    def linked(frame: Mapping[str, Any]) -> dict[str, Any]:
        number = frame["number"] + 1
        return {**frame, "link": f"{viewer}#scene={quote(str(frame['scene']))}&frame={number}"}

    return {
        "worst": [linked(frame) for frame in ranked[:number]],
        "best": [linked(frame) for frame in ranked[::-1][:number]],
    }


def _picture(run: Run) -> dict[str, Any] | None:
    frames = sorted((run.folder / "demo" / "frames").glob("*.jpg"))
    if not frames:
        return None
    path = frames[len(frames) // 2]
    try:
        data = path.read_bytes()
    except OSError as error:
        run.problems.append(f"{path.name}: {error}")
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        run.problems.append(f"{path.relative_to(run.folder).as_posix()}: not a readable image")
        return None
    if image.shape[1] > LARGEST_PICTURE:
        height = round(image.shape[0] * LARGEST_PICTURE / image.shape[1])
        image = cv2.resize(image, (LARGEST_PICTURE, height), interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return {
        "name": path.relative_to(run.folder).as_posix(),
        "data": base64.b64encode(data).decode(),
        "width": image.shape[1],
        "height": image.shape[0],
    }


def _stage_rows(run: Run, price: Any) -> dict[str, Any]:
    """Return time, memory and money by stage, and their sums."""
    rows = []
    for stage in dict.fromkeys([*STAGES, *run.costs]):
        record, cost = run.provenance.get(stage, {}), run.costs.get(stage, {})
        seconds = record.get("seconds", cost.get("seconds"))
        memory = record.get("peak_memory_bytes", cost.get("memory_bytes"))
        if seconds is None and memory is None:
            continue
        money = None if price is None or seconds is None else float(price) * float(seconds) / 3600
        rows.append(
            {
                "stage": stage,
                "seconds": seconds,
                "cpu_seconds": record.get("cpu_seconds"),
                "memory": None if memory is None or not math.isfinite(float(memory)) else human_bytes(int(memory)),
                "device": record.get("device"),
                "money": money,
            }
        )
    return {
        "rows": rows,
        "seconds": sum(float(row["seconds"] or 0.0) for row in rows),
        "money": None if price is None or not rows else sum(row["money"] or 0.0 for row in rows),
        "price": price,
    }


def _start(start: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "began": _moment(start.get("began")),
        "from_step": start.get("from_step"),
        "to_step": start.get("to_step"),
        "seconds": start.get("seconds"),
        "ended": words.pair(f"ended_{start.get('ended')}")
        if start.get("ended") in ("done", "stopped", "killed", "failed")
        else None,
    }


def _position(run: Run) -> dict[str, Any] | None:
    """Return where a training stands that has not ended."""
    progress = run.progress
    if "train" in run.provenance or "step" not in progress:
        return None
    return {
        "step": progress["step"],
        "total": progress.get("total"),
        "epoch": progress.get("epoch"),
        "left": progress.get("seconds_left"),
        "updated": _moment(progress.get("updated")),
    }


# ----------------------------------------------------------------------------------------------------------- comparison


def comparison(
    runs: Sequence[Run], shown: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the table over runs: the settings that differ, the figures, and what each run cost.

    Parameters
    ----------
    runs, shown : sequences of the same length
        Runs, and what :func:`run_view` says of them.
    entries : sequence of mappings
        Figures of earlier settings, as ``entries.json`` keeps them.
    """
    rows = [
        {
            "name": run.name,
            "anchor": run.name,
            "settings": _flat(run.settings),
            "before": run.before or {},
            "after": run.after or {},
            "change": _change(run.before, run.after, "NDS", True),
            "seconds": run.seconds,
            "money": view["stages"]["money"],
            "memory": run.memory_bytes,
            "when": _moment(run.finished),
            "earlier": False,
        }
        for run, view in zip(runs, shown, strict=True)
    ]
    rows += [
        {
            "name": entry["run"],
            "anchor": None,
            "settings": entry["settings"],
            "before": entry["before"],
            "after": entry["after"],
            "change": {"change": _difference(entry, "NDS"), "kind": "grey", "interval": None},
            "seconds": entry["seconds"],
            "money": None,
            "memory": entry["memory_bytes"],
            "when": _moment(entry["finished"]),
            "earlier": True,
        }
        for entry in entries
    ]
    keys = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    differing = [key for key in keys if len({str(row["settings"].get(key)) for row in rows}) > 1]
    return {"rows": rows, "keys": differing, "money": any(row["money"] is not None for row in rows)}


def _difference(entry: Mapping[str, Any], name: str) -> float | None:
    old, new = entry["before"].get(name), entry["after"].get(name)
    return None if old is None or new is None else new - old


def _entries(path: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Keep the figures of finished runs in ``path``; return those whose run now has other settings,
    the newest first.

    An entry is one run with one training: what made it (inputs and settings of training's
    provenance), and its figures.
    """
    try:
        kept = {str(entry["id"]): entry for entry in (read_json(path)["entries"] if path.is_file() else [])}
    except (PetrflowError, KeyError, TypeError):
        kept = {}  # a damaged record is begun anew: what stands in the results is shown in any case
    current = set()
    for run in runs:
        record = run.provenance.get("train")
        if not record or not run.after:
            continue
        identity = fingerprint([run.name, record.get("inputs"), record.get("settings")])[:16]
        current.add(identity)
        kept[identity] = {
            "id": identity,
            "run": run.name,
            "settings": {**_flat(run.settings), **_flat({"schedule": record.get("settings") or {}})},
            "before": {key: run.before[key] for key in ("mAP", "NDS") if key in run.before} if run.before else {},
            "after": {key: run.after[key] for key in ("mAP", "NDS") if key in run.after},
            "seconds": run.seconds,
            "memory_bytes": run.memory_bytes,
            "finished": run.finished,
        }
    if kept:
        write_json(path, {"entries": list(kept.values())})
    earlier = [entry for identity, entry in kept.items() if identity not in current]
    return sorted(earlier, key=lambda entry: -(entry.get("finished") or 0.0))


# --------------------------------------------------------------------------------------------------------------- format


def _machines(runs: Sequence[Run]) -> list[str]:
    found = {
        f"{record['platform']}, Python {record.get('python', '?')}, {record.get('device', '?')}"
        for run in runs
        for record in run.provenance.values()
        if "platform" in record
    }
    return sorted(found)


def _versions(runs: Sequence[Run]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for run in runs:
        for record in run.provenance.values():
            for name, version in {**(record.get("versions") or {}), **_revision(record)}.items():
                found.setdefault(name, set()).add(str(version))
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def _revision(record: Mapping[str, Any]) -> dict[str, str]:
    return {"git": str(record["revision"])} if record.get("revision") else {}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as ``{"schedule.epochs": "6"}``; what a run expects of its figures is
    no setting.
    """
    found: dict[str, str] = {}
    for key, value in settings.items():
        if key in ("expect", "price_per_hour"):
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = (
                json.dumps(value) if isinstance(value, list | bool) or value is None else str(value)
            )
    return found


def _number(figures: Mapping[str, Any], name: str) -> str:
    return fixed(figures.get(name))


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


def _moment(value: float | None) -> str:
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
