"""Records -> leaderboard.csv (a row a cell) and summary.csv (a row a setting): pure functions, and one that writes.

Nothing is stored in a table that a record does not hold, so that a table may be deleted and rebuilt, and two rebuilds
from the same records are equal byte for byte.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmark.files import write_text
from benchmark.statistics import Interval, above_half, bimodal, binomial_variance, t_interval
from benchmark.tables import Row, is_number, to_csv
from datasets.factors import level

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmark.store import Store

DESCRIPTION = ("dataset", "architecture", "tokenizer", "conditioning")
IDENTITY = ("cell", *DESCRIPTION, "changed", "seed", "preset", "state", "reason", "steps")
LEVELS = ("level0", "level1", "level2", "strict_level0", "strict_level1", "strict_level2")
COST = (
    *("parameters", "target_tokens", "flops", "evaluations_per_sample", "curve_evaluations_per_sample"),
    *("minutes", "images_per_second", "peak_memory_mb"),
)
PROVENANCE = (  # with these a failed cell still tells what was asked for, and where
    *("device", "split", "recipe", "view", "max_steps", "setting", "seed_data", "seed_tokenizer", "seed_probe"),
    *("samples_per_composition", "git_commit", "date"),
)

# The order of columns: a column stands with the first pattern that matches its whole name, and unknown ones come last.
ORDER = (
    *IDENTITY,
    *LEVELS,
    r"drawn_(strict_)?level\d",
    r"drawn_.*",
    r"comp_.*",
    r"strict_comp_.*",
    r"factor_.*",
    r"strict_factor_.*",
    r"(real|recon|psnr|codebook|codes)_?.*",
    r"strict_judge_accepted_.*",
    r"(kid|memorised|fid).*",
    r"(one_step|all_steps)_.*",
    *(rf"{judge}level2_{name}" for judge in ("", "strict_") for name in ("last5", "max", "max_step", "half")),
    *("curve_points", "still_moving", "strict_still_moving"),
    *COST,
    *PROVENANCE,
)
SHOWN = ("cell", "state", "steps", *LEVELS, "still_moving", "minutes")  # what fits on a screen
SHARES = (*LEVELS, *(f"drawn_{name}" for name in LEVELS))  # what summary.csv averages over seeds
SETTING = (
    *DESCRIPTION,
    *("changed", "preset", "recipe", "view", "steps", "split", "setting"),
)  # what its seeds have in common
DEVELOPMENT = 100  # seeds from here on chose recipes; they decide nothing
SEEDS = {"seed": "model", "seed_data": "data", "seed_tokenizer": "tokenizer", "seed_probe": "probe"}
SAMPLES = 512  # images judged a composition where a record does not say (science: final evaluation)
POINTS = 10  # evaluations of a curve where a record does not say (the laptop preset's)
MOVING = 0.05  # a level that changed by more than this over the last fifth of training has not settled


def leaderboard(records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row a record, sorted by dataset, tokenizer, conditioning, steps, architecture and seed.

    A failed cell keeps its identity, its reason and where it ran, and has no numbers: half a result is none.
    """
    rows = [_row(record) for record in records]
    keys = ("dataset", "tokenizer", "conditioning", "steps", "architecture", "seed", "cell")
    return sorted(rows, key=lambda row: tuple(_sortable(row.get(key)) for key in keys))


