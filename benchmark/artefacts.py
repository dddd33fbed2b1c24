"""What cells share: images, tokenizer, judges, latents, ceilings. Each is built once, by whichever cell comes first.

An artefact is a pure function of what its key hashes, parts of the config (``cell.py``) and the sources that make it
(``fingerprints.py``); the store builds it aside and renames it into place. Here stands how each is made and read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from architectures.tokenizers.base import Tokenizer, psnr
from benchmark.cell import Cell
from benchmark.config import instantiate
from benchmark.files import read_json, write_json
from benchmark.fingerprints import artefact_key
from benchmark.fit import Watch, fit
from benchmark.registry import Registry
from benchmark.store import Request, Store
from datasets.base import CompositionalDataModule
from datasets.factors import Composition, SplitConfig, resolve_split, seed_for
from datasets.image_set import ImageSet
from datasets.latents import LatentSet
from probes.evaluation import accuracy, judge_prefix
from probes.judgement import Judge
from probes.judges import FEATURES, STRICT_JUDGES
from probes.linear import LinearProbe, ProbeConfig, train_probe
from probes.steps import step_shares
from probes.strict_features import StrictFeatures, make_strict

ENCODE_BATCH = 512
LEARNED_FROM = ("data", "tokenizer", "latents")
WAITING = "waiting for the tokenizer"  # where another cell trains it, for minutes
Report = Callable[..., None]


class Artefacts:
    """The artefacts of one cell, built where they are missing and opened when they are asked for."""

    def __init__(
        self, cell: Cell, store: Store, registry: Registry, report: Report = lambda **_: None, began_as: str = ""
    ) -> None:
        """`began_as` is the id under which it was trained, where its config was changed since to sample otherwise."""
        self.cell, self.store, self.registry, self.report = cell, store, registry, report
        self._paths = store.cell(began_as or cell.id)
        self.config = cell.config
        self.device = torch.device(self.config["trainer"]["device"])

    def key(self, kind: str) -> str:
        """Of an artefact: the one that the cell began with, as long as it is there, else by its config and its sources."""
        key = self._begun_with.get(kind, "")
        return key if self.store.artefact(kind, key or "none") else artefact_key(kind, self.cell, self.registry)

    @cached_property
    def _begun_with(self) -> dict[str, str]:
        return read_json(self._paths.artefacts) or {}

    def keep(self) -> None:
        """Note what the model learns from: a run that goes on, or is evaluated again, has no other, whatever the sources."""
        write_json(self._paths.artefacts, {kind: self.key(kind) for kind in LEARNED_FROM})

    def part(self, kind: str) -> tuple[Any, Any]:
        """The class that the cell selects of a kind, and its config."""
        entry = self.registry.entry(kind, self.config[kind]["name"])
        cls: Any = entry.load()
        return cls, instantiate(cls.config_class, self.config[kind])

    @cached_property
    def train_compositions(self) -> tuple[Composition, ...]:
        return resolve_split(instantiate(SplitConfig, self.config["split"]), self.data.space)

    # Images -----------------------------------------------------------------------------------------------------------

    @cached_property
    def data(self) -> CompositionalDataModule:
        cls, config = self.part("dataset")
        seed = self.cell.seed_of("data")

        def build(folder: Path) -> None:
            cls(config, seed, folder).generate(folder, lambda share: self.report(phase="drawing images", share=share))

        return cls(config, seed, self.store.build("data", self.key("data"), build, f"images of {self.cell.dataset}"))

    # Tokenizer and judges do not need each other: two cells that start together build one each --------------------------

    def prepare(self) -> None:
        """Build all that is missing, what is free first."""
        _ = self.data
        self.store.build_all([self._tokenizer_request(), self._judge_request()])
        _ = self.judges, self.latents, self.ceiling

    @cached_property
    def tokenizer(self) -> Tokenizer:
        folder = self.store.build(*self._tokenizer_request())
        module = self._fresh_tokenizer()
        module.load_state_dict(load_file(folder / "weights.safetensors"))
        return module.to(self.device).eval().requires_grad_(False)

    @cached_property
    def probe(self) -> LinearProbe:
        folder = self.store.build(*self._probe_request())
        return LinearProbe.load(folder / "weights.safetensors", self.data.space.controlled, self.data.image_shape)

    @cached_property
    def judges(self) -> list[Judge]:
        """The trained probe, and the strict judge where the dataset has one."""
        name = self.data.strict_judge
        if not name:
            return [self.probe]
        if name == FEATURES:
            return [self.probe, StrictFeatures.load(self._strict_folder() / "judge.safetensors", self.probe)]
        return [self.probe, STRICT_JUDGES[name](self.data.space.controlled, self.data.judge_geometry())]

    def _strict_folder(self) -> Path:
        return self.store.build(*self._strict_request())

    def _judge_request(self) -> Request:
        """What has to be built before judges can be opened; a strict judge by features builds the probe that it needs."""
        return self._strict_request() if self.data.strict_judge == FEATURES else self._probe_request()

    def _strict_request(self) -> Request:
        """The strict judge by features, frozen before anything generated is judged, and what it accepts."""

        def build(folder: Path) -> None:
            probe = self.probe.to(self.device)
            self.report(phase="freezing the strict judge")
            real, held_out = self.data.images("probe"), self.data.images("test")
            judge, figures = make_strict(
                probe,
                torch.tensor(real.images),
                real.composition_index,
                torch.tensor(held_out.images),
                held_out.composition_index,
                self.cell.seed_of("probe"),
            )
            judge.save(folder / "judge.safetensors")
            write_json(folder / "accepted.json", figures)
            self.probe.cpu()
            self.report(phase=WAITING)

        return Request("strict", self.key("strict"), build, f"strict judge of {self.cell.dataset}")

    def _fresh_tokenizer(self) -> Tokenizer:
        cls, config = self.part("tokenizer")
        torch.manual_seed(seed_for(self.cell.seed_of("tokenizer"), "tokenizer", "weights"))
        return cls(config, self.data.image_shape)

    def _tokenizer_request(self) -> Request:
        def build(folder: Path) -> None:
            module = self._fresh_tokenizer()
            config, trainer = module.config, self.config["trainer"]
            images = self.data.images("train")
            if config.train_on == "train":
                images = images.subset(self.train_compositions, self.data.space)
            fit(
                module,
                image_batches(images, config.batch_size, self.cell.seed_of("tokenizer"), self.device),
                config.max_steps,
                folder / "checkpoints",
                [
                    Watch(
                        self.report,
                        lambda: None,
                        trainer["log_every"],
                        trainer["checkpoint_every_steps"],
                        f"training {self.cell.tokenizer}",
                    )
                ],
                trainer["checkpoint_every_steps"],
                trainer["device"],
                trainer["precision"],
            )
            save_file(module.state_dict(), folder / "weights.safetensors")

        return Request("tokenizer", self.key("tokenizer"), build, f"{self.cell.tokenizer} of {self.cell.dataset}")

    def _probe_request(self) -> Request:
        def build(folder: Path) -> None:
            self.report(phase="training the probe")
            config = instantiate(ProbeConfig, self.config["probe"])
            real = self.data.images("probe")
            space = self.data.space.controlled
            probe = train_probe(real.images, real.classes, space, config, self.cell.seed_of("probe"))
            probe.save(folder / "weights.safetensors")
            self.report(phase=WAITING)

        return Request("probe", self.key("probe"), build, f"linear probe of {self.cell.dataset}")

    # Latents: a file with training compositions and nothing else ---------------------------------------------------------

    @cached_property
    def latents(self) -> dict[str, LatentSet]:
        """``train``: what a generator learns from; ``validation``: held-out images of the same compositions."""

        def build(folder: Path) -> None:
            for name, part in (("train", "train"), ("validation", "test")):
                images = self.data.images(part).subset(self.train_compositions, self.data.space)
                self.encode(images).save(folder / f"{name}.safetensors")

        note = f"{self.cell.tokenizer} latents of {','.join(self.train_compositions)}"
        folder = self.store.build("latents", self.key("latents"), build, note)
        return {name: LatentSet.load(folder / f"{name}.safetensors") for name in ("train", "validation")}

    def encode(self, images: ImageSet) -> LatentSet:
        """Every latent that the tokenizer gives of a set of images; float32, on the CPU."""
        pieces: list[dict[str, Tensor]] = []
        for start in range(0, len(images), ENCODE_BATCH):
            image = images.tensor(slice(start, start + ENCODE_BATCH)).to(self.device)
            latents = self.tokenizer.encode(image)
            if self.tokenizer.codebook is not None:
                latents["embeddings"] = self.tokenizer.codebook[latents["codes"]]
            pieces.append({name: latent.cpu() for name, latent in latents.items()})
            self.report(phase="encoding", share=start / len(images))
        tensors = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        return LatentSet(tensors, images.values, images.classes)

    # What judges and tokenizer can reach at best -------------------------------------------------------------------------

    @cached_property
    def ceiling(self) -> dict[str, Any]:
        """Judge accuracy per composition on held-out real images and on their reconstructions, and the tokenizer's figures."""

        def build(folder: Path) -> None:
            self.report(phase="measuring ceilings")
            write_json(folder / "ceiling.json", self._measure_ceiling())

        folder = self.store.build("ceiling", self.key("ceiling"), build, f"ceilings of {self.cell.tokenizer}")
        return json.loads((folder / "ceiling.json").read_text())

    def _measure_ceiling(self) -> dict[str, Any]:
        test = self.data.images("test")
        image = test.tensor()
        encoded = self.encode(test)
        reconstruction = torch.cat(
            [
                self.tokenizer.reconstruct(chunk.to(self.device)).clamp(-1, 1).cpu()
                for chunk in image.split(ENCODE_BATCH)
            ]
        )
        figures: dict[str, Any] = {"psnr": float(psnr(image, reconstruction).mean())}
        for kind, pictures in (("real", image), ("recon", reconstruction)):
            for judge in self.judges:
                shares = accuracy(judge, pictures, test.classes, self.data.space)
                figures |= {f"{kind}_{judge_prefix(judge.name)}comp_{name}": share for name, share in shares.items()}
        if self.data.strict_judge == FEATURES:
            accepted = json.loads((self._strict_folder() / "accepted.json").read_text())
            figures |= {f"strict_judge_{name}": share for name, share in accepted.items()}
        codebook = self.tokenizer.codebook
        if codebook is not None:
            figures |= code_figures(self.latents["train"].tensors["codes"], encoded.tensors["codes"], len(codebook))
        if len(self.tokenizer.grid) == 3:  # videos
            centre = encoded.parts(self.tokenizer.views[-1])[0]  # the mean of `kl`, `pre_quant` of `vq`
            figures |= step_shares(centre, encoded.classes, self.tokenizer.grid[0], self.data.space.controlled)
        return figures


def image_batches(
    images: ImageSet, batch_size: int, seed: int, device: torch.device
) -> Callable[[int], dict[str, Any]]:
    """Step -> batch of pixels on the device, drawn with replacement; a function of (seed, step) alone."""
    pixels = torch.tensor(images.images).to(device)  # uint8

    def batch(step: int) -> dict[str, Any]:
        generator = torch.Generator(device).manual_seed(seed_for(seed, "tokenizer", "step", step))
        indices = torch.randint(len(pixels), (batch_size,), generator=generator, device=device)
        return {"image": pixels[indices].float().div_(127.5).sub_(1), "generator": generator}

    return batch


def code_figures(train: Tensor, held_out: Tensor, codes: int) -> Mapping[str, float]:
    """How much of a codebook is used, and what training compositions never use: it was no target, so none can emit it."""
    used_in_training = torch.bincount(train.flatten(), minlength=codes) > 0
    used_anywhere = used_in_training | (torch.bincount(held_out.flatten(), minlength=codes) > 0)
    return {
        "codebook_usage": float(used_anywhere.float().mean()),
        "codes_never_trained": float((used_anywhere & ~used_in_training).float().mean()),
        "held_out_codes_never_trained": float((~used_in_training[held_out]).float().mean()),
    }
