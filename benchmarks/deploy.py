"""An exported model where it is used: milliseconds by stage, streaming against recomputing, variants, and the runner against petrflow.

    python benchmarks/deploy.py --annotations results/synthetic/annotations --root data/synthetic
    python benchmarks/deploy.py ... --published          # and the published model's graphs with random weights: minutes, 6 GB

The tiny model is exported with its shipped weights and both variants into a temporary folder. Its boxes are those of the runner, which
sees each picture once, and of petrflow's trained model on the samples of the validation split. Recomputing runs the image network on the
pictures of both moments at every step, as one graph does; the sides take turns. The table is for people; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from petrflow.annotations import AnnotationStore
from petrflow.config import load_model
from petrflow.export.exported import OnnxGraph
from petrflow.export.moments import largest_difference, moments_of, scenes_of
from petrflow.export.onnx import to_onnx
from petrflow.export.parity import Sample, run_eager
from petrflow.export.runner import Runner, moment_from, read_picture
from petrflow.export.static import compare_two, export, save_graphs
from petrflow.files import read_json, write_json
from petrflow.model import build_model
from petrflow.model.box_codes import best_detections
from petrflow.samples.dataset import PetrDataset
from petrflow.weights.load import load_weights

HERE = Path(__file__).parents[1]
STAGES = ("read", "preprocess", "features", "boxes", "decode")
PUBLISHED = HERE / "config" / "models" / "petrv2_vovnet_gridmask_p4_800x320.yml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, help="folder of train.arrow and val.arrow")
    parser.add_argument("--root", type=Path, required=True, help="nuScenes root that they were made from")
    parser.add_argument("--model", type=Path, default=HERE / "config" / "models" / "petrv2_tiny.yml")
    weights = HERE / "resources" / "weights" / "petrv2_tiny" / "model.safetensors"
    parser.add_argument("--weights", type=Path, default=weights)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=5, help="of each side, for streaming against recomputing")
    parser.add_argument("--published", action="store_true", help="time the published model's graphs too")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="petrflow-deploy-"))
    try:
        answer = deploy(options, folder / "export")
        if options.published:
            answer["published"] = published(options, folder / "published")
            answer["streaming_ratio"] = min(side["ratio"] for side in answer["published"].values())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(answer))


def deploy(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Export the model, time it and compare it."""
    config = load_model(options.model)
    val = options.annotations / "val.arrow"
    evaluation = {"batch_size": 1, "num_workers": 0}
    export(
        config,
        options.weights,
        val,
        options.root,
        folder,
        variants=["float16", "int8"],
        train_store=options.annotations / "train.arrow",
        evaluation=evaluation,
    )
    variants = read_json(folder / "variants.json")
    if not variants.pop("written"):
        raise SystemExit(f"There is no ONNX to time: {variants['reason']}")

    print("| variant | MB | mAP | NDS |\n|---|---|---|---|")
    for name, about in variants.items():
        print(f"| {name} | {about['bytes'] / 1e6:.1f} | {about['mAP']:.4f} | {about['NDS']:.4f} |")

    store = AnnotationStore.open(val)
    stream = [moments_of(store, options.root, places, folder) for places in scenes_of(store)]
    write_json(folder / "moments.json", stream[0])
    print("\n| variant | threads | " + " | ".join(STAGES) + " | step, ms (median) |\n|" + "---|" * (len(STAGES) + 3))
    stages = {}
    for threads in options.threads:
        for variant in (None, "int8"):
            took = run_stream(Runner(folder, threads, variant), stream, folder)[1]
            name = f"{variant or 'float32'}, {threads}"
            stages[name] = {stage: float(np.median([one[stage] for one in took])) * 1e3 for stage in STAGES}
            numbers = [*stages[name].values(), sum(stages[name].values())]
            print(f"| {variant or 'float32'} | {threads} | " + " | ".join(f"{number:.1f}" for number in numbers) + " |")

    difference = against_petrflow(config, options, store, run_stream(Runner(folder, 2), stream, folder)[0])
    print(
        f"\nThe runner's boxes against petrflow's, {len(store)} keyframes: {difference:.1e} at most (m, rad, m/s, score).\n"
    )
    record = read_json(folder / "parity.json")
    tiny = streaming(folder, record["inputs"]["images"], options)
    return {
        "streaming_ratio": min(side["ratio"] for side in tiny.values()),
        "runner_max_abs_diff": difference,
        "variants": variants,
        "stages": stages,
        "tiny": tiny,
    }


