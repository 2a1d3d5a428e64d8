"""Read what an Xtreme1 frame says: its cameras (`camera_config/NAME.json`) and its boxes
(`result/NAME.json`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.geometry import boxes_from_xtreme1, invert_rigid, quaternion_to_matrix, rigid
from petrflow.sources.xtreme1.frames import Document, natural_key
from petrflow.sources.xtreme1.lens import Lens, read_lens
from petrflow.sources.xtreme1.settings import Settings

# Calibration tools round to 4 or 5 digits; beyond this a "rotation" is something else.
_ROTATION_TOLERANCE = 1e-2
# m; labels reach a few hundred: a box beyond this is a mistake or another unit.
_FARTHEST = 100_000.0
_TILTED = 0.05  # rad
_OR_LEAVE_OUT = "Calibrate the camera, or leave it out with `cameras`."
_TYPES = ("3D_BOX", "3D", "CUBOID")
_OWN_SOURCE = ("Ground Truth", "Without Task")


@dataclass(frozen=True)
class Camera:
    """One entry of camera_config.

    `intrinsic` (3, 3) pixels, `camera_from_cloud` (4, 4) m, `size` (width, height) or (0, 0)
    unsaid, `lens` None where it does not bend.
    """

    intrinsic: np.ndarray
    camera_from_cloud: np.ndarray
    size: tuple[int, int]
    lens: Lens | None = None
    reread_as_column_major: bool = False


@dataclass
class Objects:
    """The 3D boxes of one frame.

    boxes (N, 7) float64: x, y, z, w, l, h, yaw in the point cloud's frame, m and rad; names, tracks
    ('' unknown) and point_counts (0 unknown) have one entry a box. `skipped` counts objects left
    out, by reason. `class_ids` holds the server's numbers of class names, `data_id` its number of
    the frame, where the export says them.
    """

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 7)))
    names: list[str] = field(default_factory=list)
    tracks: list[str] = field(default_factory=list)
    point_counts: list[int] = field(default_factory=list)
    tilted: int = 0
    largest_angle: float = 0.0
    skipped: dict[str, int] = field(default_factory=dict)
    class_ids: dict[str, int] = field(default_factory=dict)
    data_id: int | str | None = None

    def skip(self, reason: str) -> None:
        """Count an object that is left out."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1


def camera_entries_of(document: Document) -> list[Any]:
    """Return the entries of a camera_config file, in the order of the image folders; each is read
    when its camera is used.
    """
    entries = document.load()
    if isinstance(entries, dict):
        if "cameras" in entries:
            entries = entries["cameras"]
        elif entries and all(isinstance(entry, dict) for entry in entries.values()) and not _has_internal(entries):
            # Some tools number the entries: {"0": {...}, "1": {...}}.
            entries = [entries[key] for key in sorted(entries, key=natural_key)]
        else:
            entries = [entries]
    if not isinstance(entries, list) or not entries:
        raise PetrflowError(
            f"{document.where} lists no camera. It should be a list with one entry for each camera_image folder."
        )
    return entries


def _has_internal(entry: Any) -> bool:
    return isinstance(entry, dict) and ("cameraInternal" in entry or "camera_internal" in entry)


def read_camera(where: str, entry: Any, settings: Settings) -> Camera:
    """Read one entry of camera_config.

    Raises
    ------
    PetrflowError
        Intrinsics or extrinsics are missing, not finite, zero, mirrored, or no rigid transform.
    """
    if not isinstance(entry, dict):
        raise PetrflowError(f"{where}: not an object with cameraInternal and cameraExternal.")
    internal = _either(where, entry, "cameraInternal", "camera_internal")
    external = _either(where, entry, "cameraExternal", "camera_external")
    intrinsic = _intrinsic(where, internal)
    said = entry.get("rowMajor", entry.get("row_major"))
    matrix, reread = _external(where, external, said, settings.external_layout)
    _check_rigid(where, matrix, settings)
    rotation = matrix[:3, :3].T if settings.external_rotation == "transposed" else matrix[:3, :3]
    camera_from_cloud = rigid(_orthonormal(rotation), matrix[:3, 3] * settings.length_unit["externals"])
    if settings.external_direction == "camera_to_cloud":
        camera_from_cloud = invert_rigid(camera_from_cloud)
    width, height = (int(_finite(f"{where}, {key}", entry.get(key) or 0)) for key in ("width", "height"))
    lens = read_lens(where, entry, internal if isinstance(internal, dict) else {})
    return Camera(intrinsic, camera_from_cloud, (width, height), lens, reread)


