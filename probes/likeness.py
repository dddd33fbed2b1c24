"""How like real images samples are as a set, and whether they are copies: Kernel and Frechet Inception Distance, memorisation.

In the trained judge's features, because nothing is downloaded; the Frechet distance alone needs Inception's own, from a file.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from datasets.factors import Composition, level
from probes.strict_features import nearest

COPY = 0.01  # quantile of held-out real images' distances below which a sample counts as a copy
ENOUGH = 2048  # images on each side for a Frechet distance: as many as Inception has features
CHUNK = 64  # images that Inception sees at once


def kid(samples: Tensor, real: Tensor) -> float:
    """Kernel Inception Distance (Binkowski et al. 2018) of features (M, D) and (N, D), unbiased: 0 for one distribution.

    The features of the real images are scaled to a mean square of 1, samples with them. One subset of min(M, N) images.
    """
    scale = real.square().mean().sqrt().clamp_min(1e-12)
    size = min(len(samples), len(real))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # the subset comes from the global generator
        warnings.simplefilter("ignore", UserWarning)  # that features are kept in memory
        torch.manual_seed(0)
        metric = KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=size)
        metric.update((real / scale).cpu(), real=True)
        metric.update((samples / scale).cpu(), real=False)
        return float(metric.compute()[0])


def memorised(samples: Tensor, held_out: Tensor, training: Tensor) -> float:
    """Share of samples (M, D) nearer to a training image than held-out real ones of the same composition are at their 1st
    percentile: .01 where nothing is copied.

    Averages of images are near to everything: read it beside the strict judge, which rejects them.
    """
    limit = nearest(held_out, training).quantile(COPY)
    return float((nearest(samples, training) < limit).float().mean())


def likeness(
    samples: Mapping[Composition, Tensor],
    held_out: Mapping[Composition, Tensor],
    training: Tensor,
    train: tuple[Composition, ...],
) -> dict[str, float]:
    """``kid_comp_C``, ``memorised_comp_C``, and their unweighted means over compositions, ``kid_levelK``, ``memorised_levelK``.

    Args:
        samples: composition -> features (M, D) of what was generated.
        held_out: composition -> features (N, D) of real images that nobody was trained on.
        training: (T, D) of the images that the generator was trained on.
        train: their compositions.
    """
    figures = {f"kid_comp_{c}": kid(samples[c], held_out[c]) for c in samples}
    figures |= {f"memorised_comp_{c}": memorised(samples[c], held_out[c], training) for c in samples}
    means: dict[str, float] = {}
    for name in ("kid", "memorised"):
        for k in sorted({level(c, train) for c in samples}):
            members = [figures[f"{name}_comp_{c}"] for c in samples if level(c, train) == k]
            means[f"{name}_level{k}"] = sum(members) / len(members)
    return {**means, **figures}


def fid(samples: Tensor, real: Tensor, weights: str, device: torch.device | str = "cpu") -> float | None:
    """Frechet Inception Distance of images (M, 3, H, W) uint8; None where there are too few for one.

    Args:
        weights: torch-fidelity's file of Inception's weights.
    """
    if min(len(samples), len(real)) < ENOUGH:
        return None
    metric = FrechetInceptionDistance(feature_extractor_weights_path=weights).to(device)
    for images, is_real in ((real, True), (samples, False)):
        for chunk in images.split(CHUNK):
            metric.update(chunk.to(device), real=is_real)
    return float(metric.compute())
