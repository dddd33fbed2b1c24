"""How far a grid is: a table that redraws itself on a terminal, lines now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.leases import duration
from benchmark.store import Store

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


@dataclass
class Row:
    """What is shown of one running cell."""

    cell_id: str
    phase: str
    step: str  # "1200/3000", or empty
    rate: str  # "21.3/s", or empty
    left: str  # "1.4 min left", or empty

    def __str__(self) -> str:
        return "  ".join(part for part in (self.cell_id, self.phase, self.step, self.rate, self.left) if part)


class Clock:
    """Time left, from estimates a cell (minutes) that are corrected by what finished cells really took."""

    def __init__(self, cell_ids: Sequence[str], estimates: Mapping[str, float] | None = None) -> None:
        self._estimates = {cell_id: (estimates or {}).get(cell_id) for cell_id in cell_ids}
        self._took: dict[str, float] = {}

    def took(self, cell_id: str, minutes: float) -> None:
        """Take note of a cell that has run to its end here."""
        self._took[cell_id] = minutes

    def minutes(self, cell_id: str) -> float | None:
        """Minutes that a cell takes as a whole; None while nothing is known."""
        estimate = self._estimates.get(cell_id)
        known = {each: self._estimates.get(each) for each in self._took}
        expected = sum(minutes for minutes in known.values() if minutes)
        if estimate and expected:
            return estimate * sum(self._took[each] for each, minutes in known.items() if minutes) / expected
        if estimate:
            return estimate
        return sum(self._took.values()) / len(self._took) if self._took else None

    def minutes_left(self, cell_id: str, elapsed: float, progress: Mapping[str, Any]) -> float | None:
        """Minutes until a running cell ends: its estimate less what has passed, and no less than its steps need."""
        whole, measured = self.minutes(cell_id), _measured_minutes(progress)
        if whole is None:
            return measured
        return max(whole - elapsed, measured or 0.0)

    def grid_minutes_left(self, waiting: Collection[str], running: Sequence[float | None], jobs: int) -> float | None:
        """Minutes until the last cell ends, `jobs` at a time; None while some cell's time is unknown."""
        parts = [*running, *(self.minutes(cell_id) for cell_id in waiting)]
        known = [minutes for minutes in parts if minutes is not None]
        if len(known) < len(parts):
            return None
        return max([sum(known) / max(jobs, 1), *known], default=0.0)


class GridProgress:
    """Shows a grid while it runs. Use as a context; call `tick` often, and the others when something happens."""

    def __init__(
        self,
        store: Store,
        cell_ids: Sequence[str],
        estimates: Mapping[str, float] | None = None,
        jobs: int = 1,
        interval: float = 15.0,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`interval` is the seconds between reports where there is no terminal; `say` replaces the terminal."""
        self._store = store
        self._jobs = jobs
        self._interval = interval
        self._clock = Clock(cell_ids, estimates)
        self._waiting = list(cell_ids)
        self._running: dict[str, float] = {}  # cell -> when its worker began, seconds since the epoch
        self._ended: dict[str, str] = {}
        self._reported = time.monotonic()
        self._say = say
        self._live: Live | None = None

    def __enter__(self) -> GridProgress:
        if self._say is None and sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(self._table(), refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()

    def line(self, text: str) -> None:
        """Say something in a line, above the table if there is one."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        elif self._say is not None:
            self._say(text)
        else:
            print(text, flush=True)

    def started(self, cell_id: str, attempt: int = 1) -> None:
        """A worker for the cell has begun."""
        if cell_id in self._waiting:
            self._waiting.remove(cell_id)
        self._running[cell_id] = time.time()
        self.line(f"{cell_id}: started" + (f" again (attempt {attempt})" if attempt > 1 else ""))

    def put_back(self, cell_id: str, why: str) -> None:
        """The cell has no worker any more, but will have one again."""
        self._running.pop(cell_id, None)
        if cell_id not in self._waiting:
            self._waiting.append(cell_id)
        self.line(f"{cell_id}: {why}")

    def ended(self, cell_id: str, state: str, reason: str = "") -> None:
        """The cell is finished, or left for another run."""
        began = self._running.pop(cell_id, None)
        if cell_id in self._waiting:
            self._waiting.remove(cell_id)
        self._ended[cell_id] = state
        took = ""
        if began is not None:
            seconds = time.time() - began
            took = f" after {duration(seconds)}"
            if state == "ok":
                self._clock.took(cell_id, seconds / 60)
        self.line(f"{cell_id}: {state}{took}" + (f": {reason}" if reason else ""))

    def tick(self) -> None:
        """Redraw the table, or print the lines when they are due."""
        if self._live is not None:
            self._live.update(self._table())
        elif time.monotonic() - self._reported >= self._interval:
            self._reported = time.monotonic()
            for row in self._rows()[0]:
                self.line(f"  {row}")
            self.line(self.headline())

    def headline(self) -> str:
        """The grid in a line: done, failed, running, left, and the time left if it is known."""
        done = sum(state == "ok" for state in self._ended.values())
        other = len(self._ended) - done
        total = len(self._ended) + len(self._running) + len(self._waiting)
        parts = [f"{done}/{total} done", f"{len(self._running)} running", f"{len(self._waiting)} left"]
        if other:
            parts.insert(1, f"{other} not ok")
        minutes = self._clock.grid_minutes_left(self._waiting, self._rows()[1], self._jobs)
        if minutes is not None and (self._running or self._waiting):
            parts.append(f"about {duration(60 * minutes)} left")
        return ", ".join(parts)

    def _rows(self) -> tuple[list[Row], list[float | None]]:
        """A row for each running cell, and its minutes left."""
        rows: list[Row] = []
        minutes: list[float | None] = []
        for cell_id, began in self._running.items():
            progress = self._store.read_progress(cell_id)
            if progress.get("time", 0.0) < began:
                progress = {}  # of an earlier worker
            left = self._clock.minutes_left(cell_id, (time.time() - began) / 60, progress)
            rows.append(_row(cell_id, progress, left))
            minutes.append(left)
        return rows, minutes

    def _table(self) -> Table:
        from rich.table import Table

        table = Table(title=self.headline(), title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in ("cell", "phase", "step", "rate", ""):
            table.add_column(name)
        for row in self._rows()[0]:
            table.add_row(row.cell_id, row.phase, row.step, row.rate, row.left)
        return table


def _row(cell_id: str, progress: Mapping[str, Any], minutes_left: float | None) -> Row:
    step, steps, rate = progress.get("step"), progress.get("max_steps"), progress.get("rate")
    share = f"{progress['share']:.0%}" if "share" in progress else ""
    return Row(
        cell_id,
        phase=str(progress.get("phase", "starting")),
        step=f"{step}/{steps}" if step is not None and steps else share,
        rate=f"{rate:.1f}/s" if rate else "",
        left=f"{duration(60 * minutes_left)} left" if minutes_left is not None else "",
    )


def _measured_minutes(progress: Mapping[str, Any]) -> float | None:
    """Minutes that the steps of the present phase still need at the measured rate."""
    step, steps, rate = progress.get("step"), progress.get("max_steps"), progress.get("rate")
    if step is None or not steps or not rate:
        return None
    return max(float(steps) - float(step), 0.0) / float(rate) / 60
