"""The real DAG, from nothing to the report, on data and a model of the smallest useful size; and again, doing nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.workflow import (
    REPOSITORY,
    SNAKEMAKE,
    copy_workflow,
    jobs_run,
    planned,
    read_config,
    run_snakemake,
    write_config,
)

STAGES = {
    "synthetic": 1,
    "annotate": 1,
    "baseline": 1,
    "train": 1,
    "export": 1,
    "demo": 1,
    "predict": 1,
    "report": 1,
    "all": 1,
}


def small_config(**schedule: Any) -> dict[str, Any]:
    return {
        "datasets": {"streets": {"kind": "synthetic", "scenes": 2, "keyframes": 3, "image_size": [200, 112], "sweeps": 2}},
        "runs": {
            "small": {
                "dataset": "streets",
                "model": "petrv2_test",
                "predict": ["streets"],
                "schedule": {"epochs": 2, "batch_size": 1, "save_interval": 1, "log_interval": 1, "device": "cpu", **schedule},
            }
        },
    }  # fmt: skip


def small_project(folder: Path, config: dict[str, Any]) -> Path:
    copy_workflow(folder, config)
    model = yaml.safe_load((REPOSITORY / "config" / "models" / "petrv2_tiny.yml").read_text())
    head = model["model"]["pts_bbox_head"]
    head["num_query"], head["proposals"], head["num_pred"] = 30, 20, 2
    head["transformer"]["decoder"]["num_layers"] = 2
    (folder / "config" / "models" / "petrv2_test.yml").write_text(yaml.safe_dump(model, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `snakemake all` has run to its end."""
    folder = small_project(tmp_path_factory.mktemp("whole") / "project", small_config())
    finished = run_snakemake(folder, "all", timeout=900)
    assert jobs_run(finished.stderr) == STAGES, finished.stderr
    return folder


def test_every_stage_leaves_what_the_layout_promises(project: Path) -> None:
    run = project / "results" / "small"
    assert json.loads((project / "data" / "streets" / ".complete.json").read_text())["kind"] == "synthetic"
    for path in ("train/best_model/model.pdparams", "train/last_model/model.pdparams", "train/history.csv", "train/visualdl",
                 "export/parity.json", "train/thresholds.json", "demo/demo.mp4", "demo/detections.json", "baseline/table.txt", "baseline/thresholds.json",
                 "predict/streets/detections.parquet", "predict/streets/results_nusc.json", "predict/streets/predict.mp4",
                 "predict/streets/counts.csv", "predict/streets/viewer/index.html"):  # fmt: skip
        assert (run / path).exists(), path
    for stage in ("baseline", "train", "export", "demo"):
        record = json.loads((run / stage / "provenance.json").read_text())
        assert record["device"] == "cpu"
    assert list((run / "demo" / "frames").glob("*.jpg"))
    trained, predicted = (
        json.loads((run / path / "metrics.json").read_text()) for path in ("train", "predict/streets")
    )
    assert abs(trained["best"]["NDS"] - predicted["NDS"]) < 0.01  # the exported model on the split that training judged
    assert "small" in (project / "results" / "report" / "index.html").read_text()


def test_every_stage_leaves_its_seconds_its_peak_memory_and_a_receipt(project: Path) -> None:
    run = project / "results" / "small"
    for stage in ("baseline", "train", "export", "demo"):
        record = json.loads((run / stage / "provenance.json").read_text())
        assert record["seconds"] > 0
        assert record["peak_memory_bytes"] > 0
        (receipt,) = (run / "receipts").glob(f"{stage}-*.json")
        assert json.loads(receipt.read_text())["fingerprint"] == record["made_from"]["fingerprint"]


def test_the_whole_thing_again_does_nothing(project: Path) -> None:
    finished = run_snakemake(project, "all")
    assert "Nothing to be done" in finished.stderr


def test_another_learning_rate_plans_the_training_and_what_follows_on_real_files(project: Path) -> None:
    config = read_config(project)
    write_config(project, small_config(learning_rate=1.0e-3))
    try:
        assert planned(project) == {
            "train small",
            "export small",
            "demo small",
            "predict-streets small",
            "report all runs",
        }
    finally:
        write_config(project, config)


def test_snakemake_told_to_end_in_the_middle_of_training_goes_on_when_typed_again(
    project: Path, tmp_path: Path
) -> None:
    folder = small_project(tmp_path / "project", small_config(epochs=12, do_eval=False, save_interval=12))
    for made in ("data", "results/streets"):
        (folder / made).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(project / made), str(folder / made)], check=True)
    log = folder / "logs" / "small" / "train.log"
    process = subprocess.Popen(
        [*SNAKEMAKE, "--cores", "2", "train_all"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not (log.exists() and "step/s" in log.read_text()):  # the bar, which stands before the first step
        assert process.poll() is None and time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    told = time.monotonic()
    process.communicate(timeout=90)
    assert process.returncode != 0
    assert time.monotonic() - told < 60, "30 s on a machine that does nothing else"
    assert "a checkpoint is written" in log.read_text()
    assert not (folder / "results" / "small" / "train" / "metrics.json").exists()

    run_snakemake(folder, "train_all", timeout=600)
    assert "Going on from" in log.read_text()
    assert json.loads((folder / "results" / "small" / "train" / "metrics.json").read_text())["steps"] >= 12
