"""Claims: each verdict from cells made for it, what enters and what does not, and the numbers of the reference table."""

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from benchmark import ROOT
from benchmark import claims as claims_module
from benchmark.cell import Cell
from benchmark.claims import CLAIMS, COLUMNS, Claim, Claims, corrected, load_claims, power_rows, verdict_row
from benchmark.cli import main
from benchmark.composer import Composer
from benchmark.config import ConfigError, Override
from benchmark.evidence import Trained, choice_of, find_side, side_of
from benchmark.grid import load_grid
from benchmark.machine import Machine
from benchmark.registry import discover
from benchmark.store import Store
from benchmark.tables import Row, read_csv

CPU = Machine("cpu", 0, 2, bf16=True)
REFERENCE = ROOT / "results" / "reference"
LAPTOP = REFERENCE / "laptop.csv"
TABLES = ["laptop", "laptop-epyc"]  # each with verdicts of its own: sides are compared within one results folder
HIGH, LOW = [0.90, 0.95, 0.88, 0.97, 0.93], [0.05, 0.08, 0.03, 0.10, 0.06]


@cache
def composer(*overrides: str, preset: str = "laptop", machine: Machine = CPU) -> Composer:
    return Composer(discover(), machine, load_grid("full"), preset, [Override.parse(text) for text in overrides])


def rows_of(shares: list[float], **changes: Any) -> list[Row]:
    return [
        {
            "cell": f"c{seed}",
            "seed": seed,
            "state": "ok",
            "strict_level2": share,
            "samples_per_composition": 256,
            **changes,
        }
        for seed, share in enumerate(shares)
    ]


def decide(*sides: list[Row], kind: str = "greater", margin: float = 0.0, seeds: int = 5) -> Row:
    names = ("first", "second", "third")[: len(sides)]
    claim = Claim("c", "A", "3", "objectives", {"shapes2d": seeds}, kind, names, margin=margin)
    found = [side_of(name, rows, seeds, "strict_level2") for name, rows in zip(names, sides, strict=True)]
    return verdict_row(claim, "shapes2d", found)


def test_a_clear_result_has_all_that_traces_it():
    row = decide(rows_of(HIGH), rows_of(LOW), margin=0.3)
    assert (row["verdict"], row["n"], row["extended"], row["note"]) == ("supported", "5 + 5", False, "")
    assert row["effect"] == pytest.approx(0.862) and 0.3 < row["low"] < row["effect"] < row["high"]
    assert row["cells"] == "c0 c1 c2 c3 c4 c0 c1 c2 c3 c4"
    assert row["more_seeds"] is None and row["verdict_planned"] == "supported"
    assert decide(rows_of(LOW), rows_of(HIGH))["verdict"] == "contradicted"


def test_types_decide_as_they_say():
    near = [0.91, 0.94, 0.89, 0.96, 0.93]
    assert decide(rows_of(HIGH), rows_of(near), kind="equivalent", margin=0.1)["verdict"] == "supported"
    assert decide(rows_of(HIGH), rows_of(LOW), kind="equivalent", margin=0.1)["verdict"] == "contradicted"
    wide = decide(rows_of([0.2, 0.9, 0.5, 0.4, 0.6]), rows_of([0.3, 0.8, 0.6, 0.3, 0.7]), kind="equivalent", margin=0.1)
    assert wide["verdict"] == "undecided" and wide["more_seeds"] > 5
    middle = rows_of([0.4, 0.5, 0.45, 0.5, 0.42])
    assert decide(rows_of(HIGH), middle, rows_of(LOW), kind="ordered")["verdict"] == "supported"
    assert decide(middle, rows_of(HIGH), rows_of(LOW), kind="ordered")["verdict"] == "contradicted"


