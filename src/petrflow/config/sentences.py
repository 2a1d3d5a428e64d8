"""Parts of sentences about mistakes: the nearest names that are known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from petrflow.messages import _


def nearest(name: str, known: Iterable[str], listed: bool = True) -> str:
    """``; did you mean 'X'``, or ``; known are …`` when nothing is near and ``listed`` says so.

    Names that differ by case only count as nearest.
    """
    choices = sorted(set(known))
    by_case = [choice for choice in choices if choice.casefold() == name.casefold()]
    close = by_case or difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return _("; did you mean {close!r}", close=close[0])
    if not listed or not choices:
        return ""
    shown = ", ".join(choices[:20])
    return _("; known are {shown}", shown=shown) + (", …" if len(choices) > 20 else "")


def nearest_file(path: Path) -> str:
    """``; did you mean X`` for a path that does not exist: the nearest name in its folder, or the
    first folder that is missing.
    """
    parent = path.parent
    if path.is_symlink():
        return _(" (it is a link to {target}, which leads to no file)", target=path.readlink())
    if not parent.is_dir():
        while not parent.parent.is_dir() and parent != parent.parent:
            parent = parent.parent
        return _(" (the folder {parent} does not exist either)", parent=parent)
    try:
        names = [entry.name for entry in parent.iterdir()]
    except OSError:
        return ""
    stems = {Path(name).stem.casefold(): name for name in names if Path(name).suffix == path.suffix}
    close = [name for name in names if name.casefold() == path.name.casefold()]
    close += [stems[stem] for stem in difflib.get_close_matches(path.stem.casefold(), stems, 1)]
    close += difflib.get_close_matches(path.name, names, 1, cutoff=0.8)
    return _("; did you mean {path}", path=parent / close[0]) if close else ""
