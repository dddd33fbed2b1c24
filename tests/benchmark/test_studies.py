"""The grids of the papers' studies: how many cells each has, which they share, and that claims are about cells of theirs."""

from collections import Counter
from functools import cache

import pytest

from benchmark.cell import Cell
from benchmark.claims import load_claims
from benchmark.composer import Composer
from benchmark.config import ConfigError, Override
from benchmark.evidence import choice_of
from benchmark.grid import Part, choices, load_grid, nested_keys, parse_only
from benchmark.machine import Machine
from benchmark.registry import discover

CPU = Machine("cpu", 0, 2, bf16=True)
SETTINGS = {  # of one seed and preset laptop
    "checks": 1,
    "objectives": 2 * 2 * 6 + 1,
    "tokenizers": 3 * 2,
    "conditioning": 2 * 6,
    "injection": 2 * 4,
    "jepa": 2 * (2 + 5 + 3 + 1 + 4),
    "jepa-length": 2,
    "geometry": 2 * (1 + 3 * 2 + 2),
    "corners": 2 * 8,
}
CELLS = {
    "checks": 3,
    "objectives": 101,
    "tokenizers": 18,
    "conditioning": 60,
    "injection": 24,
    "jepa": 120,
    "jepa-length": 10,
    "geometry": 54,
    "corners": 48,
}
SHARED = {  # what several studies have in common is one cell
    "checks": 0,
    "objectives": 0,
    "tokenizers": 0,
    "conditioning": 20,  # DiT and MaskGIT, full and quantized, of objectives
    "injection": 6,  # the preset's own injection and embedder
    "jepa": 8,  # MaskGIT on both datasets
    "jepa-length": 0,  # at the paper preset all of it: that is as long as it is
    "geometry": 6,  # the preset's own geometry
    "corners": 6,  # corner 000
}


@cache
def composer(preset: str, *overrides: str) -> Composer:
    return Composer(discover(), CPU, load_grid("full"), preset, [Override.parse(text) for text in overrides])


@cache
def cells(grid: str, preset: str, seeds: int | None = None) -> dict[str, Cell]:
    selected = choices(load_grid(grid), discover(), {}, 0, seeds, preset)
    made = [Cell(composer(preset).resolve(choice)) for choice in selected]
    assert len({cell.id for cell in made}) == len(made) or grid == "full"  # a study asks for no cell twice
    return {cell.id: cell for cell in made}


@pytest.mark.parametrize("grid", CELLS)
def test_every_study_plans_at_the_laptop_preset(grid):
    planned = cells(grid, "laptop")
    assert len(planned) == CELLS[grid]
    assert len({cell.setting for cell in planned.values()}) == SETTINGS[grid]
    told = load_grid(grid)
    assert told.question.endswith("?") and told.figure and told.expected.startswith(f"{CELLS[grid]} cells")


def test_full_has_each_cell_once():
    before: set[str] = set()
    for grid, shared in SHARED.items():
        own = set(cells(grid, "laptop"))
        assert len(own & before) == shared, grid
        before |= own
    assert set(cells("full", "laptop")) == before
    assert load_grid("full").expected.startswith(f"{len(before)} cells")


def test_columns_tell_every_setting_from_every_other():
    axes = ("dataset", "architecture", "tokenizer", "conditioning", "changed")
    planned = cells("full", "laptop").values()
    told = {(*(str(cell.row()[axis]) for axis in axes), cell.seed) for cell in planned}
    assert len(told) == len(planned)
    assert {cell.row()["changed"] for cell in planned} >= {
        "",
        "split.base=011",
        "architecture.maskgit-jepa.layers=[1,3]",
    }
    again = composer("laptop", "dataset.shapes2d.radius_large=7.0")  # as the preset has it
    assert again.resolve(choices(load_grid("all"), discover(), {})[0])["changed"] == ""


@pytest.mark.parametrize("preset", ["smoke", "paper"])
def test_every_study_plans_at_other_presets(preset):
    planned = cells("full", preset, 1)
    assert len({cell.architecture for cell in planned.values()}) == 5
    assert {cell.config["preset"] for cell in planned.values()} == {preset}


