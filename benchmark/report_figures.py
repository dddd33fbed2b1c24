"""The report's figures beyond those of ``plots``: every composition, what training costs, where thresholds lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmark import published as papers
from benchmark.plots import (
    COLOURS,
    DASHES,
    GREY,
    INK,
    INKS,
    LEVELS,
    Group,
    group_cells,
    legend_above,
    line,
    mean_curve,
    new_figure,
)
from benchmark.tables import Row, is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAND, PUBLISHED = "#E6E6E6", "#9A9A9A"
# Okabe and Ito's colours, told apart with any colour vision; beyond them dashes differ, and markers throughout.
WHEEL = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
STROKES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
COMPARED = 14  # settings that a panel can hold and still be read: two rounds of colours
COSTS = {"steps": "training steps", "target_tokens": "target tokens", "flops": "training FLOPs"}

Curves = Mapping[str, Sequence[Row]]  # cell -> rows of its curve.csv
Levels = Mapping[str, int]  # composition -> level


def composition_figure(cells: Sequence[Row], curves: Curves, levels: Levels, names: Mapping[str, str]) -> Figure:
    """One panel a composition of one setting: accuracy against step (log), each seed a thin line.

    Grey, behind: the published probe curve, its steps rescaled to the same share of training, with the 95 % interval
    of 64 samples where it is a single seed.
    """
    columns = min(4, len(levels))
    lines = math.ceil(len(levels) / columns)
    figure = new_figure(2.15 * columns + 0.4, 1.85 * lines + 0.7)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    steps = [row["step"] for cell in cells for row in curves[cell["cell"]] if row["step"] > 0] or [1]
    published = _published(cells[0])
    for panel, composition in zip(panels.flat, levels, strict=False):
        colour = COLOURS[min(levels[composition], 2)]
        behind = [row for row in published if row["composition"] == composition]
        _draw_published(panel, behind, max(steps), max((row["step"] for row in published), default=1))
        for cell in cells:
            curve = [curves[cell["cell"]]]
            look: dict[str, Any] = {"color": colour, "alpha": 1.0 if cell["state"] == "ok" else 0.45}
            panel.plot(*mean_curve(curve, f"comp_{composition}"), lw=0.8, ls=DASHES, **look)
            panel.plot(*mean_curve(curve, f"strict_comp_{composition}"), lw=1.1, **look)
        ink = INKS[min(levels[composition], 2)]
        head = f"{composition}, level {levels[composition]}\n{names.get(composition, '')}".rstrip()
        panel.set_title(head, loc="left", color=ink, fontsize=8.5)
        panel.set_ylim(-0.03, 1.03)
        _log_steps(panel, min(steps), max(steps))
    for panel in panels.flat[len(levels) :]:
        panel.set_visible(False)
    figure.supxlabel("training step (log)", fontsize=9)
    figure.supylabel("all factors right", fontsize=9)
    entries = [line("strict judge, a seed", color=INK, lw=1.1), line("probe, a seed", color=INK, lw=0.8, ls=DASHES)]
    if published:
        entries.append(line("published (probe)", color=PUBLISHED, lw=1.2))
        if papers.interval(published[0]):
            entries.append(line("its 95 % interval, 64 samples", color=BAND, lw=6))
    legend_above(figure, *entries)
    return figure


def comparable(groups: Sequence[Group]) -> list[Group]:
    """The settings to lay over each other in a panel: all of them or, of too many, those in which nothing was changed.

    Where these are too many as well, those of them that are told everything; with titles for what then differs.
    """
    unchanged = [group for group in groups if not group[1][0].get("changed")]
    told = [group for group in unchanged if group[1][0].get("conditioning") == "full"]
    fewer = [some for some in (unchanged, told) if some]
    chosen = next((some for some in (list(groups), *fewer) if len(some) <= COMPARED), (fewer or [list(groups)])[-1])
    return group_cells([row for _, cells in chosen for row in cells])


def cost_figure(groups: Sequence[Group], curves: Curves) -> Figure:
    """Strict accuracy of each level against steps, target tokens and FLOPs (log): seeds thin, their mean thick.

    Tokens and FLOPs grow evenly with the steps, so that a curve against them is the same curve on another axis.
    """
    figure = new_figure(9.2, 7.2)
    panels = figure.subplots(3, 3, sharey=True, sharex="col")
    for level, row_of_panels in enumerate(panels):
        for panel, (column, label) in zip(row_of_panels, COSTS.items(), strict=True):
            for place, (_, cells) in enumerate(groups):
                _draw_cost(panel, cells, curves, column, f"strict_level{level}", _look(place))
            panel.set_ylim(-0.03, 1.03)
            _log_steps(panel, *_reach(groups, curves, column))
            if level == 2:
                panel.set_xlabel(f"{label} (log)")
        row_of_panels[0].set_ylabel(LEVELS[level], color=INKS[level])
    _setting_legend(figure, groups)
    return figure


def threshold_figure(groups: Sequence[Group], redrawn: Mapping[str, Mapping[int, Sequence[float]]]) -> Figure:
    """Strict accuracy of each level against how far the judge's limits are moved: seeds thin, their mean thick."""
    from benchmark.thresholds import FACTORS

    figure = new_figure(9.2, 3.3)
    panels = figure.subplots(1, 3, sharey=True)
    for level, panel in enumerate(panels):
        panel.axvline(1.0, color=GREY, lw=0.9, ls=DASHES)
        for place, (_, cells) in enumerate(groups):
            seeds = [redrawn[cell["cell"]][level] for cell in cells if level in redrawn.get(cell["cell"], {})]
            look = _look(place)
            for shares in seeds:
                panel.plot(FACTORS, shares, lw=0.6, alpha=0.6, color=look["color"], ls=look["ls"])
            if seeds:
                mean = [math.fsum(shares) / len(seeds) for shares in zip(*seeds, strict=True)]
                panel.plot(FACTORS, mean, lw=2, ms=3.5, **look)
        panel.set(xscale="log", ylim=(-0.03, 1.03))
        panel.set_xticks([0.5, 0.7, 1.0, 1.4, 2.0], ["0.5", "0.7", "1 (frozen)", "1.4", "2"])
        panel.minorticks_off()
        panel.set_title(LEVELS[level], loc="left", color=INKS[level])
    figure.supxlabel("tolerance, as a multiple of the frozen judge's", fontsize=9)
    panels[0].set_ylabel("all factors right")
    _setting_legend(figure, groups)
    return figure


