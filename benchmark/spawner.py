"""How a launcher starts its workers: here each as a command of its own; `benchmark.nursery` is the other way."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol


class NotStarted(RuntimeError):
    """Nothing could be started in this moment; try again when the starter is ready."""


class Process(Protocol):
    """A worker that has been started; it leads a session and a process group of its own."""

    @property
    def pid(self) -> int:
        """Its number, which is also its group's."""
        ...

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        ...

    def let_go(self) -> None:
        """Close the pipe whose end tells the worker that its launcher is gone."""
        ...


class Starter(Protocol):
    """Starts the workers of cells."""

    def prepare(self) -> bool:
        """Get ready without waiting for it. Whether `start` returns at once."""
        ...

    def start(self, cell_id: str, environment: Mapping[str, str], log: Path) -> Process:
        """Start a cell's worker, which finds ``environment`` besides ours and writes to the end of ``log``.

        Raises:
            NotStarted: if it could not; nothing has begun.
        """
        ...


class Spawner:
    """Starts each worker as a new command.

    Args:
        command: the command line of a cell's worker.
    """

    def __init__(self, command: Callable[[str], Sequence[str]]) -> None:
        self._command = command

    def prepare(self) -> bool:
        """A new command needs nothing that could be prepared."""
        return True

    def start(self, cell_id: str, environment: Mapping[str, str], log: Path) -> Process:
        with open(log, "ab") as output:
            return Spawned(
                self._command(cell_id),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
            )


class Spawned(subprocess.Popen[bytes]):
    """A worker that is a command of its own."""

    def let_go(self) -> None:
        if self.stdin is not None:
            self.stdin.close()
