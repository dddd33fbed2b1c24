"""The arithmetic of Gaussian diffusion: beta schedules, coefficients, respacing, likelihoods. No network in here.

The tables are computed once, in float64, and rounded to float32 where they are used.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor


def linear_betas(timesteps: int) -> Tensor:
    """DDPM's linear betas, 1e-4 to 2e-2 at 1000 steps, scaled to other counts (Ho et al. 2020, sec. 4; ADM)."""
    scale = 1000 / timesteps
    return torch.linspace(scale * 1e-4, scale * 2e-2, timesteps, dtype=torch.float64)


def cosine_betas(timesteps: int, largest: float = 0.999) -> Tensor:
    """Betas whose cumulative product follows cos^2 (Nichol & Dhariwal 2021, eq. 17); MAR's head uses them."""

    def signal(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - signal((i + 1) / timesteps) / signal(i / timesteps), largest) for i in range(timesteps)]
    return torch.tensor(betas, dtype=torch.float64)


BETAS = {"linear": linear_betas, "cosine": cosine_betas}


def spaced_timesteps(timesteps: int, steps: int) -> list[int]:
    """`steps` of the `timesteps` original ones, evenly from the first to the last: ADM's rule for "N"."""
    return [round(i * (timesteps - 1) / (steps - 1)) for i in range(steps)]


def strided_timesteps(timesteps: int, steps: int) -> list[int]:
    """Every k-th original timestep from 0, for the smallest k that keeps `steps` of them: ADM's rule for "ddimN".

    Raises:
        ValueError: if no integer stride keeps exactly `steps`.
    """
    for stride in range(1, timesteps + 1):
        kept = range(0, timesteps, stride)
        if len(kept) == steps:
            return list(kept)
    raise ValueError(f"DDIM cannot take {steps} of {timesteps} timesteps with an integer stride: choose a divisor.")


@dataclass(frozen=True, eq=False)
class DiffusionTables:
    """Coefficients of q(x_t | x_0) and q(x_{t-1} | x_t, x_0), one entry a timestep (Ho et al. 2020, eqs. 4-7)."""

    timestep_map: Tensor  # (T,) int64: the original timestep of each entry, which is what the network is told
    betas: Tensor  # (T,) float64, like all below
    alphas_cumprod: Tensor
    alphas_cumprod_prev: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    sqrt_recip_alphas_cumprod: Tensor
    sqrt_recipm1_alphas_cumprod: Tensor
    posterior_variance: Tensor
    posterior_log_variance_clipped: Tensor  # entry 0, which would be log 0, repeats entry 1
    fixed_log_variance: Tensor  # log beta, the variance when none is learned; entry 0 from the posterior
    posterior_mean_coef1: Tensor  # of x_0
    posterior_mean_coef2: Tensor  # of x_t

    @classmethod
    def from_betas(cls, betas: Tensor, timestep_map: Tensor | None = None) -> "DiffusionTables":
        """Derive all coefficients from (T,) float64 betas."""
        alphas = 1 - betas
        cumulative = torch.cumprod(alphas, dim=0)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), cumulative[:-1]])
        posterior_variance = betas * (1 - previous) / (1 - cumulative)
        return cls(
            timestep_map=torch.arange(len(betas)) if timestep_map is None else timestep_map,
            betas=betas,
            alphas_cumprod=cumulative,
            alphas_cumprod_prev=previous,
            sqrt_alphas_cumprod=cumulative.sqrt(),
            sqrt_one_minus_alphas_cumprod=(1 - cumulative).sqrt(),
            sqrt_recip_alphas_cumprod=(1 / cumulative).sqrt(),
            sqrt_recipm1_alphas_cumprod=(1 / cumulative - 1).sqrt(),
            posterior_variance=posterior_variance,
            posterior_log_variance_clipped=torch.cat([posterior_variance[1:2], posterior_variance[1:]]).log(),
            fixed_log_variance=torch.cat([posterior_variance[1:2], betas[1:]]).log(),
            posterior_mean_coef1=betas * previous.sqrt() / (1 - cumulative),
            posterior_mean_coef2=(1 - previous) * alphas.sqrt() / (1 - cumulative),
        )

    def respaced(self, kept: list[int]) -> "DiffusionTables":
        """The process that visits only the timesteps `kept`, with the same alphas_cumprod there (ADM, respace.py)."""
        cumulative = self.alphas_cumprod[kept]
        previous = torch.cat([torch.ones(1, dtype=torch.float64), cumulative[:-1]])
        return DiffusionTables.from_betas(1 - cumulative / previous, self.timestep_map[kept])

    def float32(self, device: torch.device) -> "DiffusionTables":
        """The same tables on `device`, rounded to float32 as they are used."""
        tables = {f.name: getattr(self, f.name) for f in fields(self)}
        return DiffusionTables(**{k: (v.float() if v.is_floating_point() else v).to(device) for k, v in tables.items()})


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Values (R,) shaped (R, 1, ..., 1) to multiply `like` (R, ...)."""
    return values.view(-1, *(1,) * (like.dim() - 1))


def gather(table: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Entries `index` (R,) of a (T,) table, shaped to multiply `like` (R, ...)."""
    return per_row(table[index], like)


def posterior(x0: Tensor, x: Tensor, index: Tensor, tables: DiffusionTables) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 7)."""
    mean = gather(tables.posterior_mean_coef1, index, x) * x0 + gather(tables.posterior_mean_coef2, index, x) * x
    return mean, gather(tables.posterior_log_variance_clipped, index, x)


def gaussian_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N1 || N2) of each dimension, in nats."""
    difference = log_variance1 - log_variance2
    return 0.5 * (difference.exp() - 1 - difference + (mean1 - mean2) ** 2 * (-log_variance2).exp())


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of the bin of width 2/255 around x, open below -0.999 and above 0.999, in nats (ADM, losses.py).

    The bins are those of 8-bit images; DiT and MAR apply them to latents unchanged (DiT, issue 52).
    """

    def cumulative(edge: Tensor) -> Tensor:
        z = (edge - mean) * (-log_scale).exp()
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    above, below = cumulative(x + 1 / 255), cumulative(x - 1 / 255)
    inside = torch.where(x > 0.999, 1 - below, above - below)
    return torch.where(x < -0.999, above, inside).clamp(min=1e-12).log()
