"""One cell, from its config to its record: artefacts, training, judgement.

``run_cell`` contains whatever goes wrong: a cut-off leaves a checkpoint and no record, a failure a record with the reason.
"""

from __future__ import annotations

import argparse
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from architectures.base import GenerativeModel
from benchmark import evaluate, fingerprints, models, ranks
from benchmark.artefacts import Artefacts
from benchmark.cell import Cell
from benchmark.files import read_json, write_json
from benchmark.fingerprints import KINDS
from benchmark.fit import LAST, KeepAverages, Preempted, Watch, fit, log_spaced, quiet_threads
from benchmark.hardware import costs, hardware, peak_memory_mb, revision
from benchmark.intervals import intervals
from benchmark.leaderboard import curve_summary
from benchmark.leases import LeaseLost
from benchmark.ranks import Place
from benchmark.registry import Registry
from benchmark.samplers import samplers
from benchmark.signals import leaving
from benchmark.states import FAILED, OK, SUSPICIOUS
from benchmark.store import POLL_EVERY, Record, Store
from benchmark.workers import CUT_OFF, NOT_OK, ended_meanwhile
from benchmark.workers import OK as ENDED_OK
from probes.callbacks import LevelProbe, read_curve


class DifferentHardware(RuntimeError):
    """A checkpoint was made on another kind of device."""


def run_cell(cell: Cell, store: Store, registry: Registry, options: argparse.Namespace, place: Place) -> int:
    """Train and judge a cell in this process, as a worker; the worker's exit code."""
    if place.rank:
        return _take_part(CellRun(cell, store, registry, lambda: None, options.allow_different_hardware, place))
    lease = store.cell_lease(cell.id)
    if lease is None:
        return CUT_OFF
    with lease, lease.kept(), leaving(signal.SIGUSR1, CUT_OFF):
        ended = ended_meanwhile(store, cell.id)
        if ended is not None:
            return ended
        if store.record_count(cell.id) and (store.history(cell.id) or [{}])[-1].get("state") != FAILED:
            store.begin_again(
                cell.id, fingerprints.of_cell(cell, registry)
            )  # on request: not from its own last checkpoint
        run = CellRun(cell, store, registry, lease.refresh, options.allow_different_hardware, place)
        before = store.record_count(cell.id)
        try:
            with ranks.together(place):
                record = run.record()
        except (Preempted, LeaseLost) as cut:
            print(f"cut off ({str(cut) or 'asked to end'}); the same command goes on from the last checkpoint")
            return CUT_OFF
        except Exception as error:
            traceback.print_exc()
            record = run.failure(reason_of(error))
        if store.record_count(cell.id) > before:  # another rank has told why it failed
            return NOT_OK
        store.write_record(cell.id, record)
    return ENDED_OK if record["state"] == OK else NOT_OK


def _take_part(run: CellRun) -> int:
    """As another rank than the first: train and leave the rest to rank 0, but for what goes wrong here alone."""
    before = run.store.record_count(run.cell.id)
    try:
        with ranks.together(run.place):
            run.take_part()
    except Preempted:
        return CUT_OFF
    except Exception as error:
        traceback.print_exc()
        if run.store.record_count(run.cell.id) == before:
            run.store.write_record(run.cell.id, run.failure(f"rank {run.place.rank}: {reason_of(error)}"))
        return NOT_OK
    return ENDED_OK


