"""What single latent steps tell: a factor that stands in every step, one that only two steps together have, and one in none."""

import torch

from datasets.factors import Factor, FactorSpace
from probes.steps import step_shares

SPACE = FactorSpace((Factor("shown", ("a", "b")), Factor("moving", ("a", "b")), Factor("absent", ("a", "b"))))


def test_what_one_step_tells_and_what_needs_all():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(2, (2000, 3), generator=generator)
    sign = 2.0 * classes - 1
    place = torch.randn(2000, generator=generator)
    latents = 0.05 * torch.randn(2000, 2, 1, 2, generator=generator)  # (M, steps, tokens, C)
    latents[:, :, 0, 0] += sign[:, :1]
    latents[:, 0, 0, 1] += place
    latents[:, 1, 0, 1] += place + 0.5 * sign[:, 1]  # moves by half a unit, from anywhere
    shares = step_shares(latents.flatten(1, 2), classes, 2, SPACE)
    assert shares["one_step_shown"] > 0.99 and shares["all_steps_shown"] > 0.99
    assert shares["one_step_moving"] < 0.65 and shares["all_steps_moving"] > 0.99
    assert abs(shares["one_step_absent"] - 0.5) < 0.06 and abs(shares["all_steps_absent"] - 0.5) < 0.06
