"""A cell: one architecture trained on one dataset under one conditioning with one seed, and what it depends on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.config import ConfigError, hashed_part, read_yaml, stable_hash
from benchmark.files import write_text

ARTEFACT_DIGITS = 16


class DamagedConfig(ConfigError):
    """A cell's config is missing, cut off, or something else altogether; the message says how to get it back."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A resolved config, and everything that follows from it."""

    config: Mapping[str, Any]

    @cached_property
    def id(self) -> str:
        """Readable, then a hash of everything that can change the result: ``shapes2d-dit-vq-full-s0-3f9a1c27``."""
        names = (self.dataset, self.architecture, self.tokenizer, self.conditioning, f"s{self.seed}")
        return "-".join((*names, stable_hash(hashed_part(self.config))))

    @cached_property
    def setting(self) -> str:
        """Hash of the config without its seeds: what the replicates of a setting share."""
        parts = {key: value for key, value in hashed_part(self.config).items() if key not in ("seed", "seeds")}
        parts["follow"] = sorted(kind for kind, seed in self.config["seeds"].items() if seed == "follow")
        return stable_hash(parts)

    @property
    def dataset(self) -> str:
        """As ids and tables say it: its name, or the label under which it settled."""
        return self.config["dataset"].get("label") or self.config["dataset"]["name"]

    @property
    def architecture(self) -> str:
        return self.config["architecture"]["name"]

    @property
    def tokenizer(self) -> str:
        return self.config["tokenizer"]["name"]

    @property
    def view(self) -> str:
        """Which latents of the tokenizer the architecture models."""
        return self.config["tokenizer"]["view"]

    @property
    def conditioning(self) -> str:
        """``full``, ``centres`` or ``quantized``, with ``+dropout`` where factors are hidden in training."""
        conditioning = self.config["conditioning"]
        return conditioning["information"] + "+dropout" * (conditioning["dropout"] > 0)

    @property
    def seed(self) -> int:
        """Of the model."""
        return self.config["seed"]

    @property
    def threads(self) -> int:
        return self.config["trainer"]["threads"]

    @property
    def devices(self) -> int:
        """Of a node, a process each."""
        return self.config["trainer"].get("devices", 1)

    @property
    def nodes(self) -> int:
        return self.config["trainer"].get("nodes", 1)

    def seed_of(self, kind: str) -> int:
        """The seed of `data`, `tokenizer` or `probe`: a number of its own, or the model's where it follows."""
        seed = self.config["seeds"][kind]
        return self.seed if seed == "follow" else int(seed)

    def row(self) -> dict[str, Any]:
        """What the leaderboard says of a cell before anything is measured."""
        names = {key: getattr(self, key) for key in ("dataset", "architecture", "tokenizer", "conditioning", "seed")}
        seeds = {f"seed_{kind}": self.seed_of(kind) for kind in self.config["seeds"]}
        trainer = self.config["trainer"]
        return {
            **names,
            "changed": self.config.get("changed", ""),
            "preset": self.config["preset"],
            "recipe": self.config["recipe"],
            "view": self.view,
            "max_steps": trainer["max_steps"],
            "device": trainer["device"],
            **seeds,
        }

    # Artefacts: each key is a hash of exactly the parts of the config that can change the artefact (the sources that
    # make it join in `fingerprints.py`).

    @cached_property
    def data_key(self) -> str:
        return stable_hash(self._data(), ARTEFACT_DIGITS)

    @cached_property
    def tokenizer_key(self) -> str:
        return stable_hash(self._tokenizer(), ARTEFACT_DIGITS)

    @cached_property
    def latents_key(self) -> str:
        """Of the training compositions' latents, in all views."""
        return stable_hash({"tokenizer": self._tokenizer(), "split": self.config["split"]}, ARTEFACT_DIGITS)

    @cached_property
    def probe_key(self) -> str:
        return stable_hash(self._probe(), ARTEFACT_DIGITS)

    @cached_property
    def strict_key(self) -> str:
        """Of the strict judge that is built from the probe and real images, where the dataset has no analytic one."""
        return stable_hash({"strict": self._probe()}, ARTEFACT_DIGITS)

    @cached_property
    def ceiling_key(self) -> str:
        """Of what the judges say of real images and of their reconstructions, and of the codes that training uses."""
        parts = {"tokenizer": self._tokenizer(), "probe": self._probe(), "split": self.config["split"]}
        return stable_hash(parts, ARTEFACT_DIGITS)

    @property
    def shared_parts(self) -> tuple[str, ...]:
        """Cells in which these are the same share their artefacts."""
        return self.data_key, self.tokenizer_key, self.latents_key, self.probe_key, self.ceiling_key

    def _data(self) -> dict[str, Any]:
        return {"dataset": hashed_part(self.config)["dataset"], "seed": self.seed_of("data")}

    def _probe(self) -> dict[str, Any]:
        return {
            "data": self._data(),
            "probe": hashed_part(self.config)["probe"],
            "seed": self.seed_of("probe"),
            **self._arithmetic(),
        }

    def _tokenizer(self) -> dict[str, Any]:
        own = {key: value for key, value in self.config["tokenizer"].items() if key != "view"}
        parts = {"data": self._data(), "tokenizer": own, "seed": self.seed_of("tokenizer"), **self._arithmetic()}
        if own.get("train_on") == "train":
            parts["split"] = self.config["split"]
        return parts

    def _arithmetic(self) -> dict[str, Any]:
        """What changes the bits of anything that is trained."""
        return {key: self.config["trainer"][key] for key in ("device", "precision", "threads")}

    def write(self, path: Path) -> None:
        """Write the resolved config, from which `--cell ID` makes the same cell again."""
        from omegaconf import OmegaConf

        write_text(path, OmegaConf.to_yaml(OmegaConf.create(dict(self.config))))

    @staticmethod
    def read(path: Path) -> Cell:
        """The cell whose config was written there.

        Raises:
            DamagedConfig: if the cell has a folder, and no config there from which it could be made.
            ConfigError: if there is no cell, or its config was changed by hand: its id is no longer the folder's name.
        """
        folder = path.parent
        if not os.path.isdir(folder):
            raise ConfigError(f"There is no cell {folder.name} in {folder.parent}; `status` lists them")
        remedy = f"run the grid that {folder.name} came from again, which writes it anew"
        if not os.path.lexists(path):
            raise DamagedConfig(f"{path} is missing: {remedy}")
        try:
            cell = Cell(read_yaml(path))
            found = cell.id
        except ConfigError as error:
            raise DamagedConfig(f"{error}: {remedy}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedConfig(f"{path} is no cell's config: {remedy}") from error
        if found != folder.name:
            raise ConfigError(f"{path} was changed: it describes {found}. Undo that, or run with KEY=VALUE instead")
        return cell
