"""Twenty cells of the soak, ten through each way; ``python -m tests.soak`` does as many as one likes."""

import os

import pytest

from tests.soak import disk
from tests.soak.__main__ import soak
from tests.suite import cluster

CELLS, SEED, MINUTES = 10, 0, 2.0  # through each way; under fire at most
NEEDED = "BENCHMARK_NEEDS_SLURM" in os.environ  # where it is set, what cannot be tried is a failure


@pytest.fixture(scope="module")
def tallies():
    ways = ("jobs",) if cluster.why_not() else ("jobs", "slurm")
    return {tally.way: tally for tally in soak(ways, CELLS, SEED, MINUTES)}


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("way", ["jobs", pytest.param("slurm", marks=pytest.mark.slurm)])
def test_nothing_is_lost_under_fire(tallies, way):
    if way not in tallies:
        (pytest.fail if NEEDED else pytest.skip)(cluster.why_not())
    tally = tallies[way]
    assert not tally.wrong
    assert tally.cells == CELLS and tally.compared >= 2
    assert sum(tally.blows.values()) > 3


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_its_disk_was_full_and_read_only(tallies):
    if disk.why_not():
        (pytest.fail if NEEDED else pytest.skip)(disk.why_not())
    assert all(tally.full and tally.read_only for tally in tallies.values())
