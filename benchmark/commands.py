"""What each command does: select, check, call, print. Torch is imported only by who trains or judges."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from benchmark import local, slurm, submission, workers
from benchmark.cell import Cell
from benchmark.cli import NOT_OK, Tokens
from benchmark.composer import Composer, evaluation_config
from benchmark.config import ConfigError
from benchmark.files import write_text
from benchmark.grid import load_grid
from benchmark.leaderboard import SHOWN, columns, rebuild
from benchmark.leaderboard import leaderboard as rows_of
from benchmark.machine import Machine, this_machine
from benchmark.options import check_seeds, form_of, jobs_at_once, only_states_of
from benchmark.plan import Plan, check_folder, check_out, check_writable, duration, plan_cells, plan_grid, plan_stored
from benchmark.registry import discover
from benchmark.states import OK, summary, to_run
from benchmark.store import Store
from benchmark.tables import Row, render, terminal, to_csv

DEFAULT_GRID = "all"


def run(arguments: argparse.Namespace, tokens: Tokens) -> int:
    """Run what is not finished, then write the leaderboard, also where something failed."""
    jobs, only_states = jobs_at_once(arguments.jobs), only_states_of(arguments)
    if arguments.dry_run and not arguments.slurm:
        raise ConfigError("--dry-run shows what --slurm would submit; `plan` shows what a run here would do")
    if arguments.slurm:
        return _submit(arguments, tokens, only_states)
    plan = _plan(arguments, tokens)
    check_writable(plan.store.results)
    if arguments.cell and local.is_worker(plan):
        return local.work(plan, arguments)
    before = {name: plan.store.record_count(name) for name in plan.cells}
    selected = plan.longest_first(to_run(plan.states, only_states))
    if arguments.cell and slurm.JOB in os.environ and selected and submission.given_up(plan, arguments.cell):
        selected = []
    plan.check_room(selected)
    by_srun = local.started_by_srun(plan)
    gpus = [] if by_srun else local.gpus(plan)
    if plan.nodes > 1 and not by_srun:
        raise ConfigError(f"trainer.nodes={plan.nodes} needs SLURM: submit with --slurm")
    at_once = workers.auto_jobs(plan.threads * plan.devices, gpus) if jobs == "auto" else int(jobs)
    _say(*plan.notes, *plan.heading(selected, min(at_once, max(1, len(selected)))), summary(plan.states, selected))
    plan.write_configs(selected)
    code = 0
    if selected and by_srun:
        os.environ[workers.ENDED_BEFORE] = str(before[arguments.cell])
        code = local.work(plan, arguments)
    elif selected:
        code = local.launch_cells(plan, selected, at_once, gpus, before, arguments)
    plan.store.clear_leases()
    rows = rebuild(plan.store)
    written = ", ".join(["leaderboard.csv", "summary.csv", *_draw(plan.store, rows)])
    selection = [row for row in rows if row["cell"] in plan.cells]
    table = render(selection, SHOWN, "md") if selection else "no cell has ended yet: the same command goes on"
    _say(table, f"-> {plan.store.results}/{written}")
    return code or _all_ok(plan, selected if only_states else list(plan.cells))


def plan(arguments: argparse.Namespace, tokens: Tokens) -> int:
    """A table of every cell with state, minutes and basis; totals; nothing is started or written."""
    only_states = only_states_of(arguments)
    plan = _plan(arguments, tokens)
    rows = [row for row in plan.rows() if not only_states or row["state"] in only_states]
    if arguments.format:
        _say(render(rows, ("cell", "state", "minutes", "basis"), form_of(arguments.format)))
        return 0
    selected = to_run(plan.states, only_states)
    at_once = min(workers.auto_jobs(plan.threads * plan.devices, local.gpus(plan)), max(1, len(selected)))
    _say(*plan.notes, *plan.heading(selected, at_once), summary(plan.states, selected), "")
    _say(terminal([row | {"minutes": duration(row["minutes"])} for row in rows], ("cell", "state", "minutes", "basis")))
    if arguments.grid and not arguments.cell:
        from benchmark import claims

        _say(*claims.power_lines(claims.load_claims(), arguments.grid))
    return 0


def status(arguments: argparse.Namespace, tokens: Tokens) -> int:
    """A table of states and reasons; without a selection, of every cell that the results folder has."""
    only_states = only_states_of(arguments)
    plan = _plan(arguments, tokens)
    waiting = slurm.queued(plan.store.results)
    rows: list[Row] = [
        {"cell": name, "state": state.name, "reason": "; ".join(filter(None, (state.reason, waiting.get(name))))}
        for name, state in plan.states.items()
        if not only_states or state.name in only_states
    ]
    shown = ("cell", "state", "reason")
    if arguments.format:
        _say(render(rows, shown, form_of(arguments.format)))
    else:
        _say(*plan.notes, terminal(rows, shown) if rows else f"no cells in {plan.store.results}")
    return 0


def leaderboard(arguments: argparse.Namespace, tokens: Tokens) -> int:
    """Write the tables again from all records, and show the leaderboard."""
    check_folder(arguments.results, must_exist=True)
    form = form_of(arguments.format) if arguments.format else ""
    store = Store(arguments.results)
    written = _can_write(store, "leaderboard.csv and summary.csv")
    rows = rebuild(store) if written else rows_of(store.records())
    if form:
        _say(render(rows, columns(rows), form))
    elif rows:
        _say(render(rows, SHOWN, "md"), *[f"-> {arguments.results}/leaderboard.csv and summary.csv"] * written)
    else:
        _say(f"no records in {arguments.results.absolute()}: `python -m benchmark run` makes some")
    return 0 if written or form else NOT_OK


def report(arguments: argparse.Namespace, tokens: Tokens) -> int:
    """Write the tables again, and the page over them."""
    check_folder(arguments.results, must_exist=True)
    check_writable(arguments.results)
    store, registry = Store(arguments.results), discover(arguments.plugin)
    rows = rebuild(store)
    from benchmark.report import write_report

    _say(f"{len(rows)} records -> {write_report(store, registry, rows)}")
    return 0


def claims(arguments: argparse.Namespace, tokens: Tokens) -> int:
    """Decide every claim from the records of a results folder, or from the rows of a table."""
    form = form_of(arguments.format) if arguments.format else ""
    out, written = arguments.out, True
    if out:
        check_out(out)
    from benchmark import claims, evidence

    composer = Composer(
        discover(arguments.plugin), this_machine(), load_grid("full"), arguments.preset, tokens.overrides
    )
    if arguments.table:
        if not arguments.table.is_file():
            raise ConfigError(f"There is no table {arguments.table}; --table takes a leaderboard.csv")
        found = evidence.of_table(arguments.table)
    else:
        check_folder(arguments.results, must_exist=True)
        store = Store(arguments.results)
        found = evidence.of_store(store)
        if not out and (written := _can_write(store, "verdicts.csv")):
            out = arguments.results / "verdicts.csv"
    rows = claims.verdicts(claims.load_claims(), found, composer)
    _say(render(rows, claims.COLUMNS, form) if form else claims.shown(rows))
    if out:
        write_text(out, to_csv(rows, claims.COLUMNS))
        if not form:
            _say(f"-> {out}")
    return 0 if written or form else NOT_OK


def evaluate(arguments: argparse.Namespace, tokens: Tokens) -> int:
    """Sample and judge a finished cell again; the record stays, evaluations/NAME.json is added."""
    check_folder(arguments.results)
    store, registry = Store(arguments.results), discover(arguments.plugin)
    cell = Cell.read(store.cell(arguments.cell).config)
    check_writable(store.results)
    config = evaluation_config(cell.config, registry, tokens.overrides)
    local.fix_threads(cell)
    from benchmark import evaluate

    return evaluate.evaluate_again(cell, config, store, registry, arguments.name)


def prepare(arguments: argparse.Namespace, tokens: Tokens) -> int:
    """Write a dataset's images, or check those that are there against their manifest."""
    if arguments.compare_renderers is not None and arguments.compare_renderers < 1:
        raise ConfigError(f"--compare-renderers {arguments.compare_renderers} must be at least 1 scene")
    check_folder(arguments.results)
    store, registry = Store(arguments.results), discover(arguments.plugin)
    if arguments.cell:
        cell = Cell.read(store.cell(arguments.cell).config)
        check_writable(store.results)
        local.fix_threads(cell)
        from benchmark import preparation

        return preparation.prepare_cell(cell, store, registry)
    check_writable(store.results)
    only = [f"dataset={arguments.dataset}"]
    plan = plan_grid(store, registry, this_machine(), DEFAULT_GRID, arguments.preset, only, 1, tokens.overrides)
    cell = next(iter(plan.cells.values()))
    local.fix_threads(cell)
    from benchmark import preparation

    if arguments.compare_renderers is not None:
        return preparation.compare_renderers(cell, store, registry, arguments.compare_renderers)
    return preparation.prepare_data(cell, store, registry)


