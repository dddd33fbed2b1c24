"""The pre-registered rules: each verdict from rows made for it, and nothing decided by what is missing."""

from typing import Any

import pytest

from benchmark.contrasts import COLUMNS, contrast_table, load_rules, markdown, verdict
from benchmark.statistics import Interval, welch_interval
from benchmark.tables import Row

GOOD = {
    "maskgit": [0.05, 0.08, 0.03, 0.10, 0.06],
    "givt": [0.30, 0.42, 0.25, 0.38, 0.33],
    "mar": [0.50, 0.61, 0.45, 0.55, 0.58],
    "dit": [0.90, 0.95, 0.88, 0.97, 0.93],
    "maskgit-longer": [0.02, 0.05, 0.01, 0.09, 0.04],
    "maskgit-jepa": [0.06, 0.09, 0.02, 0.11, 0.05],
    "dit-kl": [0.97, 0.95, 0.99],
}


def table(values: dict[str, list[float]] | None = None, **changes: dict[str, Any]) -> list[Row]:
    """Leaderboard rows with these strict level-2 shares; ``changes`` maps a setting to what differs in its seed 0."""
    rules = load_rules()
    rows = []
    for name, shares in (GOOD | (values or {})).items():
        wanted = {**rules["select"], **rules["settings"][name]}
        wanted.pop("seeds", None)
        for seed, share in enumerate(shares):
            row: Row = {**wanted, "cell": f"{name}-s{seed}", "setting": name, "seed": seed, "state": "ok"}
            row |= {"split": "000,001,010,100", "strict_level0": 0.98, "strict_level2": share}
            row |= {f"recon_strict_comp_{index:03b}": 0.99 for index in range(8)}
            rows.append(row | (changes.get(name.replace("-", "_"), {}) if seed == 0 else {}))
    return rows


def line(rows: list[Row], start: str) -> Row:
    (found,) = [row for row in contrast_table(rows) if row["claim"].startswith(start)]
    return found


def test_the_rules_are_those_of_the_issue() -> None:
    rules = load_rules()
    assert rules["qualification"] == {"strict_level0": 0.90, "recon_strict_comp": 0.97}
    assert rules["ladder"] == ["maskgit", "givt", "mar", "dit"]
    assert (rules["measure"], rules["confidence"], rules["seeds"]) == ("strict_level2", 0.95, [0, 1, 2, 3, 4])
    assert rules["contrasts"][0] == {"part": "b", "first": "dit", "second": "maskgit", "above": 0.30}
    assert {each["first"] for each in rules["contrasts"][1:]} == {"givt", "mar", "maskgit-longer", "maskgit-jepa"}
    assert rules["settings"]["maskgit-longer"]["steps"] == 3 * rules["select"]["steps"]
    assert rules["checks"] == [{"part": "d", "setting": "dit-kl", "at_least": 0.90}]


def test_a_clear_result() -> None:
    found = contrast_table(table())
    assert [row["part"] for row in found] == ["a"] * 4 + ["b"] + ["c"] * 4 + ["d"]
    assert [row["verdict"] for row in found] == ["supported"] * 7 + ["undecided"] * 2 + ["supported"]
    expected = welch_interval(GOOD["dit"], GOOD["maskgit"])
    assert found[4]["estimate"] == pytest.approx(expected.estimate)
    assert found[4]["low"] == pytest.approx(expected.low)
    assert found[4]["n"] == "5 + 5"
    assert not any(row["note"] for row in found)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.31, 0.9, "supported"), (0.30, 0.9, "undecided"), (0.1, 0.29, "contradicted"), (0.1, 0.4, "undecided")],
)
def test_verdict_is_where_the_whole_interval_lies(low: float, high: float, expected: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high, 10), 0.30) == expected


def test_one_seed_decides_nothing() -> None:
    assert verdict(Interval(0.9, float("nan"), float("nan"), 2), 0.3) == "undecided"


def test_the_bar_can_be_missed() -> None:
    assert line(table({"dit": [0.2, 0.25, 0.22, 0.21, 0.24]}), "dit minus")["verdict"] == "contradicted"
    assert line(table({"dit": [0.2, 0.9, 0.5, 0.3, 0.6]}), "dit minus")["verdict"] == "undecided"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strict_level0": 0.899}, "strict_level0 0.899 < 0.90"),
        ({"recon_strict_comp_101": 0.96}, "recon_strict_comp_101 0.960 < 0.97"),
        ({"strict_level0": None}, "has no strict_level0"),
    ],
)
def test_one_cell_below_the_bar_disqualifies_its_rung_only(change: dict[str, Any], words: str) -> None:
    rows = table(givt=change | {"state": "suspicious"})
    assert line(rows, "givt qualifies")["verdict"] == "not comparable"
    assert words in line(rows, "givt qualifies")["note"]
    shown = line(rows, "givt minus")
    assert (shown["verdict"], shown["n"]) == ("not comparable", "5 + 5")  # with its numbers, all of them
    assert line(rows, "dit minus")["verdict"] == "supported"


def test_a_ceiling_that_was_never_measured_does_not_qualify() -> None:
    rows = [{key: row[key] for key in row if not key.startswith("recon")} for row in table()]
    assert "has no recon_strict_comp" in line(rows, "dit qualifies")["note"]
    assert line(rows, "dit minus")["verdict"] == "not comparable"


def test_suspicious_cells_back_no_claim_and_are_counted() -> None:
    found = line(table(dit={"state": "suspicious", "strict_level2": 0.0}), "dit minus")
    assert (found["n"], found["verdict"]) == ("4 + 5", "supported")
    assert found["note"] == "dit: 1 suspicious left out"


@pytest.mark.parametrize("change", [{"state": "failed", "strict_level2": None}, {"seed": 100}])
def test_a_seed_without_result_leaves_the_claim_open(change: dict[str, Any]) -> None:
    found = line(table(maskgit=change), "dit minus")
    assert found["verdict"] == "undecided"
    assert "no result for seed 0" in found["note"]


def test_development_seeds_and_other_presets_change_nothing() -> None:
    rows = table()
    others = [row | {"seed": 100, "strict_level2": 0.0} for row in rows] + [row | {"preset": "smoke"} for row in rows]
    assert contrast_table(rows + others) == contrast_table(rows)
    assert contrast_table(rows[::-1]) == contrast_table(rows)


def test_two_settings_are_never_pooled() -> None:
    rows = table()
    found = line(rows + [row | {"setting": "other"} for row in rows if row["cell"].startswith("dit-s")], "dit minus")
    assert found["verdict"] == "undecided"
    assert "10 cells of 2 settings" in found["note"]


def test_bimodal_seeds_are_named() -> None:
    note = line(table({"mar": [0.9, 0.95, 0.1, 0.05, 0.92]}), "mar minus")["note"]
    assert note == "mar: bimodal, 3 of 5 seeds above .5 (Wilson 0.23 to 0.88)"


def test_the_check_wants_its_mean_and_all_its_seeds() -> None:
    assert line(table({"dit-kl": [0.95, 0.80, 0.90]}), "dit-kl reaches")["verdict"] == "contradicted"
    assert line(table({"dit-kl": [0.95, 0.95]}), "dit-kl reaches")["verdict"] == "undecided"


def test_an_empty_leaderboard_has_every_claim_undecided() -> None:
    found = contrast_table([])
    assert {row["verdict"] for row in found} == {"undecided"}
    assert all(name in markdown(found).splitlines()[0] for name in COLUMNS)
