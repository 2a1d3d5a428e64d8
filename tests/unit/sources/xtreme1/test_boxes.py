"""The conversion between Xtreme1's 3D boxes and ours."""

from __future__ import annotations

import numpy as np

from petrflow.geometry import box_corners, boxes_from_xtreme1, boxes_to_xtreme1


def test_boxes_come_back_the_same_after_a_round_trip() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate(
        [rng.normal(size=(50, 3)) * 20, rng.uniform(0.3, 9, size=(50, 3)), rng.uniform(-3.1, 3.1, size=(50, 1))], axis=1
    )
    np.testing.assert_allclose(boxes_from_xtreme1(*boxes_to_xtreme1(boxes)), boxes, atol=1e-12)


def test_size_x_is_the_length_along_the_heading() -> None:
    box = boxes_from_xtreme1([[10.0, 0.0, 0.0]], [[4.0, 2.0, 1.5]], [np.pi / 2])
    extent = np.ptp(box_corners(box)[0], axis=0)
    np.testing.assert_allclose(extent, [2.0, 4.0, 1.5], atol=1e-12)
    front = box_corners(box)[0, :4].mean(axis=0)
    np.testing.assert_allclose(front, [10.0, 2.0, 0.0], atol=1e-12)


def test_a_yaw_of_more_than_a_turn_is_wrapped() -> None:
    np.testing.assert_allclose(boxes_from_xtreme1([[0, 0, 0]], [[1, 1, 1]], [2 * np.pi + 0.25])[0, 6], 0.25)
