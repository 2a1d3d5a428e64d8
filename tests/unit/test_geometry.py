"""Conventions of frames, rotations and boxes against pyquaternion and the devkit."""

from __future__ import annotations

import numpy as np
import pytest
from nuscenes.eval.common.utils import quaternion_yaw as devkit_yaw
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import transform_matrix, view_points
from pyquaternion import Quaternion

from petrflow import geometry


@pytest.fixture
def quaternions() -> np.ndarray:
    """Random rotations, half turns about each axis (where a careless conversion divides by zero) and the identity."""
    rng = np.random.default_rng(0)
    special = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [-1, 0, 0, 0], [0, 0.6, 0, 0.8], [1e-9, 0, 0, 1]]
    return geometry.normalize_quaternion(np.concatenate([rng.normal(size=(200, 4)), special]))


@pytest.fixture
def boxes() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.concatenate(
        [
            rng.normal(0, 20, (50, 3)),
            rng.uniform(0.3, 10, (50, 3)),
            rng.uniform(-np.pi, np.pi, (50, 1)),
            rng.normal(size=(50, 2)),
        ],
        axis=1,
    )


def test_rotation_matrices_equal_those_of_pyquaternion(quaternions: np.ndarray) -> None:
    expected = np.stack([Quaternion(q).rotation_matrix for q in quaternions])
    np.testing.assert_allclose(geometry.quaternion_to_matrix(quaternions), expected, atol=1e-12)
    np.testing.assert_allclose(geometry.quaternion_to_matrix(3 * quaternions), expected, atol=1e-12)


def test_quaternions_survive_the_way_through_matrices(quaternions: np.ndarray) -> None:
    back = geometry.matrix_to_quaternion(geometry.quaternion_to_matrix(quaternions))
    assert (back[:, 0] >= 0).all()
    np.testing.assert_allclose(np.abs((back * quaternions).sum(axis=1)), 1.0, atol=1e-12)


def test_quaternion_products_and_inverses_equal_those_of_pyquaternion(quaternions: np.ndarray) -> None:
    right = quaternions[::-1]
    expected = np.stack([(Quaternion(a) * Quaternion(b)).elements for a, b in zip(quaternions, right, strict=True)])
    np.testing.assert_allclose(geometry.quaternion_multiply(quaternions, right), expected, atol=1e-12)
    identity = geometry.quaternion_multiply(quaternions, geometry.quaternion_inverse(2 * quaternions))
    np.testing.assert_allclose(identity, np.tile([1.0, 0, 0, 0], (len(quaternions), 1)), atol=1e-12)


def test_yaw_means_what_the_devkit_means(quaternions: np.ndarray) -> None:
    expected = [devkit_yaw(Quaternion(q)) for q in quaternions]
    np.testing.assert_allclose(
        np.exp(1j * geometry.quaternion_yaw(quaternions)), np.exp(1j * np.array(expected)), atol=1e-9
    )


def test_intrinsic_yaw_means_what_pyquaternion_means(quaternions: np.ndarray) -> None:
    expected = [Quaternion(q).yaw_pitch_roll[0] for q in quaternions]
    actual = geometry.quaternion_yaw_intrinsic(quaternions)
    np.testing.assert_allclose(np.exp(1j * actual), np.exp(1j * np.array(expected)), atol=1e-9)


def test_yaw_survives_the_way_through_quaternions() -> None:
    yaw = np.linspace(-3.1, 3.1, 41)
    np.testing.assert_allclose(geometry.quaternion_yaw(geometry.yaw_to_quaternion(yaw)), yaw, atol=1e-12)
    np.testing.assert_allclose(geometry.quaternion_yaw_intrinsic(geometry.yaw_to_quaternion(yaw)), yaw, atol=1e-12)


def test_transforms_equal_those_of_the_devkit_and_invert(quaternions: np.ndarray) -> None:
    translations = np.random.default_rng(2).normal(0, 1000, (len(quaternions), 3))
    matrices = geometry.transform(translations, quaternions)
    expected = np.stack([transform_matrix(t, Quaternion(q)) for t, q in zip(translations, quaternions, strict=True)])
    np.testing.assert_allclose(matrices, expected, atol=1e-9)
    identity = geometry.invert_rigid(matrices) @ matrices
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(4), identity.shape), atol=1e-9)
    points = np.random.default_rng(3).normal(size=(len(quaternions), 7, 3))
    back = geometry.transform_points(geometry.invert_rigid(matrices), geometry.transform_points(matrices, points))
    np.testing.assert_allclose(back, points, atol=1e-9)


