"""The classic pickle that stock Paddle3D reads, written from a store without holding it in
memory.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from petrflow import geometry
from petrflow.annotations.store import AnnotationStore, CameraFrames, Keyframe
from petrflow.files import atomic_path
from petrflow.files.status import tqdm

# Protocol 3 has no frames, whose lengths would not survive the cut.
_PROTOCOL = 3


def write_classic(root: Path, store_path: Path, out_pkl: Path, progress: bool = True) -> None:
    """Write ``petr_nuscenes_annotation_{split}.pkl`` as ``tools/create_petr_nus_infos.py`` would.

    Keyframes are written one after another: memory stays at that of one keyframe, whatever the
    split's size. The reader needs several GB for trainval all the same.

    Parameters
    ----------
    root : Path
        nuScenes root. Paths in the pickle are absolute, because NuscenesMVDataset joins a relative
        root onto sweep paths again at every access.
    store_path, out_pkl : Path
    """
    store = AnnotationStore.open(store_path)
    folder = Path(root).absolute()
    with atomic_path(Path(out_pkl)) as temporary, temporary.open("wb") as handle:
        _write_infos(handle, _infos(store, folder, progress), {"version": store.version})


def _infos(store: AnnotationStore, root: Path, progress: bool) -> Iterator[dict[str, Any]]:
    for index in tqdm(range(len(store)), desc=f"classic {store.split}", unit="keyframe", disable=not progress):
        yield classic_info(store, store[index], root)


def _write_infos(handle: BinaryIO, infos: Iterator[dict[str, Any]], metadata: dict[str, Any]) -> None:
    """Write ``{"infos": [...], "metadata": {...}}`` with a pickler that forgets each info once it
    is written.

    The list is opened by hand with pickle's own opcodes; every info is then a complete pickle
    without its frame and its end. The memo is cleared in between, so no info may refer to another's
    objects, and none does.
    """
    handle.write(
        pickle.PROTO + bytes([_PROTOCOL]) + pickle.EMPTY_DICT + pickle.MARK + _text("infos") + pickle.EMPTY_LIST
    )
    for info in infos:
        handle.write(pickle.MARK + _body(info) + pickle.APPENDS)
    handle.write(_text("metadata") + _body(metadata) + pickle.SETITEMS + pickle.STOP)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return pickle.BINUNICODE + len(encoded).to_bytes(4, "little") + encoded


def _body(value: Any) -> bytes:
    """Pickle a value and cut off what makes it a file: the protocol opcode ahead and STOP
    behind.
    """
    data = pickle.dumps(value, protocol=_PROTOCOL)
    return data[2:-1]


def classic_info(store: AnnotationStore, keyframe: Keyframe, root: Path) -> dict[str, Any]:
    """Return one entry of ``infos``, with the types and the quirks of stock.

    Two quirks are kept for equality: boxes hold ``-yaw - pi/2`` as their angle, and
    ``sample_data_token`` of a sweep is the token of its sample.
    """
    columns = store.columns
    frames = columns["keyframe.camera_frame"][keyframe._index]
    return {
        "lidar_token": keyframe.lidar_token,
        "lidar_path": str(root / keyframe.lidar_path),
        "token": keyframe.token,
        "sweeps": _sweeps(store, keyframe, root),
        "cams": {name: _camera(store, keyframe, root, k, int(frames[k])) for k, name in enumerate(store.camera_names)},
        "lidar2ego_translation": keyframe.lidar_to_ego[0].tolist(),
        "lidar2ego_rotation": keyframe.lidar_to_ego[1].tolist(),
        "ego2global_translation": keyframe.ego_to_global[0].tolist(),
        "ego2global_rotation": keyframe.ego_to_global[1].tolist(),
        "timestamp": keyframe.timestamp,
        "gt_boxes": np.concatenate([keyframe.boxes[:, :6], -keyframe.boxes[:, 6:] - np.pi / 2], axis=1),
        "gt_names": np.array(keyframe.names),
        "gt_velocity": np.array(keyframe.velocities),
        "num_lidar_pts": keyframe.num_lidar_pts.astype(np.int64),
        "num_radar_pts": keyframe.num_radar_pts.astype(np.int64),
        "valid_flag": np.array(keyframe.valid),
    }


def _camera(store: AnnotationStore, keyframe: Keyframe, root: Path, k: int, frame: int) -> dict[str, Any]:
    calibration = store.columns["calibration.camera_to_ego"][store.columns["camera_frame.calibration"][frame]]
    pose = store.columns["camera_frame.ego_pose"][frame]
    return {
        "data_path": str(root / keyframe.image_paths[k]),
        "type": store.camera_names[k],
        "sample_data_token": keyframe.image_tokens[k],
        "sensor2ego_translation": calibration[:3].tolist(),
        "sensor2ego_rotation": calibration[3:].tolist(),
        "ego2global_translation": pose[:3].tolist(),
        "ego2global_rotation": pose[3:].tolist(),
        "timestamp": int(keyframe.image_timestamps[k]),
        "sensor2lidar_rotation": keyframe.lidar_from_camera[k, :3, :3],
        "sensor2lidar_translation": keyframe.lidar_from_camera[k, :3, 3],
        "cam_intrinsic": keyframe.intrinsics[k],
    }


def _sweeps(store: AnnotationStore, keyframe: Keyframe, root: Path) -> list[dict[str, Any]]:
    """All sweeps of a keyframe, placed at once; an entry that repeats the one before it is the same
    object, as in stock.
    """
    columns = store.columns
    first = int(columns["keyframe.sweep_offset"][keyframe._index])
    frames = np.array(columns["sweep.camera_frame"][first : first + keyframe.num_sweeps])
    flat = frames.reshape(-1)
    views = CameraFrames(**store.camera_fields(flat, keyframe.global_from_lidar))
    camera_from_lidar = geometry.invert_rigid(views.lidar_from_camera)
    padded = geometry.rigid(views.intrinsics, np.zeros(3))
    intrinsics, projections = padded.astype(np.float32), (padded @ camera_from_lidar).astype(np.float32)
    extrinsics = np.ascontiguousarray(camera_from_lidar.swapaxes(-1, -2)).astype(np.float32)
    keyframes = columns["camera_frame.keyframe"][flat]
    tokens = columns["keyframe.token"].take(np.maximum(keyframes, 0))  # -1: of a keyframe that `load_every` passes over
    samples = ["" if number < 0 else token for number, token in zip(keyframes, tokens, strict=True)]
    is_keyframe = columns["camera_frame.is_keyframe"][flat].astype(bool).tolist()
    timestamps = views.image_timestamps.tolist()
    entries = [
        {
            "is_key_frame": is_keyframe[k],
            "data_path": str(root / views.image_paths[k]),
            "type": "camera",
            "timestamp": timestamps[k],
            "sample_data_token": samples[k],
            "sensor2lidar_rotation": views.lidar_from_camera[k, :3, :3],
            "sensor2lidar_translation": views.lidar_from_camera[k, :3, 3],
            "intrinsics": intrinsics[k],
            "extrinsics": extrinsics[k],
            "lidar2img": projections[k],
        }
        for k in range(len(flat))
    ]
    sweeps: list[dict[str, Any]] = []
    width = len(store.camera_names)
    for k in range(keyframe.num_sweeps):
        if k > 0 and (frames[k] == frames[k - 1]).all():
            sweeps.append(sweeps[-1])
        else:
            sweeps.append(dict(zip(store.camera_names, entries[k * width : (k + 1) * width], strict=True)))
    return sweeps
