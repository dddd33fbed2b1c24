"""Accuracy against the strict judge's thresholds, from the measurements that were kept: no image is read again.

All limits are moved together by one factor: 1 is the frozen judge, 2 tolerates twice as much, 0.5 half as much. The
frozen judge stays the only one that counts; the figure tells whether a finding hangs on where its limits were set.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from benchmark.cell import Cell
from benchmark.config import instantiate
from benchmark.registry import Registry
from datasets.factors import level

FACTORS = (0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0)
VERSIONS = ("shapes2d-1", "clips-1")  # whose limits the names below describe
LEAST = frozenset({"contrast", "overlap_margin", "least_area", "least_way", "shape_margin"})  # to be exceeded
LIKENESS = frozenset({"overlap", "saturation"})  # to be exceeded as well, at most 1: the distance from 1 is moved
FIXED = frozenset({"version", "floor_level", "floor_slope", "shape_split"})  # neither a tolerance nor its inverse
RAW = "raw_"  # prefix of measurements in judgements.parquet

Curve = dict[int, list[float]]  # level -> accuracy at each of FACTORS


class NoThresholds(ValueError):
    """A cell's judgements cannot be redrawn; the message says why."""


def loosened(thresholds: Any, factor: float) -> Any:
    """Thresholds that tolerate `factor` times as much.

    Raises:
        NoThresholds: for a version whose limits are not known here.
    """
    if thresholds.version not in VERSIONS:
        raise NoThresholds(f"nothing is known here of the limits of the judge {thresholds.version}")

    def moved(name: str, value: float) -> float:
        if name in LIKENESS:
            return 1 - (1 - value) * factor
        return value / factor if name in LEAST else value * factor

    names = [field.name for field in fields(thresholds) if field.name not in FIXED]
    return replace(thresholds, **{name: moved(name, getattr(thresholds, name)) for name in names})


class Redrawer:
    """Redraws cells, building the judges of a dataset once."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._judges: dict[str, list[Any]] = {}  # dataset's config -> a judge for each of FACTORS

    def curve(self, cell: Cell, judgements: Path, train: tuple[str, ...]) -> Curve:
        """Strict accuracy of each level at each of ``FACTORS``, asked for class centres.

        Args:
            judgements: the cell's ``judgements.parquet``.
            train: the training compositions.

        Raises:
            NoThresholds: where there are no measurements, or the judge of today does not repeat the recorded verdicts.
        """
        table = _strict_rows(judgements)
        accuracies: list[dict[int, float]] = []
        for factor, judge in zip(FACTORS, self.judges(cell), strict=True):
            right = _right(judge, table)
            if factor == 1.0 and right != table["all_correct"].tolist():
                raise NoThresholds("the judge of today does not repeat its verdicts")
            accuracies.append(_by_level(right, table["composition"].tolist(), train))
        return {number: [each[number] for each in accuracies] for number in accuracies[0]}

    def judges(self, cell: Cell) -> list[Any]:
        """The strict judge of a cell's dataset, once for each of ``FACTORS``.

        Raises:
            NoThresholds: where it is none that measures.
        """
        key = json.dumps(cell.config["dataset"], sort_keys=True)
        if key not in self._judges:
            judge_class, space, geometry = self._analytic(cell)
            limits = judge_class(space, geometry).thresholds
            self._judges[key] = [judge_class(space, geometry, loosened(limits, factor)) for factor in FACTORS]
        return self._judges[key]

    def _analytic(self, cell: Cell) -> tuple[Any, Any, Any]:
        """The class of a cell's strict judge, the factors and the geometry that it takes."""
        from probes.judges import STRICT_JUDGES

        dataset_class: Any = self.registry.entry("dataset", cell.config["dataset"]["name"]).load()
        values = {key: value for key, value in cell.config["dataset"].items() if key != "name"}
        data = dataset_class(instantiate(dataset_class.config_class, values), 0, Path())
        if data.strict_judge not in STRICT_JUDGES:
            raise NoThresholds("its strict judge measures no geometry")
        return STRICT_JUDGES[data.strict_judge], data.space.controlled, data.judge_geometry()


def _strict_rows(judgements: Path) -> Any:
    """What the strict judge said and measured of samples asked for class centres, a data frame."""
    import pandas as pd

    if not judgements.exists():
        raise NoThresholds("there is no judgements.parquet")
    try:
        table = pd.read_parquet(judgements, filters=[("judge", "==", "strict"), ("mode", "==", "centre")])
    except ValueError as error:
        raise NoThresholds("its judgements.parquet cannot be read") from error
    if table.empty or not any(name.startswith(RAW) for name in table.columns):
        raise NoThresholds("its judgements hold no measurements of a strict judge")
    return table


def _right(judge: Any, table: Any) -> list[bool]:
    """Which samples the judge finds right in every factor, from their measurements."""
    import torch

    from probes.judgement import correct

    measured = [name for name in table.columns if name.startswith(RAW)]
    raw = {name.removeprefix(RAW): torch.from_numpy(table[name].to_numpy(copy=True)) for name in measured}
    wanted = torch.tensor([judge.space.class_indices(composition) for composition in table["composition"]])
    return correct(judge.decide(raw), wanted).all(1).tolist()


def _by_level(right: list[bool], compositions: list[str], train: tuple[str, ...]) -> dict[int, float]:
    """Mean over the compositions of a level of the share that is right."""
    shares: dict[str, list[bool]] = {}
    for composition, hit in zip(compositions, right, strict=True):
        shares.setdefault(composition, []).append(hit)
    levels: dict[int, list[float]] = {}
    for composition, hits in shares.items():
        levels.setdefault(level(composition, train), []).append(sum(hits) / len(hits))
    return {number: sum(each) / len(each) for number, each in sorted(levels.items())}
