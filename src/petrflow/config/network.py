"""Names and shapes of a network's entries, computed from its model file alone.

Building the network takes Paddle and ten seconds; a weights file must be looked at before the first
job, in one. A test builds the networks of several model files and holds these names and shapes
against them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Entry = tuple[str, tuple[int, ...]]

# (stem, stage_conv_ch, stage_out_ch, layer_per_block, block_per_stage, dw) of Paddle3D's VoVNets.
_VOVNETS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int, tuple[int, ...], bool]] = {
    "V-19-slim-dw-eSE": ((64, 64, 64), (64, 80, 96, 112), (112, 256, 384, 512), 3, (1, 1, 1, 1), True),
    "V-19-dw-eSE": ((64, 64, 64), (128, 160, 192, 224), (256, 512, 768, 1024), 3, (1, 1, 1, 1), True),
    "V-19-slim-eSE": ((64, 64, 128), (64, 80, 96, 112), (112, 256, 384, 512), 3, (1, 1, 1, 1), False),
    "V-19-eSE": ((64, 64, 128), (128, 160, 192, 224), (256, 512, 768, 1024), 3, (1, 1, 1, 1), False),
    "V-39-eSE": ((64, 64, 128), (128, 160, 192, 224), (256, 512, 768, 1024), 5, (1, 1, 2, 2), False),
    "V-57-eSE": ((64, 64, 128), (128, 160, 192, 224), (256, 512, 768, 1024), 5, (1, 1, 4, 3), False),
    "V-99-eSE": ((64, 64, 128), (128, 160, 192, 224), (256, 512, 768, 1024), 5, (1, 3, 9, 3), False),
}

PUBLISHED_CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip
"""Classes of published PETR weights, in the order of their outputs."""

CONSTANTS = ("pts_bbox_head.code_weights",)
"""Entries that the model file says; no weights file may overwrite them."""


def entries(model_config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every entry of a network's state.

    Parameters
    ----------
    model_config : mapping
        A checked model file with the schema's defaults
        (:func:`petrflow.config.with_model_defaults`).
    """
    model = model_config["model"]
    return dict([*_head(model["pts_bbox_head"]), *_backbone(model["backbone"]), *_neck(model["neck"])])


def parameter_count(model_config: Mapping[str, Any]) -> int:
    """Return how many numbers a network holds, running statistics included, as published counts
    do.
    """
    return sum(math.prod(shape) for shape in entries(model_config).values())


def image_channels(backbone: Mapping[str, Any]) -> list[int]:
    """Return the channels of each of a backbone's ``out_features``, in the network's order."""
    stem, _, out, _, _, _ = _sizes(backbone)
    channels = dict(zip(("stem", "stage2", "stage3", "stage4", "stage5"), (stem[-1], *out), strict=True))
    return [count for name, count in channels.items() if name in backbone["out_features"]]


def class_heads(names: Iterable[str]) -> set[str]:
    """Return the entries whose shape depends on the number of classes."""
    branches: dict[str, list[int]] = {}
    found = set()
    for name in names:
        parts = name.split(".")
        if parts[:2] == ["pts_bbox_head", "cls_branches"]:
            branches.setdefault(".".join(parts[:3]), []).append(int(parts[3]))
        elif parts[:2] == ["pts_bbox_head", "monocular"] and parts[2] in ("classes", "embed"):
            found.add(name)
    for branch, layers in branches.items():  # the last layer of a branch
        found |= {f"{branch}.{max(layers)}.{part}" for part in ("weight", "bias")}
    return found


def _sizes(backbone: Mapping[str, Any]) -> tuple[Any, Any, Any, int, Any, bool]:
    if "spec" in backbone:
        spec = backbone["spec"]
        return (
            spec["stem"],
            spec["stage_conv_ch"],
            spec["stage_out_ch"],
            spec["layer_per_block"],
            spec["block_per_stage"],
            spec["dw"],
        )
    return _VOVNETS[backbone["spec_name"]]


