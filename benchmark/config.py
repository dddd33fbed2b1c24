"""The config of a cell: who declares what, the order in which layers are merged, what is checked, and the stable hash.

Every part is a typed dataclass in the file of the thing that it configures; this module puts them together:
dataclass defaults < presets/P.yaml < its ``per_dataset`` < native.yaml (recipe native) < grids/NAME.yaml ``config:`` <
KEY=VALUE.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from benchmark.sources import find_module, source
from datasets.ranges import check_ranges

CONFIGS = Path(__file__).resolve().parent / "configs"
COMMAND_LINE = "command line"
LONGEST_NAME = 200  # a file's may have 255 bytes on most file systems, and ours get an ending
NOT_HASHED = ("slurm", "paths", "jobs", "changed")  # where, how many at once, what is told of it: no bit of the result
# Of `trainer`: where and how fast, not what. Bits change; a setting does not.
HARDWARE = ("device", "devices", "nodes", "precision", "threads", "compile", "log_every", "keep_checkpoints")
# Keys that came later, each with the value that means what was done before: ids of cells do not tell of it.
LATER: Mapping[str, Mapping[str, Any]] = {
    "trainer": {"devices": 1, "nodes": 1},
    "architecture": {"predictor": "mlp", "target": "average"},  # of maskgit-jepa
    "evaluation": {"curve_diffusion_steps": 0, "curve_decode_steps": -1},
}
# Places of files: what they hold, a config's `settle` tells.
WHERE = (("dataset", "root"), ("probe", "weights"), ("evaluation", "inception"))
RECIPES = ("controlled", "native")

T = TypeVar("T")


class ConfigError(ValueError):
    """Wrong input, in one sentence that says what to do. The command line prints it and exits with 2."""


@dataclass
class SeedsConfig:
    """Seeds of what cells share: a number, or `follow` for a replicate of its own beside every model seed."""

    data: str = "0"  # images
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
    devices: int = 1  # of a node that train one cell together, a process each; sums in another order change a few bits
    nodes: int = 1  # that do so; more than one under SLURM only
    precision: str = "auto"  # auto | 32 | bf16-mixed; auto is bf16 where the device computes in it (AMX, AVX-512)
    threads: int = 1  # of torch, OpenMP and MKL; results are bit-equal at one count and differ between one and two
    compile: bool = False  # torch.compile on what every step runs; a CPU without a C++ compiler goes on uncompiled
    eval_every: int = 500  # steps between points of the curve
    checkpoint_every_steps: int = 500  # what a killed cell repeats at most
    keep_checkpoints: int = 10  # kept for studies of dynamics, at log-spaced steps
    log_every: int = 50  # steps between reads of the loss, each a synchronisation with the device

    def validate(self) -> None:
        """Raise ValueError for names that are not known and counts below one."""
        for key, known in (("device", ("auto", "cpu", "cuda")), ("precision", ("auto", "32", "bf16-mixed"))):
            if getattr(self, key) not in known:
                raise ValueError(f"trainer.{key}={getattr(self, key)} is unknown; use one of {', '.join(known)}")
        counts = ("max_steps", "batch_size", "threads", "eval_every", "checkpoint_every_steps", "log_every")
        check_ranges("trainer", self, **dict.fromkeys((*counts, "devices", "nodes"), (1, math.inf)))
        check_ranges("trainer", self, keep_checkpoints=(1, math.inf))
        if self.batch_size % (self.devices * self.nodes):
            raise ValueError(
                f"trainer.batch_size={self.batch_size} must be a multiple of devices x nodes={self.devices * self.nodes}"
            )


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
    "probe": ("probes.linear", "ProbeConfig"),
    "evaluation": ("probes.evaluation", "EvaluationConfig"),
    "slurm": ("benchmark.slurm", "SlurmConfig"),
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
        config: Any = OmegaConf.to_object(merged)
        if hasattr(config, "validate"):
            config.validate()
    except (ValueError, OmegaConfBaseException) as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as plain values; ``1e-3`` is a number here, which plain PyYAML reads as text."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys and values")
    return {str(key): value for key, value in values.items()}


def check_name(name: str, option: str) -> None:
    """Raises ConfigError unless what an option names can be a file in a folder of ours and nowhere else."""
    if not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII) or len(name) > LONGEST_NAME:
        rule = f"use up to {LONGEST_NAME} letters, digits, '.', '-', '+' and '_', of these only '_' first"
        raise ConfigError(f"{option} {name!r} is no name: {rule}")


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested mappings that is none itself, with its dotted key behind a prefix."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(
    usual: Mapping[str, Any], wanted: Mapping[str, Any], names: Mapping[str, str], always: Collection[str] = ()
) -> list[str]:
    """``KEY=VALUE``, as the command line takes it, for every leaf that is another in ``wanted`` than is usual.

    Args:
        names: of the dataset, tokenizer and architecture whose own keys stand under ``dataset`` and so on.
        always: keys that are told in any case.
    """

    def spelled(key: str) -> str:
        section, _, rest = key.partition(".")
        return f"{section}.{names[section]}.{rest}" if section in names else key

    before, absent = dict(leaves(usual)), object()
    told = {key: value for key, value in leaves(wanted) if key in always or before.get(key, absent) != value}
    return [
        f"{spelled(key)}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for key, value in told.items()
    ]


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
    return Layer(f"presets/{preset}.yaml", {**_preset(preset)[0], "preset": preset})


def dataset_layer(preset: str, dataset: str) -> Layer:
    """What a preset does differently for one dataset: its ``per_dataset.NAME``."""
    return Layer(f"presets/{preset}.yaml, per_dataset.{dataset}", _preset(preset)[1].get(dataset) or {})


@cache
def _preset(preset: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What holds for all datasets, and what for each; read once, for each of hundreds of cells."""
    values = read_yaml(CONFIGS / "presets" / f"{preset}.yaml")
    return values, values.pop("per_dataset", None) or {}


def native_layer(architecture: str) -> Layer:
    """What the publication of an architecture does differently from the controlled recipe."""
    return Layer("native.yaml", read_yaml(CONFIGS / "native.yaml").get(architecture) or {})


def stable_hash(values: Any, length: int = 8) -> str:
    """Hexadecimal digits of the SHA-256 of canonical JSON: the same for equal values in any order, on any machine."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def hashed_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """What can change the result: not where and how it is made, nor where files lie.

    A key that came later (``LATER``) is left out where it says what was meant without it, so that ids stay.
    """
    part = {key: value for key, value in config.items() if key not in NOT_HASHED}
    for section, place in WHERE:
        if section in part:
            part[section] = {key: value for key, value in part[section].items() if key != place}
    for section, before in LATER.items():
        if section in part:
            part[section] = {k: v for k, v in part[section].items() if k not in before or v != before[k]}
    return part


def setting_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """What replicates of a setting have in common wherever they are trained: no model seed, no machine."""
    part = {key: value for key, value in hashed_part(config).items() if key != "seed"}
    part["trainer"] = {key: value for key, value in part.get("trainer", {}).items() if key not in HARDWARE}
    return part


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error sentence: the nearest right name, if one is near, and all of them where there are few."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    close = close or [each for each in known if len(name) > 2 and name in each]  # part of one: `jepa`
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return f"{hint} Known: {', '.join(known)}." if 0 < len(known) <= 12 else hint
