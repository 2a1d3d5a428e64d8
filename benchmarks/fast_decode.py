"""What fast_decode does to a trained model's figures: the same weights evaluated with and without it.

python benchmarks/fast_decode.py --model config/models/NAME.yml --weights MODEL.pdparams --annotations VAL.arrow --root DATASET
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path

import yaml

from petrflow.annotations import AnnotationStore
from petrflow.evaluation.evaluate import evaluate
from petrflow.model import build_model
from petrflow.weights.load import load_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--weights", "--annotations", "--root"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=1)
    arguments = parser.parse_args()
    config = yaml.safe_load(arguments.model.read_text())
    model = build_model(config, num_cameras=len(AnnotationStore.open(arguments.annotations).camera_names))
    load_weights(model, arguments.weights)
    model.eval()
    figures = {}
    print(f"{'':12}{'mAP':>8}{'NDS':>8}{'seconds':>9}")
    for side in ("exact", "fast_decode"):
        config = copy.deepcopy(config)
        config["input"]["fast_decode"] = side == "fast_decode"
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            metrics = evaluate(
                model,
                arguments.annotations,
                arguments.root,
                config,
                Path(folder) / "baseline",
                batch_size=arguments.batch_size,
            )
        figures[side] = {key: round(float(metrics[key]), 5) for key in ("mAP", "NDS")}
        print(f"{side:12}{metrics['mAP']:8.4f}{metrics['NDS']:8.4f}{time.perf_counter() - start:9.1f}")
    print(json.dumps({**figures, "mAP_change": round(figures["fast_decode"]["mAP"] - figures["exact"]["mAP"], 5)}))


if __name__ == "__main__":
    main()
