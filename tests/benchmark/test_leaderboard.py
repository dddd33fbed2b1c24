"""The two tables: what they keep, in which order, and that rebuilding them changes nothing."""

import json
import math
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark.leaderboard import (
    IDENTITY,
    LEVELS,
    SHOWN,
    binomial_floor,
    columns,
    curve_summary,
    leaderboard,
    least_variance,
    rebuild,
    summary,
    summary_columns,
)
from benchmark.statistics import binomial_variance, t_interval
from benchmark.store import Store
from benchmark.tables import FORMS, Row, read_csv, render, to_csv

COMPOSITIONS = [f"{index:03b}" for index in range(8)]


def record(architecture: str = "dit", seed: int = 0, level2: float = 0.9, **changes: Any) -> dict[str, Any]:
    """A record as a finished cell writes it; changes go into its row, or replace state, reason or setting."""
    row: Row = {
        "dataset": "shapes2d", "architecture": architecture, "tokenizer": "vq", "conditioning": "full", "seed": seed,
        "preset": "laptop", "steps": 3000, "split": "000,001,010,100", "minutes": 3.25, "device": "2 cores",
        "seed_data": 0, "seed_tokenizer": 0, "seed_probe": 0, "git_commit": "12e4567",
        "level0": 1.0, "level1": 0.95, "level2": level2, "strict_level0": 0.99, "strict_level1": 0.9,
        "strict_level2": level2, "still_moving": False, "parameters": 1280000,
        **{f"comp_{composition}": 1.0 for composition in COMPOSITIONS},
    }  # fmt: skip
    top = {"state": "ok", "reason": "", "setting": f"{architecture}-setting"}
    top |= {key: changes.pop(key) for key in list(changes) if key in top}
    return {"cell": f"shapes2d-{architecture}-vq-full-s{seed}-abcd", **top, "row": row | changes}


def write(store: Store, records: list[dict[str, Any]]) -> None:
    for each in records:
        store.write_record(each["cell"], each)


def test_columns_start_as_promised_and_unknown_ones_end_sorted() -> None:
    rows = leaderboard([record(zeta=1, alpha=2, drawn_level0=0.5, recon_strict_comp_000=0.99, level2_max=0.9)])
    names = columns(rows)
    identity = "cell,dataset,architecture,tokenizer,conditioning,changed,seed,preset,state,reason,steps"
    levels = "level0,level1,level2,strict_level0,strict_level1,strict_level2"
    assert ",".join(names).startswith(f"{identity},{levels},drawn_level0")
    assert names[-2:] == ["alpha", "zeta"]
    order = ["drawn_level0", "comp_000", "recon_strict_comp_000", "level2_max", "parameters", "device", "split"]
    assert sorted(order, key=names.index) == order


def test_the_order_of_records_does_not_matter() -> None:
    records = [record(name, seed) for name in ("mar", "dit", "maskgit") for seed in range(4)]
    records += [record("dit", 7, steps=500), record("dit", 8, tokenizer="kl"), record("dit", 9, steps=None)]
    expected = leaderboard(records)
    assert [(row["tokenizer"], row["steps"], row["architecture"], row["seed"]) for row in expected[:4]] == [
        ("kl", 3000, "dit", 8), ("vq", None, "dit", 9), ("vq", 500, "dit", 7), ("vq", 3000, "dit", 0),
    ]  # fmt: skip
    random.Random(0).shuffle(records)
    assert to_csv(leaderboard(records), columns(expected)) == to_csv(expected, columns(expected))


def test_failed_cells_stay_with_reason_and_without_numbers() -> None:
    (row,) = leaderboard([record(state="failed", reason="the loss became NaN at step 17")])
    assert row["reason"] == "the loss became NaN at step 17"
    assert row["device"] == "2 cores"
    assert not set(row) & {*LEVELS, "minutes", "parameters", "comp_000"}
    header, line = to_csv([row], columns([row])).splitlines()
    level0 = header.split(",").index("level0")
    assert line.split(",")[level0 : level0 + 6] == [""] * 6


def test_csv_reads_back_as_it_was(tmp_path: Path) -> None:
    rows = leaderboard([record(level2=1 / 3, level1=math.nan, reason='two "lines"\nand, commas')])
    path = tmp_path / "table.csv"
    path.write_text(to_csv(rows, columns(rows)))
    (back,) = read_csv(path)
    assert back["level2"] == 1 / 3
    assert back["level1"] is None
    assert back["reason"] == 'two "lines"\nand, commas'
    assert back["git_commit"] == "12e4567"  # a hash, not the number 1.2e4568
    assert back["split"] == "000,001,010,100"
    assert back["still_moving"] is False
    assert back["seed"] == 0


