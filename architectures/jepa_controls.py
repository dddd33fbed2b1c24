"""What the controls of MaskGIT+JEPA need: a partner of the same composition, and the price of the state loss in masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.shares import draw
from architectures.transformer import Trunk, TrunkConfig


def partners_within(classes: Tensor, generator: torch.Generator) -> Tensor:
    """For each row of a batch another row of the same composition, at random; every row is partner of one.

    Args:
        classes: (B, F) int64; rows with equal classes are of one composition.

    Returns:
        Row numbers (B,) int64. A row that has its composition for itself is its own partner. Of a batch that several
        processes share, partners are sought among each one's own rows.
    """
    _, group = torch.unique(classes, dim=0, return_inverse=True)  # (B,)
    scores = draw(torch.rand, (len(classes),), generator).double()
    order = (group.double() + scores).argsort()  # composition by composition, at random within each
    sorted_group = group[order]
    first = torch.searchsorted(sorted_group, sorted_group)  # where a row's composition begins
    following = torch.arange(1, len(order) + 1, device=order.device)
    closes = torch.ones_like(sorted_group, dtype=torch.bool)
    closes[:-1] = sorted_group[1:] != sorted_group[:-1]
    partners = torch.empty_like(order)
    partners[order] = order[torch.where(closes, first, following)]  # the next, and behind the last the first
    return partners


def second_mask_share(
    trunk: Trunk, head: nn.Linear, tokens: int, config: TrunkConfig, layers: int, predictor: str
) -> float:
    """Share of a batch whose second mask costs the operations of the state loss, counted as torch's FLOP counter does.

    The state loss runs the trunk once more, forward only, and each layer's predictor forward and backward. A second mask
    runs trunk and head forward and backward, which is three times forward. Embeddings cost next to nothing.
    """
    width, length = config.width, tokens + trunk.extra_tokens
    once = sum(m.weight.numel() for name, m in _linear(trunk) if name.endswith("modulation"))  # a sample
    per_token = sum(m.weight.numel() for name, m in _linear(trunk) if not name.endswith("modulation"))
    attention = 2 * length * length * width * config.depth
    forward = once + length * per_token + attention
    predictors = layers * tokens * width * width * (1 if predictor == "linear" else 2)
    return (forward + 3 * predictors) / (3 * (forward + tokens * head.weight.numel()))


def _linear(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
