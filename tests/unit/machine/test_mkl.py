"""Matrix products at full speed on AMD processors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from petrflow.machine.mkl import SWITCH, THREADS, use_avx2
from petrflow.training import launch

EPYC = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu sse2 avx avx2 fma\n\nprocessor\t: 1\nvendor_id\t: GenuineIntel\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EPYC, "5"),
        (EPYC.replace("AuthenticAMD", "GenuineIntel"), None),
        (EPYC.replace(" avx2", ""), None),
        ("Processor: ARMv8\n", None),
    ],
)
def test_only_amd_processors_with_avx2_get_the_switch(tmp_path: Path, text: str, expected: str | None) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    environment: dict[str, str] = {}
    assert use_avx2(environment, tmp_path / "cpuinfo") is (expected is not None)
    assert environment.get(SWITCH) == expected


def test_what_the_user_set_stays_and_no_cpuinfo_is_no_error(tmp_path: Path) -> None:
    environment = {SWITCH: "4"}
    (tmp_path / "cpuinfo").write_text(EPYC)
    assert not use_avx2(environment, tmp_path / "cpuinfo")
    assert environment == {SWITCH: "4"}
    assert not use_avx2({}, tmp_path / "absent")


def test_importing_petrflow_is_enough(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != SWITCH}
    code = "import os, petrflow; print(os.environ.get('MKL_DEBUG_CPU_TYPE'))"
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == ("5" if use_avx2({}) else "None")


@pytest.mark.parametrize(("told", "cores", "expected"), [("4", 64, "2"), ("64", 2, "1"), (None, 6, "3"), ("", 1, "1")])
def test_processes_that_train_together_share_the_jobs_cores(
    told: str | None, cores: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
        if told is not None:
            monkeypatch.setenv(name, told)
    environment = launch._environment(2)
    assert {environment[name] for name in THREADS} == {expected}
