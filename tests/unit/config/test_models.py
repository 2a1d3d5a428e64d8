"""Model files: mistakes with the nearest name, what must agree, and the network's entries known without Paddle."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from petrflow.config import load_model, read_model, with_model_defaults
from petrflow.config.models import disagreements
from petrflow.config.network import entries, image_channels, parameter_count
from tests.helpers.models import MODELS, read_model_config, small_model_config

TINY = read_model_config("petrv2_tiny")
HEAD = ("model", "pts_bbox_head")
LAYER = (*HEAD, "transformer", "decoder", "transformerlayers")


def changed(*keys: Any, value: Any) -> dict[str, Any]:
    """The tiny model file with one key of another value; ``KeyError`` removes it."""
    model = copy.deepcopy(TINY)
    entry: Any = model
    for key in keys[:-1]:
        entry = entry[key]
    if value is KeyError:
        del entry[keys[-1]]
    else:
        entry[keys[-1]] = value
    return model


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        ((*HEAD, "num_querry"), 3, "model.pts_bbox_head.num_querry: unknown key; did you mean 'num_query'"),
        (("model", "backbone", "typ"), "x", "model.backbone.typ: unknown key; did you mean 'type'"),
        (("model", "backbone", "type"), "VoVNetPC", "'VoVNetPC' is none of VoVNetCP; did you mean 'VoVNetCP'"),
        (("inputs",), {}, "inputs: unknown key; did you mean 'input'"),
        (("class_names",), ["car", " "], "class_names[1]: is empty"),
        (("judging",), {"kart": {"range": 20}}, "judging.kart: is no class"),
        (("class_names",), ["car", "car"], "class_names: names something twice"),
        (("input", "image_size"), KeyError, "input: the key 'image_size' is missing"),
        (("input", "image_size"), [320], "input.image_size: must be a list of 2 values"),
        (("input", "mean"), None, "input.mean: must be a list, not null"),
        (("input", "resize_lim"), [0.0, 0.5], "input.resize_lim: is [0.0, 0.5]: both must be above 0"),
        (("input", "mean"), [1, 2], "input.mean: must be a list of 3 values"),
        ((*HEAD, "code_weights"), [1.0] * 8, "code_weights: must be a list of 10 values"),
        ((*HEAD, "num_query"), "many", "num_query: must be a whole number, not 'many'"),
        ((*HEAD, "with_time"), False, "with_time: false is none of true"),
        ((*HEAD, "num_classes"), 9, "model.pts_bbox_head.num_classes: is 9, and class_names holds 10 names"),
        ((*HEAD, "bbox_coder", "num_classes"), 9, "bbox_coder.num_classes: is 9, and class_names holds 10 names"),
        ((*HEAD, "num_pred"), 6, "num_pred: is 6, and transformer.decoder.num_layers is 3"),
        (("input", "size_divisor"), 36, "no multiple of 32"),
        (("input", "image_size"), [100, 290], None),
        (("input", "resize_lim"), [0.5, 0.2], "the smaller number comes first"),
        (("input", "sweep_range"), [7, 4], "the first must be below the second"),
        (("input", "point_cloud_range"), [-1, -1, -1, 1, 1, 1], "point_cloud_range: is [-51.2"),
        (("model", "neck", "in_channels"), [128, 192], "the backbone's stage3, stage4, stage5 have [128, 192, 192] channels"),
        (("model", "neck", "out_channels"), 64, "in_channels: is 128, and model.neck.out_channels is 64"),
        (("model", "backbone", "spec_name"), "V-99-eSE", "needs one of spec_name and spec"),
        ((*HEAD, "positional_encoding", "num_feats"), 128, "num_feats: is 128, and must be half of embed_dims"),
        ((*LAYER, "attns", 0, "num_heads"), 3, "attns[0].num_heads: is 3, which does not divide 128"),
        ((*LAYER, "ffn_cfgs"), KeyError, "ffn_cfgs.embed_dims: is 256, and the head's embed_dims is 128"),
        ((*LAYER, "operation_order"), ["norm"] * 6, "holds self_attn, cross_attn and ffn once"),
        ((*HEAD, "with_denoise"), True, "is PETRDNTransformer with with_denoise: true"),
        ((*HEAD, "proposals"), 120, "proposals: is 120: num_query, 120, must be more"),
        ((*HEAD, "monocular"), 0.0, "proposals: needs monocular above 0"),
        ((*HEAD, "point_prior"), [0.0], "point_prior: holds 1 strengths, and the cross attention has 4 heads"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_model_file_is_a_sentence_with_the_keys_path(
    tmp_path: Path, keys: Any, value: Any, words: str | None
) -> None:
    path = tmp_path / "model.yml"
    path.write_text(yaml.safe_dump(changed(*keys, value=value)))
    mistakes = [str(mistake) for mistake in read_model(path).mistakes]
    assert bool(mistakes) == (words is not None), mistakes
    assert words is None or any(words in mistake and f"{path}" in mistake for mistake in mistakes), mistakes


def test_defaults_are_not_filled_into_a_model_file_that_is_read(tmp_path: Path) -> None:
    assert load_model(MODELS / "petrv2_tiny.yml") == TINY
    assert "rot_lim" not in TINY["input"] and with_model_defaults(TINY)["input"]["rot_lim"] == [0.0, 0.0]


def variants() -> dict[str, dict[str, Any]]:
    """Model files that differ in every part that decides names or shapes."""
    small = small_model_config()
    plain = copy.deepcopy(small)
    plain["model"]["pts_bbox_head"].update(with_multi=False, with_fpe=False, num_reg_fcs=1)
    sized = copy.deepcopy(small)
    del sized["model"]["backbone"]["spec"]
    sized["model"]["backbone"]["spec_name"] = "V-19-slim-dw-eSE"
    sized["model"]["neck"]["in_channels"] = [384, 512]
    deep = copy.deepcopy(small)
    deep["model"]["backbone"]["spec"].update(block_per_stage=[1, 2, 1, 3], layer_per_block=3)
    deep["class_names"] = deep["class_names"][:3]
    deep["model"]["pts_bbox_head"]["num_classes"] = deep["model"]["pts_bbox_head"]["bbox_coder"]["num_classes"] = 3
    return {
        "tiny": TINY, "published": read_model_config("petrv2_vovnet_gridmask_p4_800x320"), "small": small, "denoising": small_model_config(True),
        "plain": plain, "depthwise": sized, "deep": deep,
    }  # fmt: skip


@pytest.mark.parametrize("name", list(variants()))
def test_the_networks_entries_are_those_of_the_network_that_paddle_builds(name: str) -> None:
    from petrflow.model import build_model

    config = variants()[name]
    assert not list(disagreements(with_model_defaults(config)))
    state = build_model(config).state_dict()
    assert entries(with_model_defaults(config)) == {key: tuple(value.shape) for key, value in state.items()}


def test_published_sizes_are_paddle3ds_own_and_the_published_model_has_its_count() -> None:
    from paddle3d.models.backbones import vovnetcp

    from petrflow.config.network import _VOVNETS

    for name, spec in vovnetcp._STAGE_SPECS.items():
        if name in _VOVNETS:
            sizes = tuple(
                spec[key]
                for key in ("stem", "stage_conv_ch", "stage_out_ch", "layer_per_block", "block_per_stage", "dw")
            )
            assert [list(x) if isinstance(x, tuple) else x for x in _VOVNETS[name]] == [
                list(x) if isinstance(x, list) else x for x in sizes
            ]
    published = with_model_defaults(read_model_config("petrv2_vovnet_gridmask_p4_800x320"))
    assert parameter_count(published) == 85_170_894
    assert image_channels(published["model"]["backbone"]) == [768, 1024]
