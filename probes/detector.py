"""A small network that tells real images from negatives made of them, kind by kind (Hendrycks et al. 2019, outlier exposure).

Distance to real images cannot do that alone: the mean of all images and a blur are nearer to real ones than real ones are to
each other, in pixels as in any layer of the judge.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datasets.factors import seed_for
from probes.linear import ProbeConfig, as_float, logits_of, make_features
from probes.negative_images import NegativeImages
from probes.negatives import blur

EPOCHS = 16  # passes over the real images
BATCH = 64  # real images a step, and as many negatives
RATE = 3e-3  # Adam, on one cycle
WIDTH = 32  # channels of the first convolution
SHARES = {"blend": 1.5}  # negatives of a kind over real images; blends are the hardest
SHARE = 0.375  # of every other kind
SOFTEST = 0.7 / 32  # of the side: real images blurred by up to that are real, so that a tokenizer's softness passes


class Detector(nn.Module):
    """Log odds that an image is real and none of the negatives.

    Args:
        image_shape: (C, H, W).
        kinds: how many kinds of negatives it knows.
    """

    def __init__(self, image_shape: tuple[int, ...], kinds: int) -> None:
        super().__init__()
        self.features = make_features(ProbeConfig(features="cnn", width=WIDTH), image_shape[0])
        with torch.no_grad():
            width = self.features(torch.zeros(1, *image_shape)).shape[1]
        self.head = nn.Linear(width, 1 + kinds)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 1 + kinds) of images (B, C, H, W) in [-1, 1]; the first is that of real ones."""
        return self.head(self.features(images))

    def odds(self, images: Tensor) -> Tensor:
        """(B,), on the CPU; higher is more real."""
        logits = logits_of(self, images, self.head.weight.device)
        return logits[:, 0] - logits[:, 1:].logsumexp(1)


def train_detector(images: Tensor, groups: Tensor, seed: int, device: torch.device | str = "cpu") -> Detector:
    """Train on real images and negatives of them; the same arguments give the same weights on the same device.

    Args:
        images: (M, C, H, W) uint8 or in [-1, 1].
        groups: (M,) int64, the composition of each.
    """
    generator = torch.Generator().manual_seed(seed_for(seed, "detector"))
    real = as_float(images)
    negatives = NegativeImages(real, groups, generator)
    drawn = {kind: make(max(1, int(SHARES.get(kind, SHARE) * len(real)))) for kind, make in negatives.kinds.items()}
    pool = torch.cat(list(drawn.values())).to(device)
    kinds = torch.cat([torch.full((len(made),), 1 + place) for place, made in enumerate(drawn.values())]).to(device)
    real = real.to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "detector", "weights"))
        detector = Detector(tuple(real.shape[1:]), len(drawn)).to(device)
    optimiser = torch.optim.Adam(detector.parameters(), lr=RATE)
    steps = EPOCHS * max(1, len(real) // BATCH)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps + 1)
    for step in range(steps):
        shown = _mirrored(real[torch.randint(len(real), (BATCH,), generator=generator)], generator)
        if step % 4 == 0:
            softness = SOFTEST * float(torch.rand((), generator=generator).clamp_min(0.1))
            shown = blur(shown, softness * real.shape[-1])
        chosen = torch.randint(len(pool), (BATCH,), generator=generator)
        logits = detector(torch.cat([shown, _mirrored(pool[chosen], generator)]))
        loss = F.cross_entropy(logits, torch.cat([torch.zeros_like(kinds[:1]).expand(BATCH), kinds[chosen]]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cycle.step()
    return detector.eval()


def _mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Every other image of (B, C, H, W), by chance, as in a mirror."""
    mirror = (torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5).to(images.device)
    return torch.where(mirror, images.flip(-1), images)
