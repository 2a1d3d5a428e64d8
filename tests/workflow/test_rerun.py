"""What a change makes anew, and what it leaves alone: case by case, on dry runs over a finished folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from petrflow.config import schema_of
from tests.helpers.mistakes import SHIPPED, write_sources
from tests.helpers.workflow import TWO_RUNS, copy_workflow, planned, read_config, reasons, run_snakemake, write_config

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
    for key, value in {"num_workers": 2, "checkpoint_minutes": 1, "device": "cpu", "log_interval": 3}.items():
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
    content = yaml.safe_load(model.read_text())
    before = content["model"]["pts_bbox_head"]["num_query"]
    content["model"]["pts_bbox_head"]["num_query"] = 130
    model.write_text(yaml.safe_dump(content))
    plan = reasons(finished)
    assert set(plan) == {"baseline first", "train first"} | FOLLOWS_TRAINING
    assert plan["train first"] == f"model file.model.pts_bbox_head.num_query {before} -> 130"


def test_a_model_file_that_was_touched_or_commented_makes_nothing_anew(finished: Path) -> None:
    model = finished / "config" / "models" / "petrv2_tiny.yml"
    model.write_text("# a comment\n" + model.read_text())
    later = time.time() + 5
    os.utime(model, (later, later))
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


def test_pre_labels_are_made_where_they_are_asked_for_and_of_xtreme1s_data_sets_alone(finished: Path) -> None:
    (finished / "export").mkdir()
    changed(finished, "datasets", "lot", value={"kind": "xtreme1", "source": "export", "class_ids": {"Car": 7}})
    changed(finished, "runs", "first", "predict", value=["lot", "streets"])
    before = {"xtreme1 lot", "annotate lot", "predict-lot first"}
    assert planned(finished, "prelabel_all") == {*before, "prelabel-lot first"}
    assert planned(finished, "results/first/prelabel/lot/prelabels.zip") == {*before, "prelabel-lot first"}
    assert "prelabel-lot first" not in planned(finished)
    run_snakemake(finished, "prelabel_all")
    assert planned(finished, "prelabel_all") == set()
    changed(finished, "datasets", "lot", "class_ids", value={"Car": 8})
    assert planned(finished, "prelabel_all") == {"prelabel-lot first"}


def test_another_data_set_with_a_run_builds_only_what_they_need(finished: Path) -> None:
    (finished / "export").mkdir()
    changed(finished, "datasets", "parking_lot", value={"kind": "xtreme1", "source": "export"})
    changed(finished, "runs", "parked", value={"dataset": "parking_lot", "model": "petrv2_tiny"})
    expected = {"xtreme1 parking_lot", "annotate parking_lot", "train parked"}
    assert planned(finished, "train_all") == expected


def test_other_weights_concern_the_baseline_and_the_training(finished: Path) -> None:
    changed(finished, "runs", "first", "weights", value=SHIPPED)
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


def test_predicted_data_sets_add_their_own_stages(finished: Path) -> None:
    changed(finished, "runs", "first", "predict", value=["roads", "streets"])
    predicts = {"predict-roads first", "predict-streets first"}
    assert planned(finished) == {*predicts, "report all runs"}
    assert planned(finished, "predict_all") == predicts
    assert planned(finished, "results/first/predict/roads/results_nusc.json") == {"predict-roads first"}
    run_snakemake(finished, "all")
    assert planned(finished) == set()
    assert planned(finished, "results/first/predict/streets/detections.parquet") == set()
    changed(finished, "runs", "first", "schedule", "learning_rate", value=2.0e-4)
    assert planned(finished) == {"train first", *predicts} | FOLLOWS_TRAINING


def test_predictions_for_all_runs_are_asked_for_on_the_command_line(finished: Path) -> None:
    plan = planned(finished, "predict_all", "--config", "predict=[roads]")
    assert plan == {"predict-roads first", "predict-roads second"}


def test_another_least_score_draws_again_and_trains_nothing(finished: Path) -> None:
    changed(finished, "runs", "first", "min_score", value={"car": 0.5})
    assert planned(finished) == {"demo first", "report all runs"}


def test_code_that_changes_makes_nothing_anew_by_surprise(finished: Path) -> None:
    script = finished / "workflow" / "scripts" / "train.py"
    script.write_text(script.read_text() + "\n# edited\n")
    assert planned(finished) == set()


def test_a_lost_result_is_made_again_with_what_follows(finished: Path) -> None:
    (finished / "results" / "first" / "train" / "best_model" / "model.pdparams").unlink()
    plan = reasons(finished)
    assert set(plan) == {"train first"} | FOLLOWS_TRAINING
    assert plan["train first"] == "results/first/train/best_model/model.pdparams is gone"
    assert plan["export first"] == "follows from train first, made again"


def test_data_that_is_gone_is_missed_only_when_a_stage_needs_it(finished: Path) -> None:
    shutil.rmtree(finished / "data")
    assert planned(finished) == set()
    changed(finished, "runs", "first", "demo", value={"score_threshold": 0.5})
    assert planned(finished) == {"synthetic streets", "demo first", "report all runs"}


def test_results_can_be_asked_for_by_file_name(finished: Path) -> None:
    assert planned(finished, "results/first/train/metrics.json") == set()
    changed(finished, "datasets", "streets", "seed", value=5)
    data = {"synthetic streets", "annotate streets"}
    assert planned(finished, "results/first/baseline/metrics.json") == {*data, "baseline first"}
    assert planned(finished, "results/first/train/best_model/model.pdparams") == {*data, "train first"}
    assert planned(finished, str(finished / "results/first/train")) == {*data, "train first"}
    assert planned(finished, "results/streets/annotations/val.arrow") == data
    assert planned(finished, "data/roads") == set()
    assert planned(finished, "results/report/index.html") == {*data, "baseline first", "train first", *FOLLOWS_TRAINING}


def test_an_unknown_target_gets_the_nearest_ones(finished: Path) -> None:
    said = run_snakemake(finished, "results/frost/train/metrics.json", check=False)
    assert said.returncode != 0
    assert (
        "There is nothing called results/frost/train/metrics.json; near are results/first/train/metrics.json"
        in said.stderr
    )
    assert "Traceback" not in said.stderr


def test_a_rule_that_is_asked_for_again_is_followed_by_what_reads_it(finished: Path) -> None:
    assert planned(finished, "-R", "export") == {
        "export first",
        "demo first",
        "export second",
        "demo second",
        "report all runs",
    }
    assert planned(finished, "-R", "results/first/export/parity.json", "--", "results/first/demo/demo.mp4") == {
        "export first",
        "demo first",
    }


def test_a_fresh_clone_beside_old_results_does_nothing(finished: Path) -> None:
    """New times and inodes of everything that git brings, no records of Snakemake's; the persistent disk has data and results."""
    shutil.rmtree(finished / ".snakemake")
    for name in ("config", "workflow", "profiles"):
        shutil.copytree(finished / name, finished / "fresh", copy_function=shutil.copy)
        shutil.rmtree(finished / name)
        (finished / "fresh").rename(finished / name)
    shutil.copy(finished / "Snakefile", finished / "copy")
    (finished / "copy").rename(finished / "Snakefile")
    for number, path in enumerate(
        sorted((finished / "results").rglob("*"))
    ):  # as a copy without times would leave them
        os.utime(path, (number, number))
    assert planned(finished) == set()