def _intrinsic(where: str, internal: Any) -> np.ndarray:
    """Read focal lengths and centre, or a 3x3 matrix nested or flat."""
    if isinstance(internal, list) and len(_flat(internal)) == 9:
        matrix = np.array(
            [_finite(f"{where}, cameraInternal[{i}]", value) for i, value in enumerate(_flat(internal))]
        ).reshape(3, 3)
        if not np.allclose(matrix[2], [0, 0, 1], atol=1e-9):
            raise PetrflowError(
                f"{where}: the last row of cameraInternal is {matrix[2].tolist()}, not 0 0 1: this is no intrinsic matrix."
            )
    elif isinstance(internal, dict) and all(key in internal for key in ("fx", "fy", "cx", "cy")):
        fx, fy, cx, cy = (_finite(f"{where}, cameraInternal.{key}", internal[key]) for key in ("fx", "fy", "cx", "cy"))
        matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    else:
        raise PetrflowError(f"{where}: cameraInternal needs fx, fy, cx and cy. {_OR_LEAVE_OUT}")
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise PetrflowError(
            f"{where}: focal lengths must be positive pixels, not fx {matrix[0, 0]} and fy {matrix[1, 1]}. {_OR_LEAVE_OUT}"
        )
    return matrix


def _flat(value: list[Any]) -> list[Any]:
    return [number for part in value for number in (part if isinstance(part, list) else [part])]


def _external(where: str, external: Any, row_major: Any, layout: str) -> tuple[np.ndarray, bool]:
    """Read cameraExternal: 16 or 12 numbers, nested or flat, or `{rotation, translation}`; return
    (4, 4), and whether it was reread.
    """
    if isinstance(external, dict):
        return _rotation_and_translation(where, external), False
    values = _flat(external) if isinstance(external, list) else []
    if len(values) not in (12, 16):
        raise PetrflowError(
            f"{where}: cameraExternal has {len(values)} numbers instead of 16 (a 4x4 matrix) or 12 (a 3x4 one). {_OR_LEAVE_OUT}"
        )
    numbers = np.array([_finite(f"{where}, cameraExternal[{i}]", value) for i, value in enumerate(values)])
    if len(numbers) == 16:
        return _layout(numbers.reshape(4, 4), row_major, layout)
    by_columns = layout == "column_major" or (layout == "file" and row_major is False)
    upper = numbers.reshape(4, 3).T if by_columns else numbers.reshape(3, 4)
    return np.vstack([upper, [0.0, 0.0, 0.0, 1.0]]), False


def _rotation_and_translation(where: str, external: dict[str, Any]) -> np.ndarray:
    rotation, translation = external.get("rotation"), external.get("translation")
    if isinstance(translation, dict):
        translation = [translation.get(axis) for axis in "xyz"]
    if not isinstance(translation, list) or len(translation) != 3:
        raise PetrflowError(
            f"{where}: cameraExternal is an object without a translation of three numbers. {_OR_LEAVE_OUT}"
        )
    place = np.array(
        [_finite(f"{where}, cameraExternal.translation[{i}]", value) for i, value in enumerate(translation)]
    )
    if isinstance(rotation, dict) and all(key in rotation for key in "wxyz"):
        quaternion = np.array([_finite(f"{where}, cameraExternal.rotation.{key}", rotation[key]) for key in "wxyz"])
        if abs(float(np.linalg.norm(quaternion)) - 1) > _ROTATION_TOLERANCE:
            raise PetrflowError(
                f"{where}: cameraExternal.rotation is no unit quaternion: its norm is {np.linalg.norm(quaternion):.4g}."
            )
        return rigid(quaternion_to_matrix(quaternion / np.linalg.norm(quaternion)), place)
    values = _flat(rotation) if isinstance(rotation, list) else []
    if len(values) != 9:
        raise PetrflowError(
            f"{where}: cameraExternal.rotation should be a 3x3 matrix or a quaternion with named parts, {{w, x, y, z}}: the order of a list of "
            "four cannot be known."
        )
    numbers = [_finite(f"{where}, cameraExternal.rotation[{i}]", value) for i, value in enumerate(values)]
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(numbers).reshape(3, 3)
    matrix[:3, 3] = place
    return matrix


