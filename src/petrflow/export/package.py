"""What makes an export usable without petrflow: its facts, its page and a runner."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from petrflow.export.onnx import OPSET
from petrflow.files import atomic_path, write_atomic, write_json
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.transforms import SECONDS_PER_SWEEP, no_augmentation

LOOKED_AT = 100
"""Keyframes from which the age of a previous frame is taken."""


def before_seconds(dataset: PetrDataset) -> float:
    """Return how old the first picture of the moment before is where the model is evaluated, s.

    The data set counts frames, whose rate is the data's, or chooses by time.
    """
    if not dataset.settings.previous_frame:
        return 0.0  # no moment is so young: every one is paired with itself
    if dataset.by_time:
        return int(sum(dataset.settings.sweep_range) / 2) / dataset.settings.frames_per_second
    count = int(sum(dataset.settings.sweep_range) / 2)
    ages = []
    for place in np.linspace(0, len(dataset) - 1, min(LOOKED_AT, len(dataset))).astype(int):
        keyframe = dataset.store[int(dataset.indices[place])]
        if keyframe.num_sweeps >= count:
            ages.append((keyframe.timestamp - int(keyframe.sweep(count - 1).image_timestamps[0])) / 1e6)
    return round(float(np.median(ages)), 3) if ages else count * SECONDS_PER_SWEEP


def facts(
    dataset: PetrDataset, cameras: Sequence[str], record: Mapping[str, Any], features: Sequence[int]
) -> dict[str, Any]:
    """Return all that a program needs to know to run an export, as ``deploy.json`` holds it.

    Parameters
    ----------
    dataset : PetrDataset
        Of validation.
    cameras : names in the order of the model's inputs
    record : mapping
        What ``parity.json`` holds.
    features : (C, h, w)
        Of one picture's features.
    """
    settings, count = dataset.settings, len(cameras)
    queries, classes = record["outputs"]["class_logits"][1:]
    images, stack = [3, *settings.padded_size], [count, *features]
    middle = sum(settings.sweep_range) / 2
    outputs = {"class_logits": [1, queries, classes], "box_codes": [1, queries, 10]}
    return {
        "num_cameras": count,
        "cameras": list(cameras),
        "class_names": list(settings.class_names),
        "input": {
            "channels": "BGR",
            "image_size": list(settings.image_size),
            "padded_size": list(settings.padded_size),
            "bottom_share": no_augmentation(settings).bottom,
            "mean": list(settings.mean),
            "std": list(settings.std),
        },
        "before": {"seconds": before_seconds(dataset), "seconds_if_none": middle * SECONDS_PER_SWEEP},
        "decode": record["decode"],
        "opset": OPSET,
        "graphs": {
            "features": {
                "file": "features.onnx",
                "inputs": {"images": ["pictures", *images]},
                "outputs": {"features": ["pictures", *features]},
            },
            "boxes": {
                "file": "boxes.onnx",
                "inputs": {
                    "features_now": stack,
                    "features_before": stack,
                    "img2lidars": [1, 2 * count, 4, 4],
                    "timestamps": [1, 2 * count],
                },
                "outputs": outputs,
            },
        },
    }


def write_package(folder: Path, found: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Write ``deploy.json``, ``README.md`` and ``runner.py`` into an export folder.

    Parameters
    ----------
    found : mapping
        What :func:`facts` returns.
    record : mapping
        What ``parity.json`` holds.
    """
    write_json(folder / "deploy.json", found)
    source = resources.files("petrflow.export")
    with resources.as_file(source / "runner.py") as runner, atomic_path(folder / "runner.py") as path:
        shutil.copyfile(runner, path)
    write_atomic(folder / "README.md", page(found, record))


def page(found: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Return the text of ``README.md``: the template with this export's numbers."""
    picture, before, decoding = found["input"], found["before"], found["decode"]
    text = Template((resources.files("petrflow.export") / "README.template.md").read_text(encoding="utf-8"))
    two = record["two_graphs"]
    low, high = decoding["centre_range"][:3], decoding["centre_range"][3:]
    rows = {"mean": _row(picture["mean"]), "std": _row(picture["std"])}
    graphs = [
        f"| `{graph}` | {side} | `{name}` | {_row(shape)} |"
        for graph, about in found["graphs"].items()
        for side in ("inputs", "outputs")
        for name, shape in about[side].items()
    ]
    onnx = record["onnx_two_graphs"]
    return text.substitute(
        rows,
        cameras=", ".join(f"`{name}`" for name in found["cameras"]),
        count=found["num_cameras"],
        twice=2 * found["num_cameras"],
        classes=", ".join(f"{place} {name}" for place, name in enumerate(found["class_names"])),
        height=picture["image_size"][0],
        width=picture["image_size"][1],
        padded_height=picture["padded_size"][0],
        padded_width=picture["padded_size"][1],
        bottom=repr(picture["bottom_share"]),
        seconds=repr(round(before["seconds"], 6))
        if before["seconds"]
        else "0, that is none: this model is shown one moment",
        seconds_if_none=repr(round(before["seconds_if_none"], 6)),
        max_num=decoding["max_num"],
        low=_row(low),
        high=_row(high),
        opset=found["opset"],
        graphs="\n".join(graphs),
        parity=f"{two['boxes']:.1e} (boxes) and {two['scores']:.1e} (scores)",
        tolerance=record["tolerance"],
        onnx="The ONNX graphs were written and compared likewise."
        if onnx["written"]
        else f"**This export has no ONNX** ({onnx['reason']}): `runner.py` needs it.",
    )


def _row(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values)
