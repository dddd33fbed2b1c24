"""The published numbers: that they are written in our order of digits, and what one draw of 64 samples can tell."""

import math

import pytest

from architectures.jepa import MaskGITJEPAConfig
from benchmark.claims import load_claims
from benchmark.published import BEST_LAYERS, highlights, interval, level_2, matching, published_curves
from benchmark.statistics import wilson
from benchmark.tables import Row
from datasets.factors import level

CURVES = published_curves()
TRAIN = ("000", "001", "010", "100")


def curve(figure: str, composition: str) -> dict[int, float]:
    return {
        row["step"]: row["accuracy_percent"]
        for row in CURVES
        if row["figure"] == figure and row["composition"] == composition
    }


def test_figure_4b_is_written_shape_colour_size() -> None:
    """Swapping colour and size, as the drawing does, would exchange these two maxima."""
    triangle_blue_large, triangle_red_small = curve("fig4b", "110"), curve("fig4b", "101")
    assert max(triangle_blue_large.values()) == triangle_blue_large[30000] == 100
    assert max(triangle_red_small.values()) == triangle_red_small[12000] == pytest.approx(89.0625)


def test_every_row_has_three_digits_and_the_level_that_follows_from_them() -> None:
    assert {row["composition"] for row in CURVES} == {f"{number:03b}" for number in range(8)}
    assert all(row["level"] == level(row["composition"], TRAIN) for row in CURVES)


def test_points_of_a_single_seed_are_shares_of_64() -> None:
    for figure in ("fig2b/fig3", "fig3", "fig4a", "fig4b", "fig4c"):
        counts = [row["accuracy_percent"] * 0.64 for row in CURVES if row["figure"] == figure]
        assert counts
        assert max(abs(count - round(count)) for count in counts) < 0.01


def test_one_draw_has_the_interval_of_64_samples_and_a_mean_over_seeds_has_none() -> None:
    point = next(row for row in CURVES if row["figure"] == "fig4b" and row["composition"] == "101")
    half = interval(point | {"accuracy_percent": 50.0})
    assert half is not None
    assert half == wilson(32, 64)
    assert half.high - half.low == pytest.approx(0.238, abs=0.001)
    assert interval(point | {"figure": "fig4d"}) is None


def test_highlights_tell_the_end_and_the_first_maximum_of_level_2() -> None:
    (line,) = [row for row in highlights(CURVES) if row["figure"] == "fig4b"]
    assert line["composition"] == "111"
    assert (line["maximum"], line["maximum_step"]) == (pytest.approx(0.796875), 20000)
    assert line["maximum_low"] < line["maximum"] < line["maximum_high"]
    assert line["last_step"] == 100000
    (mean,) = [row for row in highlights(CURVES) if row["figure"] == "fig4d"]
    assert mean["last_low"] is None and not math.isnan(mean["last"])


def test_curves_are_matched_by_what_they_state() -> None:
    def figures(**cell: str) -> set[str]:
        row: Row = {"architecture": "dit", "tokenizer": "vq", "conditioning": "full"} | cell
        return {point["figure"] for point in matching(CURVES, row)}

    assert figures() == {"fig4a"}
    assert figures(conditioning="quantized") == {"fig4c"}
    assert figures(tokenizer="kl") == {"fig2a"}
    assert figures(architecture="givt") == {"fig3"}
    assert figures(architecture="givt", conditioning="quantized") == set()


@pytest.mark.parametrize(
    ("side", "figure", "dataset", "expected"),
    [
        ("dit", "3", "shapes2d", "0.84"),
        ("dit", "4a, 4c", "shapes2d", "1.00"),  # another run of the same model
        ("dit-quantized", "4a, 4c", "shapes2d", "0.53"),
        ("maskgit-quantized", "3", "shapes2d", "0.00"),  # the figure does not say which conditions it had
        ("dit-centres", "4", "shapes2d", ""),
        ("dit-own-kl", "2", "shapes2d", "0.96"),
        ("maskgit-longer", "3", "shapes2d", ""),
        ("jepa", "5", "shapes2d", "0.36 (plateau 0.45 to 0.65)"),  # its end, as of the others, is below its plateau
        ("maskgit", "5", "shapes2d", "0.00"),  # drawn in figure 3 alone
        ("jepa", "table 2", "clevrer_kubric", "0.56"),
        ("jepa-middle", "table 2", "clevrer_kubric", "0.28"),
        ("jepa-shuffled", "table 2", "clevrer_kubric", ""),
        ("jepa", "table 2", "shapes2d", ""),
        ("dit", "3", "clevrer_kubric", ""),
    ],
)
def test_what_was_published_of_a_claims_side(side: str, figure: str, dataset: str, expected: str) -> None:
    assert level_2(load_claims().settings[side], figure, dataset) == expected


def test_the_layers_of_table_2_are_those_that_maskgit_with_jepa_has_by_default() -> None:
    assert MaskGITJEPAConfig().layers == BEST_LAYERS
