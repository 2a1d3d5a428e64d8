"""Exported graphs as ONNX."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from petrflow.export.exported import GRAPHS, OnnxGraph, files_of
from petrflow.export.parity import Parity

OPSET = 17
"""Of the ONNX files. TensorRT reads 17 from 8.6 on; it has LayerNormalization, which takes six
operators in older ones.
"""

TIMEOUT = 900
"""Seconds that a conversion may take."""


class NoOnnx(Exception):
    """There is no ONNX file; the text says why."""


def missing() -> str:
    """Say why no ONNX can be written here; '' where it can."""
    if not _installed("paddle2onnx"):
        why = ": it has no build for Python 3.13 and newer" if sys.version_info >= (3, 13) else ""
        return f"paddle2onnx is not installed{why}"
    return "" if _installed("onnxruntime") else "onnxruntime is not installed"


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # it is in sys.modules without a spec
        return False


def to_onnx(
    folder: Path, graphs: tuple[str, ...], compared: Callable[[dict[str, OnnxGraph]], Parity]
) -> dict[str, Any]:
    """Try to write ``GRAPH.onnx`` beside static graphs; says what came of it, and never fails.

    Parameters
    ----------
    folder : Path
        Holds the static graphs.
    graphs : names in :data:`GRAPHS`
        Of those that make one model; all of them are kept or none.
    compared : function
        Runs the ONNX graphs against the eager model.
    """
    if reason := missing():
        return {"written": False, "reason": reason}
    try:
        for graph in graphs:
            convert(folder, graph)
            simplify(folder / f"{graph}.onnx", graph)
        parity = compared({graph: OnnxGraph(folder / f"{graph}.onnx", graph) for graph in graphs})
        if not parity.holds:
            raise NoOnnx(f"ONNX differs by {parity.boxes:.2g} (boxes), {parity.scores:.2g} (scores)")
    except Exception as error:  # onnxruntime raises classes of its own
        for graph in graphs:
            (folder / f"{graph}.onnx").unlink(missing_ok=True)
        return {"written": False, "reason": str(error)}
    return {
        "written": True,
        "checked": True,
        "opset": OPSET,
        "max_relative_difference": {"boxes": parity.boxes, "scores": parity.scores},
    }


def convert(folder: Path, graph: str) -> None:
    """Let paddle2onnx write ``GRAPH.onnx``, in a process of its own: it aborts on programs that it
    cannot read.
    """
    target = folder / f"{graph}.onnx"
    program, parameters = files_of(graph)
    code = "from paddle2onnx.command import main; main()"
    arguments = ["--model_dir", str(folder), "--model_filename", program, "--params_filename", parameters]
    # paddle2onnx's default tool, Polygraphy, pip installs what it misses from NVIDIA's index.
    arguments += ["--save_file", str(target), "--opset_version", str(OPSET), "--optimize_tool", "None"]
    command = [sys.executable, "-c", code, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoOnnx(str(error)) from None
    if done.returncode or not target.is_file():
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line or "not support" in line]
        raise NoOnnx((errors or lines or [f"paddle2onnx ended with {done.returncode}"])[-1])


def simplify(path: Path, graph: str) -> None:
    """Fold constants, drop operators that do nothing (onnxruntime's basic level: standard ONNX
    comes out), name what goes in and out.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path.with_suffix(".simple"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(options.optimized_model_filepath)
    Path(options.optimized_model_filepath).unlink()
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    names = dict(zip([output.name for output in model.graph.output], GRAPHS[graph][1], strict=True))
    for node in model.graph.node:
        for place in (node.input, node.output):
            place[:] = [names.get(name, name) for name in place]
    for value in [*model.graph.output, *model.graph.input]:
        value.name = names.get(value.name, value.name)
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = "pictures"
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
