"""What a grid says while it runs: lines in a log, a table on a terminal, and how long it will take."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from benchmark.progress import Clock, GridProgress
from benchmark.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_lines_in_a_log(store: Store) -> None:
    lines: list[str] = []
    with GridProgress(store, ["a", "b", "c"], {"a": 2, "b": 2, "c": 2}, 2, interval=0, say=lines.append) as progress:
        progress.started("a")
        progress.started("b")
        store.write_progress("a", phase="train", step=1200, max_steps=3000, rate=20.0)
        progress.tick()
        progress.ended("b", "failed", "loss is NaN")
        progress.put_back("a", "ended by signal 9")
        progress.started("a", attempt=2)
    assert lines == [
        "a: started",
        "b: started",
        "  a  train  1200/3000  20.0/s  2.0 min left",
        "  b  starting  2.0 min left",
        "0/3 done, 2 running, 1 left, about 3.0 min left",
        "b: failed after 0 s: loss is NaN",
        "a: ended by signal 9",
        "a: started again (attempt 2)",
    ]


def test_lines_come_only_so_often(store: Store) -> None:
    lines: list[str] = []
    with GridProgress(store, ["a"], interval=60, say=lines.append) as progress:
        progress.tick()
        progress.tick()
    assert lines == []


def test_what_has_no_steps_shows_its_share(store: Store) -> None:
    lines: list[str] = []
    with GridProgress(store, ["a"], interval=0, say=lines.append) as progress:
        progress.started("a")
        store.write_progress("a", phase="drawing images", share=0.254)
        progress.tick()
    assert "  a  drawing images  25%" in lines


def test_progress_of_an_earlier_worker_is_not_shown(store: Store) -> None:
    lines: list[str] = []
    store.write_progress("a", phase="train", step=1200, max_steps=3000, rate=20.0)
    with GridProgress(store, ["a"], interval=0, say=lines.append) as progress:
        progress.started("a")
        progress.tick()
    assert "  a  starting" in lines


def test_a_table_on_a_terminal(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with GridProgress(store, ["shapes2d-dit", "b"], {"shapes2d-dit": 1.0, "b": 1.0}) as progress:
        progress.started("shapes2d-dit")
        store.write_progress("shapes2d-dit", phase="train", step=10, max_steps=20, rate=5.0)
        progress.tick()
        progress.ended("b", "ok")
    shown = terminal.getvalue()
    for part in ("shapes2d-dit", "train", "10/20", "5.0/s", "1/2 done, 1 running, 0 left"):
        assert part in shown


def test_estimates_are_corrected_by_what_cells_took() -> None:
    clock = Clock(["a", "b", "c"], {"a": 2, "b": 4, "c": 4})
    assert clock.minutes("b") == 4
    clock.took("a", 3.0)
    assert clock.minutes("b") == pytest.approx(6)
    assert clock.minutes_left("b", elapsed=1.0, progress={}) == pytest.approx(5)
    assert clock.grid_minutes_left(["c"], [5.0], jobs=2) == pytest.approx(6)  # no sooner than the longest cell
    assert clock.grid_minutes_left(["c"], [5.0], jobs=1) == pytest.approx(11)


def test_measured_steps_bound_the_estimate_from_below() -> None:
    clock = Clock(["a"], {"a": 2})
    slow = {"step": 0, "max_steps": 600, "rate": 1.0}
    assert clock.minutes_left("a", elapsed=1.5, progress=slow) == pytest.approx(10)


def test_without_estimates_measurements_are_all_there_is() -> None:
    clock = Clock(["a", "b"])
    assert clock.grid_minutes_left(["b"], [1.0], jobs=1) is None
    clock.took("a", 3.0)
    assert clock.grid_minutes_left(["b"], [1.0], jobs=1) == pytest.approx(4)
