"""What happens to a way while it works: blows, a full disk, a read-only one, about one for each cell that is done."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from tests.soak import blows, check
from tests.soak.disk import SmallDisk
from tests.soak.tally import Tally
from tests.soak.ways import Jobs, Queue, ended

BLOWS = (
    8  # of a deck, which is dealt in random order and then shuffled again; what befalls the disk is in its first half
)
ENOUGH = 4  # blows that fall before the time is up; a machine with other work to do is given longer
REQUEUES = 2  # of a deck, where there is a queue
PACE = 0.7, 10.0  # seconds between two blows on average, at least and at most
HASTE = 1.2  # at most until enough have fallen, or a few cells on a fast machine would end before
PHASE = 2.0, 6.0  # seconds for which a disk is full or read-only
SLACK = 0, 2**14, 2**18  # bytes that a full disk has left: what does not fit stops at another place


def under_fire(way: Jobs | Queue, disk: SmallDisk, cells: int, fate: random.Random, tally: Tally, limit: float) -> None:
    """Hit a way until every cell has ended or, after `limit` seconds, enough blows have fallen; then let it finish in peace."""
    started = time.monotonic()
    for event in _deal(way, fate):
        passed, done = time.monotonic() - started, ended(disk.folder)
        if done >= cells or (passed > limit and tally.blows.total() >= ENOUGH):
            break
        way.keep_going()
        longest = PACE[1] if tally.blows.total() >= ENOUGH else HASTE
        pace = min(max(passed / (1 + done), PACE[0]), longest)
        time.sleep(fate.uniform(0.2, 2.0) * pace)
        if event in way.events:
            way.events[event]()
        elif event == "blow":
            blows.hit(disk.folder, fate, tally, way.top)
        elif not disk.problem:
            _disturb(event, way, disk, fate, tally)
        check.whole_table(disk.folder, tally)
    way.finish()
    tally.minutes = (time.monotonic() - started) / 60


def _deal(way: Jobs | Queue, fate: random.Random) -> Iterator[str]:
    while True:
        deck = ["blow"] * BLOWS + list(way.events) * REQUEUES
        fate.shuffle(deck)
        for event in ("full disk", "read-only"):
            deck.insert(fate.randrange(len(deck) // 2), event)
        yield from deck


def _disturb(event: str, way: Jobs | Queue, disk: SmallDisk, fate: random.Random, tally: Tally) -> None:
    """Seconds in which nothing can be written, and in which somebody may try to begin."""
    if event == "full disk":
        tally.full += 1
        state = disk.full(fate.choice(SLACK))
    else:
        tally.read_only += 1
        state = disk.read_only()
    with state:
        time.sleep(fate.uniform(*PHASE) / 2)
        way.keep_going()
        check.whole_table(disk.folder, tally)
        time.sleep(fate.uniform(*PHASE) / 2)
