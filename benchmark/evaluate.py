"""The final evaluation of a trained cell, and later ones of the same weights with other settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from architectures.base import GenerativeModel
from benchmark.artefacts import Artefacts
from benchmark.cell import Cell
from benchmark.config import ConfigError, hashed_part, instantiate
from benchmark.files import replacing, write_json
from benchmark.fit import average_path
from benchmark.models import build_model, compile_networks, curve_sampler, image_sampler, validation_loss
from benchmark.registry import Registry
from benchmark.store import Store
from datasets.factors import Composition, FactorSpace, level, seed_for
from probes.callbacks import LevelProbe
from probes.evaluation import (
    MODES,
    Evaluation,
    EvaluationConfig,
    Evaluator,
    composition_shares,
    scores,
    write_evaluations,
)
from probes.grids import animate_samples, draw_rejected, draw_samples, is_video
from probes.likeness import fid, likeness
from probes.suspicion import Evidence, SuspicionLimits, diversity, nearness, suspicions

COMPARED = 256  # images of a composition in the diversity and memorisation checks


def evaluator(artefacts: Artefacts) -> Evaluator:
    """Judges and conditions of a cell."""
    data = artefacts.data
    config = evaluation_config(artefacts.config)
    return Evaluator(data.space, artefacts.judges, data.draw_values, config.max_batch)


def evaluation_config(config: Mapping[str, Any]) -> EvaluationConfig:
    """How many samples a cell is judged by."""
    return instantiate(EvaluationConfig, config["evaluation"])


def curve_steps(trainer: Mapping[str, Any]) -> list[int]:
    """Optimiser steps after which a cell is evaluated."""
    last, every = trainer["max_steps"], trainer["eval_every"]
    return [*range(every, last, every), last]


def curve_probe(artefacts: Artefacts, model: GenerativeModel, steps: Collection[int], curve: Path) -> LevelProbe:
    """What evaluates a model while it trains, by the curve's sampler, into the file of its curve."""
    validation = validation_loss(artefacts)
    return LevelProbe(
        evaluator(artefacts),
        curve_sampler(artefacts, model),
        artefacts.train_compositions,
        steps,
        curve,
        artefacts.cell.seed,
        count=evaluation_config(artefacts.config).curve_samples,
        val_loss=lambda: validation(model),
    )


def sample_and_judge(artefacts: Artefacts, model: GenerativeModel) -> list[Evaluation]:
    """All compositions in both modes, by the averaged weights; a function of weights, config and seed."""
    judge, sampler = evaluator(artefacts), image_sampler(artefacts, model)
    count = evaluation_config(artefacts.config).final_samples
    evaluations = []
    with model.averaged():
        for mode in MODES:
            generator = torch.Generator(artefacts.device)
            generator.manual_seed(seed_for(artefacts.cell.seed, "final", mode))
            evaluations.append(judge.evaluate(sampler, mode, count, generator))
    return evaluations


def shares(artefacts: Artefacts, evaluations: list[Evaluation]) -> dict[str, float]:
    """Every share of all evaluations, flat."""
    found: dict[str, float] = {}
    for evaluation in evaluations:
        found |= scores(evaluation.table, artefacts.data.space.controlled, artefacts.train_compositions)
    return found


def keep(artefacts: Artefacts, evaluations: list[Evaluation], folder: Path) -> None:
    """Samples, judgements and pictures into a cell's folder, each file whole or not at all."""
    write_evaluations(folder, evaluations)
    space, train = artefacts.data.space, artefacts.train_compositions
    centre = evaluations[0]
    by_judge = {str(name): composition_shares(rows) for name, rows in centre.table.groupby("judge", sort=False)}
    with replacing(folder / "samples.png") as aside:
        draw_samples(aside, centre.images, centre.table, space, train, by_judge)
    if is_video(centre.images):
        with replacing(folder / "samples.webp") as aside:
            animate_samples(aside, centre.images, centre.table, space, train, by_judge)
    with replacing(folder / "rejected.png") as aside:
        draw_rejected(aside, centre.images, centre.table, space)


def doubts(artefacts: Artefacts, evaluations: list[Evaluation], found: Mapping[str, float]) -> list[str]:
    """Reasons to mark the cell as suspicious."""
    ceiling, names = artefacts.ceiling, [judge.name for judge in artefacts.judges]
    prefixes = {"probe": "", "strict": "strict_"}
    drawn = next(e for e in evaluations if e.asked.mode == "drawn")
    least = artefacts.data.least_ceiling
    return suspicions(
        Evidence(
            level0={name: found[f"{prefixes[name]}level0"] for name in names},
            judge_ceiling={name: _per_composition(ceiling, f"real_{prefixes[name]}comp_") for name in names},
            reconstruction_ceiling={name: _per_composition(ceiling, f"recon_{prefixes[name]}comp_") for name in names},
            **variety(artefacts, drawn),
        ),
        SuspicionLimits(judge_ceiling=least, reconstruction_ceiling=least),
    )


