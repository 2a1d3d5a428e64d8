"""What a graphics card gives: one command, one table, one JSON file to compare with later.

    python benchmarks/gpu.py                                                     # published network, seed's weights, made-up streets
    python benchmarks/gpu.py --config config/presets/nuscenes-mini.yaml          # the run's model, weights, data and `expect:`
    python benchmarks/gpu.py --quick                                             # the small model, few steps: also on a CPU

Measured are training steps by batch size and mixed precision (samples/s, memory, ms by phase), the loader alone and with steps by
workers, evaluation, and the differences of boxes and scores between GPU and CPU and between trained and exported model. Each row is a
process of its own: where memory is full, the row says so. The GPU is kept from petrflow's other runs meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from petrflow.config import load_config, model_path
from petrflow.errors import PetrflowError
from petrflow.fetch.links import fetched_weights
from petrflow.files import write_json
from petrflow.machine.gpus import own_gpus, paddle_has_cuda
from petrflow.machine.hardware import ask_nvidia_smi, child_environment, cores
from petrflow.training.launch import PARENT

FORMAT = 1
"""Of the JSON file: raised where a field changes its meaning."""
MODELS = HERE / "config" / "models"
TINY_WEIGHTS = HERE / "resources" / "weights" / "petrv2_tiny" / "model.safetensors"
SECTIONS = ("steps", "loader", "parity", "scores")


def main() -> None:
    options = arguments()
    began = time.time()
    with own_gpus({"device": options.device}), tempfile.TemporaryDirectory(prefix="petrflow-gpu-") as folder:
        try:
            found = measure(options, Path(folder), card(options.device, Path(folder)))
        except PetrflowError as error:
            raise SystemExit(str(error)) from None
    found["seconds"] = round(time.time() - began, 1)
    show(found)
    write_json(options.out, found)
    if options.against:
        show_against(found, json.loads(options.against.read_text()))
    print(f"\nWritten: {options.out}")
    print(json.dumps(found))


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="config whose run's model, weights, data and expect: are taken")
    parser.add_argument("--run", help="which run of the config; the first one without it")
    parser.add_argument("--model", help="model file, or a name in config/models/, in place of the run's")
    parser.add_argument("--device", choices=("auto", "gpu", "cpu"), default="auto")
    parser.add_argument("--batches", type=int, nargs="+", help="batch sizes of steps")
    parser.add_argument(
        "--amp", nargs="+", help="none, O1, O2, with a type as in O1:float16 (bfloat16 without); on a CPU none alone"
    )
    parser.add_argument("--workers", type=int, nargs="+", help="processes that load")
    parser.add_argument("--steps", type=int, help="timed steps of a row")
    parser.add_argument("--samples", type=int, help="validation samples on which outputs are compared")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="the small model, few steps")
    parser.add_argument("--out", type=Path, default=Path("results") / "gpu-benchmark.json")
    parser.add_argument("--against", type=Path, help="an earlier JSON file: print the ratios to it")
    return parser.parse_args(given)


def fill(options: argparse.Namespace, on_gpu: bool) -> None:
    """Choose sizes that were not asked for."""
    options.on_gpu = on_gpu
    quick = options.quick
    small = quick or not options.on_gpu
    options.batches = options.batches or ([1, 2] if small else [1, 2, 4, 8])
    options.amp = options.amp or (["none", "O1", "O1:float16", "O2"] if options.on_gpu and not quick else ["none"])
    options.workers = options.workers or ([0] if quick else sorted({0, 2, 4, max(1, cores() - 1)}))
    options.steps = options.steps or (2 if quick else 20)
    options.samples = options.samples or (1 if quick else 4)


def card(device: str, folder: Path) -> dict[str, Any] | None:
    """Return the GPU that is used, as Paddle describes it in a process that sees this one alone; None for the CPU."""
    if device == "cpu" or (device == "auto" and not paddle_has_cuda()):
        return None
    found = row(folder, {}, {"device": device, "full_float32": False}, "card")
    if "failed" in found:
        raise PetrflowError(f"{found['failed']}: {found['message']}")
    return found if found["device"] != "cpu" else None


def measure(options: argparse.Namespace, folder: Path, gpu: dict[str, Any] | None) -> dict[str, Any]:
    """Run every row and return what the JSON file holds; what is there so far lies beside it as ``*.partial.json``."""
    fill(options, gpu is not None)
    about, data = subject(options, folder)
    common = {**data, "device": "auto" if options.on_gpu else "cpu", "warm": 1 if options.quick else 5}
    common |= {"steps": options.steps, "samples": options.samples, "workers": max(options.workers)}
    common |= {"batch": options.batches[0], "full_float32": False, "outputs": str(folder / "cpu.npz")}
    found: dict[str, Any] = {"benchmark": "gpu", "format": FORMAT, **about, **machine(options, gpu)}
    partial = options.out.with_suffix(".partial.json")
    for section, part, own in rows_of(options):
        found.setdefault(section, []).append(row(folder, own, common, part) if part else own)
        write_json(partial, found)
    partial.unlink(missing_ok=True)
    # Without the CPU's outputs there is nothing to compare with.
    reference = found.pop("reference", [{}])[0]
    for one in found.get("parity", []):
        if "failed" in reference and one["what"].startswith("GPU against CPU"):
            one.update(failed=reference["failed"], message=reference["message"])
    return found


def rows_of(options: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield section, part and own settings of every row, in the order in which they are measured."""
    if "steps" in options.sections:
        yield from (("steps", "steps", {"amp": amp, "batch": size}) for amp in options.amp for size in options.batches)
    if "loader" in options.sections:
        yield from (("loader", "loader", {"workers": count}) for count in options.workers)
    if "parity" in options.sections:
        if options.on_gpu:
            yield "reference", "outputs", {"device": "cpu", "full_float32": True}
            for full in (True, False):
                what = f"GPU against CPU, {'full float32' if full else 'TF32 allowed'}"
                yield "parity", "against_cpu", {"what": what, "full_float32": full}
        else:
            yield "parity", "", {"what": "GPU against CPU", "failed": "not run", "message": "no GPU is used"}
        yield "parity", "exporting", {"what": "exported against trained, full float32", "full_float32": True}
    if "scores" in options.sections:
        precisions = (False, True) if options.on_gpu else (True,)
        yield from (("scores", "scores", {"full_float32": full}) for full in precisions)


