"""The benchmark for graphics cards, on a CPU: its rows, its JSON, and rows that fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.models import fake_batch, small_model_config

pytest.importorskip("paddle")

from benchmarks import gpu, gpu_parts

REPOSITORY = Path(__file__).resolve().parents[3]


def request(**changes: Any) -> dict[str, Any]:
    small = {"model_config": small_model_config(), "weights": "", "device": "cpu", "warm": 0, "steps": 1, "amp": "none"}
    return {"part": "steps", "batch": 1, **small, **changes}


def test_a_row_of_steps_has_every_figure_and_its_phases_are_the_step() -> None:
    row = gpu_parts.answer(request())
    assert "failed" not in row, row
    assert row["samples_per_s"] == pytest.approx(1e3 / row["step_ms"])
    assert tuple(row["phases_ms"]) == gpu_parts.PHASES == gpu.PHASES
    assert all(row["phases_ms"][name] > 0 for name in ("forward", "loss", "backward", "optimizer"))
    assert row["host_peak_gb"] > 0 and row["skipped_steps"] == 0


def test_timing_the_phases_changes_nothing_of_a_step() -> None:
    weights = []
    for timed in (False, True):
        trainer = gpu_parts.Trainer(request(), 1)
        batch = fake_batch(request()["model_config"], 1)
        if timed:
            gpu_parts.phases_of(trainer, batch)
        else:
            trainer.step(batch)
        weights.append({name: value.numpy().tobytes() for name, value in trainer.model.state_dict().items()})
    assert weights[0] == weights[1]


def test_a_full_memory_is_a_row_and_not_the_end() -> None:
    row = gpu_parts.answer(request(batch=10**9))
    assert row["failed"] == "out of memory"
    assert "llocate" in row["message"]
    lines = gpu.table(
        [{"amp": "none", "batch": 10**9, **row}, {"amp": "none", "batch": 1, "samples_per_s": 2.0}], COLUMNS
    )
    assert lines[0] == "| AMP | batch | samples/s |  |"
    assert "out of memory: " in lines[2] and lines[3] == "| none | 1 | 2.00 |  |"


COLUMNS = [
    ("amp", "AMP", ""),
    ("batch", "batch", ""),
    ("samples_per_s", "samples/s", ".2f"),
    ("gpu_peak_gb", "GPU", ""),
]


CARD = {"device": "gpu:0", "name": "A card", "compute_capability": [8, 0], "memory_gb": 80.0, "cuda": "12.6"}


@pytest.mark.parametrize("reference", [{"samples": 4}, {"failed": "out of memory", "message": "full"}])
def test_what_is_measured_on_a_gpu(
    reference: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def stand_in(folder: Path, own: dict[str, Any], common: dict[str, Any], part: str) -> dict[str, Any]:
        asked.append((part, {**common, **own}))
        return {**own, **(reference if part == "outputs" else {})}

    monkeypatch.setattr(gpu, "row", stand_in)
    monkeypatch.setattr(gpu, "subject", lambda options, folder: ({"model": "m", "weights": "w", "data": "d"}, {}))
    found = gpu.measure(gpu.arguments(["--out", str(tmp_path / "gpu.json")]), tmp_path, CARD)
    assert [(one["amp"], one["batch"]) for part, one in asked if part == "steps"] == [
        (amp, batch) for amp in ("none", "O1", "O1:float16", "O2") for batch in (1, 2, 4, 8)
    ]
    assert [one["device"] for part, one in asked if part != "outputs"] == ["auto"] * (len(asked) - 1)
    precise = {(part, one["full_float32"]) for part, one in asked}
    assert {("outputs", True), ("against_cpu", True), ("against_cpu", False), ("exporting", True)} <= precise
    assert ("steps", True) not in precise and ("scores", True) in precise and ("scores", False) in precise
    assert [one.get("failed") for one in found["parity"]] == [reference.get("failed")] * 2 + [None]
    assert "reference" not in found and not list(tmp_path.iterdir())
    gpu.show(found)
    assert "A card, driver" in capsys.readouterr().out


def test_a_process_that_was_killed_is_a_row() -> None:
    assert gpu.died(-9, "")["failed"] == "killed"
    assert gpu.died(1, "Traceback\nOSError: no such thing\n")["message"] == "OSError: no such thing"


def test_data_that_is_not_there_yet_is_named_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = REPOSITORY / "config/presets/nuscenes-mini.yaml"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        gpu.PetrflowError, match=r"data/nuscenes-mini is not there: `make run CONFIG=.* TARGET=baseline_all`"
    ):
        gpu.of_run(gpu.arguments(["--config", str(preset)]))


@pytest.mark.slow
def test_the_command_runs_on_a_cpu_and_its_last_line_is_the_file(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--quick", "--device", "cpu", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == json.loads((tmp_path / "gpu.json").read_text())
    assert (found["benchmark"], found["device"], found["gpu"]) == ("gpu", "cpu", None)
    assert [row["batch"] for row in found["steps"]] == [1, 2]
    assert not [row for section in ("steps", "loader", "scores") for row in found[section] if "failed" in row]
    assert 0 <= found["loader"][0]["waiting_percent"] <= 100
    against, exported = found["parity"]
    assert against["failed"] == "not run" and exported["boxes_relative"] <= 1e-3
    assert 0 <= found["scores"][0]["mAP"] <= 1


@pytest.mark.slow
def test_outputs_are_compared_with_those_that_another_process_left(tmp_path: Path) -> None:
    options = gpu.arguments(["--quick"])
    gpu.fill(options, on_gpu=False)
    _, data = gpu.subject(options, tmp_path)
    common = {**data, "device": "cpu", "samples": 1, "full_float32": True, "outputs": str(tmp_path / "cpu.npz")}
    assert gpu.row(tmp_path, {}, common, "outputs") == {"samples": 1}
    same = gpu.row(tmp_path, {}, common, "against_cpu")
    other = gpu.row(tmp_path, {}, {**common, "weights": ""}, "against_cpu")
    assert same["boxes_relative"] <= 1e-5 and same["scores_relative"] <= 1e-5
    assert other["boxes_relative"] > 1e-3  # other weights are told apart