def run_stream(runner: Runner, stream: list[dict[str, Any]], folder: Path) -> tuple[list[Any], list[dict[str, float]]]:
    """Run scenes one after another; return the boxes and the seconds of every moment."""
    boxes, seconds = [], []
    for scene in stream:
        runner.reset()
        for moment in scene["moments"]:
            paths, cameras, world_from_lidar, taken = moment_from(moment, folder)
            began = time.perf_counter()
            pictures = [read_picture(path) for path in paths]
            runner.seconds["read"] = time.perf_counter() - began
            if world_from_lidar is None:
                runner.watch(pictures, cameras, taken)
                continue
            boxes.append(runner.step(pictures, cameras, world_from_lidar, taken))
            seconds.append(dict(runner.seconds))
    return boxes, seconds


def against_petrflow(config: Any, options: argparse.Namespace, store: AnnotationStore, found: list[Any]) -> float:
    """Return the largest difference between the runner's boxes and those of the trained model on the data set's own samples."""
    model = build_model(config, num_cameras=len(store.camera_names))
    load_weights(model, options.weights)
    model.eval()
    coder = model.pts_bbox_head.bbox_coder
    dataset = PetrDataset(store.path, options.root, config, training=False)
    worst = 0.0
    for index, boxes in enumerate(found):
        outputs = run_eager(model, dataset, index).outputs
        (expected,) = best_detections(*outputs, coder.max_num, coder.post_center_range)
        worst = max(worst, largest_difference(expected, boxes))
    return worst


def streaming(folder: Path, images: list[int], options: argparse.Namespace) -> dict[str, Any]:
    """Time both graphs with the features of the moment before kept, and computed again."""
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=images[1:]).astype("float32")
    count = len(pictures) // 2
    matrices = np.tile(np.linalg.inv(np.diag([200.0, 200.0, 1.0, 1.0])), (1, 2 * count, 1, 1)).astype("float32")
    times = np.repeat([[0.0, 0.5]], count).reshape(1, -1).astype("float32")
    found = {}
    print(
        "| graphs | threads | image network, N | 2 N | head | streaming, ms | recomputing | ratio |\n"
        + "|---" * 8
        + "|"
    )
    for threads in options.threads:
        features, boxes = (OnnxGraph(folder / f"{graph}.onnx", graph, threads) for graph in ("features", "boxes"))
        (both,) = features.run((pictures,))
        arguments = (both[:count], both[count:], matrices, times)
        sides: dict[str, Callable[[], Any]] = {
            "now": lambda: features.run((pictures[:count],)),  # noqa: B023
            "both": lambda: features.run((pictures,)),  # noqa: B023
            "head": lambda: boxes.run(arguments),  # noqa: B023
        }
        took: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(options.turns + 1):
            for side, run in sides.items():
                began = time.perf_counter()
                run()
                if turn:
                    took[side].append(time.perf_counter() - began)
        now, two, head = (1e3 * float(np.median(took[side])) for side in sides)
        ratio = (two + head) / (now + head)
        found[f"{threads} threads"] = {"now_ms": now, "both_ms": two, "head_ms": head, "ratio": ratio}
        print(
            f"| {folder.name} | {threads} | {now:.1f} | {two:.1f} | {head:.1f} | {now + head:.1f} | {two + head:.1f} | {ratio:.2f} |"
        )
    return found


def published(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time the published model's graphs with random weights."""
    folder.mkdir()
    config = load_model(PUBLISHED)
    paddle.seed(0)
    model = build_model(config, num_cameras=6)
    model.eval()
    sample = made_up(model, config)
    save_graphs(model, sample.inputs, folder)
    graphs = ("features", "boxes")
    record = to_onnx(folder, graphs, lambda found: compare_two(found, [sample.inputs], [sample.outputs]))
    if not record["written"]:
        raise SystemExit(f"The published model's graphs make no ONNX: {record['reason']}")
    print(f"\nThe published model, random weights, against the eager model: {record['max_relative_difference']}\n")
    return streaming(folder, list(sample.inputs[0].shape), options)


def made_up(model: Any, config: Any) -> Sample:
    """Run a model on random pictures of cameras all around."""
    import sys

    sys.path.insert(0, str(HERE))
    from tests.helpers.models import fake_batch

    batch = fake_batch(config, 1)

    class One:
        def load(self, index: int) -> dict[str, Any]:
            return {key: value[index] for key, value in batch.items()}

    return run_eager(model, One(), 0)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