def row(folder: Path, own: dict[str, Any], common: dict[str, Any], part: str) -> dict[str, Any]:
    """Run one part in a process of its own and return its row: what is its own, then the answer."""
    request = folder / "request.json"
    request.write_text(json.dumps({**common, **own, "part": part}))
    (folder / "ANSWER.json").unlink(missing_ok=True)
    environment = {**child_environment(), PARENT: str(os.getpid())}  # it ends with this process
    if {**common, **own}["full_float32"]:
        environment["NVIDIA_TF32_OVERRIDE"] = "0"  # CUDA's libraries read it when they start
    print(f"{part}: {' '.join(str(value) for value in own.values())}", file=sys.stderr, flush=True)
    command = [sys.executable, str(Path(__file__).with_name("gpu_parts.py")), str(request)]
    done = subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True, check=False)
    if (folder / "ANSWER.json").exists():
        return {**own, **json.loads((folder / "ANSWER.json").read_text())}
    return {**own, **died(done.returncode, done.stderr)}


def died(code: int, stderr: str) -> dict[str, Any]:
    """Return what a process that left no answer died of. A kill by the kernel is what a full memory of the host looks like."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip(" -")]
    if code == -9:
        return {"failed": "killed", "message": "signal 9: the host's memory may have been full (see dmesg)"}
    return {"failed": f"ended with {code}", "message": lines[-1] if lines else "no message"}


# ----------------------------------------------------------------------------------------------------------- what is measured


def subject(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the JSON says of model and data, and what the parts need of them."""
    if options.config is None:
        name = options.model or (
            "petrv2_tiny" if options.quick or not options.on_gpu else "petrv2_vovnet_gridmask_p4_800x320"
        )
        model = model_path(name, [MODELS])
        weights = TINY_WEIGHTS if model == MODELS / "petrv2_tiny.yml" else None
        root, annotations, expect = *streets(options, folder), {}
    else:
        model, weights, root, annotations, expect = of_run(options)
    about = {
        "model": model.stem,
        "weights": os.path.relpath(weights) if weights else "none: those of seed 0",
        "data": "made-up streets" if options.config is None else os.path.relpath(root),
    }
    data = {
        "model": str(model.resolve()),
        "weights": str(weights.resolve()) if weights else "",
        "root": str(root.resolve()),
        "annotations": str(annotations.resolve()),
        "expect": expect,
    }
    return about, data