def _linear(name: str, inputs: int, outputs: int) -> Iterator[Entry]:
    yield f"{name}.weight", (inputs, outputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[Entry]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _convolution(name: str, inputs: int, outputs: int, size: int = 1) -> Iterator[Entry]:
    yield f"{name}.weight", (outputs, inputs, size, size)
    yield f"{name}.bias", (outputs,)


# ------------------------------------------------------------------------------------------------------------------ image network


def _unit(name: str, inputs: int, outputs: int, size: int) -> Iterator[Entry]:
    """A convolution without bias, then normalisation."""
    yield f"{name}/conv.weight", (outputs, inputs, size, size)
    yield from _batch_norm(f"{name}/norm", outputs)


def _depthwise(name: str, inputs: int, outputs: int) -> Iterator[Entry]:
    yield f"{name}/dw_conv3x3.weight", (outputs, inputs // outputs, 3, 3)
    yield f"{name}/pw_conv1x1.weight", (outputs, inputs, 1, 1)
    yield from _batch_norm(f"{name}/pw_norm", outputs)


def _batch_norm(name: str, width: int) -> Iterator[Entry]:
    yield from _norm(name, width)
    yield f"{name}._mean", (width,)
    yield f"{name}._variance", (width,)


def _backbone(backbone: Mapping[str, Any]) -> Iterator[Entry]:
    stem, convolved, out, layers, blocks, depthwise = _sizes(backbone)
    colours = backbone["input_ch"]
    if len(stem) == 1:
        yield from _unit("backbone.stem.stem_1", colours, stem[0], 7)
    else:
        yield from _unit("backbone.stem.stem_1", colours, stem[0], 3)
        for number, (inputs, outputs) in enumerate(((stem[0], stem[1]), (stem[1], stem[2])), 2):
            name = f"backbone.stem.stem_{number}"
            yield from _depthwise(name, inputs, outputs) if depthwise else _unit(name, inputs, outputs, 3)
    inputs = stem[-1]
    for index in range(4):
        stage = index + 2
        for block in range(1, blocks[index] + 1):
            name = f"OSA{stage}_{block}"
            path = f"backbone.stage{stage}.{name}"
            yield from _block(path, name, inputs, convolved[index], out[index], layers, depthwise)
            inputs = out[index]


def _block(
    path: str, name: str, inputs: int, width: int, outputs: int, layers: int, depthwise: bool
) -> Iterator[Entry]:
    if depthwise and inputs != width:
        yield from _unit(f"{path}.conv_reduction.{name}_reduction_0", inputs, width, 1)
    for layer in range(layers):
        unit = f"{path}.layers.{layer}.{name}_{layer}"
        if depthwise:
            yield from _depthwise(unit, width, width)
        else:
            yield from _unit(unit, inputs if layer == 0 else width, width, 3)
    yield from _unit(f"{path}.concat.{name}_concat", inputs + layers * width, outputs, 1)
    yield from _convolution(f"{path}.ese.fc", outputs, outputs)


def _neck(neck: Mapping[str, Any]) -> Iterator[Entry]:
    for index, inputs in enumerate(neck["in_channels"]):
        yield from _convolution(f"neck.lateral_convs.{index}.conv", inputs, neck["out_channels"])
    yield from _convolution("neck.fpn_convs.0.conv", neck["out_channels"], neck["out_channels"], 3)


# ------------------------------------------------------------------------------------------------------------------ head


def _head(head: Mapping[str, Any]) -> Iterator[Entry]:
    width, name = head["embed_dims"], "pts_bbox_head"
    yield f"{name}.code_weights", (len(head["code_weights"]),)
    yield from _convolution(f"{name}.input_proj", head["in_channels"], width)
    for layer in range(head["num_pred"]):
        yield from _class_branch(f"{name}.cls_branches.{layer}", width, head)
    for layer in range(head["num_pred"]):
        yield from _box_branch(f"{name}.reg_branches.{layer}", width, head)
    for part, inputs in (("adapt_pos3d", width * 3 // 2), ("position_encoder", 3 * head["depth_num"])):
        yield from _convolution(f"{name}.{part}.0", inputs, 4 * width)
        yield from _convolution(f"{name}.{part}.2", 4 * width, width)
    yield f"{name}.reference_points.weight", (head["num_query"] - head["proposals"], 3)
    yield from _linear(f"{name}.query_embedding.0", width * 3 // 2, width)
    yield from _linear(f"{name}.query_embedding.2", width, width)
    if head["with_fpe"]:
        yield from _convolution(f"{name}.fpe.conv_reduce", width, width)
        yield from _convolution(f"{name}.fpe.conv_expand", width, width)
    if head["monocular"]:
        classes = head["num_classes"]
        yield from _linear(f"{name}.monocular.hidden", width, 2 * width)
        yield from _linear(f"{name}.monocular.classes", 2 * width, classes)
        yield from _linear(f"{name}.monocular.boxes", 2 * width, 10)
        yield from _linear(f"{name}.monocular.embed", classes + 10, width)
    yield from _decoder(f"{name}.transformer.decoder", width, head["transformer"]["decoder"])


def _class_branch(name: str, width: int, head: Mapping[str, Any]) -> Iterator[Entry]:
    for index in range(head["num_reg_fcs"]):
        yield from _linear(f"{name}.{3 * index}", width, width)
        yield from _norm(f"{name}.{3 * index + 1}", width)
    yield from _linear(f"{name}.{3 * head['num_reg_fcs']}", width, head["num_classes"])


def _box_branch(name: str, width: int, head: Mapping[str, Any]) -> Iterator[Entry]:
    fcs = head["num_reg_fcs"]
    if not head["with_multi"]:
        for index in range(fcs):
            yield from _linear(f"{name}.{2 * index}", width, width)
        yield from _linear(f"{name}.{2 * fcs}", width, 10)
        return
    for index in range(fcs):
        yield from _linear(f"{name}.reg_branch.{3 * index}", width, width)
    for group, codes in enumerate(head["group_reg_dims"]):
        yield from _linear(f"{name}.task_heads.{group}.0", width, width)
        yield from _linear(f"{name}.task_heads.{group}.2", width, codes)


def _decoder(name: str, width: int, decoder: Mapping[str, Any]) -> Iterator[Entry]:
    hidden = decoder["transformerlayers"]["feedforward_channels"]
    for layer in range(decoder["num_layers"]):
        path = f"{name}.layers.{layer}"
        for attention in range(2):
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield from _linear(f"{path}.attentions.{attention}.attn.{part}", width, width)
        yield from _linear(f"{path}.ffns.0.layers.0.0", width, hidden)
        yield from _linear(f"{path}.ffns.0.layers.1", hidden, width)
        for norm in range(3):
            yield from _norm(f"{path}.norms.{norm}", width)
    yield from _norm(f"{name}.post_norm", width)