def test_suspicious_cells_enter_nothing_and_are_counted():
    first = rows_of(HIGH)
    first[0] |= {"state": "suspicious", "strict_level2": 0.0}
    row = decide(first, rows_of(LOW))
    assert (row["verdict"], row["n"], row["suspicious"]) == ("supported", "4 + 5", 1)
    assert row["note"] == "first: 1 suspicious" and row["effect"] == decide(rows_of(HIGH)[1:], rows_of(LOW))["effect"]


@pytest.mark.parametrize("change", [{"state": "failed", "strict_level2": None}, {"seed": 100}])
def test_a_seed_without_result_leaves_a_claim_open(change):
    second = rows_of(LOW)
    second[2] |= change
    row = decide(rows_of(HIGH), second)
    assert row["verdict"] == row["verdict_planned"] == "undecided"
    assert "second: no result for seed 2" in row["note"] and row["p"] == 1
    assert row["failed"] == int("state" in change)
    assert decide(rows_of(HIGH), [])["effect"] is None


def test_seeds_added_after_looking_are_told():
    undecided, more = [0.2, 0.3, 0.1, 0.35, 0.0], [0.25, 0.3, 0.28, 0.31, 0.27]
    row = decide(rows_of(undecided[:3] + more), rows_of(LOW[:3] + LOW), seeds=3)
    assert row["extended"] and row["n"] == "8 + 8"
    assert (row["verdict"], row["verdict_planned"]) == ("supported", "undecided")
    assert not decide(rows_of(undecided), rows_of(LOW))["extended"]


def test_a_bar_is_reached_by_the_mean_of_all_planned_seeds():
    row = decide(rows_of([0.95, 0.80, 0.98]), kind="reaches", margin=0.9, seeds=3)
    assert (row["verdict"], row["sides"], row["n"], row["note"]) == ("supported", "first >= 0.9", "3", "")
    assert row["low"] < 0.9 < row["effect"] == pytest.approx(0.91) and row["high"] == 1.0
    (corrected_row,) = corrected([row])
    assert corrected_row["verdict_holm"] == "undecided"  # its interval holds the bar
    assert decide(rows_of([0.95, 0.80, 0.92]), kind="reaches", margin=0.9, seeds=3)["verdict"] == "contradicted"
    floor = decide(rows_of([0.0] * 3), kind="reaches", margin=0.9, seeds=3)
    assert (floor["verdict"], floor["note"]) == ("contradicted", "")  # one side has nothing to differ from


@pytest.mark.parametrize("change", [{"state": "suspicious"}, {"state": "failed", "strict_level2": None}, {"seed": 100}])
def test_a_mean_without_one_of_its_seeds_reaches_nothing(change):
    rows = rows_of([0.95, 0.97, 0.2])
    rows[2] |= change
    row = decide(rows, kind="reaches", margin=0.9, seeds=3)
    assert (row["verdict"], row["verdict_planned"], row["p"], row["more_seeds"]) == ("undecided", "undecided", 1, None)
    told = "2 of 3 planned seeds count; first: 1 suspicious" if change == {"state": "suspicious"} else "seed 2"
    assert told in row["note"]


def test_two_cells_of_one_seed_decide_nothing():
    row = decide(rows_of(HIGH) + rows_of(HIGH), rows_of(LOW))
    assert row["verdict"] == "undecided" and "10 cells for 5 seeds" in row["note"]


def test_bimodal_seeds_are_named():
    assert (
        "first: bimodal, 3 of 5 seeds above .5" in decide(rows_of([0.9, 0.95, 0.1, 0.05, 0.92]), rows_of(LOW))["note"]
    )


@pytest.mark.parametrize(
    ("kind", "margin", "sides"), [("equivalent", 0.1, 2), ("greater", 0.3, 2), ("greater", 0.0, 2), ("ordered", 0.1, 3)]
)
def test_sides_on_the_floor_are_not_compared(kind, margin, sides):
    """Without this rule the first would be supported, and the second and last contradicted, each with a p near 0."""
    row = decide(*[rows_of([0.0, 1 / 128, 0.0, 0.0, 2 / 256])] * sides, kind=kind, margin=margin)
    assert (row["verdict"], row["verdict_planned"], row["p"], row["more_seeds"]) == ("undecided", "undecided", 1, None)
    assert row["note"] == "floor: strict_level2 below 0.01 in every seed, nothing to compare"
    assert row["effect"] == 0 and row["low"] is not None  # the numbers stay
    (told,) = corrected([row | {"grid": "a"}])
    assert (told["p_holm"], told["verdict_holm"]) == (1, "undecided")


