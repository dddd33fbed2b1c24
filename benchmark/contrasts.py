"""The pre-registered contrast: leaderboard rows in, verdicts out, by the rules of ``configs/contrasts.yaml``.

The rules were written before the reported seeds were run. Nothing here looks for a favourable reading: a seed that is
missing or failed leaves a claim undecided, suspicious cells are left out and counted, and a setting that does not
qualify is shown with its numbers but compared with nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.leaderboard import binomial_floor
from benchmark.statistics import Interval, bimodal_remark, t_interval, welch_interval
from benchmark.tables import Row, is_number, render

RULES = Path(__file__).parent / "configs" / "contrasts.yaml"
COLUMNS = ("part", "claim", "estimate", "low", "high", "n", "verdict", "note")
SUPPORTED, CONTRADICTED, UNDECIDED, NOT_COMPARABLE = "supported", "contradicted", "undecided", "not comparable"

Rules = Mapping[str, Any]


@dataclass(frozen=True)
class Side:
    """The cells of one setting that the rules name, and what is wrong with them."""

    name: str
    rows: tuple[Row, ...]  # the cells whose numbers count, one a seed
    seeds: int  # how many cells the rules want
    missing: str = ""  # why the setting cannot be decided yet
    unfit: str = ""  # why the setting does not qualify
    left_out: int = 0  # suspicious cells that do not count

    def values(self, measure: str) -> list[float]:
        return [row[measure] for row in self.rows]

    def floor(self, measure: str) -> float:
        """Least variance of one seed: the binomial variance of its samples."""
        return max((binomial_floor(row, measure) for row in self.rows), default=0.0)

    def remarks(self, measure: str) -> list[str]:
        """What a reader must know of this setting beside the numbers."""
        left_out = f"{self.left_out} suspicious left out" if self.left_out else ""
        remarks = (self.missing, self.unfit, left_out, bimodal_remark(self.values(measure)))
        return [f"{self.name}: {remark}" for remark in remarks if remark]


@functools.cache
def load_rules(path: Path = RULES) -> Rules:
    """The rules as written in a YAML file."""
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def contrast_table(leaderboard: Sequence[Row], rules: Rules | None = None) -> list[Row]:
    """A row a claim, with the columns ``COLUMNS``: (a) who qualifies, (b, c) differences, (d) implementation checks.

    Args:
        leaderboard: rows of the leaderboard, in any order; those that no rule names are ignored.
        rules: as in ``configs/contrasts.yaml``, which is the default.
    """
    rules = rules or load_rules()
    sides = {name: _side(name, leaderboard, rules) for name in rules["settings"]}
    return [
        *(_qualification(sides[name], rules) for name in rules["ladder"]),
        *(_difference(sides[each["first"]], sides[each["second"]], each, rules) for each in rules["contrasts"]),
        *(_check(sides[each["setting"]], each, rules) for each in rules["checks"]),
    ]


def markdown(table: Sequence[Row]) -> str:
    """The table as people read it."""
    return render(table, COLUMNS, "md")


def verdict(interval: Interval, above: float) -> str:
    """Where an interval lies: wholly above the bar, wholly below it, or neither (or there is none)."""
    if interval.low > above:
        return SUPPORTED
    return CONTRADICTED if interval.high < above else UNDECIDED


def _side(name: str, leaderboard: Sequence[Row], rules: Rules) -> Side:
    wanted = {**rules["select"], "seeds": rules["seeds"], **rules["settings"][name]}
    seeds = wanted.pop("seeds")
    named = [row for row in leaderboard if all(row.get(key) == value for key, value in wanted.items())]
    named = sorted((row for row in named if row.get("seed") in seeds), key=lambda row: row["seed"])
    judged = [row for row in named if row["state"] != "failed" and is_number(row.get(rules["measure"]))]
    unfit = _unfit(judged, rules["qualification"])
    # Suspicious cells back no claim. About a setting that does not qualify none is made: all of its cells are shown.
    shown = judged if unfit else [row for row in judged if row["state"] == "ok"]
    return Side(name, tuple(shown), len(seeds), _missing(named, judged, seeds), unfit, len(judged) - len(shown))


def _missing(named: Sequence[Row], judged: Sequence[Row], seeds: Sequence[int]) -> str:
    """Why these cells are not the ones that were planned: pooled settings, or seeds without a result."""
    settings = {row.get("setting") for row in named}
    if len(settings) > 1 or len({row["seed"] for row in named}) < len(named):
        return f"{len(named)} cells of {len(settings)} settings fit the rule, which wants one cell a seed"
    absent = [str(seed) for seed in seeds if seed not in {row["seed"] for row in judged}]
    return f"no result for seed {', '.join(absent)}" if absent else ""


def _unfit(judged: Sequence[Row], qualification: Mapping[str, float]) -> str:
    """The first number that falls below its bar (or was never measured), in words; empty where all cells qualify."""
    for row in judged:
        for prefix, bar in qualification.items():
            found = {key: row[key] for key in row if key == prefix or key.startswith(f"{prefix}_")}
            worst = min(found, key=lambda key: found[key] if is_number(found[key]) else -math.inf, default="")
            if not worst or not is_number(found[worst]):
                return f"does not qualify, seed {row['seed']} has no {prefix}"
            if found[worst] < bar:
                return f"does not qualify, seed {row['seed']} has {worst} {found[worst]:.3f} < {bar:.2f}"
    return ""


def _qualification(side: Side, rules: Rules) -> Row:
    bars = " and ".join(f"{name} >= {bar:.2f}" for name, bar in rules["qualification"].items())
    decision = NOT_COMPARABLE if side.unfit else UNDECIDED if side.missing else SUPPORTED
    return _line("a", f"{side.name} qualifies: {bars} in every cell", None, [side], decision, rules)


def _difference(first: Side, second: Side, contrast: Mapping[str, Any], rules: Rules) -> Row:
    measure, sides, interval = rules["measure"], [first, second], None
    if first.rows and second.rows:
        values = (first.values(measure), second.values(measure))
        floors = (first.floor(measure), second.floor(measure))
        interval = welch_interval(*values, floors, rules["confidence"])
    decision = verdict(interval, contrast["above"]) if interval else UNDECIDED
    if any(side.missing for side in sides):
        decision = UNDECIDED
    if any(side.unfit for side in sides):
        decision = NOT_COMPARABLE
    claim = f"{first.name} minus {second.name} in {measure} > {contrast['above']:.2f}"
    return _line(contrast["part"], claim, interval, sides, decision, rules)


def _check(side: Side, check: Mapping[str, Any], rules: Rules) -> Row:
    measure, interval, decision = rules["measure"], None, UNDECIDED
    if side.rows:
        interval = t_interval(side.values(measure), side.floor(measure), rules["confidence"]).clipped(0.0, 1.0)
        decision = SUPPORTED if interval.estimate >= check["at_least"] else CONTRADICTED
    if side.missing or len(side.rows) < side.seeds:
        decision = UNDECIDED
    claim = f"{side.name} reaches {measure} >= {check['at_least']:.2f}, mean of {side.seeds} seeds"
    return _line(check["part"], claim, interval, [side], decision, rules)


def _line(part: str, claim: str, interval: Interval | None, sides: Sequence[Side], decision: str, rules: Rules) -> Row:
    return {
        "part": part,
        "claim": claim,
        "estimate": interval.estimate if interval else None,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "n": " + ".join(str(len(side.rows)) for side in sides),
        "verdict": decision,
        "note": "; ".join(remark for side in sides for remark in side.remarks(rules["measure"])),
    }
