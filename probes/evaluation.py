"""Composition-wise evaluation: ask a generator for every composition, judge what it makes, keep every verdict.

Verdicts are rows of a table, one a sample and judge. All shares are reductions of it (`scores`), so that they can be
rebuilt, or drawn anew with other thresholds, without the model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from datasets.factors import Composition, FactorSpace, level, seed_for
from probes.files import settle_file
from probes.judgement import Judge, Judgement, Reason, concatenate, correct, rejecting

MODES = ("centre", "drawn")
MODE_PREFIX = {"centre": "", "drawn": "drawn_"}
JUDGE_PREFIX = {"probe": "", "strict": "strict_"}  # others are prefixed with their own name

SampleImages = Callable[[Tensor, Tensor, torch.Generator], Tensor]  # classes (B, F), values (B, V) -> (B, C, H, W)
DrawValues = Callable[[Composition, int, torch.Generator], Tensor]  # -> (count, V), as real images have them


@dataclass
class EvaluationConfig:
    """How many samples are judged, while training and at the end."""

    curve_samples: int = 64  # a composition at each point of the curve; paper A
    final_samples: int = 512  # a composition and mode at the end: a share of .5 is known to 2 points
    curve_diffusion_steps: int = 0  # of the solver, at points of the curve; 0: as at the end
    curve_decode_steps: int = -1  # of masked models, at points of the curve; 0: one token a step, -1: as at the end
    max_batch: int = 1024  # samples made at once
    inception: str = ""  # file of torch-fidelity's Inception weights, for `fid`; nothing is ever downloaded

    @staticmethod
    def settle(values: Mapping[str, Any]) -> dict[str, Any]:
        """What Inception's file holds: that is hashed, and not where it lies.

        Raises:
            ValueError: there is no such file.
        """
        return settle_file("evaluation.inception", values["inception"], "leave it empty, and there is no fid")

    def validate(self) -> None:
        """Raise ValueError for counts that are none or leave nothing to judge, and where Inception's code is missing."""
        if self.inception and not importlib.util.find_spec("torch_fidelity"):
            raise ValueError("evaluation.inception needs torch-fidelity: pip install torch-fidelity, or leave it empty")
        for key in ("curve_samples", "final_samples", "max_batch"):
            if getattr(self, key) < 1:
                raise ValueError(f"evaluation.{key}={getattr(self, key)} must be at least 1")
        for key, least in (("curve_diffusion_steps", 0), ("curve_decode_steps", -1)):
            if getattr(self, key) < least:
                raise ValueError(
                    f"evaluation.{key}={getattr(self, key)} must be at least {least}; {least} means as at the end"
                )


@dataclass
class Asked:
    """What a generator is asked for: M samples, composition by composition."""

    compositions: list[Composition]  # of each sample
    mode: str  # centre: class centres, as published; drawn: values as real images have them
    classes: Tensor  # (M, F) int64
    values: Tensor  # (M, V) float32


@dataclass
class Evaluation:
    """Samples of one mode and what all judges say of them."""

    asked: Asked
    images: Tensor  # (M, C, H, W) uint8
    table: pd.DataFrame  # a row a sample and judge


@dataclass
class Evaluator:
    """Everything an evaluation needs but the generator.

    Randomness comes from the generator handed to `evaluate`. It is used chunk after chunk, so the samples depend on
    ``max_batch``.
    """

    space: FactorSpace
    judges: Sequence[Judge]
    draw_values: DrawValues
    max_batch: int = 1024  # samples made at once

    def evaluate(
        self,
        sample_images: SampleImages,
        mode: str,
        count: int,
        generator: torch.Generator,
        compositions: Sequence[Composition] | None = None,
    ) -> Evaluation:
        """Ask for ``count`` samples of each composition and judge them.

        Args:
            sample_images: conditions to images in [-1, 1]; conditions come on the generator's device.
            mode: centre or drawn.
            compositions: all of them by default.

        An image with a number that is not finite is kept as grey, and wrong for every judge.
        """
        chosen = self.space.compositions if compositions is None else compositions
        asked = ask(self.space, chosen, mode, count, self.draw_values, generator)
        images: list[Tensor] = []
        judgements: list[list[Judgement]] = [[] for _ in self.judges]
        conditions = zip(asked.classes.split(self.max_batch), asked.values.split(self.max_batch), strict=True)
        for classes, values in conditions:
            made = sample_images(classes.to(generator.device), values.to(generator.device), generator).float().cpu()
            finite = made.flatten(1).isfinite().all(1)
            made = made.where(
                finite.view(-1, *[1] * (made.dim() - 1)), 0.0
            )  # no comparison holds of NaN, so none rejects it
            images.append(as_bytes(made))
            for said, judge in zip(judgements, self.judges, strict=True):
                said.append(rejecting(judge.judge(made), ~finite, Reason.NOT_FINITE))
        tables = [tabulate(concatenate(said), asked, self.space.controlled) for said in judgements]
        return Evaluation(asked, torch.cat(images), pd.concat(tables, ignore_index=True))


