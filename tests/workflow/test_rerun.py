"""What a change makes anew, and what it leaves alone: case by case, on dry runs over a finished folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.workflow import TWO_RUNS, copy_workflow, planned, read_config, run_snakemake, write_config

FOLLOWS_TRAINING = {"export first", "demo first", "report all runs"}


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_workflow(tmp_path_factory.mktemp("finished") / "project", TWO_RUNS, stub=True)
    run_snakemake(folder, "all")
    return folder


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """A folder in which everything has been made, with Snakemake's records of it."""
    return Path(shutil.copytree(finished_once, tmp_path / "project", symlinks=True))


def changed(folder: Path, *keys: str, value: Any) -> Path:
    config = read_config(folder)
    entry = config
    for key in keys[:-1]:
        entry = entry.setdefault(key, {})
    entry[keys[-1]] = value
    write_config(folder, config)
    return folder


def test_a_finished_folder_has_nothing_left_to_do(finished: Path) -> None:
    assert planned(finished) == set()


def test_a_runs_learning_rate_trains_that_run_anew_and_what_follows_it(finished: Path) -> None:
    changed(finished, "runs", "first", "schedule", "learning_rate", value=2.0e-4)
    assert planned(finished) == {"train first"} | FOLLOWS_TRAINING


def test_what_only_says_how_to_train_makes_nothing_anew(finished: Path) -> None:
    for key, value in {"num_workers": 2, "checkpoint_minutes": 1, "device": "cpu"}.items():
        changed(finished, "runs", "first", "schedule", key, value=value)
    assert planned(finished) == set()


def test_the_order_of_keys_and_spelled_out_defaults_make_nothing_anew(finished: Path) -> None:
    config = read_config(finished)
    config["runs"]["first"]["schedule"] = {"do_eval": True, "learning_rate": 1.0e-4, "batch_size": 1, "epochs": 2}
    config["runs"] = dict(reversed(config["runs"].items()))
    write_config(finished, config)
    assert planned(finished) == set()


def test_an_edited_model_file_concerns_the_runs_that_use_it(finished: Path) -> None:
    model = finished / "config" / "models" / "petrv2_tiny.yml"
    model.write_text(model.read_text() + "\n# edited\n")
    later = time.time() + 5
    os.utime(model, (later, later))
    assert planned(finished) == {"baseline first", "train first"} | FOLLOWS_TRAINING


def test_a_model_file_that_was_only_touched_makes_nothing_anew(finished: Path) -> None:
    later = time.time() + 5
    os.utime(finished / "config" / "models" / "petrv2_tiny.yml", (later, later))
    assert planned(finished) == set()


def test_a_synthetic_seed_rebuilds_from_there(finished: Path) -> None:
    changed(finished, "datasets", "streets", "seed", value=5)
    assert (
        planned(finished)
        == {"synthetic streets", "annotate streets", "baseline first", "train first"} | FOLLOWS_TRAINING
    )


def test_another_run_adds_its_own_stages_and_the_report(finished: Path) -> None:
    changed(finished, "runs", "third", value={"dataset": "streets", "model": "petrv2_tiny", "schedule": {"epochs": 1}})
    assert planned(finished) == {"baseline third", "train third", "export third", "demo third", "report all runs"}


def test_another_data_set_that_no_run_uses_builds_nothing(finished: Path) -> None:
    changed(finished, "datasets", "fields", value={"kind": "synthetic", "seed": 9})
    assert planned(finished) == set()


def test_another_data_set_with_a_run_builds_only_what_they_need(finished: Path) -> None:
    changed(finished, "datasets", "parking_lot", value={"kind": "xtreme1", "source": "/nowhere/yet"})
    changed(finished, "runs", "parked", value={"dataset": "parking_lot", "model": "petrv2_tiny"})
    expected = {"xtreme1 parking_lot", "annotate parking_lot", "train parked"}
    assert planned(finished, "train_all") == expected


