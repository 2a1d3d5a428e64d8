"""Model files: found by name, checked against their schema, and checked for what must agree inside
one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from petrflow.config.network import entries, image_channels
from petrflow.config.reading import Document, KeyPath, raise_all, read_yaml
from petrflow.config.schema import check, fill, schema_of
from petrflow.config.sentences import nearest, nearest_file
from petrflow.errors import PetrflowError
from petrflow.messages import _

_HEAD = ("model", "pts_bbox_head")
_DECODER = (*_HEAD, "transformer", "decoder")
_LAYER = (*_DECODER, "transformerlayers")


def model_path(name: str, folders: Iterable[Path]) -> Path:
    """Where a run's model file is: a path as it stands, or a name looked up in folders.

    Raises
    ------
    PetrflowError
        With the nearest name when there is none.
    """
    if name.endswith((".yml", ".yaml")):
        path = Path(name).expanduser()
        if path.is_file():
            return path
        stem = path.stem if path.name == name and _found(path.stem, folders) else None
        hint = _("; the name of a model stands without its ending: {stem}", stem=stem) if stem else nearest_file(path)
        raise PetrflowError(_("the model file {name} does not exist{hint}.", name=name, hint=hint))
    known: list[str] = []
    for folder in folders:
        if (folder / f"{name}.yml").is_file():
            return folder / f"{name}.yml"
        known += sorted(path.stem for path in folder.glob("*.yml"))
    raise PetrflowError(_("there is no model {name!r} in config/models/{hint}.", name=name, hint=nearest(name, known)))


def _found(name: str, folders: Iterable[Path]) -> bool:
    return any((folder / f"{name}.yml").is_file() for folder in folders)


def read_model(path: Path) -> Document:
    """Read a model file with every mistake in it; values are as written, without defaults."""
    document = read_yaml(path)
    if document.mistakes and not document.values:
        return document
    before = len(document.mistakes)
    _count_classes(document.values)
    filled = check(document, schema_of("model"))
    if len(document.mistakes) == before:
        for key, says in disagreements(filled):
            document.add(key, says)
    return document


def _count_classes(values: Any) -> None:
    """Fill in ``num_classes`` where a model file leaves it to ``class_names``."""
    names, head = _at(values, ("class_names",)), _at(values, _HEAD)
    for part in (head, _at(head, ("bbox_coder",))):
        if isinstance(names, list) and isinstance(part, dict):
            part.setdefault("num_classes", len(names))


def load_model(path: Path) -> dict[str, Any]:
    """Read and check a model file; what it leaves out stays left out, so that a new key with a
    default changes no fingerprint.

    Raises
    ------
    PetrflowError
        One sentence for each mistake.
    """
    document = read_model(path)
    raise_all(document.mistakes)
    return document.values


def with_model_defaults(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a model file's values with the schema's defaults filled in."""
    schema = schema_of("model")
    filled: dict[str, Any] = fill(model_config, schema, schema)
    return filled


