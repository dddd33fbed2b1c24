"""Who works in a results folder, and one blow to one of them."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from tests.soak.tally import Tally

SIGNALS = ("SIGKILL", "SIGTERM", "SIGUSR1", "SIGSTOP")  # the last is followed by SIGCONT
WAIT = 5.0  # seconds for somebody to hit: between two tasks of a queue there may be nobody


def launchers(results: Path) -> list[psutil.Process]:
    """Every ``python -m benchmark`` on a results folder that no other one has started."""
    found = {each.pid: each for each in psutil.process_iter() if _is_ours(each, results)}
    return [each for each in found.values() if not found.keys() & _above(each)]


def workers(results: Path) -> list[psutil.Process]:
    """Everything that launchers have started: workers, and what stands between them."""
    return [below for each in launchers(results) for below in _below(each)]


def hit(results: Path, fate: random.Random, tally: Tally, top: str) -> None:
    """One blow to a worker, or now and then to a launcher, which is called `top`."""
    deadline = time.monotonic() + WAIT
    while not (above := launchers(results)):
        if time.monotonic() > deadline:
            return
        time.sleep(0.2)
    below, cells = workers(results), dict(_holders(results))
    busy = [each for each in below if each.pid in cells]
    victims = next(filter(None, (busy, below, above) if fate.random() < 0.6 else (fate.choice((below, above)), above)))
    victim, blow = fate.choice(victims), fate.choice(SIGNALS)
    cell = cells.get(victim.pid)
    kind = top if victims is above else "a worker" if cell else "a worker that has no cell yet"
    with suppress(psutil.Error):  # it was quicker
        victim.send_signal(getattr(signal, blow))
        tally.blows[f"{blow} to {kind}"] += 1
        if cell:
            tally.hits[cell] += 1
            tally.resumable += (results / "cells" / cell / "checkpoints" / "last.ckpt").exists()
        if blow == "SIGSTOP":
            time.sleep(fate.uniform(0.5, 3.0))
            victim.send_signal(signal.SIGCONT)


def survivors(results: Path, patience: float = 15.0) -> list[str]:
    """What still works in a results folder although nothing should, after so many seconds."""
    deadline = time.monotonic() + patience
    while left := [each for each in psutil.process_iter() if _is_ours(each, results) or _has_open(each, results)]:
        if time.monotonic() > deadline:
            return [f"{each.pid} {' '.join(each.cmdline()[:6])}" for each in left]
        time.sleep(0.5)
    return []


def _is_ours(process: psutil.Process, results: Path) -> bool:
    with suppress(psutil.Error):
        line = process.cmdline()
        return "python" in Path(line[0] if line else "").name and "benchmark" in line and str(results) in line
    return False


def _has_open(process: psutil.Process, results: Path) -> bool:
    with suppress(psutil.Error):
        return any(Path(file.path).is_relative_to(results) for file in process.open_files())
    return False


def _above(process: psutil.Process) -> set[int]:
    with suppress(psutil.Error):
        return {each.pid for each in process.parents()}
    return set()


def _below(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _holders(results: Path) -> Iterator[tuple[int, str]]:
    """Process and cell of every lease on a cell, from the notes beside them."""
    for note in (results / "leases").glob("cell-*.json"):
        with suppress(OSError, ValueError):
            yield json.loads(note.read_text())["pid"], note.stem.removeprefix("cell-")
