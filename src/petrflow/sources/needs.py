"""What a data set of each kind needs: disk space and samples, by its config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petrflow.fetch.archive import is_archive
from petrflow.files.disk import GIGABYTE

# (version, archives, unpacked): published sizes of what a data set needs on disk.
DATASET_SIZES = {
    "v1.0-mini": (4 * GIGABYTE, 4 * GIGABYTE),
    "v1.0-trainval": (300 * GIGABYTE, 350 * GIGABYTE),
    "v1.0-test": (55 * GIGABYTE, 60 * GIGABYTE),
}
DATASET_SAMPLES = {"v1.0-mini": 323, "v1.0-trainval": 28130}


def samples_of(dataset: Mapping[str, Any]) -> int:
    """Samples a pass, as far as the config tells before the data set is there."""
    if dataset.get("kind") == "synthetic":
        return int(dataset.get("scenes", 10)) * int(dataset.get("keyframes", 12))
    return DATASET_SAMPLES.get(str(dataset.get("version")), DATASET_SAMPLES["v1.0-mini"])


def disk_need(dataset: Mapping[str, Any], complete: bool) -> int:
    """Bytes that a data set still needs under `data/`."""
    if complete:
        return 0
    if dataset.get("kind") == "synthetic":
        frames = int(dataset.get("scenes", 10)) * int(dataset.get("keyframes", 12))
        width, height = dataset.get("image_size", (400, 225))
        return frames * (36 * int(width) * int(height) // 4 + 200_000)
    source = dataset.get("source")
    if dataset.get("kind") != "nuscenes" or (isinstance(source, str) and Path(source).expanduser().is_dir()):
        return 0
    archives, unpacked = DATASET_SIZES.get(str(dataset.get("version")), (0, 0))
    parts = source if isinstance(source, list) else [source]
    local = all(
        isinstance(part, str) and is_archive(Path(part)) and Path(part).expanduser().is_file() for part in parts
    )
    if dataset.get("remove_archives") and archives > 20 * GIGABYTE:
        archives //= 8  # one part at a time
    return unpacked + (0 if local else archives)
