"""One real nuScenes keyframe goes through the whole DAG, and a small model learns it by heart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.helpers.workflow import REPOSITORY, copy_workflow, jobs_run, run_snakemake

TOKEN = "ca9a282c9e77460f8360f564131a8af5"
STAGES = {"nuscenes": 1, "annotate": 1, "baseline": 1, "train": 1, "export": 1, "demo": 1, "report": 1, "all": 1}


def keyframe_project(folder: Path, source: Path, **schedule: Any) -> Path:
    """A project that trains on one frame, without augmentation."""
    config = {
        "datasets": {
            "keyframe": {
                "kind": "nuscenes",
                "version": "v1.0-mini",
                "source": str(source),
                "splits": {"train": ["scene-0061"], "val": ["scene-0061"]},
            }
        },
        "runs": {
            "keyframe": {
                "dataset": "keyframe",
                "model": "one_frame",
                "schedule": {"batch_size": 1, "learning_rate": 1.0e-3, "warmup_steps": 20, "device": "cpu", **schedule},
            }
        },
    }
    copy_workflow(folder, config)
    model = yaml.safe_load((REPOSITORY / "config" / "models" / "petrv2_tiny.yml").read_text())
    model["augmentation"]["enabled"] = False
    # Metres outweigh the logarithms of sizes: x and y alone would be learnt in so few steps.
    model["model"]["pts_bbox_head"]["code_weights"] = [0.5, 0.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.5, 0.5]
    (folder / "config" / "models" / "one_frame.yml").write_text(yaml.safe_dump(model, sort_keys=False))
    return folder


@pytest.mark.slow
def test_a_small_model_learns_one_real_frame_by_heart(keyframe_root: Path, tmp_path: Path) -> None:
    folder = keyframe_project(tmp_path / "project", keyframe_root, epochs=400, save_interval=100)
    finished = run_snakemake(folder, "all", timeout=3600)
    assert jobs_run(finished.stderr) == STAGES
    best = json.loads((folder / "results" / "keyframe" / "train" / "metrics.json").read_text())["best"]
    # Five of the ten classes stand within range of this frame: the devkit's mAP cannot pass 0.5.
    assert best["mAP_present_classes"] > 0.8
    assert best["not_available"] == ["mAVE", "mAAE"]
    (keyframe,) = json.loads((folder / "results" / "keyframe" / "demo" / "detections.json").read_text())["keyframes"]
    assert keyframe["token"] == TOKEN
    found = np.array([item["box"][:2] for item in keyframe["predicted"]])
    for true in keyframe["true"]:
        if true["class"] == "truck" and np.hypot(*true["box"][:2]) < 45:
            assert np.hypot(*(found - true["box"][:2]).T).min() < 1.0
