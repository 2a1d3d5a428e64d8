"""Stock Paddle3D's PETRv2, built from our model files and fed our batches: the yardstick of the model's tests.

Run as a program it writes stock losses and gradients to a file; a process of its own keeps upstream's heap corruption and
its global settings out of the tests.
"""

from __future__ import annotations

import os
import pickle
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import petrflow  # noqa: F401  (before paddle3d: its import hook fails on Python 3.12 and newer)

if __name__ == "__main__":
    # On Paddle 3.2.2 and 3.3.1 stock target assignment writes out of bounds without this.
    os.environ["FLAGS_use_stride_kernel"] = "0"  # noqa: SIM112

OUR_KEYS = ("backbone_learning_rate_factor", "previous_frame_gradient")


def build_stock(model_config: dict[str, Any], cameras: int = 6) -> Any:
    """Build stock Petr3D from the model file; sizes that upstream fixes in its code are set from outside."""
    import paddle
    import paddle3d.models  # noqa: F401
    from paddle3d.models.backbones import vovnetcp
    from paddle3d.models.heads.dense_heads import petr_head

    tree = {key: value for key, value in model_config["model"].items() if key not in OUR_KEYS}
    tree["backbone"] = dict(tree["backbone"])
    coarse = None
    if "spec" in tree["backbone"]:
        spec = dict(tree["backbone"].pop("spec"))
        if len(spec["stem"]) == 1:  # our own stem of one convolution, which stock gets as a layer
            (coarse,) = spec["stem"]
            spec["stem"] = [8, 8, coarse]
        vovnetcp._STAGE_SPECS["under test"] = spec
        tree["backbone"]["spec_name"] = "under test"
    tree["pts_bbox_head"] = dict(tree["pts_bbox_head"])
    sizes = tree["pts_bbox_head"].pop("embed_dims", 256), tree["pts_bbox_head"].pop("num_pred", 6)
    layers = petr_head.PETRHead._init_layers
    embed = petr_head.pos2posemb3d

    def init_layers(head: Any) -> None:
        head.embed_dims, head.num_pred = sizes
        layers(head)

    petr_head.PETRHead._init_layers = init_layers
    petr_head.pos2posemb3d = partial(getattr(embed, "func", embed), num_pos_feats=sizes[0] // 2)
    if cameras != 6:
        petr_head.np = _NumpyForCameras(cameras)
    try:
        model = _load(tree)
        if coarse is not None:
            model.backbone.stem = paddle.nn.Sequential(
                ("stem_1/conv", paddle.nn.Conv2D(3, coarse, 7, stride=4, padding=3, bias_attr=False)),
                ("stem_1/norm", paddle.nn.BatchNorm2D(coarse)),
                ("stem_1/relu", paddle.nn.ReLU()),
            )
        return model
    finally:
        petr_head.PETRHead._init_layers = layers  # the embedding stays: forward looks it up


class _NumpyForCameras:
    """numpy for stock's head, which reshapes timestamps to six cameras: any other number is stretched to six of equal mean."""

    def __init__(self, cameras: int) -> None:
        self.cameras = cameras

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def asarray(self, values: Any) -> np.ndarray:
        """Repeat each frame's mean time six times where the values are the timestamps of two frames."""
        array = np.asarray(values)
        if array.shape == (2 * self.cameras,):
            return np.repeat(array.reshape(2, -1).mean(axis=1), 6).astype(array.dtype)
        return array


def _load(node: Any) -> Any:
    from paddle3d.apis import manager

    if isinstance(node, list):
        return [_load(item) for item in node]
    if not isinstance(node, dict):
        return node
    arguments = {key: _load(value) for key, value in node.items() if key != "type"}
    if "type" not in node:
        return arguments
    registries = [getattr(manager, name).components_dict for name in manager.__all__]
    return next(registry for registry in registries if node["type"] in registry)[node["type"]](**arguments)


def stock_samples(batch: dict[str, Any]) -> dict[str, Any]:
    """Turn one of our batches into what stock Petr3D takes."""
    import paddle

    images = paddle.to_tensor(batch["img"])
    height, width = images.shape[-2:]
    labels = [paddle.to_tensor(np.asarray(label, dtype="int64")) for label in batch["gt_labels_3d"]]
    metas = []
    for index in range(len(batch["img"])):
        count = images.shape[1]
        metas.append(
            {
                "id": batch["token"][index],
                "pad_shape": [(height, width, 3)] * count,
                "img_shape": [(height, width, 3)] * count,
                "lidar2img": list(batch["lidar2img"][index].astype("float64")),
                "timestamp": list(batch["timestamp"][index]),
                "gt_bboxes_3d": batch["gt_bboxes_3d"][index],
                "gt_labels_3d": labels[index],
            }
        )
    return {
        "meta": metas,
        "img": images,
        "gt_labels_3d": labels,
        "gt_bboxes_3d": batch["gt_bboxes_3d"],
        "modality": ["multiview"] * len(metas),
    }


def _cast_label_weights() -> None:
    """Let stock's denoising loss run at all: it multiplies float32 by int64 weights, which Paddle 3.x refuses."""
    from paddle3d.models.losses import focal_loss

    reduce = focal_loss.weight_reduce_loss
    focal_loss.weight_reduce_loss = lambda loss, weight, *rest: reduce(loss, weight.astype(loss.dtype), *rest)


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Answer {model_config, weights?, batch?, noise?} with {keys, detections, losses, gradients}."""
    import paddle

    model = build_stock(asked["model_config"])
    state = model.state_dict()
    reply: dict[str, Any] = {"keys": {name: tuple(value.shape) for name, value in state.items()}}
    if "batch" not in asked:
        return reply
    for name, value in asked["weights"].items():
        state[name].set_value(value)
    # The picture may be smaller than the padded image.
    height, width = asked["model_config"]["input"]["image_size"]
    samples = stock_samples(asked["batch"])
    for meta in samples["meta"]:
        meta["img_shape"] = [(height, width, 3)] * len(meta["img_shape"])
    model.eval()
    if asked["model_config"]["model"]["pts_bbox_head"]["transformer"]["type"] == "PETRTransformer":
        with paddle.no_grad():
            predictions = model({**samples, "img": samples["img"].clone()})["preds"]
        reply["detections"] = [
            (np.asarray(p["bboxes_3d_numpy"]), np.asarray(p["bboxes_3d_velocities"]), p.confidences, p.labels)
            for p in predictions
        ]
    noise = asked.get("noise")
    if noise is not None:
        paddle.rand = lambda shape: paddle.to_tensor(noise.reshape(shape))
    model.train()
    losses = model(samples)["loss"]
    sum(losses.values()).backward()
    reply["losses"] = {name: value.item() for name, value in losses.items()}
    reply["gradients"] = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    return reply


def main(requests: Path, answers: Path) -> None:
    """Answer a pickled dictionary of requests."""
    _cast_label_weights()
    asked = pickle.loads(requests.read_bytes())
    answers.write_bytes(pickle.dumps({name: answer(request) for name, request in asked.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
