"""Which published claims hold: records in, a verdict a claim and dataset out, by the rules of ``configs/claims.yaml``.

The file is written before its cells run, and its hash stands in every verdict. Each claim names its paper and figure,
datasets with their numbers of seeds, the sides that are compared, one primary number and a margin. Datasets are never
pooled, and nothing here looks for a favourable reading: a seed without a result leaves a claim undecided, suspicious and
failed cells enter none and are counted, and seeds beyond the planned ones mark a verdict as extended, beside which the
verdict of the planned ones stands. One rule was made after looking, when the clips' level 2 had come out 0 everywhere:
sides that all lie on the floor are not compared. It leaves undecided what would have been decided, and decides nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.composer import Composer
from benchmark.config import CONFIGS, ConfigError, nearest, read_yaml
from benchmark.decisions import RULES, SIDES, UNDECIDED, Decision, holm, more_seeds, power
from benchmark.evidence import Side, Trained, find_side
from benchmark.leaderboard import SHARES
from benchmark.published import level_2
from benchmark.statistics import Moments
from benchmark.tables import Row, is_number, render, terminal

CLAIMS = CONFIGS / "claims.yaml"
COLUMNS = (
    *("claim", "paper", "figure", "grid", "dataset", "preset", "type", "sides", "measure", "margin"),
    *("published", "means", "verdict", "effect", "low", "high", "n"),
    *("seeds", "p", "p_holm", "verdict_holm", "more_seeds"),
    *("extended", "verdict_planned", "suspicious", "failed", "note", "cells", "claims_file"),
)
SHOWN = (
    *("claim", "dataset", "published", "means", "effect", "low", "high", "n"),
    *("verdict", "verdict_holm", "more_seeds", "note"),
)
REQUIRED = ("name", "paper", "figure", "grid", "datasets", "type", "sides")
# A share below which a seed does not do what is asked at all: at most 1 of the 128 samples of a clips' seed, 2 of 256 of
# the others', none where fewer than 100 are judged. Not in the claims file, whose hash tells what was written before.
FLOOR = 0.01
LOW = 0.02  # a mean share below which a difference tells little
POWER_SEEDS = (3, 5, 10)


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper (or of ours about it) in a form that cells decide."""

    name: str
    paper: str
    figure: str
    grid: str  # whose cells decide it, and with whose other claims it is corrected for multiplicity
    datasets: Mapping[str, int]  # to the number of seeds that decide
    type: str  # greater | equivalent | ordered | reaches
    sides: tuple[str, ...]
    measure: str = "strict_level2"  # the primary number
    margin: float = 0.0  # of `reaches`: the bar
    expected: float | None = None  # difference that the paper reports, for power

    @property
    def text(self) -> str:
        """The claim in symbols."""
        if self.type == "reaches":
            return f"{self.sides[0]} >= {self.margin:g}"
        between = {"greater": " > ", "equivalent": " ~ ", "ordered": " > "}[self.type]
        return between.join(self.sides)


@dataclass(frozen=True)
class Claims:
    """A claims file."""

    claims: tuple[Claim, ...]
    settings: Mapping[str, Mapping[str, Any]]
    confidence: float
    spread: float  # standard deviation over seeds that power is reckoned with
    file_hash: str

    def of_grid(self, grid: str) -> list[Claim]:
        return [claim for claim in self.claims if claim.grid == grid]


def load_claims(path: Path = CLAIMS) -> Claims:
    """A claims file.

    Raises:
        ConfigError: for what is missing or unknown in it.
    """
    values = read_yaml(path)
    margins = {"greater": 0.0, "equivalent": float(values["equivalence_margin"]), "ordered": 0.0}
    claims = []
    for each in values["claims"]:
        required = (*REQUIRED, "margin") if each.get("type") == "reaches" else REQUIRED
        if missing := [key for key in required if key not in each]:
            raise ConfigError(f"{path}: claim {each.get('name', '?')} does not say {', '.join(missing)}")
        if each["type"] not in RULES:
            raise ConfigError(
                f"{path}: claim {each['name']} is of no type '{each['type']}'{nearest(each['type'], RULES)}"
            )
        if unknown := [side for side in each["sides"] if side not in values["settings"]]:
            raise ConfigError(
                f"{path}: claim {each['name']}: no setting '{unknown[0]}'{nearest(unknown[0], values['settings'])}"
            )
        least, most = SIDES[each["type"]]
        if not least <= len(each["sides"]) <= most:
            takes = f"`{each['type']}` takes {least}{' or more' if most > least else ''}"
            raise ConfigError(f"{path}: claim {each['name']} compares {len(each['sides'])} sides; {takes}")
        claims.append(Claim(**{"margin": margins.get(each["type"]), **each, "sides": tuple(each["sides"])}))
    if len({claim.name for claim in claims}) < len(claims):
        raise ConfigError(f"{path}: two claims have the same name")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return Claims(tuple(claims), values["settings"], values["confidence"], values["spread"], digest)


