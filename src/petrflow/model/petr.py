"""PETRv2: two frames of any number of cameras in, boxes with velocities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle3d.models.detection.petr import petr3d

from petrflow.model import box_codes
from petrflow.model.dense_head import CellPredictions
from petrflow.model.image_network import GridMask
from petrflow.samples import types


class PetrV2(petr3d.Petr3D):
    """Paddle3D's Petr3D with its faults corrected; see :func:`petrflow.model.build_model`.

    Parameters
    ----------
    num_cameras : int
        Cameras of one frame, N.
    image_shape : (height, width)
        Of the picture before padding, pixels.
    backbone_learning_rate_factor : float
        Upstream fixes 0.1, which suits pretrained backbones only.
    previous_frame_gradient : bool
        False: the backbone learns from current images only, and the previous frame costs no
        backward pass.
    previous_frame : bool
        False: the model is shown one frame, as a keyframe without a previous one is, and its
        features are computed once.
    **arguments
        As Petr3D.
    """

    def __init__(
        self,
        *,
        num_cameras: int = 6,
        image_shape: Sequence[int] = (320, 800),
        backbone_learning_rate_factor: float = 0.1,
        previous_frame_gradient: bool = True,
        previous_frame: bool = True,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.num_cameras = 2 * num_cameras
        self.image_shape = tuple(image_shape)
        self.previous_frame_gradient = previous_frame_gradient
        self.previous_frame = previous_frame
        self.frozen: tuple[str, ...] = ()
        for parameter in self.backbone.parameters():
            parameter.optimize_attr["learning_rate"] = backbone_learning_rate_factor
        if self.use_grid_mask:
            self.grid_mask = GridMask(True, True, rotate=1, offset=False, ratio=0.5, mode=1, prob=0.7)
        self.seed_step(0, 0, 0)

    def seed_step(self, seed: int, epoch: int, iteration: int) -> None:
        """Make all randomness of the next forward (GridMask, denoising, dropout) a pure function of
        these numbers.
        """
        self.rng = np.random.default_rng([seed, epoch, iteration])
        if self.use_grid_mask:
            self.grid_mask.rng = self.rng
        paddle.seed(int(self.rng.integers(2**31)))

    def freeze(self, parts: Sequence[str]) -> None:
        """Let ``backbone`` or ``neck`` learn no more; their normalisation keeps its statistics."""
        self.frozen = tuple(parts)
        for name in self.frozen:
            for parameter in getattr(self, name).parameters():
                parameter.stop_gradient = True

    def train(self) -> None:
        """Switch to training; the backbone keeps its normalisation frozen where its config says
        so.
        """
        super().train()
        self.backbone.train()
        for name in self.frozen:
            getattr(self, name).eval()

    # -- forward
    # ----------------------------------------------------------------------------------------------------

    def extract_features(self, images: Tensor) -> Tensor:
        """Return features (B, 2N, C, h, w) float32 of normalised images (B, 2N, 3, H, W).

        Upstream calls ``squeeze_`` on a batch of one, which changes the caller's tensor: the second
        forward on it fails.
        """
        batch, count = images.shape[:2]
        if not self.previous_frame:
            half = count // 2
            now = self._features(images[:, :half].flatten(0, 1))
            now = now.reshape([batch, half, *now.shape[1:]])
            return paddle.concat([now, now if self.previous_frame_gradient else now.detach()], axis=1)
        if self.training and not self.previous_frame_gradient:
            half = count // 2
            with paddle.no_grad():
                before = self._features(images[:, half:].flatten(0, 1))
            now = self._features(images[:, :half].flatten(0, 1))
            parts = [f.reshape([batch, half, *f.shape[1:]]) for f in (now, before)]
            return paddle.concat(parts, axis=1)
        features = self._features(images.flatten(0, 1))
        return features.reshape([batch, count, *features.shape[1:]])

    def _features(self, images: Tensor) -> Tensor:
        if self.use_grid_mask:
            images = self.grid_mask(images)
        features = self.neck(self.backbone(images))[self.pts_bbox_head.position_level]
        return features.astype("float32")

    def all_outputs(
        self, images: Tensor, img2lidar: Tensor, timestamps: Tensor, denoising: Any = None
    ) -> tuple[Tensor, Tensor, CellPredictions | None]:
        """Return class logits (L, B, Q, C) and box codes (L, B, Q, 10) of all decoder layers, and
        the dense head's predictions.

        Parameters
        ----------
        images : (B, 2N, 3, H, W) float32
            Normalised; first the N cameras now, then the same cameras before.
        img2lidar : (B, 2N, 4, 4) float32
            Inverse of ``lidar2img``.
        timestamps : (B, 2N) float32
            Seconds by which each image is older than the sample.
        denoising : DenoisingQueries, optional
        """
        features = self.extract_features(images)
        with paddle.amp.auto_cast(enable=False):
            return self.pts_bbox_head.decode_queries(
                features, img2lidar, timestamps, images.shape[-2:], self.image_shape, denoising
            )

    def raw_outputs(self, images: Tensor, img2lidar: Tensor, timestamps: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (L, B, Q, C) and box codes (L, B, Q, 10), before the best are kept;
        arguments as :meth:`all_outputs`.
        """
        return self.all_outputs(images, img2lidar, timestamps)[:2]

    def inputs_of(self, batch: types.Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three inputs of :meth:`raw_outputs` for a batch of numpy arrays, which stays
        as it is.
        """
        return _tensors(network_inputs(batch))

    def losses(self, batch: types.Batch) -> dict[str, Tensor]:
        """Return the losses of a batch, the queries' by their upstream names; the total is their
        sum.

        Call :meth:`seed_step` before, for a step that can be repeated. Under
        ``paddle.amp.auto_cast`` only the image features are computed in low precision, as upstream
        does.
        """
        head = self.pts_bbox_head
        boxes = [box_codes.centred(b) for b in batch["gt_bboxes_3d"]]
        labels = [np.asarray(label, dtype="int64") for label in batch["gt_labels_3d"]]
        denoising = head.denoising_queries(boxes, labels, self.rng) if self.training else None
        images, img2lidar, timestamps = network_inputs(batch)
        logits, codes, cells = self.all_outputs(*_tensors((images, img2lidar, timestamps)), denoising)
        with paddle.amp.auto_cast(enable=False):
            losses = head.losses(logits, codes, boxes, labels, denoising)
            if cells is not None:
                losses.update(head.monocular_losses(cells, boxes, labels, img2lidar, timestamps))
            return losses

    def predict(self, batch: types.Batch) -> list[types.Detections]:
        """Return the detections of every sample of a batch, best first; leaves the training mode as
        it was.
        """
        training = self.training
        self.eval()
        with paddle.no_grad():
            logits, codes = self.raw_outputs(*self.inputs_of(batch))
        if training:
            self.train()
        coder = self.pts_bbox_head.bbox_coder
        return box_codes.best_detections(logits[-1].numpy(), codes[-1].numpy(), coder.max_num, coder.post_center_range)


def _tensors(arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
    return paddle.to_tensor(arrays[0]), paddle.to_tensor(arrays[1]), paddle.to_tensor(arrays[2])


def network_inputs(batch: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images, img2lidar and timestamps, all float32, of a batch; matrices are inverted in
    float64.
    """
    images = np.asarray(batch["img"], dtype="float32")
    img2lidar = np.linalg.inv(np.asarray(batch["lidar2img"], dtype="float64")).astype("float32")
    return images, img2lidar, np.asarray(batch["timestamp"], dtype="float32")