def test_one_seed_above_the_floor_is_something_to_compare():
    nothing, little = rows_of([0.0] * 5), rows_of([0.0, 0.0, 0.0, 0.0, 0.03])
    near = decide(nothing, little, kind="equivalent", margin=0.1)
    assert near["verdict"] == "supported" and near["note"].startswith("every side near the floor")
    assert decide(nothing, rows_of(HIGH), kind="equivalent", margin=0.1)["verdict"] == "contradicted"
    assert decide(rows_of(LOW), rows_of(LOW), kind="equivalent", margin=0.1)["note"] == ""


def test_sides_at_the_ceiling_are_equivalent():
    row = decide(rows_of([1.0] * 5), rows_of([1.0] * 5), kind="equivalent", margin=0.1)
    assert (row["verdict"], row["note"]) == ("supported", "") and row["p"] < 0.05


def test_early_is_no_floor():
    """Half of the run's end is reached soon or late: a small number of another kind than a share of samples."""
    claim = Claim("c", "A", "2", "tokenizers", {"shapes2d": 2}, "greater", ("a", "b"), "strict_level2_half")

    def decided(points: int) -> Row:
        told = {"curve_points": points}
        rows = [[row | told | {"strict_level2_half": at} for row in rows_of([0.9, 0.9])] for at in (0.005, 0.002)]
        found = [side_of(name, each, 2, claim.measure) for name, each in zip("ab", rows, strict=True)]
        return verdict_row(claim, "shapes2d", found)

    assert decided(10_000)["verdict"] == "supported" and "floor:" not in decided(10_000)["note"]
    assert decided(10)["verdict"] == "undecided"  # .003 of a run is nothing where a curve has a point every tenth of it


def test_a_tokenizer_that_was_trained_twice_is_told():
    here = {"tokenizer": "vq", "seed_tokenizer": 0, "seed_data": 0, "psnr": 29.63}
    there = here | {"psnr": 29.61}
    assert decide(rows_of(HIGH, **here), rows_of(LOW, **here))["note"] == ""
    note = decide(rows_of(HIGH, **here), rows_of(LOW, **there))["note"]
    assert note == "2 tokenizers 'vq' of seed 0, trained on different machines"
    for told in ({"tokenizer": "kl"}, {"seed_tokenizer": 1}, {"seed_data": 1}, {"psnr": None}):
        assert decide(rows_of(HIGH, **here), rows_of(LOW, **there | told))["note"] == ""


def test_holm_corrects_over_a_grid_only():
    base = {"verdict": "supported"}
    rows = [{**base, "grid": "a", "p": 0.01}, {**base, "grid": "a", "p": 0.04}, {**base, "grid": "b", "p": 0.04},
            {"verdict": "undecided", "grid": "a", "p": None}]  # fmt: skip
    found = corrected(rows)
    assert [row["p_holm"] for row in found] == [pytest.approx(0.03), pytest.approx(0.08), pytest.approx(0.04), None]
    assert [row["verdict_holm"] for row in found] == ["supported", "undecided", "supported", "undecided"]
    assert [row["verdict"] for row in found] == ["supported"] * 3 + ["undecided"]


# Which cells speak for a setting -------------------------------------------------------------------