def of_run(options: argparse.Namespace) -> tuple[Path, Path | None, Path, Path, dict[str, Any]]:
    """Return a run's model file, weights, root, annotations and expected figures; refuse what is not there yet."""
    document = load_config([options.config])
    if document.mistakes:
        raise PetrflowError("\n".join(str(mistake) for mistake in document.mistakes))
    runs = document.values["runs"]
    name = options.run or next(iter(runs))
    if name not in runs:
        raise PetrflowError(f"{options.config} has no run {name!r}; it has {', '.join(runs)}.")
    run = runs[name]
    model = model_path(options.model or run["model"], [MODELS])
    source = run["weights"]
    if isinstance(source, dict):
        trained = Path("results") / str(source.get("run")) / "train" / "best_model" / "model.pdparams"
        source = trained if "run" in source else fetched_weights(source)
    weights = None if source is None else Path(source).expanduser()
    root, annotations = Path("data") / run["dataset"], Path("results") / run["dataset"] / "annotations"
    for path in (root, annotations / "train.arrow", annotations / "val.arrow", *([weights] if weights else [])):
        if not path.exists():
            raise PetrflowError(
                f"{path} is not there: `make run CONFIG={options.config} TARGET=baseline_all` makes what the run {name} needs"
            )
    return model, weights, root, annotations, run.get("expect") or {}


def streets(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Render a small data set; return its root and the folder of its annotations."""
    from petrflow.annotations import annotate
    from petrflow.sources.synthetic.generate import prepare

    size = {"keyframes": 2, "image_size": [400, 225]} if options.quick else {"keyframes": 8, "image_size": [1600, 900]}
    print("rendering a small data set", file=sys.stderr, flush=True)
    about, root, annotations = folder / "about", folder / "streets", folder / "annotations"
    prepare({"kind": "synthetic", "scenes": 2, "sweeps": 1, **size}, root, about, progress=False)
    annotations.mkdir()
    annotate(root, {split: annotations / f"{split}.arrow" for split in ("train", "val")}, about=about, progress=False)
    return root, annotations


def machine(options: argparse.Namespace, gpu: dict[str, Any] | None) -> dict[str, Any]:
    """Return what was measured on, and when."""
    if gpu:
        driver = [one.driver for one in ask_nvidia_smi().gpus]
        gpu = {**gpu, "driver": driver[0] if driver else "unknown", "taken": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": "gpu" if gpu else "cpu",
        "gpu": gpu,
        "cores": cores(),
        "load": os.getloadavg()[0],
        "platform": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            "paddle": paddle_version(),
            "petrflow": metadata.version("petrflow"),
        },
        "quick": options.quick,
    }


def paddle_version() -> str:
    """Return the installed Paddle's version without importing it: this process takes no GPU memory."""
    names = {one.metadata["Name"] for one in metadata.distributions()}
    return next(
        (f"{name} {metadata.version(name)}" for name in ("paddlepaddle-gpu", "paddlepaddle") if name in names), ""
    )


# ------------------------------------------------------------------------------------------------------------------- tables

PHASES = ("inputs", "forward", "loss", "backward", "clip", "check", "optimizer", "rest")
TABLES: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "steps": (
        "Training steps on one batch in memory (medians; phases wait for the device, so their sum exceeds the step)",
        [
            ("amp", "AMP", ""),
            ("batch", "batch", ""),
            ("samples_per_s", "samples/s", ".2f"),
            ("step_ms", "step, ms", ".1f"),
            *((f"phases_ms.{name}", f"{name}, ms", ".1f") for name in PHASES),
            ("gpu_peak_gb", "GPU allocated, GB", ".2f"),
            ("gpu_reserved_gb", "GPU reserved, GB", ".2f"),
            ("host_peak_gb", "host peak, GB", ".2f"),
            ("skipped_steps", "steps skipped", ""),
        ],
    ),
    "loader": (
        "The loader alone, and training on what it loads, without mixed precision",
        [
            ("workers", "workers", ""),
            ("batch", "batch", ""),
            ("first_batch_s", "first batch, s", ".2f"),
            ("loader_samples_per_s", "loader alone, samples/s", ".2f"),
            ("step_samples_per_s", "steps alone, samples/s", ".2f"),
            ("training_samples_per_s", "training, samples/s", ".2f"),
            ("waiting_percent", "waiting for the loader, %", ".1f"),
        ],
    ),
    "parity": (
        "Largest relative differences of outputs (bound of the export: 1e-3)",
        [
            ("what", "what", ""),
            ("samples", "samples", ""),
            ("boxes_relative", "boxes", ".1e"),
            ("scores_relative", "scores", ".1e"),
        ],
    ),
    "scores": (
        "Evaluation of the validation split, loading and judging included",
        [
            ("full_float32", "full float32", ""),
            ("samples", "samples", ""),
            ("samples_per_s", "samples/s", ".2f"),
            ("mAP", "mAP", ".4f"),
            ("NDS", "NDS", ".4f"),
            ("gpu_peak_gb", "GPU allocated, GB", ".2f"),
            ("host_peak_gb", "host peak, GB", ".2f"),
        ],
    ),
}


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    gpu, versions = found["gpu"], found["versions"]
    name = (
        f"{gpu['name']}, driver {gpu['driver']}, CUDA {gpu['cuda']}"
        if gpu
        else "CPU: nothing here was measured on a GPU"
    )
    print(f"{name}; {versions['paddle']}; {found['cores']} cores, load {found['load']:.1f}; {found['date']}")
    print(f"model {found['model']}; weights {found['weights']}; data {found['data']}")
    for section, (title, columns) in TABLES.items():
        if section in found:
            print(f"\n{title}\n")
            print("\n".join(table(found[section], columns)))
    for one in found.get("scores", []):
        if one.get("expect"):
            print(f"\nAgainst expect:, {'full float32' if one['full_float32'] else 'as trained'}\n")
            headings = ("metric", "expected", "tolerance", "found", "met")
            print("\n".join(table(one["expect"]["rows"], [(name, name, "") for name in headings])))