def speed(arguments: argparse.Namespace, tokens: Tokens) -> int:
    """Measure this machine, a process a row; a table, and with --out all columns as CSV."""
    from benchmark import speed

    plan = speed.plan(discover(arguments.plugin), this_machine(), arguments.preset, tokens)
    if out := arguments.out:
        check_out(out)
    _say(*plan.notes, f"preset    {plan.preset}", f"device    {plan.machine}")
    rows, failed = speed.measure(list(plan.cells.values()), local.gpus(plan), arguments.plugin, arguments.seconds, _say)
    _say(*(f"\n{terminal(shown, columns)}" for shown, columns in speed.tables(rows) if shown))
    if told := speed.whole(rows):
        _say(f"\n{told}")
    if out:
        write_text(out, to_csv(rows, speed.COLUMNS))
        _say(f"-> {out}")
    _say(*(f"{name} could not be measured: see above" for name in failed))
    return int(bool(failed))


def cancel(arguments: argparse.Namespace, tokens: Tokens) -> int:
    """Cancel what is left of this results folder's submissions; other jobs stay."""
    check_folder(arguments.results)
    jobs = slurm.cancel(arguments.results.absolute())
    _say(f"cancelled {', '.join(jobs)}" if jobs else f"nothing of {arguments.results.absolute()} is in the queue")
    return 0


