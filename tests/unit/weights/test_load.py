"""Loading weights: what fits is loaded, what does not is named, and nothing at all is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.models import small_model_config

paddle = pytest.importorskip("paddle")

from petrflow.errors import PetrflowError
from petrflow.model import build_model
from petrflow.weights.halve import halve, main
from petrflow.weights.load import load_weights
from petrflow.weights.pdparams import save_pdparams


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model(small_model_config())


def _weights(model: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy() + 1 for name, value in model.state_dict().items()}


def test_fitting_weights_load_whole(model: Any) -> None:
    weights = _weights(model)
    report = load_weights(model, weights)
    assert report.matched == tuple(model.state_dict())
    assert (report.missing, report.unexpected, report.wrong_shape) == ((), (), ())
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), weights[name])


def test_missing_unexpected_and_misshapen_entries_are_named(model: Any) -> None:
    weights = _weights(model)
    names = list(weights)
    del weights[names[0]]
    weights[names[1]] = np.zeros((1, 2, 3), "float32")
    weights["stranger"] = np.zeros(3, "float32")
    report = load_weights(model, weights)
    assert report.missing == (names[0],)
    assert report.wrong_shape == (names[1],)
    assert report.unexpected == ("stranger",)
    assert len(report.matched) == len(names) - 2
    assert names[0] in str(report) and "stranger" in str(report)


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
    assert len(report.matched) == len(model.state_dict())


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
