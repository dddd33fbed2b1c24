"""The figures: what goes into them; how they look is for eyes."""

import itertools
import warnings
from pathlib import Path

import pytest

from benchmark.plots import curve_figure, dot_figure, group_cells, mean_curve, published_curve, read_curve, write_plots
from benchmark.tables import Row, to_csv

COLUMNS = ["step", "train_loss", *(f"{judge}level{level}" for judge in ("", "strict_") for level in range(3))]


def cell(architecture: str, seed: int, **changes: object) -> Row:
    row: Row = {"cell": f"{architecture}-s{seed}", "architecture": architecture, "seed": seed, "state": "ok"}
    row |= {"dataset": "shapes2d", "tokenizer": "vq", "conditioning": "full", "preset": "smoke", "steps": 30}
    return row | {"setting": architecture, "strict_level2": 0.5 + 0.1 * seed} | changes


def write_curve(path: Path, rows: int = 3) -> None:
    path.parent.mkdir(parents=True)
    lines = [{name: 10 * (i + 1) if name == "step" else i / rows for name in COLUMNS} for i in range(rows)]
    path.write_text(to_csv(lines, COLUMNS))


def test_a_row_cut_off_in_writing_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "cell" / "curve.csv"
    write_curve(path)
    whole = path.read_text()
    for cut in (1, 2, 20):
        path.write_text(whole[:-cut])
        assert [row["step"] for row in read_curve(path)] == [10, 20]
    path.write_text(whole.splitlines()[0][:8])
    assert read_curve(path) == []
    assert read_curve(tmp_path / "missing.csv") == []


def test_rows_without_a_judgement_are_no_points() -> None:
    first = [{"step": 10, "level0": 0.2}, {"step": 15, "level0": None}, {"step": 20, "level0": 0.4}]
    second = [{"step": 10, "level0": 0.4}, {"step": 20, "level0": 0.8}, {"step": 30, "level0": 1.0}]
    steps, shares = mean_curve([first, second, []], "level0")
    assert steps == [10, 20]
    assert shares == pytest.approx([0.3, 0.6])
    assert mean_curve([], "level0") == ([], [])


def test_titles_name_what_differs_and_panels_follow_the_ladder() -> None:
    rows = [cell(name, seed) for name in ("dit", "mine", "maskgit") for seed in (1, 0)]
    groups = group_cells(rows)
    assert [title for title, _ in groups] == ["maskgit", "dit", "mine"]
    assert [row["seed"] for row in groups[0][1]] == [0, 1]
    rows.append(cell("dit", 0, tokenizer="kl", setting="x"))
    assert [title for title, _ in group_cells(rows)] == ["dit, kl", "maskgit, vq", "dit, vq", "mine, vq"]


def test_settings_that_look_alike_are_told_apart() -> None:
    rows = [cell("dit", 0, setting="abcdef", view="pre_quant"), cell("dit", 0, setting="fedcba", view="codes")]
    groups = group_cells(rows)
    assert [title for title, _ in groups] == ["dit, codes, fedc", "dit, pre_quant, abcd"]


def test_nothing_changed_is_one_setting_however_it_is_written() -> None:
    """A record of before the column, a record, a row of a table."""
    rows = [cell("dit", 0), cell("dit", 1, changed=""), cell("dit", 2, changed=None)]
    ((title, found),) = group_cells(rows)
    assert (title, [row["seed"] for row in found]) == ("dit", [0, 1, 2])


def test_titles_say_what_a_study_changes() -> None:
    changes = ("", "architecture.maskgit-jepa.layers=[1,3]", "trainer.max_steps=7500")
    rows = [cell("maskgit-jepa", 0, setting=change, changed=change, steps=2500) for change in changes]
    rows[-1]["steps"] = 7500
    titles = [title for title, _ in group_cells(rows)]
    assert titles == ["maskgit-jepa, 2500 steps", "maskgit-jepa, 2500 steps, layers=[1,3]", "maskgit-jepa, 7500 steps"]


def test_published_curves_are_those_of_the_same_conditions() -> None:
    rows = [
        {"architecture": "dit", "level": level, "step": step}
        | {"tokenizer": tokenizer, "conditioning": told, "accuracy_percent": share}
        for tokenizer, told, share in (("vq", "unstated", 10), ("vq", "full", 50), ("kl", "unstated", 90))
        for level in (1, 2)
        for step in (200, 100)
    ]
    assert published_curve(rows, cell("dit", 0)) == ([0.5, 1.0], [0.5, 0.5])
    assert published_curve(rows, cell("dit", 0, tokenizer="kl")) == ([0.5, 1.0], [0.9, 0.9])
    assert published_curve(rows, cell("dit", 0, conditioning="quantized")) == ([], [])
    assert published_curve(rows, cell("mine", 0)) == ([], [])


def test_both_figures_are_written_also_without_curves(tmp_path: Path) -> None:
    rows = [cell("dit", seed) for seed in range(3)]
    rows += [cell("mar", 0, state="suspicious"), cell("mar", 1, state="failed")]
    rows += [cell("givt", seed, strict_level2=seed * 0.9) for seed in range(2)]  # bimodal
    write_curve(tmp_path / "cells" / "dit-s0" / "curve.csv")
    written = write_plots(tmp_path, rows)
    assert [path.name for path in written] == ["curves.png", "dots.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert write_plots(tmp_path, [cell("mar", 1, state="failed")]) == []


def test_a_folder_of_many_studies_fits_on_its_figures() -> None:
    """Long titles are wrapped: nothing reaches over the page's edge or into the next panel, and panels keep their room."""
    changes = [
        "",
        "split.base=011",
        "radius_large=10.28 radius_small=6.09 size_jitter=0.8 position_jitter=0.0 base=010",
    ]
    rows = [
        cell(name, 0, changed=change, setting=name + change, cell=name + change, conditioning="quantized+dropout")
        for name in ("maskgit-jepa", "dit", "givt")
        for change in changes
    ] + [cell("dit", 0)]
    points = [{name: 10.0 if name == "step" else 0.5 for name in COLUMNS}]
    groups = group_cells(rows)
    curves = curve_figure(groups, {row["cell"]: points for row in rows})
    dots = dot_figure(groups)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where it gave up on the layout
        for figure in (curves, dots):
            figure.canvas.draw()
    for figure in (curves, dots):
        texts = [*figure.legends, *(text for axes in figure.axes for text in (*axes.texts, *axes.get_yticklabels()))]
        for text in texts:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 + 1, text
    shown = [axes for axes in curves.axes if axes.get_visible()]
    for panel, right in itertools.pairwise(shown):
        if right.get_window_extent().x0 > panel.get_window_extent().x0:
            assert panel.texts[0].get_window_extent().x1 < right.get_window_extent().x0
    inches = {round(axes.get_window_extent().width / curves.dpi, 2) for axes in shown}
    assert len(inches) == 1 and inches.pop() > 1.8
    assert dots.axes[0].get_window_extent().height > 0.8 * dots.bbox.height


@pytest.mark.parametrize(("dataset", "told"), [("shapes2d", True), ("celeba-drawn", False)])
def test_the_legend_tells_of_published_curves_where_there_are_any(dataset: str, told: bool) -> None:
    row = cell("dit", 0, dataset=dataset)
    points = [{name: 10.0 if name == "step" else 0.5 for name in COLUMNS}]
    (legend,) = curve_figure([("dit", [row])], {row["cell"]: points}).legends
    assert any("published" in text.get_text() for text in legend.get_texts()) == told
