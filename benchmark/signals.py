"""Signals that ask a process to stop: heard instead of died of, and their handlers given back afterwards."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # what schedulers send before they kill
USER_SIGNALS = (signal.SIGINT, signal.SIGHUP)  # what a terminal sends, when it is told to or closed
CAUSES: dict[int, str] = {
    signal.SIGKILL: "out of memory",
    signal.SIGBUS: "a full disk",  # where files are written through memory, as drawn images are
}


def likely_cause(number: int) -> str:
    """What most often stands behind an end by a signal that nobody sent on purpose; goes behind the signal's number."""
    return f", probably {CAUSES[number]}" if number in CAUSES else ""


@contextmanager
def handlers_restored(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Give handlers back after the block, whatever it puts in their place."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def heard(numbers: Iterable[signal.Signals], hear: Callable[[], None]) -> Iterator[None]:
    """Call ``hear`` at each signal instead of dying of it; `nohup` has some ignored, and so they stay.

    Outside the main thread, where no handlers may be set, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        hear()

    minded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    with handlers_restored(minded):
        for number in minded:
            signal.signal(number, handle)
        yield


@contextmanager
def leaving(number: signal.Signals, code: int) -> Iterator[None]:
    """While something is held: a signal that has a handler ends the block by SystemExit, so that it is given back."""
    if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(number)):
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(code)

    with handlers_restored([number]):
        signal.signal(number, leave)
        yield