def compared(artefacts: Artefacts, evaluations: list[Evaluation]) -> dict[str, float]:
    """Samples against real images in the judge's features, asked for with drawn values; for datasets that want it."""
    data, probe, train = artefacts.data, artefacts.probe, artefacts.train_compositions
    if not data.likeness:
        return {}
    drawn = next(e for e in evaluations if e.asked.mode == "drawn")
    names = list(dict.fromkeys(drawn.asked.compositions))
    rows = {c: torch.tensor([name == c for name in drawn.asked.compositions]) for c in names}
    samples = {c: probe.embed(drawn.images[rows[c]]) for c in names}
    test = {c: data.images("test").subset((c,), data.space) for c in names}
    held_out = {c: probe.embed(torch.tensor(images.images)) for c, images in test.items()}
    training = probe.embed(torch.tensor(data.images("train").subset(train, data.space).images))
    figures = likeness(samples, held_out, training, train)
    if weights := evaluation_config(artefacts.config).inception:
        pairs = {f"fid_comp_{c}": (drawn.images[rows[c]], torch.tensor(test[c].images)) for c in names}
        pairs["fid"] = drawn.images, torch.tensor(data.images("test").images)
        found = {name: fid(*pair, weights, artefacts.device) for name, pair in pairs.items()}
        figures |= {name: value for name, value in found.items() if value is not None}
    return figures


def variety(artefacts: Artefacts, drawn: Evaluation) -> dict[str, dict[Composition, float]]:
    """Per training composition: how various samples are, and how near to training images, against held-out real ones."""
    data = artefacts.data
    train, test = data.images("train"), data.images("test")
    result: dict[str, dict[Composition, float]] = {"diversity": {}, "nearness": {}}
    for composition in artefacts.train_compositions:
        asked = torch.tensor([name == composition for name in drawn.asked.compositions])
        samples = drawn.images[asked][:COMPARED]
        held_out = torch.tensor(test.subset((composition,), data.space).images[:COMPARED])
        training = torch.tensor(train.subset((composition,), data.space).images)
        result["diversity"][composition] = diversity(samples, held_out)
        result["nearness"][composition] = nearness(samples, held_out, training)
    return result


def _per_composition(figures: Mapping[str, float], prefix: str) -> dict[Composition, float]:
    return {key.removeprefix(prefix): value for key, value in figures.items() if key.startswith(prefix)}


def level_means(figures: Mapping[str, Any], space: FactorSpace, train: tuple[Composition, ...]) -> dict[str, float]:
    """Ceilings per level beside the shares they bound."""
    means: dict[str, float] = {}
    for prefix in ("real_", "real_strict_", "recon_", "recon_strict_"):
        per_composition = _per_composition(figures, f"{prefix}comp_")
        for k in sorted({level(c, train) for c in per_composition}):
            members = [share for c, share in per_composition.items() if level(c, train) == k]
            means[f"{prefix}level{k}"] = sum(members) / len(members)
    return means


@contextmanager
def _refusals_told(cell_id: str) -> Iterator[None]:
    """What an architecture refuses of settings that it was not trained with is wrong input.

    Raises:
        ConfigError: in place of any other ValueError.
    """
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{cell_id} cannot be sampled with these settings: {error}") from error


def evaluate_again(cell: Cell, config: Mapping[str, Any], store: Store, registry: Registry, name: str) -> int:
    """Sample and judge a finished cell with other sampling settings into ``evaluations/NAME.json``; the record stays.

    Raises:
        ConfigError: if the cell has no averaged weights of its last step, if somebody works on it, and if its
            architecture refuses the settings.
    """
    paths = store.cell(cell.id)
    weights = average_path(paths.checkpoints, cell.config["trainer"]["max_steps"])
    if not weights.exists():
        raise ConfigError(
            f"{cell.id} has not finished training; run it first: python -m benchmark run --cell {cell.id}"
        )
    lease = store.cell_lease(cell.id)
    if lease is None:
        raise ConfigError(f"{cell.id} is being worked on ({store.cell_holder(cell.id)}); wait for it to end")
    with lease, lease.kept():
        artefacts = Artefacts(dataclasses.replace(cell, config=config), store, registry, began_as=cell.id)
        with _refusals_told(cell.id):
            model = build_model(artefacts)
        compile_networks(artefacts, model)  # as when it was trained: the same bits
        if model.ema is None:
            raise RuntimeError("the model has no averaged weights")
        model.ema.load(load_file(weights))
        with _refusals_told(cell.id):
            evaluations = sample_and_judge(artefacts, model)
        found = shares(artefacts, evaluations) | compared(artefacts, evaluations)
        now, trained = hashed_part(config), hashed_part(cell.config)
        changed = {section: values for section, values in config.items() if now.get(section) != trained.get(section)}
        write_json(paths.evaluations / f"{name}.json", {"cell": cell.id, "changed": changed, "row": found})
    print(f"{cell.id}: " + ", ".join(f"{key} {found[key]:.3f}" for key in sorted(found) if "level" in key))
    return 0
