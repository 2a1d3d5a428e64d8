"""Say where every run stands, from what its stages note while they run: on any machine that sees the results.

python -m petrflow.reports.status [--results results] [--watch]
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.files import human_bytes, read_json
from petrflow.files.status import NAME, clock_text, read_status, state_of
from petrflow.messages import _

PLAN = "plan.json"
"""In ``results``: the stages that the last command was to make, written before its first job."""

ORDER = ("synthetic", "nuscenes", "xtreme1", "weights", "annotate", "doctor", "baseline", "train", "export", "demo")


def text(results: Path, now: float | None = None) -> str:
    """Return what ``make status`` prints.

    Parameters
    ----------
    results : Path
        Folder with one folder a run or data set.
    now : float, optional
        The time, seconds since 1970.
    """
    now = time.time() if now is None else now
    plan: dict[str, Any] = {}
    with contextlib.suppress(PetrflowError, OSError, ValueError):
        plan = read_json(results / PLAN)
    records = {path.parent.name: read_status(path) for path in sorted(results.glob(f"*/{NAME}"))}
    records = {name: record for name, record in records.items() if record}
    if not records:
        return _("No stage has run under {results} yet.", results=results)
    lines: list[str] = []
    for name, record in records.items():
        if name != "report":
            lines += _subject(results / name, record, plan, now)
    free = [float(record["disk_free_bytes"]) for record in records.values() if "disk_free_bytes" in record]
    newest = max(records.values(), key=lambda record: float(record.get("updated", 0.0)))
    if free:
        lines.append(_("disk: {free} free for results", free=human_bytes(int(newest["disk_free_bytes"]))))
    if chain := _chain(records, plan, now):
        lines.append(chain)
    return "\n".join(lines)


def _subject(folder: Path, record: Mapping[str, Any], plan: Mapping[str, Any], now: float) -> list[str]:
    stages = record["stages"]
    order = sorted(stages, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    lines = [f"{folder.name}:"]
    for stage in order:
        entry = stages[stage]
        state = state_of(entry, now)
        parts = [f"  {stage:<10} {state:<8} {clock_text(spent(entry)):>8}"]
        if state == "running":
            parts.append(position(entry))
        elif state in ("stopped", "killed", "silent") and entry.get("total"):
            parts.append(
                _(
                    "at {unit} {done} of {total}",
                    unit=entry.get("unit", ""),
                    done=entry.get("done"),
                    total=entry["total"],
                )
            )
        if state == "silent":
            parts.append(
                _(
                    "no word from {machine} for {time}",
                    machine=entry.get("machine", "?"),
                    time=clock_text(now - float(entry["updated"])),
                )
            )
        if state == "failed":
            parts.append(str(entry.get("sentence") or ""))
        elif entry.get("figure"):
            parts.append(str(entry["figure"]))
        if int(entry.get("starts", 1)) > 1:
            parts.append(_("{starts} starts", starts=entry["starts"]))
        lines.append("  ".join(filter(None, parts)))
        if stage == "train":
            lines += _training(entry, state, now)
    if cost := _cost(folder.name, stages, plan, now):
        lines.append(cost)
    return lines


def position(entry: Mapping[str, Any]) -> str:
    """Return where a running stage stands: epoch, step, rate, loss, and the time that is left."""
    parts = []
    if "epoch" in entry:
        parts.append(
            _(
                "epoch {epoch}/{epochs}",
                epoch=min(int(entry["epoch"]) + 1, int(entry["epochs"])),
                epochs=entry["epochs"],
            )
        )
    if entry.get("total"):
        parts.append(f"{entry.get('unit') or ''} {entry.get('done')}/{entry['total']}".strip())
    if "seconds_per_step" in entry:
        parts.append(_("{seconds_per_step:.2f} s/step", seconds_per_step=entry["seconds_per_step"]))
    if "loss" in entry:
        parts.append(_("loss {loss:.3f}", loss=entry["loss"]))
    if entry.get("left") is not None:
        parts.append(_("left {time}", time=clock_text(float(entry["left"]))))
    return "  ".join(parts)


def _training(entry: Mapping[str, Any], state: str, now: float) -> list[str]:
    parts = []
    for name, title in (("metrics", _("last")), ("best", _("best"))):
        if found := entry.get(name):
            parts.append(
                _(
                    "{title} mAP {map:.3f} NDS {nds:.3f} (epoch {epoch})",
                    title=title,
                    map=found["mAP"],
                    nds=found["NDS"],
                    epoch=found["epoch"],
                )
            )
    if "checkpoint" in entry and state != "done":
        parts.append(_("checkpoint {time} ago", time=clock_text(now - float(entry["checkpoint"]))))
    return [f"             {'  '.join(parts)}"] if parts else []


def spent(entry: Mapping[str, Any]) -> float:
    """Return the seconds of all starts of a stage, those of earlier settings included."""
    return float(entry.get("seconds", 0.0)) + float(entry.get("earlier_seconds", 0.0))


def _cost(subject: str, stages: Mapping[str, Any], plan: Mapping[str, Any], now: float) -> str:
    so_far = sum(spent(entry) for entry in stages.values())
    mine = [stage for stage in plan.get("stages", []) if stage["subject"] == subject]
    left, unknown = _left(mine, {subject: {"stages": stages}}, float(plan.get("began", 0.0)), now)
    price = plan.get("price_per_hour")
    cost = _("  cost       {time} so far", time=clock_text(so_far))
    if price is not None:
        cost += f" ({so_far / 3600 * price:.2f})"
    if left or unknown:
        cost += _(
            ", {about}{time} at the end",
            about=_("at least ") if unknown else _("about "),
            time=clock_text(so_far + left),
        )
        if price is not None:
            cost += f" ({(so_far + left) / 3600 * price:.2f})"
    return cost


def _left(
    planned: Iterable[Mapping[str, Any]], records: Mapping[str, Any], began: float, now: float
) -> tuple[float, int]:
    """Return the seconds that planned stages still take, and how many of them nobody can tell."""
    left, unknown = 0.0, 0
    for stage in planned:
        entry = records.get(stage["subject"], {}).get("stages", {}).get(stage["stage"], {})
        if entry.get("fingerprint") != stage["fingerprint"]:
            entry = {}
        if entry.get("state") == "done" and float(entry.get("ended", 0.0)) >= began:
            continue
        estimate = stage.get("seconds")
        if stage["stage"] == "train" and entry.get("left") is not None:
            left += float(entry["left"])
        elif estimate is not None:
            left += max(0.0, float(estimate) - float(entry.get("seconds", 0.0)))
        elif state_of(entry, now) == "running" and entry.get("left") is not None:
            left += float(entry["left"])
        else:
            unknown += 1
    return left, unknown


def _chain(records: Mapping[str, Any], plan: Mapping[str, Any], now: float) -> str:
    planned = plan.get("stages", [])
    left, unknown = _left(planned, records, float(plan.get("began", 0.0)), now)
    if not left and not unknown:
        return _("nothing is left of what the last command was to make") if planned else ""
    more = _(", and {count} stages whose time nobody knows yet", count=unknown) if unknown else ""
    return _("left of what the last command was to make: about {time}{more}", time=clock_text(left), more=more)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print where every run stands; with ``--watch``, again and again."""
    parser = argparse.ArgumentParser(prog="python -m petrflow.reports.status", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder with runs (default: results)")
    parser.add_argument("--watch", action="store_true", help="print again every 2 s, until Ctrl-C")
    options = parser.parse_args(arguments)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            said = text(options.results)
            if options.watch and sys.stdout.isatty():
                width = shutil.get_terminal_size().columns
                said = "\033[H\033[J" + "\n".join(line[: width - 1] for line in said.splitlines())
            print(said, flush=True)
            if not options.watch:
                break
            time.sleep(2.0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