def _layout(matrix: np.ndarray, row_major: Any, layout: str) -> tuple[np.ndarray, bool]:
    """Turn the 16 numbers, filled in row by row, into the matrix that acts on column vectors.

    Xtreme1's viewer takes a matrix whose translation stands in the last four numbers as
    column-major whatever `rowMajor` says, so labels were drawn with that reading; so do we, and say
    so.
    """
    if layout != "file":
        return (matrix if layout == "row_major" else matrix.T), False
    if row_major is False:
        return matrix.T, False
    looks_column_major = not matrix[:3, 3].any() and matrix[3, :3].any()
    return (matrix.T, True) if looks_column_major else (matrix, False)


def _check_rigid(where: str, matrix: np.ndarray, settings: Settings) -> None:
    if not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-6):
        if np.allclose(matrix[:, 3], [0, 0, 0, 1], atol=1e-6):
            other = "row_major" if settings.external_layout in ("column_major", "file") else "column_major"
            raise PetrflowError(
                f"{where}: cameraExternal is transposed: read as rowMajor says, its translation stands in the last row. "
                f"Set `external_layout: {other}`, or correct rowMajor."
            )
        raise PetrflowError(
            f"{where}: cameraExternal's last row is {matrix[3].tolist()}, not 0 0 0 1: this is no 4x4 rigid transform."
        )
    rotation = matrix[:3, :3]
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=_ROTATION_TOLERANCE):
        raise PetrflowError(
            f"{where}: cameraExternal's 3x3 part is no rotation (its rows are not orthonormal). "
            "Give point cloud to camera coordinates, without the intrinsics multiplied in and without scale."
        )
    if np.linalg.det(rotation) < 0:
        raise PetrflowError(
            f"{where}: cameraExternal mirrors (its determinant is -1): one axis has the wrong sign, or the point cloud is left-handed. "
            "Negate that row where the file is made; no setting can know which one."
        )


def _orthonormal(rotation: np.ndarray) -> np.ndarray:
    """The nearest rotation, (3, 3); what is one to float32's precision stays as it is."""
    if np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6):
        return rotation
    u, _, vt = np.linalg.svd(rotation)
    return u @ vt


def _either(where: str, entry: dict[str, Any], new: str, old: str) -> Any:
    if new in entry or old in entry:
        return entry[new] if new in entry else entry[old]
    raise PetrflowError(f"{where}: neither {new} nor {old} is there.")


