"""The two ways to run many cells: a launcher with ``--jobs 2`` on this machine, and SLURM's queue."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from tests.soak.commands import Commands
from tests.soak.tally import Tally
from tests.suite.cluster import cluster

SITE = ("slurm.gpus=0", "slurm.cpus_per_task=1", "slurm.mem=3G", "slurm.time=00:30:00")
FAILED = ("--only-state", "failed")
SUBMIT_EVERY = 30.0  # seconds; what is queued or done is not submitted again
PATIENCE = 5  # times that what has failed is done again in peace; once should do


class Jobs:
    """``run --jobs 2``, and now and then a second launcher beside it."""

    name, top = "jobs", "a launcher"

    def __init__(self, commands: Commands, selection: Sequence[str], fate: random.Random) -> None:
        self.commands, self.command, self.fate = commands, ("run", *selection, "--jobs", "2"), fate
        self.events: Mapping[str, Callable[[], None]] = {}

    def keep_going(self) -> None:
        """Start what has ended again."""
        if not self.commands.alive() or (self.commands.alive() == 1 and self.fate.random() < 0.1):
            self.commands.start(*self.command)

    def finish(self) -> None:
        """After a last blow to everything at once: to the end in peace, and what has failed once more."""
        self.commands.kill()
        self.commands.tally.blows["end of everything at once"] += 1
        self.commands.run(*self.command)
        for _ in range(PATIENCE):
            if unfinished(self.commands.results):
                self.commands.run(*self.command, *FAILED)


class Queue:
    """``run --slurm``, again and again."""

    name, top = "slurm", "a task's launcher"

    def __init__(self, commands: Commands, selection: Sequence[str], fate: random.Random) -> None:
        self.commands, self.command, self.fate = commands, ("run", "--slurm", *selection, *SITE), fate
        self.events = {"requeue": self._requeue}
        self._submitted = float("-inf")
        self._held: set[str] = set()  # tasks that waited for their time at the last look

    def keep_going(self) -> None:
        """Submit when nothing is left in the queue, or from time to time; the submitting command is killed now and then."""
        waiting = self._release()
        if waiting and time.monotonic() - self._submitted < SUBMIT_EVERY:
            return
        process = self.commands.start(*self.command)
        if self.fate.random() < 0.25:
            time.sleep(self.fate.uniform(0.5, 4.0))
            self.commands.tally.blows["SIGKILL to who submits"] += process.poll() is None
            self.commands.kill()
        process.wait()
        self.commands.alive()
        self._submitted = time.monotonic()

    def finish(self) -> None:
        """Wait for the queue, submit what is missing, wait again; in the end what has failed."""
        for attempt in range(1 + PATIENCE):
            while self._release():
                time.sleep(1)
            if attempt and not unfinished(self.commands.results):
                return
            self.commands.run(*self.command, *(FAILED if attempt > 1 else ()))

    def _requeue(self) -> None:
        tasks = [task for task, state, _ in self._tasks() if state == "RUNNING"]
        if tasks:
            _scontrol("requeue", self.fate.choice(tasks))
            self.commands.tally.blows["scontrol requeue"] += 1

    def _release(self) -> int:
        """How many tasks are in the queue. A requeued one is held for two minutes, which are spared here.

        Started in the second in which it was requeued it would be refused, hence at the second look.
        """
        tasks = self._tasks()
        held = {task for task, state, why in tasks if state == "PENDING" and why in ("BeginTime", "None")}
        for task in held & self._held:
            _scontrol("update", f"jobid={task}", "StartTime=now")
        self._held = held - self._held
        for task, _, why in tasks:
            if "held" in why.lower():  # SLURM could not open the log: the disk was read-only
                _scontrol("release", task)
                self.commands.tally.ends["a task held by SLURM"] += 1
        return len(tasks)

    def _tasks(self) -> list[tuple[str, str, str]]:
        """Number, state and reason of every task in the queue."""
        command = ["squeue", "--array", "--noheader", "--format=%F_%K|%T|%r"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        tasks = [line.split("|", 2) for line in done.stdout.splitlines()]
        return [(number, state, why) for number, state, why in tasks]


@contextmanager
def way(
    name: str, selection: Sequence[str], results: Path, folder: Path, fate: random.Random, tally: Tally
) -> Iterator[Jobs | Queue]:
    """One of the two, with a cluster where it takes one."""
    commands = Commands(results, folder, tally)
    if name == "jobs":
        try:
            yield Jobs(commands, selection, fate)
        finally:
            commands.kill()
        return
    with cluster(folder / "cluster") as environment, mock.patch.dict("os.environ", environment):
        yield Queue(commands, selection, fate)


def unfinished(results: Path) -> list[str]:
    """Cells that have no record, or failed."""
    cells = [path for path in (results / "cells").iterdir() if path.is_dir()]
    return [cell.name for cell in cells if _state(cell / "record.json") in ("", "failed")]


def ended(results: Path) -> int:
    """How many cells have a record, whatever it says."""
    return len(list(results.glob("cells/*/record.json")))


def _state(record: Path) -> str:
    return json.loads(record.read_text())["state"] if record.exists() else ""


def _scontrol(*arguments: str) -> None:
    subprocess.run(["scontrol", *arguments], capture_output=True, check=False, timeout=60)  # it may have just ended
