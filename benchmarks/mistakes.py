"""Seconds from the command to the sentence, for every mistake that can be known before the first job.

    .venv/bin/python benchmarks/mistakes.py [--only PART OF A NAME]

Each mistake is made in a copy of the workflow and met through Snakemake's command line, as a person would meet it. A mistake counts as
said badly when a part of its sentence is missing, a traceback is printed, the exit code is 0, or anything changed on disk. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from tests.helpers.mistakes import BASE, CASES, Case, make, tree
from tests.helpers.workflow import copy_workflow, run_snakemake


def cpu_seconds() -> float:
    """CPU seconds of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def meet(case: Case, folder: Path) -> tuple[float, float, str]:
    """Make a mistake and run the command; returns the seconds it took, its CPU seconds, and what was wrong with what was said."""
    copy_workflow(folder, BASE)
    make(case, folder)
    before = tree(folder)
    start, used = time.perf_counter(), cpu_seconds()
    finished = run_snakemake(folder, *case.arguments, check=False)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - used
    said = finished.stdout + finished.stderr
    faults = [f"lacks {part!r}" for part in case.says if part not in said]
    faults += ["a traceback"] * ("Traceback" in said) + ["exit code 0"] * (finished.returncode == 0)
    faults += ["changed the disk"] * (tree(folder) != before)
    return seconds, cpu, ", ".join(faults)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mistakes whose names hold this")
    arguments = parser.parse_args()
    seconds, cpu, badly = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(case for case in CASES if arguments.only in case.name):
            took, worked, fault = meet(case, Path(folder) / str(number))
            seconds[case.name], cpu[case.name] = took, worked
            if fault:
                badly[case.name] = fault
            print(f"{took:6.2f} s {worked:6.2f} CPU s  {case.name}{f'  BADLY: {fault}' if fault else ''}", flush=True)
    slowest = max(seconds, key=lambda name: seconds[name])
    print(
        json.dumps(
            {
                "mistakes": len(seconds),
                "said_badly": badly,
                "median_s": round(statistics.median(seconds.values()), 2),
                "median_cpu_s": round(statistics.median(cpu.values()), 2),
                "slowest_cpu_s": round(max(cpu.values()), 2),
                "slowest": slowest,
                "slowest_s": round(seconds[slowest], 2),
            }
        )
    )
    return int(bool(badly))


if __name__ == "__main__":
    sys.exit(main())
