"""The doctor: do labels, calibration and images of a data set agree? The same for every door.

    examine(Path("data/parking_lot"), Path("results/parking_lot/doctor"))

It leaves ``doctor.json``, ``doctor.txt`` and pictures of the frames whose labels fit their images
best and worst, and raises a `PetrflowError` where training would be pointless, with the likely
cause and the setting that mends it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.annotations import AnnotationStore, Keyframe, build_all
from petrflow.doctor import calibration, classes, contours, headings, places, sizes
from petrflow.doctor.findings import Finding, as_text, wrong_unit
from petrflow.doctor.pictures import write_overlay
from petrflow.errors import PetrflowError
from petrflow.files import read_json, write_atomic, write_json
from petrflow.files.status import tqdm
from petrflow.nuscenes.names import CATEGORY_OF_DETECTION
from petrflow.nuscenes.root import read_receipt
from petrflow.pictures.read import exif_orientation, where

__all__ = ["Finding", "diagnose", "examine"]

# Frames looked at, evenly over the data set: boxes are cheap, clouds and images are not.
_FRAMES, _CLOUDS, _IMAGES = 1500, 40, 30
_IMAGES_OF_THE_SICK = 6


def examine(
    root: Path,
    out: Path,
    stores: Mapping[str, Path] | None = None,
    about: Path | None = None,
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Examine a nuScenes root.

    Parameters
    ----------
    root
        `data/{dataset}`.
    out
        Folder for `doctor.json`, `doctor.txt` and the pictures; they are there also when this
        raises.
    stores
        Annotation stores of its splits by name; built for the occasion where there are none.
    about
        `results/{dataset}/root/`, where the door left its receipt.
    class_names
        Classes of the models that are trained on it; nuScenes' ten without them.

    Returns
    -------
    The report.

    Raises
    ------
    PetrflowError
        Where training on the data set would be pointless.
    """
    root, out = Path(root), Path(out)
    with tempfile.TemporaryDirectory(prefix="petrflow-doctor-") as scratch:
        if stores is None:
            stores = {split: Path(scratch) / f"{split}.arrow" for split in ("train", "val")}
            build_all(root, stores, about=about, progress=False)
        opened = {split: AnnotationStore.open(path) for split, path in stores.items()}
        report = diagnose(root, opened, out, about, class_names)
    write_json(out / "doctor.json", report)
    write_atomic(out / "doctor.txt", as_text(report))
    print(as_text(report), file=sys.stderr)
    fails = [finding for finding in report["findings"] if finding["level"] == "fail"]
    if fails:
        sentences = " ".join(f"({number}) {finding['sentence']}" for number, finding in enumerate(fails, 1))
        raise PetrflowError(
            f"The doctor advises against training on {root.name}: {sentences} See {out / 'doctor.txt'} and the pictures beside it."
        )
    return report


