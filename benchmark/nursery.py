"""Workers that need not import anything: forked from a server that has done so once for all of them.

Importing torch, Lightning and what hangs on them takes a slow core twelve seconds, which is a part of a short cell and all of a
tiny one. Python's own fork server does the work; it computes nothing, so that no thread and no device is there to be lost in a
fork. Whoever shares out GPUs spawns workers instead (`benchmark.local`): what was asked of a driver cannot be forked.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from benchmark.signals import STOP_SIGNALS, USER_SIGNALS
from benchmark.spawner import NotStarted, Process
from benchmark.workers import IO_ERROR

PRELOADED = ["benchmark.runner"]
LOST = 255  # what Python says of a process whose server is gone
LOST_TOUCH = (ConnectionError, EOFError)  # and what it raises in who asks that server for something
_forking = multiprocessing.get_context("forkserver")


class Nursery:
    """A server that imports in the background, and then forks a worker at once.

    Args:
        arguments: what stands behind ``python -m benchmark`` to run a cell.
        environment: of the server, and so of all workers. Numbers of threads belong here: they are read when torch is
            imported.
    """

    def __init__(self, arguments: Callable[[str], Sequence[str]], environment: Mapping[str, str]) -> None:
        self._arguments, self._environment = arguments, dict(environment)
        self._open()

    def _open(self) -> None:
        _forking.set_forkserver_preload(PRELOADED)
        with _set(self._environment), _held_back():
            forkserver.ensure_running()
        # The server answers its first caller when it has imported everything. A launcher must not wait that long.
        self._first = threading.Thread(target=_greet, daemon=True)
        self._first.start()

    def prepare(self) -> bool:
        """Whether `start` returns at once; where the server was killed, another one is opened first."""
        if self._first.is_alive():
            return False
        if _server_is_gone():
            self._open()
            return False
        return True

    def start(self, cell_id: str, environment: Mapping[str, str], log: Path) -> Process:
        """Fork a cell's worker.

        Raises:
            NotStarted: if the server was killed in this moment.
        """
        theirs, ours = _forking.Pipe(duplex=False)
        task = (list(self._arguments(cell_id)), dict(environment), str(log), theirs)
        process = _forking.Process(target=_work, args=task)
        try:
            process.start()
        except LOST_TOUCH as error:
            ours.close()
            raise NotStarted from error
        finally:
            theirs.close()
        return Forked(process, ours)


class Forked:
    """A forked worker, as the launcher handles it."""

    def __init__(self, process: multiprocessing.process.BaseProcess, pipe: Connection) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self._process, self._pipe = process, pipe

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs. Without the server it must end too: as if killed."""
        code = self._process.exitcode
        return -signal.SIGKILL if code == LOST else code

    def let_go(self) -> None:
        """Close the pipe whose end tells the worker that its launcher is gone."""
        self._pipe.close()


def _work(arguments: list[str], environment: dict[str, str], log: str, launcher: Connection) -> None:
    """In the forked process: what a process of that command line would have found, and the command."""
    os.setsid()
    os.dup2(launcher.fileno(), 0)
    try:
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError:  # since the launcher wrote to it, the disk has become full or read-only
        sys.exit(IO_ERROR)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, *USER_SIGNALS))
    from benchmark.cli import main

    sys.exit(main(arguments))


def _greet() -> None:
    """Have the server fork once, into nothing; who is killed meanwhile is missed by `Nursery.prepare`."""
    with suppress(*LOST_TOUCH):
        _forking.Process(target=_nothing).start()


def _nothing() -> None:
    pass


def _server_is_gone() -> bool:
    """Whether the fork server has ended. Python would open the next one by itself, but not as `Nursery._open` does."""
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    try:
        return pid is None or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def _held_back() -> Iterator[None]:
    """What is started within never gets a signal that asks it to stop: the server ends when its launcher does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, *USER_SIGNALS))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _set(environment: Mapping[str, str]) -> Iterator[None]:
    """These variables for what is started within."""
    before = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
