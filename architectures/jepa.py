"""MaskGIT+JEPA: while predicting masked codes, also predict the hidden states of a network that sees all of them.

Farid et al. 2025, figure 5: the loss is MaskGIT's plus a weight times the error of predicted states at masked
positions. The target network is an exponential average of the model itself, as in I-JEPA (Assran et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.averages import decay_for_half_life
from architectures.base import Context, architecture
from architectures.conditioning import Condition, mlp
from architectures.maskgit import MaskGIT, MaskGITConfig
from architectures.masking import masked_mean, sample_mask


@dataclass
class MaskGITJEPAConfig(MaskGITConfig):
    """MaskGIT's own settings and those of the state-prediction loss."""

    weight: float = 0.6  # of the state-prediction loss; paper A, section on JEPA
    layers: tuple[int, ...] = (7, 9, 11)  # 0-based blocks whose outputs are predicted; paper A, table 2, of 12 blocks
    half_life: float = 0.02  # of the target's average, as a share of the run; at most .05, or it stays random for long

    def validate(self) -> None:
        """Raise ValueError for values outside their ranges."""
        super().validate()
        if self.weight < 0:
            raise ValueError(f"architecture.weight={self.weight} must be at least 0")
        if not 0 < self.half_life <= 0.05:
            raise ValueError(f"architecture.half_life={self.half_life} must lie in (0, .05]")


@architecture("maskgit-jepa", MaskGITJEPAConfig)
class MaskGITJEPA(MaskGIT):
    """MaskGIT with a state-prediction loss; sampling is MaskGIT's, with MaskGIT's weights only.

    ``jepa_target`` is a whole MaskGIT: float32, in eval mode, without gradients, in the checkpoint. The predictors are
    trained but neither averaged nor sampled.

    Raises:
        ValueError: if a layer is no block of the trunk.
    """

    config: MaskGITJEPAConfig

    def __init__(self, config: MaskGITJEPAConfig, context: Context) -> None:
        super().__init__(config, context)
        width, depth = context.trunk.width, context.trunk.depth
        if not config.layers or not set(config.layers) <= set(range(depth)):
            raise ValueError(f"architecture.layers={list(config.layers)} must name blocks from 0 to {depth - 1}")
        self.layers = tuple(sorted(set(config.layers)))
        self.target_decay = decay_for_half_life(config.half_life * context.max_steps)
        target = MaskGIT(config, context)
        target.load_state_dict(self.state_dict())
        self.jepa_target = target.requires_grad_(False).eval()
        self.predictors = nn.ModuleList(mlp(width, width) for _ in self.layers)

    def train(self, mode: bool = True) -> MaskGITJEPA:
        super().train(mode)
        self.jepa_target.eval()
        return self

    def compile_networks(self) -> None:
        super().compile_networks()
        self.jepa_target.compile_networks()

    def training_loss(
        self, latents: Tensor, condition: Condition, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        batch, tokens = latents.shape[:2]
        mask = sample_mask(batch, tokens, self.context.masking, generator)  # (B, N)
        targets = self.target_states(latents, condition)
        hidden, kept = self.states(latents, mask, condition, self.layers)
        code_loss, logs = self.code_loss(hidden, latents, mask)
        predicted = [predict(states) for predict, states in zip(self.predictors, kept, strict=True)]
        jepa_loss = state_loss(predicted, targets, mask)
        logs |= {"jepa": jepa_loss.detach(), **collapse_monitors(jepa_loss.detach(), targets)}
        return code_loss + self.config.weight * jepa_loss, logs

    @torch.no_grad()
    def target_states(self, codes: Tensor, condition: Condition) -> list[Tensor]:
        """Normalised states (B, N, D) of the target at each layer, seeing all codes and the same condition."""
        nothing_hidden = torch.zeros_like(codes, dtype=torch.bool)
        _, kept = self.jepa_target.states(codes, nothing_hidden, condition, self.layers)
        return [normalise(states) for states in kept]

    def averaged_parameters(self) -> dict[str, nn.Parameter]:
        parameters = super().averaged_parameters()
        return {name: value for name, value in parameters.items() if not name.startswith("predictors.")}

    def after_step(self) -> None:
        super().after_step()
        self.update_target()

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target by ``1 - decay`` towards the model."""
        current = dict(self.named_parameters())
        names, targets = zip(*self.jepa_target.named_parameters(), strict=True)
        torch._foreach_lerp_(targets, [current[name].detach() for name in names], 1 - self.target_decay)


def normalise(states: Tensor) -> Tensor:
    """LayerNorm over features without affine part, float32 (I-JEPA's targets)."""
    return F.layer_norm(states.float(), states.shape[-1:])


def state_loss(predicted: list[Tensor], targets: list[Tensor], mask: Tensor) -> Tensor:
    """Mean squared error at masked positions, per sample and then over samples, mean over layers; 0-d float32."""
    errors = [(p.float() - t).square().mean(-1) for p, t in zip(predicted, targets, strict=True)]  # (B, N) each
    return torch.stack([masked_mean(error, mask) for error in errors]).mean()


def collapse_monitors(loss: Tensor, targets: list[Tensor]) -> dict[str, Tensor]:
    """What shows a collapse of the targets: spread, likeness between images, and the loss against the spread.

    Returns:
        Over images and positions, mean over layers (0-d): std of a feature, cosine between the states of neighbouring
        images of the batch at equal positions, and the loss divided by the variance of a feature (1 predicts nothing).
    """
    states = torch.stack(targets)  # (layers, B, N, D)
    variance = states.flatten(1, 2).var(dim=1).mean()
    cosine = F.cosine_similarity(states, states.roll(1, dims=1), dim=-1).mean()
    spread = states.flatten(1, 2).std(dim=1).mean()
    return {"target_std": spread, "target_cosine": cosine, "jepa_over_variance": loss / variance}