def table(rows: list[dict[str, Any]], columns: list[tuple[str, str, str]]) -> list[str]:
    """Return the lines of a table without empty columns; a row that failed says why in its last cell."""
    columns = [column for column in columns if any(cell(one, column[0], column[2]) for one in rows)]
    columns = [*columns, ("note", "", "")] if any("failed" in one for one in rows) else columns
    lines = [f"| {' | '.join(heading for _, heading, _ in columns)} |", "|---" * len(columns) + "|"]
    for one in rows:
        cells = [cell(one, key, form) for key, _, form in columns]
        if "failed" in one:
            cells[-1] = f"{one['failed']}: {one['message']}"
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def cell(one: dict[str, Any], key: str, form: str) -> str:
    """Return a figure of a row as text, or nothing where the row has none."""
    outer, _, inner = key.partition(".")
    value = one.get(outer, {}).get(inner) if inner else one.get(outer)
    return "" if value is None else format(value, form) if form else str(value)


def show_against(found: dict[str, Any], earlier: dict[str, Any]) -> None:
    """Print samples/s of this run over those of an earlier one, row by row of the same sizes."""
    if earlier.get("format") != FORMAT or earlier["model"] != found["model"]:
        raise SystemExit(
            f"The earlier file is of format {earlier.get('format')} and model {earlier.get('model')}: no comparison"
        )
    before = {(one["amp"], one["batch"]): one for one in earlier.get("steps", [])}
    rows = []
    for one in found.get("steps", []):
        other = before.get((one["amp"], one["batch"]), {})
        if "samples_per_s" in one and "samples_per_s" in other:
            rows.append(
                {**one, "earlier": other["samples_per_s"], "ratio": one["samples_per_s"] / other["samples_per_s"]}
            )
    where = (earlier["gpu"] or {"name": "CPU"})["name"]
    columns = [("amp", "AMP", ""), ("batch", "batch", ""), ("samples_per_s", "samples/s", ".2f")]
    columns += [("earlier", f"{where}, {earlier['date'][:10]}", ".2f"), ("ratio", "ratio", ".2f")]
    print("\n".join(["", *table(rows, columns)]))


if __name__ == "__main__":
    main()