def test_objectives_have_two_rungs_more_on_one_tokenizer_and_one_trained_for_longer():
    planned = [cell for cell in cells("objectives", "laptop").values() if cell.dataset == "shapes2d" and cell.seed == 0]
    (longer,) = [cell for cell in planned if cell.config["trainer"]["max_steps"] == 7500]
    assert (longer.architecture, longer.config["conditioning"]["information"]) == ("maskgit", "full")
    inputs = Counter(cell.config["architecture"]["input"] for cell in planned if cell.architecture == "maskgit")
    mixtures = Counter(cell.config["architecture"]["mixtures"] for cell in planned if cell.architecture == "givt")
    assert inputs == {"codes": 3, "latents": 2} and mixtures == {32: 2, 1: 2}
    assert len({cell.tokenizer_key for cell in planned}) == 1
    seeds = Counter((cell.dataset, cell.seed) for cell in cells("objectives", "laptop").values())
    assert seeds == {("shapes2d", seed): 13 for seed in range(5)} | {("clevrer_kubric", seed): 12 for seed in range(3)}


def test_every_replicate_of_tokenizers_has_one_of_its_own():
    planned = cells("tokenizers", "laptop").values()
    assert len({cell.tokenizer_key for cell in planned}) == 2 * 3
    assert all(cell.seed_of("tokenizer") == cell.seed for cell in planned)


def test_jepa_differs_from_its_default_in_one_thing_at_a_time():
    planned = [cell for cell in cells("jepa", "laptop", 1).values() if cell.dataset == "shapes2d"]
    configs = [cell.config["architecture"] for cell in planned if cell.architecture == "maskgit-jepa"]
    default = next(c for c in configs if c["target"] == "average" and c["layers"] == [2, 3] and c["weight"] == 0.6)
    changed = Counter(key for config in configs for key in config if config[key] != default[key])
    assert changed == {"layers": 5, "weight": 3, "predictor": 1, "target": 4}


def test_corners_train_on_eight_splits():
    assert {cell.config["split"]["base"] for cell in cells("corners", "laptop").values()} == {
        f"{i:03b}" for i in range(8)
    }


def test_geometry_is_the_same_at_every_preset():
    def geometries(preset):
        keys = ("resolution", "radius_large", "radius_small", "size_jitter", "position_jitter", "colour_jitter")
        return {tuple(c.config["dataset"][key] for key in keys) for c in cells("geometry", preset, 1).values()}

    assert geometries("laptop") == geometries("smoke") and len(geometries("laptop")) == 9


def test_filters_reach_into_the_parts():
    grid, registry = load_grid("objectives"), discover()
    only = parse_only(["architecture=dit,maskgit", "conditioning=full", "dataset=shapes2d"])
    assert [c.architecture for c in choices(grid, registry, only, 0, 1)] == ["dit", "maskgit", "maskgit", "maskgit"]
    assert {c.seed for c in choices(grid, registry, {**only, "seed": ("7",)})} == {7}
    with pytest.raises(ConfigError, match="does not offer tokenizer 'kl'"):
        choices(grid, registry, parse_only(["tokenizer=kl"]))


def test_values_may_differ_between_presets():
    part = Part({}, {}, {"a": {"b": {"c": 0, "d": 1}}}, {"a.b.c": {"laptop": [1, 2]}, "e": [[3, 4]]}, {"*": 1})
    assert part.settings("laptop") == [{"a": {"b": {"c": c, "d": 1}}, "e": [3, 4]} for c in (1, 2)]
    with pytest.raises(ConfigError, match="no values for preset paper; it has them for laptop"):
        part.settings("paper")
    assert nested_keys({"a.b": 1, "a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize("preset", ["laptop", "smoke", "paper"])
def test_claims_are_about_cells_of_their_grids(preset):
    """Every side of every claim is planned by the grid that it names, with as many seeds as it wants."""
    claims = load_claims()
    for claim in claims.claims:
        planned = cells(claim.grid, preset, None if preset == "laptop" else 1)
        for dataset, seeds in claim.datasets.items():
            for side in claim.sides:
                for seed in range(seeds) if preset == "laptop" else (0,):
                    choice = choice_of(claims.settings[side], dataset, preset, seed)
                    assert Cell(composer(preset).resolve(choice)).id in planned, (claim.name, side, seed)
