"""One cell, from its config to its record: artefacts, training, judgement.

``run_cell`` contains whatever goes wrong: a cut-off leaves a checkpoint and no record, a failure a record with the reason.
"""

from __future__ import annotations

import argparse
import math
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from architectures.base import Context, GenerativeModel
from architectures.conditioning import Condition
from benchmark import evaluate
from benchmark.artefacts import Artefacts
from benchmark.cell import Cell
from benchmark.config import ConfigError, instantiate, section_class
from benchmark.files import DiskFull
from benchmark.fit import KeepAverages, NonFiniteLoss, Preempted, Watch, fit, log_spaced, quiet_threads
from benchmark.hardware import costs, hardware, revision
from benchmark.leaderboard import curve_summary
from benchmark.registry import Registry
from benchmark.states import FAILED, OK, SUSPICIOUS
from benchmark.store import Record, Store
from benchmark.workers import CUT_OFF, NOT_OK, end_with_launcher, ended_meanwhile
from benchmark.workers import OK as ENDED_OK
from datasets.factors import seed_for
from datasets.latents import LatentBatches
from probes.callbacks import LevelProbe, read_curve

VALIDATION_BATCH = 512  # held-out latents behind the validation loss, the same at every evaluation


def run_cell(cell: Cell, store: Store, registry: Registry, options: argparse.Namespace) -> int:
    """Train and judge a cell in this process, as a worker; the worker's exit code."""
    end_with_launcher()
    lease = store.cell_lease(cell.id)
    if lease is None:
        return CUT_OFF
    with lease, lease.kept():
        ended = ended_meanwhile(store, cell.id)
        if ended is not None:
            return ended
        try:
            record = CellRun(cell, store, registry, lease.refresh, options.allow_different_hardware).record()
        except Preempted:
            print("cut off; the same command goes on from the last checkpoint")
            return CUT_OFF
        except Exception as error:
            traceback.print_exc()
            record = failure(cell, registry, reason_of(error))
        store.write_record(cell.id, record)
    return ENDED_OK if record["state"] == OK else NOT_OK


def prepare_data(cell: Cell, store: Store, registry: Registry) -> int:
    """Draw a dataset's images, or check those that are there against their checksums."""
    artefacts = Artefacts(cell, store, registry)
    data = artefacts.data
    data.verify()
    print(f"{cell.dataset}: {data.folder}")
    for part in ("train", "probe", "test"):
        print(f"  {part}: {len(data.images(part))} images of {len(data.space.compositions)} compositions")
    return 0


class CellRun:
    """The run of one cell. Everything random is a function of (seed, purpose, step), so that a resumed run is the same."""

    def __init__(
        self, cell: Cell, store: Store, registry: Registry, heartbeat: Callable[[], None], any_hardware: bool = False
    ) -> None:
        self.cell, self.store, self.registry, self.heartbeat = cell, store, registry, heartbeat
        self.any_hardware = any_hardware
        self.paths = store.cell(cell.id)
        self.trainer = cell.config["trainer"]
        self.artefacts = Artefacts(cell, store, registry, self.report)
        self.started = time.monotonic()

    def report(self, **progress: Any) -> None:
        self.store.write_progress(self.cell.id, **progress)

    def record(self) -> Record:
        """Run to the end and say how it ended."""
        quiet_threads(self.trainer["threads"])
        self.report(phase="waiting for artefacts")
        self.artefacts.prepare()
        model = self.build_model()
        watch = self.train(model)
        self.report(phase="judging", step=self.trainer["max_steps"], max_steps=self.trainer["max_steps"])
        final = evaluate.final_evaluation(self.cell, self.artefacts, model, self.paths.folder)
        return self.write_up(model, watch, final)

    # Building ---------------------------------------------------------------------------------------------------------

    def build_model(self) -> GenerativeModel:
        """The architecture with its initial weights, a function of the seed."""
        return build_model(self.cell, self.artefacts)

    def batches(self, model: GenerativeModel) -> LatentBatches:
        latents = self.artefacts.latents["train"].to(self.artefacts.device)
        shift, scale = latent_scale(self.artefacts)
        return LatentBatches(latents, self.cell.view, self.trainer["batch_size"], self.cell.seed, 0, shift, scale)

    def validation_loss(self) -> Callable[[GenerativeModel], float]:
        """Training loss of the averaged weights on held-out images of training compositions, with fixed noise."""
        latents = self.artefacts.latents["validation"].to(self.artefacts.device)
        shift, scale = latent_scale(self.artefacts)
        seed = seed_for(self.cell.seed_of("data"), "validation")

        def loss(model: GenerativeModel) -> float:
            # Anew each time: a batch's generator is used up by the loss.
            batch = LatentBatches(latents, self.cell.view, VALIDATION_BATCH, seed, 0, shift, scale).batch(0)
            condition = Condition.of(batch["classes"], batch["values"])
            return float(model.training_loss(batch["latents"], condition, batch["generator"])[0])

        return loss

    # Training ---------------------------------------------------------------------------------------------------------

    def train(self, model: GenerativeModel) -> Watch:
        trainer = self.trainer
        max_steps = trainer["max_steps"]
        watch = Watch(self.report, self.heartbeat, trainer["log_every"])
        sampler = evaluate.Sampler(self.cell, self.artefacts)
        probe = LevelProbe(
            evaluator=sampler.evaluator(self.cell.config["probe"]["curve_samples"]),
            every=trainer["eval_every"],
            path=self.paths.curve,
            seed=self.cell.seed,
            validation_loss=self.validation_loss(),
        )
        keep = KeepAverages(self.paths.checkpoints, log_spaced(trainer["keep_checkpoints"], max_steps))
        if trainer["compile"]:
            model.trunk.compile()
        fit(
            model,
            self.batches(model).batch,
            max_steps,
            self.paths.checkpoints,
            [watch, probe, keep],
            trainer["checkpoint_every_steps"],
            trainer["device"],
            trainer["precision"],
        )
        self.sampler, self.probe = sampler, probe
        return watch
