"""A cell's model between the other rooms: built from the config, fed with latents, sampled into images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from architectures.base import Context, GenerativeModel, OptimiserConfig
from architectures.conditioning import Condition, ConditioningConfig
from architectures.diffusion import DiffusionConfig
from architectures.masking import MaskingConfig, SamplingConfig
from architectures.transformer import TrunkConfig
from benchmark.artefacts import Artefacts
from benchmark.config import ConfigError, instantiate
from benchmark.hardware import why_not_compiled
from benchmark.samplers import at_the_curve, refusal
from datasets.factors import seed_for
from datasets.image_set import composition_index
from datasets.latents import LatentBatches
from probes.evaluation import SampleImages

VALIDATION_BATCH = 512  # held-out latents behind the validation loss, the same at every evaluation
DECODE_BATCH = 512  # images decoded at once
SHARED: dict[str, type] = {  # what a ladder holds fixed
    "trunk": TrunkConfig,
    "conditioning": ConditioningConfig,
    "diffusion": DiffusionConfig,
    "masking": MaskingConfig,
    "sampling": SamplingConfig,
    "optimiser": OptimiserConfig,
}


def build_model(artefacts: Artefacts, settings: Mapping[str, Any] | None = None) -> GenerativeModel:
    """The architecture with its initial weights, a function of the cell's config and seed, on its device.

    Args:
        settings: a config whose sections stand in the place of the cell's own, for those that architectures share.
    """
    cls, config = artefacts.part("architecture")
    sections = artefacts.config if settings is None else settings
    shared: dict[str, Any] = {name: instantiate(config_class, sections[name]) for name, config_class in SHARED.items()}
    context = Context(
        space=artefacts.data.space,
        grid=tuple(artefacts.tokenizer.grid),
        channels=artefacts.tokenizer.channels,
        codebook=scaled_codebook(artefacts),
        max_steps=artefacts.config["trainer"]["max_steps"],
        **shared,
    )
    torch.manual_seed(seed_for(artefacts.cell.seed, "weights"))
    model = cls(config, context).to(artefacts.device)
    model.finalise()
    return model


def compile_networks(artefacts: Artefacts, model: GenerativeModel) -> bool:
    """Compile what every training step runs, where the config asks for it; whether this machine can.

    Where it cannot, training goes on without, a third slower, and the log says why.
    """
    if not artefacts.config["trainer"]["compile"]:
        return False
    if complaint := why_not_compiled(artefacts.device):
        print(f"training goes on uncompiled and slower; trainer.compile=false says so on purpose ({complaint})")
        return False
    model.compile_networks()
    return True


def _compile_twin(artefacts: Artefacts, twin: GenerativeModel) -> None:
    """As `compile_networks`, which says where that cannot be; a graph serves every point, since tensors are its inputs."""
    if artefacts.config["trainer"]["compile"] and not why_not_compiled(artefacts.device):
        twin.compile_networks()


def latent_scale(artefacts: Artefacts) -> tuple[Tensor | None, Tensor | None]:
    """Mean and std per channel, (C,) each, of the training compositions' latents; None for codes."""
    view = artefacts.cell.view
    if view == "codes":
        return None, None
    shift, scale = artefacts.latents["train"].statistics(view)
    return shift.to(artefacts.device), scale.to(artefacts.device)


def scaled_codebook(artefacts: Artefacts) -> Tensor | None:
    """Code vectors (K, C) in units in which the training compositions' embeddings have mean 0 and std 1."""
    codebook = artefacts.tokenizer.codebook
    if codebook is None:
        return None
    shift, scale = artefacts.latents["train"].statistics("embeddings")
    return (codebook - shift.to(codebook.device)) / scale.to(codebook.device)


def training_batches(artefacts: Artefacts) -> LatentBatches:
    """Latents of the training compositions, resident on the device."""
    latents = artefacts.latents["train"].to(artefacts.device)
    size = artefacts.config["trainer"]["batch_size"]
    groups = composition_index(latents.classes, artefacts.data.space) if artefacts.data.balance == "equal" else None
    return LatentBatches(latents, artefacts.cell.view, size, artefacts.cell.seed, *latent_scale(artefacts), groups)


def validation_loss(artefacts: Artefacts) -> Callable[[GenerativeModel], float]:
    """Training loss of a model's current weights on held-out images of training compositions, with fixed noise."""
    latents = artefacts.latents["validation"].to(artefacts.device)
    seed = seed_for(artefacts.cell.seed_of("data"), "validation")
    batches = LatentBatches(latents, artefacts.cell.view, VALIDATION_BATCH, seed, *latent_scale(artefacts))

    def loss(model: GenerativeModel) -> float:
        batch = batches.batch(0)  # anew each time, since the loss uses its generator up
        condition = Condition.of(batch["classes"], batch["values"])
        eager = torch.compiler.set_stance("force_eager")  # one batch a point of the curve is not worth a graph
        with eager, torch.no_grad(), autocast(artefacts):
            return float(model.training_loss(batch["latents"], condition, batch["generator"])[0])

    return loss


def curve_model(artefacts: Artefacts, model: GenerativeModel) -> GenerativeModel:
    """What points of the curve are sampled from: the model, or a twin of it where the curve has steps of its own.

    The twin is built with the other steps and shares the model's tensors as they are now, so that it takes no memory
    for long. It is not compiled, and torch's global generators are left as they were.

    Raises:
        ConfigError: for steps that the architecture refuses.
    """
    settings = at_the_curve(artefacts.config)
    if settings == artefacts.config:
        return model
    devices = [torch.cuda.current_device()] if artefacts.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            twin = build_model(artefacts, settings)
    except ValueError as error:
        raise ConfigError(refusal(artefacts.config, error)) from error
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin.eval()


def curve_sampler(artefacts: Artefacts, model: GenerativeModel) -> SampleImages:
    """As `image_sampler`, with the steps of the curve, from a compiled twin where models are compiled."""
    twin = curve_model(artefacts, model)
    sample_twin = image_sampler(artefacts, twin)
    if twin is model:
        return sample_twin
    _compile_twin(artefacts, twin)

    def sample(classes: Tensor, values: Tensor, generator: torch.Generator) -> Tensor:
        twin.load_state_dict(model.state_dict(), assign=True)  # of now: where averages are in place, these
        return sample_twin(classes, values, generator)

    return sample


def image_sampler(artefacts: Artefacts, model: GenerativeModel) -> SampleImages:
    """Conditions (classes (B, F), values (B, V)) and a generator to images (B, C, H, W), with the current weights."""
    shift, scale = latent_scale(artefacts)
    tokenizer, view = artefacts.tokenizer, artefacts.cell.view

    @torch.no_grad()
    def sample(classes: Tensor, values: Tensor, generator: torch.Generator) -> Tensor:
        with autocast(artefacts):
            latents = model.sample(Condition.of(classes, values), generator)
        if shift is not None and scale is not None:
            latents = latents.float() * scale + shift
        return torch.cat([tokenizer.decode(chunk, view) for chunk in latents.split(DECODE_BATCH)])

    return sample


def autocast(artefacts: Artefacts) -> torch.autocast:
    """The precision of training, for what runs outside the trainer."""
    enabled = artefacts.config["trainer"]["precision"] == "bf16-mixed"
    return torch.autocast(artefacts.device.type, torch.bfloat16, enabled=enabled)
