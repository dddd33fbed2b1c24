"""The launcher: a process a cell, side by side on this machine, so that what goes wrong in one cell reaches no other.

It holds no state that matters. What is finished stands in records, what is being done in leases; so any number of
launchers may work on one grid, and any of them may be killed. `benchmark.workers` has the worker's side of the bargain.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from benchmark.nursery import Nursery
from benchmark.progress import GridProgress
from benchmark.signals import STOP_SIGNALS, USER_SIGNALS, heard, likely_cause
from benchmark.spawner import NotStarted, Process, Spawner, Starter
from benchmark.store import Record, Store
from benchmark.workers import CUT_OFF, ENDED_BEFORE, IO_ERROR, NOT_OK, OK, arguments_of, environments, state_and_reason

GRACE_SECONDS = 20.0  # that workers have to save in
BENCHMARK = (sys.executable, "-m", "benchmark")
MAX_STRIKES = 3  # ends by a signal in a row without a new checkpoint


def run_cells(
    cell_ids: Sequence[str],
    store: Store,
    jobs: int | str = "auto",
    threads: int = 1,
    *,
    gpus: Sequence[str] = (),
    extra_args: Sequence[str] = (),
    failed_record: Callable[[str, str], Record],
    ended_before: Mapping[str, int] | None = None,
    estimates: Mapping[str, float] | None = None,
    command: Callable[[str], Sequence[str]] | None = None,
    forks: bool = False,
    interval: float = 15.0,
    grace: float = GRACE_SECONDS,
    say: Callable[[str], None] | None = None,
) -> int:
    """Run cells until each has ended, here or in somebody else's hands, and say whether all are ok.

    Args:
        cell_ids: the cells to run, in order; their ``config.yaml`` must be there.
        jobs: workers side by side; ``auto`` is a cell a GPU, or cores // threads on a CPU.
        threads: of each worker.
        gpus: the devices to share out, as `workers.gpu_names` names them; empty on a CPU.
        extra_args: for each worker, after ``run --cell ID --results DIR``.
        failed_record: makes the record of a cell whose worker could not write one, from its id and the reason.
        ended_before: `Store.record_count` of each cell at the time it was chosen; by default, now.
        estimates: minutes a cell, for the time left.
        command: the command line of a cell's worker, instead of ``python -m benchmark run --cell ID``.
        forks: fork workers from one process that has imported all they need (`benchmark.nursery`); on a CPU only.
        interval: seconds between reports where there is no terminal.
        grace: seconds that workers have to save and end when this process is told to stop.
        say: takes the lines of the report instead of the terminal.

    Returns:
        0 if all ended ok, 75 if any was cut off, else 1.
    """
    slots = environments(jobs, threads, gpus)

    def arguments(cell_id: str) -> list[str]:
        return arguments_of(store, cell_id, extra_args)

    launcher = _Launcher(
        store,
        Nursery(arguments, slots[0])
        if forks
        else Spawner(command or (lambda cell_id: [*BENCHMARK, *arguments(cell_id)])),
        {cell_id: store.record_count(cell_id) for cell_id in cell_ids} | dict(ended_before or {}),
        failed_record,
        slots,
        GridProgress(store, cell_ids, estimates, len(slots), interval, say),
    )
    return launcher.run(cell_ids, grace)


@dataclass
class _Worker:
    cell_id: str
    process: Process
    environment: dict[str, str]  # the slot it takes
    log_start: int  # where its part of the log begins, in bytes


@dataclass
class _Past:
    """What has happened to a cell in this run."""

    starts: int = 0
    strikes: int = 0  # ends by a signal since the last sign of progress
    refusals: int = 0  # ends with 75 before any work, in a row
    mark: Any = None  # what a restart would go on from, at the last end by a signal


class _Launcher:
    def __init__(
        self,
        store: Store,
        starter: Starter,
        ended_before: dict[str, int],
        failed_record: Callable[[str, str], Record],
        slots: list[dict[str, str]],
        progress: GridProgress,
    ) -> None:
        self._queue: list[str] = []
        self._store = store
        self._starter = starter
        self._ended_before = ended_before
        self._failed_record = failed_record
        self._free = slots
        self._progress = progress
        self._workers: list[_Worker] = []
        self._past = {cell_id: _Past() for cell_id in ended_before}
        self._exit_codes: dict[str, int] = {}
        self._held: set[str] = set()  # cells of which it was said that somebody else holds them
        self._stops = 0  # signals received

    def run(self, cell_ids: Sequence[str], grace: float) -> int:
        self._queue = list(cell_ids)
        with heard((*USER_SIGNALS, *STOP_SIGNALS), self._count_stop), self._progress:
            try:
                while (self._queue or self._workers) and not self._stops:
                    self._reap()
                    self._fill()
                    self._progress.tick()
                    time.sleep(0.1 if self._workers or not self._queue else 1.0)
            finally:
                self._stop(grace)
            self._progress.line(self._progress.headline())
        for cell_id in self._queue:
            self._exit_codes[cell_id] = CUT_OFF
        codes = set(self._exit_codes.values())
        return CUT_OFF if CUT_OFF in codes else NOT_OK if NOT_OK in codes else OK

    def _fill(self) -> None:
        """Put cells that are free on free slots; drop those that somebody else has ended."""
        for cell_id in list(self._queue):
            if not self._free or not self._starter.prepare():
                return
            holder = self._store.cell_holder(cell_id)  # before the record: who ends a cell writes it, then lets go
            if self._has_ended(cell_id):
                self._queue.remove(cell_id)
                self._finish(cell_id)
            elif holder is not None:
                if cell_id not in self._held:
                    self._held.add(cell_id)
                    self._progress.line(f"{cell_id}: {holder} works on it")
            else:
                self._queue.remove(cell_id)
                self._start(cell_id, self._free.pop(0))

    def _start(self, cell_id: str, environment: dict[str, str]) -> None:
        self._held.discard(cell_id)
        past = self._past[cell_id]
        log = self._store.cell(cell_id).log
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            output.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}, start {past.starts + 1} of this run\n".encode())
        log_start = log.stat().st_size
        theirs = environment | {ENDED_BEFORE: str(self._ended_before[cell_id])}
        try:
            process = self._starter.start(cell_id, theirs, log)
        except NotStarted:
            self._free.append(environment)
            self._queue.append(cell_id)
            return
        past.starts += 1
        self._workers.append(_Worker(cell_id, process, environment, log_start))
        self._progress.started(cell_id, past.starts)

    def _reap(self) -> None:
        for worker in list(self._workers):
            code = worker.process.poll()
            if code is None:
                continue
            self._workers.remove(worker)
            self._free.append(worker.environment)
            _kill_group(worker)  # its children, if it left any
            worker.process.let_go()
            self._settle(worker, code)

    def _settle(self, worker: _Worker, code: int) -> None:
        """Decide what the end of a worker means for its cell."""
        cell_id, past = worker.cell_id, self._past[worker.cell_id]
        if self._has_ended(cell_id):
            self._finish(cell_id)
        elif code == CUT_OFF:
            self._settle_cut_off(worker)
        elif code == IO_ERROR:
            self._fail(cell_id, "the worker found no space left, or a read-only file system")
        elif code >= 0:
            self._fail(cell_id, f"the worker ended with exit code {code} and no record: {self._last_line(worker)}")
        else:
            mark = self._mark(cell_id)
            past.strikes = past.strikes + 1 if mark == past.mark else 1
            past.mark = mark
            if past.strikes >= MAX_STRIKES:
                self._fail(cell_id, _signal_reason(-code, past.strikes))
            else:
                self._requeue(cell_id, f"the worker was ended by signal {-code}; it goes on from its last checkpoint")

    def _settle_cut_off(self, worker: _Worker) -> None:
        """Leave a cell whose worker was told to stop; try again where it found the lease taken, or lost it."""
        cell_id, past = worker.cell_id, self._past[worker.cell_id]
        worked = self._store.read_progress(cell_id).get("pid") == worker.process.pid
        held = self._store.cell_holder(cell_id) is not None
        past.refusals = 0 if held else past.refusals + 1
        if held or (not worked and past.refusals < MAX_STRIKES):
            self._requeue(cell_id, "somebody else was quicker")
        else:
            self._leave(cell_id)

    def _requeue(self, cell_id: str, why: str) -> None:
        self._queue.append(cell_id)
        self._progress.put_back(cell_id, why)

    def _fail(self, cell_id: str, reason: str) -> None:
        """Write the record that the worker could not write."""
        lease = self._store.cell_lease(cell_id)
        if lease is None:
            self._requeue(cell_id, "somebody else has taken over")
            return
        with lease:
            self._store.write_record(cell_id, self._failed_record(cell_id, reason))
        self._finish(cell_id)

    def _finish(self, cell_id: str) -> None:
        """Take note of the record that a cell has got."""
        state, reason = state_and_reason(self._store, cell_id)
        self._exit_codes[cell_id] = OK if state == "ok" else NOT_OK
        self._progress.ended(cell_id, state, reason)

    def _leave(self, cell_id: str) -> None:
        self._exit_codes[cell_id] = CUT_OFF
        self._progress.ended(cell_id, "preempted", "left for the next run")

    def _has_ended(self, cell_id: str) -> bool:
        return self._store.record_count(cell_id) > self._ended_before[cell_id]

    def _mark(self, cell_id: str) -> tuple[Any, ...]:
        """What a restart would go on from; equal marks at two ends mean no progress in between."""
        progress = self._store.read_progress(cell_id)
        checkpoint = self._store.cell(cell_id).last_checkpoint
        written = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        return progress.get("phase"), progress.get("saved"), written

    def _last_line(self, worker: _Worker) -> str:
        """The last line that a worker wrote: of a Python error, the error."""
        with open(self._store.cell(worker.cell_id).log, "rb") as log:
            log.seek(worker.log_start)
            lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing to its log")[:500]

    def _count_stop(self) -> None:
        self._stops += 1

    def _stop(self, grace: float) -> None:
        """Have the workers save and end; kill those that take too long, or all when asked a second time."""
        if not self._workers:
            return
        self._progress.line(f"stopping: {len(self._workers)} workers save where they are; interrupt again to kill them")
        for worker in self._workers:
            with suppress(ProcessLookupError):  # the worker alone: killing its compiler would make a failure of it
                os.kill(worker.process.pid, signal.SIGTERM)
        asked, deadline = self._stops, time.monotonic() + grace
        while self._workers:
            if time.monotonic() > deadline or self._stops > asked:
                for worker in self._workers:
                    _kill_group(worker)
            self._reap_stopped()
            time.sleep(0.05)

    def _reap_stopped(self) -> None:
        """Let go of the workers that have ended; cells without a record are cut off, however their worker ended."""
        for worker in [each for each in self._workers if each.process.poll() is not None]:
            self._workers.remove(worker)
            _kill_group(worker)
            if self._has_ended(worker.cell_id):
                self._finish(worker.cell_id)
            else:
                self._leave(worker.cell_id)


def _kill_group(worker: _Worker) -> None:
    """Kill a worker and all it has started; each worker leads a process group of its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.process.pid, signal.SIGKILL)


def _signal_reason(number: int, times: int) -> str:
    return f"ended by signal {number}{likely_cause(number)}; {times} times in a row without a new checkpoint"
