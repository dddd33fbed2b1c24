"""What tests of the store and of leases share: a store that says what it does into a list, and other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
