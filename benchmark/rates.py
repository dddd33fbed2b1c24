"""What one process of `speed` measures: an architecture, the plain loop, or what the cells of a dataset share.

Nothing here is a lookalike: the step is that of ``fit``, with the suite's own callbacks, batches and precision, and the
evaluation is that of the curve. A rate is the median of several windows (`benchmark.stopwatch`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from architectures.base import GenerativeModel
from benchmark import evaluate, models, workers
from benchmark.artefacts import ENCODE_BATCH
from benchmark.cell import Cell
from benchmark.files import write_json
from benchmark.fit import Watch, fit, quiet_threads
from benchmark.hardware import costs, hardware, peak_memory_mb, revision
from benchmark.plain import plain_training
from benchmark.registry import discover
from benchmark.roofline import copy_work, most_steps, step_bytes
from benchmark.samplers import at_the_curve
from benchmark.speed import PLAIN, ROWS
from benchmark.stopwatch import EVALUATIONS, Clock, rates, spread
from benchmark.store import Store
from benchmark.tables import Row
from benchmark.untrained import Untrained
from datasets.base import DataError
from datasets.celeba import CelebAConfig
from datasets.faces.decode import decode_rows
from datasets.faces.listing import Listing, open_listing
from datasets.faces.writer import write_faces
from probes.callbacks import LevelProbe
from probes.evaluation import MODES, ask

IMPORTED = time.time()  # in a process that measures: all above has been imported
ENDLESS = 10**9  # steps; the clock ends training
MATMUL = {"cpu": 1024, "cuda": 8192}  # rows and columns of the square matrices behind the peak
FACES = 64  # pictures for the rate of the JPEG cache


def train(artefacts: Untrained, model: GenerativeModel, seconds: float) -> tuple[Clock, LevelProbe, bool]:
    """Train a cell's model as `CellRun.train` does, until the clock has its windows; whether it was compiled."""
    cell, trainer, paths = artefacts.cell, artefacts.config["trainer"], artefacts.store.cell(artefacts.cell.id)
    report = partial(artefacts.store.write_progress, cell.id)
    watch = Watch(report, lambda: None, trainer["log_every"], trainer["checkpoint_every_steps"])
    probe = evaluate.curve_probe(artefacts, model, range(1, EVALUATIONS + 1), paths.curve)
    clock = Clock(probe, artefacts.device, seconds)
    compiled = models.compile_networks(artefacts, model)
    batch = models.training_batches(artefacts).batch
    callbacks = [watch, clock, probe]
    fit(model, batch, ENDLESS, paths.checkpoints, callbacks, ENDLESS, trainer["device"], trainer["precision"])
    return clock, probe, compiled


def measure_steps(artefacts: Untrained, seconds: float) -> list[Row]:
    """A row of training alone, for cells side by side."""
    quiet_threads(artefacts.cell.threads)
    clock, _, compiled = train(artefacts, models.build_model(artefacts), seconds)
    return [_row(artefacts, artefacts.cell.architecture) | _steps(artefacts, clock.windows, compiled)]


