"""Grid + filters -> choices, one for each cell (pure), and choices -> resolved configs.

A grid file names the values of the axes dataset, architecture, tokenizer and conditioning: ``axes`` run by default,
``offers`` are what ``--only`` may select besides; ``"*"`` is every registered name, plug-ins included. The fifth axis
is the seed; ``seeds`` says how many where the command line does not, for all datasets or for each.

A study is more than one table: ``parts`` are products that each add to what stands above them or replace it. ``vary``
crosses the axes with the values of any dotted key, and ``include`` takes over the parts of other grids. What two parts
have in common is one cell.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.config import (
    CONFIGS,
    NAMED,
    NOT_HASHED,
    RECIPES,
    ConfigError,
    Layer,
    Override,
    dataset_layer,
    names_in,
    native_layer,
    nearest,
    preset_layer,
    read_yaml,
)
from benchmark.machine import Machine
from benchmark.registry import Registry
from benchmark.schema import Schema
from datasets.factors import FactorSpace, SplitConfig, resolve_split

AXES = ("dataset", "architecture", "tokenizer", "conditioning", "seed")
PART_KEYS = ("axes", "offers", "config", "vary", "seeds")
KEYS = ("question", "figure", "expected", "include", "parts", *PART_KEYS)
DROPOUT_PROBABILITY = 0.1  # what "+dropout" sets; paper A, figure 4 (b)


@dataclass(frozen=True)
class Part:
    """A product of axes and dotted keys, on a config of its own."""

    axes: Mapping[str, tuple[str, ...]]
    offers: Mapping[str, tuple[str, ...]]
    config: Mapping[str, Any]
    vary: Mapping[str, Any]  # dotted key -> list of values, or preset -> list of values
    seeds: Mapping[str, int]  # by dataset; "*" for those that are not named

    def replicates(self, dataset: str) -> int:
        return self.seeds.get(dataset, self.seeds.get("*", 1))

    def settings(self, preset: str) -> list[dict[str, Any]]:
        """One nested config for every combination of the values of ``vary``."""
        keys, lists = list(self.vary), [of_preset(values, preset) for values in self.vary.values()]
        return [
            nested_keys({**self.config, **dict(zip(keys, each, strict=True))}) for each in itertools.product(*lists)
        ]


@dataclass(frozen=True)
class Grid:
    """A question, and the cells that answer it."""

    name: str
    question: str
    figure: str
    expected: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Choice:
    """One value of every axis, and what the part of the grid that it belongs to sets besides."""

    dataset: str
    architecture: str
    tokenizer: str
    conditioning: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.dataset}-{self.architecture}-{self.tokenizer}-{self.conditioning}-s{self.seed}"


class LeftOut(Exception):
    """A choice that no cell can be made of, with the reason: an architecture cannot model the tokenizer's latents."""


def load_grid(name: str) -> Grid:
    """A grid of ``configs/grids``.

    Raises:
        ConfigError: for an unknown grid, with the nearest one, and for a file that is none.
    """
    if name not in names_in("grids"):
        raise ConfigError(f"There is no grid '{name}'{nearest(name, names_in('grids'))}")
    path = CONFIGS / "grids" / f"{name}.yaml"
    values = read_yaml(path)
    if unknown := next((key for key in values if key not in KEYS), None):
        raise ConfigError(f"{path}: a grid has no key '{unknown}'{nearest(unknown, KEYS)}")
    included = [part for other in values.get("include") or () for part in load_grid(other).parts]
    own = values.get("parts") or ([{}] if "axes" in values else [])
    return Grid(
        name=name,
        question=str(values.get("question", "")),
        figure=str(values.get("figure", "")),
        expected=str(values.get("expected", "")),
        parts=(*included, *(_part(values, part, path) for part in own)),
    )


def _part(whole: Mapping[str, Any], part: Mapping[str, Any], path: Path) -> Part:
    """What a part says, over what the whole grid says."""
    if unknown := next((key for key in part if key not in PART_KEYS), None):
        raise ConfigError(f"{path}: a part has no key '{unknown}'{nearest(unknown, PART_KEYS)}")
    merged = {key: {**(whole.get(key) or {}), **(part.get(key) or {})} for key in ("axes", "offers", "config", "vary")}
    if fixed := next((key for key in merged["config"] if key in ("seed", "recipe", "preset")), None):
        raise ConfigError(f"{path}: {fixed} is chosen on the command line, not by a grid")
    seeds = part.get("seeds", whole.get("seeds", 1))
    axes, offers = _axes(merged["axes"], path), _axes(merged["offers"], path)
    return Part(axes, offers, merged["config"], merged["vary"], seeds if isinstance(seeds, Mapping) else {"*": seeds})


def _axes(values: Mapping[str, Any], path: Path) -> dict[str, tuple[str, ...]]:
    axes = {}
    for axis, names in values.items():
        if axis not in AXES[:-1]:
            raise ConfigError(f"{path}: '{axis}' is no axis of a grid{nearest(axis, AXES[:-1])}")
        axes[axis] = tuple(map(str, names if isinstance(names, list) else [names]))
    return axes


def of_preset(values: Any, preset: str) -> list[Any]:
    """Values of a dotted key: the same for every preset, or told for each (blocks count from 4 to 12)."""
    if isinstance(values, Mapping):
        if preset not in values:
            raise ConfigError(f"This grid has no values for preset {preset}; it has them for {', '.join(values)}")
        values = values[preset]
    return values if isinstance(values, list) else [values]


