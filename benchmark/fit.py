"""One way to train anything: a Lightning trainer that counts steps only, resumes exactly, and stops between two steps.

Lightning's loop does the training; what it gets wrong on resume is taken out of its hands (epochs, samplers, its own
signal handling and checkpoint naming). A batch is a function of the step, so that nothing but weights, averages,
optimiser and step number needs to be in a checkpoint.
"""

from __future__ import annotations

import io
import logging
import math
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import save_file

from architectures.base import GenerativeModel
from architectures.shares import share_of
from benchmark.files import replacing
from benchmark.ranks import Place
from benchmark.signals import STOP_SIGNALS, handlers_restored

LAST = "last.ckpt"
PATIENT = timedelta(hours=6)  # while rank 0 judges, the others wait in a sum; that one has died, is noticed otherwise

for noisy in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(noisy).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


class Preempted(BaseException):
    """The process was asked to end; a checkpoint is on the disk, of the step just done unless that failed."""


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite."""


def fit(
    module: LightningModule,
    batch: Callable[[int], dict[str, Any]],
    max_steps: int,
    folder: Path,
    callbacks: Sequence[Callback] = (),
    checkpoint_every: int = 500,
    device: str = "cpu",
    precision: str = "32",
    resume: bool = True,
    place: Place = Place(),  # noqa: B008  (frozen)
) -> None:
    """Train to ``max_steps``, from the last checkpoint in the folder if there is one.

    Args:
        batch: step -> batch, on the training device; a function of the step alone. Ranks take their rows of it.
        folder: where checkpoints are kept.
        callbacks: called before the checkpoint of a step is written; losses that they see are of whole batches.
        place: of this process among those that train the module together, all with the same initial weights.

    Raises:
        Preempted: after SIGTERM or SIGUSR1, when the step is done and its checkpoint written, or when the step failed.
        NonFiniteLoss: as soon as a logged loss is not finite.
    """
    last, checkpoints = folder / LAST, StepCheckpoint(folder, checkpoint_every)
    trainer = Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=place.devices,
        num_nodes=place.nodes,
        strategy=data_parallel(device) if place.world > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16-mixed" else "32-true",
        callbacks=[WholeLoss(), *callbacks, checkpoints],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        plugins=[SLURMEnvironment(auto_requeue=False) if place.by_slurm else LightningEnvironment(), InPlace()],
    )
    own = batch if place.world == 1 else lambda step: share_of(batch(step), place.rank, place.world)
    source = FromGlobalStep(own, trainer)
    with handlers_restored(STOP_SIGNALS):  # `StepCheckpoint` takes them, and after training nobody looks at its flag
        try:
            trainer.fit(module, source, ckpt_path=str(last) if resume and last.exists() else None, weights_only=True)
        except Exception as error:
            if checkpoints.stop:  # the signal went to all processes, and ended the compiler that this step waits for
                raise Preempted(f"asked to end, while {type(error).__name__}") from error
            raise


def data_parallel(device: str) -> DDPStrategy:
    """Averages gradients over all ranks. Weights stay equal on all of them, and so does what follows from weights."""
    return DDPStrategy(
        process_group_backend="nccl" if device == "cuda" else "gloo",
        find_unused_parameters=True,  # some have no gradient; and sums in an order that a resumed run repeats
        broadcast_buffers=False,
        timeout=PATIENT,
    )


class FromGlobalStep:
    """Batches from wherever the trainer stands when it starts to iterate: after a resume, the checkpoint's step."""

    def __init__(self, batch: Callable[[int], dict[str, Any]], trainer: Trainer) -> None:
        self.batch, self.trainer = batch, trainer

    def __iter__(self) -> Iterator[dict[str, Any]]:
        step = self.trainer.global_step
        while True:
            yield self.batch(step)
            step += 1