def ask(
    space: FactorSpace,
    compositions: Sequence[Composition],
    mode: str,
    count: int,
    draw_values: DrawValues,
    generator: torch.Generator,
) -> Asked:
    """Conditions for ``count`` samples of each composition.

    Values are drawn from a stream of their own, on the CPU: they are the same for every model and device.

    Raises:
        ValueError: for a mode that is not known.
    """
    if mode not in MODES:
        raise ValueError(f"evaluation mode {mode!r} is unknown; use {' or '.join(MODES)}")
    classes = torch.tensor([space.class_indices(c) for c in compositions]).repeat_interleave(count, 0)
    if mode == "centre":
        values = torch.tensor([space.centre(c) for c in compositions]).repeat_interleave(count, 0)
    else:
        own = torch.Generator().manual_seed(seed_for(generator.initial_seed(), "values"))
        values = torch.cat([draw_values(c, count, own) for c in compositions])
    return Asked([c for c in compositions for _ in range(count)], mode, classes, values.float())


def tabulate(judgement: Judgement, asked: Asked, space: FactorSpace) -> pd.DataFrame:
    """One row a sample: what was asked, what was read, and the verdict.

    Columns: sample, composition, mode, judge, accepted, reason, all_correct; for each factor F ``read_F``,
    ``correct_F``, ``logit_F_CLASS``, and for its i-th value ``asked_F_i`` and ``measured_F_i``; ``raw_NAME`` for each
    measurement. What a judge does not give is NaN.
    """
    right = correct(judgement, asked.classes)
    columns: dict[str, object] = {
        "sample": np.arange(len(judgement)),
        "composition": asked.compositions,
        "mode": asked.mode,
        "judge": judgement.judge,
        "accepted": judgement.accepted.numpy(),
        "reason": [Reason(code).words for code in judgement.reasons.tolist()],
        "all_correct": right.all(1).numpy(),
    }
    missing = torch.full((len(judgement),), torch.nan)
    logit = 0
    for index, (factor, place) in enumerate(zip(space.factors, space.value_slices, strict=True)):
        columns[f"read_{factor.name}"] = judgement.classes[:, index].numpy()
        columns[f"correct_{factor.name}"] = right[:, index].numpy()
        for offset in range(factor.dim):
            column = place.start + offset
            measured = missing if judgement.values is None else judgement.values[:, column]
            columns[f"asked_{factor.name}_{offset}"] = asked.values[:, column].numpy()
            columns[f"measured_{factor.name}_{offset}"] = measured.numpy()
        for name in factor.classes:
            columns[f"logit_{factor.name}_{name}"] = (
                missing if judgement.logits is None else judgement.logits[:, logit]
            ).numpy()
            logit += 1
    for name, values in judgement.measurements.items():
        columns[f"raw_{name}"] = values.numpy()
    return pd.DataFrame(columns)