def _published(cell: Row) -> list[Row]:
    if cell.get("dataset") != papers.DATASET:
        return []
    return sorted(papers.matching(papers.published_curves(), cell), key=lambda row: row["step"])


def _draw_published(panel: Axes, points: Sequence[Row], end: float, published_end: float) -> None:
    steps = [row["step"] / published_end * end for row in points]
    around = [interval for row in points if (interval := papers.interval(row))]
    if len(around) == len(steps):
        panel.fill_between(steps, [i.low for i in around], [i.high for i in around], color=BAND, lw=0, zorder=1.2)
    panel.plot(steps, [row["accuracy_percent"] / 100 for row in points], color=PUBLISHED, lw=1.2, zorder=1.4)


def _draw_cost(
    panel: Axes, cells: Sequence[Row], curves: Curves, column: str, measure: str, look: Mapping[str, Any]
) -> None:
    good = [cell for cell in cells if cell["state"] == "ok" and is_number(cell.get(column)) and cell.get("steps")]
    for cell in good:
        steps, shares = mean_curve([curves[cell["cell"]]], measure)
        scale = cell[column] / cell["steps"]
        panel.plot([step * scale for step in steps], shares, lw=0.6, alpha=0.6, color=look["color"], ls=look["ls"])
    if good:
        steps, shares = mean_curve([curves[cell["cell"]] for cell in good], measure)
        scale = math.fsum(cell[column] / cell["steps"] for cell in good) / len(good)
        panel.plot([step * scale for step in steps], shares, lw=2, ms=3.5, **look)


def _reach(groups: Sequence[Group], curves: Curves, column: str) -> tuple[float, float]:
    """From the first point of any curve to the last one, in steps, tokens or FLOPs."""
    reached = [
        row["step"] * cell[column] / cell["steps"]
        for _, cells in groups
        for cell in cells
        if is_number(cell.get(column)) and cell.get("steps")
        for row in curves[cell["cell"]]
        if row["step"] > 0
    ]
    return min(reached, default=1.0), max(reached, default=1.0)


def _log_steps(panel: Axes, low: float, high: float) -> None:
    """A logarithmic axis from `low` to `high` with few, short labels: 500, 1k, 2k."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.xaxis.set_minor_locator(NullLocator())
    if low < high:
        panel.set_xlim(0.95 * low, 1.05 * high)


def _look(place: int) -> dict[str, Any]:
    stroke = STROKES[place // len(WHEEL) % len(STROKES)]
    return {"color": WHEEL[place % len(WHEEL)], "marker": MARKS[place % len(MARKS)], "ls": stroke}


def _setting_legend(figure: Figure, groups: Sequence[Group]) -> None:
    settings = [line(title, lw=2, ms=4, **_look(place)) for place, (title, _) in enumerate(groups)]
    legend_above(figure, *settings, line("a seed", color=INK, lw=0.6))
