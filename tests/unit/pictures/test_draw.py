"""Drawn boxes lie where an independent projection puts them."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import view_points
from pyquaternion import Quaternion

from petrflow.pictures import draw as drawing
from petrflow.pictures.video import encode_video

INTRINSIC = np.array([[400.0, 0.0, 320.0], [0.0, 400.0, 180.0], [0.0, 0.0, 1.0]])
# A camera at the lidar's origin that looks along +y: camera x = lidar x, camera y = -lidar z, camera z = lidar y.
CAMERA_FROM_LIDAR = np.array([[1.0, 0, 0, 0], [0, 0, -1.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
BOX = np.array([[2.0, 15.0, -0.5, 1.9, 4.5, 1.6, 0.7]])


def test_a_drawn_box_covers_the_pixels_of_the_devkits_corners() -> None:
    image = np.zeros((360, 640, 3), np.uint8)
    drawing.draw_boxes(image, BOX, INTRINSIC, CAMERA_FROM_LIDAR, [(255, 255, 255)], 2)
    box = Box(BOX[0, :3], BOX[0, 3:6], Quaternion(axis=[0, 0, 1], radians=BOX[0, 6]))
    corners = CAMERA_FROM_LIDAR[:3, :3] @ box.corners()
    pixels = view_points(corners, INTRINSIC, normalize=True)[:2].T
    for u, v in pixels:
        assert image[round(v) - 1 : round(v) + 2, round(u) - 1 : round(u) + 2].max() > 128
    rows, columns = np.nonzero(image[:, :, 0])
    assert abs(columns.min() - pixels[:, 0].min()) <= 3 and abs(columns.max() - pixels[:, 0].max()) <= 3
    assert abs(rows.min() - pixels[:, 1].min()) <= 3 and abs(rows.max() - pixels[:, 1].max()) <= 3


def test_a_box_behind_the_camera_draws_nothing() -> None:
    image = np.zeros((360, 640, 3), np.uint8)
    behind = BOX.copy()
    behind[0, 1] = -15.0
    drawing.draw_boxes(image, behind, INTRINSIC, CAMERA_FROM_LIDAR, [(255, 255, 255)])
    assert image.max() == 0


def test_a_box_that_the_camera_stands_in_is_cut_at_the_near_plane() -> None:
    image = np.zeros((360, 640, 3), np.uint8)
    around = np.array([[0.0, 1.0, 0.0, 2.0, 8.0, 2.0, np.pi / 2]])
    drawing.draw_boxes(image, around, INTRINSIC, CAMERA_FROM_LIDAR, [(255, 255, 255)])
    assert image.max() > 0


def test_cameras_are_laid_out_as_a_person_looks_around() -> None:
    poses = []
    for degrees_left in (0, -55, 55, 180, 110, -110):
        angle = np.radians(degrees_left)
        pose = np.eye(4)
        pose[:2, 2] = [-np.sin(angle), np.cos(angle)]
        poses.append(pose)
    names = ["front", "front_right", "front_left", "back", "back_left", "back_right"]
    order = [names[i] for i in drawing.camera_grid_order(np.array(poses))]
    assert order == ["front_left", "front", "front_right", "back_left", "back", "back_right"]


def test_the_birds_eye_view_puts_a_box_ahead_above_the_middle() -> None:
    picture = drawing.birds_eye_view(
        400, np.zeros((0, 7)), np.array([[0.0, 30.0, 0, 2, 4, 1.5, 0, 0, 0]]), [(0, 0, 255)]
    )
    rows, columns = np.nonzero((picture == (0, 0, 255)).all(axis=2))
    scale = 400 / 102.4
    assert abs(rows.mean() - (200 - 30 * scale)) < 6 and abs(columns.mean() - 200) < 6
    # Yaw 0 is along +x: the long side runs from left to right.
    assert np.ptp(columns) > np.ptp(rows)


@pytest.mark.parametrize("count", [1, 4, 6, 12])
def test_any_number_of_cameras_fits_one_even_sized_picture(count: int) -> None:
    images = {i: np.full((90, 160, 3), 40 + i, np.uint8) for i in range(count)}
    names = [f"CAM_{i}" for i in range(count)]
    picture = drawing.scene_picture(images, list(range(count)), np.zeros((64, 64, 3), np.uint8), names)
    assert picture.shape[0] % 2 == 0 and picture.shape[1] % 2 == 0


def test_a_video_decodes_to_the_frames_that_went_in_and_is_the_same_twice() -> None:
    import av

    frames = [np.full((64, 96, 3), 60 * i, np.uint8) for i in range(4)]
    for i, frame in enumerate(frames):
        cv2.circle(frame, (20 + 15 * i, 32), 10, (255, 255, 255), -1)
    first, second = encode_video(iter(frames), 2), encode_video(iter(frames), 2)
    assert first == second
    with av.open(io.BytesIO(first)) as container:
        decoded = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
        assert container.streams.video[0].codec_context.name == "h264"
    assert len(decoded) == len(frames)
    for got, expected in zip(decoded, frames, strict=True):
        assert np.abs(got.astype(int) - expected.astype(int)).mean() < 6
