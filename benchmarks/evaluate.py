"""How long it takes to score a split of val's size: petrflow's own judge against nuscenes-devkit,
on the same detections.

    python benchmarks/evaluate.py                                 # 6,019 keyframes of 300 boxes, minutes and 7 GB for the devkit
    python benchmarks/evaluate.py --keyframes 600 --devkit-keyframes 600

Each side runs in a process of its own. petrflow's starts with detections as the model gives them,
in the lidar frame, and an annotation store; the devkit starts with tables that it has loaded and
the submission file that petrflow wrote. Loading the tables is told apart, and is not in the ratio.
A table for people comes first; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

VERSION = "v1.0-trainval"
SCENE_KEYFRAMES = 13  # 463 scenes of 13 keyframes are val's 6,019


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keyframes", type=int, default=6019, help="size of the split, a multiple of 13")
    parser.add_argument("--boxes", type=int, default=300, help="detections of a keyframe")
    parser.add_argument("--without-devkit", action="store_true", help="measure petrflow's judge alone")
    parser.add_argument(
        "--training",
        action="store_true",
        help="measure all that training waits for once it has predicted, files included",
    )
    parser.add_argument(
        "--store", type=Path, help="score this store's keyframes, without the devkit, and make no tables"
    )
    parser.add_argument("--folder", type=Path, help="where to make the tables (default: a temporary folder)")
    parser.add_argument(
        "--side", choices=["petrflow", "devkit", "training-petrflow", "training-devkit"], help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.side:
        sides = {"petrflow": petrflow_side, "devkit": devkit_side}
        print(json.dumps(sides.get(options.side, training_side)(options)))
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="petrflow-evaluate-"))
    try:
        options.folder = folder
        if options.store is None:
            make_split(options)
        if options.training:
            report_training(options, *(in_a_process(options, f"training-{judge}") for judge in ("petrflow", "devkit")))
            return
        ours = in_a_process(options, "petrflow")
        theirs = None if options.without_devkit or options.store else in_a_process(options, "devkit")
    finally:
        if options.folder is None or str(folder).startswith(tempfile.gettempdir() + "/petrflow-evaluate-"):
            shutil.rmtree(folder, ignore_errors=True)
    report(options, ours, theirs)


def report(options: argparse.Namespace, ours: dict[str, Any], theirs: dict[str, Any] | None) -> None:
    print(f"\n{ours['keyframes']} keyframes x {options.boxes} boxes, mAP {ours['figures']['mean_ap']:.4f}\n")
    print("| step | petrflow s | devkit s |\n|---|---|---|")
    rows = [
        ("open the store; load the tables (not in the ratio)", ours["open"], theirs and theirs["tables"]),
        ("read the submission file", None, theirs and theirs["read"]),
        ("labelled boxes and filters", None, theirs and theirs["filter"]),
        ("to the global frame, filters, matching", ours["match"], None),
        ("figures of the split alone; matching and figures", ours["figure"], theirs and theirs["evaluate"]),
        ("figures of the split, by band, group of scenes and scene", ours["details"], None),
        ("all but loading the tables, all figures", ours["seconds"], theirs and theirs["seconds"]),
        ("CPU seconds of that", ours["cpu_seconds"], theirs and theirs["cpu_seconds"]),
        ("write the submission file", ours["write"], None),
    ]
    for name, left, right in rows:
        cells = ["" if value is None else f"{value:.2f}" for value in (left, right)]
        print(f"| {name} | {' | '.join(cells)} |")
    peaks = ["" if side is None else f"{side['rss_mb']:.0f} MB" for side in (ours, theirs)]
    print(f"| peak memory | {' | '.join(peaks)} |")
    result = {
        "keyframes": ours["keyframes"],
        "boxes": options.boxes,
        "seconds": round(ours["seconds"], 3),
        "devkit_seconds": theirs and round(theirs["seconds"], 3),
        "ratio": theirs and round(theirs["seconds"] / ours["seconds"], 1),
        "cpu_seconds": round(ours["cpu_seconds"], 2),
        "devkit_cpu_seconds": theirs and round(theirs["cpu_seconds"], 2),
        "cpu_ratio": theirs and round(theirs["cpu_seconds"] / ours["cpu_seconds"], 1),
        "max_abs_diff": theirs and largest_difference(ours["figures"], theirs["figures"]),
        "rss_mb": round(ours["rss_mb"]),
        "devkit_rss_mb": theirs and round(theirs["rss_mb"]),
    }
    print(json.dumps(result))


def report_training(options: argparse.Namespace, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    print(
        "\n| judge | s from the last prediction to the files | peak memory MB | of that before scoring MB |\n|---|---|---|---|"
    )
    for judge, side in (("petrflow", ours), ("devkit, tables included", theirs)):
        print(f"| {judge} | {side['seconds']:.1f} | {side['rss_mb']:.0f} | {side['rss_before_mb']:.0f} |")
    size = {"keyframes": options.keyframes, "boxes": options.boxes}
    print(
        json.dumps(
            {
                **size,
                **{f"{k}_{name}": side[k] for k in ours for name, side in (("petrflow", ours), ("devkit", theirs))},
            }
        )
    )


def in_a_process(options: argparse.Namespace, side: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--folder", str(options.folder)]
    command += ["--store", str(options.store)] if options.store else []
    command += ["--keyframes", str(options.keyframes), "--boxes", str(options.boxes)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def largest_difference(ours: Any, theirs: Any) -> float:
    """Return the largest difference of two nested dictionaries of figures; infinite where one lacks
    what the other has.
    """
    if isinstance(ours, dict):
        if set(ours) != set(theirs):
            return float("inf")
        return max(largest_difference(value, theirs[key]) for key, value in ours.items())
    if np.isnan(ours) or np.isnan(theirs):
        return 0.0 if np.isnan(ours) and np.isnan(theirs) else float("inf")
    return abs(ours - theirs)


# ----------------------------------------------------------------------------------------------------------------- what is scored


def make_split(options: argparse.Namespace) -> None:
    """Write tables and their store, once."""
    from nuscenes_tables import write_tables

    from petrflow.annotations import build

    root = options.folder
    if not (root / "val.arrow").exists():
        print(f"writing tables of {options.keyframes} keyframes", file=sys.stderr)
        scenes = -(-options.keyframes // SCENE_KEYFRAMES)
        write_tables(root, scenes, keyframes=SCENE_KEYFRAMES, version=VERSION, val_share=1.0)
        build(root, "val", root / "val.arrow", progress=False)


def detections_of(store: Any, keyframes: int, boxes: int, class_names: list[str]) -> dict[str, Any]:
    """Return what a detector might find: labelled boxes out of place, several times over, and false
    ones of lower scores.
    """
    from petrflow.samples.types import Detections

    found = {}
    columns = store.columns
    codes = np.array([class_names.index(n) if n in class_names else -1 for n in store.metadata["names"]])
    for k in range(keyframes):
        rng = np.random.default_rng(k)
        rows = np.arange(*columns["keyframe.box_offset"][k : k + 2])
        rows = np.repeat(rows[codes[columns["box.name"][rows]] >= 0], 3)[:boxes]
        near = np.concatenate([columns["box.box"][rows], np.nan_to_num(columns["box.velocity"][rows])], axis=1)
        near[:, :3] += rng.normal(0, 0.8, (len(rows), 3))
        near[:, 3:6] *= rng.uniform(0.8, 1.2, (len(rows), 3))
        near[:, 6:] += rng.normal(0, 0.3, (len(rows), 3))
        far = np.zeros((boxes - len(rows), 9))
        far[:, :2], far[:, 3:6] = rng.uniform(-55, 55, (len(far), 2)), rng.uniform(0.4, 5, (len(far), 3))
        scores = np.concatenate([rng.beta(2, 2, len(rows)), rng.beta(1, 6, len(far))]).astype("float32")
        labels = np.concatenate([codes[columns["box.name"][rows]], rng.integers(0, len(class_names), len(far))])
        order = np.argsort(-scores, kind="stable")
        everything = np.concatenate([near, far]).astype("float32")[order]
        found[columns["keyframe.token"][k]] = Detections(everything, scores[order], labels[order])
    return found


# -------------------------------------------------------------------------------------------------------------------- both sides


def petrflow_side(options: argparse.Namespace) -> dict[str, Any]:
    from petrflow.annotations import AnnotationStore
    from petrflow.evaluation.figures import combine
    from petrflow.evaluation.judge import judge_classes, match_keyframes, parts_of
    from petrflow.evaluation.protocol import NUSCENES
    from petrflow.evaluation.submission import submission_lines, write_submission

    class_names = list(NUSCENES.class_names)
    start = time.perf_counter()
    store = AnnotationStore.open(options.store or options.folder / "val.arrow")
    opened = time.perf_counter() - start
    found = detections_of(store, len(store), options.boxes, class_names)

    cpu = time.process_time()
    start = time.perf_counter()
    matches = match_keyframes(store, range(len(store)), found, class_names, NUSCENES)
    matched = time.perf_counter()
    judged = judge_classes(matches, NUSCENES)
    figures = combine({name: one.whole for name, one in judged.items()}, NUSCENES)
    figured = time.perf_counter()
    judge_classes(matches, NUSCENES, parts_of(store))
    detailed = time.perf_counter()
    cpu_seconds = time.process_time() - cpu
    rss_mb = peak_mb()
    numbers = range(len(store))
    keyframes = len(store)
    if options.store is None:  # what the devkit reads
        write_submission(
            options.folder / "results_nusc.json", [(numbers, submission_lines(store, numbers, found, class_names))]
        )
    return {
        "open": opened,
        "match": matched - start,
        "figure": figured - matched,
        "details": detailed - figured,
        "seconds": matched - start + detailed - figured,
        "cpu_seconds": cpu_seconds,
        "write": time.perf_counter() - detailed,
        "rss_mb": rss_mb,
        "keyframes": keyframes,
        "figures": figures,
    }


def training_side(options: argparse.Namespace) -> dict[str, Any]:
    from petrflow.annotations import AnnotationStore
    from petrflow.evaluation.evaluate import score_detections
    from petrflow.evaluation.protocol import NUSCENES

    class_names, judge = list(NUSCENES.class_names), options.side.removeprefix("training-")
    store = AnnotationStore.open(options.folder / "val.arrow")
    found = detections_of(store, len(store), options.boxes, class_names)
    before, start = peak_mb(), time.perf_counter()
    score_detections(store, found, class_names, options.folder, options.folder / judge, judge=judge)
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "rss_mb": round(peak_mb()),
        "rss_before_mb": round(before),
    }


def devkit_side(options: argparse.Namespace) -> dict[str, Any]:
    from nuscenes import NuScenes
    from nuscenes.eval.common import loaders
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection import evaluate

    seconds: dict[str, float] = {"read": 0.0}

    def timed(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        found = loaders.load_prediction_of_sample_tokens(*arguments, **named)
        seconds["read"] = time.perf_counter() - start
        return found

    evaluate.load_prediction_of_sample_tokens = timed
    start = time.perf_counter()
    tables = NuScenes(VERSION, str(options.folder), verbose=False)
    loaded, cpu = time.perf_counter(), time.process_time()
    judge = evaluate.NuScenesEval(
        tables,
        config_factory("detection_cvpr_2019"),
        str(options.folder / "results_nusc.json"),
        "petrflow_val",
        str(options.folder / "devkit"),
        verbose=False,
    )
    filtered = time.perf_counter()
    metrics, _ = judge.evaluate()
    done = time.perf_counter()
    summary = json.loads(json.dumps(metrics.serialize()))
    keys = ("label_aps", "mean_dist_aps", "mean_ap", "label_tp_errors", "tp_errors", "tp_scores", "nd_score")
    return {
        "tables": loaded - start,
        "read": seconds["read"],
        "filter": filtered - loaded - seconds["read"],
        "evaluate": done - filtered,
        "seconds": done - loaded,
        "cpu_seconds": time.process_time() - cpu,
        "rss_mb": peak_mb(),
        "figures": {key: summary[key] for key in keys},
    }


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024) / 1.0


if __name__ == "__main__":
    main()