def test_rebuilding_twice_gives_equal_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path, say=lambda text: None)
    write(store, [record(name, seed) for name in ("dit", "mar") for seed in range(2)])
    rebuild(store)
    first = {name: (tmp_path / name).read_bytes() for name in ("leaderboard.csv", "summary.csv")}
    for name in first:
        (tmp_path / name).unlink()
    assert len(rebuild(store)) == 4
    assert {name: (tmp_path / name).read_bytes() for name in first} == first


def test_records_that_appear_during_a_rebuild_are_in_the_tables(tmp_path: Path) -> None:
    class Busy(Store):
        """Another process finishes a cell right after each of the first two looks at the records."""

        late = 2

        def records(self):  # type: ignore[no-untyped-def]
            yield from list(super().records())
            if self.late:
                self.late -= 1
                write(self, [record("mar", seed=10 + self.late)])

    store = Busy(tmp_path)
    write(store, [record("dit")])
    assert {row["seed"] for row in rebuild(store)} == {0, 10, 11}
    assert {row["seed"] for row in read_csv(tmp_path / "leaderboard.csv")} == {0, 10, 11}


def test_summary_is_students_t_over_seeds() -> None:
    values = [0.90, 0.80, 0.95]
    (line,) = summary(leaderboard([record(seed=seed, level2=value) for seed, value in enumerate(values)]))
    expected = t_interval(values).clipped(0, 1)
    assert (line["level2"], line["level2_low"], line["level2_high"]) == (expected.estimate, expected.low, expected.high)
    assert (line["seeds"], line["replicated"], line["level2_bimodal"]) == (3, "model", False)
    assert set(line) <= set(summary_columns())
    assert "drawn_level2" not in line  # never measured


def test_equal_seeds_keep_the_width_of_their_samples() -> None:
    (line,) = summary(leaderboard([record(seed=seed, level2=1.0) for seed in range(5)]))
    assert line["level2_high"] == 1.0
    assert line["level2_low"] == pytest.approx(1 - 2.776445 * math.sqrt(binomial_variance(1.0, 512) / 5))


def test_the_floor_knows_how_many_compositions_a_level_has() -> None:
    (row,) = leaderboard([record(level2=0.5)])
    assert binomial_floor(row, "level2") == binomial_variance(0.5, 512)
    assert binomial_floor(row, "level1") == binomial_variance(0.95, 3 * 512)
    assert binomial_floor(row, "strict_level0") == binomial_variance(0.99, 4 * 512)
    assert binomial_floor(row | {"samples_per_composition": 64}, "level2") == binomial_variance(0.5, 64)
    assert binomial_floor(row | {"split": None}, "level1") == binomial_variance(0.95, 512)


def test_when_a_level_was_reached_is_known_to_a_point_of_the_curve() -> None:
    """A number rounded to a twentieth is off by a uniform error: its variance is that of an interval of 1 / 20."""
    errors = [(index / 1000 - 0.5) / 20 for index in range(1001)]
    found = least_variance({"curve_points": 20}, "strict_level2_half")
    assert found == pytest.approx(statistics.pvariance(errors), rel=0.01)
    assert least_variance({}, "level2_half") == pytest.approx(4 * found)  # as many points as the laptop's curves have
    assert least_variance({"curve_points": 20}, "minutes") == 0.0


def test_bimodal_seeds_are_counted_instead_of_averaged() -> None:
    (line,) = summary(leaderboard([record(seed=seed, level2=value) for seed, value in enumerate([0.9, 0.95, 0.1])]))
    assert line["level2_bimodal"]
    assert line["level2_above_half"] == 2
    assert line["level2_above_half_low"] == pytest.approx(0.2077, abs=1e-4)
    assert "level2_low" not in line


def test_suspicious_cells_stand_apart_and_failed_ones_are_counted() -> None:
    records = [record(seed=seed) for seed in range(3)]
    records += [record(seed=3, level2=0.1, state="suspicious"), record(seed=4, state="failed")]
    good, doubtful = summary(leaderboard(records))
    assert (good["state"], good["seeds"], good["suspicious"], good["failed"]) == ("ok", 3, 1, 1)
    assert (doubtful["state"], doubtful["seeds"], doubtful["level2"]) == ("suspicious", 1, 0.1)
    assert good["level2"] == pytest.approx(0.9)


