"""Made-up batches for tests of the model: random pictures, cameras around the car, boxes in range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

OUR_HEAD_KEYS = ("monocular", "proposals", "keys", "point_prior", "reference_height")
"""Keys of a model file's head that stock Paddle3D does not know."""
MODELS = Path(__file__).parents[2] / "config" / "models"


def read_model_config(name: str) -> dict[str, Any]:
    """Parse ``config/models/NAME.yml``."""
    return yaml.safe_load((MODELS / f"{name}.yml").read_text())


def small_model_config(denoising: bool = False) -> dict[str, Any]:
    """Return the tiny model file made smaller still: steps of tens of milliseconds."""
    config = read_model_config("petrv2_tiny")
    config["input"]["image_size"] = [32, 96]
    model = config["model"]
    model["previous_frame_gradient"] = True
    model["backbone"]["spec"] = {
        "stem": [8, 8, 8],
        "stage_conv_ch": [8, 8, 8, 8],
        "stage_out_ch": [8, 8, 16, 16],
        "layer_per_block": 2,
        "block_per_stage": [1, 1, 1, 1],
        "eSE": True,
        "dw": False,
    }
    model["backbone"]["out_features"] = ["stage4", "stage5"]
    model["neck"].update(in_channels=[16, 16], out_channels=32, num_outs=2)
    head = model["pts_bbox_head"]
    for ours in OUR_HEAD_KEYS:
        head.pop(ours, None)
    head.update(embed_dims=32, num_pred=2, in_channels=32, num_query=40, depth_num=8, with_denoise=denoising)
    head["positional_encoding"]["num_feats"] = 16
    head["bbox_coder"]["max_num"] = 40
    transformer = head["transformer"]
    transformer.update(decoder_embed_dims=32, type="PETRTransformer")
    transformer["decoder"]["num_layers"] = 2
    layer = transformer["decoder"]["transformerlayers"]
    layer.update(ffn_cfgs={"embed_dims": 32}, feedforward_channels=64)
    for attention in layer["attns"]:
        attention.update(embed_dims=32, num_heads=4)
    if denoising:
        transformer["embed_dims"] = transformer.pop("decoder_embed_dims")
        transformer["type"] = "PETRDNTransformer"
    return config


def camera_ring(cameras: int, height: int, width: int) -> np.ndarray:
    """Return lidar2img (cameras, 4, 4) float64 of cameras that look outwards from 1.5 m above the ground."""
    matrices = []
    for index in range(cameras):
        angle = 2 * np.pi * index / cameras
        forward = np.array([np.cos(angle), np.sin(angle), 0])
        right = np.array([np.sin(angle), -np.cos(angle), 0])
        rotation = np.stack([right, [0, 0, -1], forward])
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = rotation
        extrinsic[:3, 3] = -rotation @ (forward + np.array([0, 0, -0.3]))
        intrinsic = np.eye(4)
        intrinsic[:2, :3] = [[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2]]
        matrices.append(intrinsic @ extrinsic)
    return np.stack(matrices)


def fake_batch(
    model_config: dict[str, Any], batch_size: int = 2, cameras: int = 6, boxes: int = 20, seed: int = 0
) -> dict[str, Any]:
    """Return a batch in the loader's form, of random content that depends on the seed alone."""
    rng = np.random.default_rng(seed)
    divisor = model_config["input"]["size_divisor"]
    height, width = (-(-size // divisor) * divisor for size in model_config["input"]["image_size"])
    shape = (batch_size, 2 * cameras, 3, height, width)
    ring = camera_ring(cameras, height, width)
    lidar2img = np.tile(np.concatenate([ring, ring]), (batch_size, 1, 1, 1))
    truth, labels = [], []
    for sample in range(batch_size):
        count = max(boxes - 3 * sample, 0)
        centre = rng.uniform([-45, -45, -2], [45, 45, 0], (count, 3))
        rest = rng.uniform([0.5, 0.5, 0.8, -3, -5, -5], [2.5, 5, 2.5, 3, 5, 5], (count, 6))
        truth.append(np.concatenate([centre, rest], axis=1).astype("float32"))
        labels.append(rng.integers(0, 10, count))
    timestamp = np.concatenate(
        [rng.uniform(0, 0.05, (batch_size, cameras)), rng.uniform(0.4, 0.6, (batch_size, cameras))], 1
    )
    return {
        "img": rng.normal(size=shape).astype("float32"),
        "lidar2img": lidar2img.astype("float32"),
        "timestamp": timestamp.astype("float32"),
        "gt_bboxes_3d": truth,
        "gt_labels_3d": labels,
        "token": [f"token-{sample}" for sample in range(batch_size)],
    }
