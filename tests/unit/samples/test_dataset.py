from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from petrflow.errors import PetrflowError
from petrflow.pictures.read import read_image
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.loader import sample_rng
from petrflow.samples.transforms import draw_augmentation, no_augmentation
from tests.helpers.loader_fakes import (
    CAMERAS,
    FakeKeyframe,
    FakeStore,
    keyframe,
    model_config,
    small_store,
    with_changes,
    write_pictures,
)

SMALL = model_config((64, 160), resize_lim=[0.1, 0.13])
stock = pytest.mark.xdist_group("stock")  # one process imports Paddle3D for all of them


def _equal_to_stock(ours: dict, reference: dict) -> None:
    for key, expected in reference.items():
        found = np.nan_to_num(ours[key]) if key == "gt_bboxes_3d" else ours[key]  # stock calls an unknown velocity zero
        np.testing.assert_array_equal(found, expected.astype(found.dtype), err_msg=key)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("pictures")
    return folder, write_pictures(folder, 6)


def _compare_with_stock(store: FakeStore, root: Path, config: dict, folder: Path, epochs: int) -> None:
    from tests.helpers.stock_loader import StockLoader

    for training in (True, False):
        ours = PetrDataset(None, root, config, training, store=store)
        reference = StockLoader(store, root, ours.settings, training, folder)
        for index in range(len(store)):
            for epoch in range(epochs if training else 1):
                rng = sample_rng(0, epoch, index)
                augmentation = (
                    draw_augmentation(ours.settings, rng, store[index].num_sweeps)
                    if training
                    else no_augmentation(ours.settings)
                )
                _equal_to_stock(ours.load(index, augmentation=augmentation), reference.load(index, augmentation))


@stock
def test_samples_equal_stock_paddle3ds_bit_for_bit(pictures, tmp_path):
    root, names = pictures
    store = FakeStore(
        [
            keyframe(0, names, [names[::-1]] * 20, (1600, 900)),
            keyframe(1, names, [], (1600, 900)),  # no frame before: the padding path
            keyframe(2, names, [names[3:] + names[:3]], (1600, 900)),
        ]
    )
    _compare_with_stock(store, root, model_config(), tmp_path, epochs=1)


@pytest.mark.slow
def test_many_draws_equal_stock_bit_for_bit(pictures, tmp_path):
    root, names = pictures
    store = FakeStore([keyframe(n, names, [names[::-1]] * (9 * n), (1600, 900)) for n in range(4)])
    _compare_with_stock(store, root, model_config(), tmp_path, epochs=10)
    odd = model_config((250, 704), rot_lim=[-5.4, 5.4], bot_pct_lim=[0.0, 0.22], resize_lim=[0.3, 0.6])
    _compare_with_stock(store, root, odd, tmp_path, epochs=5)


@stock
def test_pictures_rotations_and_odd_sizes_equal_stocks(pictures, tmp_path):
    root, names = pictures
    store = FakeStore([keyframe(0, names, [names[::-1]] * 20, (1600, 900))])
    odd = model_config((250, 704), rot_lim=[-5.4, 5.4], bot_pct_lim=[0.0, 0.22], resize_lim=[0.3, 0.6])
    _compare_with_stock(store, root, odd, tmp_path, epochs=1)


@stock
def test_a_real_keyframe_equals_stocks_bit_for_bit(keyframe_root, tmp_path):
    paths = [str(next((keyframe_root / "samples" / name).glob("*.jpg")).relative_to(keyframe_root)) for name in CAMERAS]
    store = FakeStore([keyframe(0, paths, [paths[::-1]] * 20, (1600, 900))])
    _compare_with_stock(store, keyframe_root, model_config(), tmp_path, epochs=1)


def test_files_decode_to_the_bytes_of_stocks_imread(pictures):
    root, names = pictures
    for name in names:
        ours = read_image(root / name, (1600, 900), "a test")
        np.testing.assert_array_equal(ours, cv2.imread(str(root / name), cv2.IMREAD_UNCHANGED))


