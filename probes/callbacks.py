"""LevelProbe: the curve of accuracy per level while a model trains."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from datasets.factors import Composition, level, seed_for
from probes.evaluation import Evaluator, SampleImages, judge_prefix, scores


class LevelProbe(Callback):
    """Judges the averaged weights at chosen steps and appends a row to ``curve.csv``.

    The model's own monitors, its ``last_logs``, stand in columns ``log_NAME``: of the step's last batch, as the first
    process sees it. A row is a function of (weights, seed, step) but for ``seconds``, so that a resumed run writes the rows of an
    uninterrupted one, whether the checkpoint was written before or after the evaluation of the same step.

    Args:
        evaluator: judges and conditions.
        sample_images: makes images with the model in training, through its ``sample`` and the tokenizer.
        train: compositions that the model trains on; levels are counted from them.
        steps: optimiser steps after which to evaluate; 0 is left out.
        curve: path of the CSV file.
        seed: of the samples; the generator of a step is seeded ``seed_for(seed, "probe", step)``.
        levels: which levels to sample. The paper's two callbacks are ``levels=(1,)`` and ``levels=(2,)``.
        count: samples a composition; 64 as published (Farid et al. 2025).
        val_loss: called with the averaged weights in place; not recorded without it.

    Raises:
        ValueError: when the split has no composition at these levels.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        sample_images: SampleImages,
        train: tuple[Composition, ...],
        steps: Collection[int],
        curve: Path,
        seed: int,
        levels: Collection[int] = (0, 1, 2),
        count: int = 64,
        val_loss: Callable[[], float] | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.sample_images = sample_images
        self.train_compositions = train
        self.compositions = tuple(c for c in evaluator.space.compositions if level(c, train) in levels)
        if not self.compositions:
            raise ValueError(f"no composition has a level in {sorted(levels)} under the split {','.join(train)}")
        self.steps = frozenset(steps) - {0}
        self.curve = Path(curve)
        self.seed = seed
        self.count = count
        self.val_loss = val_loss
        self.rows: list[dict[str, float]] = []
        self._loss = torch.zeros((), dtype=torch.float64)  # sum since the last row; on the device, read once a row
        self._batches = 0
        self._logs: Mapping[str, float | Tensor] = {}  # of the latest batch; on the device, read once a row
        self.spent = 0.0  # seconds of evaluation, in all processes of this run
        self._seconds = 0.0  # of training in earlier processes
        self._started = time.monotonic()

    # The running mean is part of the checkpoint: a resumed run's next row covers the steps before the cut too. So are the
    # monitors: the row that a cut prevented has them.
    def state_dict(self) -> dict[str, Any]:
        kept = {"loss": self._loss.cpu(), "batches": self._batches, "logs": _numbers(self._logs)}
        return {**kept, "seconds": self._elapsed(), "spent": self.spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loss, self._batches = state_dict["loss"], state_dict["batches"]
        self._logs = state_dict.get("logs", {})  # a checkpoint from before they were recorded has none
        self._seconds, self.spent = state_dict["seconds"], state_dict["spent"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the rows up to the resumed step, and make up for a row that the cut prevented."""
        self._started = time.monotonic()
        self._loss = self._loss.to(pl_module.device)
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        self.rows = read_curve(self.curve, up_to=step)
        write_curve(self.curve, self.rows)
        if self.rows and self.rows[-1]["step"] == step:
            self._forget()  # the row is older than the checkpoint's running mean, or as old
        elif step in self.steps and self._batches:
            self._append_row(step, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss: Tensor = outputs["loss"] if isinstance(outputs, dict) else outputs
        self._loss += loss.detach()
        self._batches += 1
        self._logs = getattr(pl_module, "last_logs", {})
        step = trainer.global_step
        # With accumulated gradients a step has several batches.
        is_done = bool(self.rows) and self.rows[-1]["step"] == step
        if trainer.is_global_zero and step in self.steps and not is_done:
            self._append_row(step, pl_module)

    def _append_row(self, step: int, model: Any) -> None:
        started = time.monotonic()
        generator = torch.Generator(model.device).manual_seed(seed_for(self.seed, "probe", step))
        with model.averaged():
            evaluation = self.evaluator.evaluate(self.sample_images, "centre", self.count, generator, self.compositions)
            val_loss = float("nan") if self.val_loss is None else self.val_loss()
        shares = scores(evaluation.table, self.evaluator.space.controlled, self.train_compositions)
        row = {
            "step": step,
            "seconds": self._elapsed(),
            "train_loss": float(self._loss) / max(1, self._batches),
            "val_loss": val_loss,
        }
        prefixes = [judge_prefix(judge.name) for judge in self.evaluator.judges]
        kept = [f"{prefix}{kind}" for kind in ("level", "comp_") for prefix in prefixes]
        row |= {key: share for start in kept for key, share in shares.items() if key.startswith(start)}
        row |= {f"log_{name}": value for name, value in _numbers(self._logs).items()}
        self.rows.append(row)
        write_curve(self.curve, self.rows)
        self._forget()
        self.spent += time.monotonic() - started

    def _forget(self) -> None:
        self._loss, self._batches = torch.zeros_like(self._loss), 0

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._started


def _numbers(logs: Mapping[str, float | Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}


def read_curve(path: Path, up_to: int) -> list[dict[str, float]]:
    """The rows of a curve with ``step <= up_to``; none where there is no file."""
    if not path.exists():
        return []
    table = pd.read_csv(path, float_precision="round_trip")
    return table[table["step"] <= up_to].to_dict("records")  # type: ignore[return-value]


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    """Replace a curve in one step, so that a reader or a kill never meets half a file."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    beside = path.with_suffix(".tmp")
    pd.DataFrame(rows).to_csv(beside, index=False)
    os.replace(beside, path)