def measure_cell(artefacts: Untrained, seconds: float) -> list[Row]:
    """A row of everything that a cell does."""
    cell, device = artefacts.cell, artefacts.device
    quiet_threads(cell.threads)
    model = models.build_model(artefacts)
    batches = models.training_batches(artefacts)
    flops = costs(model, batches.batch(0), 1)["flops"]
    with models.autocast(artefacts):
        moved = step_bytes(model, batches.batch(0))
    clock, probe, compiled = train(artefacts, model, seconds)
    final = models.image_sampler(artefacts, model), evaluate.evaluation_config(cell.config).final_samples
    row = _row(artefacts, cell.architecture) | _steps(artefacts, clock.windows, compiled)
    row |= {
        "curve_images_per_second": sampling(artefacts, model, probe.sample_images, probe.count, seconds),
        "final_images_per_second": sampling(artefacts, model, *final, seconds),
        "evaluation_seconds": clock.evaluation,
        "first_evaluation_seconds": clock.first_evaluation,
        "import_seconds": IMPORTED - psutil.Process().create_time(),
        "start_seconds": clock.started_at - IMPORTED,
        "first_step_seconds": clock.first_step,
        "checkpoint_seconds": clock.checkpoint,
        "peak_memory_mb": peak_memory_mb(),  # before the matrices of the peak
    }
    peak = matmul_peak(device, artefacts.config["trainer"]["precision"], seconds)
    bandwidth = max(rates(*copy_work(device), device, seconds))
    used = {"flops_per_step": flops, "matmul_flops": peak, "utilisation": flops * row["steps_per_second"] / peak}
    used |= {"bytes_per_step": moved, "bandwidth": bandwidth}
    used["most_steps_per_second"] = most_steps(flops, moved, peak, bandwidth)
    return [row | used | whole_cell(artefacts, row)]


def sampling(artefacts: Untrained, model: GenerativeModel, sample: Callable, count: int, seconds: float) -> float:
    """Images a second, decoded, of the conditions of an evaluation with ``count`` samples a composition."""
    data, most = artefacts.data, evaluate.evaluation_config(artefacts.config).max_batch
    generator = torch.Generator(artefacts.device).manual_seed(0)
    asked = ask(data.space, data.space.compositions, MODES[0], count, data.draw_values, generator)
    classes, values = (told[:most].to(artefacts.device) for told in (asked.classes, asked.values))
    with model.averaged():
        return median(rates(lambda: sample(classes, values, generator), len(classes), artefacts.device, seconds))


def matmul_peak(device: torch.device, precision: str, seconds: float) -> float:
    """Operations a second of a large matrix product in the type that training multiplies in; the best window."""
    size, kind = MATMUL[device.type], torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    out = torch.empty_like(left)
    return max(rates(lambda: torch.mm(left, right, out=out), 2 * size**3, device, seconds))


def whole_cell(artefacts: Untrained, row: Row) -> Row:
    """How long a whole cell takes by the measured parts, and the share of it that is no training step.

    Drawing and artefacts are not counted. The final evaluation counts as so many of the curve's as it has samples, and
    for a sampler of its own what that takes longer; pictures and tables are left out.
    """
    trainer, evaluation = artefacts.config["trainer"], evaluate.evaluation_config(artefacts.config)
    evaluations = len(evaluate.curve_steps(trainer)) + len(MODES) * evaluation.final_samples / evaluation.curve_samples
    forked = artefacts.device.type == "cpu"  # from one import for all cells (`benchmark.nursery`)
    outside = (
        (0 if forked else row["import_seconds"])
        + row["start_seconds"]
        + row["first_step_seconds"]
        + row["first_evaluation_seconds"]
        + (evaluations - 1) * row["evaluation_seconds"]
        + _longer_at_the_end(artefacts, row)
        + trainer["max_steps"] // trainer["checkpoint_every_steps"] * row["checkpoint_seconds"]
    )
    seconds = outside + trainer["max_steps"] / row["steps_per_second"]
    return {"cell_minutes": seconds / 60, "outside_share": outside / seconds}


def _longer_at_the_end(artefacts: Untrained, row: Row) -> float:
    """Seconds by which the final samples take longer than by the curve's sampler; 0 where that is the final one too."""
    if at_the_curve(artefacts.config) == artefacts.config:
        return 0.0
    each = len(MODES) * evaluate.evaluation_config(artefacts.config).final_samples
    images = each * len(artefacts.data.space.compositions)
    return images * (1 / row["final_images_per_second"] - 1 / row["curve_images_per_second"])


