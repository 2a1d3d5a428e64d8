"""Splits that stay: a scene's split depends on its name, so that adding scenes moves nobody."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from petrflow.errors import PetrflowError


def split_by_hash(names: Sequence[str], ratio: float, seed: int = 0) -> dict[str, str]:
    """Draw scenes for train and val by a hash of their names.

    Parameters
    ----------
    names
        At least two scenes.
    ratio
        Share of val, in (0, 1). Each scene falls to val with this probability, whatever the others
        do.
    seed
        Salts the hash: another seed is another draw.

    Returns
    -------
    'train' or 'val' by name. A split that would be empty gets the scene of the lowest hash.
    """
    shares = {name: int(hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()[:13], 16) / 16**13 for name in names}
    split_of = {name: "val" if share < ratio else "train" for name, share in shares.items()}
    for split in ("train", "val"):
        if split not in split_of.values():
            split_of[min(shares, key=lambda name: (shares[name], name))] = split
    return split_of


def split_by_ratio(scenes: Sequence[str], splits: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the scenes of train and val by `ratio` and `seed` of a data set's `splits`.

    Raises
    ------
    PetrflowError
        There is one scene only.
    """
    if len(scenes) < 2:
        raise PetrflowError(
            f"splits.ratio: {len(scenes)} scene cannot be divided: name it as train and as val, which flatters the model, or add scenes."
        )
    split_of = split_by_hash(scenes, splits["ratio"], splits.get("seed", 0))
    return {part: sorted(name for name in scenes if split_of[name] == part) for part in ("train", "val")}
