"""Published numbers as data: what belongs beside a cell or a claim, and how sure one trained model can be of its share.

They lie in ``results/published/`` (its README says where they were read off). Compositions are written (shape, colour,
size) in every row, as ours are, whatever digit order the drawing had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from benchmark import ROOT
from benchmark.grid import of_preset
from benchmark.statistics import Interval, wilson
from benchmark.tables import Row, read_csv

FOLDER = ROOT / "results" / "published"
CURVES = FOLDER / "shapes2d_curves.csv"
TABLES = FOLDER / "tables.csv"
DATASET = "shapes2d"  # the only dataset whose curves could be read
AXES = ("architecture", "tokenizer", "conditioning")
BEST_LAYERS = (7, 9, 11)  # of table 2, and so the paper preset's
PLATEAU, END = ("plateau low", "plateau high"), "end of the curve"  # what was read of a picture, in `tables.csv`
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


def level_2(setting: Mapping[str, Any], figure: str, dataset: str) -> str:
    """Paper A's probe accuracy at level 2 of a claim's setting: where its curve ends, or what a table says.

    Args:
        setting: of a claims file; what it sets besides, seeds aside, was published for JEPA's layers alone.
        figure: the claim's, which is preferred where several show such a model.

    Returns:
        Shares as text, such as ``0.84`` or ``0.36 (plateau 0.45 to 0.65)``; empty where nothing was published.
    """
    changed = {key: value for key, value in (setting.get("set") or {}).items() if not key.startswith("seeds.")}
    architecture = setting["architecture"].replace("-", "+")  # as the figures write MaskGIT with JEPA
    if figure == "table 2":
        return _of_layers(changed) if (dataset, architecture) == ("clevrer_kubric", "maskgit+jepa") else ""
    if dataset != DATASET or changed:
        return ""
    model = {"tokenizer": "vq", "conditioning": "full", **setting, "architecture": architecture}
    names = tuple(f"fig{part}" for part in figure.split(", "))
    points = [row for row in published_curves() if row["level"] == 2]
    there = [row for row in points if any(name.startswith(names) for name in row["figure"].split("/"))]
    in_its_figure = [row for row in there if all(row[key] in (model[key], "unstated") for key in AXES)]
    if found := in_its_figure or matching(points, model):
        return f"{max(found, key=lambda row: row['step'])['accuracy_percent'] / 100:.2f}"
    return _of_picture(architecture)


def _of_picture(architecture: str) -> str:
    """A curve that is a picture only: its end, as of the others, with the plateau that the paper speaks of."""
    read = {
        row["quantity"].rpartition(", ")[2]: f"{row['value'] / 100:.2f}"
        for row in _tables()
        if row["table"] == "fig3" and row["setting"] == architecture
    }
    return f"{read[END]} (plateau {read[PLATEAU[0]]} to {read[PLATEAU[1]]})" if read else ""


def _of_layers(changed: Mapping[str, Any]) -> str:
    """Table 2: the best share of MaskGIT with JEPA on these layers."""
    key = "architecture.maskgit-jepa.layers"
    if set(changed) - {key}:
        return ""
    layers = of_preset(changed[key], "paper")[0] if changed else BEST_LAYERS
    name = f"layers={','.join(map(str, layers))}"
    return next((f"{row['value'] / 100:.2f}" for row in _tables() if row["setting"] == name), "")


@cache
def _tables() -> tuple[Row, ...]:
    return tuple(read_csv(TABLES)) if TABLES.exists() else ()
