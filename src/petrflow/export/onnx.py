"""An exported model as ONNX."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

from petrflow.export.exported import FILES, INPUTS
from petrflow.export.parity import Parity, compare


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # it is in sys.modules without a spec
        return False


def to_onnx(folder: Path, inputs: list[Any], expected: list[Any]) -> dict[str, Any]:
    """Try ``model.onnx`` beside the static model; says what came of it, and never fails.

    paddle2onnx runs in a process of its own: it aborts on programs that it cannot read.
    """
    if not _installed("paddle2onnx"):
        why = ": it has no build for Python 3.13 and newer" if sys.version_info >= (3, 13) else ""
        return {"written": False, "reason": f"paddle2onnx is not installed{why}"}
    target = folder / "model.onnx"
    arguments = ["--model_dir", str(folder), "--model_filename", FILES[0], "--params_filename", FILES[1]]
    command = [
        sys.executable,
        "-c",
        "from paddle2onnx.command import main; main()",
        *arguments,
        "--save_file",
        str(target),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"written": False, "reason": str(error)}
    if done.returncode or not target.is_file():
        target.unlink(missing_ok=True)
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        told = [line for line in lines if "Error" in line or "not support" in line]
        return {"written": False, "reason": (told or lines or [f"paddle2onnx ended with {done.returncode}"])[-1]}
    try:
        import onnxruntime
    except ImportError:
        return {"written": True, "checked": False, "reason": "onnxruntime is not installed"}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    outputs = [
        tuple(session.run(None, dict(zip(INPUTS, arrays, strict=True))))
        for arrays in inputs
        if set(names) == set(INPUTS)
    ]
    parity = compare(expected[: len(outputs)], outputs) if outputs else Parity(float("nan"), float("nan"))
    if not parity.holds:
        target.unlink()
        return {"written": False, "reason": f"ONNX differs by {parity.boxes:.2g} (boxes), {parity.scores:.2g} (scores)"}
    return {
        "written": True,
        "checked": True,
        "max_relative_difference": {"boxes": parity.boxes, "scores": parity.scores},
    }
