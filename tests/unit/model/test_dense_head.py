"""The dense head: what cells are told to find is what their box codes mean, and queries start from the top_cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.models import camera_ring, fake_batch, small_model_config

paddle = pytest.importorskip("paddle")

from petrflow.errors import PetrflowError
from petrflow.model import build_model
from petrflow.model.box_codes import centred, encode
from petrflow.model.dense_head import NEIGHBOUR_PENALTY, PRIOR_LOGIT, CellPredictions, place_cells
from petrflow.model.dense_targets import Grid, cell_targets
from petrflow.model.tokens import pick, top_cells

HEIGHT, WIDTH = 64, 192
GRID = Grid.over(4, 12, (HEIGHT, WIDTH))
LOW, HIGH = np.array([-51.2, -51.2, -5.0]), np.array([51.2, 51.2, 3.0])
BETWEEN = 0.5


def _with_head(**keys: Any) -> dict[str, Any]:
    config = small_model_config(denoising=keys.pop("denoising", False))
    config["model"]["pts_bbox_head"].update(monocular=1.0, **keys)
    return config


def _scene(mirrored: bool, turned: float, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (M, 9) with gravity centres, labels and img2lidar (6, 4, 4) after augmentation of images and scene."""
    batch = fake_batch(small_model_config(), batch_size=1, boxes=25)
    boxes, labels = centred(batch["gt_bboxes_3d"][0]).astype("float64"), batch["gt_labels_3d"][0]
    matrices = camera_ring(6, HEIGHT, WIDTH)
    if mirrored:
        flip = np.eye(4)
        flip[0, 0], flip[0, 2] = -1, WIDTH
        matrices = flip @ matrices
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]]
    turn[:3, :3] *= scale
    boxes[:, :3] = boxes[:, :3] @ turn[:3, :3].T
    boxes[:, 3:6] *= scale
    boxes[:, 6] -= turned  # Paddle3D's yaw falls as the heading rises
    boxes[:, 7:9] = boxes[:, 7:9] @ turn[:2, :2].T
    inside = np.abs(boxes[:, :2]).max(axis=1) < 51
    return boxes[inside], labels[inside], np.linalg.inv(matrices @ np.linalg.inv(turn))


@pytest.mark.parametrize(("mirrored", "turned", "scale"), [(False, 0.0, 1.0), (True, 0.0, 1.0), (True, 0.7, 1.05)])
def test_cells_that_say_what_they_should_give_the_true_boxes(mirrored: bool, turned: float, scale: float) -> None:
    boxes, labels, img2lidar = _scene(mirrored, turned, scale)
    targets = cell_targets(boxes, labels, img2lidar.astype("float32"), GRID, BETWEEN)
    assert len(targets.rows) > 10
    raw = np.zeros((1, 6 * 48, 10), "float32")
    raw[0, targets.rows] = targets.values
    points, codes = (
        part.numpy()[0, targets.rows]
        for part in place_cells(
            paddle.to_tensor(raw),
            paddle.to_tensor(img2lidar[None].astype("float32")),
            GRID,
            paddle.to_tensor(GRID.centres()),
            paddle.to_tensor(LOW.astype("float32")),
            paddle.to_tensor((HIGH - LOW).astype("float32")),
        )
    )
    centres = points * (HIGH - LOW) + LOW
    distance = np.linalg.norm(centres[:, None] - boxes[None, :, :3], axis=-1)
    found = distance.argmin(axis=1)
    assert distance.min(axis=1).max() < 2e-3
    np.testing.assert_array_equal(targets.labels, labels[found])
    truth = encode(boxes)[found]
    truth[:, 8:] *= BETWEEN
    np.testing.assert_allclose(codes[:, [2, 3, 5, 6, 7, 8, 9]], truth[:, [2, 3, 5, 6, 7, 8, 9]], atol=1e-4)
    share = (boxes[found, :3] - LOW) / (HIGH - LOW)
    np.testing.assert_allclose(codes[:, [0, 1, 4]], np.log(share / (1 - share)), atol=2e-3)


