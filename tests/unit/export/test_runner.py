"""The runner of one file: alone, with petrflow's own boxes; and the table of what a C++ engineer needs, against the code."""

from __future__ import annotations

import ast
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models import small_model_config

paddle = pytest.importorskip("paddle")

from petrflow.annotations import AnnotationStore
from petrflow.export import runner as running
from petrflow.export import variants
from petrflow.export.moments import largest_difference, moments_of, scenes_of
from petrflow.export.parity import run_eager
from petrflow.export.static import export
from petrflow.files import read_json, write_json
from petrflow.model import build_model, petr
from petrflow.model.box_codes import best_detections, decode
from petrflow.pictures.resample import normalisation_table, resize_crop
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.settings import InputSettings
from petrflow.samples.transforms import no_augmentation, plan_image
from petrflow.samples.types import Detections

CONFIG = small_model_config()
CONFIG["input"]["image_size"] = [40, 96]  # padded to 64 rows
CONFIG["input"]["sweep_range"] = [4, 5]  # four frames back lies between keyframes, in the data set that tests share


@pytest.fixture(scope="module")
def model() -> Any:
    paddle.seed(5)
    made = build_model(CONFIG)
    made.eval()
    return made


@pytest.fixture(scope="module")
def exported(
    model: Any, synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("export")
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    export(CONFIG, weights, synthetic_stores["val"], synthetic_root, folder, samples=1)
    return folder


@pytest.fixture
def with_onnx(exported: Path) -> Path:
    record = read_json(exported / "parity.json")["onnx_two_graphs"]
    if not record["written"]:
        pytest.skip(record["reason"])
    return exported


def test_a_stream_through_the_runner_alone_gives_petrflows_boxes(
    with_onnx: Path, model: Any, synthetic_root: Path, synthetic_stores: dict[str, Path]
) -> None:
    store = AnnotationStore.open(synthetic_stores["val"])
    (scene,) = scenes_of(store)
    write_json(with_onnx / "moments.json", moments_of(store, synthetic_root, scene, with_onnx))
    alone = "import sys; sys.modules.update(petrflow=None, paddle=None); import runner; runner.main()"
    arguments = ["moments.json", "--score", "0", "--threads", "1"]
    command = [sys.executable, "-c", alone, *arguments]
    done = subprocess.run(command, cwd=with_onnx, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(store) == 4
    dataset = PetrDataset(synthetic_stores["val"], synthetic_root, CONFIG, training=False)
    coder = model.pts_bbox_head.bbox_coder
    for index, line in enumerate(lines):
        names = [CONFIG["class_names"].index(box["class"]) for box in line["boxes"]]
        found = Detections(
            np.array([box["box"] for box in line["boxes"]]),
            np.array([box["score"] for box in line["boxes"]]),
            np.array(names),
        )
        outputs = run_eager(model, dataset, index).outputs
        (expected,) = best_detections(*outputs, coder.max_num, coder.post_center_range)
        assert len(expected.boxes) > 10
        assert largest_difference(expected, found) < 1e-4


def test_the_runner_needs_numpy_onnxruntime_and_opencv_and_nothing_else() -> None:
    wanted = set()
    for node in ast.walk(ast.parse(Path(running.__file__).read_text())):
        if isinstance(node, ast.Import):
            wanted |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            wanted.add(str(node.module).partition(".")[0])
    assert wanted - sys.stdlib_module_names == {"numpy", "onnxruntime", "cv2"}


@pytest.mark.parametrize(
    ("size", "final"),
    [((225, 400), (96, 288)), ((900, 1600), (320, 800)), ((50, 90), (96, 288)), ((300, 200), (40, 96))],
)
def test_the_runner_prepares_pictures_as_training_does(size: tuple[int, int], final: tuple[int, int]) -> None:
    config = {**CONFIG, "input": {**CONFIG["input"], "image_size": list(final)}}
    settings = InputSettings.from_model_config(config)
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    plan = plan_image(settings, no_augmentation(settings), size[1], size[0])
    scale, resized, origin = running.crop_plan(*size, final, no_augmentation(settings).bottom)
    assert (resized, origin) == (plan.resized, plan.origin)
    np.testing.assert_array_equal(plan.matrix, [[scale, 0, -origin[0]], [0, scale, -origin[1]], [0, 0, 1]])
    mine = running.resize_crop(picture, resized, origin, final)
    np.testing.assert_array_equal(mine, resize_crop(picture, resized, origin, (final[1], final[0])))
    mean, std = list(settings.mean), list(settings.std)
    np.testing.assert_array_equal(running.normalisation_table(mean, std), normalisation_table(mean, std))


def test_a_step_back_in_time_and_a_missing_camera_are_refused(with_onnx: Path) -> None:
    runner = running.Runner(with_onnx, 1)
    cameras = [running.Camera(np.eye(3), np.eye(4), 1.0)] * 6
    pictures = [np.zeros((180, 320, 3), np.uint8)] * 6
    with pytest.raises(ValueError, match="takes 6 of each"):
        runner.step(pictures[:5], cameras[:5], np.eye(4), 1.0)
    runner.watch(pictures, cameras, 1.0)
    with pytest.raises(ValueError, match="reset"):
        runner.step(pictures, cameras, np.eye(4), 0.5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda moment: moment.pop("time"), "moments.json: moments[0] lacks the key 'time'."),
        (lambda moment: moment["cameras"].pop(), "5 pictures and 5 cameras; this export takes 6 of each."),
        (lambda moment: moment.update(time=moment["time"] * 1e6), "times are seconds"),
        (lambda moment: moment["cameras"][0].update(picture="gone.jpg"), "gone.jpg: no picture there"),
        (lambda moment: moment["cameras"][2].update(intrinsics=[[0] * 3] * 3), "intrinsics is no invertible matrix"),
        (lambda moment: moment.update(world_from_lidar=[[math.nan] * 4] * 4), "world_from_lidar is no invertible matrix"),
        (lambda moment: moment.update(cameras=3), "moments.json: moments[0]: "),
    ],
)  # fmt: skip
def test_a_mistake_in_the_moments_is_a_sentence(
    with_onnx: Path, synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path: Path, change: Any, says: str
) -> None:
    store = AnnotationStore.open(synthetic_stores["val"])
    stream = moments_of(store, synthetic_root, next(iter(scenes_of(store))), tmp_path)
    change(stream["moments"][0])
    (tmp_path / "moments.json").write_text(json.dumps(stream))
    with pytest.raises(SystemExit) as ended:
        running.main([str(tmp_path / "moments.json"), "--export", str(with_onnx), "--threads", "1"])
    assert says in str(ended.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"moment": []}'])