def test_seeds_that_chose_recipes_enter_no_other_mean() -> None:
    reported, development = summary(leaderboard([record(seed=seed, level2=seed / 100) for seed in (10, 20, 100)]))
    assert (reported["state"], reported["seeds"], reported["level2"]) == ("ok", 2, pytest.approx(0.15))
    assert (development["state"], development["seeds"], development["level2"]) == ("ok, development", 1, 1.0)


def test_a_setting_that_only_failed_has_a_row() -> None:
    (line,) = summary(leaderboard([record(state="failed")]))
    assert (line["state"], line["seeds"], line["failed"]) == ("ok", 0, 1)


def test_missing_numbers_do_not_enter_a_mean() -> None:
    rows = leaderboard([record(level2=math.nan), record(seed=1, level2=0.5), record(seed=2, level2=0.7)])
    (line,) = summary(rows)
    assert line["level2"] == pytest.approx(0.6)


def test_replicated_names_every_seed_that_varies() -> None:
    (line,) = summary(leaderboard([record(seed=seed, seed_tokenizer=seed) for seed in range(2)]))
    assert line["replicated"] == "model, tokenizer"


def curve(level2: list[float], level0: float = 1.0) -> list[Row]:
    names = ("level2", "strict_level2")
    return [
        {"step": 100 * (i + 1), "level0": level0, "strict_level0": level0, **dict.fromkeys(names, value)}
        for i, value in enumerate(level2)
    ]


def test_curve_summary_by_hand() -> None:
    found = curve_summary(curve([0.0, 0.1, 0.9, 0.9, 0.5, 0.5, 0.6, 0.6, 0.6, 0.7]))
    assert found["strict_level2_last5"] == pytest.approx(0.6)
    assert (found["level2_max"], found["level2_max_step"]) == (0.9, 300)
    assert found["still_moving"] is True  # .6 at 80 % of the steps, .7 at the end
    assert curve_summary(curve([0.0, 0.9, 0.5, 0.5, 0.52]))["still_moving"] is False


def test_half_is_the_first_step_at_half_of_the_end() -> None:
    assert curve_summary(curve([0.0, 0.5, 0.3, 0.8]))["strict_level2_half"] == 0.5
    assert curve_summary(curve([0.1, 0.3, 0.9, 0.8, 0.8]))["level2_half"] == 0.6


def test_curve_summary_of_little() -> None:
    assert curve_summary([])["curve_points"] == 0 and curve_summary(curve([0.1, 0.3]))["curve_points"] == 2
    assert curve_summary([])["level2_last5"] is None and curve_summary([])["level2_half"] is None
    assert curve_summary(curve([0.0, 0.5, 0.0]))["level2_half"] is None
    assert curve_summary([{"step": 10, "train_loss": 1.0, "level2": None}])["level2_max"] is None
    alone = curve_summary(curve([0.5]))
    assert alone["still_moving"] is None
    assert alone["level2_last5"] == 0.5


@pytest.mark.parametrize("form", FORMS)
def test_every_format_shows_every_cell(form: str) -> None:
    rows = leaderboard([record("dit", level2=0.123456), record("mar", state="failed", reason="a | b")])
    text = render(rows, SHOWN, form)
    assert "shapes2d-dit" in text
    assert "shapes2d-mar" in text
    assert ("0.123456" if form in ("csv", "json") else "0.123") in text
    if form == "json":
        assert json.loads(text)[1]["level0"] is None
    if form == "md":
        assert {line.count("|") for line in render(rows, IDENTITY, "md").replace("\\|", "").splitlines()} == {12}


def test_an_unknown_format_is_told_those_there_are() -> None:
    with pytest.raises(ValueError, match="csv, md, json, latex, html"):
        render([], SHOWN, "xlsx")


def test_tables_need_nothing_heavy(tmp_path: Path) -> None:
    write(Store(tmp_path), [record(seed=seed) for seed in range(3)])
    code = (
        "import sys; from pathlib import Path; from benchmark.leaderboard import rebuild;"
        "from benchmark.store import Store;"
        f"rebuild(Store(Path({str(tmp_path)!r})));"
        "print({'torch', 'lightning', 'pandas', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
