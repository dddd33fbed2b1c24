"""Rates by the clock: windows with one wait for the device at each end and none inside."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from benchmark.fit import LAST, save_checkpoint
from probes.callbacks import LevelProbe

WINDOWS = 5  # of which the median is taken; fewer where one takes long
LONGEST = 20  # windows' length after which no further one begins
EVALUATIONS = 4  # after the first steps; the first one is a warm-up
WARM_UP = 10  # steps before the first window


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rates(work: Callable[[], object], amount: float, device: torch.device, seconds: float) -> list[float]:
    """How much is done a second, window by window, where one call of ``work`` does ``amount``.

    A window repeats the work until it has lasted ``seconds``. One call goes before them, to warm up.
    """
    work()
    found: list[float] = []
    begun = now(device)
    while len(found) < WINDOWS and (not found or time.perf_counter() - begun < LONGEST * seconds):
        start, calls = now(device), 0
        while not calls or time.perf_counter() - start < seconds:
            work()
            calls += 1
        found.append(calls * amount / (now(device) - start))
    return found


def spread(found: Sequence[float]) -> float:
    """Range of some windows' rates over their median."""
    return (max(found) - min(found)) / median(found)


class Clock(Callback):
    """Times the first step, the evaluations of the curve, windows of steps and a checkpoint; then it ends training."""

    def __init__(self, probe: LevelProbe, device: torch.device, seconds: float) -> None:
        self.probe, self.device, self.seconds = probe, device, seconds
        self.windows: list[float] = []  # steps a second
        self._spent: list[float] = []  # seconds of evaluation before each of the first steps ended

    @property
    def first_evaluation(self) -> float:
        """Seconds of the first evaluation, which compiles what the others run."""
        return self._spent[1] - self._spent[0]

    @property
    def evaluation(self) -> float:
        """Seconds of one evaluation."""
        return median(after - before for before, after in zip(self._spent[1:], self._spent[2:], strict=False))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started_at = time.time()
        self._mark = now(self.device)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        step = trainer.global_step
        if step == 1:
            self.first_step = now(self.device) - self._mark
        if step <= EVALUATIONS + 1:  # the probe comes after the clock: this holds the evaluations of earlier steps
            self._spent.append(self.probe.spent)
        if step == WARM_UP:
            self._first, self._mark = step, now(self.device)
        if step <= WARM_UP or time.perf_counter() - self._mark < self.seconds:
            return
        end = now(self.device)
        self.windows.append((step - self._first) / (end - self._mark))
        self._first, self._mark = step, end
        if len(self.windows) == WINDOWS:
            save_checkpoint(trainer, Path(trainer.default_root_dir) / LAST)
            self.checkpoint = now(self.device) - end
            trainer.should_stop = True
