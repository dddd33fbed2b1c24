"""Twenty cells of the soak; ``python -m tests.soak`` does as many as one likes."""

import os

import pytest

from tests.soak import disk
from tests.soak.__main__ import soak
from tests.soak.fire import ENOUGH
from tests.suite import cluster

CELLS = {"jobs": 14, "slurm": 6}  # a task of SLURM's imports everything anew
SEED, MINUTES = 0, 1.5  # under fire at most, each way
NEEDED = "BENCHMARK_NEEDS_SLURM" in os.environ  # where it is set, what cannot be tried is a failure


@pytest.fixture(scope="module")
def tallies():
    counts = {way: count for way, count in CELLS.items() if way == "jobs" or not cluster.why_not()}
    return {tally.way: tally for tally in soak(counts, SEED, MINUTES)}


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("way", ["jobs", pytest.param("slurm", marks=pytest.mark.slurm)])
def test_nothing_is_lost_under_fire(tallies, way):
    if way not in tallies:
        (pytest.fail if NEEDED else pytest.skip)(cluster.why_not())
    tally = tallies[way]
    assert not tally.wrong
    assert tally.cells == CELLS[way] and tally.compared >= 2
    assert tally.blows.total() >= ENOUGH


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_its_disk_was_full_and_read_only(tallies):
    if disk.why_not():
        pytest.skip(disk.why_not())  # also where SLURM is needed: containers may forbid mounts to root
    assert all(tally.full and tally.read_only for tally in tallies.values())
