"""From a plan to jobs in SLURM's queue, and when a cell that is cut off again and again is given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark import slurm
from benchmark.cell import Cell
from benchmark.config import CONFIGS, Layer, Override, instantiate, read_yaml
from benchmark.files import read_json, write_json
from benchmark.fingerprints import artefact_keys
from benchmark.launch import MAX_STRIKES
from benchmark.plan import Plan
from benchmark.registry import Registry
from benchmark.states import RUNNING
from benchmark.store import CellPaths, Store


def read_config(registry: Registry, overrides: Sequence[Override]) -> slurm.SlurmConfig:
    """What ``configs/slurm.yaml`` and the command line say of the cluster.

    Raises:
        ConfigError: for an unknown key, or a value that is refused.
    """
    from benchmark.schema import Schema

    layer = Layer("slurm.yaml", read_yaml(CONFIGS / "slurm.yaml"))
    given = [override for override in overrides if override.key.startswith("slurm.")]
    return instantiate(slurm.SlurmConfig, Schema(registry).compose([layer], given)["slurm"])


def submit(
    plan: Plan,
    selected: Sequence[str],
    config: slurm.SlurmConfig,
    options: Sequence[str],
    dry: bool,
    only_states: Sequence[str] = (),
) -> int:
    """Submit cells, but for those that somebody works on or that wait in the queue; `dry` prints the scripts instead."""
    waiting = slurm.queued(plan.store.results)
    chosen = {n: plan.cells[n] for n in selected if n not in waiting and plan.states[n].name != RUNNING}
    told = f"submit    {len(chosen)} cells" + (f"; {len(waiting)} are in the queue" if waiting else "")
    print(*plan.notes, *plan.heading(list(chosen), config.max_running), told, sep="\n", flush=True)
    folder = slurm.new_folder(plan.store.results)
    size = slurm.MAX_ARRAY_SIZE if dry or not chosen else slurm.max_array_size()
    groups = groups_of(chosen, plan.store, plan.registry)
    jobs = slurm.make_jobs(folder, groups, plan.store, config, options, size, only_states)
    if dry:
        for job in jobs:
            print(f"\n# {folder}/{job.name}.sh: {len(job.cells)} tasks, after {job.after or 'nothing'}\n{job.text}")
        return 0
    plan.check_room(list(chosen))
    plan.write_configs(list(chosen))
    for name in chosen:
        _forget_starts(plan.store.cell(name))
    for name, number in slurm.submit(folder, jobs).items():
        print(f"job {number}: {folder}/{name}.sh", flush=True)
    return 0


def groups_of(cells: Mapping[str, Cell], store: Store, registry: Registry) -> list[slurm.Group]:
    """Cells by the artefacts that they share, which may still have to be built, and by their devices."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, cell in cells.items():
        groups.setdefault((cell.shared_parts, cell.devices, cell.nodes), []).append(name)
    return [
        slurm.Group(tuple(names), not _all_built(cells[names[0]], store, registry), devices, nodes)
        for (_, devices, nodes), names in groups.items()
    ]


def _all_built(cell: Cell, store: Store, registry: Registry) -> bool:
    return all(store.artefact(*key) for key in artefact_keys(cell, registry))


def given_up(plan: Plan, name: str) -> bool:
    """In a task of Slurm's: whether the cell has been begun too often from one checkpoint; its record then says so."""
    cell = plan.store.cell(name)
    starts = _starts_without_progress(cell)
    if starts <= MAX_STRIKES:
        return False
    lease = plan.store.cell_lease(name)
    if lease is None:
        return False
    with lease:
        reason = f"cut off {starts - 1} times without a new checkpoint; raise slurm.time"
        plan.store.write_record(name, plan.failed_record(name, reason))
    _forget_starts(cell)
    return True


def _starts_without_progress(cell: CellPaths) -> int:
    """Of a task that begins now: how many in a row, it included, have begun from the checkpoint that there is."""
    note = cell.folder / "starts.json"
    mark = cell.last_checkpoint.stat().st_mtime_ns if cell.last_checkpoint.exists() else 0
    before = read_json(note) or {}
    starts = 1 + (before.get("starts", 0) if before.get("checkpoint") == mark else 0)
    write_json(note, {"checkpoint": mark, "starts": starts})
    return starts


def _forget_starts(cell: CellPaths) -> None:
    """Count anew: somebody has asked for the cell again."""
    (cell.folder / "starts.json").unlink(missing_ok=True)
