"""Published curves as data: which of them belongs beside a cell, and how sure one trained model can be of its share.

They lie in ``results/published/`` (its README says where they were read off). Compositions are written (shape, colour,
size) in every row, as ours are, whatever digit order the drawing had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from benchmark import ROOT
from benchmark.statistics import Interval, wilson
from benchmark.tables import Row, read_csv

FOLDER = ROOT / "results" / "published"
CURVES = FOLDER / "shapes2d_curves.csv"
DATASET = "shapes2d"  # the only dataset whose curves could be read
SAMPLES = 64  # images behind each published point of a single seed (paper A's evaluation)
SEVERAL_SEEDS = frozenset({"fig4d"})  # means of three seeds: their points are no draws of 64


@cache
def published_curves() -> tuple[Row, ...]:
    """Every published point; none outside a checkout."""
    return tuple(read_csv(CURVES)) if CURVES.exists() else ()


def matching(published: Iterable[Row], cell: Mapping[str, Any]) -> list[Row]:
    """The published points of a cell's architecture, tokenizer and conditioning, at all levels.

    Figures that leave tokenizer or conditioning unstated stand for any tokenizer, and for ``full`` where no other does.
    """
    found = [row for row in published if row["architecture"] == cell["architecture"]]
    found = [row for row in found if row["tokenizer"] in (cell.get("tokenizer"), "unstated")]
    conditioning = cell.get("conditioning")
    stated = [row for row in found if row["conditioning"] == conditioning]
    return stated or [row for row in found if row["conditioning"] == "unstated" and conditioning == "full"]


def interval(row: Row) -> Interval | None:
    """Wilson's 95 % interval of a published point, one draw of 64 samples; None for a mean over seeds."""
    if row["figure"] in SEVERAL_SEEDS:
        return None
    return wilson(round(row["accuracy_percent"] / 100 * SAMPLES), SAMPLES)


def highlights(published: Iterable[Row], wanted_level: int = 2) -> list[Row]:
    """A row a figure, model and composition of one level: last point and maximum as shares, each with its interval."""
    curves: dict[tuple[Any, ...], list[Row]] = {}
    names = ("figure", "architecture", "tokenizer", "conditioning", "composition")
    for row in published:
        if row["level"] == wanted_level:
            curves.setdefault(tuple(row[name] for name in names), []).append(row)
    lines = []
    for key, points in curves.items():
        last = max(points, key=lambda row: row["step"])
        best = max(points, key=lambda row: (row["accuracy_percent"], -row["step"]))  # the first of equal ones
        line = dict(zip(names, key, strict=True)) | {"last_step": last["step"], "maximum_step": best["step"]}
        for name, row in (("last", last), ("maximum", best)):
            around = interval(row)
            line |= {name: row["accuracy_percent"] / 100}
            line |= {f"{name}_low": around.low if around else None, f"{name}_high": around.high if around else None}
        lines.append(line)
    return lines