class CellRun:
    """The run of one cell. Everything random is a function of (seed, purpose, step), so that a resumed run is the same."""

    def __init__(
        self,
        cell: Cell,
        store: Store,
        registry: Registry,
        heartbeat: Callable[[], None],
        any_hardware: bool = False,
        place: Place = Place(),  # noqa: B008  (frozen)
    ) -> None:
        self.cell, self.store, self.registry = cell, store, registry
        self.heartbeat, self.any_hardware, self.place = heartbeat, any_hardware, place
        self.paths = store.cell(cell.id)
        self.trainer = cell.config["trainer"]
        self.artefacts = Artefacts(cell, store, registry, self.report)
        self.compiled = False
        if self.place.world > 1 and self.trainer["device"] == "cuda":
            torch.cuda.set_device(self.place.local)

    def report(self, **progress: Any) -> None:
        """Tell whoever watches how far the cell is; of several ranks the first does."""
        if self.place.rank == 0:
            self.store.write_progress(self.cell.id, **progress)

    def record(self) -> Record:
        """Run to the end and say how it ended."""
        quiet_threads(self.trainer["threads"])
        self.report(phase="preparing")
        self.artefacts.prepare()
        self.artefacts.keep()
        started = time.monotonic()
        model = models.build_model(self.artefacts)
        batch, drawn_from = models.training_batches(self.artefacts).batch(0), models.curve_model(self.artefacts, model)
        spent = costs(model, batch, self.trainer["max_steps"], drawn_from)
        watch, probe = self.train(model)
        steps = self.trainer["max_steps"]
        self.report(phase="judging", step=steps, max_steps=steps)
        evaluations = evaluate.sample_and_judge(self.artefacts, model)
        found = evaluate.shares(self.artefacts, evaluations)
        doubts = evaluate.doubts(self.artefacts, evaluations, found)
        self.report(phase="writing", step=steps, max_steps=steps)
        evaluate.keep(self.artefacts, evaluations, self.paths.folder)
        outside = time.monotonic() - started - watch.this_leg  # of this process: building, counting, judging
        measured = {
            **found,
            **evaluate.compared(self.artefacts, evaluations),
            **self.ceilings(),
            **curve_summary(read_curve(self.paths.curve, up_to=steps)),  # the file: a resume at the end trains nothing
            **spent,
            "steps": steps,
            "split": ",".join(self.artefacts.train_compositions),
            "minutes": (watch.seconds + outside) / 60,
            "evaluation_minutes": (probe.spent + outside) / 60,
            "images_per_second": steps * self.trainer["batch_size"] / (watch.seconds - probe.spent),
        }
        return self.end(SUSPICIOUS if doubts else OK, "; ".join(doubts), measured, model)

    def take_part(self) -> None:
        """As another rank than the first: train, once what rank 0 builds is there."""
        quiet_threads(self.trainer["threads"])
        while not all(self.store.artefact(kind, self.artefacts.key(kind)) for kind in KINDS):
            time.sleep(POLL_EVERY)
        self.train(models.build_model(self.artefacts))

    def failure(self, reason: str) -> Record:
        """The record of a cell that could not be finished."""
        return self.end(FAILED, reason, {"steps": self.store.steps_trained(self.cell.id)})

    def train(self, model: GenerativeModel) -> tuple[Watch, LevelProbe]:
        """Fit the model, with its curve and its kept averages."""
        artefacts, trainer = self.artefacts, self.trainer
        steps = trainer["max_steps"]
        watch = Watch(self.report, self.heartbeat, trainer["log_every"], trainer["checkpoint_every_steps"])
        probe = evaluate.curve_probe(artefacts, model, evaluate.curve_steps(trainer), self.paths.curve)
        keep = KeepAverages(self.paths.checkpoints, log_spaced(trainer["keep_checkpoints"], steps))
        self.compiled = models.compile_networks(artefacts, model)
        if self.place.rank == 0:
            self.check_hardware()
        fit(
            model,
            models.training_batches(artefacts).batch,
            steps,
            self.paths.checkpoints,
            [watch, probe, keep],
            trainer["checkpoint_every_steps"],
            trainer["device"],
            trainer["precision"],
            place=self.place,
        )
        return watch, probe

    def check_hardware(self) -> None:
        """Note what a checkpoint is made on, and refuse to go on from another kind of device: other bits, other result.

        Raises:
            DifferentHardware: unless it was allowed.
        """
        note = self.paths.checkpoints / "hardware.json"
        here = {"device": hardware()["device"], "torch": torch.__version__, "compiled": self.compiled}
        there = read_json(note) if (self.paths.checkpoints / LAST).exists() else None
        if there is not None and there != here and not self.any_hardware:
            raise DifferentHardware(
                f"the checkpoint was made on {there} and this is {here}; run it there, or with --allow-different-hardware"
            )
        write_json(note, here)

    def ceilings(self) -> dict[str, Any]:
        """What judges and tokenizer reach on real images: beside every share it bounds, never divided by."""
        ceiling = self.artefacts.ceiling
        return {
            **ceiling,
            **evaluate.level_means(ceiling, self.artefacts.data.space, self.artefacts.train_compositions),
        }

    def intervals(self, row: dict[str, Any]) -> dict[str, Any]:
        """How well each share is known, by how many images."""
        test = self.artefacts.data.images("test").composition_index
        names = self.artefacts.data.space.compositions
        held_out = dict(zip(names, torch.bincount(test, minlength=len(names)).tolist(), strict=True))
        samples = dict.fromkeys(names, evaluate.evaluation_config(self.cell.config).final_samples)
        return intervals(row, samples, held_out, self.artefacts.train_compositions)

    def end(self, state: str, reason: str, measured: dict[str, Any], model: GenerativeModel | None = None) -> Record:
        """The record: identity, what was measured, on what, by which sources."""
        machine = hardware()
        row = {
            **self.cell.row(),
            **measured,
            "samples_per_composition": self.cell.config["evaluation"]["final_samples"],
            "peak_memory_mb": peak_memory_mb(),
            "device": machine["device"],
            "git_commit": revision(),
            "date": machine["date"],
        }
        judges = self.artefacts.judges if model else []
        return {
            "cell": self.cell.id,
            "state": state,
            "reason": reason,
            "setting": self.cell.setting,
            "steps": measured["steps"],
            "row": row,
            "intervals": self.intervals(row) if model else {},
            "samplers": samplers(self.cell.config),
            "config": dict(self.cell.config),
            "fingerprint": fingerprints.of_cell(self.cell, self.registry),
            "weights_sha256": model.ema.sha256() if model and model.ema else None,
            "judges": {judge.name: getattr(judge, "version", None) for judge in judges},
            "data": self.artefacts.data.origin if model else {},
            "different_hardware_allowed": self.any_hardware,
            "hardware": machine | {"compiled": self.compiled},
        }


def reason_of(error: Exception) -> str:
    """One line for the record. torch's out-of-memory errors are long; what helps is said in their place."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return f"out of memory; lower trainer.batch_size or evaluation.max_batch, or run fewer --jobs ({text[:120]})"
    return f"{type(error).__name__}: {text}"
