"""What tests share: a store that says what it does into a list, other processes, and a launcher that trains nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark import launch
from benchmark.store import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, lines: list[str]) -> Store:
    return Store(tmp_path / "results", say=lines.append)


@pytest.fixture
def python() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start Python code in another process, which prints a line when it is where it should be."""
    started = []

    def start(code: str) -> subprocess.Popen[str]:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A launcher that writes a record for every cell in place of training it; what it was asked."""
    asked: list[dict] = []

    def run_cells(cell_ids, store, jobs, threads, **options):
        asked.append({"cells": list(cell_ids), "jobs": jobs, "threads": threads, **options})
        for name in cell_ids:
            assert store.cell(name).config.exists()
            state = "failed" if "-givt-" in name else "ok"
            record = options["failed_record"](name, "the loss became nan")
            store.write_record(name, record | {"state": state, "reason": "" if state == "ok" else record["reason"]})
        return 1 if any("-givt-" in name for name in cell_ids) else 0

    monkeypatch.setattr(launch, "run_cells", run_cells)
    monkeypatch.setattr("benchmark.fingerprints.of_cell", lambda cell, registry: "today's")
    return asked