def verdicts(claims: Claims, cells: Sequence[Trained], composer: Composer) -> list[Row]:
    """A row a claim and dataset, with the columns ``COLUMNS``, for the preset and overrides of the composer."""
    rows: list[Row] = []
    for claim in claims.claims:
        for dataset, seeds in claim.datasets.items():
            sides = [
                find_side(name, claims.settings[name], dataset, seeds, claim.measure, composer, cells)
                for name in claim.sides
            ]
            row = verdict_row(claim, dataset, sides, claims.confidence)
            row["published"] = _published(claim, claims, dataset)
            rows.append({**row, "preset": composer.preset, "claims_file": claims.file_hash})
    return corrected(rows, claims.confidence)


def verdict_row(claim: Claim, dataset: str, sides: Sequence[Side], confidence: float = 0.95) -> Row:
    """One claim on one dataset, decided; without Holm's correction, which needs the whole grid."""
    seeds = claim.datasets[dataset]
    if claim.type == "reaches":
        sides = [_whole(side, seeds) for side in sides]
    extended = any(row["seed"] >= seeds for side in sides for row in side.rows)
    decision = _decide(claim, sides, confidence)
    planned = _decide(claim, [side.within(seeds) for side in sides], confidence)
    more = None
    open_yet = decision and decision.verdict == UNDECIDED and not _at_floor(claim, sides)
    if open_yet and not any(side.missing for side in sides):
        more = more_seeds(RULES[claim.type], _moments(claim, sides), claim.margin, confidence)
    effect = decision.effect if decision else None
    return {
        **{key: getattr(claim, key) for key in ("paper", "figure", "grid", "type", "measure", "margin")},
        "claim": claim.name,
        "dataset": dataset,
        "sides": claim.text,
        "seeds": seeds,
        "means": _shares([f"{side.moments(claim.measure).mean:.2f}" if side.rows else "" for side in sides]),
        "verdict": decision.verdict if decision else UNDECIDED,
        **{
            key: getattr(effect, name, None) for key, name in (("effect", "estimate"), ("low", "low"), ("high", "high"))
        },
        "n": " + ".join(str(len(side.rows)) for side in sides),
        "p": decision.p if decision else None,
        "more_seeds": more,
        "extended": extended,
        "verdict_planned": planned.verdict if planned else UNDECIDED,
        "suspicious": sum(side.suspicious for side in sides),
        "failed": sum(side.failed for side in sides),
        "note": "; ".join(
            [
                *_floor(claim, sides),
                *_tokenizers(sides),
                *(text for side in sides for text in side.remarks(claim.measure)),
            ]
        ),
        "cells": " ".join(row["cell"] for side in sides for row in side.rows),
    }


def corrected(rows: Sequence[Row], confidence: float = 0.95) -> list[Row]:
    """Add Holm's p over all claims of a grid, datasets included, and what is left of each verdict.

    A claim that cannot be decided yet counts as well: it was made.
    """
    rows = [dict(row) for row in rows]
    for grid in dict.fromkeys(row["grid"] for row in rows):
        family = [row for row in rows if row["grid"] == grid]
        for row, p in zip(family, holm([1.0 if row["p"] is None else row["p"] for row in family]), strict=True):
            row["p_holm"] = None if row["p"] is None else p
            row["verdict_holm"] = row["verdict"] if p < 1 - confidence else UNDECIDED
    return rows


def shown(rows: Sequence[Row]) -> str:
    """The verdicts as people read them: a table of the claims that have cells on every side, and a line on the others."""
    waiting: dict[str, list[str]] = {}
    for row in rows:
        if row["effect"] is None:
            waiting.setdefault(row["claim"], []).append(row["dataset"])
    names = "".join(f"\n  {claim} on {', '.join(datasets)}" for claim, datasets in waiting.items())
    table = render([row for row in rows if row["effect"] is not None], SHOWN, "md")
    return f"{table}\nno cells as yet:{names}\n" if waiting else table