def test_snakemakes_own_report_holds_the_results(finished: Path) -> None:
    run_snakemake(finished, "--report", "report.zip")
    with zipfile.ZipFile(finished / "report.zip") as archive:
        names = [Path(name).name for name in archive.namelist() if "/data/raw/" in name]
    each = ["demo.mp4", "history.csv", "metrics.json", "metrics.json", "parity.json", "table.txt"]
    assert sorted(names) == sorted([*each, *each, "index.html"])


def test_another_runs_best_model_is_waited_for(finished: Path) -> None:
    changed(finished, "runs", "second", "weights", value={"run": "first"})
    changed(finished, "runs", "second", "partial_weights", value=True)  # the second run's model is another
    assert planned(finished) == {"baseline second", "train second", "export second", "demo second", "report all runs"}
    by_name = planned(finished, "results/second/train/metrics.json")
    changed(finished, "runs", "second", "weights", value="results/first/train/best_model/model.pdparams")
    assert planned(finished, "results/second/train/metrics.json") == by_name
    changed(finished, "runs", "first", "schedule", "epochs", value=3)
    plan = reasons(finished, "results/second/train/metrics.json")
    assert set(plan) == {"train first", "train second"}
    assert plan["train first"] == "epochs 2 -> 3"


@pytest.mark.parametrize(
    "first", [{"run": "second"}, {"run": "first"}, "results/first/train/last_model/model.pdparams"]
)
def test_runs_that_wait_for_themselves_are_told_so(finished: Path, first: Any) -> None:
    changed(finished, "runs", "first", "weights", value=first)
    changed(finished, "runs", "second", "weights", value={"run": "first"})
    said = run_snakemake(finished, "-n", check=False)
    assert said.returncode != 0
    assert "runs.first.weights: are this run's own output" in said.stderr
    assert "Traceback" not in said.stderr


