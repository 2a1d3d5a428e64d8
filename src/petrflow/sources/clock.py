"""One rule for timestamps at every door: seconds, ms, µs or ns, as integers or floats, become
µs.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from itertools import pairwise

_YEAR_2000, _YEAR_2100 = 946_684_800, 4_102_444_800
# µs a unit, with the time between two frames in that unit below which it is the one: frames come
# 0.01 s to 10 s apart.
_UNITS = (
    (Decimal(1_000_000), Decimal(10)),
    (Decimal(1_000), Decimal(10_000)),
    (Decimal(1), Decimal(10_000_000)),
    (Decimal("0.001"), None),
)


def read_number(text: object) -> Decimal | None:
    """Read a finite number that is not negative; None for anything else. `1532402927,612` is how
    Excel writes it in much of Europe.
    """
    try:
        value = Decimal(str(text).strip().replace(",", "."))
    except InvalidOperation:
        return None
    return value if value.is_finite() and value >= 0 else None


def since_1970(value: Decimal) -> int | None:
    """Return µs of a time since 1970, whose size tells its unit; None where no unit gives a time
    between 2000 and 2100.
    """
    for scale, _ in _UNITS:
        found = value * scale
        if _YEAR_2000 <= found / 1_000_000 < _YEAR_2100:
            return int(found)
    return None


def unit_of(runs: Sequence[Sequence[Decimal]]) -> Decimal | None:
    """Return µs a unit for times that count from a start, None for times since 1970, each of which
    tells its unit by its size.

    Parameters
    ----------
    runs
        The times of each sequence of frames. The time between neighbouring frames tells the unit:
        one holds for all of a data set.
    """
    if all(since_1970(value) is not None for run in runs for value in run):
        return None
    steps = sorted(later - earlier for run in runs for earlier, later in pairwise(sorted(run)) if later > earlier)
    middle = steps[len(steps) // 2] if steps else Decimal(1)
    return next(scale for scale, below in _UNITS if below is None or middle < below)


def in_microseconds(value: Decimal, unit: Decimal | None) -> int | None:
    """Return µs of a time whose unit :func:`unit_of` found; None for no time since 1970 where one
    is wanted.
    """
    return since_1970(value) if unit is None else int(value * unit)