def scores(table: pd.DataFrame, space: FactorSpace, train: tuple[Composition, ...]) -> dict[str, float]:
    """All shares of a table, flat, from 0 to 1.

    For each mode and judge present, with the prefixes of both (``strict_drawn_``; none for centre and probe):
    ``comp_C`` is the share of samples with all factors right, ``levelK`` its unweighted mean over the level's
    compositions, ``factor_F`` the share with that one right. Where a judge measures or rejects, also ``error_F``, the
    mean absolute error of F's values over accepted samples (in the values' units), ``accepted``, ``rejected_REASON``.
    """
    result: dict[str, float] = {}
    for (judge, mode), rows in table.groupby(["judge", "mode"], sort=False):
        prefix = judge_prefix(str(judge)) + MODE_PREFIX[str(mode)]
        shares = composition_shares(rows)
        result |= {f"{prefix}level{k}": share for k, share in level_shares(shares, train).items()}
        result |= {f"{prefix}comp_{composition}": share for composition, share in shares.items()}
        result |= {f"{prefix}factor_{name}": float(rows[f"correct_{name}"].mean()) for name in space.names}
        measured = [f for f in space.factors if f.dim and rows[f"measured_{f.name}_0"].notna().any()]
        result |= {f"{prefix}error_{factor.name}": value_error(rows, factor.name, factor.dim) for factor in measured}
        if measured or not rows["accepted"].all():
            result[f"{prefix}accepted"] = float(rows["accepted"].mean())
            rejected = rows["reason"][rows["reason"] != ""].value_counts() / len(rows)
            result |= {f"{prefix}rejected_{str(reason).replace(' ', '_')}": float(n) for reason, n in rejected.items()}
    return result


def judge_prefix(judge: str) -> str:
    """What a judge's columns begin with: nothing for the trained probe, ``strict_`` for the strict judge."""
    return JUDGE_PREFIX.get(judge, f"{judge}_")


def composition_shares(rows: pd.DataFrame) -> dict[Composition, float]:
    """Share of samples with every factor right, for each composition of one judge's rows."""
    return {str(name): float(share) for name, share in rows.groupby("composition")["all_correct"].mean().items()}


def level_shares(shares: dict[Composition, float], train: tuple[Composition, ...]) -> dict[int, float]:
    """Unweighted mean over the compositions of each level."""
    levels: dict[int, list[float]] = {}
    for composition, share in shares.items():
        levels.setdefault(level(composition, train), []).append(share)
    return {k: sum(parts) / len(parts) for k, parts in sorted(levels.items())}


def value_error(rows: pd.DataFrame, name: str, dim: int) -> float:
    """Mean absolute difference between the measured and the asked values of a factor, over accepted samples."""
    kept = rows[rows["accepted"]]
    differences = [(kept[f"measured_{name}_{i}"] - kept[f"asked_{name}_{i}"]).abs() for i in range(dim)]
    return float(pd.concat(differences).mean())


def accuracy(judge: Judge, images: Tensor, classes: Tensor, space: FactorSpace) -> dict[Composition, float]:
    """A judge's ceiling: the share of images read wholly right, for each composition.

    Args:
        images: real ones or reconstructions, (M, C, H, W) in [-1, 1].
        classes: what they show, (M, F) int64.
    """
    right = correct(judge.judge(images), classes).all(1)
    result = {}
    for composition in space.compositions:
        rows = (classes == torch.tensor(space.class_indices(composition))).all(1)
        if rows.any():
            result[composition] = float(right[rows].float().mean())
    return result


def write_evaluations(folder: Path, evaluations: Sequence[Evaluation]) -> None:
    """Write ``judgements.parquet``, and ``samples.safetensors`` with MODE_images (uint8), MODE_classes, MODE_values."""
    tensors = {}
    for evaluation in evaluations:
        asked = evaluation.asked
        tensors[f"{asked.mode}_images"] = evaluation.images.contiguous()
        tensors[f"{asked.mode}_classes"] = asked.classes
        tensors[f"{asked.mode}_values"] = asked.values
    save_file(tensors, folder / "samples.safetensors")
    table = pd.concat([evaluation.table for evaluation in evaluations], ignore_index=True)
    aside = folder / ".tmp-judgements.parquet"  # swept where a kill leaves it
    table.to_parquet(aside, index=False)
    aside.replace(folder / "judgements.parquet")


def as_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1], clipped, as uint8."""
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
