"""MaskGIT+JEPA: while predicting masked codes, also predict the hidden states of a network that sees all of them.

Farid et al. 2025, figure 5: the loss is MaskGIT's plus a weight times the error of predicted states at masked
positions. The target network is an exponential average of the model itself, as in I-JEPA (Assran et al. 2023).
The other values of ``target`` are controls: each takes one thing away from that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.averages import decay_for_half_life
from architectures.base import Context, architecture
from architectures.conditioning import Condition, mlp
from architectures.jepa_controls import partners_within, second_mask_share
from architectures.maskgit import MaskGIT, MaskGITConfig
from architectures.masking import masked_mean, sample_mask
from architectures.transformer import TrunkConfig
from datasets.ranges import ABOVE_0, check_ranges

TARGETS = ("average", "shuffled", "frozen", "codebook", "none")
PREDICTORS = ("mlp", "linear")


@dataclass
class MaskGITJEPAConfig(MaskGITConfig):
    """MaskGIT's own settings and those of the state-prediction loss."""

    weight: float = 0.6  # of the state-prediction loss; paper A, section on JEPA
    layers: tuple[int, ...] = (7, 9, 11)  # 0-based blocks whose outputs are predicted; paper A, table 2, of 12 blocks
    half_life: float = 0.02  # of the target's average, as a share of the run; at most .05, or it stays random for long
    predictor: str = "mlp"  # mlp: two layers | linear: one; "lightweight" is all that paper A says of it
    # What is predicted at masked positions:
    # average: states of the model's average that sees all codes (paper A)
    # shuffled: those of another sample of the same composition: is it the sample's own content that helps?
    # frozen: those of the initial network, which never moves: does it have to be learned? Its gates are zero, so at every
    #     layer they are the code's embedding with its position, normalised, nothing deeper: a hundredth of their variance
    #     tells images apart, and the condition is not in them. It is no random deep network.
    # codebook: the sample's codebook vectors, from the last block: does any continuous target do?
    # none: no second loss; the extra operations go into second masks of MaskGIT's own: is it the compute?
    target: str = "average"

    def validate(self) -> None:
        """Raise ValueError for values outside their ranges."""
        super().validate()
        check_ranges("architecture", self, weight=(0.0, math.inf), half_life=(ABOVE_0, 0.05))
        for key, known in (("predictor", PREDICTORS), ("target", TARGETS)):
            if getattr(self, key) not in known:
                raise ValueError(f"architecture.{key}={getattr(self, key)} is unknown; use one of {', '.join(known)}")

    def check_trunk(self, trunk: TrunkConfig) -> None:
        """Raise ValueError if a layer is no block of the trunk."""
        if not self.layers or not set(self.layers) <= set(range(trunk.depth)):
            raise ValueError(f"architecture.layers={list(self.layers)} must name blocks from 0 to {trunk.depth - 1}")


