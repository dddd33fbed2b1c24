"""Figures of a results folder: accuracy against step (``curves.png``), strict level 2 of every seed (``dots.png``).

Colours of the levels are those of the papers' figures; every curve and dot is one trained model, nothing is hidden
behind a mean.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import published as papers
from benchmark.files import replacing
from benchmark.leaderboard import binomial_floor
from benchmark.statistics import BIMODAL_GAP, bimodal, t_interval
from benchmark.tables import Row, is_number, read_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

COLOURS = ("#56C1FF", "#FF95CA", "#ED220D")  # levels 0, 1, 2 (Farid et al. 2025, after Okawa et al. 2023)
INKS = ("#1279B8", "#C2407F", "#B3170A")  # the same hues, dark enough for text on white
LEVELS = ("level 0 (seen)", "level 1", "level 2")
LADDER = ("maskgit", "maskgit-jepa", "givt", "mar", "dit")  # from discrete to continuous: the order of the panels
INK, GREY, PALE = "#444444", "#888888", "#B5B5B5"
DASHES = (0, (3, 2))
HEAD, LABEL = 36, 44  # letters on a line above a panel of 2.5 inches, and beside the dots
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8E8E8",
    "xtick.color": INK,
    "ytick.color": INK,
}
KEYS = (
    *("dataset", "tokenizer", "conditioning", "preset", "recipe"),
    *("architecture", "steps", "changed", "view", "setting"),
)
Group = tuple[str, list[Row]]  # a title and the cells behind it


def write_plots(results: Path, rows: Sequence[Row]) -> list[Path]:
    """Draw both figures of a results folder from its leaderboard rows. Returns the paths (none without cells)."""
    groups = group_cells([row for row in rows if row.get("state") in ("ok", "suspicious")])
    if not groups:
        return []
    names = [row["cell"] for _, cells in groups for row in cells]
    curves = {name: read_curve(results / "cells" / name / "curve.csv") for name in names}
    figures = {"curves.png": curve_figure(groups, curves), "dots.png": dot_figure(groups)}
    for name, figure in figures.items():
        with replacing(results / name) as aside:
            figure.savefig(aside, dpi=160, format="png")
    return [results / name for name in figures]


def read_curve(path: Path) -> list[Row]:
    """The whole rows of a curve, in order of step; none where there is no file. A row cut off in writing is dropped."""
    if not path.exists():
        return []
    return sorted((row for row in read_csv(path) if is_number(row.get("step"))), key=lambda row: row["step"])


def group_cells(rows: Iterable[Row]) -> list[Group]:
    """Cells by setting, titled by the architecture and by what tells settings apart; architectures as a ladder."""
    settings: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        name = tuple(row.get(key) or None for key in KEYS)  # nothing is the same in a record and in a table
        settings.setdefault(name, []).append(row)
    varying = [i for i in range(len(KEYS)) if len({name[i] for name in settings}) > 1]

    def title(name: tuple[Any, ...]) -> str:
        details = [_say(KEYS[i], name[i]) for i in varying if KEYS[i] not in ("architecture", "view", "setting")]
        return ", ".join([str(name[KEYS.index("architecture")]), *filter(None, details)])

    titles = {name: title(name) for name in settings}
    repeated = {text for text in titles.values() if list(titles.values()).count(text) > 1}
    for name in settings:
        if titles[name] in repeated:  # they differ in the view, or in something that only the setting's hash shows
            titles[name] += f", {name[-2]}, {str(name[-1])[:4]}"
    ordered = sorted(settings, key=lambda name: tuple(_place(key, part) for key, part in zip(KEYS, name, strict=True)))
    return [(titles[name], sorted(settings[name], key=lambda row: row.get("seed") or 0)) for name in ordered]


def curve_figure(groups: Sequence[Group], curves: Mapping[str, Sequence[Row]]) -> Figure:
    """One panel a setting: strict accuracy of the three levels against step, each seed thin and their mean thick.

    Dashed is the mean of the probe; dotted are suspicious cells, which enter no mean; grey is the published level 2
    (probe) of the same architecture, its steps rescaled to the same share of training.
    """
    columns = len(groups) if len(groups) <= 5 else 4
    lines = math.ceil(len(groups) / columns)
    heads = [_head(title, sum(row["state"] == "ok" for row in cells)) for title, cells in groups]
    tallest = max(len(below) for _, below in heads)
    figure = new_figure(2.5 * columns + 0.4, (2.5 + 0.14 * (tallest - 1)) * lines + 0.6)
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    shown = any(cells[0].get("dataset") == papers.DATASET for _, cells in groups)
    published = papers.published_curves() if shown else []
    for panel, (_, cells), (architecture, below) in zip(panels.flat, groups, heads, strict=False):
        _draw_panel(panel, cells, curves, published)
        panel.set_title(architecture, loc="left", fontweight="bold", pad=4 + 11 * len(below))
        # What is wider than a panel must not squeeze them all, hence out of the layout.
        small: dict[str, Any] = {"fontsize": 8, "color": INK, "in_layout": False}
        panel.annotate("\n".join(below), (0, 1), (0, 4), "axes fraction", "offset points", **small)
    for panel in panels.flat[len(groups) :]:
        panel.set_visible(False)
    figure.supxlabel("training step", fontsize=9)
    for row_of_panels in panels:
        row_of_panels[0].set_ylabel("accuracy (all factors right)")
    _level_legend(figure, shown)
    return figure


def dot_figure(groups: Sequence[Group], measure: str = "strict_level2") -> Figure:
    """One line a setting: a dot for every seed, and above them the mean with Student's 95 % interval over seeds.

    Bimodal seeds have no bar: what stands beside them is how many are above .5.
    """
    labels = [textwrap.wrap(title, LABEL) for title, _ in groups]
    widest = max(len(line) for label in labels for line in label)
    height = max(0.42, 0.16 * max(len(label) for label in labels) + 0.06)
    figure = new_figure(max(6.8, 4.6 + 0.068 * widest), height * len(groups) + 1.3)
    axes = figure.subplots()
    for place, (_, cells) in enumerate(groups):
        _draw_dots(axes, place, [row for row in cells if is_number(row.get(measure))], measure)
    axes.set_yticks(range(len(groups)), ["\n".join(label) for label in labels], color="black")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    name = measure.replace("_", " ").replace("level", "level ")
    axes.set_xlabel(f"{name}: share of samples with every factor right")
    legend_above(
        figure,
        line("a seed", color=COLOURS[2], marker="o", ls="", mec="white"),
        line("mean and 95 % interval over seeds (t)", color=INKS[2], lw=1.6, marker="|", mew=2, ms=9),
        line("suspicious, left out", color=GREY, marker="x", ls=""),
    )
    return figure


def mean_curve(curves: Sequence[Sequence[Row]], column: str) -> tuple[list[float], list[float]]:
    """Steps that every curve has, and the mean over the curves there. Curves without the column are left out."""
    points = [{row["step"]: row[column] for row in curve if is_number(row.get(column))} for curve in curves]
    points = [each for each in points if each]
    steps = sorted(set.intersection(*(set(each) for each in points))) if points else []
    return steps, [math.fsum(each[step] for each in points) / len(points) for step in steps]


def published_curve(published: Iterable[Row], cell: Row) -> tuple[list[float], list[float]]:
    """Published probe accuracy at level 2 of a cell's architecture, tokenizer and conditioning.

    Returns:
        steps as a share of the published training, and shares 0..1; empty where the papers show no such curve.
    """
    chosen = [row for row in papers.matching(published, cell) if row["level"] == 2]
    if not chosen:
        return [], []
    end = max(row["step"] for row in chosen)
    points = sorted((row["step"] / end, row["accuracy_percent"] / 100) for row in chosen)
    return [step for step, _ in points], [share for _, share in points]


def _draw_panel(
    panel: Axes, cells: Sequence[Row], curves: Mapping[str, Sequence[Row]], published: Sequence[Row]
) -> None:
    end = max((curves[row["cell"]][-1]["step"] for row in cells if curves[row["cell"]]), default=1)
    if cells[0].get("dataset") == papers.DATASET:
        steps, shares = published_curve(published, cells[0])
        panel.plot([step * end for step in steps], shares, color=PALE, lw=0.9, zorder=1.5)
    good = [curves[row["cell"]] for row in cells if row["state"] == "ok"]
    for level, colour in enumerate(COLOURS):
        for row in cells:
            style = "-" if row["state"] == "ok" else ":"
            points = mean_curve([curves[row["cell"]]], f"strict_level{level}")
            panel.plot(*points, style, color=colour, lw=0.7, alpha=0.7)
        panel.plot(*mean_curve(good, f"level{level}"), color=colour, lw=1.2, ls=DASHES)
        panel.plot(*mean_curve(good, f"strict_level{level}"), color=colour, lw=2.4, solid_capstyle="round")
    panel.set_ylim(-0.03, 1.03)
    panel.set_xlim(0, end)
    panel.locator_params(axis="x", nbins=4)


def _head(title: str, seeds: int) -> tuple[str, list[str]]:
    """The architecture, and lines no wider than a panel of what else tells the setting apart, and how many seeds."""
    architecture, *details = title.split(", ")
    below = ", ".join([*details, f"n\u00a0=\u00a0{seeds}"])  # not to be broken at its spaces
    return architecture, textwrap.wrap(below, HEAD)


def _draw_dots(axes: Axes, place: int, cells: Sequence[Row], measure: str) -> None:
    good = [row for row in cells if row["state"] == "ok"]
    doubtful = [row[measure] for row in cells if row["state"] != "ok"]
    seeds = [row[measure] for row in good]
    look: dict[str, Any] = {"color": COLOURS[2], "ms": 6, "mec": "white", "mew": 0.6, "alpha": 0.8, "clip_on": False}
    axes.plot(seeds, [place + 0.14] * len(seeds), "o", **look)
    axes.plot(doubtful, [place + 0.14] * len(doubtful), "x", color=GREY, ms=5, clip_on=False)
    if not good:
        return
    if bimodal(seeds):
        label = f"{sum(seed > BIMODAL_GAP for seed in seeds)} of {len(seeds)} above .5"
    else:
        interval = t_interval(seeds, max(binomial_floor(row, measure) for row in good)).clipped(0.0, 1.0)
        axes.hlines(place - 0.16, interval.low, interval.high, color=INKS[2], lw=1.6)
        axes.plot(interval.estimate, place - 0.16, "|", color=INKS[2], ms=9, mew=2, clip_on=False)
        label = f"{interval.estimate:.2f}  n = {len(seeds)}"
    axes.annotate(label, (1.0, place), (10, 0), textcoords="offset points", va="center", color=INK)


def _level_legend(figure: Figure, published: bool) -> None:
    levels = [line(name, color=colour, lw=2.4) for name, colour in zip(LEVELS, COLOURS, strict=True)]
    legend = legend_above(
        figure,
        *levels,
        line("strict judge, mean of seeds", color=INK, lw=2.4),
        line("a seed (dotted: suspicious)", color=INK, lw=0.7),
        line("probe, mean", color=INK, lw=1.2, ls=DASHES),
        *([line("published level 2 (steps rescaled)", color=PALE, lw=0.9)] if published else []),
    )
    for text, ink in zip(legend.get_texts(), INKS, strict=False):
        text.set_color(ink)


def legend_above(figure: Figure, *entries: Line2D) -> Legend:
    """A legend above the panels: one line where the figure is wide enough, else columns, and as much more height."""
    width, height = figure.get_size_inches()
    columns = len(entries) if width > 11 else min(len(entries), int(width / 2.2))
    figure.set_figheight(height + 0.17 * (math.ceil(len(entries) / columns) - 1))
    look: dict[str, Any] = {"frameon": False, "fontsize": 8, "columnspacing": 1.3, "handlelength": 1.8}
    return figure.legend(handles=entries, loc="outside upper left", ncols=columns, **look)


def line(label: str, **look: Any) -> Line2D:
    """An entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **look)


def new_figure(width: float, height: float) -> Figure:
    """A figure for files: no window, no global state of pyplot."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.08)
    FigureCanvasAgg(figure)
    return figure


def _place(key: str, value: Any) -> tuple[float, str]:
    """Where a value stands among others: architectures by the ladder, numbers by size, all else by name."""
    if key == "architecture":
        return (LADDER.index(value) if value in LADDER else len(LADDER), str(value))
    return (value, "") if is_number(value) else (0, str(value))


def _say(name: str, value: Any) -> str:
    """A value as a title tells it; of dotted keys that were changed the last part."""
    if name == "changed":
        changes = [change.partition("=") for change in (value or "").split()]
        return " ".join(f"{key.rpartition('.')[2]}={to}" for key, _, to in changes if key != "trainer.max_steps")
    return f"{value} steps" if name == "steps" else str(value)