@pytest.mark.parametrize("cameras", [1, 4, 6, 12])
def test_any_number_of_cameras_makes_a_sample(tmp_path, cameras):
    names = write_pictures(tmp_path, cameras, (160, 90))
    store = FakeStore([keyframe(0, names, [names], (160, 90))], tuple(f"CAM_{n}" for n in range(cameras)))
    sample = PetrDataset(None, tmp_path, SMALL, training=True, store=store).load(0, sample_rng(0, 0, 0))
    assert sample["img"].shape == (2 * cameras, 3, 64, 160)
    assert sample["lidar2img"].shape == (2 * cameras, 4, 4)
    assert sample["timestamp"].shape == (2 * cameras,)


def test_cameras_of_different_sizes_keep_points_under_their_pixels(tmp_path):
    large, small = write_pictures(tmp_path, 1, (320, 180), 1)[0], write_pictures(tmp_path, 1, (200, 150), 2)[0]
    frame = keyframe(0, [large, small], [], (320, 180))
    frame.image_sizes[1] = (200, 150)
    store = FakeStore([frame], CAMERAS[:2])
    sample = PetrDataset(None, tmp_path, SMALL, training=False, store=store).load(0)
    for camera, (width, height) in enumerate([(320, 180), (200, 150)]):
        matrix = sample["intrinsics"][camera][:3, :3] @ np.linalg.inv(frame.intrinsics[camera])
        resize = max(64 / height, 160 / width)
        expected = [[resize, 0, 0], [0, resize, 64 - int(height * resize)], [0, 0, 1]]
        np.testing.assert_allclose(matrix, expected, atol=1e-3)


def test_unknown_velocities_stay_unknown(tmp_path):
    store = small_store(tmp_path)
    sample = PetrDataset(None, tmp_path, SMALL, training=True, store=store).load(0, sample_rng(0, 0, 0))
    unknown = np.isnan(sample["gt_bboxes_3d"][:, 7:]).all(axis=1)
    assert unknown.any() and not unknown.all()
    assert np.isfinite(sample["gt_bboxes_3d"][:, :7]).all()


def test_the_frame_before_gives_way_if_it_lacks_a_camera(tmp_path):
    store = small_store(tmp_path, sweeps=3)
    frame: FakeKeyframe = store[0]
    lacking = replace(frame.sweeps[2], image_paths=frame.sweeps[2].image_paths[:1])
    dataset = PetrDataset(
        None, tmp_path, SMALL, False, store=with_changes(store, 0, sweeps=[*frame.sweeps[:2], lacking])
    )
    expected = frame.timestamp / 1e6 - frame.sweeps[1].image_timestamps / 1e6
    np.testing.assert_allclose(dataset.load(0)["timestamp"][2:], expected, atol=1e-6)
    broken = [replace(sweep, image_paths=[]) for sweep in frame.sweeps]
    padded = PetrDataset(None, tmp_path, SMALL, False, store=with_changes(store, 0, sweeps=broken)).load(0)
    np.testing.assert_allclose(padded["timestamp"][2:], padded["timestamp"][:2] + 15 * 0.083, atol=1e-6)
    np.testing.assert_array_equal(padded["img"][2:], padded["img"][:2])


def test_keyframes_without_a_usable_box_are_left_out_of_training_only(tmp_path):
    store = small_store(tmp_path)
    far = store[2].boxes.copy()
    far[:, 0] = 90.0
    store = with_changes(store, 2, boxes=far)
    store = with_changes(store, 4, names=["animal"] * len(store[4].names))
    store = with_changes(store, 5, valid=np.zeros(len(store[5].names), bool))
    training = PetrDataset(None, tmp_path, SMALL, training=True, store=store)
    assert training.indices.tolist() == [0, 1, 3]
    assert [training.token(k) for k in range(3)] == ["token-0000", "token-0001", "token-0003"]
    assert len(PetrDataset(None, tmp_path, SMALL, training=False, store=store)) == 6


