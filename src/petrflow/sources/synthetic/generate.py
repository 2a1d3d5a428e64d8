"""The synthetic door: scenes are rendered in parallel, their tables joined, and the root replaced
at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from petrflow import config, files
from petrflow.config import nearest
from petrflow.errors import PetrflowError
from petrflow.files.status import tqdm
from petrflow.machine.hardware import cores
from petrflow.messages import _
from petrflow.nuscenes.names import TABLE_NAMES
from petrflow.nuscenes.root import COMPLETE
from petrflow.nuscenes.splits import official_splits
from petrflow.nuscenes.writer import fixed_tables, write_tables
from petrflow.sources.ownership import new_root, write_receipt
from petrflow.sources.splits import split_by_ratio
from petrflow.sources.synthetic.pool import run_scenes
from petrflow.sources.synthetic.rig import CAMERA_NAMES

# Train and val alternate at the start, so that a set of a few scenes still has both.
_NAME_ORDER = (
    "scene-0061", "scene-0103", "scene-0553", "scene-0655", "scene-0916", "scene-0757", "scene-0796", "scene-1077", "scene-1094", "scene-1100",
)  # fmt: skip


def scene_names(count: int) -> list[str]:
    """The names of a set of `count` scenes, in the order of their tables."""
    names = list(_NAME_ORDER[:count]) + [f"scene-{2000 + i}" for i in range(1, count - len(_NAME_ORDER) + 1)]
    return sorted(names)


def split_scenes(names: list[str], splits: dict[str, Any]) -> dict[str, list[str]]:
    """Which of the scenes train and which validate: {"train": [...], "val": [...]}."""
    if "ratio" in splits:
        return split_by_ratio(names, splits)
    known = official_splits()
    wanted = config.with_defaults("synthetic", {"splits": splits})["splits"]
    chosen: dict[str, list[str]] = {}
    for part in ("val", "train"):
        value = wanted[part]
        if isinstance(value, str):
            if value not in known:
                raise PetrflowError(
                    f"splits.{part}: there is no split {value!r}{nearest(value, known)}; or give a list of scene names."
                )
            listed = [name for name in names if name in known[value]]
            if part == "train":  # scenes that no official split knows are there to learn from
                listed = [
                    name
                    for name in names
                    if name in listed or (not any(name in v for v in known.values()) and name not in chosen["val"])
                ]
        else:
            listed = list(value)
            for name in listed:
                if name not in names:
                    raise PetrflowError(
                        f"splits.{part}: "
                        + _(
                            "this synthetic set has no scene {name!r}{hint}.", name=name, hint=nearest(str(name), names)
                        )
                    )
        if not listed:
            raise PetrflowError(
                f"splits.{part}: "
                + _(
                    "{value!r} holds none of this synthetic set's {count} scenes, {scenes}.",
                    value=value,
                    count=len(names),
                    scenes=", ".join(names[:12]),
                )
            )
        chosen[part] = listed
    return {"train": chosen["train"], "val": chosen["val"]}


def _said(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings for the root's fingerprint: keys that later versions added count where they say
    something other than their defaults, so that what was rendered before stays what it is.
    """
    defaults = config.with_defaults("synthetic", {})
    return {key: value for key, value in settings.items() if key not in ("vehicle", "light") or value != defaults[key]}


def _make_all(
    names: list[str], settings: dict[str, Any], root: Path, workers: int, progress: bool
) -> list[dict[str, list[dict]]]:
    """Rows of all scenes in the order of `names`, made in this process or in `workers` others."""
    made: Iterable[tuple[str, dict[str, list[dict]]]]
    if workers > 1:
        made = run_scenes(names, settings, root, workers)
    else:
        from petrflow.sources.synthetic.recorder import make_scene  # here, because Numba takes a second to import

        made = ((name, make_scene(name, settings, root)) for name in names)
    rows = dict(tqdm(made, total=len(names), desc="synthetic scenes", unit="scene", disable=not progress))
    return [rows[name] for name in names]


def prepare(
    dataset: Mapping[str, Any], root: Path, about: Path | None = None, *, progress: bool = True
) -> dict[str, Any]:
    """Write a synthetic nuScenes root at `root` and its receipt to `about`; return the receipt.

    Parameters
    ----------
    dataset
        The config's entry.
    root
        `data/{dataset}`: it is replaced whole at the end, and only if petrflow made it; see
        `petrflow.sources.ownership`.
    about
        `results/{dataset}/root/`.
    """
    receipt = generate(root, dataset, progress, about)
    write_receipt(about, receipt)
    return receipt


def generate(
    root: Path,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
    about: Path | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write a synthetic nuScenes root at `root` and return its receipt.

    `settings` are the keys of a `kind: synthetic` data set (docs/config.md), `workers` the number
    of processes, one a CPU core without it; the bytes do not depend on it. The folder appears whole
    or not at all. One that petrflow did not make is never replaced.
    """
    merged = config.settings("synthetic", {"kind": "synthetic", **(settings or {})})
    del merged["kind"]
    names = scene_names(merged["scenes"])
    splits = split_scenes(names, merged["splits"])
    scene_settings = {
        key: merged[key]
        for key in ("seed", "keyframes", "density", "sweeps", "max_range", "jpeg_quality", "vehicle", "light")
    }
    scene_settings["image_size"] = tuple(merged["image_size"])
    workers = min(workers or cores(), len(names))
    with new_root(Path(root), kind="synthetic", version=merged["version"], about=about) as folder:
        rows = _make_all(names, scene_settings, folder, workers, progress)
        tables = fixed_tables(CAMERA_NAMES)
        for name in TABLE_NAMES:
            if name not in tables:
                tables[name] = [row for scene in rows for row in scene[name]]
        version = folder / merged["version"]
        write_tables(version, tables, splits)
        hashes = {name: files.sha256_file(version / f"{name}.json") for name in (*TABLE_NAMES, "splits")}
        complete = {
            "kind": "synthetic",
            "version": merged["version"],
            "splits": splits,
            "cameras": list(CAMERA_NAMES),
            "counts": {
                "scenes": len(tables["scene"]),
                "keyframes": len(tables["sample"]),
                "sample_data": len(tables["sample_data"]),
                "annotations": len(tables["sample_annotation"]),
            },
            "has_velocity": merged["keyframes"] > 1,
            "has_attributes": True,
            "fingerprint": files.fingerprint({"tables": hashes, "settings": _said(merged)}),
        }
        files.write_json(folder / COMPLETE, complete)
    return complete