def _finite(where: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise PetrflowError(f"{where}: {value!r} is not a finite number. Correct it, or export the frame again.")
    return number


# ------------------------------------------------------------------------------------------------------------------ results


def read_results(document: Document) -> dict[str, list[dict[str, Any]]]:
    """Read a result file: its objects by `sourceName` (one person's labels, one model run, ...)."""
    results, path = document.load(), document.where
    results = [results] if isinstance(results, dict) else results
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise PetrflowError(f"{path} is not a list of results. Export it from Xtreme1 again.")
    sources: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        objects = result.get("objects") or []
        if not isinstance(objects, list) or not all(isinstance(found, dict) for found in objects):
            raise PetrflowError(f"{path}: objects is not a list of objects. Export it from Xtreme1 again.")
        sources.setdefault(str(result.get("sourceName") or "Ground Truth"), []).extend(objects)
    return sources


def data_id_of(document: Document) -> int | str | None:
    """Return the server's number of the frame that a result file speaks of, where it says one."""
    content = document.load()
    results = content if isinstance(content, list) else [content]
    found = next((result["dataId"] for result in results if result.get("dataId") is not None), None)
    return found if isinstance(found, int | str) else None


def choose_source(sources: set[str], wanted: str | None) -> str:
    """Pick whose objects are the labels: the setting, else people's own labels, else the only
    source there is.
    """
    if wanted is not None:
        if wanted not in sources:
            raise PetrflowError(f"`result_source: {wanted}` is in no result. There are: {', '.join(sorted(sources))}.")
        return wanted
    for own in _OWN_SOURCE:
        if own in sources:
            return own
    if len(sources) > 1:
        raise PetrflowError(
            f"Results come from several sources ({', '.join(sorted(sources))}). Name the labels' with `result_source`."
        )
    return next(iter(sources))


def read_objects(where: str, objects: list[dict[str, Any]], settings: Settings) -> Objects:
    """Convert a frame's 3D boxes; other types ride along in the file and are no 3D labels."""
    found = Objects()
    rows = []
    for index, entry in enumerate(objects):
        contour = entry["contour"] if isinstance(entry.get("contour"), dict) else entry
        if str(entry.get("type") or "3D_BOX").upper() not in _TYPES:
            continue
        if "center3D" not in contour:
            if entry.get("type"):  # it says that it is a box, and holds none
                found.skip("without a contour")
            continue
        box = f"{where}, object {index}"
        center, size, rotation = (_vector(box, contour, key) for key in ("center3D", "size3D", "rotation3D"))
        if min(size) <= 0:
            found.skip("without a size")
            continue
        if max(map(abs, center)) * settings.length_unit["boxes"] > _FARTHEST:
            raise PetrflowError(
                f"{box}: center3D is {max(map(abs, center)) * settings.length_unit['boxes'] / 1000:,.0f} km away. Correct it, or say what unit "
                "the boxes are in with `length_unit`."
            )
        if settings.angle_unit == "deg":
            rotation = (math.radians(rotation[0]), math.radians(rotation[1]), math.radians(rotation[2]))
        yaw, tilt = _heading(*rotation)
        found.tilted += tilt > _TILTED
        found.largest_angle = max(found.largest_angle, *map(abs, rotation))
        rows.append((center, size, yaw))
        found.names.append(str(entry.get("className") or entry.get("modelClass") or ""))
        if isinstance(entry.get("classId"), int) and entry.get("className"):
            found.class_ids[found.names[-1]] = entry["classId"]
        track = next((entry[key] for key in ("trackId", "trackName") if entry.get(key) not in (None, "")), "")
        found.tracks.append(str(track))
        found.point_counts.append(max(0, int(_finite(f"{box}, pointN", contour.get("pointN") or 0))))
    if rows:
        unit = settings.length_unit["boxes"]
        centers, sizes, yaws = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
        sizes = np.stack([sizes[:, settings.size_order.index(axis)] for axis in "lwh"], axis=1)
        found.boxes = boxes_from_xtreme1(centers * unit, sizes * unit, yaws + math.radians(settings.yaw_offset))
    return found


def _heading(x: float, y: float, z: float) -> tuple[float, float]:
    """Heading of a box and its tilt out of the upright, rad, from three.js' Euler angles.

    An upright box may be written as turned over twice, (pi, pi, z), or as standing on its head,
    (pi, 0, z), which is a box like any other.
    """
    if math.cos(x) > 0 and math.cos(y) > 0:
        return z, max(abs(math.sin(x)), abs(math.sin(y)))
    # R = Rx Ry Rz: its first column points along the box's length, its third along the box's
    # height.
    ahead = (math.cos(y) * math.cos(z), math.cos(x) * math.sin(z) + math.sin(x) * math.sin(y) * math.cos(z))
    upright = abs(math.cos(x) * math.cos(y))
    return math.atan2(ahead[1], ahead[0]), math.acos(min(1.0, upright))


def _vector(where: str, contour: dict[str, Any], key: str) -> tuple[float, float, float]:
    value = contour.get(key)
    if not isinstance(value, dict):
        raise PetrflowError(f"{where}: {key} is missing. Export the frame again.")
    x, y, z = (_finite(f"{where}, {key}.{axis}", value.get(axis)) for axis in "xyz")
    return x, y, z