def test_the_reason_names_the_setting_with_both_values(finished: Path) -> None:
    changed(finished, "runs", "first", "schedule", "batch_size", value=8)
    said = run_snakemake(finished, "-n").stdout
    assert "Reason: train: batch_size 1 -> 8" in said
    assert "Missing output" not in said


def test_a_default_that_changes_makes_anew_and_a_key_that_is_new_does_not(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Plans are made in forks of this process, which has the schema read already.
    properties = schema_of("config")["$defs"]["schedule"]["properties"]
    monkeypatch.setitem(properties, "novelty", {"description": "New.", "type": "number", "default": 0.5})
    assert planned(finished) == set()
    monkeypatch.setitem(properties, "weight_decay", {**properties["weight_decay"], "default": 0.02})
    plan = reasons(finished)
    assert {"train first", "train second"} <= set(plan)
    assert plan["train first"] == "weight_decay 0.01 -> 0.02"


def test_a_nuscenes_table_that_was_edited_brings_the_data_in_anew(finished: Path, tmp_path: Path) -> None:
    write_sources(tmp_path)
    tables = tmp_path / "own_root" / "v1.0-mini"
    source = {
        "kind": "nuscenes",
        "source": str(tables.parent),
        "splits": {"train": ["scene-0061"], "val": ["scene-0103"]},
    }
    changed(finished, "datasets", "streets", value=source)
    run_snakemake(finished, "annotate_all")
    assert planned(finished, "annotate_all") == set()
    os.utime(tables / "sample.json", (1, 1))
    assert planned(finished, "annotate_all") == set()
    (tables / "sample.json").write_text("[{}]")
    assert planned(finished, "annotate_all") == {"nuscenes streets", "annotate streets"}


def test_every_preset_plans_its_whole_dag_from_nothing(tmp_path: Path) -> None:
    folder = copy_workflow(tmp_path / "project", TWO_RUNS)
    (folder / "nuscenes-trainval-urls.txt").write_text("https://example.org/v1.0-trainval_meta.tgz\n")
    (folder / "export").mkdir()
    for preset in sorted((folder / "config" / "presets").glob("*.yaml")):
        preset.write_text(preset.read_text().replace("/data/xtreme1_export", "export"))
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
    (record,) = (finished / "results" / "first" / "receipts").glob("train-*.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "seconds": 7200.0}))
    command = [sys.executable, str(finished / "workflow" / "left.py")]
    said = subprocess.run(command, cwd=finished, capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in said.splitlines()]
    assert ["train", "first", "2.0", "h", "learning_rate", "0.0001", "->", "0.0002"] in lines
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
