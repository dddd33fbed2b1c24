"""A small grid, several launchers, and signals at random: whatever is killed, the same records are there at the end.

    python -m tests.soak --minutes 30

Each round does the grid in a fresh folder under fire, then in peace to its end, and compares what came out with a run
that nobody disturbed. The table it prints stands in docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.suite import running

GRID = ("--preset", "smoke", "--only", "architecture=maskgit,dit", "trainer.checkpoint_every_steps=5")
DONE = (0, 1)  # smoke cells learn nothing and end suspicious, which is 1
CUT_OFF = (75, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGUSR1)  # the last two: before it had begun to listen
ROUND = 180.0  # seconds under fire, at most
BREATH = (0.2, 6.0)  # seconds between two blows; importing torch alone takes some
BLOWS = ("SIGKILL", "SIGTERM", "SIGUSR1", "SIGSTOP")  # the last is followed by SIGCONT


@dataclass
class Tally:
    """What was done to the runs, and what they made of it."""

    rounds: int = 0
    cells: int = 0
    starts: int = 0  # of workers
    blows: Counter[str] = field(default_factory=Counter)
    ends: Counter[int] = field(default_factory=Counter)  # exit codes of launchers
    reasons: Counter[str] = field(default_factory=Counter)  # of cells that were given up, and done again
    wrong: list[str] = field(default_factory=list)

    def table(self) -> str:
        """For people, in Markdown."""
        blows = ", ".join(f"{count} {name}" for name, count in sorted(self.blows.items()))
        ends = ", ".join(f"{count} with {code}" for code, count in sorted(self.ends.items()))
        rows = {
            "rounds, cells": f"{self.rounds}, {self.cells}",
            "blows": blows,
            "launchers ended": ends,
            "starts of workers": str(self.starts),
            "given up, and done again": "; ".join(f"{n} x {why}" for why, n in self.reasons.items()) or "none",
            "lost, double, damaged or different": str(len(self.wrong)),
        }
        return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def main(argv: Sequence[str] | None = None) -> int:
    """Run rounds until the time is up; 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="a round that has begun is ended (default: 10)")
    parser.add_argument("--seeds", type=int, default=2, help="cells are two architectures times these (default: 2)")
    parser.add_argument("--launchers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the blows")
    arguments = parser.parse_args(argv)
    tally, fate = Tally(), random.Random(arguments.seed)
    command = ("run", *GRID, "--seeds", arguments.seeds, "--jobs", 1)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        peace = folder / "peace"
        running.run(*command, results=peace, code=1)
        deadline = time.monotonic() + 60 * arguments.minutes
        while not tally.rounds or time.monotonic() < deadline:
            results = folder / f"round-{tally.rounds}"
            if fate.random() < 0.5:  # else artefacts are made under fire as well
                shutil.copytree(peace / "artefacts", results / "artefacts")
            fight(command, results, arguments.launchers, min(deadline, time.monotonic() + ROUND), fate, tally)
            running.run(*command, results=results)
            running.run(*command, "--only-state", "failed", results=results)  # those that were hit three times in a row
            compare(results, peace, tally)
            tally.rounds += 1
            print(
                f"round {tally.rounds}: {sum(tally.blows.values())} blows so far, {len(tally.wrong)} wrong", flush=True
            )
            shutil.rmtree(results)
    print(tally.table(), *tally.wrong, sep="\n")
    return int(bool(tally.wrong))


def fight(
    command: Sequence[Any], results: Path, launchers: int, deadline: float, fate: random.Random, tally: Tally
) -> None:
    """Keep launchers at work, and hit them and their workers, until all is done or the time is up."""
    fighting: list[subprocess.Popen[str]] = []
    while time.monotonic() < deadline:
        for ended in [each for each in fighting if each.poll() is not None]:
            fighting.remove(ended)
            tally.ends[ended.returncode] += 1
            if ended.returncode in DONE:
                deadline = 0
            elif ended.returncode not in CUT_OFF:
                output = ended.stdout.read() if ended.stdout else ""
                tally.wrong.append(f"a launcher ended with {ended.returncode}: {output[-500:]}")
        while len(fighting) < launchers and deadline:
            fighting.append(running.start(*command, results=results))
        time.sleep(fate.uniform(*BREATH))
        hit(fighting, fate, tally)
        check_table(results, tally)
    for each in fighting:
        with suppress(psutil.Error):
            running.kill_tree(each.pid)
        each.communicate()


def hit(launchers: Sequence[subprocess.Popen[str]], fate: random.Random, tally: Tally) -> None:
    """One blow to a launcher, or more often to a worker."""
    with suppress(psutil.Error):  # it was quicker
        above = [psutil.Process(each.pid) for each in launchers if each.poll() is None]
        below = [child for each in above for child in each.children()]
        if not above:
            return
        kind, victims = ("worker", below) if below and fate.random() < 0.7 else ("launcher", above)
        victim, blow = fate.choice(victims), fate.choice(BLOWS)
        victim.send_signal(getattr(signal, blow))
        tally.blows[f"{blow} to a {kind}"] += 1
        if blow == "SIGSTOP":
            time.sleep(fate.uniform(0.5, 3.0))
            victim.send_signal(signal.SIGCONT)


def check_table(results: Path, tally: Tally) -> None:
    """At every moment the leaderboard is a whole table with a row a cell."""
    path = results / "leaderboard.csv"
    if path.exists():
        rows = running.table(path)
        names = [row["cell"] for row in rows]
        if len(set(names)) != len(names) or any(None in row or None in row.values() for row in rows):
            tally.wrong.append(f"a leaderboard with {len(names)} rows is not whole")


def compare(results: Path, peace: Path, tally: Tally) -> None:
    """Every cell is there once, with the numbers of the run in peace, and nothing of it runs any more."""
    expected = sorted(path.name for path in (peace / "cells").iterdir())
    found = sorted(path.name for path in (results / "cells").iterdir())
    listed = sorted(row["cell"] for row in running.table(results / "leaderboard.csv"))
    if not expected == found == listed:
        tally.wrong.append(f"{len(expected)} cells, of which {len(found)} have a folder and {len(listed)} a row")
    for name in found:
        cells = results / "cells" / name, peace / "cells" / name
        records = [json.loads((cell / "record.json").read_text()) for cell in cells]
        if running.outcome(records[0], cells[0]) != running.outcome(records[1], cells[1]):
            tally.wrong.append(f"{name} is {records[0]['state']} ({records[0]['reason']}), or has other numbers")
        for path in sorted(cells[0].glob("record.*.json")):  # earlier ones
            earlier = json.loads(path.read_text())
            tally.reasons[str(earlier["reason"])] += 1
            if earlier["state"] != "failed" or not str(earlier["reason"]).startswith("ended by signal"):
                tally.wrong.append(f"{name} was done twice: {earlier['state']} before ({earlier['reason']})")
        tally.starts += (cells[0] / "log.txt").read_text().count(" of this run\n")
    tally.cells += len(found)
    if survivors := [each.pid for each in psutil.process_iter() if _works_on(each, results)]:
        tally.wrong.append(f"processes {survivors} outlived their launcher")


def _works_on(process: psutil.Process, results: Path) -> bool:
    with suppress(psutil.Error):
        return str(results) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    return False


if __name__ == "__main__":
    sys.exit(main())
