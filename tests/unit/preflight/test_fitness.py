"""Preflight and device policy, judged on what machines of many kinds answered."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from petrflow.config import settings, validate
from petrflow.errors import PetrflowError
from petrflow.fetch.links import file_name
from petrflow.files import fingerprint
from petrflow.machine import hardware as machine_module
from petrflow.machine.device import (
    PaddleAnswer,
    ask_paddle,
    check_paddle_version,
    gpu_problem,
    refuse_slow_cpu,
    select_device,
)
from petrflow.machine.hardware import Machine, SmiAnswer, ask_machine, ask_nvidia_smi, parse_nvidia_smi
from petrflow.preflight.fitness import Plan, Row, gate, judge, plan_of, require, table
from petrflow.sources.needs import disk_need
from petrflow.sources.nuscenes import CACHE, Remote, extraction_folder, read_source
from tests.helpers.models import read_model_config, small_model_config

RECORDED: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[1] / "recorded" / "nvidia_smi.yaml").read_text()
)
GB = 10**9
CPU_BUILD = PaddleAnswer("3.3.1")
# The form of a GPU build's answer (its list of kernels is an example, not a record of a wheel).
CUDA_126 = PaddleAnswer("3.3.1", "12.6", 1, ("NVIDIA A100-SXM4-80GB",), ((8, 0),), (75, 80, 86, 89, 90))
MACHINE = Machine(
    "3.11.9", 16, 64 * GB, None, 16 * GB, 1_790_000_000.0, 1_780_000_000.0, {"data": 900 * GB, "results": 100 * GB}
)
BIG = read_model_config("petrv2_vovnet_gridmask_p4_800x320")
SMALL = small_model_config()
MINI = {"kind": "nuscenes", "version": "v1.0-mini", "source": "https://x/v1.0-mini.tgz"}


def smi(name: str) -> SmiAnswer:
    return parse_nvidia_smi(**RECORDED[name])


def plan(model: dict[str, Any] = BIG, **schedule: Any) -> Plan:
    """A run of the published model on v1.0-mini, which is not there yet."""
    settings = {"epochs": 100, "batch_size": 2, "num_workers": 4, **schedule}
    config = validate(
        {"datasets": {"mini": MINI}, "runs": {"full": {"dataset": "mini", "model": "big", "schedule": settings}}}
    )
    return plan_of(config, {"full": model}, making=["mini"])


def row(rows: list[Row], subject: str) -> Row:
    return next(entry for entry in rows if entry.subject == subject)


# ------------------------------------------------------------------------------------------------------------------ nvidia-smi


@pytest.mark.parametrize(
    ("name", "count", "memory", "capability"),
    [
        ("h200", 1, 143771 << 20, (9, 0)),
        ("eight_a100", 8, 81920 << 20, (8, 0)),
        ("rtx_4090", 1, 24564 << 20, (8, 9)),
        ("t4", 1, 15360 << 20, (7, 5)),
        ("no_compute_cap", 1, 32510 << 20, None),
        ("partitioned", 1, None, (8, 0)),
        ("not_supported", 1, None, (9, 0)),
    ],
)
def test_what_nvidia_smi_says_of_gpus_is_understood(name: str, count: int, memory: int | None, capability: Any) -> None:
    answer = smi(name)
    assert len(answer.gpus) == count
    assert answer.gpus[0].memory_total == memory
    assert answer.gpus[0].capability == capability
    assert answer.problem == ""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_devices", "No devices were found: the driver runs but sees no GPU"),
        ("driver_not_loaded", "the driver is not loaded; `sudo modprobe nvidia`"),
        ("version_mismatch", "reboot, or reload its kernel modules"),
        ("library_missing", "start the container with `--gpus all`"),
        ("silent", "ended with code 255 and no words"),
        ("nonsense", "nvidia-smi says"),
    ],
)
def test_what_nvidia_smi_complains_of_comes_with_a_remedy(name: str, says: str) -> None:
    assert smi(name).gpus == ()
    assert says in smi(name).problem


def test_a_lost_gpu_beside_a_good_one_is_reported_and_the_good_one_kept() -> None:
    answer = smi("one_of_two_lost")
    assert len(answer.gpus) == 1
    assert "fell off the bus" in answer.problem
    rows = judge(plan(), CUDA_126, answer, MACHINE)
    assert row(rows, "GPU").verdict == "wrong"


def fake_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_nvidia_smi_is_really_called_and_an_old_one_without_compute_cap_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = 'case "$1" in *compute_cap*) echo "Field \\"compute_cap\\" is not a valid field to query."; exit 2;; *) echo "0, Tesla K80, 11441, 11000, 440.33.01";; esac'
    fake_smi(tmp_path, monkeypatch, old)
    answer = ask_nvidia_smi()
    assert answer.gpus[0].name == "Tesla K80"
    assert answer.gpus[0].capability is None


def test_a_missing_a_hanging_and_a_broken_nvidia_smi_are_answers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "is not installed" in ask_nvidia_smi().problem
    fake_smi(tmp_path, monkeypatch, "exec sleep 5")
    assert "the driver hangs" in ask_nvidia_smi(timeout=0.2).problem
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF broken")
    assert "cannot be started" in ask_nvidia_smi().problem


def test_a_raised_oserror_of_subprocess_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object, **_more: object) -> None:
        raise OSError(8, "Exec format error")

    monkeypatch.setattr(machine_module.shutil, "which", lambda _name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(subprocess, "run", broken)
    assert "Exec format error" in ask_nvidia_smi().problem


# ------------------------------------------------------------------------------------------------------------------ devices


def test_a_usable_gpu_is_taken_and_cpu_is_taken_when_asked_for() -> None:
    assert select_device("auto", CUDA_126) == "gpu:0"
    assert select_device("gpu", CUDA_126) == "gpu:0"
    assert select_device("cpu", CUDA_126) == "cpu"
    with pytest.raises(PetrflowError, match="use auto, cpu or gpu"):
        select_device("tpu", CUDA_126)


UNUSABLE = {
    "a CPU build": (CPU_BUILD, r"is the CPU build.*environment: gpu-cuda126"),
    "no GPU in sight": (
        PaddleAnswer("3.3.1", "12.6"),
        r"sees no GPU: check `nvidia-smi`, CUDA_VISIBLE_DEVICES.*--gpus all",
    ),
    "a driver too old": (
        PaddleAnswer("3.3.1", "12.6", error="OSError: (External) CUDA error(35)"),
        r"cannot use the GPU \(OSError.*CUDA error\(35\)\)",
    ),
    "Paddle missing": (PaddleAnswer(error="ModuleNotFoundError: No module named 'paddle'"), "not installed"),
    "a card newer than the build": (
        PaddleAnswer("2.6.2", "11.8", 1, ("NVIDIA H100 80GB HBM3",), ((9, 0),), (70, 75, 80)),
        r"H100.* compute capability 9\.0, and this Paddle 2\.6\.2 \(CUDA 11\.8\) has kernels for 7\.0, 7\.5, 8\.0 only",
    ),
    "a card older than the build": (
        PaddleAnswer("3.3.1", "12.6", 1, ("GeForce GTX 1080 Ti",), ((6, 1),), (75, 80, 86, 89, 90)),
        r"6\.1",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_gpu_without_a_usable_gpu_is_an_error_that_names_the_fix_and_auto_says_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, says = UNUSABLE[name]
    with pytest.raises(PetrflowError, match=says):
        select_device("gpu", answer)
    assert select_device("auto", answer) == "cpu"
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("device: auto takes the CPU.")


def test_kernels_serve_later_cards_of_their_generation_only() -> None:
    def usable(capability: tuple[int, int]) -> bool:
        return not gpu_problem(PaddleAnswer("2.6.2", "11.8", 1, ("x",), (capability,), (70, 75, 80)))

    assert [usable(card) for card in ((7, 0), (7, 5), (8, 0), (8, 6), (8, 9))] == [True] * 5
    assert [usable(card) for card in ((6, 1), (9, 0), (12, 0))] == [False] * 3


def test_the_installed_paddle_answers_without_raising() -> None:
    answer = ask_paddle()
    assert answer.version
    assert answer.device_count == 0 or answer.cuda_build


def test_a_large_long_run_is_not_started_on_a_cpu_by_accident() -> None:
    full = {"parameters": 85_170_000, "epochs": 100, "samples": 323}
    with pytest.raises(PetrflowError, match=r"85 M parameters for 100 epochs.*days on this CPU.*schedule\.device: cpu"):
        refuse_slow_cpu("cpu", "auto", **full)
    refuse_slow_cpu("cpu", "cpu", **full)  # told to
    refuse_slow_cpu("cpu", "auto", **full, allow=True)
    refuse_slow_cpu("gpu:0", "auto", **full)
    refuse_slow_cpu("cpu", "auto", parameters=85_170_000, epochs=1, samples=2)  # a smoke test
    refuse_slow_cpu("cpu", "auto", parameters=8_400_000, epochs=100, samples=323)


def test_versions_that_cannot_work_are_refused_and_untested_ones_are_named() -> None:
    assert check_paddle_version("3.3.1") == ""
    assert "older" in check_paddle_version("2.6.2")
    assert "newer" in check_paddle_version("3.4.0")
    with pytest.raises(PetrflowError, match="too old"):
        check_paddle_version("2.5.1")
    with pytest.raises(PetrflowError, match="not installed"):
        check_paddle_version("")


# ------------------------------------------------------------------------------------------------------------------ the table


def test_a_fit_machine_has_nothing_wrong() -> None:
    rows = judge(plan(device="gpu"), CUDA_126, smi("eight_a100"), MACHINE)
    assert {entry.verdict for entry in rows} == {"ok"}
    assert len([entry for entry in rows if entry.subject.startswith("GPU")]) == 8
    require(rows)
    text = table(rows)
    assert "GPU 7" in text
    assert "80.0 GB" in text
    assert "Clock" in text


@pytest.mark.parametrize("name", [name for name in RECORDED if not parse_nvidia_smi(**RECORDED[name]).gpus])
def test_gpu_asked_for_and_none_there_is_wrong_with_the_remedy(name: str) -> None:
    rows = judge(plan(device="gpu"), PaddleAnswer("3.3.1", "12.6"), smi(name), MACHINE)
    assert row(rows, "GPU").verdict == "wrong"
    assert row(rows, "run full").verdict == "wrong"
    with pytest.raises(PetrflowError, match="cannot do what the config asks for"):
        require(rows)


def test_auto_without_a_gpu_refuses_the_full_model_and_takes_it_when_told_to() -> None:
    rows = judge(plan(), CPU_BUILD, SmiAnswer(problem="nvidia-smi is not installed"), MACHINE)
    assert row(rows, "GPU").verdict == "note"
    assert row(rows, "run full").verdict == "wrong"
    assert row(judge(plan(allow_slow_cpu=True), CPU_BUILD, SmiAnswer(), MACHINE), "run full").verdict == "note"
    assert row(judge(plan(SMALL), CPU_BUILD, SmiAnswer(), MACHINE), "run full").verdict == "ok"


@pytest.mark.parametrize(
    ("name", "subject", "verdict", "says"),
    [
        ("v100_old_driver", "Driver", "wrong", "needs driver 525.60 or newer"),
        ("v100_old_driver", "GPU 0", "wrong", "7.0"),
        ("gtx_1080_ti", "GPU 0", "wrong", "compute capability 6.1"),
        ("rtx_5090", "GPU 0", "wrong", "compute capability 12.0"),
        ("busy", "GPU 0", "note", "another program holds"),
        ("t4", "GPU 0", "ok", ""),
        ("partitioned", "GPU 0", "ok", ""),
        ("h200", "GPU 0", "ok", ""),
    ],
)
def test_each_card_is_judged_by_driver_kernels_and_memory(name: str, subject: str, verdict: str, says: str) -> None:
    found = row(judge(plan(), CUDA_126, smi(name), MACHINE), subject)
    assert found.verdict == verdict
    assert says in found.remedy


def test_a_small_host_is_told_what_is_small() -> None:
    small = Machine("3.11.2", 2, 16 * GB, 4 * GB, 64 << 20, 0.0, 1_780_000_000.0, {"data": 3 * GB, "results": 1 * GB})
    rows = judge(plan(), CUDA_126, smi("h200"), small)
    assert "num_workers is 4" in row(rows, "CPU").remedy
    assert "the container's limit" in row(rows, "Memory").found
    assert "--shm-size=" in row(rows, "/dev/shm").remedy
    assert row(rows, "Disk data").verdict == "wrong"
    assert "mini 7.5 GB" in row(rows, "Disk data").remedy
    assert row(rows, "Disk results").verdict == "wrong"
    assert "timedatectl" in row(rows, "Clock").remedy


def nuscenes(source: Any, **entries: Any) -> dict[str, Any]:
    return settings("nuscenes", {"kind": "nuscenes", "version": "v1.0-trainval", "source": source, **entries})


def test_disk_needs_follow_the_source(tmp_path: Path) -> None:
    root = tmp_path / "data" / "trainval"
    urls = tmp_path / "urls.txt"
    urls.write_text("https://x/v1.0-trainval01_blobs.tgz\n")
    remote = nuscenes({"file": str(urls)})
    assert disk_need(remote, root) == 650 * GB
    assert disk_need({**remote, "remove_archives": True}, root) < 400 * GB
    assert disk_need({**remote, "source": str(tmp_path)}, root) == 0
    (tmp_path / "v1.0-trainval_meta.tgz").write_text("")
    assert disk_need(nuscenes([str(tmp_path / "v1.0-trainval_meta.tgz")]), root) == 350 * GB
    synthetic = settings("synthetic", {"kind": "synthetic"})
    assert 10 * 10**6 < disk_need(synthetic, root) < 300 * 10**6
    assert disk_need(settings("synthetic", {"kind": "synthetic", "sweeps": 0}), root) < disk_need(synthetic, root) / 2


def test_what_is_fetched_or_unpacked_already_is_not_needed_again(tmp_path: Path) -> None:
    root = tmp_path / "data" / "trainval"
    remote = nuscenes("https://x/trainval.tgz")
    (item,) = read_source(remote["source"])
    assert isinstance(item, Remote)
    target = extraction_folder([item], root.parent / CACHE)
    archive = next(iter(_written(item, root.parent / CACHE, 0)))
    with archive.open("wb") as file:  # a sparse file: it says how long it is and takes no space
        file.truncate(200 * GB)
    assert disk_need(remote, root) == (100 + 350) * GB
    records = target / ".petrflow-archives"
    records.mkdir(parents=True)
    journal = records / "trainval.tgz.journal.json"
    journal.write_text(f'{{"identity": "x", "members": 3, "bytes": {340 * GB}}}')
    assert disk_need(remote, root) == (10 + 10) * GB
    journal.write_text(f'{{"identity": "x", "members": 3, "bytes": {351 * GB}}}')
    assert disk_need(remote, root) == 0


def _written(item: Remote, cache: Path, size: int) -> Iterator[Path]:
    """Where a fetch of an item leaves what it has so far."""
    name = file_name(item.urls[0])
    part = cache / "downloads" / fingerprint("trainval.tgz")[:8] / f"{name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * size)
    yield part


def test_only_data_sets_that_are_about_to_be_made_need_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = validate(
        {
            "datasets": {"mini": MINI, "streets": {"kind": "synthetic"}},
            "runs": {"small": {"dataset": "streets", "model": "small"}},
        }
    )
    full = Machine("3.11.2", 2, 16 * GB, None, None, 2.0, 1.0, {"data": GB, "results": GB})
    answers = (CPU_BUILD, SmiAnswer(), full)
    assert row(judge(plan_of(config, {"small": SMALL}), *answers), "Disk data").verdict == "wrong"
    assert row(judge(plan_of(config, {"small": SMALL}, making=["streets"]), *answers), "Disk data").verdict == "ok"
    assert row(judge(plan_of(config, {"small": SMALL}, making=[]), *answers), "Disk data").found.endswith("0 B needed")
    (tmp_path / "results" / "mini" / "root").mkdir(parents=True)
    (tmp_path / "results" / "mini" / "root" / "receipt.json").write_text("{}")
    assert row(judge(plan_of(config, {"small": SMALL}), *answers), "Disk data").verdict == "ok"


@pytest.mark.parametrize(
    ("python", "verdict"),
    [("3.10.9", "wrong"), ("3.11.2", "ok"), ("3.12.1", "ok"), ("3.13.0", "ok"), ("3.14.0", "wrong")],
)
def test_the_supported_pythons_are_ok_and_others_wrong(python: str, verdict: str) -> None:
    machine = Machine(python, 1, GB, None, None, 2.0, 1.0)
    assert row(judge(plan(), CPU_BUILD, SmiAnswer(), machine), "Python").verdict == verdict


def test_this_machine_can_be_asked() -> None:
    here = ask_machine([Path("data")])
    assert here.cores >= 1
    assert here.memory_total > GB // 2
    assert here.free["data"] > 0


def test_the_gate_before_expensive_stages_asks_only_where_there_is_something_to_lose(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def ask() -> PaddleAnswer:
        asked.append(1)
        return CPU_BUILD

    monkeypatch.setattr("petrflow.preflight.fitness.ask_paddle", ask)
    schedule = {"epochs": 100, "batch_size": 2, "num_workers": 4, "device": "auto"}
    gate(schedule, SMALL, tmp_path, samples=323)
    assert not asked
    with pytest.raises(PetrflowError, match="would take roughly"):
        gate(schedule, BIG, tmp_path, samples=323)
    gate(schedule, BIG, tmp_path)  # an evaluation is slow, but it ends
    gate({**schedule, "device": "cpu"}, BIG, tmp_path, samples=323)
    with pytest.raises(PetrflowError, match="is the CPU build"):
        gate({**schedule, "device": "gpu"}, SMALL, tmp_path)
