"""The exported model: equal to the eager one, or no export at all."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.helpers.models import fake_batch, small_model_config

paddle = pytest.importorskip("paddle")

from petrflow.errors import PetrflowError
from petrflow.export import networks, onnx, parity
from petrflow.export import static as exporting
from petrflow.export.exported import GRAPHS, ExportedModel, OnnxGraph, Predictor, files_of, in_two_parts
from petrflow.files import read_json
from petrflow.model import build_model
from petrflow.model.petr import network_inputs
from petrflow.samples.settings import InputSettings

static_files = [name for graph in GRAPHS for name in files_of(graph)]

CONFIG = small_model_config()
CONFIG["model"]["pts_bbox_head"].update(monocular=1.0, proposals=10, keys=20, point_prior=[0.0, 0.2, 0.5, 2.0])


class _Dataset:
    """Stands in for a data set: made-up samples."""

    cameras = 6
    indices = np.arange(3)
    store = [SimpleNamespace(num_sweeps=0)] * 3

    def __init__(self, *_: Any, **__: Any) -> None:
        self.camera_names = [f"camera {number}" for number in range(self.cameras)]
        self.settings = InputSettings.from_model_config(CONFIG)
        self.by_time = True  # the age of a previous frame is then known without frames

    @classmethod
    def open(cls, _: Path) -> _Dataset:
        return cls()

    def __len__(self) -> int:
        return 3

    def load(self, index: int) -> dict[str, Any]:
        return {key: value[0] for key, value in fake_batch(CONFIG, 1, cameras=self.cameras, seed=index).items()}

    def token(self, index: int) -> str:
        return f"token-{index}"


def _export(folder: Path, weights: Any, cameras: int = 6) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "PetrDataset", type("Dataset", (_Dataset,), {"cameras": cameras}))
        patch.setattr(exporting, "AnnotationStore", type("Store", (_Dataset,), {"cameras": cameras}))
        return exporting.export(CONFIG, weights, Path("store"), Path("root"), folder, samples=2)


@pytest.mark.parametrize(
    ("margins", "chosen"), [([0.5], 4), ([1e-6, 2e-6, 0.3], 6), ([1e-6, 3e-6, 2e-6], 5), ([np.inf], 4)]
)
def test_samples_are_compared_whose_choice_of_cells_does_not_hang_on_rounding(
    margins: list[float], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = (np.zeros((1, 1, 1)), np.zeros((1, 1, 10)))
    monkeypatch.setattr(
        parity, "run_eager", lambda model, dataset, index: parity.Sample(index, (), outputs, margins[index - 4])
    )
    found = parity.steady_sample(None, [None] * (4 + len(margins)), 4)  # type: ignore[arg-type]
    assert found.index == chosen


@pytest.fixture(scope="module")
def eager() -> Any:
    paddle.seed(11)
    model = build_model(CONFIG)
    model.train()
    model.losses(fake_batch(CONFIG))  # an eager forward before, after which stock's export dies with a KeyError
    model.eval()
    return model


@pytest.fixture(scope="module")
def exported(eager: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    _export(folder, {name: value.numpy() for name, value in eager.state_dict().items()})
    return folder


def test_the_exported_model_agrees_with_the_eager_one(exported: Path) -> None:
    record = read_json(exported / "parity.json")
    assert record["samples"] == ["token-0", "token-2"]
    assert 0 <= record["max_relative_difference"]["boxes"] <= 1e-3
    assert 0 <= record["max_relative_difference"]["scores"] <= 1e-3
    assert record["inputs"] == {"images": [1, 12, 3, 32, 96], "img2lidars": [1, 12, 4, 4], "timestamps": [1, 12]}
    assert 0 <= record["two_graphs"]["boxes"] <= 1e-3 and 0 <= record["two_graphs"]["scores"] <= 1e-3
    for made in (record["onnx"], record["onnx_two_graphs"]):
        assert made["written"] or made["reason"]
    plan = {*static_files, "deploy.json", "README.md", "runner.py", "parity.json"}
    assert {path.name for path in exported.iterdir() if path.suffix != ".onnx"} == plan


def test_the_two_graphs_give_what_the_whole_one_does(exported: Path) -> None:
    arrays = network_inputs(fake_batch(CONFIG, 1, seed=3))
    one = Predictor(exported).run(arrays)
    two = in_two_parts(Predictor(exported, "features"), Predictor(exported, "boxes"), arrays)
    assert parity.compare([one], [two]).boxes < 1e-4  # type: ignore[list-item]


def test_the_image_network_takes_any_number_of_pictures(exported: Path) -> None:
    images = network_inputs(fake_batch(CONFIG, 1, seed=3))[0][0]
    graphs: list[Any] = [Predictor(exported, "features")]
    if read_json(exported / "parity.json")["onnx_two_graphs"]["written"]:
        graphs.append(OnnxGraph(exported / "features.onnx", "features"))
    for graph in graphs:
        (all_at_once,) = graph.run((images,))
        for count in (1, 5):
            np.testing.assert_allclose(graph.run((images[:count],))[0], all_at_once[:count], atol=1e-5)


def test_onnx_is_standard_simplified_and_named(exported: Path) -> None:
    if not read_json(exported / "parity.json")["onnx_two_graphs"]["written"]:
        pytest.skip("no ONNX here; parity.json says why")
    import onnx as format_

    for graph, (inputs, outputs) in exporting.GRAPHS.items():
        model = format_.load(str(exported / f"{graph}.onnx"))
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", onnx.OPSET)]
        assert {node.op_type for node in model.graph.node}.isdisjoint({"Constant", "Identity"})
        assert tuple(value.name for value in model.graph.input) == inputs
        assert tuple(value.name for value in model.graph.output) == outputs


def test_tf32_is_switched_off_while_models_are_compared_and_on_again_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Core:
        state: ClassVar[dict[str, bool]] = {"cudnn": True, "cublas": False}
        get_cudnn_switch = staticmethod(lambda: Core.state["cudnn"])
        get_cublas_switch = staticmethod(lambda: Core.state["cublas"])
        set_cudnn_switch = staticmethod(lambda value: Core.state.update(cudnn=value))
        set_cublas_switch = staticmethod(lambda value: Core.state.update(cublas=value))

    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    with pytest.raises(KeyError), networks.full_float32(Core):
        assert Core.state == {"cudnn": False, "cublas": False}
        assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
        raise KeyError
    assert Core.state == {"cudnn": True, "cublas": False}
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ


def test_the_exported_model_predicts_what_the_eager_one_does(exported: Path, eager: Any) -> None:
    batch = fake_batch(CONFIG, seed=5)
    model = ExportedModel(exported)
    model.eval()
    for mine, theirs in zip(model.predict(batch), eager.predict(batch), strict=True):
        np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-3)
        assert len(mine.boxes) == len(theirs.boxes)
        np.testing.assert_allclose(np.sort(mine.boxes[:, 0]), np.sort(theirs.boxes[:, 0]), atol=1e-2)


def test_a_batch_of_other_cameras_is_refused(exported: Path) -> None:
    with pytest.raises(PetrflowError, match="Export a model for these cameras"):
        ExportedModel(exported).predict(fake_batch(CONFIG, cameras=4))


def test_a_folder_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PetrflowError, match=r"parity\.json"):
        ExportedModel(tmp_path)


def test_an_export_that_differs_fails_and_leaves_nothing(
    exported: Path, eager: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = parity.run_eager

    def shifted(*arguments: Any) -> parity.Sample:
        sample = run(*arguments)
        logits, codes = sample.outputs
        return replace(sample, outputs=(logits, codes + 0.01))

    def copy(model: Any, inputs: Any, folder: Path) -> list[int]:
        for name in static_files:
            (folder / name).write_bytes((exported / name).read_bytes())
        return [32, 1, 3]

    monkeypatch.setattr(parity, "run_eager", shifted)
    monkeypatch.setattr(exporting, "save_graphs", copy)
    with pytest.raises(PetrflowError, match="differs from the eager one"):
        _export(tmp_path / "out", {name: value.numpy() for name, value in eager.state_dict().items()})
    assert list((tmp_path / "out").iterdir()) == []


def test_not_a_number_is_no_parity() -> None:
    logits, codes = np.zeros((1, 2, 3), "float32"), np.zeros((1, 2, 10), "float32")
    broken = codes.copy()
    broken[0, 0, 0] = np.nan
    assert parity.compare([(logits, codes)], [(logits, codes)]).holds
    assert not parity.compare([(logits, codes)], [(logits, broken)]).holds


def test_a_failing_onnx_conversion_is_recorded_and_fails_nothing(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("paddle2onnx", reason="paddle2onnx has no build for Python 3.13 and newer")
    monkeypatch.setattr(onnx.sys, "executable", "/bin/false")
    record = onnx.to_onnx(tmp_path, ("model",), _never)
    assert record["written"] is False and record["reason"]


def test_without_paddle2onnx_the_record_says_why_there_is_no_onnx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(onnx.sys.modules, "paddle2onnx", None)
    monkeypatch.setattr(onnx.sys, "version_info", (3, 13, 0))
    assert onnx.to_onnx(tmp_path, ("model",), _never) == {
        "written": False,
        "reason": "paddle2onnx is not installed: it has no build for Python 3.13 and newer",
    }


def _never(_: Any) -> parity.Parity:
    raise AssertionError("nothing to compare")


@pytest.mark.slow
@pytest.mark.parametrize("cameras", [1, 4])
def test_other_numbers_of_cameras_export(cameras: int, tmp_path: Path) -> None:
    record = _export(tmp_path, None, cameras)
    assert record["inputs"]["images"][1] == 2 * cameras
    batch = fake_batch(CONFIG, cameras=cameras)
    assert len(ExportedModel(tmp_path).predict(batch)) == 2


def test_models_are_compared_whatever_order_their_queries_have() -> None:
    rng = np.random.default_rng(0)
    logits, codes = rng.normal(size=(1, 6, 10)).astype("float32"), rng.normal(size=(1, 6, 10)).astype("float32")
    order = [3, 1, 0, 5, 4, 2]
    same = parity.compare([(logits, codes)], [(logits[:, order], codes[:, order])])
    assert same.boxes == same.scores == 0.0
    other = codes[:, order].copy()
    other[0, 2, 0] += 0.5
    differs = parity.compare([(logits, codes)], [(logits[:, order], other)])
    assert not differs.holds and differs.scores == 0.0
