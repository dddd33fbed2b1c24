"""The config of a cell: who declares what, the order in which layers are merged, what is checked, and the stable hash.

Every part is a typed dataclass in the file of the thing that it configures; this module puts them together:
dataclass defaults < presets/P.yaml < native.yaml (recipe native) < grids/NAME.yaml ``config:`` < KEY=VALUE.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmark.sources import find_module, source

if TYPE_CHECKING:
    from benchmark.registry import Registry

CONFIGS = Path(__file__).resolve().parent / "configs"
COMMAND_LINE = "command line"
NOT_HASHED = ("slurm", "paths", "jobs")  # where and how many at once: they change no bit of the result
RECIPES = ("controlled", "native")

T = TypeVar("T")


class ConfigError(ValueError):
    """Wrong input, in one sentence that says what to do. The command line prints it and exits with 2."""


@dataclass
class SeedsConfig:
    """Seeds of what cells share: a number, or `follow` for a replicate of its own beside every model seed."""

    data: str = "0"  # images; science.md 4
    tokenizer: str = "0"  # weights, batches and noise of the tokenizer; claims about tokenizers need `follow`
    probe: str = "0"  # the trained judges

    def validate(self) -> None:
        """Raise ValueError for anything but digits and `follow`."""
        for name, value in vars(self).items():
            if value != "follow" and not value.isdecimal():
                raise ValueError(f"seeds.{name}={value} is no seed; give a whole number, or follow")


@dataclass
class TrainerConfig:
    """How a cell is trained, apart from the optimiser."""

    max_steps: int = 100_000  # the only clock; Lightning miscounts epochs on resume (its issues 18060, 19815)
    batch_size: int = 256  # latents a step; paper A
    device: str = "auto"  # auto | cpu | cuda
    precision: str = "auto"  # auto | 32 | bf16-mixed; auto is bf16 where the device computes in it, AMX and AVX-512 included
    threads: int = 1  # of torch, OpenMP and MKL; results are bit-equal at one count and differ between one and two
    compile: bool = False  # torch.compile on the networks
    eval_every: int = 500  # steps between points of the curve
    checkpoint_every_steps: int = 500  # what a killed cell repeats at most
    keep_checkpoints: int = 10  # kept for studies of dynamics, at log-spaced steps
    log_every: int = 50  # steps between reads of the loss, each a synchronisation with the device

    def validate(self) -> None:
        """Raise ValueError for names that are not known and counts below one."""
        for key, known in (("device", ("auto", "cpu", "cuda")), ("precision", ("auto", "32", "bf16-mixed"))):
            if getattr(self, key) not in known:
                raise ValueError(f"trainer.{key}={getattr(self, key)} is unknown; use one of {', '.join(known)}")
        for key in ("max_steps", "batch_size", "threads", "eval_every", "checkpoint_every_steps", "log_every"):
            if getattr(self, key) < 1:
                raise ValueError(f"trainer.{key}={getattr(self, key)} must be at least 1")


SECTIONS = {  # section of the config -> where its dataclass stands
    "seeds": ("benchmark.config", "SeedsConfig"),
    "split": ("datasets.factors", "SplitConfig"),
    "trunk": ("architectures.transformer", "TrunkConfig"),
    "conditioning": ("architectures.conditioning", "ConditioningConfig"),
    "diffusion": ("architectures.diffusion", "DiffusionConfig"),
    "masking": ("architectures.masking", "MaskingConfig"),
    "sampling": ("architectures.masking", "SamplingConfig"),
    "optimiser": ("architectures.base", "OptimiserConfig"),
    "trainer": ("benchmark.config", "TrainerConfig"),
    #"probe": ("probes.linear", "ProbeConfig"),
}
NAMED = ("dataset", "tokenizer", "architecture")  # sections that hold one config for every registered name


@dataclass(frozen=True)
class Layer:
    """Values that stand above those of earlier layers, and where they come from, for error messages."""

    origin: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Override:
    """A ``KEY=VALUE`` of the command line; the text is read by the type of the field."""

    key: str
    text: str

    @staticmethod
    def parse(token: str) -> Override:
        key, _, text = token.partition("=")
        return Override(key, text)


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
        self.keys = list(_leaves(_container(self._defaults)))

    def _build(self) -> Any:
        from omegaconf import IntegerNode, OmegaConf, StringNode

        tree: dict[str, Any] = {"preset": StringNode("laptop"), "recipe": StringNode("controlled")}
        tree |= {"seed": IntegerNode(0), **{kind: {} for kind in NAMED}}
        for key, config_class in self.classes.items():
            section, _, name = key.partition(".")
            if name:
                tree[section][name] = config_class
            else:
                tree[section] = config_class
        return OmegaConf.create(tree, flags={"struct": True})

    def compose(self, layers: Iterable[Layer], overrides: Iterable[Override] = ()) -> dict[str, Any]:
        """Merge layers, then overrides, over the defaults.

        Raises:
            ConfigError: for an unknown key (with the nearest right one) or a value of the wrong type.
        """
        import copy

        config = copy.deepcopy(self._defaults)
        for layer in layers:
            for key, value in layer.values.items():
                self._set(config, layer.origin, key, value, lambda c, k, v: c.merge_with({k: v}))
        for override in overrides:
            self._check_axis(override)
            value = _read(override, config)
            self._set(config, COMMAND_LINE, override.key, value, _update)
        return _container(config)

    def _set(self, config: Any, origin: str, key: str, value: Any, assign: Any) -> None:
        from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

        try:
            assign(config, key, value)
        except (ConfigKeyError, ConfigAttributeError) as error:
            wrong = key if origin == COMMAND_LINE else error.full_key or key
            raise ConfigError(f"There is no key '{wrong}' ({origin}){nearest_key(wrong, self.keys)}") from error
        except OmegaConfBaseException as error:
            wrong = error.full_key or key
            raise ConfigError(_wrong_type(wrong, _dig(value, key, wrong), self._default(wrong), origin)) from error

    def _default(self, key: str) -> Any:
        from omegaconf import OmegaConf

        return OmegaConf.select(self._defaults, key)

    def _check_axis(self, override: Override) -> None:
        if override.key in (*NAMED, "conditioning"):
            raise ConfigError(f"{override.key} is an axis of the grid: select it with --only {override.key}={override.text}")
        if override.key == "preset":
            raise ConfigError(f"The preset is chosen with --preset {override.text}")

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
                    with suppress(NameError):
                        self._valid[seen] = instantiate(self.classes[key], values)
                built[section] = self._valid.get(seen)
        return built


def section_class(module: str, name: str) -> type:
    """The dataclass of a section, without importing the module that it stands in."""
    if module == __name__:
        return globals()[name]
    path = find_module(module)
    if path is None:
        raise ConfigError(f"{module} is missing from this checkout: clone it again")
    return source(path, module).declared(name)


def instantiate(config_class: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from one section of a resolved config; keys that are not its own (`name`, `view`) are left out.

    Raises:
        ConfigError: for a value of the wrong type, and for what the class's ``validate`` refuses.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    own = {f.name for f in fields(config_class)}  # type: ignore[arg-type]
    try:
        merged = OmegaConf.merge(OmegaConf.structured(config_class), {k: v for k, v in values.items() if k in own})
        config = OmegaConf.to_object(merged)
        if hasattr(config, "validate"):
            config.validate()
    except (ValueError, OmegaConfBaseException) as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    return config  # type: ignore[return-value]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as plain values; ``1e-3`` is a number here, which plain PyYAML reads as text."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys and values")
    return {str(key): value for key, value in values.items()}


def names_in(folder: str) -> list[str]:
    """Names of the YAML files in a folder of ``configs/``."""
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def preset_layer(preset: str) -> Layer:
    """The layer of a preset; its name stands in it.

    Raises:
        ConfigError: for an unknown preset, with the nearest one.
    """
    if preset not in names_in("presets"):
        raise ConfigError(f"There is no preset '{preset}'{nearest(preset, [*names_in('presets'), 'auto'])}")
    path = CONFIGS / "presets" / f"{preset}.yaml"
    return Layer(f"presets/{path.name}", {**read_yaml(path), "preset": preset})


def native_layer(architecture: str) -> Layer:
    """What the publication of an architecture does differently from the controlled recipe."""
    return Layer("native.yaml", read_yaml(CONFIGS / "native.yaml").get(architecture) or {})


def stable_hash(values: Any, length: int = 8) -> str:
    """Hexadecimal digits of the SHA-256 of canonical JSON: the same for equal values in any order, on any machine."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def hashed_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """What can change the result."""
    return {key: value for key, value in config.items() if key not in NOT_HASHED}


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error sentence: the nearest right name, and all of them where there are few."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return f"{hint} Known: {', '.join(known)}." if 0 < len(known) <= 12 else hint


def nearest_key(key: str, known: list[str]) -> str:
    """The nearest dotted key: the same last word somewhere else, else the most similar spelling."""
    last = key.rpartition(".")[2]
    same = [other for other in known if other.rpartition(".")[2] == last]
    close = difflib.get_close_matches(key, same, n=1, cutoff=0.0) or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else "."


def _with_view(config_class: type) -> type:
    """A tokenizer's config plus which of its views an architecture models: a choice of the cell, not of the tokenizer."""
    view = field(default="auto")
    return make_dataclass(config_class.__name__, [("view", str, view)], bases=(config_class,))


def _read(override: Override, config: Any) -> Any:
    """The text of an override as the value that its field asks for; OmegaConf converts plain numbers and truth values."""
    from omegaconf import OmegaConf

    try:
        current = OmegaConf.to_container(OmegaConf.create({"value": OmegaConf.select(config, override.key)}))["value"]  # type: ignore[call-overload,index]
    except Exception:
        return override.text
    if isinstance(current, list | tuple):
        from yaml import safe_load

        text = override.text.strip()
        return safe_load(text if text.startswith("[") else f"[{text}]")
    if not isinstance(current, str) and override.text.lower() in ("none", "null"):
        return None
    return override.text


def _update(config: Any, key: str, value: Any) -> None:
    from omegaconf import OmegaConf

    OmegaConf.update(config, key, value, merge=True)


def _container(config: Any) -> dict[str, Any]:
    """Plain nested dictionaries, lists in place of tuples: what YAML and JSON can hold."""
    from omegaconf import OmegaConf

    return json.loads(json.dumps(OmegaConf.to_container(config, resolve=True)))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


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
