"""Every key there is, with its type and default; layers of values merged over it and checked.

OmegaConf converts and checks each value by the type of its field. What it finds wrong is told in one sentence: the key,
where it stands, and the nearest right key.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import field, make_dataclass
from typing import Any

from omegaconf import DictConfig, IntegerNode, OmegaConf, StringNode
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError, safe_load

from benchmark.config import (
    COMMAND_LINE,
    NAMED,
    SECTIONS,
    ConfigError,
    Layer,
    Override,
    instantiate,
    leaves,
    section_class,
)
from benchmark.registry import Registry

Assign = Callable[[DictConfig, str, Any], None]


class Schema:
    """Every key there is, with its type and its default, for what a registry holds."""

    def __init__(self, registry: Registry) -> None:
        self.classes: dict[str, type] = {key: section_class(*where) for key, where in SECTIONS.items()}
        for kind in NAMED:
            for name in registry.names(kind):
                config_class = registry.entry(kind, name).config_class()
                self.classes[f"{kind}.{name}"] = _with_view(config_class) if kind == "tokenizer" else config_class
        self._valid: dict[tuple[str, str], Any] = {}
        self._defaults = self._build()
        self.keys = [key for key, _ in leaves(_container(self._defaults))]

    def _build(self) -> DictConfig:
        tree: dict[str, Any] = {"preset": StringNode("laptop"), "recipe": StringNode("controlled")}
        tree["seed"] = IntegerNode(0)
        for key, config_class in self.classes.items():
            section, _, name = key.partition(".")
            if name:
                tree.setdefault(section, {})[name] = config_class
            else:
                tree[section] = config_class
        return OmegaConf.create(tree, flags={"struct": True})

    def compose(self, layers: Iterable[Layer], overrides: Iterable[Override] = ()) -> dict[str, Any]:
        """Merge layers, then overrides, over the defaults.

        Raises:
            ConfigError: for an unknown key (with the nearest right one) or a value of the wrong type.
        """
        config = copy.deepcopy(self._defaults)
        for layer in layers:
            for key, value in layer.values.items():
                self._set(config, layer.origin, key, value, _merge)
        for override in overrides:
            _refuse_axis(override)
            self._set(config, COMMAND_LINE, override.key, _read(override, config), _update)
        return _container(config)

    def _set(self, config: DictConfig, origin: str, key: str, value: Any, assign: Assign) -> None:
        """Assign a value; whatever OmegaConf refuses becomes a sentence."""
        default = self._default(key)
        if hasattr(default, "keys") and not isinstance(value, Mapping):
            raise ConfigError(_wrong_type(key, value, default, origin))
        try:
            assign(config, key, value)
        except (ConfigKeyError, ConfigAttributeError) as error:
            wrong = key if origin == COMMAND_LINE else error.full_key or key
            raise ConfigError(f"There is no key '{wrong}' ({origin}){nearest_key(wrong, self.keys)}") from error
        except OmegaConfBaseException as error:
            wrong = error.full_key or key
            raise ConfigError(_wrong_type(wrong, _dig(value, key, wrong), self._default(wrong), origin)) from error

    def _default(self, key: str) -> Any:
        with suppress(OmegaConfBaseException):  # an unknown key
            return OmegaConf.select(self._defaults, key)
        return None

    def validate(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Instantiate every section of a resolved config; section -> dataclass.

        Raises:
            ConfigError: for what a dataclass's own ``validate`` refuses.
        """
        built = {}
        for section, values in config.items():
            if isinstance(values, Mapping):
                key = f"{section}.{values['name']}" if section in NAMED else section
                seen = (key, json.dumps(values, sort_keys=True))  # cells of a grid share most of their sections
                if seen not in self._valid:
                    # A plug-in's check may need what only a real import has: then the worker makes it.
                    with suppress(NameError), named(section, key):
                        self._valid[seen] = instantiate(self.classes[key], values)
                built[section] = self._valid.get(seen)
        return built


@contextmanager
def named(section: str, key: str) -> Iterator[None]:
    """A config does not know the name under which it is registered: what it refuses is told by the key that a user writes."""
    try:
        yield
    except ValueError as error:
        told = str(error)
        raise ConfigError(told if f"{key}." in told else told.replace(f"{section}.", f"{key}.")) from error


def nearest_key(key: str, known: list[str]) -> str:
    """The nearest dotted key: the same last word in a section alike (in any, where none is given), else a like spelling."""
    section, _, last = key.rpartition(".")
    same = {other.rpartition(".")[0]: other for other in reversed(known) if other.rpartition(".")[2] == last}
    alike = difflib.get_close_matches(section, same, 1, cutoff=0.6) if section else list(reversed(same))
    close = [same[where] for where in alike] or difflib.get_close_matches(key, known, 1, cutoff=0.8)
    return f"; did you mean '{close[0]}'?" if close else "."


def _refuse_axis(override: Override) -> None:
    if override.key in (*NAMED, "conditioning"):
        raise ConfigError(f"{override.key} is an axis: select it with --only {override.key}={override.text}")
    if override.key == "preset":
        raise ConfigError(f"The preset is chosen with --preset {override.text}")


def _with_view(config_class: type) -> type:
    """A tokenizer's config plus which of its views is modelled: a choice of the cell, not of the tokenizer."""
    view = field(default="auto")
    return make_dataclass(config_class.__name__, [("view", str, view)], bases=(config_class,))


def _read(override: Override, config: Any) -> Any:
    """The text of an override as the value that its field asks for; numbers and truth values OmegaConf converts."""
    current = None
    with suppress(OmegaConfBaseException):  # an unknown key: whoever sets it says so
        current = OmegaConf.select(config, override.key)
    if OmegaConf.is_config(current) and not OmegaConf.is_dict(current):
        text = override.text.strip()
        with suppress(YAMLError):  # no list: the field refuses the text
            return safe_load(text if text.startswith("[") else f"[{text}]")
    if not isinstance(current, str) and override.text.lower() in ("none", "null"):
        return None
    return override.text


def _merge(config: DictConfig, key: str, value: Any) -> None:
    config.merge_with({key: value})


def _update(config: DictConfig, key: str, value: Any) -> None:
    OmegaConf.update(config, key, value, merge=True)


def _container(config: DictConfig) -> dict[str, Any]:
    """Plain nested dictionaries, lists in place of tuples: what YAML and JSON can hold."""
    return json.loads(json.dumps(OmegaConf.to_container(config)))


def _dig(value: Any, key: str, full_key: str) -> Any:
    """The innermost value behind a full key, of a layer's nested values under a key."""
    for part in full_key.removeprefix(key).strip(".").split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
    return value


def _wrong_type(key: str, value: Any, default: Any, origin: str) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    wanted = kinds.get(type(default), "a list such as [1, 2]" if default is not None else "another type")
    if hasattr(default, "keys"):
        wanted = f"keys below it, such as {key}.{next(iter(default.keys()), 'name')}"
    return f"{key}={value} ({origin}) is of the wrong type; it takes {wanted}."
