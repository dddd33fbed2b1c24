"""The state of a cell, read from what its folder and its lease say, and which states `run` works on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from benchmark.store import Record, Store

MISSING, RUNNING, PREEMPTED, FAILED, OK, STALE, SUSPICIOUS = STATES = (
    "missing",  # nothing to go on from
    "running",  # somebody alive holds the lease
    "preempted",  # has a checkpoint, but neither a record nor anybody who works on it
    "failed",  # ended without a result; the record says why
    "ok",
    "stale",  # has a result, of other sources than today's
    "suspicious",  # has a result that a check found odd; the record says why
)
BEGUN = (MISSING, PREEMPTED, RUNNING)  # states of a cell that somebody has asked for and that has not ended
MAX_FAILURES = 3  # in a row without progress, after which `run` leaves a failed cell alone


@dataclass(frozen=True)
class State:
    """One of `STATES`, with the reason in a line where there is one."""

    name: str
    reason: str = ""
    failures: int = 0  # in a row without progress

    @property
    def given_up(self) -> bool:
        return self.name == FAILED and self.failures >= MAX_FAILURES


def state_of(store: Store, cell_id: str, fingerprint: str | None = None) -> State:
    """The state of a cell whose sources have `fingerprint` today (None: do not look for stale ones)."""
    holder = store.cell_holder(cell_id)
    if holder is not None:
        return State(RUNNING, str(holder))
    try:
        record = store.read_record(cell_id)
    except ValueError as error:
        return State(_without_record(store, cell_id), str(error))
    if record is None:
        return State(_without_record(store, cell_id))
    reason = str(record.get("reason") or "")
    if record.get("state") == FAILED:
        return State(FAILED, reason, failures_without_progress(store.history(cell_id), fingerprint))
    if fingerprint is not None and record.get("fingerprint") != fingerprint:
        return State(STALE, "the sources it was made with have changed since")
    return State(str(record.get("state", OK)), reason)


def failures_without_progress(history: list[Record], fingerprint: str | None = None) -> int:
    """Failures in a row, newest last, that did not get further (in `steps`) than one before.

    A failure of other sources than today's does not count: what failed may have been mended since.
    """
    count, farthest = 0, -1
    for record in history:
        steps = int(record.get("steps") or 0)
        other_sources = fingerprint is not None and record.get("fingerprint") not in (None, fingerprint)
        if record.get("state") != FAILED or other_sources:
            count, farthest = 0, -1
        elif steps > farthest:
            count, farthest = 1, steps
        else:
            count += 1
    return count


def to_run(states: Mapping[str, State], only: Collection[str] = ()) -> list[str]:
    """The cells that `run` works on, in order: those of the states in `only`, else all that are not finished.

    Running ones are among them: `run` waits for whoever works on them, and takes over if they end unfinished.
    """
    if only:
        return [cell_id for cell_id, state in states.items() if state.name in only]
    unfinished = (MISSING, PREEMPTED, RUNNING, FAILED)
    return [cell_id for cell_id, state in states.items() if state.name in unfinished and not state.given_up]


def summary(states: Mapping[str, State], selected: Collection[str]) -> str:
    """One line: how many cells of which state are run, and how many are left alone."""
    run = _counted(states[cell_id].name for cell_id in states if cell_id in selected)
    rest = _counted(
        f"failed {MAX_FAILURES} times (--only-state failed tries again)" if state.given_up else state.name
        for cell_id, state in states.items()
        if cell_id not in selected
    )
    return f"to run: {run or 'nothing'}" + (f"; left alone: {rest}" if rest else "")


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(names).items())


def _without_record(store: Store, cell_id: str) -> str:
    return PREEMPTED if os.path.exists(store.cell(cell_id).last_checkpoint) else MISSING
