"""Loading weights: what fits is loaded, what does not is named, and nothing at all is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petrflow.config import with_model_defaults
from petrflow.config.network import entries
from tests.helpers.models import fake_batch, read_model_config, small_model_config

paddle = pytest.importorskip("paddle")

from petrflow.errors import PetrflowError
from petrflow.model import build_model
from petrflow.weights.class_rows import carried
from petrflow.weights.fit import fit, misfit
from petrflow.weights.halve import halve, main
from petrflow.weights.load import load_weights
from petrflow.weights.pdparams import names_and_shapes, save_pdparams

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model(small_model_config())


def _weights(model: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy() + 1 for name, value in model.state_dict().items()}


CODE_WEIGHTS = "pts_bbox_head.code_weights"


def test_fitting_weights_load_whole_but_for_the_constants_of_the_model_file(model: Any) -> None:
    weights, before = _weights(model), model.state_dict()[CODE_WEIGHTS].numpy()
    report = load_weights(model, weights)
    assert report.matched == tuple(name for name in model.state_dict() if name != CODE_WEIGHTS)
    assert (report.missing, report.unexpected, report.wrong_shape) == ((), (), ())
    assert report.constants == (CODE_WEIGHTS,) and report.share == 1.0
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before if name == CODE_WEIGHTS else weights[name])


def test_missing_unexpected_and_misshapen_entries_are_named(model: Any) -> None:
    weights = _weights(model)
    names = [name for name in weights if name != CODE_WEIGHTS]
    del weights[names[0]]
    weights[names[1]] = np.zeros((1, 2, 3), "float32")
    weights["stranger"] = np.zeros(3, "float32")
    report = load_weights(model, weights)
    assert report.missing == (names[0],)
    assert report.wrong_shape == (names[1],)
    assert report.unexpected == ("stranger",)
    assert len(report.matched) == len(names) - 2
    assert names[0] in str(report) and "stranger" in str(report)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_with_a_value_that_is_no_number_are_refused_before_any_is_set(model: Any, value: float) -> None:
    weights, before = _weights(model), {name: entry.numpy() for name, entry in model.state_dict().items()}
    name = next(name for name in reversed(weights) if weights[name].dtype.kind == "f" and name != CODE_WEIGHTS)
    weights[name].flat[-1] = value
    with pytest.raises(PetrflowError, match=f"1 of .* no finite numbers \\({name}\\)"):
        load_weights(model, weights)
    for entry, there in model.state_dict().items():
        np.testing.assert_array_equal(there.numpy(), before[entry])


def test_weights_that_hold_less_than_nine_tenths_of_the_model_are_refused_unless_they_may_be_partial(
    model: Any,
) -> None:
    weights = {name: value for name, value in _weights(model).items() if not name.startswith("neck.")}
    share = 1 - sum(name.startswith("neck.") for name in model.state_dict()) / len(model.state_dict())
    assert 0.9 < share < 1
    assert load_weights(model, weights).missing
    backbone = {name: value for name, value in weights.items() if name.startswith("backbone.")}
    with pytest.raises(
        PetrflowError,
        match=r"hold \d+ % of the model's \d+ entries.*not found: pts_bbox_head.input_proj.weight.*partial_weights",
    ):
        load_weights(model, backbone)
    assert len(load_weights(model, backbone, partial=True).matched) == len(backbone)
    assert len(load_weights(model, backbone, fresh=["pts_bbox_head", "neck"]).matched) == len(backbone)


def test_entries_of_another_shape_are_named_with_both_shapes(model: Any) -> None:
    weights = {name: np.zeros((1, *value.shape), "float32") for name, value in _weights(model).items()}
    weights["neck.fpn_convs.0.conv.bias"] = np.zeros(32, "float32")
    with pytest.raises(PetrflowError, match=r"of another shape: .*\[1, 32, 32, 1, 1\], not \[32, 32, 1, 1\]"):
        load_weights(model, weights)


def test_class_heads_of_other_classes_stay_random_and_count_for_nothing(model: Any) -> None:
    config = small_model_config()
    config["class_names"] = config["class_names"][:3]
    head = config["model"]["pts_bbox_head"]
    head["num_classes"] = head["bbox_coder"]["num_classes"] = 3
    report = load_weights(build_model(config), _weights(model))
    assert report.share == 1.0
    assert set(report.wrong_shape) == {
        f"pts_bbox_head.cls_branches.{layer}.6.{part}" for layer in range(2) for part in ("weight", "bias")
    }


def test_what_the_model_file_calls_fresh_is_not_loaded(model: Any) -> None:
    other = build_model(small_model_config())
    before = other.state_dict()["neck.fpn_convs.0.conv.weight"].numpy()
    report = load_weights(other, _weights(model), fresh=["neck"])
    assert all(name.startswith("neck.") for name in report.fresh) and len(report.fresh) == 6
    np.testing.assert_array_equal(other.state_dict()["neck.fpn_convs.0.conv.weight"].numpy(), before)


def test_weights_of_the_tiny_model_are_refused_by_the_published_one_from_names_alone() -> None:
    tiny, published = (
        entries(with_model_defaults(read_model_config(name)))
        for name in ("petrv2_tiny", "petrv2_vovnet_gridmask_p4_800x320")
    )
    shipped = names_and_shapes(REPOSITORY / "resources" / "weights" / "petrv2_tiny" / "model.safetensors")
    assert misfit(fit(tiny, shipped), tiny, shipped) is None
    why = misfit(fit(published, shipped), published, shipped)
    assert why is not None and "not found" in why


def test_the_dense_model_takes_every_entry_of_the_published_weights_and_its_own_head_is_fresh() -> None:
    config = read_model_config("petrv2_vovnet_dense_800x320")
    published, dense = (
        entries(with_model_defaults(values))
        for values in (read_model_config("petrv2_vovnet_gridmask_p4_800x320"), config)
    )
    found = fit(dense, published, config["fresh"])
    assert misfit(found, dense, published) is None
    assert {*found.matched} >= {name for name in published if not name.endswith("code_weights")}
    assert not found.wrong_shape and {*dense} - {*published} == {*found.fresh}


def test_a_model_with_a_dense_head_starts_from_weights_without_one_and_learns_from_the_first_step(model: Any) -> None:
    config = small_model_config()
    head = config["model"]["pts_bbox_head"]
    wanted = read_model_config("petrv2_vovnet_dense_800x320")["model"]["pts_bbox_head"]
    head.update(monocular=wanted["monocular"], proposals=10, num_query=head["num_query"] + 10)
    dense = build_model(config)
    report = load_weights(dense, _weights(model), fresh=["pts_bbox_head.monocular"])
    assert {*report.matched} == {name for name in _weights(model) if not name.endswith("code_weights")}
    assert len(report.fresh) == 8 and not report.wrong_shape
    dense.train()
    losses = dense.losses(fake_batch(config))
    sum(losses.values()).backward()
    assert {"monocular_loss_cls", "monocular_loss_bbox"} <= {*losses}
    assert all(np.isfinite(float(value)) for value in losses.values())
    assert float(np.abs(dense.pts_bbox_head.reference_points.weight.grad.numpy()).sum()) > 0


def test_weights_of_another_model_are_refused(model: Any) -> None:
    with pytest.raises(PetrflowError, match="none of 1 entries"):
        load_weights(model, {"stranger": np.zeros(3, "float32")})


def test_half_precision_is_widened(model: Any) -> None:
    weights = {name: value.astype("float16") for name, value in _weights(model).items()}
    load_weights(model, weights)
    assert {str(value.dtype) for value in model.state_dict().values()} == {"paddle.float32"}


def test_files_of_paddle_load(model: Any, tmp_path: Path) -> None:
    paddle.save(model.state_dict(), str(tmp_path / "model.pdparams"))
    report = load_weights(build_model(small_model_config()), tmp_path / "model.pdparams")
    assert len(report.matched) == len(model.state_dict()) - 1


def test_a_missing_file_is_named(model: Any, tmp_path: Path) -> None:
    with pytest.raises(PetrflowError, match=r"none\.pdparams"):
        load_weights(model, tmp_path / "none.pdparams")


def test_halved_weights_are_half_the_size_and_load_to_the_nearest_half(model: Any, tmp_path: Path) -> None:
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    weights["counter"] = np.arange(3)
    save_pdparams(tmp_path / "model.pdparams", weights)
    halve(tmp_path / "model.pdparams", tmp_path / "half.safetensors")
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "model.pdparams").stat().st_size
    other = build_model(small_model_config())
    assert load_weights(other, tmp_path / "half.safetensors").unexpected == ("counter",)
    for name, value in other.state_dict().items():
        if name != CODE_WEIGHTS:
            np.testing.assert_array_equal(value.numpy(), weights[name].astype("float16").astype("float32"))


@pytest.mark.parametrize("value", [7e4, np.nan, -np.inf])
def test_numbers_that_half_precision_cannot_carry_are_refused(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "model.pdparams", tmp_path / "half.safetensors"
    save_pdparams(source, {"fine": np.ones(2, "float32"), "norm.variance": np.full(2, value, "float32")})
    monkeypatch.setattr("sys.argv", ["halve", str(source), str(target)])
    assert main() == 1
    assert "norm.variance holds numbers above 65504 or NaN" in capsys.readouterr().err
    assert not target.exists()


def _of_classes(names: list[str]) -> dict[str, Any]:
    config = small_model_config()
    head = config["model"]["pts_bbox_head"]
    config["class_names"] = names
    head["num_classes"] = head["bbox_coder"]["num_classes"] = len(names)
    return config


def test_rows_of_class_heads_go_by_name_and_others_start_random(tmp_path: Path) -> None:
    ten = build_model(small_model_config())
    save_pdparams(tmp_path / "model.pdparams", _weights(ten))
    names = ["forklift", "pedestrian", "car"]
    own = build_model(_of_classes(names))
    before = {name: value.numpy().copy() for name, value in own.state_dict().items()}
    report = load_weights(own, tmp_path / "model.pdparams", class_names=names)
    assert report.kept_classes == ("pedestrian", "car") and report.fresh_classes == ("forklift",)
    assert "classes that start random: forklift" in str(report)
    assert report.by_class and not report.wrong_shape
    given, after = _weights(ten), own.state_dict()
    for name in report.by_class:
        axis = 1 if name.endswith("weight") and "embed" not in name else 0
        theirs, mine, initial = (
            np.moveaxis(value, axis, 0) for value in (given[name], after[name].numpy(), before[name])
        )
        assert np.array_equal(mine[1], theirs[8]) and np.array_equal(mine[2], theirs[0]), name
        assert np.array_equal(mine[0], initial[0]), name
        assert np.array_equal(mine[3:], theirs[10:]), name
    assert all(
        np.array_equal(after[name].numpy(), given[name])
        for name in given
        if name not in {*report.by_class, *report.constants}
    )


def test_the_dense_heads_embedding_keeps_its_rows_of_boxes() -> None:
    given, own = np.arange(24.0).reshape(12, 2), -np.ones((13, 2))
    embed = carried("pts_bbox_head.monocular.embed.weight", own, given, ["a", "b", "c"], ["b", "d"])
    assert embed is not None
    assert embed[:3].tolist() == [[-1, -1], [0, 1], [-1, -1]] and np.array_equal(embed[3:], given[2:])


def test_weights_that_say_their_classes_are_believed(tmp_path: Path) -> None:
    first = build_model(_of_classes(["tram", "kart", "horse"]))
    save_pdparams(tmp_path / "model.pdparams", _weights(first))
    names = ["horse", "tram", "cat"]
    unknown = load_weights(build_model(_of_classes(names[:2])), tmp_path / "model.pdparams", class_names=names[:2])
    assert unknown.fresh_classes == ("horse", "tram") and not unknown.by_class
    (tmp_path / "classes.json").write_text('["tram", "kart", "horse"]')
    model = build_model(_of_classes(names))
    report = load_weights(model, tmp_path / "model.pdparams", class_names=names)
    assert report.kept_classes == ("horse", "tram")
    bias = next(name for name in report.by_class if "cls_branches" in name and name.endswith("bias"))
    assert np.array_equal(model.state_dict()[bias].numpy()[:2], _weights(first)[bias][[2, 0]])
    (tmp_path / "classes.json").write_text("{}")
    with pytest.raises(PetrflowError, match=r"classes\.json is no list of class names"):
        load_weights(model, tmp_path / "model.pdparams", class_names=names)


def test_weights_of_the_same_ten_classes_are_taken_as_they_stand(model: Any) -> None:
    names = small_model_config()["class_names"]
    report = load_weights(build_model(small_model_config()), _weights(model), class_names=names)
    assert not report.by_class and not report.fresh_classes and not report.wrong_shape
