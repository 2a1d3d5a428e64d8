"""Everything that the page shows of one run."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from markupsafe import Markup, escape

from petrflow.files import human_bytes
from petrflow.reports import intervals, words
from petrflow.reports.gather import STAGES, Run, link
from petrflow.reports.rendering import fixed, local_time
from petrflow.reports.run_figures import (
    class_rows,
    metric_rows,
    part_rows,
    run_charts,
)
from petrflow.reports.viewer import BEFORE_PICTURE

LARGEST_PICTURE = 1280
"""Pixels: wider pictures of the demo are embedded at this width; a page of ten runs stays below 20
MB.
"""


def run_view(run: Run, page: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the template shows of a run."""
    price = run.settings.get("price_per_hour", config.get("price_per_hour"))
    return {
        "run": run,
        "verdict": verdict(run),
        "settings": flat(run.settings),
        "metrics": metric_rows(run),
        "notes": _notes(run),
        "classes": class_rows(run),
        "parts": {kind: part_rows(run, kind) for kind in ("bands", "groups", "scenes")},
        "charts": run_charts(run),
        "frames": _frames(run, page),
        "pictures": _pictures(run),
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
        return {"kind": "open", "text": words.pair(key, NDS=number_text(before, "NDS"), mAP=number_text(before, "mAP"))}
    assert after is not None
    if not before:
        return {
            "kind": "open",
            "text": words.pair("verdict_trained", NDS=number_text(after, "NDS"), mAP=number_text(after, "mAP")),
        }
    change = after["NDS"] - before["NDS"]
    figures = {"before": number_text(before, "NDS"), "after": number_text(after, "NDS"), "change": f"{change:+.4f}"}
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


def _pictures(run: Run) -> list[dict[str, Any]]:
    """Return the demo's middle keyframe, before training where that was drawn and after it, with
    their captions.
    """
    frames = sorted((run.folder / "demo" / "frames").glob("*.jpg"))
    if not frames:
        return []
    before = run.folder / "viewer" / BEFORE_PICTURE
    paths = {"demo_picture_before": before} if before.is_file() else {}
    paths["demo_picture"] = frames[len(frames) // 2]
    return [{"caption": caption, **picture} for caption, path in paths.items() if (picture := _picture(run, path))]


def _picture(run: Run, path: Path) -> dict[str, Any] | None:
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
        "began": local_time(start.get("began")),
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
        "updated": local_time(progress.get("updated")),
    }


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as ``{"schedule.epochs": "6"}``; what a run expects of its figures is
    no setting.
    """
    found: dict[str, str] = {}
    for key, value in settings.items():
        if key in ("expect", "price_per_hour"):
            continue
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = (
                json.dumps(value) if isinstance(value, list | bool) or value is None else str(value)
            )
    return found


def number_text(figures: Mapping[str, Any], name: str) -> str:
    return fixed(figures.get(name))