def nested_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` -> ``{"a": {"b": 1}}``; what is nested already is merged."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = key.split(".")
        place = nested
        for name in path:
            place = place.setdefault(name, {})
        place[last] = {**place.get(last, {}), **nested_keys(value)} if isinstance(value, Mapping) else value
    return nested


def parse_only(tokens: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """``["architecture=dit,mar", "seed=3"]`` -> values by axis; an axis given twice gets both.

    Raises:
        ConfigError: for what is no AXIS=VALUE.
    """
    only: dict[str, tuple[str, ...]] = {}
    for token in tokens:
        axis, _, values = token.partition("=")
        names = tuple(filter(None, values.split(",")))
        if axis not in AXES:
            raise ConfigError(f"--only {token}: '{axis}' is no axis{nearest(axis, AXES)}")
        if not names:
            raise ConfigError(f"--only {token} selects nothing; write --only {axis}=VALUE[,VALUE]")
        only[axis] = (*only.get(axis, ()), *names)
    return only


def choices(
    grid: Grid,
    registry: Registry,
    only: Mapping[str, Sequence[str]],
    first_seed: int = 0,
    seeds: int | None = None,
    preset: str = "laptop",
) -> list[Choice]:
    """Every combination of the selected values, seed by seed: the first whole table is there after 1/N of the time.

    Args:
        seeds: how many; None takes as many as the grid says of each dataset.
        preset: for values that differ between presets.

    Raises:
        ConfigError: for a value that the grid neither runs nor offers, or that is not registered.
    """
    _check_only(grid, registry, only)
    given = _seeds(only["seed"]) if "seed" in only else None
    most = seeds or max(number for part in grid.parts for number in (*part.seeds.values(), 1))
    return [
        Choice(dataset, architecture, tokenizer, conditioning, seed, settings)
        for seed in given or range(first_seed, first_seed + most)
        for part in grid.parts
        for settings in part.settings(preset)
        for dataset, architecture, tokenizer, conditioning in itertools.product(
            *(_selected(part, registry, axis, only.get(axis)) for axis in AXES[:-1])
        )
        if given or seeds or seed < first_seed + part.replicates(dataset)
    ]


def _check_only(grid: Grid, registry: Registry, only: Mapping[str, Sequence[str]]) -> None:
    for axis in AXES[:-1]:
        known = list(dict.fromkeys(name for part in grid.parts for name in _known(part, registry, axis)))
        for name in only.get(axis) or ():
            if name not in known:
                if axis in NAMED:
                    registry.entry(axis, name)  # not registered: says so, with the nearest name
                raise ConfigError(f"Grid {grid.name} does not offer {axis} '{name}'{nearest(name, known)}")


def _selected(part: Part, registry: Registry, axis: str, only: Sequence[str] | None) -> list[str]:
    """What of an axis a part runs: its own values, or those asked for that it knows."""
    if not only:
        return _expand(part.axes.get(axis, ()), registry, axis)
    known = _known(part, registry, axis)
    return [name for name in dict.fromkeys(only) if name in known]


def _known(part: Part, registry: Registry, axis: str) -> list[str]:
    names = (*_expand(part.axes.get(axis, ()), registry, axis), *_expand(part.offers.get(axis, ()), registry, axis))
    return list(dict.fromkeys(names))


def _expand(names: Sequence[str], registry: Registry, axis: str) -> list[str]:
    if tuple(names) != ("*",):
        return list(names)
    order = rungs()
    rank = {name: order.index(name) if name in order else len(order) for name in registry.names(axis)}
    return sorted(registry.names(axis), key=lambda name: (rank[name], name))


def rungs() -> list[str]:
    """Architectures in the order of the ladder, the order in which tables show them."""
    return [str(name) for name in read_yaml(CONFIGS / "ladder.yaml")["order"]]


def _seeds(texts: Sequence[str]) -> list[int]:
    wrong = next((text for text in texts if not text.isdecimal()), None)
    if wrong is not None:
        raise ConfigError(f"--only seed={wrong} is no seed; give whole numbers, such as --only seed=0,1,2")
    return [int(text) for text in dict.fromkeys(texts)]


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

    def _settled(self, key: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a section finds out about this machine before anything is hashed, by its config's ``settle``.

        A dataset may give a ``label``, which then stands in ids and tables in place of its name, and a ``note`` for who
        reads the plan.
        """
        seen = (key, json.dumps(values, sort_keys=True))  # the cells of a grid share it, and it may walk a large folder
        if seen not in self._found:
            settle = getattr(self.schema.classes[key], "settle", None)
            try:
                found = {} if settle is None else dict(settle(values))
            except ValueError as error:
                raise ConfigError(str(error)) from error
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
        built = self.schema.validate(config)
        dataset, tokenizer = built.get("dataset"), built.get("tokenizer")
        try:
            if tokenizer and (side := getattr(dataset, "resolution", None)):
                frames = getattr(dataset, "frames", None)  # images have none
                tokenizer.grid((*filter(None, [frames]), 3, side, side), f"tokenizer.{config['tokenizer']['name']}")
            space = getattr(dataset, "space", None)
            if not isinstance(space, FactorSpace):
                return None
            resolve_split(SplitConfig(**config["split"]), space)
            if space.num_values and config["conditioning"]["information"] == "labels":
                raise ValueError("conditioning.information=labels is for datasets without values; use quantized")
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return space


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
