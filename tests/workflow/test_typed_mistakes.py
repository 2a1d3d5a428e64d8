"""Mistakes on the command line, as a person meets them: one sentence each, exit code not 0, nothing started, nothing changed on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.mistakes import BASE, CASES, make, tree
from tests.helpers.workflow import copy_workflow, run_snakemake

NAMES = (
    "weights of a finished run gone", "tab", "--config of a wrong key", "CONFIG missing", "CONFIG in GBK", "name of digits", "target unknown",
    "target misspelt in a stage's folder", "target a rule of one run", "--config of a new run",
)  # fmt: skip


@pytest.mark.parametrize("case", [case for case in CASES if case.name in NAMES], ids=lambda case: case.name)
def test_a_mistake_ends_the_command_with_a_sentence(tmp_path: Path, case) -> None:
    folder = copy_workflow(tmp_path / "w", BASE)
    make(case, folder)
    before = tree(folder)
    finished = run_snakemake(folder, *case.arguments, check=False)
    said = finished.stdout + finished.stderr
    assert finished.returncode != 0
    for part in case.says:
        assert part in said, said
    assert "Traceback" not in said
    assert tree(folder) == before


def test_values_from_the_command_line_are_merged_into_the_file_and_read_as_numbers(tmp_path: Path) -> None:
    folder = copy_workflow(
        tmp_path / "w",
        {"datasets": {"a": {"kind": "synthetic"}}, "runs": {"r": {"dataset": "a", "model": "petrv2_tiny"}}},
    )
    override = "runs={r: {schedule: {epochs: 2, amp: null, do_eval: false}}}"
    finished = run_snakemake(folder, "--config", override, "--dry-run", "train_all")
    assert "train" in finished.stdout
    wrong = run_snakemake(folder, "--config", "runs={r: {schedule: {epochs: two}}}", "--dry-run", check=False)
    assert "runs.r.schedule.epochs: must be a whole number, not 'two'" in wrong.stdout + wrong.stderr
