"""A warning ends a process at once while nothing is held, and by an exception that gives back what is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmark.signals import leaving
from tests.suite import running

WARNING = signal.SIGUSR1
SWALLOWS = """
import os, signal, sys
from benchmark import cli, commands

def plan(*_):
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
    except BaseException:
        pass  # as a library may, in the middle of its import
    raise RecursionError("half imported")

commands.plan = plan
sys.exit(cli.main(["plan"]))
"""


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """Signals that came through to the process's own handler."""
    numbers: list[int] = []
    before = signal.signal(WARNING, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(WARNING, before)


def test_what_is_held_is_given_back(heard: list[int]) -> None:
    held = ["a lease"]
    with pytest.raises(SystemExit) as end, leaving(WARNING, 75):
        try:
            os.kill(os.getpid(), WARNING)
        finally:
            held.clear()
    assert end.value.code == 75 and not held and not heard
    os.kill(os.getpid(), WARNING)
    assert heard == [WARNING]  # the former handler is back


def test_a_signal_that_nobody_listens_to_stays_so() -> None:
    before = signal.signal(WARNING, signal.SIG_IGN)
    try:
        with leaving(WARNING, 75):
            os.kill(os.getpid(), WARNING)
    finally:
        signal.signal(WARNING, before)


def test_a_warning_in_the_midst_of_an_import_breaks_nothing() -> None:
    """An exception there may be swallowed, and whatever follows from a library half imported told as the cell's failure."""
    command = [sys.executable, "-c", SWALLOWS]
    done = subprocess.run(command, cwd=running.ROOT, env=running.environment(SLURM_JOB_ID="1"), capture_output=True)
    assert (done.returncode, done.stderr) == (75, b"")
