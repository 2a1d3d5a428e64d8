"""What a person at a terminal sees of a workflow: a few lines a stage, the figures at the end, one sentence for a failure."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from tests.helpers.workflow import SNAKEMAKE, TWO_RUNS, copy_workflow, run_snakemake

TABLE = """Python        ok     3.11.7
GPU           note   none
                     start a container with `--gpus all`
run default   ok     device: auto, on the CPU
CPU           ok     2 cores
Memory        ok     23.5 GB
Disk data     ok     57.1 GB free, 44.8 MB needed
"""


def in_terminal(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run Snakemake on a terminal; return its exit code and the lines that stay on the screen."""
    leader, follower = pty.openpty()
    command = [*SNAKEMAKE, "--cores", "2", *arguments]
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=follower, stderr=follower)
    os.close(follower)
    written = b""
    while True:
        try:
            chunk = os.read(leader, 1 << 16)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        written += chunk
    os.close(leader)
    lines = written.decode().replace("\r\n", "\n").split("\n")
    shown = [re.sub(r"\033\[[0-9;]*[A-Za-z]", "", line.rpartition("\r")[2]) for line in lines]
    return process.wait(), [line for line in shown if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_workflow(tmp_path_factory.mktemp("terminal") / "project", TWO_RUNS, stub=True)


def test_a_failure_ends_with_run_stage_sentence_and_log(folder: Path) -> None:
    (folder / "fails").write_text("train first")
    code, lines = in_terminal(folder, "all")
    (folder / "fails").unlink()
    assert code == 1
    failed = lines.index("Failed:")
    assert lines[failed + 1].startswith("  train first: ")
    assert lines[failed + 2] == "    log: logs/first/train.log"
    assert not any("Traceback" in line or "SNAKEMAKE" in line or "jobid" in line for line in lines)


def test_two_lines_a_stage_and_at_most_ten_at_the_end_and_then_nothing_to_be_done(folder: Path) -> None:
    code, lines = in_terminal(folder, "all")
    assert code == 0, lines
    assert "train first: not made yet" in lines
    assert sum(line.startswith("  done in ") for line in lines) >= 4
    end = lines[max(k for k, line in enumerate(lines) if line.startswith("  done in ")) + 1 :]
    assert "first: mAP 0.500 -> 0.500  NDS 0.500 -> 0.500" in end
    assert "report: results/report/index.html" in end
    assert len(end) <= 10
    code, lines = in_terminal(folder, "all")
    assert code == 0
    assert any("Nothing to be done" in line for line in lines)
    assert len(lines) <= 4, lines


def test_without_a_terminal_and_with_verbose_the_plain_log_is_there(folder: Path) -> None:
    plain = run_snakemake(folder, "-R", "demo", "--", "demo_all").stderr
    assert "Finished jobid" in plain
    assert "\033[K" not in plain
    code, lines = in_terminal(folder, "--verbose", "-R", "demo", "--", "demo_all")
    assert code == 0
    assert any("Finished jobid" in line for line in lines)


def test_the_table_about_the_machine_is_one_line_with_its_notes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder / "workflow"))
    from terminal import set_up_in_short

    assert set_up_in_short(TABLE) == "This machine: 2 cores, 23.5 GB, GPU none"