def test_other_weights_concern_the_baseline_and_the_training(finished: Path) -> None:
    weights = finished / "weights.pdparams"
    weights.write_bytes(b"weights")
    changed(finished, "runs", "first", "weights", value="weights.pdparams")
    assert planned(finished) == {"baseline first", "train first"} | FOLLOWS_TRAINING


def test_weights_from_a_url_are_fetched_once_for_all_runs_that_name_them(finished: Path) -> None:
    for run in ("first", "second"):
        changed(finished, "runs", run, "weights", value={"url": "https://example.org/model.pdparams"})
    plan = planned(finished, "baseline_all")
    assert {stage.split()[0] for stage in plan} == {"weights", "baseline"}
    assert len(plan) == 3


def test_expected_figures_concern_the_baseline_alone(finished: Path) -> None:
    changed(finished, "runs", "first", "expect", value={"mAP": {"value": 0.3}})
    assert planned(finished) == {"baseline first", "report all runs"}


def test_a_demo_setting_draws_again_and_trains_nothing(finished: Path) -> None:
    changed(finished, "runs", "first", "demo", value={"score_threshold": 0.5})
    assert planned(finished) == {"demo first", "report all runs"}


def test_code_that_changes_makes_nothing_anew_by_surprise(finished: Path) -> None:
    script = finished / "workflow" / "scripts" / "train.py"
    script.write_text(script.read_text() + "\n# edited\n")
    assert planned(finished) == set()


def test_a_lost_output_is_made_again_with_what_follows(finished: Path) -> None:
    (finished / "results" / "first" / "train" / "best_model" / "model.pdparams").unlink()
    assert planned(finished) == {"train first"} | FOLLOWS_TRAINING


def test_a_run_can_be_asked_for_by_file_name(finished: Path) -> None:
    changed(finished, "datasets", "streets", "seed", value=5)
    asked = planned(finished, "results/first/baseline/metrics.json")
    assert asked == {"synthetic streets", "annotate streets", "baseline first"}


def test_every_preset_plans_its_whole_dag_from_nothing(tmp_path: Path) -> None:
    folder = copy_workflow(tmp_path / "project", TWO_RUNS)
    for preset in sorted((folder / "config" / "presets").glob("*.yaml")):
        plan = planned(folder, "--configfile", str(preset))
        fetched = {"weights"} if "url:" in preset.read_text() else set()
        assert {stage.split()[0] for stage in plan} >= fetched | {
            "annotate",
            "baseline",
            "train",
            "export",
            "demo",
            "report",
        }
        assert not {stage.split()[1] for stage in plan} & set(TWO_RUNS["runs"]), "a preset replaces the default config"


def test_what_is_left_is_a_table_of_stage_run_reason_and_past_seconds(finished: Path) -> None:
    changed(finished, "runs", "first", "schedule", "learning_rate", value=2.0e-4)
    (finished / "results" / "first" / "benchmarks" / "train.tsv").write_text("s\th:m:s\n7200.0\t2:00:00\n")
    command = [sys.executable, str(finished / "workflow" / "left.py")]
    said = subprocess.run(command, cwd=finished, capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in said.splitlines()]
    assert ["train", "first", "2.0", "h", "settings", "changed"] in lines
    assert lines[-1][:3] == ["4", "stages", "left,"]


def test_a_mistake_in_the_config_is_all_that_snakemake_says(finished: Path) -> None:
    changed(finished, "runs", "first", "dataset", value="street")
    said = run_snakemake(finished, "all", check=False)
    assert said.returncode != 0
    assert "runs.first.dataset: there is no data set 'street'; did you mean 'streets'." in said.stderr
    assert "Traceback" not in said.stderr


def test_more_gpus_than_there_are_is_said_before_anything_starts(finished: Path) -> None:
    changed(finished, "runs", "first", "schedule", "devices", value=2)
    said = run_snakemake(finished, "train_all", check=False)
    assert said.returncode != 0
    assert "add --resources gpu=2" in said.stderr
    assert (finished / "results" / "first" / "train" / "history.csv").exists()