class StepCheckpoint(Callback):
    """``last.ckpt`` every so many steps, at the end, and when a signal asks the process to stop."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self.stop = False
        self.ranks: Any = None  # a process group, where there are several

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            self.ranks = dist.new_group(backend="gloo", timeout=PATIENT)  # on the CPU: no wait for a GPU
        # Lightning saves inside its signal handler, in the middle of a step; ours only raises a flag.
        for number in STOP_SIGNALS:
            signal.signal(number, self._ask_to_stop)

    def _ask_to_stop(self, signum: int, frame: FrameType | None) -> None:
        self.stop = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step, stop = trainer.global_step, self._one_was_asked()
        if stop or step % self.every == 0 or step == trainer.max_steps:
            save_checkpoint(trainer, self.folder / LAST)
        if stop and step < trainer.max_steps:
            raise Preempted

    def _one_was_asked(self) -> bool:
        """Whether this rank or another was asked to stop; all hear of it after the same step."""
        if self.ranks is None:
            return self.stop
        asked = torch.tensor(int(self.stop))
        dist.all_reduce(asked, dist.ReduceOp.MAX, group=self.ranks)
        return bool(asked)


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write a full checkpoint whole or not at all. All ranks must call it, and rank 0 writes."""
    if not trainer.is_global_zero:
        trainer.save_checkpoint(path)
        return
    with replacing(path) as aside:
        trainer.save_checkpoint(aside)


class InPlace(TorchCheckpointIO):
    """Writes a checkpoint where it is told to, which `replacing` makes safe.

    Lightning's own writes it into the system's temporary folder first: that may be small, and a kill leaves it there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)  # into a file it would say of a full disk only "unexpected pos"
        Path(path).write_bytes(content.getbuffer())


class WholeLoss(Callback):
    """Puts the loss of the whole batch in the place of that of a rank's rows, for the callbacks behind it."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        if trainer.world_size > 1:
            outputs["loss"] = trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean")


class Watch(Callback):
    """What looks at a run from outside: progress for people, the lease, and a check that the loss is finite."""

    def __init__(
        self,
        report: Callable[..., None],
        heartbeat: Callable[[], None],
        log_every: int,
        checkpoint_every: int,
        phase: str = "training",
        progress_seconds: float = 1.0,
    ) -> None:
        self.report, self.heartbeat = report, heartbeat
        self.log_every, self.checkpoint_every = log_every, checkpoint_every
        self.phase, self.progress_seconds = phase, progress_seconds
        self.seconds = 0.0  # in the trainer, over all legs of this run; a checkpoint keeps it
        self.this_leg = 0.0  # of these in this process
        self.train_loss = math.nan

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds + time.monotonic() - self._started}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.seconds = state["seconds"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._told = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._first = time.monotonic(), trainer.global_step
        self._losses: list[torch.Tensor] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        self._losses.append(outputs["loss"].detach())
        if step % self.log_every == 0 or step == trainer.max_steps:
            self.train_loss = float(torch.stack(self._losses).mean())  # the one synchronisation
            self._losses.clear()
            if not math.isfinite(self.train_loss):
                raise NonFiniteLoss(
                    f"the loss became {self.train_loss} by step {step}; lower optimiser.lr or use trainer.precision=32"
                )
        self.heartbeat()
        now = time.monotonic()
        if now - self._told >= self.progress_seconds or step == trainer.max_steps:
            rate = (step - self._first) / max(now - self._started, 1e-9)
            self.report(
                phase=self.phase,
                step=step,
                max_steps=trainer.max_steps,
                rate=rate,
                loss=self.train_loss,
                saved=f"{self.phase} {step - step % self.checkpoint_every}",  # a restart begins here: tells progress
            )
            self._told = now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.this_leg = time.monotonic() - self._started
        self.seconds += self.this_leg
        self._started = time.monotonic()


class KeepAverages(Callback):
    """The averaged weights at log-spaced steps, for later studies of dynamics."""

    def __init__(self, folder: Path, steps: Sequence[int]) -> None:
        self.folder, self.steps = folder, frozenset(steps)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        if trainer.global_step in self.steps and isinstance(pl_module, GenerativeModel) and pl_module.ema is not None:
            average = pl_module.ema
            weights = {name: shadow.cpu() for name, shadow in zip(average.names, average.shadows, strict=True)}
            with replacing(average_path(self.folder, trainer.global_step)) as aside:
                save_file(weights, aside)


def average_path(folder: Path, step: int) -> Path:
    """Where the averaged weights of a step are kept."""
    return folder / f"average-{step}.safetensors"


def log_spaced(count: int, last: int) -> list[int]:
    """``count`` whole steps from 1 % of ``last`` to ``last``, evenly in the logarithm, without repeats; of one, ``last``."""
    first = max(1, last // 100)
    return sorted({round(last * (first / last) ** (index / max(1, count - 1))) for index in range(count)})


def quiet_threads(threads: int) -> None:
    """Fix torch's thread count for good: results are bit-equal at one count and differ between two."""
    torch.set_num_threads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
