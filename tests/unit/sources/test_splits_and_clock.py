"""Splits that stay when scenes come, and one rule for timestamps."""

from __future__ import annotations

from decimal import Decimal

import pytest

from petrflow.sources.clock import in_microseconds, read_number, since_1970, unit_of
from petrflow.sources.splits import split_by_hash


def test_adding_scenes_moves_nobody() -> None:
    names = [f"scene {index}" for index in range(200)]
    before = split_by_hash(names[:150], 0.2, seed=3)
    after = split_by_hash(names, 0.2, seed=3)
    assert all(after[name] == split for name, split in before.items())
    assert 0.1 < list(after.values()).count("val") / 200 < 0.3
    assert split_by_hash(names, 0.2, seed=4) != after
    assert split_by_hash(names[::-1], 0.2, seed=3) == after


@pytest.mark.parametrize("ratio", [1e-9, 1 - 1e-9])
def test_a_split_that_would_be_empty_gets_the_scene_of_the_lowest_hash(ratio: float) -> None:
    split_of = split_by_hash(["a", "b", "c"], ratio)
    rare = "val" if ratio < 0.5 else "train"
    assert list(split_of.values()).count(rare) == 1
    lonely = next(name for name, split in split_of.items() if split == rare)
    shares = split_by_hash(["a", "b", "c"], 0.5, seed=0)
    assert lonely in shares


@pytest.mark.parametrize("text", ["1532402927", "1532402927612", "1532402927612460", "1532402927612460000"])
@pytest.mark.parametrize("ending", ["", ".0", ".25"])
def test_the_size_of_a_time_since_1970_tells_its_unit(text: str, ending: str) -> None:
    value = read_number(text + ending)
    assert value is not None
    found = since_1970(value)
    assert found is not None and abs(found - 1_532_402_927_612_460) < 1_000_000


@pytest.mark.parametrize(("unit", "scale"), [("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)])
@pytest.mark.parametrize("step", [0.05, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("start", [0.0, 3.0])
def test_the_time_between_frames_tells_the_unit_of_times_from_a_start(
    unit: str, scale: float, step: float, start: float
) -> None:
    values = [Decimal(str((start + index * step) * scale)) for index in range(3000)]
    found_unit = unit_of([values])
    found = [in_microseconds(value, found_unit) for value in values[:2]]
    assert found[1] is not None and found[0] is not None and abs(found[1] - found[0] - step * 1e6) < 2, unit


def test_what_is_no_time_is_none() -> None:
    for text in ("", "x", "nan", "inf", "-1", "1e", None):
        assert read_number(text) is None
    assert read_number(" 1532402927,612 ") == Decimal("1532402927.612")
    assert since_1970(Decimal(5)) is None