def test_corners_equal_those_of_the_devkit(boxes: np.ndarray) -> None:
    expected = np.stack([Box(b[:3], b[3:6], Quaternion(axis=[0, 0, 1], radians=b[6])).corners().T for b in boxes])
    np.testing.assert_allclose(geometry.box_corners(boxes), expected, atol=1e-9)
    assert geometry.box_corners(boxes[:0]).shape == (0, 8, 3)


def test_projection_equals_that_of_the_devkit() -> None:
    intrinsic = np.array([[1260.0, 0, 800], [0, 1260, 450], [0, 0, 1]])
    cam_from_lidar = geometry.rigid([[1, 0, 0], [0, 0, -1], [0, 1, 0]], [0.1, -0.3, -0.7])
    points = np.random.default_rng(4).uniform([-20, 2, -3], [20, 50, 3], (30, 3))
    uv, depth = geometry.project(points, intrinsic, cam_from_lidar)
    in_camera = geometry.transform_points(cam_from_lidar, points)
    np.testing.assert_allclose(uv, view_points(in_camera.T, intrinsic, normalize=True)[:2].T, atol=1e-9)
    np.testing.assert_allclose(depth, in_camera[:, 2])
    homogeneous = np.concatenate([points, np.ones((30, 1))], axis=1) @ geometry.view_matrix(intrinsic, cam_from_lidar).T
    np.testing.assert_allclose(homogeneous[:, :2] / homogeneous[:, 2:3], uv, atol=1e-9)


def test_petr_order_is_the_one_that_stock_infos_hold(boxes: np.ndarray) -> None:
    petr = geometry.boxes_to_petr(boxes)
    np.testing.assert_allclose(petr[:, 2], boxes[:, 2] - boxes[:, 5] / 2)
    np.testing.assert_allclose(petr[:, 6], -boxes[:, 6] - np.pi / 2)
    np.testing.assert_allclose(petr[:, [0, 1, 3, 4, 5, 7, 8]], boxes[:, [0, 1, 3, 4, 5, 7, 8]])
    np.testing.assert_allclose(geometry.boxes_from_petr(petr), boxes, atol=1e-12)
    turned = petr.copy()
    turned[:, 6] += 2 * np.pi
    np.testing.assert_allclose(geometry.boxes_from_petr(turned), boxes, atol=1e-9)


def test_boxes_move_to_another_frame_as_the_devkit_moves_them(boxes: np.ndarray) -> None:
    rotation = Quaternion(axis=[0, 0, 1], radians=2.2)
    translation = np.array([100.0, -50.0, 3.0])
    moved = geometry.transform_boxes(boxes, transform_matrix(translation, rotation))
    for before, after in zip(boxes, moved, strict=True):
        box = Box(before[:3], before[3:6], Quaternion(axis=[0, 0, 1], radians=before[6]), velocity=(*before[7:9], 0.0))
        box.rotate(rotation)
        box.translate(translation)
        np.testing.assert_allclose(after[:3], box.center, atol=1e-9)
        np.testing.assert_allclose(np.exp(1j * after[6]), np.exp(1j * devkit_yaw(box.orientation)), atol=1e-9)
        np.testing.assert_allclose(after[7:9], box.velocity[:2], atol=1e-9)


def test_unknown_velocities_stay_unknown_in_another_frame(boxes: np.ndarray) -> None:
    boxes[3, 7:9] = np.nan
    moved = geometry.transform_boxes(boxes, np.eye(4))
    assert np.isnan(moved[3, 7:9]).all()
    assert np.isfinite(np.delete(moved, 3, axis=0)).all()


def test_boxes_without_velocity_move_too(boxes: np.ndarray) -> None:
    assert geometry.transform_boxes(boxes[:, :7], np.eye(4)).shape == (50, 7)
    assert geometry.boxes_to_petr(boxes[:, :7]).shape == (50, 7)