def test_every_box_in_view_is_found_at_its_centre_unless_a_nearer_one_stands_there() -> None:
    boxes, labels, img2lidar = _scene(False, 0.0, 1.0)
    targets = cell_targets(boxes, labels, img2lidar.astype("float32"), GRID, BETWEEN)
    at = dict(zip(targets.rows.tolist(), targets.values, strict=True))
    looked_at = won = 0
    for camera, lidar2img in enumerate(np.linalg.inv(img2lidar)):
        for box in boxes:
            u, v, depth, _ = lidar2img @ [*box[:3], 1.0]
            u, v = u / depth, v / depth
            if depth > 1 and 0 <= u < WIDTH and 0 <= v < HEIGHT:
                values = at[camera * 48 + int(v // 16) * 12 + int(u // 16)]
                own = np.log(depth * 12 / (0.8 * WIDTH))
                assert values[2] <= own + 1e-5
                looked_at += 1
                if values[2] == pytest.approx(own, abs=1e-5):
                    won += 1
                    np.testing.assert_allclose(values[:2], [(u / 16) % 1 - 0.5, (v / 16) % 1 - 0.5], atol=1e-3)
    assert looked_at >= 10 and won >= 5


def test_unknown_velocities_stay_unknown_and_no_boxes_give_no_cells() -> None:
    boxes, labels, img2lidar = _scene(False, 0.0, 1.0)
    boxes[:, 7] = np.nan
    targets = cell_targets(boxes, labels, img2lidar.astype("float32"), GRID, BETWEEN)
    assert np.isnan(targets.values[:, 8:]).all() and np.isfinite(targets.values[:, :8]).all()
    broken = boxes.copy()
    broken[::2, 4] = np.nan  # a length that nobody knows: the box is no target, and the others are
    kept = cell_targets(broken, labels, img2lidar.astype("float32"), GRID, BETWEEN)
    others = cell_targets(boxes[1::2], labels[1::2], img2lidar.astype("float32"), GRID, BETWEEN)
    np.testing.assert_array_equal(kept.rows, others.rows)
    assert np.isfinite(kept.values[:, :8]).all()
    assert not len(cell_targets(boxes[:0], labels[:0], img2lidar.astype("float32"), GRID, BETWEEN).rows)


def test_losses_are_focal_and_l1_over_the_cells_that_see_a_box() -> None:
    boxes, labels, img2lidar = _scene(False, 0.0, 1.0)
    boxes[0, 7:] = np.nan
    targets = [
        cell_targets(boxes[:count], labels[:count], img2lidar.astype("float32"), GRID, BETWEEN) for count in (25, 4)
    ]
    head = build_model(_with_head()).pts_bbox_head.monocular
    rng = np.random.default_rng(0)
    logits, raw = rng.normal(size=(2, 576, 10)), rng.normal(size=(2, 576, 10))
    zeros = paddle.zeros([2, 576, 3])
    cells = CellPredictions(
        paddle.to_tensor(logits.astype("float32")), paddle.to_tensor(raw.astype("float32")), zeros, zeros, GRID
    )
    focal = l1 = 0.0
    for sample, target in enumerate(targets):
        wanted = np.zeros((288, 10))
        wanted[target.rows, target.labels] = 1
        chance = 1 / (1 + np.exp(-logits[sample, :288]))
        right = np.where(wanted == 1, chance, 1 - chance)
        focal += (np.where(wanted == 1, 0.25, 0.75) * (1 - right) ** 2 * -np.log(right)).sum()
        difference = np.abs(raw[sample, target.rows] - target.values) * [1, 1, 4, 1, 1, 1, 1, 1, 0.3, 0.3]
        l1 += np.nansum(difference)
    total = sum(len(target.rows) for target in targets)
    computed = [float(value) for value in head.losses(cells, targets)]
    np.testing.assert_allclose(computed, [focal / total, l1 / total], rtol=1e-5)


def test_proposals_are_the_peaks_and_keep_what_their_cells_see() -> None:
    head = build_model(_with_head()).pts_bbox_head.monocular
    rng = np.random.default_rng(0)
    logits = np.full((1, 576, 10), -9.0, "float32")
    logits[0, :, 0] -= rng.random(576).astype("float32")
    peak, neighbour, alone, before = 2 * 12 + 5, 2 * 12 + 6, 48 + 7, 288 + 30
    for cell, value in ((peak, 3.0), (neighbour, 2.5), (alone, 1.0), (before, 5.0)):
        logits[0, cell, 4] = value
    assert 2.5 - NEIGHBOUR_PENALTY < 1.0
    points = rng.random((1, 576, 3)).astype("float32")
    codes = rng.normal(size=(1, 576, 10)).astype("float32")
    tokens = rng.normal(size=(1, 576, 32)).astype("float32")
    cells = CellPredictions(*(paddle.to_tensor(part) for part in (logits, logits, points, codes)), GRID)
    offset = np.array([0, 0, 1, 1, 0, 1, 1, 1, 1, 1], "float32")
    start = head.proposals(cells, paddle.to_tensor(tokens), 3)
    chosen = [peak, alone, neighbour]  # the neighbour only after other peaks, the frame before not at all
    np.testing.assert_allclose(start.reference.numpy(), points[:, chosen], rtol=1e-6)
    np.testing.assert_allclose(start.content.numpy(), tokens[:, chosen], rtol=1e-6)
    np.testing.assert_allclose(start.logits.numpy(), logits[:, chosen] - PRIOR_LOGIT, rtol=1e-5)
    np.testing.assert_allclose(start.codes.numpy(), codes[:, chosen] * offset, rtol=1e-6)
    whole = start.followed_by(paddle.full([1, 2, 3], 0.5)).after(4)
    assert whole.reference.shape == [1, 5, 3]  # those that come before bring their own
    assert whole.content.shape == [1, 9, 32]
    assert not whole.codes.numpy()[0, [0, 1, 2, 3, 7, 8]].any()
    np.testing.assert_array_equal(whole.logits.numpy()[0, 4:7], start.logits.numpy()[0])


def test_attention_falls_with_the_distance_from_the_reference_point() -> None:
    head = build_model(_with_head(point_prior=[0.0, 0.5, 1.0, 2.0])).pts_bbox_head
    rng = np.random.default_rng(0)
    reference, points = rng.random((2, 5, 3)).astype("float32"), rng.random((2, 7, 3)).astype("float32")
    bias = head.point_bias(paddle.to_tensor(reference), paddle.to_tensor(points)).numpy()
    metres = (reference[:, :, None, :2] - points[:, None, :, :2]) * 102.4
    distance = np.sqrt((metres**2).sum(-1) + 0.25)
    assert bias.shape == (2, 4, 5, 7)
    for index, strength in enumerate((0.0, 0.5, 1.0, 2.0)):
        np.testing.assert_allclose(bias[:, index], -strength * distance, rtol=1e-3, atol=1e-3)


def test_the_decoder_sees_the_same_when_all_cells_are_chosen_as_without_a_choice() -> None:
    keys = {"proposals": 15, "point_prior": [0.0, 0.2, 0.5, 1.0]}
    config, chosen = _with_head(**keys), _with_head(**keys, keys=4 * 12)
    model, other = build_model(config, num_cameras=4), build_model(chosen, num_cameras=4)
    other.set_state_dict(model.state_dict())
    batch = fake_batch(config, cameras=4)
    for one in (model, other):
        one.eval()
    expected, found = (one.raw_outputs(*one.inputs_of(batch)) for one in (model, other))
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_allclose(two.numpy(), one.numpy(), rtol=2e-4, atol=2e-4)


def test_the_chosen_cells_are_the_boldest_of_each_frame() -> None:
    head = build_model(_with_head(keys=5)).pts_bbox_head
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(2, 24, 10)).astype("float32"), rng.normal(size=(2, 24, 3)).astype("float32")
    nothing = paddle.zeros([2, 24, 3])
    cells = CellPredictions(paddle.to_tensor(logits), nothing, nothing, nothing, Grid.over(1, 12, (16, 192)))
    scores, count = head.selection_scores(cells)
    assert count == 5
    chosen = top_cells(scores, count, 12).reshape([2, -1])
    found = pick(paddle.to_tensor(tokens), chosen).numpy()
    shared = pick(paddle.to_tensor(tokens[1:]), chosen).numpy()
    for sample in range(2):
        scores = logits[sample].max(axis=-1)
        wanted = np.concatenate([np.argsort(-scores[:12])[:5], 12 + np.argsort(-scores[12:])[:5]])
        np.testing.assert_array_equal(found[sample], tokens[sample, wanted])
        np.testing.assert_array_equal(shared[sample], tokens[1, wanted])
    best = -np.sort(-logits.max(axis=-1).reshape(4, 12), axis=-1)
    assert head.selection_gap(cells) == pytest.approx((best[:, 4] - best[:, 5]).min())
    few = CellPredictions(
        *(part[:, :4] for part in (cells.logits, nothing, nothing, nothing)), Grid.over(1, 2, (16, 32))
    )
    assert head.selection_scores(few)[1] == 2 and head.selection_gap(few) == np.inf


def test_more_proposals_than_cells_and_padded_images_are_refused() -> None:
    config = _with_head(proposals=13)
    model = build_model(config, num_cameras=1)
    with pytest.raises(PetrflowError, match="proposals is 13, and the cameras of a frame have 12 cells"):
        model.losses(fake_batch(config, cameras=1))
    config = _with_head()
    config["input"]["image_size"] = [30, 90]
    with pytest.raises(PetrflowError, match="multiples of input"):
        build_model(config).losses(fake_batch(config))


def test_a_box_is_found_by_the_cells_around_its_centre_and_gives_way_to_a_nearer_one() -> None:
    img2lidar = np.linalg.inv(camera_ring(1, HEIGHT, WIDTH)).astype("float32")  # at (1, 0, -0.3), looking ahead along x
    grid = Grid.over(16, 48, (HEIGHT, WIDTH))
    # width 2 along x, length 4 along y: at 10 m its nearest face spans 153.6 * 4 / 9 pixels of 4 a cell; three tenths around (24, 8)
    far, near = [11.0, 0, -0.3, 2.0, 4.0, 2.0, 0, 0, 0], [7.0, 0, -0.3, 0.5, 0.5, 0.5, 0, 0, 0]
    large = {row * 48 + column for row in (7, 8) for column in range(21, 27)}
    small = {row * 48 + column for row in (7, 8) for column in (23, 24)}
    alone = cell_targets(np.array([far]), np.array([3]), img2lidar, grid, BETWEEN)
    assert set(alone.rows.tolist()) == large
    both = cell_targets(np.array([far, near]), np.array([3, 8]), img2lidar, grid, BETWEEN)
    assert set(both.rows[both.labels == 3].tolist()) == large - small
    assert set(both.rows[both.labels == 8].tolist()) == small
    np.testing.assert_allclose(np.exp(both.values[both.labels == 3][0, 3:6]), [2, 4, 2], rtol=1e-6)


@pytest.mark.parametrize("denoising", [False, True])
def test_a_model_with_the_head_teaches_all_its_parts(denoising: bool) -> None:
    config = _with_head(
        denoising=denoising, proposals=15, keys=20, point_prior=[0.0, 0.2, 0.5, 1.0], reference_height=[0.4, 0.5]
    )
    model = build_model(config, num_cameras=4)
    heights = model.pts_bbox_head.reference_points.weight.numpy()[:, 2]
    assert heights.min() >= 0.4 and heights.max() <= 0.5 and len(heights) == 25
    plain = set(build_model(small_model_config(denoising=denoising)).state_dict())
    assert {name for name in model.state_dict() if ".monocular." not in name} == plain
    model.train()
    losses = model.losses(fake_batch(config, cameras=4))
    assert {"monocular_loss_cls", "monocular_loss_bbox"} < set(losses)
    sum(losses.values()).backward()
    silent = [n for n, p in model.named_parameters() if not p.stop_gradient and (p.grad is None or not p.grad.any())]
    assert not [name for name in silent if "adapt_pos3d" not in name and ".bias" not in name]
    assert all(np.isfinite(float(value)) for value in losses.values())
    empty = model.losses(fake_batch(config, cameras=4, boxes=0))
    assert float(empty["monocular_loss_bbox"]) == 0.0 and np.isfinite(float(empty["monocular_loss_cls"]))
    assert len(model.predict(fake_batch(config, cameras=4))) == 2


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"proposals": 5}, "need monocular above 0"),
        ({"point_prior": [0.0, 0.1, 0.2, 0.3]}, "need monocular above 0"),
        ({"keys": 5}, "need monocular above 0"),
        ({"monocular": 1.0, "proposals": 40}, "num_query must be more"),
    ],
)
def test_settings_that_do_not_go_together_are_named(keys: dict[str, Any], words: str) -> None:
    config = small_model_config()
    config["model"]["pts_bbox_head"].update(keys)
    with pytest.raises(PetrflowError, match=words):
        build_model(config)
