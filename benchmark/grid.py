"""Grid + filters -> choices, one for each cell. Pure: `benchmark.composer` turns choices into configs.

A grid file names the values of the axes dataset, architecture, tokenizer and conditioning: ``axes`` run by default,
``offers`` are what ``--only`` may select besides; ``"*"`` is every registered name, plug-ins included. The fifth axis
is the seed; ``seeds`` says how many where the command line does not, for all datasets or for each.

A study is more than one table: ``parts`` are products that each add to what stands above them or replace it. ``vary``
crosses the axes with the values of any dotted key, and ``include`` takes over the parts of other grids. What two parts
have in common is one cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.config import CONFIGS, NAMED, ConfigError, names_in, nearest, read_yaml
from benchmark.registry import Registry

AXES = ("dataset", "architecture", "tokenizer", "conditioning", "seed")
PART_KEYS = ("axes", "offers", "config", "vary", "seeds")
KEYS = ("question", "figure", "expected", "include", "parts", *PART_KEYS)


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
