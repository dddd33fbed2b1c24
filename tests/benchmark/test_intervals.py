"""Intervals in the record: which shares have one, on how many images each stands, and that they hold the share."""

from __future__ import annotations

import pytest

from benchmark.intervals import intervals
from benchmark.statistics import wilson

SAMPLES = {"00": 100, "01": 100, "10": 100, "11": 100}
HELD_OUT = {"00": 40, "01": 30, "10": 20, "11": 10}


def counts(row: dict[str, object]) -> dict[str, float]:
    return {name: found["count"] for name, found in intervals(row, SAMPLES, HELD_OUT, ("00",)).items()}


def test_every_share_stands_on_its_own_images() -> None:
    row = {"comp_01": 0.5, "strict_drawn_comp_11": 0.25, "level1": 0.5, "strict_level2": 1.0, "factor_hair": 0.9}
    assert counts(row) == {
        "comp_01": 100,
        "strict_drawn_comp_11": 100,
        "level1": 200,
        "strict_level2": 100,
        "factor_hair": 400,
    }
    assert counts({"real_comp_11": 0.9, "recon_strict_comp_00": 1.0, "real_level1": 0.8}) == {
        "real_comp_11": 10,
        "recon_strict_comp_00": 40,
        "real_level1": 50,
    }


def test_they_are_wilsons() -> None:
    found = intervals({"strict_comp_10": 0.07}, SAMPLES, HELD_OUT, ("00",))["strict_comp_10"]
    expected = wilson(7, 100)
    assert (found["low"], found["high"]) == (expected.low, expected.high)
    assert found["low"] < 0.07 < found["high"]


@pytest.mark.parametrize(
    "name", ["minutes", "psnr", "level2_max", "kid_comp_00", "memorised_level0", "comp_00_x", "seed"]
)
def test_what_is_no_share_has_none(name) -> None:
    assert counts({name: 0.5}) == {}


def test_a_share_without_a_value_has_none() -> None:
    assert counts({"comp_00": None}) == {}