def columns(rows: Iterable[Row]) -> list[str]:
    """The columns of a leaderboard: those that every one has and those of the rows, in ``ORDER`` and then by name."""
    present = {column for row in rows for column in row} | set(IDENTITY) | set(LEVELS)
    return sorted(present, key=lambda column: (_rank(column), column))


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row a setting, over its seeds; suspicious cells and development seeds get rows of their own and enter no other's mean.

    Every share in ``SHARES`` comes as mean, 95 % interval (Student's t over seeds, variance never below the binomial
    variance of the samples) and whether the seeds are bimodal; if they are, there is no interval but the number of
    seeds above .5, with Wilson's interval for their share.
    """
    settings: dict[tuple[str, bool], list[Row]] = {}
    for row in rows:
        settings.setdefault((_setting(row), _develops(row)), []).append(row)
    return [line for cells in settings.values() for line in _summarise(cells)]


def summary_columns() -> list[str]:
    """The columns of a summary."""
    counted = ("state", "seeds", "suspicious", "failed", "replicated")
    parts = ("", "_low", "_high", "_bimodal", "_above_half", "_above_half_low", "_above_half_high")
    return [*SETTING, *counted, *(share + part for share in SHARES for part in parts)]


def rebuild(store: Store) -> list[Row]:
    """Write leaderboard.csv and summary.csv from all records; again if records appeared meanwhile. Returns the rows.

    The lease keeps processes from writing the same tables at once. It is a courtesy: each file is replaced as a whole,
    and who writes an old table sees the newer records right after, so that nobody needs to wait long for a dead holder.
    """
    with _turn(store):
        records = list(store.records())
        while True:
            rows = leaderboard(records)
            _write_if_new(store.results / "leaderboard.csv", to_csv(rows, columns(rows)))
            _write_if_new(store.results / "summary.csv", to_csv(summary(rows), summary_columns()))
            latest = list(store.records())
            if latest == records:
                return rows
            records = latest


def curve_summary(curve: Sequence[Row]) -> Row:
    """What a training curve adds to its last point, for the probe and for the strict judge.

    Args:
        curve: rows of ``curve.csv`` with ``step``, ``level0``, ``level2`` and the same with ``strict_``; rows without
            a level (losses only) are passed over.

    Returns:
        ``level2_last5`` (mean of the last five evaluations), ``level2_max`` and ``level2_max_step`` (the first step
        that reached it), ``level2_half`` (share of the run after which level 2 first reached half of where it ended;
        None where it ended at nothing), ``still_moving`` (level 0 or 2 changed by more than .05 between 80 % of the
        steps and the end; None where the curve is too short to tell), the same with ``strict_``, and ``curve_points``
        (evaluations of the curve).
    """
    result: Row = {"curve_points": sum(is_number(row.get("level2")) for row in curve)}
    for judge in ("", "strict_"):
        seen = [row for row in curve if is_number(row.get(f"{judge}level2"))]
        last = [row[f"{judge}level2"] for row in seen[-5:]]
        best = max(seen, key=lambda row: row[f"{judge}level2"], default={})
        result |= {
            f"{judge}level2_last5": math.fsum(last) / len(last) if last else None,
            f"{judge}level2_max": best.get(f"{judge}level2"),
            f"{judge}level2_max_step": best.get("step"),
            f"{judge}level2_half": _half(seen, f"{judge}level2"),
            f"{judge}still_moving": _still_moving(seen, (f"{judge}level0", f"{judge}level2")),
        }
    return result


def least_variance(row: Row, measure: str) -> float:
    """What one seed's number varies by through how it was measured alone: samples for a share, rounding for a time.

    ``level2_half`` is known to the spacing of the curve's points only, whose rounding has a variance of spacing^2 / 12.
    """
    if measure in SHARES:
        return binomial_floor(row, measure)
    if measure in ("level2_half", "strict_level2_half"):
        return (1 / int(row.get("curve_points") or POINTS)) ** 2 / 12
    return 0.0


def binomial_floor(row: Row, share: str) -> float:
    """Least variance of one seed's level accuracy: that of its samples, level = mean over its compositions.

    By concavity the variance of a mean over compositions is at most that of one share over all their samples together,
    which is what is returned. Where the split does not tell a level's compositions, one is assumed (the widest).
    """
    split = tuple(re.findall(r"\d+", str(row.get("split") or "")))
    judged = [column.removeprefix("comp_") for column in row if column.startswith("comp_")]
    lengths = {len(composition) for composition in (*split, *judged)}
    known = len(lengths) == 1 and bool(split)
    wanted = int(share[-1])
    compositions = sum(level(composition, split) == wanted for composition in judged) if known else 1
    samples = int(row.get("samples_per_composition") or SAMPLES)
    return binomial_variance(row[share], samples * max(1, compositions))


def _row(record: Mapping[str, Any]) -> Row:
    row: Row = dict(record.get("row") or {})
    row |= {key: record[key] for key in ("cell", "state", "reason", "setting") if key in record}
    if row.get("state") == "failed":
        row = {key: value for key, value in row.items() if key in IDENTITY or key in PROVENANCE}
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def _rank(column: str) -> int:
    return next((rank for rank, pattern in enumerate(ORDER) if re.fullmatch(pattern, column)), len(ORDER))


def _sortable(value: Any) -> tuple[int, float, str]:
    """Orders numbers, texts and missing values together: missing first, then numbers, then texts."""
    if value is None:
        return (0, 0.0, "")
    return (1, float(value), "") if is_number(value) else (2, 0.0, str(value))


def _setting(row: Row) -> str:
    """The setting's hash; without one (a table of older records) everything that describes a setting."""
    return str(row.get("setting") or [row.get(key) for key in SETTING])


