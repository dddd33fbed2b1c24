"""`speed`: how fast this machine trains, samples and judges, in rows of a table. Nothing of a run is needed or left.

Each row is measured by a process of its own, in the environment that a cell's worker has, so that imports, first steps
and memory are those of a run. What is measured, and how, stands in `benchmark.rates`; here nothing heavy is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmark import workers
from benchmark.cell import Cell
from benchmark.cli import Tokens
from benchmark.config import ConfigError
from benchmark.files import read_json
from benchmark.machine import Machine
from benchmark.plan import Plan, plan_grid
from benchmark.registry import Registry
from benchmark.store import Store
from benchmark.tables import Row

ROWS = "rows.json"  # what a process leaves in its results folder
GRID, DATASET = "all", "shapes2d"  # what is measured where nothing is named
REFERENCE = "dit"  # the architecture that the plain loop trains too, and of which cells are measured side by side
PLAIN, BESIDE_NAME = "plain DiT loop", "side by side"  # how these rows are named
BESIDE = {"cpu": (2,), "cuda": (2, 4, 8)}  # cells side by side, as `--jobs` runs them; on one GPU where it is a GPU
COLUMNS = (
    *("measured", "dataset", "tokenizer", "conditioning", "preset", "threads", "precision", "compiled", "batch_size"),
    *("steps_per_second", "images_per_second", "spread", "times_plain", "gain", "flops_per_step", "matmul_flops"),
    *("utilisation", "bytes_per_step", "bandwidth", "most_steps_per_second"),
    *("curve_images_per_second", "final_images_per_second", "evaluation_seconds", "first_evaluation_seconds"),
    *("import_seconds", "start_seconds", "first_step_seconds", "checkpoint_seconds", "cell_minutes", "outside_share"),
    *("peak_memory_mb", "cell", "device", "torch", "git_commit", "date"),
)
TRAINING = (
    *("measured", "threads", "steps_per_second", "images_per_second", "spread", "times_plain", "gain"),
    *("utilisation", "most_steps_per_second"),
)
AROUND = (
    *("measured", "curve_images_per_second", "final_images_per_second", "evaluation_seconds"),
    *("first_evaluation_seconds", "import_seconds", "start_seconds", "first_step_seconds"),
    *("cell_minutes", "outside_share", "peak_memory_mb"),
)
SHARED = ("measured", "dataset", "tokenizer", "threads", "images_per_second", "spread")


@dataclass(frozen=True)
class Task:
    """What one process measures of a cell; ``copies`` of it do so at once."""

    kind: str  # one of `benchmark.rates.KINDS`
    cell: Cell
    name: str
    copies: int = 1
    tuned: bool = True  # whether it has the environment of a worker, and not just the threads
    threads: int = 1


def plan(registry: Registry, machine: Machine, preset: str, tokens: Tokens) -> Plan:
    """The cells of the main grid that are measured: of Shapes2D where no dataset is named.

    Raises:
        ConfigError: for anything wrong with the input, and for cells that several devices train together.
    """
    named = any(token.startswith("dataset=") for token in tokens.only)
    only = tokens.only if named else [*tokens.only, f"dataset={DATASET}"]
    chosen = plan_grid(Store("results"), registry, machine, GRID, preset, only, 1, tokens.overrides)
    if chosen.devices * chosen.nodes > 1:
        raise ConfigError("speed measures one device: leave trainer.devices and trainer.nodes at 1")
    return chosen


def tasks(cells: Sequence[Cell]) -> Iterator[Task]:
    """Everything that is measured for some cells, in the order of the table."""
    for cell in cells:
        yield Task("cell", cell, cell.architecture, threads=cell.threads)
    for cell in (cell for cell in cells if cell.architecture == REFERENCE):
        device = cell.config["trainer"]["device"]
        beside = [n for n in BESIDE[device] if device == "cuda" or workers.available_cores() >= n * cell.threads]
        for copies in beside:
            yield Task("steps", cell, f"{copies} {REFERENCE} {BESIDE_NAME}", copies=copies, threads=cell.threads)
        together = max(beside, default=1) if device == "cpu" else 1
        yield Task("plain", cell, PLAIN, tuned=False, threads=together * cell.threads)
    for cell in {cell.latents_key: cell for cell in reversed(cells)}.values():
        yield Task("shared", cell, f"{cell.dataset} and tokenizer {cell.tokenizer}", threads=cell.threads)


def measure(
    cells: Sequence[Cell], gpus: Sequence[str], plugins: Sequence[Path], seconds: float, say: Callable[[str], None]
) -> tuple[list[Row], list[str]]:
    """Rows of everything that could be measured, and the names of what could not.

    Args:
        gpus: the one that each process sees, as `workers.gpu_groups` names it; empty on a CPU.
        seconds: that a window lasts at least.
        say: is told what is measured next.
    """
    rows: list[Row] = []
    failed: list[str] = []
    for task in tasks(cells):
        say(f"measuring {task.name} ...")
        found = _run(task, gpus, plugins, seconds)
        if not found:
            failed.append(task.name)
        rows += found
    return [row | _compared(row, rows) for row in rows], failed


def tables(rows: Sequence[Row]) -> Iterator[tuple[list[Row], tuple[str, ...]]]:
    """Rows and columns as people read them: training, what is around it, what cells share."""
    steps = [row for row in rows if "steps_per_second" in row]
    yield steps, TRAINING
    yield [row for row in steps if "evaluation_seconds" in row], AROUND
    yield [row for row in rows if row not in steps], SHARED


def whole(rows: Sequence[Row]) -> str:
    """One sentence on how long a whole cell of each architecture takes, one at a time and as many at once as pay.

    Cells at once are reckoned to gain what those of one architecture gained that were measured side by side.
    """
    cells = [row for row in rows if "cell_minutes" in row]
    if not cells:
        return ""
    minutes = sum(row["cell_minutes"] for row in cells)
    told = f"a whole cell of each ({len(cells)}): {minutes:.3g} minutes one after another"
    best = max((row for row in rows if row.get("gain")), key=lambda row: row["gain"], default=None)
    if best is None or best["gain"] <= 1:
        return told
    return f"{told}, {minutes / best['gain']:.3g} if all gain what {best['measured']} do ({best['gain']:.2f} times the steps)"


def _run(task: Task, gpus: Sequence[str], plugins: Sequence[Path], seconds: float) -> list[Row]:
    """The rows of a task; none where a process of it failed, which has said why."""
    with TemporaryDirectory(prefix="speed-") as scratch:
        folders = [Path(scratch) / str(copy) for copy in range(task.copies)]
        for folder in folders:
            task.cell.write(Store(folder).cell(task.cell.id).config)
        command = [sys.executable, "-m", "benchmark.rates", task.kind, task.cell.id]
        options = [str(seconds), *(str(path.resolve()) for path in plugins)]
        processes = [
            subprocess.Popen([*command, str(folder), *options], stdin=subprocess.PIPE, env=_environment(task, gpus))
            for folder in folders
        ]
        codes = [process.wait() for process in processes]
        if any(codes):
            return []
        return _together(task, [(read_json(folder / ROWS) or {})["rows"] for folder in folders])


def _environment(task: Task, gpus: Sequence[str]) -> dict[str, str]:
    """What a process finds: all that a worker does, or, for the plain loop, the least it can run with."""
    worker = workers.environments(1, task.threads, gpus[:1])[0]
    if not task.tuned:
        worker = {name: value for name, value in worker.items() if name not in workers.KEEP_MEMORY}
    return os.environ | worker


def _together(task: Task, found: Sequence[list[Row]]) -> list[Row]:
    """The rows of one process; of several side by side one row, in which rates, threads and memory are sums."""
    if len(found) == 1:
        return found[0]
    each = [rows[0] for rows in found]
    summed = ("steps_per_second", "images_per_second", "threads", "peak_memory_mb")
    return [each[0] | {"measured": task.name} | {name: sum(row[name] for row in each) for name in summed}]


def _compared(row: Row, rows: Sequence[Row]) -> Row:
    """How often as fast as others a row's steps are.

    ``times_plain``: as the plain loop with as many threads; ``gain``: cells side by side, all their steps, as one alone.
    """
    if "steps_per_second" not in row:
        return {}
    others = [other for other in rows if other["cell"] == row["cell"] and "steps_per_second" in other]
    plain = [other for other in others if other["measured"] == PLAIN and other["threads"] == row["threads"]]
    alone = [other for other in others if other["measured"] == REFERENCE]
    found = {"times_plain": row["steps_per_second"] / plain[0]["steps_per_second"]} if plain else {}
    if alone and row["measured"].endswith(BESIDE_NAME):
        found["gain"] = row["steps_per_second"] / alone[0]["steps_per_second"]
    return found
