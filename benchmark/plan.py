"""What a command line selects: cells with their states, what they will cost, and what is printed before any work."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmark import fingerprints
from benchmark.cell import Cell, DamagedConfig
from benchmark.composer import Composer, LeftOut
from benchmark.config import NAMED, ConfigError, Override
from benchmark.estimate import GIGABYTE, Estimate, Estimator, disk_bytes, total_minutes
from benchmark.grid import choices, load_grid, parse_only
from benchmark.machine import Machine
from benchmark.registry import Registry
from benchmark.states import FAILED, State, state_of
from benchmark.store import Record, Store
from benchmark.tables import Row


@dataclass
class Plan:
    """Selected cells by id, in the order in which they run."""

    cells: dict[str, Cell]
    store: Store
    registry: Registry
    machine: Machine
    notes: list[str]  # what was set aside or left out, a line each
    preset: str = ""  # as it is told: the name, and why where it was chosen automatically

    @cached_property
    def states(self) -> dict[str, State]:
        parts = {name: tuple(cell.config[kind]["name"] for kind in NAMED) for name, cell in self.cells.items()}
        now = {parts[name]: cell for name, cell in self.cells.items()}  # a cell for each combination of sources
        prints = {names: self._fingerprint(cell) for names, cell in now.items()}
        return {name: state_of(self.store, name, prints[parts[name]]) for name in self.cells}

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        estimator = Estimator(self.store.records())
        return {name: estimator.estimate(cell) for name, cell in self.cells.items()}

    def _fingerprint(self, cell: Cell) -> str | None:
        """None, which finds nothing stale, where the cell's sources are not at hand: a plug-in's, without --plugin."""
        try:
            return fingerprints.of_cell(cell, self.registry)
        except ConfigError:
            return None

    @property
    def threads(self) -> int:
        """Of a worker."""
        return max(cell.threads for cell in self.cells.values())

    @property
    def devices(self) -> int:
        """That a cell takes of this machine."""
        return max(cell.devices for cell in self.cells.values())

    @property
    def nodes(self) -> int:
        """That a cell takes."""
        return max(cell.nodes for cell in self.cells.values())

    def rows(self) -> list[Row]:
        """A row a cell."""
        return [
            {"cell": name, "state": self.states[name].name, "minutes": estimate.minutes, "basis": estimate.basis}
            for name, estimate in self.estimates.items()
        ]

    def heading(self, selected: Sequence[str], jobs: int) -> list[str]:
        """The lines that `run` and `plan` begin with; `selected` are the cells with work to do."""
        counts = Counter(state.name for state in self.states.values())
        estimates = [self.estimates[name] for name in selected]
        bases = ", ".join(dict.fromkeys(estimate.basis for estimate in estimates))
        precisions = ", ".join(dict.fromkeys(cell.config["trainer"]["precision"] for cell in self.cells.values()))
        lines = [f"preset    {self.preset}"] if self.preset else []
        source = f", from {bases}" if bases else ": nothing to do"
        return [
            *lines,
            f"device    {self.machine}; precision {precisions}, {jobs} at a time, {self.threads} thread(s) each",
            f"cells     {len(self.cells)}: " + ", ".join(f"{count} {state}" for state, count in counts.items()),
            f"estimate  {duration(total_minutes(estimates, jobs))}{source}",
            f"disk      about {self.disk(selected) / GIGABYTE:.2f} GB, {self.free() / GIGABYTE:.0f} GB free",
            f"results   {self.store.results}",
        ]

    def longest_first(self, names: Sequence[str]) -> list[str]:
        """Cells in the order in which to start them: seed by seed, and of a seed the longest first.

        A long cell that begins last keeps one worker busy while the others have nothing left to do.
        """
        return sorted(names, key=lambda name: (self.cells[name].seed, -self.estimates[name].minutes))

    def write_configs(self, names: Sequence[str]) -> None:
        """Write what ``run --cell ID`` reads; also of further cells with a folder, where it is missing or damaged."""
        there = set(self.store.cell_ids())
        for name, cell in self.cells.items():
            if name in there:
                self._mend_config(cell)
            elif name in names:
                cell.write(self.store.cell(name).config)

    def _mend_config(self, cell: Cell) -> None:
        """Write a config anew that cannot be read; one that was changed by hand is left to who changed it."""
        path = self.store.cell(cell.id).config
        try:
            Cell.read(path)
        except DamagedConfig:
            if path.exists():
                path.replace(path.with_name("config.damaged.yaml"))
            cell.write(path)
        except ConfigError:
            return

    def failed_record(self, name: str, reason: str) -> Record:
        """The record of a cell that could not write one itself."""
        cell = self.cells[name]
        return {
            "cell": name,
            "state": FAILED,
            "reason": reason,
            "setting": cell.setting,
            "fingerprint": fingerprints.of_cell(cell, self.registry),
            "steps": self.store.steps_trained(name),
            "row": cell.row(),
            "config": dict(cell.config),
        }

    def disk(self, selected: Sequence[str]) -> int:
        return disk_bytes(self.cells[name] for name in selected)

    def free(self) -> int:
        """Bytes free where the results folder is, or will be."""
        folder = self.store.results
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def check_room(self, selected: Sequence[str]) -> None:
        """Raises ConfigError if the disk cannot hold what these cells will write."""
        if self.disk(selected) > self.free():
            raise ConfigError(
                f"These cells need about {self.disk(selected) / GIGABYTE:.1f} GB and {self.store.results} has "
                f"{self.free() / GIGABYTE:.1f} GB free: make room, or choose another folder with --results"
            )


def plan_grid(
    store: Store,
    registry: Registry,
    machine: Machine,
    grid: str,
    preset: str = "auto",
    only: Sequence[str] = (),
    seeds: int | None = None,
    overrides: Sequence[Override] = (),
) -> Plan:
    """The cells of a grid, less those that filters leave out.

    Raises:
        ConfigError: for anything wrong with the input.
    """
    chosen = load_grid(grid)
    composer = Composer(registry, machine, chosen, preset, overrides)
    notes = [f"set aside: {name}: {reason}" for name, reason in registry.aside.items()]
    cells: dict[str, Cell] = {}
    first_seed = composer.base["seed"]
    for choice in choices(chosen, registry, parse_only(only), first_seed, seeds, composer.preset):
        try:
            cell = Cell(composer.resolve(choice))
        except LeftOut as reason:
            notes = list(dict.fromkeys([*notes, f"left out: {reason}"]))
        else:
            cells[cell.id] = cell
    if not cells:
        raise ConfigError(f"No cell is left of grid {grid}: " + ("; ".join(notes) or "--only selects none"))
    found = "there is a GPU" if machine.device == "cuda" else "there is no GPU"
    told = f"{composer.preset} (auto: {found})" if preset == "auto" else composer.preset
    return Plan(cells, store, registry, machine, [*notes, *composer.notes], told)


def plan_cells(store: Store, registry: Registry, machine: Machine, cell_ids: Sequence[str]) -> Plan:
    """Cells that a run has written before, by id.

    Raises:
        ConfigError: for an id that the results folder does not have, and for a cell of a plug-in that is not at hand.
    """
    cells = {name: Cell.read(store.cell(name).config) for name in cell_ids}
    for cell in cells.values():
        for kind in NAMED:
            registry.entry(kind, cell.config[kind]["name"])
    return Plan(cells, store, registry, machine, [])


def plan_stored(store: Store, registry: Registry, machine: Machine) -> Plan:
    """Every cell that the results folder has."""
    plan = Plan({}, store, registry, machine, [])
    for name in store.cell_ids():
        try:
            plan.cells[name] = Cell.read(store.cell(name).config)
        except ConfigError as error:
            store.warn(f"left out: {error}")
    return plan


def check_folder(results: Path, must_exist: bool = False) -> None:
    """Ask whether a results folder can be read; a missing one can, unless it must exist.

    Raises:
        ConfigError: if it is a file, may not be read, or is missing where one is needed.
    """
    try:
        for folder in (results, results / "cells"):
            with suppress(FileNotFoundError):
                os.listdir(folder)
        missing = not results.exists()
    except NotADirectoryError as error:
        raise ConfigError(f"{error.filename} is no folder: choose another with --results") from error
    except OSError as error:
        reason = f"{error.filename} cannot be read ({error.strerror})"
        raise ConfigError(f"{reason}: choose another with --results") from error
    if must_exist and missing:
        advice = "name another with --results, or let `python -m benchmark run` make it"
        raise ConfigError(f"There is no results folder {results}; {advice}")


def check_writable(folder: Path, option: str = "--results") -> None:
    """Raises ConfigError if nothing can be written to a folder that an option names; it is made if it is missing."""
    probe = folder / f".writable-{id(folder)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = f"Nothing can be written to {folder} ({error.strerror})"
        raise ConfigError(f"{reason}: choose another with {option}") from error


def check_out(out: Path) -> None:
    """Raises ConfigError if --out names no file that can be written: better before minutes of work than after."""
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file, such as {out / 'table.csv'}")
    check_writable(out.parent, "--out")


def duration(minutes: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
