"""One page over all runs, from whatever their stages have left so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.files import fingerprint, read_json, write_atomic, write_json
from petrflow.reports import intervals
from petrflow.reports.gather import Run, runs_of
from petrflow.reports.rendering import local_time, packaged_text, page_environment
from petrflow.reports.run_figures import (
    change_with_interval,
    common_charts,
)
from petrflow.reports.run_view import flat, run_view

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
            charts=common_charts(runs),
            style=packaged_text("templates", "page.css"),
            script=packaged_text("templates", "page.js"),
            libraries=[packaged_text("bundled", name) for name in ("vega.min.js", "vega-lite.min.js")],
            resamples=intervals.RESAMPLES,
            fewest=intervals.FEWEST_SCENES,
        )
    )
    write_atomic(out, page)


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
            "settings": flat(run.settings),
            "before": run.before or {},
            "after": run.after or {},
            "change": change_with_interval(run.before, run.after, "NDS", True),
            "seconds": run.seconds,
            "money": view["stages"]["money"],
            "memory": run.memory_bytes,
            "when": local_time(run.finished),
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
            "when": local_time(entry["finished"]),
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
            "settings": {**flat(run.settings), **flat({"schedule": record.get("settings") or {}})},
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