def test_a_training_set_without_any_usable_box_is_refused(tmp_path):
    store = small_store(tmp_path, keyframes=1)
    store = with_changes(store, 0, valid=np.zeros(len(store[0].names), bool))
    with pytest.raises(PetrflowError, match="nothing to train on"):
        PetrDataset(None, tmp_path, SMALL, training=True, store=store)


def test_bad_pictures_are_named_with_file_camera_and_sample(tmp_path):
    store = small_store(tmp_path)
    dataset = PetrDataset(None, tmp_path, SMALL, training=False, store=store)
    bad = tmp_path / store[1].image_paths[1]
    good = bad.read_bytes()

    def fails_with(word: str) -> None:
        with pytest.raises(PetrflowError, match=word) as caught:
            dataset.load(1)
        assert bad.name in str(caught.value)
        assert "CAM_FRONT_RIGHT" in str(caught.value) and "token-0001" in str(caught.value)

    bad.write_bytes(b"")
    fails_with("is empty")
    bad.write_bytes(b"no picture")
    fails_with("no image that can be decoded")
    bad.write_bytes(good[: len(good) * 2 // 3])
    fails_with("cut short")
    cv2.imwrite(str(bad), np.zeros((80, 160, 3), np.uint8))
    fails_with("160x80 px, but the tables say 160x90")
    bad.unlink()
    fails_with("missing")


def test_fast_decode_looks_alike_at_the_published_size(pictures):
    root, names = pictures
    store = FakeStore([keyframe(0, names, [names[::-1]] * 20, (1600, 900))])
    for training in (True, False):
        exact = PetrDataset(None, root, model_config(), training, store=store)
        fast = PetrDataset(None, root, model_config(), training, fast_decode=True, store=store)
        left, right = exact.load(0, sample_rng(0, 0, 0)), fast.load(0, sample_rng(0, 0, 0))
        assert 0 < np.abs(left["img"] - right["img"]).mean() < 0.15  # of a standard deviation; the pictures are noisy
        np.testing.assert_array_equal(left["lidar2img"], right["lidar2img"])


@pytest.mark.parametrize(("height", "reduction"), [(45, 2), (20, 4), (10, 8), (80, 1)])
def test_fast_decode_takes_the_smallest_fraction_that_serves(tmp_path, height, reduction, monkeypatch):
    asked = []

    def spy(path, size, owner, fraction):
        asked.append(fraction)
        return read_image(path, size, owner, fraction)

    monkeypatch.setattr("petrflow.samples.dataset.read_image", spy)
    store = small_store(tmp_path, keyframes=1, size=(161, 91))
    config = model_config((height, height * 16 // 9))
    exact = PetrDataset(None, tmp_path, config, False, store=store).load(0)
    assert set(asked) == {1}
    config["input"]["fast_decode"] = True
    fast = PetrDataset(None, tmp_path, config, False, store=store).load(0)
    assert set(asked[4:]) == {reduction}
    assert np.abs(exact["img"] - fast["img"]).mean() < 0.3


def test_loading_into_a_given_array_writes_every_pixel(tmp_path):
    dataset = PetrDataset(None, tmp_path, SMALL, training=True, store=small_store(tmp_path))
    fresh = dataset.load(0, sample_rng(0, 0, 0))["img"]
    used = np.full(dataset.image_shape, np.nan, np.float32)
    assert dataset.load(0, sample_rng(0, 0, 0), out=used)["img"] is used
    np.testing.assert_array_equal(used, fresh)


def test_a_store_on_disk_makes_the_samples_of_a_synthetic_set(synthetic_root, synthetic_stores):
    for split in ("train", "val"):
        dataset = PetrDataset(synthetic_stores[split], synthetic_root, SMALL, training=split == "train")
        sample = dataset.load(0, sample_rng(0, 0, 0))
        assert sample["img"].shape == (12, 3, 64, 160)
        assert np.isfinite(sample["img"]).all() and sample["img"].std() > 0.1
        assert sample["token"] == dataset.token(0)


def test_nothing_that_workers_import_imports_paddle():
    code = "import sys, petrflow.samples.loader, petrflow.samples.worker, petrflow.annotations.store; print('paddle' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "False"
