"""The command of a cell: run as it stands, it selects that very cell."""

import shlex

import pytest

from benchmark.again import Commands
from benchmark.cell import Cell
from benchmark.cli import split_tokens
from benchmark.config import Override
from benchmark.machine import Machine
from benchmark.plan import plan_grid
from benchmark.registry import Registry, discover
from benchmark.store import Store

MACHINE = Machine("cpu", 0, 2, bf16=False)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


def cells(registry: Registry, only: list[str], keys: list[str], preset: str = "smoke") -> list[Cell]:
    overrides = [Override.parse(key) for key in keys]
    return list(plan_grid(Store("nowhere"), registry, MACHINE, "all", preset, only, 1, overrides).cells.values())


@pytest.mark.parametrize(
    "keys",
    [[], ["trainer.max_steps=77", "optimiser.betas=[0.8,0.9]", "tokenizer.vq.codes=64", "seeds.tokenizer=follow"]],
    ids=["preset", "changed"],
)
def test_a_command_selects_the_cell_that_it_was_made_for(registry: Registry, keys: list[str]) -> None:
    axes = ["dataset=shapes2d", "architecture=dit", "conditioning=quantized+dropout", "seed=3"]
    (cell,) = cells(registry, axes, keys)
    line = Commands(registry).command(cell)
    tokens = split_tokens(shlex.split(line)[3:], frozenset({"--preset"}))
    assert "--cell" not in line
    assert all(key.partition("=")[0] in line for key in keys)
    (again,) = cells(registry, tokens.only, [f"{each.key}={each.text}" for each in tokens.overrides])
    assert again.id == cell.id


def test_where_no_command_makes_the_cell_its_folder_is_named(registry: Registry) -> None:
    (cell,) = cells(registry, ["dataset=shapes2d", "architecture=dit"], [])
    other = Cell({**cell.config, "architecture": {"name": "of-a-plugin"}})
    assert Commands(registry).command(other).endswith(f"run --cell {other.id}")
    older = Cell({**cell.config, "trainer": {**cell.config["trainer"], "gone": 1}})
    assert Commands(registry).command(older).endswith(f"run --cell {older.id}")
