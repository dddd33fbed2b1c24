"""Many tiny cells through ``--jobs 2`` and through SLURM, under fire: whatever is hit, the same rows are there at the end.

    python -m tests.soak --cells 200

Prints the table that stands in docs/reliability.md; the exit code is 0 if nothing was lost, double, damaged or different.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.soak import cells, check, ways
from tests.soak.commands import Commands
from tests.soak.disk import SmallDisk
from tests.soak.fire import under_fire
from tests.soak.tally import Tally, table
from tests.suite import cluster

WAYS = ("jobs", "slurm")
SAMPLE = 20  # one seed in so many is done again in peace, and as many of those that were hit most


def main(argv: Sequence[str] | None = None) -> int:
    """Soak, compare, print; 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cells", type=int, default=200, help="through each way; an even number (default: 200)")
    parser.add_argument("--through", choices=(*WAYS, "both"), default="both")
    parser.add_argument("--seed", type=int, default=0, help="of the blows (default: 0)")
    parser.add_argument("--minutes", type=float, default=600.0, help="under fire, a way, at most (default: 600)")
    arguments = parser.parse_args(argv)
    chosen = WAYS if arguments.through == "both" else (arguments.through,)
    if "slurm" in chosen and cluster.why_not():
        print(f"not through SLURM: {cluster.why_not()}", flush=True)
        chosen = tuple(name for name in chosen if name != "slurm")
    tallies = soak(dict.fromkeys(chosen, arguments.cells), arguments.seed, arguments.minutes)
    print(table(tallies), *(f"{each.way}: {what}" for each in tallies for what in each.wrong), sep="\n")
    return int(not tallies or any(each.wrong for each in tallies))


def soak(counts: Mapping[str, int], seed: int, minutes: float) -> list[Tally]:
    """Put so many cells through each way; compare what came out with a run in peace, and with each other."""
    seeds, tallies = {name: range((count + 1) // 2) for name, count in counts.items()}, [Tally(name) for name in counts]
    with tempfile.TemporaryDirectory(prefix="soak-") as name, ExitStack() as disks:
        folder = Path(name)
        for each in tallies:
            disk = SmallDisk(folder / each.way, 64 + cells.MEGABYTES * 2 * len(seeds[each.way]))
            fight(each, disks.enter_context(disk), folder, seeds[each.way], seed, minutes)
        peace, undisturbed = folder / "peace", Tally("peace")
        sample = sampled(tallies, min(seeds.values(), key=len), seed)
        Commands(peace, folder, undisturbed).run("run", *cells.selection(sample), "--jobs", 2)
        for each in tallies:
            each.compared = check.same(peace, folder / each.way, each)
            each.wrong += undisturbed.wrong
        for one, other in itertools.combinations(tallies, 2):
            one.compared = other.compared = check.same(folder / one.way, folder / other.way, one)
    return tallies


def fight(tally: Tally, disk: SmallDisk, folder: Path, seeds: Sequence[int], seed: int, minutes: float) -> None:
    """All cells through one way; what they left is checked, and told in the tally."""
    fate, tally.no_disk = random.Random(f"{tally.way} {seed}"), disk.problem
    with ways.way(tally.way, cells.selection(seeds), disk.folder, folder, fate, tally) as way:
        under_fire(way, disk, 2 * len(seeds), fate, tally, 60 * minutes)
    check.at_the_end(disk.folder, 2 * len(seeds), tally)


def sampled(tallies: Sequence[Tally], seeds: Sequence[int], seed: int) -> list[int]:
    """Seeds that are done again in peace: some at random, and those of the cells that were hit most."""
    some = max(1, len(seeds) // SAMPLE)
    hits = sum((each.hits for each in tallies), Counter[str]())
    most = [int(re.findall(r"-s(\d+)-", cell)[0]) for cell, _ in hits.most_common(some)]
    return sorted({*random.Random(seed).sample(seeds, some), *most})


if __name__ == "__main__":
    sys.exit(main())
