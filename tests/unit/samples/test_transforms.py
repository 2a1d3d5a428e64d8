from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from petrflow.pictures.resample import bicubic_filter, normalisation_table, normalise_into, resize_crop
from petrflow.samples.settings import InputSettings
from petrflow.samples.transforms import (
    Augmentation,
    draw_augmentation,
    no_augmentation,
    plan_image,
    rotate_boxes,
    rotate_matrices,
)
from tests.helpers.loader_fakes import model_config


def _noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("source", "resized"),
    [((160, 90), (80, 45)), ((160, 90), (77, 43)), ((161, 91), (98, 55)), ((40, 30), (97, 61)), ((64, 48), (64, 48)), ((200, 9), (31, 9))],
)  # fmt: skip
def test_a_crop_of_a_resized_picture_has_the_bytes_that_pillow_gives_it(source, resized):
    picture = _noise(*source)
    whole = Image.fromarray(picture).resize(resized)
    width, height = resized
    for left, top, right, bottom in [
        (0, 0, width, height),
        (3, height - 8, 25, height),
        (width - 7, 2, width + 9, 11),
        (-4, -5, 12, 6),
    ]:
        expected = np.asarray(whole.crop((left, top, right, bottom)))
        ours = resize_crop(picture, resized, (left, top), (right - left, bottom - top))
        np.testing.assert_array_equal(ours, expected)


def test_random_resizes_of_a_full_frame_have_pillows_bytes():
    picture = _noise(1600, 900)
    rng = np.random.default_rng(0)
    for factor in [0.47, 0.5, 0.625, *rng.uniform(0.47, 0.625, 3)]:
        size = (int(1600 * factor), int(900 * factor))
        box = (7, size[1] - 320, 807, size[1])
        expected = np.asarray(Image.fromarray(picture).resize(size).crop(box))
        np.testing.assert_array_equal(resize_crop(picture, size, box[:2], (800, 320)), expected)


def test_a_crop_wholly_outside_the_picture_is_black():
    assert not resize_crop(_noise(20, 20), (10, 10), (40, 0), (5, 5)).any()
    assert not resize_crop(_noise(20, 20), (10, 10), (0, -30), (5, 5)).any()


def test_filter_weights_sum_to_one_in_fixed_point():
    weights = bicubic_filter(900, 437, 0, 437).weights.sum(axis=1)
    assert np.abs(weights - (1 << 22)).max() <= 12  # each of about nine weights is rounded


def test_normalising_mirrors_and_pads_with_zeros():
    table = normalisation_table([10.0, 20.0, 30.0], [2.0, 4.0, 8.0])
    picture = _noise(5, 4)
    out = np.full((3, 6, 8), 7, np.float32)
    normalise_into(picture, table, True, out)
    expected = (picture[:, ::-1].astype(np.float32) - [10, 20, 30]) / [2, 4, 8]
    np.testing.assert_allclose(out[:, :4, :5], expected.transpose(2, 0, 1), rtol=1e-6)
    assert not out[:, 4:].any() and not out[:, :, 5:].any()


def test_resize_limits_scale_with_the_width_of_the_picture():
    settings = InputSettings.from_model_config(model_config())
    augmentation = Augmentation(sweep=3, resize=0.5, left=0.3)
    assert plan_image(settings, augmentation, 1600, 900).resized == (800, 450)
    assert plan_image(settings, augmentation, 3200, 1800).resized == (800, 450)
    assert plan_image(settings, augmentation, 640, 480).resized == (800, 600)


def test_validation_fills_the_final_size_whatever_the_aspect():
    settings = InputSettings.from_model_config(model_config())
    for size in [(1600, 900), (640, 480), (1000, 200), (320, 1280)]:
        plan = plan_image(settings, no_augmentation(settings), *size)
        assert plan.resized[0] >= 799 and plan.resized[1] >= 319  # stock truncates: 799.99 becomes 799
        assert plan.origin[1] + 320 == plan.resized[1]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0.0, 4.0])
def test_the_plans_matrix_takes_pixels_where_the_picture_goes(flip, rotation):
    settings = InputSettings.from_model_config(model_config((64, 160)))
    plan = plan_image(
        settings, Augmentation(sweep=0, resize=0.11, left=0.7, flip=flip, image_rotation=rotation), 1600, 900
    )
    picture = np.zeros((900, 1600, 3), np.uint8)
    picture[690:730, 780:820] = 255  # a spot around (800, 710)
    crop = Image.fromarray(resize_crop(picture, plan.resized, plan.origin, (160, 64)))
    if flip:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    bright = np.asarray(crop.rotate(rotation))[..., 0].astype(float)
    y, x = np.mgrid[:64, :160]
    center = np.array([(x * bright).sum(), (y * bright).sum()]) / bright.sum() + 0.5
    moved = plan.matrix @ [800, 710, 1]
    assert np.abs(center - moved[:2]).max() < 0.8


def test_turning_the_scene_leaves_every_box_under_its_pixel():
    settings = InputSettings.from_model_config(model_config())
    augmentation = Augmentation(sweep=3, resize=0.5, scene_rotation=0.3, scene_scale=1.04)
    projection = np.array([[800.0, 400, 0, 10], [0, 300, -800, 20], [0, 1, 0, 0], [0, 0, 0, 1]])
    boxes = np.array([[2.0, 20, -1, 2, 4, 1.5, 0.4, 3, 4]], np.float32)
    turned = rotate_boxes(settings, augmentation, boxes)
    [matrix] = rotate_matrices(augmentation, [projection])

    def pixel(projection: np.ndarray, box: np.ndarray) -> np.ndarray:
        point = projection @ [*box[:3], 1]
        return point[:2] / point[2]

    np.testing.assert_allclose(pixel(matrix, turned[0]), pixel(projection, boxes[0]), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(turned[0, 7:]), 5 * 1.04, rtol=1e-6)
    np.testing.assert_allclose(turned[0, 3:6], boxes[0, 3:6] * 1.04, rtol=1e-6)


def test_draws_depend_on_the_generator_alone_and_stay_within_their_limits():
    settings = InputSettings.from_model_config(model_config())
    many = [draw_augmentation(settings, np.random.default_rng(seed), 30) for seed in range(300)]
    assert many == [draw_augmentation(settings, np.random.default_rng(seed), 30) for seed in range(300)]
    assert {d.sweep for d in many} == set(range(3, 27))
    assert 0.4 < np.mean([d.flip for d in many]) < 0.6
    assert all(0.47 <= d.resize <= 0.625 and -0.3925 <= d.scene_rotation <= 0.3925 for d in many)


def test_previous_frames_are_drawn_from_those_that_exist():
    settings = InputSettings.from_model_config(model_config())
    assert {draw_augmentation(settings, np.random.default_rng(seed), 5).sweep for seed in range(60)} == {3, 4}
    shorter = InputSettings.from_model_config(model_config(sweep_range=[0, 2]))
    assert {draw_augmentation(shorter, np.random.default_rng(seed), 30).sweep for seed in range(60)} == {0, 1}


def test_augmentation_switched_off_is_validations_rule():
    settings = InputSettings.from_model_config(model_config(enabled=False))
    assert draw_augmentation(settings, np.random.default_rng(0), 30) == no_augmentation(settings)