def _plan(arguments: argparse.Namespace, tokens: Tokens, machine: Machine | None = None, preset: str = "auto") -> Plan:
    """What options, filters and overrides select, for this machine or another; `preset` is meant where none is named."""
    check_seeds(arguments, tokens.only)
    check_folder(arguments.results)
    store, registry, machine = Store(arguments.results), discover(arguments.plugin), machine or this_machine()
    described = arguments.preset or tokens.only or tokens.overrides or arguments.seeds
    if arguments.cell:
        if described:
            raise ConfigError(
                "--cell runs what its config.yaml says: leave --preset, --only, --seeds and KEY=VALUE out"
            )
        return plan_cells(store, registry, machine, [arguments.cell])
    if arguments.command == "status" and not (arguments.grid or described):
        return plan_stored(store, registry, machine)
    grid, preset = arguments.grid or DEFAULT_GRID, arguments.preset or preset
    return plan_grid(store, registry, machine, grid, preset, tokens.only, arguments.seeds, tokens.overrides)


def _submit(arguments: argparse.Namespace, tokens: Tokens, only_states: tuple[str, ...]) -> int:
    """Send the cells to SLURM, sized for its nodes."""
    if arguments.cell:
        raise ConfigError("--slurm submits grids: leave --cell out")
    site = submission.read_config(discover(arguments.plugin), tokens.overrides)
    plan = _plan(arguments, tokens, slurm.node(site), preset="paper")
    check_writable(plan.store.results)
    if not arguments.dry_run:
        plan.store.clear_leases()
    selected, options = to_run(plan.states, only_states), local.worker_options(arguments)
    return submission.submit(plan, selected, site, options, arguments.dry_run, only_states)


def _can_write(store: Store, files: str) -> bool:
    """Whether a results folder takes files; else it is said on stderr, and what is only shown goes on."""
    try:
        check_writable(store.results)
    except ConfigError as error:
        store.warn(f"{files} not written: {error}")
        return False
    return True


def _draw(store: Store, rows: list[Row]) -> list[str]:
    """The pictures beside the tables, by name; matplotlib is imported here, where a second does not matter."""
    from benchmark.plots import write_plots

    return [path.name for path in write_plots(store.results, rows)]


def _all_ok(plan: Plan, names: Sequence[str]) -> int:
    del plan.states  # they were read before the work
    return int(any(plan.states[name].name != OK for name in names))


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)
