"""From what a person asks for (a result by its file name) to what Snakemake knows (receipts), and
which stages must run for it.

Snakemake gets a DAG whose edges lead only into stages that run. Its own way (``ancient`` inputs,
files that are forced) does not do: seen with 9.27, a job after a forced one is never looked at when
everything between them is ancient.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from plan import Plan
from stage import DOORS, Stage

from petrflow.errors import PetrflowError
from petrflow.messages import _

FOLLOW = ("export", "demo", "predict", "prelabel", "report")
"""Stages that are made again after a stage of their run was: a second training may differ from a
lost one in its last digits.
"""


@dataclass
class Wanted:
    """What Snakemake is asked for in place of what was typed, and the stages that run."""

    targets: list[str] = field(default_factory=list)
    forced: set[str] = field(default_factory=set)
    runs: set[Stage] = field(default_factory=set)


def translate(
    plan: Plan, targets: Iterable[str], forced: Iterable[str], rules: Collection[str], everything: bool = False
) -> Wanted:
    """Replace file names of results by receipts, and force the stages whose receipts are not to be
    used.

    Parameters
    ----------
    plan : Plan
        The stages.
    targets, forced : iterable of str
        What was typed as targets, and after ``-R``: names of rules and of files.
    rules : collection of str
        Names of the rules there are.
    everything : bool
        Make all stages again that the targets need (``-F``).

    Raises
    ------
    PetrflowError
        When a target is neither a rule nor a result of this configuration; with the nearest names.
    """
    typed = list(targets)
    wanted = Wanted()
    stages: list[Stage] = []
    for target in typed:
        if target in rules:
            _require_whole(plan, target, rules)
            stages += _of_rule(plan, target)
            wanted.targets.append(target)
        else:
            stage = _of_file(plan, target, rules)
            stages.append(stage)
            wanted.targets.append(str(stage.receipt))
    if not typed:
        stages += _of_rule(plan, "all")
    reach = _with_those_before(stages)

    by_hand = set(reach) if everything else set()
    for name in forced:
        if name in rules:
            by_hand |= {stage for stage in reach if rule_of(stage) == name}
        else:
            by_hand.add(_of_file(plan, name, rules))
    wanted.runs = _to_run(stages, reach, _follow(by_hand, reach))
    wanted.forced = {str(stage.receipt) for stage in wanted.runs if stage.receipt.exists()}
    return wanted


def rule_of(stage: Stage) -> str:
    """Name of the rule that makes a stage."""
    return {"doctor": "doctor_dataset"}.get(stage.kind, stage.kind)


def _of_rule(plan: Plan, rule: str) -> list[Stage]:
    """Stages that a rule which is typed as a target asks for."""
    if rule in ("all", "report"):
        pages = [plan.stage("report", "report")]
        return pages if rule == "report" else [*pages, *plan.of_all_runs()]
    names = {"doctor": ["doctor"], "classic_all": ["classic-train", "classic-val"], "annotate_all": ["annotate"]}
    wanted = names.get(rule, [rule.removesuffix("_all")])
    return [
        stage
        for stage in plan.all()
        if stage.name in wanted or (stage.kind in wanted and stage.kind in ("predict", "prelabel"))
    ]


def _require_whole(plan: Plan, rule: str, rules: Collection[str]) -> None:
    """Raise for the name of a rule that makes one stage of one run or data set: Snakemake would ask
    for a rule without wildcards.
    """
    if f"{rule}_all" not in rules and rule not in (*DOORS, "weights", "doctor_dataset"):
        return
    whole = {"doctor_dataset": "doctor"}.get(rule, f"{rule}_all" if f"{rule}_all" in rules else "all")
    files = [str(stage.folder / stage.files[0]) for stage in plan.all() if rule_of(stage) == rule]
    example = _(", or for a file such as {file}", file=files[0]) if files else ""
    raise PetrflowError(
        _(
            "{rule} is a rule for one run or data set at a time: ask for {whole}{example}.",
            rule=rule,
            whole=whole,
            example=example,
        )
    )


def _of_file(plan: Plan, target: str, rules: Collection[str]) -> Stage:
    """The stage that makes a file."""
    path = Path(os.path.relpath(target or "."))  # an empty target names nothing
    longest: Stage | None = None
    for stage in plan.all():
        if path == stage.receipt or (path.parent == stage.receipts and path.name.rpartition("-")[0] == stage.name):
            return stage
        if path in (stage.folder / name for name in stage.files):
            return stage
        inside = stage.folder == path or stage.folder in path.parents
        if inside and (longest is None or len(stage.folder.parts) > len(longest.folder.parts)):
            longest = stage
    if longest is not None and not longest.name.startswith("classic-") and not _is_misspelt(longest, path):
        return longest
    known = sorted({*rules, *(str(stage.folder / name) for stage in plan.all() for name in stage.files)})
    near = difflib.get_close_matches(target, known, n=3, cutoff=0.5)
    hint = _("; near are {near}", near=", ".join(near)) if near else ""
    raise PetrflowError(
        _(
            "There is nothing called {target}{hint}. Targets are files of results and {targets}; runs are {runs}.",
            target=target or "''",
            hint=hint,
            targets=", ".join(
                sorted(
                    rule for rule in rules if rule in ("all", "doctor", "report", "preflight") or rule.endswith("_all")
                )
            ),
            runs=", ".join(plan.config["runs"]),
        )
    )


def _is_misspelt(stage: Stage, path: Path) -> bool:
    """Whether a name in a stage's folder is of no result: the stage is finished without it, or it
    is nearly that of a known one.
    """
    if path == stage.folder or path.exists():
        return False
    if stage.receipt.exists() and not stage.fault():
        return True
    known = [(stage.folder / name).stem for name in stage.files if Path(name).suffix == path.suffix]
    return bool(difflib.get_close_matches(path.stem, known, 1, cutoff=0.75))


def _with_those_before(stages: Iterable[Stage]) -> set[Stage]:
    """Stages and all that they need, directly or not."""
    reach: set[Stage] = set()
    waiting = list(stages)
    while waiting:
        stage = waiting.pop()
        if stage not in reach:
            reach.add(stage)
            waiting += stage.after
    return reach


def _follow(first: set[Stage], reach: set[Stage]) -> set[Stage]:
    """Some stages and those in reach that come after them."""
    found = set(first)
    while after := {stage for stage in reach - found if not found.isdisjoint(stage.after)}:
        found |= after
    return found


def _to_run(asked: Collection[Stage], reach: set[Stage], again: set[Stage]) -> set[Stage]:
    """Stages that must run: those that are missing or not what their receipt says, where somebody
    needs them, and what follows.
    """
    unfinished = {stage for stage in reach if not stage.receipt.exists() or stage.fault()}
    runs = set(again)
    while True:
        needed = {*asked, *(before for stage in runs for before in stage.after)}
        remade = {stage for stage in runs if stage.of_run}
        grown = needed & unfinished
        grown |= {stage for stage in reach if stage.kind in FOLLOW and not remade.isdisjoint(stage.after)}
        if grown <= runs:
            return runs
        runs |= grown
