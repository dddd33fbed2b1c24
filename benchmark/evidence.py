"""Which cells speak for a setting that a claim names: the claim's settings are composed as a grid's are, and compared.

A record matches where its whole config is that of the setting, but for seeds and for where it was trained. A row of a
table alone, without configs, matches where all its columns do, and only settings that columns can tell.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.cell import Cell
from benchmark.composer import Composer
from benchmark.config import NAMED, ConfigError, leaves, setting_part
from benchmark.grid import Choice, nested_keys, of_preset
from benchmark.leaderboard import DESCRIPTION, DEVELOPMENT, IDENTITY, SHARES, leaderboard, least_variance
from benchmark.states import FAILED, OK, SUSPICIOUS
from benchmark.statistics import Moments, bimodal_remark, moments
from benchmark.store import Store
from benchmark.tables import Row, is_number, read_csv

TOLD_BY_COLUMNS = ("trainer.max_steps",)  # of rows without `changed`; not `follow`: seed 0 looks as if it did


@dataclass(frozen=True)
class Trained:
    """A finished cell: its row of the leaderboard, and its config where there is a record."""

    row: Row
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Side:
    """The cells of one setting and dataset that a claim counts, and why others do not."""

    name: str
    rows: tuple[Row, ...] = ()  # one a seed, state ok, in the order of seeds
    suspicious: int = 0
    failed: int = 0
    missing: str = ""  # why nothing can be decided yet

    def within(self, seeds: int) -> Side:
        """The side as it was planned: without seeds that were added."""
        rows = tuple(row for row in self.rows if row["seed"] < seeds)
        return Side(self.name, rows, self.suspicious, self.failed, self.missing)

    def moments(self, measure: str) -> Moments:
        """Over seeds; the variance is never below that of a measurement alone (of a share, its samples)."""
        floor = max((least_variance(row, measure) for row in self.rows), default=0.0)
        return moments([row[measure] for row in self.rows], floor)

    def remarks(self, measure: str) -> list[str]:
        """What a reader must know of this side beside the numbers."""
        counts = (("suspicious", self.suspicious), ("failed", self.failed))
        counted = [f"{count} {state}" for state, count in counts if count]
        spread = bimodal_remark([row[measure] for row in self.rows]) if measure in SHARES else ""
        return [f"{self.name}: {remark}" for remark in (self.missing, *counted, spread) if remark]


def of_store(store: Store) -> list[Trained]:
    """Every cell of a results folder that has a record."""
    return [Trained(row, record.get("config")) for record in store.records() for row in leaderboard([record])]


def of_table(path: Path) -> list[Trained]:
    """Rows of a leaderboard, of which no configs are at hand.

    Raises:
        ConfigError: if it is none, or a cell of it cannot be what its column says.
    """
    try:
        rows, whole = read_csv(path), path.read_bytes().endswith(b"\n")
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path} is no table: --table takes a leaderboard.csv ({error})") from error
    lacking = [column for column in (*IDENTITY, "strict_level2") if not rows or column not in rows[0]]
    if lacking:
        raise ConfigError(f"{path} has no column {lacking[0]!r}: --table takes a leaderboard.csv")
    if not whole:
        raise ConfigError(f"{path} was cut off in its last line: take a whole one")
    for number, row in enumerate(rows, start=2):
        for column, wanted in WANTED.items():
            if column in row and not wanted(row[column]):
                raise ConfigError(
                    f"{path}, line {number}: {column} cannot be {row[column]!r}; take a whole leaderboard.csv"
                )
    return [Trained(row) for row in rows]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_share(value: Any) -> bool:
    return value is None or (is_number(value) and 0 <= value <= 1)


WANTED: Mapping[str, Callable[[Any], bool]] = {
    "state": (OK, SUSPICIOUS, FAILED).__contains__,
    "seed": _is_count,
    **dict.fromkeys(DESCRIPTION, bool),
    **dict.fromkeys(SHARES, _is_share),
}  # of a column of a table that somebody names


def find_side(
    name: str,
    setting: Mapping[str, Any],
    dataset: str,
    seeds: int,
    measure: str,
    composer: Composer,
    cells: Sequence[Trained],
) -> Side:
    """The cells of a setting on a dataset.

    Args:
        setting: ``architecture``, and where they differ from `vq` and `full` ``tokenizer`` and ``conditioning``; under
            ``set`` dotted keys, each with its value or a value for each preset.
        seeds: how many were planned: 0, 1, ...
    """
    choice = choice_of(setting, dataset, composer.preset)
    cell = Cell(composer.resolve(choice))
    if cell.dataset != dataset:
        return Side(name, missing=f"{cell.dataset} decides no claim about {dataset}")
    described = [each for each in cells if _same_columns(each, cell)]
    if any(each.config is not None for each in described):
        defaults = _defaults(cell, composer)
        described = [each for each in described if each.config is None or _same_config(each.config, cell, defaults)]
    if not all(key in TOLD_BY_COLUMNS for key in setting.get("set") or {}):
        described = [each for each in described if each.config is not None or "changed" in each.row]
    named = [each.row for each in described]
    return side_of(name, [row for row in named if row["dataset"] == dataset], seeds, measure)


def choice_of(setting: Mapping[str, Any], dataset: str, preset: str, seed: int = 0) -> Choice:
    """The cell of a grid that a setting of a claim names."""
    keys = {key: of_preset(value, preset)[0] for key, value in (setting.get("set") or {}).items()}
    tokenizer, conditioning = setting.get("tokenizer", "vq"), setting.get("conditioning", "full")
    return Choice(dataset, setting["architecture"], tokenizer, conditioning, seed, nested_keys(keys))


def side_of(name: str, rows: Sequence[Row], seeds: int, measure: str) -> Side:
    """Rows of one setting, sorted out: those that count, and how many do not."""
    rows = sorted((row for row in rows if row["seed"] < DEVELOPMENT), key=lambda row: row["seed"])
    judged = [row for row in rows if row["state"] != "failed" and is_number(row.get(measure))]
    counts = {state: sum(row["state"] == state for row in rows) for state in ("suspicious", "failed")}
    missing = ""
    if len({row["seed"] for row in judged}) < len(judged):
        missing = f"{len(judged)} cells for {len({row['seed'] for row in judged})} seeds: a setting has one a seed"
    elif absent := [str(seed) for seed in range(seeds) if seed not in {row["seed"] for row in judged}]:
        missing = f"no result for seed {', '.join(absent)}"
    good = tuple(row for row in judged if row["state"] == "ok")
    return Side(name, good, counts["suspicious"], counts["failed"], missing)


def _same_columns(trained: Trained, cell: Cell) -> bool:
    """Whether a row says of itself what the cell does, whichever seed it has.

    What differs from the preset is asked of rows alone: a config tells it as it is, also when the preset has changed.
    """
    row, seed = trained.row, trained.row.get("seed")
    seeds = {f"seed_{kind}": seed if value == "follow" else int(value) for kind, value in cell.config["seeds"].items()}
    told = {**cell.row(), **seeds, "seed": seed}
    changed = told.pop("changed")
    listed = row.get("changed", changed) or ""  # a table has None for nothing, and an old one no such column
    if trained.config is None and listed != changed:
        return False
    return all(row[key] == value for key, value in told.items() if key in row and key != "device")


def _same_config(theirs: Mapping[str, Any], cell: Cell, defaults: Mapping[str, Any]) -> bool:
    """A key that came after a record stands there as its default did: it meant nothing else."""
    own, recorded = dict(leaves(setting_part(cell.config))), dict(leaves(setting_part(theirs)))
    return recorded.keys() <= own.keys() and all(
        recorded.get(key, defaults.get(key)) == value for key, value in own.items()
    )


def _defaults(cell: Cell, composer: Composer) -> dict[str, Any]:
    """What every key of the cell's setting says where nothing is said, by dotted key."""
    whole = composer.schema.compose([])
    own = {kind: whole[kind][cell.config[kind]["name"]] for kind in NAMED}
    return dict(leaves(setting_part({**whole, **own})))
