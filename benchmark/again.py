"""The command that makes a cell again on an empty machine, found by asking which keys differ from the preset's.

A cell's id is a hash of its config, so that a command can be proved right: what it selects must have the same id.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from benchmark.cell import Cell
from benchmark.composer import Composer, LeftOut
from benchmark.config import NAMED, ConfigError, Override, differences
from benchmark.grid import Choice, load_grid
from benchmark.machine import Machine
from benchmark.registry import Registry

GRID = "all"  # offers every registered name on every axis
PROGRAM = ("python", "-m", "benchmark", "run")
RESOLVED = ("trainer.device", "trainer.precision")  # `auto` means another thing on another machine: always told


class Commands:
    """Commands for cells, composing the configs of a setting once for all of its seeds."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._settings: dict[str, tuple[list[str], Composer]] = {}

    def command(self, cell: Cell) -> str:
        """A line for the shell; ``run --cell ID``, which needs this results folder, where no other makes the same cell.

        That is so for cells of plug-ins that are not at hand, and where presets or defaults have changed since.
        """
        try:
            keys, composer = self._setting(cell)
            proven = Cell(composer.resolve(_choice(cell))).id == cell.id
        except (ConfigError, LeftOut, KeyError, TypeError):
            proven = False
        if not proven:
            return shlex.join((*PROGRAM, "--cell", cell.id))
        choice = _choice(cell)
        axes = [f"{axis}={getattr(choice, axis)}" for axis in (*NAMED, "conditioning", "seed")]
        return shlex.join((*PROGRAM, "--preset", str(cell.config["preset"]), "--only", *axes, *keys))

    def _setting(self, cell: Cell) -> tuple[list[str], Composer]:
        shared = {key: value for key, value in cell.config.items() if key != "seed"}
        identity = json.dumps(shared, sort_keys=True)
        if identity not in self._settings:
            plain = self._composer(cell, ()).resolve(_choice(cell))
            keys = _keys(plain, cell.config)
            self._settings[identity] = keys, self._composer(cell, tuple(map(Override.parse, keys)))
        return self._settings[identity]

    def _composer(self, cell: Cell, overrides: tuple[Override, ...]) -> Composer:
        device, bf16 = cell.config["trainer"]["device"], cell.config["trainer"]["precision"] == "bf16-mixed"
        machine = Machine(device, int(device == "cuda"), 1, bf16)
        return Composer(self.registry, machine, load_grid(GRID), str(cell.config["preset"]), overrides)


def _choice(cell: Cell) -> Choice:
    dataset = cell.config["dataset"]["name"]  # not its label, under which it settled
    conditioning = cell.conditioning.replace("labels", "full")  # what a dataset without values makes of it
    return Choice(dataset, cell.architecture, cell.tokenizer, conditioning, cell.seed)


def _keys(plain: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """``KEY=VALUE`` for what is another in `plain`, and for what a machine would decide."""
    part = {key: value for key, value in wanted.items() if key not in ("seed", "preset", "changed")}
    return differences(plain, part, {kind: wanted[kind]["name"] for kind in NAMED}, RESOLVED)