def _develops(row: Row) -> bool:
    """Whether its seed is one of those on which recipes are chosen, which claims pass over."""
    return is_number(row.get("seed")) and row["seed"] >= DEVELOPMENT


def _summarise(cells: Sequence[Row]) -> list[Row]:
    """A row for the good cells of one setting, and one for the suspicious ones where there are any."""
    counts = {state: sum(row["state"] == state for row in cells) for state in ("suspicious", "failed")}
    described = {key: cells[0].get(key) for key in SETTING}
    lines = []
    for state in ("ok", "suspicious"):
        chosen = [row for row in cells if row["state"] == state]
        if chosen or (state == "ok" and not counts["suspicious"]):
            told = f"{state}, development" if _develops(cells[0]) else state
            varied = {"replicated": replicated(chosen), "state": told, "seeds": len(chosen)}
            lines.append(described | counts | varied | _shares(chosen))
    return lines


def replicated(cells: Sequence[Row]) -> str:
    """Which of the four seeds vary over the cells, for instance ``"model"`` or ``"model, tokenizer"``."""
    return ", ".join(name for key, name in SEEDS.items() if len({row.get(key) for row in cells}) > 1)


def _shares(cells: Sequence[Row]) -> Row:
    line: Row = {}
    for share in SHARES:
        values = [row[share] for row in cells if is_number(row.get(share))]
        if not values:
            continue
        floor = max(binomial_floor(row, share) for row in cells if is_number(row.get(share)))
        interval = t_interval(values, floor).clipped(0.0, 1.0)
        line |= {share: interval.estimate, f"{share}_bimodal": bimodal(values)}
        if bimodal(values):
            above = above_half(values)
            line |= {f"{share}_above_half": round(above.estimate * above.n)} | _bounds(f"{share}_above_half", above)
        else:
            line |= _bounds(share, interval)
    return line


def _bounds(name: str, interval: Interval) -> Row:
    return {f"{name}_low": interval.low, f"{name}_high": interval.high}


def _half(curve: Sequence[Row], share: str) -> float | None:
    if not curve or curve[-1][share] <= 0:
        return None
    return next(row["step"] for row in curve if row[share] >= curve[-1][share] / 2) / curve[-1]["step"]


def _still_moving(curve: Sequence[Row], levels: Sequence[str]) -> bool | None:
    if not curve:
        return None
    before = [row for row in curve if row["step"] <= 0.8 * curve[-1]["step"]]
    if not before:
        return None
    changes = [abs(curve[-1][name] - before[-1][name]) for name in levels if is_number(curve[-1].get(name))]
    return max(changes, default=0.0) > MOVING


@contextmanager
def _turn(store: Store, patience: float = 10.0) -> Iterator[None]:
    """Hold the lease on the tables, or go on without it after so many seconds."""
    from benchmark.leases import Lease

    lease, give_up = Lease(store.results / "leases" / "leaderboard.lock"), time.monotonic() + patience
    while not (ours := lease.acquire()) and time.monotonic() < give_up:
        time.sleep(0.05)
    try:
        yield
    finally:
        if ours:
            lease.release()


def _write_if_new(path: Path, content: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        write_text(path, content)