@architecture("maskgit-jepa", MaskGITJEPAConfig)
class MaskGITJEPA(MaskGIT):
    """MaskGIT with a state-prediction loss; sampling is MaskGIT's, with MaskGIT's weights only.

    ``jepa_target`` is a whole MaskGIT: float32, in eval mode, without gradients, in the checkpoint; there is none where
    no states are predicted. The predictors are trained but neither averaged nor sampled.

    Raises:
        ValueError: if a layer is no block of the trunk.
    """

    config: MaskGITJEPAConfig

    def __init__(self, config: MaskGITJEPAConfig, context: Context) -> None:
        super().__init__(config, context)
        width, depth = context.trunk.width, context.trunk.depth
        config.check_trunk(context.trunk)
        self.layers = (depth - 1,) if config.target == "codebook" else tuple(sorted(set(config.layers)))
        self.target_decay = decay_for_half_life(config.half_life * context.max_steps)
        self.jepa_target: MaskGIT | None = None
        if config.target in ("average", "shuffled", "frozen"):
            target = MaskGIT(config, context)
            target.load_state_dict(self.state_dict())
            self.jepa_target = target.requires_grad_(False).eval()
        outputs = self.codebook.shape[1] if config.target == "codebook" else width
        predicted = () if config.target == "none" else self.layers
        self.predictors = nn.ModuleList(predictor(config.predictor, width, outputs) for _ in predicted)

    def train(self, mode: bool = True) -> MaskGITJEPA:
        super().train(mode)
        if self.jepa_target is not None:
            self.jepa_target.eval()
        return self

    def compile_networks(self) -> None:
        super().compile_networks()
        if self.jepa_target is not None:
            self.jepa_target.compile_networks()

    def training_loss(
        self, latents: Tensor, condition: Condition, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.config.target == "none":
            return self.masked_twice_loss(latents, condition, generator)
        batch, tokens = latents.shape[:2]
        mask = sample_mask(batch, tokens, self.context.masking, generator)  # (B, N)
        targets = self.targets(latents, condition, generator)
        hidden, kept = self.states(latents, mask, condition, self.layers)
        code_loss, logs = self.code_loss(hidden, latents, mask)
        predicted = [predict(states) for predict, states in zip(self.predictors, kept, strict=True)]
        jepa_loss = state_loss(predicted, targets, mask)
        logs |= {"jepa": jepa_loss.detach(), **collapse_monitors(jepa_loss.detach(), targets)}
        return code_loss + self.config.weight * jepa_loss, logs

    def targets(self, codes: Tensor, condition: Condition, generator: torch.Generator) -> list[Tensor]:
        """What is predicted of each layer, (B, N, D) float32, or (B, N, C) for codebook vectors."""
        if self.config.target == "codebook":
            return [self.codebook[codes].float()]
        states = self.target_states(codes, condition)
        if self.config.target == "shuffled":
            partners = partners_within(condition.classes, generator)
            return [layer[partners] for layer in states]
        return states

    @torch.no_grad()
    def target_states(self, codes: Tensor, condition: Condition) -> list[Tensor]:
        """Normalised states (B, N, D) of the target at each layer, seeing all codes and the same condition."""
        assert self.jepa_target is not None
        nothing_hidden = torch.zeros_like(codes, dtype=torch.bool)
        _, kept = self.jepa_target.states(codes, nothing_hidden, condition, self.layers)
        return [normalise(states) for states in kept]

    @property
    def second_share(self) -> float:
        """Share of a batch that ``target: none`` masks a second time."""
        trunk = self.context.trunk
        count, kind = len(self.layers), self.config.predictor
        return second_mask_share(self.trunk, self.head, self.context.tokens, trunk, count, kind)

    def target_share(self) -> float:
        return super().target_share() * (1 + self.second_share if self.config.target == "none" else 1)

    def masked_twice_loss(
        self, codes: Tensor, condition: Condition, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """MaskGIT's loss, for which so many samples are masked a second time as cost what the state loss would."""
        batch, tokens = codes.shape
        masking = self.context.masking
        share = self.second_share
        mask, second = (sample_mask(batch, tokens, masking, generator) for _ in range(2))  # (B, N) each
        # Evenly over the batch: its rows may come in some order.
        again = (torch.arange(round(share * batch), device=codes.device) / share).long()
        rows = torch.cat([torch.arange(batch, device=codes.device), again])
        told = Condition(condition.classes[rows], condition.values[rows], condition.present[rows])
        mask = torch.cat([mask, second[again]])
        hidden, _ = self.states(codes[rows], mask, told)
        return self.code_loss(hidden, codes[rows], mask)

    def averaged_parameters(self) -> dict[str, nn.Parameter]:
        parameters = super().averaged_parameters()
        return {name: value for name, value in parameters.items() if not name.startswith("predictors.")}

    def after_step(self) -> None:
        super().after_step()
        self.update_target()

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target by ``1 - decay`` towards the model; a frozen one stays."""
        if self.jepa_target is None or self.config.target == "frozen":
            return
        current = dict(self.named_parameters())
        names, targets = zip(*self.jepa_target.named_parameters(), strict=True)
        torch._foreach_lerp_(targets, [current[name].detach() for name in names], 1 - self.target_decay)


def predictor(kind: str, inputs: int, outputs: int) -> nn.Module:
    """From a block's output to its target, token by token."""
    if kind == "linear":
        return nn.Linear(inputs, outputs)
    network = mlp(inputs, inputs)
    if outputs != inputs:
        network[-1] = nn.Linear(inputs, outputs)
    return network


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
        All at equal positions, mean over positions and layers (0-d): std of a feature over the images of the batch,
        cosine between the states of neighbouring images, and the loss divided by the variance of a feature over the
        images (1 tells no image apart). Over positions as well, targets that know their position and nothing else would
        pass for spread.
    """
    states = torch.stack(targets)  # (layers, B, N, D)
    variance = states.var(dim=1).mean()
    cosine = F.cosine_similarity(states, states.roll(1, dims=1), dim=-1).mean()
    spread = states.std(dim=1).mean()
    return {"target_std": spread, "target_cosine": cosine, "jepa_over_variance": loss / variance}