def trained(
    setting: dict[str, Any], dataset: str = "shapes2d", shares: Sequence[float] = (0.5,), made: Any = None
) -> list[Trained]:
    """Finished cells of a setting, as a run leaves them."""
    found = []
    for seed, share in enumerate(shares):
        made = made or composer()
        cell = Cell(made.resolve(choice_of(setting, dataset, made.preset, seed)))
        row = {**cell.row(), "cell": cell.id, "state": "ok", "strict_level2": share, "split": "000,001,010,100"}
        found.append(Trained(row, cell.config))
    return found


def side(setting: dict[str, Any], cells: list[Trained], dataset: str = "shapes2d", seeds: int = 1) -> Any:
    return find_side("side", setting, dataset, seeds, "strict_level2", composer(), cells)


SETTINGS = {"dit": {"architecture": "dit"}, "maskgit": {"architecture": "maskgit"}}
JEPA = {"architecture": "maskgit-jepa"}
SHUFFLED = JEPA | {"set": {"architecture.maskgit-jepa.target": "shuffled"}}


def test_a_setting_finds_its_own_cells_only():
    others = trained(SHUFFLED) + trained({"architecture": "maskgit"}) + trained(JEPA, "clevrer_kubric")
    others += trained(JEPA, made=composer("optimiser.lr=1e-3")) + trained(JEPA, made=composer(preset="smoke"))
    own = trained(JEPA, shares=(0.3, 0.4))
    assert side(JEPA, others).missing == "no result for seed 0"
    assert [row["cell"] for row in side(JEPA, others + own, seeds=2).rows] == [each.row["cell"] for each in own]
    assert len(side(SHUFFLED, others + own).rows) == 1


def test_where_a_cell_was_trained_does_not_matter():
    elsewhere = trained(JEPA, made=composer("trainer.threads=4", machine=Machine("cuda", 1, 8, bf16=True)))
    assert elsewhere[0].config["trainer"]["device"] == "cuda" and len(side(JEPA, elsewhere).rows) == 1


def test_a_record_from_before_a_key_was_there_still_counts():
    (cell,) = trained(JEPA)

    def without(key):
        own = {k: v for k, v in cell.config["architecture"].items() if k != key}
        return [Trained(cell.row, {**cell.config, "architecture": own})]

    assert side(JEPA, without("target")).rows and side(JEPA, without("half_life")).rows
    assert not side(JEPA, without("layers")).rows  # its default is not what the preset says
    added = Trained(cell.row, {**cell.config, "architecture": {**cell.config["architecture"], "unknown": 1}})
    assert not side(JEPA, [added]).rows


def test_drawn_faces_decide_no_claim_about_celeba(monkeypatch, tmp_path):
    monkeypatch.delenv("CELEBA_ROOT", raising=False)
    setting = {"architecture": "dit"}
    cells = trained(setting, "celeba")
    assert cells[0].row["dataset"] == "celeba-drawn"
    found = side(setting, cells, "celeba")
    assert not found.rows and found.missing == "celeba-drawn decides no claim about celeba"


def test_rows_without_configs_speak_only_for_what_columns_tell():
    cells = [Trained(each.row) for each in trained(JEPA)]
    assert side(JEPA, cells).rows and not side(SHUFFLED, cells).rows
    assert not side(JEPA | {"set": {"trainer.max_steps": 7500}}, cells).rows
    assert not side(JEPA | {"set": {"seeds.tokenizer": "follow"}}, cells).rows  # seed 0 looks as if it followed


def test_rows_tell_settings_apart_by_what_differs_from_the_preset():
    made = composer("trainer.threads=4")  # where it was trained is not told
    told = [Trained({**each.row}) for each in trained(SHUFFLED, shares=(0.3, 0.4), made=made) + trained(JEPA)]
    assert [each.row["changed"] for each in told] == ["architecture.maskgit-jepa.target=shuffled"] * 2 + [""]
    assert len(side(SHUFFLED, told, seeds=2).rows) == 2 and len(side(JEPA, told).rows) == 1
    empty = [Trained({**each.row, "changed": each.row["changed"] or None}) for each in told]  # as a CSV file has it
    assert len(side(SHUFFLED, empty, seeds=2).rows) == 2 and len(side(JEPA, empty).rows) == 1


