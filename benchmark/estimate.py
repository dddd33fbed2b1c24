"""How long cells will take and how much disk they need, always with the basis of the guess."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from benchmark import ROOT
from benchmark.cell import Cell
from benchmark.tables import Row, is_number, read_csv

REFERENCE = ROOT / "results" / "reference" / "laptop.csv"
# Minutes a cell where nothing was measured: smoke and laptop from development runs on two slow cores, paper from its
# FLOPs (1.6e17) at 5e13 a second.
MINUTES = {"smoke": 0.5, "laptop": 8.5, "paper": 60.0}
ADAM_STATE = 4  # float32 tensors the size of the network in a checkpoint: weights, two moments, average
GIGABYTE = 1e9
Pace = dict[tuple[str, str, str], list[float]]  # minutes a step (and parameter), by dataset, architecture and preset


@dataclass(frozen=True)
class Estimate:
    """Minutes that a cell takes as a whole, artefacts not counted, and what they are taken from."""

    minutes: float
    basis: str


class Estimator:
    """Estimates from what was measured: here first, then in the committed reference table, else a constant."""

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self._here: dict[str, list[float]] = {}
        self._pace: Pace = {}
        for record in records:
            row = record.get("row") or {}
            if is_number(row.get("minutes")) and record.get("state") in ("ok", "suspicious"):
                self._here.setdefault(str(record.get("setting")), []).append(row["minutes"])
                if config := record.get("config"):
                    _add_pace(self._pace, row, _parameters(config))

    @cached_property
    def _reference(self) -> Pace:
        pace: Pace = {}
        for row in read_csv(REFERENCE) if REFERENCE.is_file() else ():
            _add_pace(pace, row)
        return pace

    def estimate(self, cell: Cell) -> Estimate:
        """The median over the nearest measurements that there are."""
        if same := self._here.get(cell.setting):
            return Estimate(median(same), f"{_count(same, 'finished cell')} of this setting here")
        key = (cell.dataset, cell.architecture, cell.config["preset"])
        steps = cell.config["trainer"]["max_steps"]
        if pace := self._pace.get(key):
            minutes = median(pace) * steps * _parameters(cell.config)
            return Estimate(minutes, f"{_count(pace, 'finished cell')} like it here, by steps and size of the trunk")
        if pace := self._reference.get(key):
            return Estimate(median(pace) * steps, f"{REFERENCE.relative_to(ROOT)}, another machine, by steps")
        constant = MINUTES.get(cell.config["preset"], MINUTES["paper"])
        return Estimate(constant, "a constant of the preset: nothing measured yet")


def total_minutes(estimates: Sequence[Estimate], jobs: int) -> float:
    """Minutes until the last of some cells ends, so many side by side."""
    return max([sum(e.minutes for e in estimates) / max(1, jobs), *(e.minutes for e in estimates)], default=0.0)


def disk_bytes(cells: Iterable[Cell]) -> int:
    """Room that cells and the artefacts they share will take, rounded up generously."""
    cells = list(cells)
    artefacts = {cell.data_key: _data_bytes(cell) for cell in cells}
    artefacts |= {cell.latents_key: _data_bytes(cell) for cell in cells}
    return sum(_cell_bytes(cell) for cell in cells) + sum(artefacts.values())


def _add_pace(pace: Pace, row: Row | Mapping[str, Any], parameters: int = 1) -> None:
    if is_number(row.get("minutes")) and is_number(row.get("steps")) and row["steps"]:
        key = (str(row.get("dataset")), str(row.get("architecture")), str(row.get("preset")))
        pace.setdefault(key, []).append(row["minutes"] / row["steps"] / parameters)


def _parameters(config: Mapping[str, Any]) -> int:
    """Of a trunk, about: attention 4, MLP 8, modulation 6, the rest 2, in width^2."""
    return 20 * config["trunk"]["depth"] * config["trunk"]["width"] ** 2


def _cell_bytes(cell: Cell) -> int:
    """The last checkpoint, the kept averages, and 10 MB of samples and tables."""
    kept = cell.config["trainer"]["keep_checkpoints"]
    return 4 * _parameters(cell.config) * (ADAM_STATE * 2 + kept) + 10_000_000


def _data_bytes(cell: Cell) -> int:
    """Images as bytes: counts times frames, 3 channels and the resolution, where the dataset's config tells them."""
    dataset = cell.config["dataset"]
    images = 8 * sum(value for key, value in dataset.items() if key.endswith("_per_composition"))
    return images * dataset.get("frames", 1) * 3 * dataset.get("resolution", 64) ** 2


def _count(values: Sequence[float], noun: str) -> str:
    return f"{len(values)} {noun}{'s' * (len(values) != 1)}"