def diagnose(
    root: Path,
    stores: Mapping[str, AnnotationStore],
    out: Path | None = None,
    about: Path | None = None,
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Run every check and return the report; pictures are written where `out` is given."""
    receipt = read_receipt(root, about)
    imported = read_json(root / "import.json") if (root / "import.json").exists() else {}
    kind = receipt.get("kind", "nuscenes")
    names = next(iter(stores.values())).camera_names
    keyframes = [
        store[index]
        for store in stores.values()
        for index in _spread(len(store), _FRAMES * len(store) // max(1, sum(map(len, stores.values()))))
    ]
    labelled = [keyframe for keyframe in keyframes if len(keyframe.boxes)]
    figures: dict[str, Any] = {
        "velocities": receipt.get("has_velocity", "unknown"),
        "attributes": receipt.get("has_attributes", "unknown"),
    }
    cameras: dict[str, dict[str, Any]] = {name: {"boxes_inside": 0, "share": 0.0} for name in names}
    counts = {split: _class_counts(store) for split, store in stores.items()}
    findings = _check_files(keyframes, root)
    findings += classes.check_classes(counts, class_names or list(CATEGORY_OF_DETECTION), imported.get("unmapped", {}))
    if imported.get("reread_as_column_major"):
        cause = "extrinsics are transposed against their rowMajor"
        findings.append(
            Finding("warn", "extrinsics", cause, "external_layout: column_major", "read so, as Xtreme1's viewer does")
        )
    pictures: list[str] = []
    if labelled:
        found, fits = _check_geometry(labelled, root, names, imported, figures, cameras)
        findings += found
        pictures = _draw(labelled, fits, root, names, out)
    levels = {finding.level for finding in findings}
    return {
        "dataset": root.name,
        "kind": kind,
        "verdict": "fail" if "fail" in levels else "warnings" if "warn" in levels else "fit",
        "frames": {split: len(store) for split, store in stores.items()},
        "findings": [asdict(finding) | {"sentence": finding.sentence(kind)} for finding in findings],
        "cameras": cameras,
        "classes": {split: counts.get(split, {}) for split in ("train", "val")},
        "figures": figures,
        "pictures": pictures,
    }


def _check_geometry(
    keyframes: list[Keyframe],
    root: Path,
    names: Sequence[str],
    imported: Mapping[str, Any],
    figures: dict[str, Any],
    cameras: dict[str, dict[str, Any]],
) -> tuple[list[Finding], dict[int, np.ndarray]]:
    """Check boxes, calibration and the order of images of frames that have labels.

    Adds to ``figures`` and ``cameras``; returns the findings, and how well the labels of some
    frames fit their images, by the frame's index.
    """
    # Boxes and calibration.
    cloud_axes = np.array(imported.get("lidar_from_cloud", np.eye(4)))
    geometric = _merge_units(
        calibration.check_extrinsics(keyframes, figures, cloud_axes)
        + _check_boxes(keyframes, root, figures, imported.get("poses", True))
    )
    geometric += calibration.check_projection(keyframes, names, cameras, explained=_fails(geometric))
    # Boxes or calibrations that are wrong fit no image: the order of images can be judged only
    # where they are right.
    fits = _image_fits(keyframes, root, _IMAGES_OF_THE_SICK if _fails(geometric) else _IMAGES)
    order, own = contours.check_camera_order(list(fits.values()), names, imported.get("cameras", {}))
    for name, fit in zip(names, own.tolist(), strict=True):
        cameras[name]["image_fit"] = None if np.isnan(fit) else round(fit, 4)
    return geometric if _fails(geometric) else geometric + order, fits


def _fails(findings: Sequence[Finding]) -> bool:
    return any(finding.level == "fail" for finding in findings)


def _check_files(keyframes: Sequence[Keyframe], root: Path) -> list[Finding]:
    missing = [root / path for keyframe in keyframes for path in keyframe.image_paths if not (root / path).exists()]
    if missing:
        return [Finding("fail", "files", f"{len(missing)} images are missing", "", f"{where(missing[0])} is the first")]
    looked_at = [root / path for index in _spread(len(keyframes), _CLOUDS) for path in keyframes[index].image_paths]
    turned = [path for path in looked_at if exif_orientation(path) != 1]
    if not turned:
        return []
    cause = (
        "images carry an EXIF orientation, which is not applied: pixels are read as the file stores them, as nuscenes-devkit "
        "does, and calibration must be for those"
    )
    evidence = f"{len(turned)} of {len(looked_at)} images looked at, such as {where(turned[0])}"
    return [Finding("warn", "orientation", cause, "", evidence)]


def _check_boxes(
    keyframes: list[Keyframe], root: Path, figures: dict[str, Any], ego_motion_known: bool
) -> list[Finding]:
    """Sizes first: headings and places mean something only in metres and with the axes in order.

    Without the vehicle's poses, velocities are relative to it: what stands still seems to come
    towards it, whatever way it faces.
    """
    clouds = _clouds(keyframes, root)
    findings = sizes.check_sizes(keyframes, figures) + places.check_clouds(keyframes, clouds, figures)
    if any(finding.check == "units" for finding in findings):
        return findings
    order = sizes.size_columns(keyframes)
    upright = [
        replace(keyframe, boxes=keyframe.boxes[:, [0, 1, 2, *(3 + k for k in order), 6]]) for keyframe in keyframes
    ]
    if not ego_motion_known:
        upright = [replace(keyframe, velocities=np.full_like(keyframe.velocities, np.nan)) for keyframe in upright]
    turned, decided = headings.check_headings(upright, clouds, figures)
    if not decided:
        turned += contours.check_turned([upright[index] for index in _spread(len(upright), _IMAGES)], root)
    findings += turned
    findings += places.check_places(upright, figures)
    findings += headings.check_forward(keyframes, figures)
    return findings


def _merge_units(findings: list[Finding]) -> list[Finding]:
    """One setting where several quantities are in the same wrong unit."""
    units = [finding for finding in findings if finding.check == "units"]
    if len(units) < 2 or len({finding.unit for finding in units}) != 1:
        return findings
    parts = tuple(sorted({part for finding in units for part in finding.parts}))
    merged = wrong_unit(parts, units[0].unit, "; ".join(finding.evidence for finding in units))
    return [finding for finding in findings if finding not in units] + [merged]


def _spread(count: int, wanted: int) -> list[int]:
    """Indices of at most `wanted` frames, evenly spread."""
    if count <= wanted:
        return list(range(count))
    return np.unique(np.linspace(0, count - 1, max(1, wanted)).astype(int)).tolist()


def _class_counts(store: AnnotationStore) -> dict[str, int]:
    counts: dict[str, int] = {}
    codes, numbers = np.unique(store.columns["box.name"], return_counts=True)
    for code, number in zip(codes.tolist(), numbers.tolist(), strict=True):
        counts[store.metadata["names"][code]] = int(number)
    return counts


def _clouds(keyframes: Sequence[Keyframe], root: Path) -> dict[int, np.ndarray]:
    """Points (P, 3) float32 of some frames, by index; frames without a cloud are left out."""
    clouds = {}
    for index in _spread(len(keyframes), _CLOUDS):
        path = root / keyframes[index].lidar_path
        if path.is_file() and path.stat().st_size:
            clouds[index] = np.fromfile(path, dtype=np.float32).reshape(-1, 5)[:, :3]
    return clouds


def _image_fits(keyframes: Sequence[Keyframe], root: Path, most: int) -> dict[int, np.ndarray]:
    fits = {}
    chosen = _spread(len(keyframes), most)
    for index in tqdm(chosen, desc="doctor", unit="frame", file=sys.stderr, disable=len(chosen) < 10):
        fit = contours.image_fit(keyframes[index], root)
        if fit is not None:
            fits[index] = fit
    return fits


def _draw(
    keyframes: Sequence[Keyframe], fits: Mapping[int, np.ndarray], root: Path, names: Sequence[str], out: Path | None
) -> list[str]:
    """Write the frames whose labels fit their images best and worst; return the file names."""
    own = {index: float(np.nanmean(np.diag(fit))) for index, fit in fits.items() if np.isfinite(np.diag(fit)).any()}
    if not own or out is None:
        return []
    ranked = sorted(own, key=lambda index: (own[index], index))
    pictures = []
    for word, index in (("least", ranked[0]), ("most", ranked[-1])):
        keyframe = keyframes[index]
        inside = int(calibration.boxes_inside(keyframe).any(axis=0).sum())
        title = f"{word} consistent: {keyframe.scene_name}, {inside} of {len(keyframe.boxes)} boxes in an image, contours fit by {own[index]:+.3f}"
        write_overlay(keyframe, root, names, out / f"{word}_consistent.jpg", title)
        pictures.append(f"{word}_consistent.jpg")
    return pictures
