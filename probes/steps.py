"""What the latents of a single time step of a video tell of each factor, by a linear probe.

Direction is a property of time. Where a tokenizer folds several frames into one latent step, one step may tell it all the
same, and then a model of the video can treat direction as it treats colour; so this is recorded beside the results.
"""

from __future__ import annotations

import torch
from torch import Tensor

from datasets.factors import FactorSpace

RIDGE = 1e-2  # of the squared weights, for features of unit scale


def step_shares(latents: Tensor, classes: Tensor, steps: int, space: FactorSpace) -> dict[str, float]:
    """Share of held-out videos whose class a linear probe reads, from one latent step and from all.

    The probe is fitted on every other video and tested on the rest; shares of single steps are means over the steps.

    Args:
        latents: (M, N, C), N = steps * h * w tokens, time slowest; of videos of all compositions.
        classes: (M, F), and columns of nuisances, which are left alone.
        steps: latent steps, t.

    Returns:
        ``one_step_F`` and ``all_steps_F`` for each factor F.
    """
    classes = classes[:, : space.num_factors]
    by_step = latents.float().unflatten(1, (steps, -1)).flatten(2)  # (M, t, D)
    single = [_shares(step, classes) for step in by_step.unbind(1)]
    together = _shares(by_step.flatten(1), classes)
    means = torch.stack(single).mean(0)
    return {
        **{f"one_step_{name}": float(share) for name, share in zip(space.names, means, strict=True)},
        **{f"all_steps_{name}": float(share) for name, share in zip(space.names, together, strict=True)},
    }


def _shares(features: Tensor, classes: Tensor) -> Tensor:
    """Held-out accuracy of ridge regression on one-hot classes, each factor for itself: (M, D), (M, F) -> (F,)."""
    features = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    fit, test = features[::2], features[1::2]
    gram = fit.T @ fit + RIDGE * len(fit) * torch.eye(fit.shape[1])
    shares = []
    for column in classes.unbind(1):
        targets = torch.nn.functional.one_hot(column).float()
        weights = torch.linalg.solve(gram, fit.T @ targets[::2])  # (D, classes)
        shares.append(((test @ weights).argmax(1) == column[1::2]).float().mean())
    return torch.stack(shares)