def test_a_file_that_holds_no_moments_is_a_sentence(with_onnx: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "moments.json"
    for arguments in ([str(path)], [str(path), "--variant", "int8"]):
        with pytest.raises(SystemExit, match="no such file"):
            running.main([*arguments, "--export", str(with_onnx)])
    path.write_text(content)
    with pytest.raises(SystemExit, match="no JSON of"):
        running.main([str(path), "--export", str(with_onnx)])


# ------------------------------------------------------------------------------------------------------------------ the table


@pytest.fixture(scope="module")
def table(exported: Path) -> dict[tuple[str, str], str]:
    rows = re.findall(r"^\| (\w+) \| ([^|]+?) \| (.+) \|$", (exported / "README.md").read_text(), re.MULTILINE)
    return {(step, what): value for step, what, value in rows}


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_pictures_made_by_the_table_are_those_of_the_data_set(
    table: dict[tuple[str, str], str], synthetic_root: Path, synthetic_stores: dict[str, Path]
) -> None:
    dataset = PetrDataset(synthetic_stores["val"], synthetic_root, CONFIG, training=False)
    store, sample = dataset.store, dataset.load(1)
    assert table["input", "cameras, in this order"] == ", ".join(f"`{name}`" for name in store.camera_names)
    assert table["input", "channels"].startswith("BGR")
    height, width = _numbers(table["resize", "factor s"])
    assert _numbers(table["crop", "size, px (width x height)"]) == [width, height]
    padded_width, padded_height = (int(n) for n in _numbers(table["pad", "size, px (width x height)"]))
    mean, std = (np.array(_numbers(table["normalise", f"{name} (B, G, R)"])) for name in ("mean", "std"))
    one, bottom, below = _numbers(table["crop", "top, px"])
    assert (one, below) == (1, -height) or (one, below) == (1, height)
    for camera, path in enumerate(store[1].image_paths):
        picture = Image.open(synthetic_root / path).convert("RGB")
        s = max(height / picture.height, width / picture.width)
        resized = picture.resize(
            (math.floor(picture.width * s), math.floor(picture.height * s)), Image.Resampling.BICUBIC
        )
        left = math.floor(max(0, resized.width - width) / 2)
        top = math.floor((1 - bottom) * resized.height) - int(height)
        crop = resized.crop((left, top, left + int(width), top + int(height)))
        values = (np.asarray(crop, "float64")[..., ::-1] - mean) / std
        image = np.zeros((3, padded_height, padded_width))
        image[:, : int(height), : int(width)] = values.transpose(2, 0, 1)
        np.testing.assert_allclose(sample["img"][camera], image, atol=1e-5)
        k = np.array([[s, 0, -left], [0, s, -top], [0, 0, 1]]) @ store[1].intrinsics[camera]
        camera_from_lidar = np.linalg.inv(store[1].lidar_from_camera[camera])[:3]
        p = np.vstack([k @ camera_from_lidar, [0, 0, 0, 1]])
        np.testing.assert_allclose(sample["lidar2img"][camera], p, rtol=1e-5, atol=1e-3)
        inverse = np.linalg.inv(p)
        made = petr.network_inputs({key: np.asarray(value)[None] for key, value in sample.items() if key != "token"})
        np.testing.assert_allclose(made[1][0, camera], inverse, rtol=1e-3, atol=1e-4)


def test_the_moment_before_is_the_tables(
    table: dict[tuple[str, str], str], synthetic_root: Path, synthetic_stores: dict[str, Path]
) -> None:
    dataset = PetrDataset(synthetic_stores["val"], synthetic_root, CONFIG, training=False)
    (wanted,) = _numbers(table["before", "which moment, s"])
    (alone,) = _numbers(table["before", "none yet"])
    first, keyframe = dataset.load(0)["timestamp"], dataset.store[2]
    np.testing.assert_allclose(first[6:], first[:6] + alone, atol=1e-6)
    ages = [(keyframe.timestamp - keyframe.sweep(k).image_timestamps[0]) / 1e6 for k in range(keyframe.num_sweeps)]
    assert dataset.load(2)["timestamp"][6] == pytest.approx(min(ages, key=lambda age: abs(age - wanted)), abs=1e-5)
    assert "12 numbers" in table["calibration", "`timestamps`"]


def test_boxes_decoded_by_the_table_are_petrflows(table: dict[tuple[str, str], str], model: Any) -> None:
    assert table["decode", "code 0, 1, 4"].startswith("x, y, z")
    assert table["decode", "code 2, 3, 5"].startswith("ln width, ln length, ln height")
    assert table["decode", "code 6, 7"].startswith("sine and cosine of a; yaw = -a - pi / 2")
    assert table["decode", "code 8, 9"].startswith("vx, vy")
    code = np.array([3.0, -4, 0.5, 1.5, 0.2, 0.4, math.sin(0.3), math.cos(0.3), 1, -2])
    x, y, ln_width, ln_length, z, ln_height, sine, cosine, vx, vy = code
    yaw = -math.atan2(sine, cosine) - math.pi / 2
    expected = [x, y, z, *(math.exp(n) for n in (ln_width, ln_length, ln_height)), yaw, vx, vy]
    np.testing.assert_allclose(decode(code[None])[0], expected, rtol=1e-6)
    coder = model.pts_bbox_head.bbox_coder
    assert _numbers(table["decode", "score"]) == [coder.max_num]
    assert _numbers(table["decode", "kept"]) == coder.post_center_range
    names = table["decode", "classes"].split(", ")
    assert names == [f"{place} {name}" for place, name in enumerate(CONFIG["class_names"])]
    rng = np.random.default_rng(0)
    logits, codes = rng.normal(size=(1, 40, 10)).astype("float32"), rng.normal(size=(1, 40, 10)).astype("float32")
    (theirs,) = best_detections(logits, codes, coder.max_num, coder.post_center_range)
    mine = running.decode(logits[0], codes[0], coder.max_num, coder.post_center_range)
    np.testing.assert_array_equal(mine.labels, theirs.labels)
    np.testing.assert_array_equal(mine.scores, theirs.scores)
    np.testing.assert_allclose(mine.boxes, theirs.boxes, rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------------- variants


def test_variants_are_smaller_are_scored_and_run(
    with_onnx: Path,
    synthetic_root: Path,
    synthetic_stores: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("deploy.json", "parity.json", "features.onnx", "boxes.onnx"):
        (tmp_path / name).write_bytes((with_onnx / name).read_bytes())
    monkeypatch.setattr(variants, "CALIBRATION_SAMPLES", 2)
    train, val = ((synthetic_stores[split], synthetic_root) for split in ("train", "val"))
    record = read_json(tmp_path / "parity.json")
    settings = {"batch_size": 1, "num_workers": 0}
    found = variants.make_variants(tmp_path, ["float16", "int8"], CONFIG, record, train, val, settings)
    assert found["float16"]["bytes"] < 0.7 * found["float32"]["bytes"]
    assert found["int8"]["bytes"] < found["float32"]["bytes"]
    for about in found.values():
        assert 0 <= about["mAP"] <= 1 and 0 <= about["NDS"] <= 1
    cameras = [running.Camera(np.diag([100.0, 100.0, 1.0]), np.eye(4), 1.0)] * 6
    pictures = [np.random.default_rng(0).integers(0, 256, (180, 320, 3), dtype=np.uint8)] * 6
    plain = running.Runner(tmp_path, 1).step(pictures, cameras, np.eye(4), 1.0)
    for variant in ("float16", "int8"):
        other = running.Runner(tmp_path, 1, variant).step(pictures, cameras, np.eye(4), 1.0)
        np.testing.assert_allclose(other.scores, plain.scores, atol=0.05)
    assert not [path.name for path in tmp_path.iterdir() if ".tmp" in path.name]