def disagreements(model: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield key and sentence for everything in a model file, defaults filled in, that must agree
    and does not.
    """
    found = [*_classes(model), *_pictures(model), *_channels(model), *_layers(model), *_dense_head(model)]
    yield from found or _fresh(model)


def _fresh(model: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Beginnings of names under ``fresh`` that no entry of the network has."""
    names = list(entries(model)) if model["fresh"] else []
    for index, beginning in enumerate(model["fresh"]):
        parts = beginning.rstrip(".").split(".")
        if not any(name.split(".")[: len(parts)] == parts for name in names):
            known = {".".join(name.split(".")[: len(parts)]) for name in names}
            yield (
                ("fresh", index),
                _(
                    "no part of the network is called {beginning}{hint}.",
                    beginning=beginning,
                    hint=nearest(beginning, known),
                ),
            )


def _classes(model: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    count = len(model["class_names"])
    for path in ((*_HEAD, "num_classes"), (*_HEAD, "bbox_coder", "num_classes")):
        if _at(model, path) != count:
            yield (
                path,
                _(
                    "is {at}, and class_names holds {count} names; make them equal, or leave it out.",
                    at=_at(model, path),
                    count=count,
                ),
            )
    for name in model["judging"]:
        if name not in model["class_names"]:
            yield ("judging", name), _("is no class{hint}.", hint=nearest(str(name), model["class_names"]))


def _pictures(model: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    picture, backbone = model["input"], model["model"]["backbone"]
    for key in ("resize_lim", "bot_pct_lim", "rot_lim"):
        low, high = picture[key]
        if low > high:
            yield ("input", key), _("is [{low}, {high}]: the smaller number comes first.", low=low, high=high)
    if min(picture["bot_pct_lim"]) < 0 or max(picture["bot_pct_lim"]) >= 1:
        yield (
            ("input", "bot_pct_lim"),
            _("is {bot_pct_lim}: both must be at least 0 and below 1.", bot_pct_lim=picture["bot_pct_lim"]),
        )
    for key in ("rotation", "scale"):
        low, high = model["augmentation"][key]
        if low > high:
            yield ("augmentation", key), _("is [{low}, {high}]: the smaller number comes first.", low=low, high=high)
        elif key == "scale" and low <= 0:
            yield ("augmentation", key), _("is [{low}, {high}]: both must be above 0.", low=low, high=high)
        elif key == "rotation" and max(abs(low), abs(high)) > 6.2832:
            yield (
                ("augmentation", key),
                _("is [{low}, {high}] rad, more than a whole turn: give radians, not degrees.", low=low, high=high),
            )
    if picture["resize_lim"][0] <= 0:
        yield ("input", "resize_lim"), _("is {resize_lim}: both must be above 0.", resize_lim=picture["resize_lim"])
    if picture["sweep_range"][0] >= picture["sweep_range"][1]:
        yield (
            ("input", "sweep_range"),
            _("is {sweep_range}: the first must be below the second.", sweep_range=picture["sweep_range"]),
        )
    if min(picture["std"]) <= 0:
        yield ("input", "std"), _("is {std}: all must be above 0.", std=picture["std"])
    stride = max(_STRIDES[name] for name in backbone["out_features"])
    divisor = picture["size_divisor"]
    padded = [-(-side // divisor) * divisor for side in picture["image_size"]]
    if any(side % stride for side in padded):
        yield (
            ("input", "size_divisor"),
            _(
                "pads image_size {image_size} to {padded}, which is no multiple of {stride}, the stride of the backbone's last output; use {stride}.",
                image_size=picture["image_size"],
                padded=padded,
                stride=stride,
            ),
        )
    own, coder = picture["point_cloud_range"], (*_HEAD, "bbox_coder", "point_cloud_range")
    if [float(x) for x in own] != [float(x) for x in _at(model, coder)]:
        yield coder, _("is {at}, and input.point_cloud_range is {own}; make them equal.", at=_at(model, coder), own=own)
    for path in (("input", "point_cloud_range"), (*_HEAD, "position_range")):
        low, high = _at(model, path)[:3], _at(model, path)[3:]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            yield (
                path,
                _(
                    "is {at}: x, y, z of the smallest corner come first, then those of the largest.",
                    at=_at(model, path),
                ),
            )


_STRIDES = {"stem": 4, "stage2": 4, "stage3": 8, "stage4": 16, "stage5": 32}


def _channels(model: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    backbone, neck, head = (model["model"][part] for part in ("backbone", "neck", "pts_bbox_head"))
    if ("spec" in backbone) == ("spec_name" in backbone):
        yield ("model", "backbone"), _("needs one of spec_name and spec.")
        return
    channels = image_channels(backbone)
    stem = backbone.get("spec", {}).get("stem")
    if stem is not None and len(stem) == 2:
        yield ("model", "backbone", "spec", "stem"), _("has one or three channel counts, not two.")
        return
    if list(neck["in_channels"]) != channels:
        yield (
            ("model", "neck", "in_channels"),
            _(
                "is {in_channels}, and the backbone's {outputs} have {channels} channels; make them equal.",
                in_channels=neck["in_channels"],
                outputs=", ".join(backbone["out_features"]),
                channels=channels,
            ),
        )
    if neck["num_outs"] != len(neck["in_channels"]):
        yield (
            ("model", "neck", "num_outs"),
            _(
                "is {num_outs}, and in_channels holds {count}; make them equal.",
                num_outs=neck["num_outs"],
                count=len(neck["in_channels"]),
            ),
        )
    if head["in_channels"] != neck["out_channels"]:
        yield (
            (*_HEAD, "in_channels"),
            _(
                "is {in_channels}, and model.neck.out_channels is {out_channels}; make them equal.",
                in_channels=head["in_channels"],
                out_channels=neck["out_channels"],
            ),
        )
    width = head["embed_dims"]
    if 2 * head["positional_encoding"]["num_feats"] != width:
        path = (*_HEAD, "positional_encoding", "num_feats")
        yield path, _("is {at}, and must be half of embed_dims, which is {width}.", at=_at(model, path), width=width)
    wanted = "embed_dims" if head["transformer"]["type"] == "PETRDNTransformer" else "decoder_embed_dims"
    other = "decoder_embed_dims" if wanted == "embed_dims" else "embed_dims"
    if wanted not in head["transformer"]:
        yield (
            (*_HEAD, "transformer"),
            _("the key {wanted!r} is missing, which {type} needs.", wanted=wanted, type=head["transformer"]["type"]),
        )
    if other in head["transformer"]:
        yield (
            (*_HEAD, "transformer", other),
            _("{type} knows {wanted!r} and not this key.", type=head["transformer"]["type"], wanted=wanted),
        )
    layer = _at(model, _LAYER)
    paths: list[KeyPath] = [
        (*_LAYER, "attns", 0, "embed_dims"),
        (*_LAYER, "attns", 1, "embed_dims"),
        (*_HEAD, "transformer", wanted),
    ]
    for place in paths:
        if _at(model, place, width) != width:
            yield (
                place,
                _("is {at}, and the head's embed_dims is {width}; make them equal.", at=_at(model, place), width=width),
            )
    feed_forward = layer.get("ffn_cfgs", {}).get("embed_dims", 256)
    if feed_forward != width:
        yield (
            (*_LAYER, "ffn_cfgs", "embed_dims"),
            _(
                "is {feed_forward}, and the head's embed_dims is {width}; make them equal.",
                feed_forward=feed_forward,
                width=width,
            ),
        )


def _layers(model: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    head, decoder, layer = model["model"]["pts_bbox_head"], _at(model, _DECODER), _at(model, _LAYER)
    if head["num_pred"] != decoder["num_layers"]:
        yield (
            (*_HEAD, "num_pred"),
            _(
                "is {num_pred}, and transformer.decoder.num_layers is {num_layers}; make them equal.",
                num_pred=head["num_pred"],
                num_layers=decoder["num_layers"],
            ),
        )
    for index, attention in enumerate(layer["attns"]):
        if attention["embed_dims"] % attention["num_heads"]:
            yield (
                (*_LAYER, "attns", index, "num_heads"),
                _(
                    "is {num_heads}, which does not divide {embed_dims}.",
                    num_heads=attention["num_heads"],
                    embed_dims=attention["embed_dims"],
                ),
            )
    order = layer["operation_order"]
    if (order.count("self_attn"), order.count("cross_attn"), order.count("ffn"), order.count("norm")) != (1, 1, 1, 3):
        yield (*_LAYER, "operation_order"), _("holds self_attn, cross_attn and ffn once and norm three times.")
    if head["with_denoise"] != (head["transformer"]["type"] == "PETRDNTransformer"):
        yield (
            (*_HEAD, "transformer", "type"),
            _("is PETRDNTransformer with with_denoise: true and PETRTransformer without; make them agree."),
        )
    if head["with_multi"] and sum(head["group_reg_dims"]) != 10:
        yield (
            (*_HEAD, "group_reg_dims"),
            _("is {group_reg_dims}, whose sum must be 10.", group_reg_dims=head["group_reg_dims"]),
        )


def _dense_head(model: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    head = model["model"]["pts_bbox_head"]
    if not head["monocular"]:
        for key in ("proposals", "keys", "point_prior"):
            if head[key]:
                yield (*_HEAD, key), _("needs monocular above 0: it is about what that head sees.")
    if head["proposals"] >= head["num_query"]:
        yield (
            (*_HEAD, "proposals"),
            _(
                "is {proposals}: num_query, {num_query}, must be more, some reference points are learned.",
                proposals=head["proposals"],
                num_query=head["num_query"],
            ),
        )
    heads = _at(model, (*_LAYER, "attns", 1, "num_heads"))
    if head["point_prior"] and len(head["point_prior"]) != heads:
        yield (
            (*_HEAD, "point_prior"),
            _(
                "holds {count} strengths, and the cross attention has {heads} heads; give one each.",
                count=len(head["point_prior"]),
                heads=heads,
            ),
        )


def _at(values: Any, path: KeyPath, default: Any = None) -> Any:
    for key in path:
        try:
            values = values[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return default
    return values