def measure_plain(artefacts: Untrained, seconds: float) -> list[Row]:
    """A row of the plain loop with the threads of a cell, and one with all that this process was started with."""
    context, batch_size = models.build_model(artefacts).context, artefacts.config["trainer"]["batch_size"]
    rows = []
    for threads in dict.fromkeys((artefacts.cell.threads, torch.get_num_threads())):
        torch.set_num_threads(threads)
        step = plain_training(context, batch_size, artefacts.device)
        with FlopCounterMode(display=False) as counted:
            step()
        own = {"threads": threads, "precision": "32", "flops_per_step": counted.get_total_flops()}
        found = rates(step, 1, artefacts.device, seconds)
        rows.append(_row(artefacts, PLAIN) | _steps(artefacts, found, False) | own)
    return rows


def measure_shared(artefacts: Untrained, seconds: float) -> list[Row]:
    """Rows of what is done once for many cells: drawing images, encoding, decoding, reading JPEGs."""
    quiet_threads(artefacts.cell.threads)
    device, view = artefacts.device, artefacts.cell.view
    images = artefacts.random_images(ENCODE_BATCH)
    latents = artefacts.latents["train"].parts(view)[0][: models.DECODE_BATCH].to(device)
    faces, config = _faces(artefacts.store), CelebAConfig()
    work: dict[str, tuple[Callable[[], object], int]] = {
        "images drawn": (lambda: artefacts.data.draw_block("train", 0), artefacts.data.block),
        "tokenizer, encoding": (lambda: artefacts.encode(images), len(images)),
        "tokenizer, decoding": (lambda: artefacts.tokenizer.decode(latents, view), len(latents)),
        "JPEG cache": (lambda: decode_rows(faces, np.arange(FACES), config.resolution, config.crop), FACES),
    }
    rows = []
    for name, (call, amount) in work.items():
        try:
            found = rates(call, amount, device, seconds)
        except DataError as error:  # files that are read, and drawn faces, are not there before they are prepared
            print(f"{name} is not measured: {error}")
            continue
        rows.append(_row(artefacts, name) | {"images_per_second": median(found), "spread": spread(found)})
    return rows


def _faces(store: Store) -> Listing:
    """Drawn faces in files as CelebA's are, 178x218 px."""
    folder = store.results / "faces"
    write_faces(folder, 0, {"train": FACES, "probe": 0, "test": 0})
    return open_listing(folder)


def _row(artefacts: Untrained, measured: str) -> Row:
    """What was measured, where, and of which cell."""
    cell, trainer, machine = artefacts.cell, artefacts.config["trainer"], hardware()
    own = {name: getattr(cell, name) for name in ("dataset", "tokenizer", "conditioning", "threads")}
    return {
        "measured": measured,
        "cell": cell.id,
        **own,
        "preset": cell.config["preset"],
        "precision": trainer["precision"],
        **{name: machine[name] for name in ("device", "torch", "date")},
        "git_commit": revision(),
    }


def _steps(artefacts: Untrained, windows: Sequence[float], compiled: bool) -> Row:
    """Rates of training steps, from those of the windows."""
    batch_size = artefacts.config["trainer"]["batch_size"]
    return {
        "compiled": compiled,
        "batch_size": batch_size,
        "steps_per_second": median(windows),
        "images_per_second": median(windows) * batch_size,
        "spread": spread(windows),
        "peak_memory_mb": peak_memory_mb(),
    }


KINDS = {"cell": measure_cell, "steps": measure_steps, "plain": measure_plain, "shared": measure_shared}


def main(argv: Sequence[str]) -> None:
    """Measure one thing of the cell that the given results folder has, and leave the rows there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("cell")
    parser.add_argument("results", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("plugins", type=Path, nargs="*")
    given = parser.parse_args(argv)
    workers.end_with_launcher()
    store = Store(given.results)
    artefacts = Untrained(Cell.read(store.cell(given.cell).config), store, discover(given.plugins))
    write_json(given.results / ROWS, {"rows": KINDS[given.kind](artefacts, given.seconds)})


if __name__ == "__main__":
    main(sys.argv[1:])
