"""Choices -> resolved configs: the layers of a cell merged, `auto` settled for this machine, everything checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import cached_property
from typing import Any

from benchmark.config import (
    NAMED,
    NOT_HASHED,
    RECIPES,
    ConfigError,
    Layer,
    Override,
    dataset_layer,
    differences,
    native_layer,
    nearest,
    preset_layer,
    setting_part,
)
from benchmark.grid import Choice, Grid
from benchmark.machine import Machine
from benchmark.registry import Registry
from benchmark.samplers import at_the_curve, refusal
from benchmark.schema import Schema, named
from datasets.factors import FactorSpace, SplitConfig, resolve_split

DROPOUT_PROBABILITY = 0.1  # what "+dropout" sets; paper A, figure 4 (b)
EVALUATION_SECTIONS = ("sampling", "diffusion", "evaluation")  # what may differ in a later evaluation of a trained cell


class LeftOut(Exception):
    """A choice that no cell can be made of, with the reason: an architecture cannot model the tokenizer's latents."""


class Composer:
    """Turns choices into resolved configs: layers merged once, `auto` resolved, everything checked.

    Args:
        grid: its choices' settings are one of the layers.
        preset: a name, or `auto`: paper where there is a GPU, laptop where there is none.
        overrides: the KEY=VALUE of the command line.
    """

    def __init__(
        self, registry: Registry, machine: Machine, grid: Grid, preset: str = "auto", overrides: Sequence[Override] = ()
    ) -> None:
        self.registry, self.machine, self.grid, self.overrides = registry, machine, grid, overrides
        self.preset = ("paper" if machine.device == "cuda" else "laptop") if preset == "auto" else preset
        self._preset_layer = preset_layer(self.preset)
        self._composed: dict[tuple[str, ...], dict[str, Any]] = {}
        self._resolved: dict[tuple[str, ...], dict[str, Any]] = {}
        self._found: dict[tuple[str, str], dict[str, Any]] = {}
        self.notes: dict[str, None] = {}  # what datasets say of this machine, each once

    @cached_property
    def schema(self) -> Schema:
        return Schema(self.registry)

    @cached_property
    def base(self) -> dict[str, Any]:
        """Everything but native recipes and the axes: enough to know the recipe and the first seed."""
        base = self.schema.compose([self._preset_layer], self.overrides)
        if base["recipe"] not in RECIPES:
            raise ConfigError(f"recipe={base['recipe']} is unknown{nearest(base['recipe'], RECIPES)}")
        return base

    def resolve(self, choice: Choice) -> dict[str, Any]:
        """The config of one cell, with its own dataset, tokenizer and architecture only.

        Raises:
            ConfigError: for a value that something refuses.
            LeftOut: for an architecture that cannot model the tokenizer's latents.
        """
        key = (choice.dataset, choice.architecture, choice.tokenizer, choice.conditioning, _text(choice.settings))
        if key not in self._resolved:
            self._resolved[key] = self._resolve(choice)
        return {**self._resolved[key], "seed": choice.seed}

    def _resolve(self, choice: Choice) -> dict[str, Any]:
        """What the cells of a setting have in common, whatever their seed."""
        whole = self._compose(choice)
        config = {key: value for key, value in whole.items() if key not in (*NAMED, *NOT_HASHED)}
        for kind in NAMED:
            name = getattr(choice, kind)
            config[kind] = {"name": name, **whole[kind][name]}
        config["dataset"] |= self._settled(f"dataset.{choice.dataset}", config["dataset"])
        for section in ("probe", "evaluation"):
            config[section] = config[section] | self._settled(section, config[section])
        config = _resolve_auto(config, self.machine)
        config["tokenizer"]["view"] = self._view(choice, config["tokenizer"]["view"])
        config["changed"] = self._changed(choice)
        space = self._check(config)
        if space and not space.num_values:  # classes are all there is to tell: the same cell whichever was asked for
            config["conditioning"] = {**config["conditioning"], "information": "labels"}
        return config

    def _compose(self, choice: Choice) -> dict[str, Any]:
        native = choice.architecture if self.base["recipe"] == "native" else ""
        key = (choice.dataset, native, choice.conditioning, _text(choice.settings))
        if key not in self._composed:
            axis = _conditioning_layer(choice.conditioning)
            own = dataset_layer(self.preset, choice.dataset)
            study = Layer(f"grids/{self.grid.name}.yaml", choice.settings)
            layers = [self._preset_layer, own, native_layer(native), study, axis]
            self._composed[key] = self.schema.compose(layers, self.overrides)
        return self._composed[key]

    @cached_property
    def _plain(self) -> Composer:
        """The same without what the command line sets, but for the recipe."""
        recipe = [override for override in self.overrides if override.key == "recipe"]
        return Composer(self.registry, self.machine, self.grid, self.preset, recipe)

    def _changed(self, choice: Choice) -> str:
        """What a study or the command line sets that the preset does not, as ``KEY=VALUE``; empty where all is usual.

        Axes, recipe and seed have columns of their own; where and how fast it is trained makes no other setting.
        """
        usual = _own(self._plain._compose(replace(choice, settings={})), choice)
        theirs = _own(self._compose(choice), choice)
        return " ".join(differences(usual, theirs, {kind: getattr(choice, kind) for kind in NAMED}))

    def _settled(self, key: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a section finds out about this machine before anything is hashed, by its config's ``settle``.

        A dataset may give a ``label``, which then stands in ids and tables in place of its name, and a ``note`` for who
        reads the plan.
        """
        seen = (key, json.dumps(values, sort_keys=True))  # the cells of a grid share it, and it may walk a large folder
        if seen not in self._found:
            found = _settle(self.schema.classes[key], values)
            if note := found.pop("note", None):
                self.notes[note] = None
            self._found[seen] = found
        return self._found[seen]

    def _view(self, choice: Choice, asked: str) -> str:
        """Which of the tokenizer's views this architecture models."""
        offered = self.registry.entry("tokenizer", choice.tokenizer).views
        models = self.registry.entry("architecture", choice.architecture).views
        if asked != "auto" and asked not in offered:
            hint = nearest(asked, [*offered, "auto"])
            raise ConfigError(f"tokenizer.{choice.tokenizer}.view={asked} is unknown{hint}")
        wanted = [view for view in models if view in (offered if asked == "auto" else (asked,))]
        if not wanted:
            gives = ", ".join(offered) if asked == "auto" else asked
            models_what = f"{choice.architecture} models {', '.join(models)}"
            raise LeftOut(f"{choice}: {models_what}, and {choice.tokenizer} gives {gives}")
        return wanted[0]

    def _check(self, config: Mapping[str, Any]) -> FactorSpace | None:
        """What the parts refuse, each on its own and together, before any work; the factors, if the dataset tells them."""
        built = _check_together(config, self.schema)
        try:
            space = getattr(built.get("dataset"), "space", None)
            if not isinstance(space, FactorSpace):
                return None
            resolve_split(SplitConfig(**config["split"]), space)
            if space.num_values and config["conditioning"]["information"] == "labels":
                raise ValueError("conditioning.information=labels is for datasets without values; use quantized")
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return space


def evaluation_config(config: Mapping[str, Any], registry: Registry, overrides: Sequence[Override]) -> dict[str, Any]:
    """The resolved config of a trained cell with what a later evaluation changes.

    Raises:
        ConfigError: for a key that was fixed when the cell was trained or is of its curve, or a value that is refused.
    """
    for override in overrides:
        section = override.key.partition(".")[0]
        if section not in EVALUATION_SECTIONS:
            raise ConfigError(
                f"{override.key} was fixed when the cell was trained; evaluate takes {', '.join(EVALUATION_SECTIONS)}"
            )
        if override.key.startswith("evaluation.curve_"):
            raise ConfigError(f"{override.key} is of the curve, whose points were sampled while the cell was trained")
    schema = Schema(registry)
    own = {section: [field.name for field in fields(schema.classes[section])] for section in EVALUATION_SECTIONS}
    trained = {name: {key: config[name][key] for key in keys if key in config[name]} for name, keys in own.items()}
    whole = schema.compose([Layer("config.yaml", trained)], overrides)
    changed = {name: whole[name] | _settle(schema.classes[name], whole[name]) for name in EVALUATION_SECTIONS}
    for kind in NAMED:
        registry.entry(kind, config[kind]["name"])  # a plug-in's, without --plugin: says so
    _check_together({**config, **changed}, schema)
    return {**config, **changed}


def _check_together(config: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """Every section as its dataclass, after asking whether the samplers of the end and of the curve are possible.

    Raises:
        ConfigError: for what `_built` refuses of either.
    """
    built, curve = _built(config, schema), at_the_curve(config)
    try:
        if curve != config:
            _built(curve, schema)
    except ConfigError as error:
        raise ConfigError(refusal(config, error)) from error
    return built


def _built(config: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """Every section as its dataclass, after asking what they refuse of one another.

    Raises:
        ConfigError: for what a section refuses on its own, for images that the tokenizer cannot divide, and for a trunk
            or a sampler that the architecture's config refuses (by its ``check_trunk`` and ``check_sampling``).
    """
    built = schema.validate(config)
    architecture: Any = built.get("architecture")
    tokens = _tokens(config, built)
    with suppress(NameError), named("architecture", f"architecture.{config['architecture']['name']}"):
        if hasattr(architecture, "check_trunk"):
            architecture.check_trunk(built["trunk"])
        if tokens is not None and hasattr(architecture, "check_sampling"):
            architecture.check_sampling(built["sampling"], tokens)
    if config["sampling"]["guidance"] != 1 and not config["conditioning"]["dropout"]:
        told = f"sampling.guidance={config['sampling']['guidance']} needs an input without condition that was trained"
        raise ConfigError(f"{told}: set conditioning.dropout, which trains it")
    return built


def _tokens(config: Mapping[str, Any], built: Mapping[str, Any]) -> int | None:
    """How many tokens an image or clip is divided into; None where dataset or tokenizer do not tell before they work."""
    dataset, tokenizer = built.get("dataset"), built.get("tokenizer")
    side = getattr(dataset, "resolution", None)
    if not tokenizer or not side:
        return None
    frames = getattr(dataset, "frames", None)  # images have none
    try:
        grid = tokenizer.grid((*filter(None, [frames]), 3, side, side), f"tokenizer.{config['tokenizer']['name']}")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return math.prod(grid)


def _settle(config_class: type, values: Mapping[str, Any]) -> dict[str, Any]:
    settle = getattr(config_class, "settle", None)
    try:
        return {} if settle is None else dict(settle(values))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _own(whole: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    """Of a composed config the setting of a choice: its own dataset, tokenizer and architecture only."""
    part = setting_part({**whole, **{kind: whole[kind][getattr(choice, kind)] for kind in NAMED}})
    return {key: value for key, value in part.items() if key not in ("recipe", "preset")}


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _conditioning_layer(name: str) -> Layer:
    """``centres+dropout`` -> the keys that it stands for."""
    information, _, dropout = name.partition("+")
    values: dict[str, Any] = {"information": information}
    if dropout:
        values["dropout"] = DROPOUT_PROBABILITY
    return Layer(f"--only conditioning={name}", {"conditioning": values})


def _resolve_auto(config: dict[str, Any], machine: Machine) -> dict[str, Any]:
    """What `auto` stands for on this machine; stored resolved, so that a cell means the same everywhere."""
    trainer = dict(config["trainer"])
    if trainer["device"] == "auto":
        trainer["device"] = machine.device
    if trainer["device"] == "cuda" and machine.device != "cuda":
        raise ConfigError("trainer.device=cuda, and there is no GPU here that torch can use; leave it at auto")
    if trainer["precision"] == "auto":
        trainer["precision"] = machine.precision
    return {**config, "trainer": trainer}