# The file and the whole ----------------------------------------------------------------------------


def test_the_file_covers_what_the_papers_claim():
    loaded = load_claims()
    names = {claim.name for claim in loaded.claims}
    wanted = {f"{rung}-beats-maskgit" for rung in ("dit", "mar", "givt")} | {"vq-rises-later", "jepa-improves-maskgit"}
    wanted |= {"dit-tokenizer-is-irrelevant", "full-beats-quantized", "no-dropout-beats-dropout"}
    assert wanted <= names
    assert {claim.type for claim in loaded.claims} == {"greater", "equivalent", "ordered", "reaches"}
    assert all(claim.margin == 0.1 for claim in loaded.claims if claim.type == "equivalent")
    assert loaded.file_hash == hashlib.sha256(CLAIMS.read_bytes()).hexdigest()[:12]
    assert {row["claim"] for row in power_rows(loaded, "objectives")} >= {"dit-beats-maskgit", "masking-is-irrelevant"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("type: greater", "type: larger", "no type 'larger'"),
        ("sides: [dit, mar]", "sides: [dit, marr]", "no setting 'marr'; did you mean 'mar'"),
        ("sides: [dit, mar]", "sides: [dit, mar, givt]", "compares 3 sides; `equivalent` takes 2"),
        ("sides: [dit-kl]", "sides: [dit-kl, dit]", "compares 2 sides; `reaches` takes 1"),
        ("sides: [dit, dit-centres, dit-quantized]", "sides: [dit]", "1 sides; `ordered` takes 2 or more"),
        ("     margin: 0.90}", "    }", "dit-reaches-level-2-on-kl does not say margin"),
        ("name: denoising-is-irrelevant", "name: input-is-irrelevant", "same name"),
        ('figure: "4a, 4c", ', "", "full-beats-quantized does not say figure"),
    ],
)
def test_what_is_wrong_in_a_claims_file_is_told(tmp_path, old, new, message):
    text = CLAIMS.read_text()
    assert old in text
    (tmp_path / "claims.yaml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_claims(tmp_path / "claims.yaml")


def small(*claims: Claim, settings: dict[str, Any] | None = None) -> Claims:
    return Claims(claims, settings or load_claims().settings, 0.95, 0.1, "hash")


def test_what_was_written_down_before_the_seeds_keeps_its_bars():
    """Of the laptop preset's reported seeds: what beats MaskGIT and by how much, and when an implementation is sound."""
    loaded = load_claims()
    kept = {"dit > maskgit": 0.30, "mar > maskgit": 0, "givt > maskgit": 0, "jepa > maskgit": 0, "dit-kl >= 0.9": 0.9}
    kept["maskgit-longer > maskgit"] = 0
    found = {claim.text: claim for claim in loaded.claims if claim.text in kept}
    assert {text: claim.margin for text, claim in found.items()} == kept
    assert {claim.datasets["shapes2d"] for text, claim in found.items() if text != "dit-kl >= 0.9"} == {5}
    assert found["dit-kl >= 0.9"].datasets == {"shapes2d": 3}
    assert {claim.measure for claim in found.values()} == {"strict_level2"} and loaded.confidence == 0.95


@pytest.mark.parametrize("preset", ["smoke", "laptop", "paper"])
def test_longer_is_three_times_as_long(preset):
    settings, made = load_claims().settings, composer(preset=preset)
    steps = {
        name: made.resolve(choice_of(settings[name], "shapes2d", preset))["trainer"]["max_steps"]
        for name in ("maskgit", "maskgit-longer")
    }
    assert steps["maskgit-longer"] == 3 * steps["maskgit"]


REPORTED = {  # effect and interval of the reported seeds: the README's numbers
    "dit-beats-maskgit": (0.925, 0.835, 1.015, "5 + 5", "supported"),
    "givt-beats-maskgit": (0.246, 0.087, 0.405, "5 + 5", "supported"),
    "mar-beats-maskgit": (0.541, 0.439, 0.642, "5 + 5", "supported"),
    "more-steps-improve-maskgit": (-0.013, -0.044, 0.019, "5 + 5", "undecided"),
    "jepa-improves-maskgit": (0.032, -0.046, 0.110, "5 + 5", "undecided"),
    "dit-reaches-level-2-on-kl": (0.996, 0.979, 1.000, "3", "supported"),
    "full-beats-quantized": (0.833, 0.569, 1.097, "5 + 5", "supported"),
    "no-dropout-beats-dropout": (0.964, 0.872, 1.056, "5 + 5", "supported"),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_reference_verdicts_are_those_of_the_reference_table(tmp_path, capsys, name):
    """Claims that were changed leave other verdicts: write them again, by the command in results/reference/README.md."""

    out = tmp_path / "new" / "verdicts.csv"
    table = REFERENCE / f"{name}.csv"
    assert main(["claims", "--preset", "laptop", "--table", str(table), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"-> {out}" in told
    assert told.partition("\n\n")[0] in (ROOT / "README.md").read_text()  # the table there is what this command says
    found, committed = read_csv(out), read_csv(table.with_name(f"{name.replace('laptop', 'verdicts')}.csv"))
    assert len(found) == len(committed)
    for row, expected in zip(found, committed, strict=True):
        numbers = [key for key in COLUMNS if isinstance(expected[key], float)]
        assert [row[key] for key in numbers] == pytest.approx([expected[key] for key in numbers], abs=1e-9)
        assert {key: row[key] for key in row if key not in numbers} == {
            key: expected[key] for key in expected if key not in numbers
        }
    assert not any("trained on different machines" in row["note"] for row in found if row["note"])


def test_what_was_reported_stays_reported():
    reported = {row["claim"]: row for row in read_csv(REFERENCE / "verdicts.csv") if row["dataset"] == "shapes2d"}
    for name, (*interval, n, verdict) in REPORTED.items():
        row = reported[name]
        assert [row[key] for key in ("effect", "low", "high")] == pytest.approx(interval, abs=5.1e-4)
        assert (str(row["n"]), row["verdict"], row["suspicious"], row["failed"]) == (n, verdict, 0, 0)


def test_a_table_is_not_written_to_a_folder(tmp_path, capsys):

    assert main(["claims", "--table", str(LAPTOP), "--out", str(tmp_path)]) == 2
    assert "is a folder; name a file" in capsys.readouterr().err


def test_a_results_folder_is_decided_and_traced(tmp_path, monkeypatch, capsys):
    """Claim -> contrast -> cells -> records, by the command, for each dataset on its own."""
    store, made = Store(tmp_path), composer()
    for architecture, shares in (("dit", HIGH), ("maskgit", LOW)):
        for each in trained({"architecture": architecture}, shares=tuple(shares), made=made):
            record = {"cell": each.row["cell"], "state": "ok", "row": each.row, "config": each.config}
            store.cell(each.row["cell"]).folder.mkdir(parents=True)
            store.write_record(each.row["cell"], record)
    (claim,) = (claim for claim in load_claims().claims if claim.name == "dit-beats-maskgit")
    monkeypatch.setattr(claims_module, "load_claims", lambda: small(claim, settings=SETTINGS))

    assert main(["claims", "--preset", "laptop", "--results", str(tmp_path)]) == 0
    assert "supported" in capsys.readouterr().out
    shapes, clips = read_csv(tmp_path / "verdicts.csv")
    assert (shapes["verdict"], clips["verdict"], shapes["claims_file"]) == ("supported", "undecided", "hash")
    assert set(shapes) == set(COLUMNS) and shapes["n"] == "5 + 5" and clips["n"] == "0 + 0"
    assert {store.read_record(name)["row"]["architecture"] for name in shapes["cells"].split()} == {"dit", "maskgit"}
