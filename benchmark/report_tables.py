"""The report's tables: which columns, in which words, from rows of the leaderboard; no number is made here but means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.leaderboard import LEVELS, columns, summary
from benchmark.plots import Group
from benchmark.tables import Row, is_number, read_csv, short
from datasets.factors import level

CORE = (
    *("architecture", "tokenizer", "conditioning", "changed", "steps", "seed", "state"),
    *(*LEVELS[3:], *LEVELS[:3], "minutes"),
)
COST = (
    *("parameters", "sampled_parameters", "target_tokens", "flops", "sample_flops", "evaluations_per_sample"),
    *("curve_sample_flops", "curve_evaluations_per_sample"),
    *("minutes", "evaluation_minutes", "images_per_second", "peak_memory_mb", "device"),
)
CEILINGS = (
    *(
        f"{source}_{judge}level{number}"
        for source in ("real", "recon")
        for judge in ("strict_", "")
        for number in range(3)
    ),
    *("psnr", "codebook_usage", "codes_never_trained", "held_out_codes_never_trained"),
)
SETTING = ("tokenizer", "preset", "seed_data", "seed_tokenizer", "seed_probe")  # what cells of one ceiling share
VERDICT = (  # what is shown of a verdict; how it was come by is folded away
    *("claim", "published", "means", "verdict", "effect", "low", "high", "n"),
    *("seeds_missing", "more_seeds", "verdict_holm", "preset", "note"),
)
WRONG = "accepted, but another composition"
WORDS = {
    **{f"strict_level{number}": f"strict level {number}" for number in range(3)},
    **{f"level{number}": f"probe level {number}" for number in range(3)},
    "drawn_level2": "probe level 2, drawn values",
    "peak_memory_mb": "peak memory, MB",
    "images_per_second": "images / s",
}


@dataclass
class Entry:
    """One cell of a table: what is shown, what it is sorted by, and where it leads."""

    text: str
    value: float | str = ""
    link: str = ""
    share: float | None = None  # drawn as a bar behind the text


@dataclass
class Table:
    """Columns as (word, whether it is folded away), and rows; the first column names the row."""

    caption: str
    columns: list[tuple[str, bool]]
    rows: list[list[Entry]] = field(default_factory=list)

    @property
    def folds(self) -> bool:
        return any(folded for _, folded in self.columns)


def leaderboard_table(rows: Sequence[Row]) -> Table:
    """A row a cell; all columns that the leaderboard has, those but ``CORE`` folded away."""
    shown = [*CORE, *(name for name in columns(rows) if name not in CORE)]
    always = set(CORE) - {"changed"}  # of no use where all is usual
    shown = [name for name in shown if name in always or any(row.get(name) not in (None, "") for row in rows)]
    table = Table("One trained model a row", [(_words(name), name not in CORE) for name in shown])
    for row in rows:
        line = [_entry(name, row.get(name)) for name in shown]
        line[0].link = f"#cell-{row['cell']}"
        table.rows.append(line)
    return table


def summary_table(groups: Sequence[Group]) -> Table:
    """A row a setting: mean over seeds with its 95 % interval; bimodal seeds are counted instead."""
    shares = (*LEVELS[3:], *LEVELS[:3], "drawn_level2")
    words = [_words(share) for share in shares]
    table = Table("Mean over seeds (95 % interval)", [(word, False) for word in ("setting", "seeds", *words)])
    for title, cells in groups:
        for row in summary(cells):
            name = title if row["state"] == "ok" else f"{title} ({row['state']}, enters no verdict)"
            entries = [Entry(name, name), Entry(str(row["seeds"]), float(row["seeds"]))]
            table.rows.append([*entries, *(_mean(row, share) for share in shares)])
    return table


def verdict_table(path: Path, dataset: str) -> Table | None:
    """The verdicts on one dataset, with whatever columns the file has; None where it has none.

    ``verdict`` and ``claim`` come first where they exist; a row without a dataset belongs to every one.
    """
    rows = read_csv(path) if path.exists() else []
    rows = [row for row in rows if row.get("dataset") in (dataset, None)]
    if not rows:
        return None
    first = [name for name in VERDICT if name in rows[0]]
    shown = [*first, *(name for name in rows[0] if name not in first and name != "dataset")]
    folded = set(shown) - set(first)
    table = Table("Verdicts", [(_words(name), name in folded) for name in shown])
    table.rows = [[_entry(name, row.get(name)) for name in shown] for row in rows]
    return table


def rejection_table(cells: Sequence[Row], judgements: Iterable[Path], train: tuple[str, ...]) -> Table | None:
    """Why samples of one setting count for nothing, by level: shares of all samples asked for class centres."""
    import pandas as pd

    names = ["composition", "accepted", "reason", "all_correct"]
    wanted = [("judge", "==", "strict"), ("mode", "==", "centre")]
    tables = []
    for path in judgements:
        with suppress(OSError, ValueError):  # missing or damaged: the caption tells how many there are
            tables.append(pd.read_parquet(path, columns=names, filters=wanted))
    samples = pd.concat(tables) if tables else pd.DataFrame(columns=names)
    if samples.empty or not train:
        return None
    samples["level"] = [level(composition, train) for composition in samples["composition"]]
    wrong = samples["accepted"].astype(bool) & ~samples["all_correct"].astype(bool)
    samples["why"] = samples["reason"].fillna("").where(~wrong, WRONG)
    totals = samples["level"].value_counts().sort_index()
    counts = samples[samples["why"] != ""].groupby(["why", "level"]).size()
    heads = [(word, False) for word in ("reason", *(f"level {number}" for number in totals.index))]
    table = Table(f"Share of samples refused, over {len(tables)} of {len(cells)} seeds", heads)
    for why in counts.groupby("why").sum().sort_values(ascending=False).index:
        shares = [float(counts.get((why, number), 0)) / int(total) for number, total in totals.items()]
        table.rows.append([Entry(str(why), str(why)), *(Entry(f"{s:.3f}", s, share=s) for s in shares)])
    return table


def ceiling_table(rows: Sequence[Row]) -> Table | None:
    """What the judges say of held-out real images, and of those through the tokenizer: a row for each that differs."""
    accepted = sorted({name for row in rows for name in row if name.startswith("strict_judge_accepted_")})
    measured = [name for name in (*CEILINGS, *accepted) if any(is_number(row.get(name)) for row in rows)]
    lines = {tuple(row.get(name) for name in (*SETTING, *measured)) for row in rows if row.get("state") != "failed"}
    if not measured or not lines:
        return None
    table = Table("Ceilings", [(_words(name), False) for name in (*SETTING, *measured)])
    for line in sorted(lines, key=str):
        table.rows.append([_entry(name, value) for name, value in zip((*SETTING, *measured), line, strict=True)])
    return table


def cost_table(rows: Sequence[Row]) -> Table:
    """What each finished cell took."""
    finished = [row for row in rows if row.get("state") != "failed"]
    shown = [name for name in COST if any(row.get(name) is not None for row in finished)]
    table = Table("Cost of each cell", [(_words(name), False) for name in ("cell", *shown)])
    table.rows = [[_entry(name, row.get(name)) for name in ("cell", *shown)] for row in finished]
    return table


def trouble_table(rows: Sequence[Row], unfinished: Sequence[Row]) -> Table | None:
    """Cells that are not ok, with the reason."""
    troubled = [row for row in rows if row.get("state") != "ok"] + list(unfinished)
    if not troubled:
        return None
    table = Table("Cells without an unquestioned result", [(word, False) for word in ("cell", "state", "reason")])
    table.rows = [[_entry(name, row.get(name)) for name in ("cell", "state", "reason")] for row in troubled]
    return table


def published_table(lines: Sequence[Row]) -> Table:
    """Level 2 of the published curves: its last point and its maximum."""
    words = (
        "figure",
        "architecture",
        "tokenizer",
        "conditioning",
        "last (95 % of 64 samples)",
        "at step",
        "maximum",
        "at step ",
    )
    table = Table("Published level 2, by the probe", [(word, False) for word in words])
    for line in lines:
        entries = [_entry(name, line[name]) for name in words[:4]]
        for name in ("last", "maximum"):
            entries += [_mean(line, name), _entry("step", line[f"{name}_step"])]
        table.rows.append(entries)
    return table


def _mean(row: Mapping[str, Any], share: str) -> Entry:
    value, low, high = (row.get(name) for name in (share, f"{share}_low", f"{share}_high"))
    if value is None or not is_number(value):
        return Entry("")
    if row.get(f"{share}_bimodal"):
        return Entry(f"bimodal: {row[f'{share}_above_half']} of {row['seeds']} above .5", float(value))
    around = f" ({low:.2f} to {high:.2f})" if is_number(low) and is_number(high) else ""  # one seed has no interval
    return Entry(f"{value:.2f}{around}", float(value), share=float(value))


def _entry(name: str, value: Any) -> Entry:
    text = short(name, value)
    if is_number(value):
        is_share = name in LEVELS or "level" in name
        text = f"{value:.3g}" if name in ("flops", "sample_flops", "curve_sample_flops", "target_tokens") else text
        return Entry(text, float(value), share=float(value) if is_share and 0 <= value <= 1 else None)
    return Entry(text, text if not isinstance(value, float) or not math.isnan(value) else "")


def _words(name: str) -> str:
    return WORDS.get(name, name.replace("_", " "))