def power_rows(claims: Claims, grid: str) -> list[Row]:
    """How likely 3, 5 and 10 seeds support each claim of a grid, were the published difference true."""
    rows = []
    for claim in claims.of_grid(grid):
        expected = 0.0 if claim.expected is None else claim.expected
        if claim.type != "equivalent" and claim.expected is None:
            continue
        reckoned = {
            f"{n} seeds": power(claim.type, expected, claim.margin, claims.spread, n, len(claim.sides))
            for n in POWER_SEEDS
        }
        rows.append(
            {"claim": claim.name, "sides": claim.text, "margin": claim.margin, "expected": expected, **reckoned}
        )
    return rows


def power_lines(claims: Claims, grid: str) -> list[str]:
    """What 3, 5 and 10 seeds can tell of a grid's claims, for the terminal."""
    rows = power_rows(claims, grid)
    told = f"power to support each claim, were the expected difference true and seeds spread by {claims.spread:g}:"
    return ["", told, terminal(rows, list(rows[0]))] if rows else []


def _published(claim: Claim, claims: Claims, dataset: str) -> str:
    """What the papers report of each side, by their probe; the measure of theirs that ours can be compared with."""
    if claim.measure != "strict_level2":
        return ""
    return _shares([level_2(claims.settings[side], claim.figure, dataset) for side in claim.sides])


def _shares(shares: Sequence[str]) -> str:
    """A share for each side in their order, with a dash for none; nothing where none has one."""
    return ", ".join(share or "-" for share in shares) if any(shares) else ""


def _at_floor(claim: Claim, sides: Sequence[Side]) -> bool:
    """Whether no seed of any side does what is measured: the sides are then alike for want of anything to differ in.

    Neither a difference nor an equivalence is told from that. At the ceiling both are: there everybody does it.
    """
    if len(sides) < 2 or claim.measure not in SHARES or not all(side.rows for side in sides):
        return False
    return all(row[claim.measure] < FLOOR for side in sides for row in side.rows)


def _floor(claim: Claim, sides: Sequence[Side]) -> list[str]:
    """The reason where a claim is left undecided at the floor, and a remark not far above it."""
    if _at_floor(claim, sides):
        return [f"floor: {claim.measure} below {FLOOR:g} in every seed, nothing to compare"]
    compared = len(sides) > 1 and all(side.rows for side in sides)
    if not compared or any(each.mean > LOW for each in _moments(claim, sides)):
        return []
    return [f"every side near the floor ({claim.measure} at most {LOW:g}): this tells little"]


def _tokenizers(sides: Sequence[Side]) -> list[str]:
    """A remark where cells name one tokenizer and were trained on several, told by what they reconstruct.

    In one results folder that cannot be. A table put together from folders of several machines may have it: what is
    trained from one seed differs between them in the last bits at first, and then as two seeds do.
    """
    trained: dict[tuple[Any, ...], set[float]] = {}
    for row in (row for side in sides for row in side.rows if is_number(row.get("psnr"))):
        key = tuple(row.get(name) for name in ("tokenizer", "seed_tokenizer", "seed_data"))
        trained.setdefault(key, set()).add(row["psnr"])
    return [
        f"{len(found)} tokenizers '{name}' of seed {seed}, trained on different machines"
        for (name, seed, _), found in trained.items()
        if len(found) > 1
    ]


def _whole(side: Side, seeds: int) -> Side:
    """A side whose own mean is asked for: it is that of all planned seeds, or not there yet."""
    count = len(side.within(seeds).rows)
    return side if side.missing or count == seeds else replace(side, missing=f"{count} of {seeds} planned seeds count")


def _moments(claim: Claim, sides: Sequence[Side]) -> list[Moments]:
    return [side.moments(claim.measure) for side in sides]


def _decide(claim: Claim, sides: Sequence[Side], confidence: float) -> Decision | None:
    """None where a side has no number; undecided, with its numbers, where a planned seed has none or all lie on the floor."""
    if not all(side.rows for side in sides):
        return None
    decision = RULES[claim.type](_moments(claim, sides), claim.margin, confidence)
    if _at_floor(claim, sides) or any(side.missing for side in sides):
        return Decision(UNDECIDED, decision.effect, 1.0)
    return decision
