"""Redrawing the strict judge's limits from what was measured."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmark.cell import Cell
from benchmark.machine import Machine
from benchmark.plan import plan_grid
from benchmark.registry import Registry, discover
from benchmark.store import Store
from benchmark.thresholds import FACTORS, RAW, NoThresholds, Redrawer, loosened
from probes.judgement import correct
from probes.strict import Thresholds, render

TRAIN = ("000", "001", "010", "100")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


@pytest.fixture(scope="module")
def redrawer(registry: Registry) -> Redrawer:
    return Redrawer(registry)


@pytest.fixture(scope="module")
def cell(registry: Registry) -> Cell:
    only = ["dataset=shapes2d", "architecture=dit"]
    (cell,) = plan_grid(Store("nowhere"), registry, Machine("cpu", 0, 2, False), "all", "laptop", only).cells.values()
    return cell


def write_judgements(cell: Cell, redrawer: Redrawer, path: Path) -> pd.DataFrame:
    """Circles and triangles of radii from one class to the other, judged as at the end of a run."""
    judge, rows = redrawer.judges(cell)[FACTORS.index(1.0)], []
    for composition in judge.space.compositions:
        shape, colour, size = judge.space.class_indices(composition)
        radii = torch.linspace(float(judge.radii[size]), float(judge.radii.mean()), 12)
        middle = torch.full_like(radii, judge.geometry.resolution / 2)
        cover = render(judge.shapes[shape], radii, middle, middle, judge.geometry.resolution, judge.geometry.edge_width)
        pixels = 1 + cover[:, None] * (judge.colours[colour][:, None, None] - 1)
        verdict = judge.judge(pixels * 2 - 1)
        right = correct(verdict, torch.tensor([[shape, colour, size]]).expand(12, -1)).all(1)
        for index in range(12):
            raw = {f"{RAW}{name}": float(each[index]) for name, each in verdict.measurements.items()}
            row = {"composition": composition, "judge": "strict", "mode": "centre", "all_correct": bool(right[index])}
            rows.append(row | raw)
    table = pd.DataFrame(rows).astype({name: "float32" for name in rows[0] if name.startswith(RAW)})
    table.to_parquet(path)
    return table


def test_the_frozen_judge_is_among_them_and_tolerance_only_adds(cell: Cell, redrawer: Redrawer, tmp_path: Path) -> None:
    table = write_judgements(cell, redrawer, tmp_path / "judgements.parquet")
    curve = redrawer.curve(cell, tmp_path / "judgements.parquet", TRAIN)
    frozen = FACTORS.index(1.0)
    recorded = table[table["composition"] == "111"]["all_correct"].mean()
    assert 0 < recorded < 1
    assert curve[2][frozen] == pytest.approx(recorded)
    for shares in curve.values():
        assert shares == sorted(shares) and shares[0] < shares[frozen] < shares[-1]


def test_verdicts_of_another_judge_are_not_redrawn(cell: Cell, redrawer: Redrawer, tmp_path: Path) -> None:
    path = tmp_path / "judgements.parquet"
    table = write_judgements(cell, redrawer, path)
    table.loc[0, "all_correct"] = not table.loc[0, "all_correct"]
    table.to_parquet(path)
    with pytest.raises(NoThresholds, match="does not repeat"):
        redrawer.curve(cell, path, TRAIN)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(NoThresholds, match="cannot be read"):
        redrawer.curve(cell, path, TRAIN)
    table.drop(columns=[name for name in table if name.startswith(RAW)]).to_parquet(path)
    with pytest.raises(NoThresholds, match="no measurements"):
        redrawer.curve(cell, path, TRAIN)
    with pytest.raises(NoThresholds, match=r"no judgements\.parquet"):
        redrawer.curve(cell, tmp_path / "missing.parquet", TRAIN)


def test_limits_move_in_the_direction_of_tolerance() -> None:
    wide = loosened(Thresholds(), 2.0)
    assert wide.softness == 9.0 and wide.contrast == pytest.approx(0.225)
    assert wide.overlap == pytest.approx(0.66) and wide.version == "shapes2d-1"
    assert loosened(Thresholds(), 1.0) == Thresholds()
    with pytest.raises(NoThresholds, match="shapes2d-9"):
        loosened(Thresholds(version="shapes2d-9"), 2.0)
