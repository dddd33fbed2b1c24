"""The cells of a plan on this machine: started side by side, a process each; or, in such a process, the one cell itself."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from benchmark import launch, ranks, workers
from benchmark.cell import Cell
from benchmark.config import ConfigError
from benchmark.plan import Plan
from benchmark.states import to_run


def launch_cells(
    plan: Plan,
    selected: Sequence[str],
    jobs: int,
    groups: Sequence[str],
    before: Mapping[str, int],
    arguments: argparse.Namespace,
) -> int:
    """Run cells of a plan, a process each.

    Args:
        selected: the cells' ids, in order.
        jobs: how many at once.
        groups: the GPUs of each cell that runs at once, from `gpus`; empty on a CPU.
        before: how often each cell had ended when it was chosen.
        arguments: of this command, some of which every worker gets (`worker_options`).

    Returns:
        the launcher's exit code.
    """
    return launch.run_cells(
        selected,
        plan.store,
        jobs,
        plan.threads,
        gpus=groups,
        extra_args=worker_options(arguments),
        ended_before={name: before[name] for name in selected},
        failed_record=plan.failed_record,
        estimates={name: plan.estimates[name].minutes for name in selected},
        forks=can_fork(plan, selected, groups),
        grace=float(os.environ.get(workers.GRACE, launch.GRACE_SECONDS)),
    )


def can_fork(plan: Plan, selected: Sequence[str], groups: Sequence[str]) -> bool:
    """Whether workers may share one import of torch: several of them, on a CPU, one process and as many threads each.

    On Linux: other systems' libraries do not bear a fork.
    """
    cells = [plan.cells[name] for name in selected]
    alike = all(cell.threads == plan.threads and cell.devices * cell.nodes == 1 for cell in cells)
    return sys.platform == "linux" and len(cells) > 1 and alike and not groups


def gpus(plan: Plan) -> list[str]:
    """The GPUs of each cell that runs at once; empty on a CPU.

    Raises:
        ConfigError: if a cell takes more than there are.
    """
    groups = workers.gpu_groups(workers.gpu_names(plan.machine.gpus), plan.devices)
    if not groups and any(cell.config["trainer"]["device"] == "cuda" for cell in plan.cells.values()):
        raise ConfigError(f"trainer.devices={plan.devices}, and there are only {plan.machine.gpus} GPUs here")
    return groups


def worker_options(arguments: argparse.Namespace) -> list[str]:
    """Options that every worker gets as they were given here."""
    options = [part for path in arguments.plugin for part in ("--plugin", str(path.resolve()))]
    return [*options, "--allow-different-hardware"] if arguments.allow_different_hardware else options


def is_worker(plan: Plan) -> bool:
    """Whether this process only works on a plan's one cell: a launcher's worker, or a rank of srun's beside rank 0."""
    return bool(os.environ.get(workers.PIPE)) or (started_by_srun(plan) and os.environ["SLURM_PROCID"] != "0")


def started_by_srun(plan: Plan) -> bool:
    """Whether srun has started this process as one of those that train the one cell of a plan together."""
    cell = next(iter(plan.cells.values()))
    return ranks.started_by_srun(cell.devices * cell.nodes)


def work(plan: Plan, arguments: argparse.Namespace) -> int:
    """In a worker, or another rank: train and judge the one cell of a plan, in this process; its exit code."""
    cell = next(iter(plan.cells.values()))
    place = ranks.here(cell.devices, cell.nodes)
    if place.rank and cell.id not in to_run(plan.states):
        return workers.OK  # done, as rank 0 finds too
    fix_threads(cell)
    workers.end_with_launcher()  # before the imports below, which take seconds
    from benchmark import runner

    return runner.run_cell(cell, plan.store, plan.registry, arguments, place)


def fix_threads(cell: Cell) -> None:
    """Set the cell's thread count before torch, OpenMP and MKL are loaded: afterwards it changes some results' bits."""
    os.environ.update(dict.fromkeys(workers.THREAD_VARIABLES, str(cell.threads)))
