"""What was done to the runs of one way, and what they made of it; and the table of it for docs/reliability.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts of one way."""

    way: str
    cells: int = 0  # that ended with a result
    minutes: float = 0.0  # under fire and until all was done
    full: int = 0  # times that the disk was full for some seconds
    read_only: int = 0  # times that it was read-only
    no_disk: str = ""  # why the disk was left alone
    starts: int = 0  # of workers
    compared: int = 0  # cells whose numbers stand beside those of another run
    blows: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)  # cell -> blows to its worker
    resumable: int = 0  # blows to workers whose cell had a checkpoint
    ends: Counter[str] = field(default_factory=Counter)  # exit codes of commands, and what they said
    reasons: Counter[str] = field(default_factory=Counter)  # of cells that were given up, and done again
    wrong: list[str] = field(default_factory=list)

    def rows(self) -> dict[str, str]:
        """What the table says, in its order."""
        blows = ", ".join(f"{count} {name}" for name, count in sorted(self.blows.items())) or "none"
        return {
            "cells": str(self.cells),
            "minutes": f"{self.minutes:.0f}",
            "blows": f"{blows}; {self.resumable} of them where there was a checkpoint",
            "full disk": self.no_disk or f"{self.full} times",
            "read-only": self.no_disk or f"{self.read_only} times",
            "commands ended": ", ".join(f"{count} with {end}" for end, count in sorted(self.ends.items())),
            "starts of workers": str(self.starts),
            "given up, and done again": ", ".join(f"{n} {why}" for why, n in sorted(self.reasons.items())) or "none",
            "compared with another run": str(self.compared),
            "lost, double, damaged or different": str(len(self.wrong)),
        }


def table(tallies: Sequence[Tally]) -> str:
    """A column a way, in Markdown."""
    columns = [tally.rows() for tally in tallies]
    head = ["", *(tally.way for tally in tallies)]
    lines = [head, ["---"] * len(head), *([key, *(column[key] for column in columns)] for key in columns[0])]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)
