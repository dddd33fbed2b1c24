"""One interface to diffusion, used by DiT on whole images and by MAR's head on single tokens.

A process corrupts clean rows x0 (R, ..., C), channels last, and asks a network (x_t, t) -> output for help.
`FlowProcess` is rectified flow; `GaussianProcess` is DDPM with its learned-variance and DDIM relatives. All arithmetic
outside the network is float32, under autocast too.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from architectures.masking import guide
from architectures.noise import (
    BETAS,
    DiffusionTables,
    discretised_log_likelihood,
    gather,
    gaussian_kl,
    per_row,
    posterior,
    spaced_timesteps,
    strided_timesteps,
)
from architectures.shares import draw
from datasets.ranges import check_ranges

Network = Callable[[Tensor, Tensor], Tensor]  # x_t (R, ..., C), t (R,) float32 -> (R, ..., out_channels)

SOLVERS = {"flow": ("euler", "heun"), "ddpm": ("ancestral", "ddim")}
TIME_LAWS = ("logit_normal", "uniform")
FEWEST_LINEAR = 20  # timesteps at which the last of the scaled linear betas is 1, which leaves nothing to divide by


@dataclass
class DiffusionConfig:
    """What is predicted, how noise is scheduled, and how samples are drawn."""

    kind: str = "flow"  # flow: velocity of a straight path (Liu et al. 2022); ddpm: noise (Ho et al. 2020)
    timesteps: int = 1000  # ddpm: length of the noising chain; DiT, MAR
    schedule: str = "linear"  # ddpm: betas, linear (DiT) or cosine (MAR)
    learn_sigma: bool = False  # ddpm: also learn the variance, with the variational bound in bits (DiT, MAR)
    time_law: str = "logit_normal"  # flow: law of t in training, logit_normal(0, 1) (Esser et al. 2024) or uniform
    solver: str = "euler"  # flow: euler | heun; ddpm: ancestral | ddim
    steps: int = 25  # solver steps a sample; heun takes two evaluations a step but the last
    eta: float = 0.0  # ddim: share of ancestral noise, 0 is deterministic (Song et al. 2020)
    clip_x0: float = 0.0  # bound on |predicted x0| while sampling, 0 is off; keeps an under-trained MAR finite

    def validate(self) -> None:
        """Raise ValueError for names that are not known, or do not go together."""
        known = {"kind": tuple(SOLVERS), "schedule": tuple(BETAS), "time_law": TIME_LAWS}
        known["solver"] = SOLVERS.get(self.kind, ())
        for key, names in known.items():
            if getattr(self, key) not in names:
                suffix = f" for diffusion.kind={self.kind}" if key == "solver" else ""
                raise ValueError(
                    f"diffusion.{key}={getattr(self, key)} is unknown{suffix}; use one of {', '.join(names)}"
                )
        check_ranges("diffusion", self, timesteps=(2, math.inf), eta=(0.0, 1.0), clip_x0=(0.0, math.inf))
        fewest, most = (2, self.timesteps) if self.kind == "ddpm" else (1, math.inf)
        if not fewest <= self.steps <= most:
            raise ValueError(f"diffusion.steps={self.steps} must lie between {fewest} and {most}")
        if self.kind == "ddpm" and self.schedule == "linear" and self.timesteps <= FEWEST_LINEAR:
            raise ValueError(
                f"diffusion.timesteps={self.timesteps}: linear betas reach 1; use more than {FEWEST_LINEAR}"
            )
        if self.kind == "ddpm" and self.solver == "ddim":
            try:
                strided_timesteps(self.timesteps, self.steps)
            except ValueError as error:
                raise ValueError(f"diffusion.steps={self.steps}: {error}") from error


class DiffusionProcess(ABC):
    """Loss and sampler of one kind of diffusion."""

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config

    @abstractmethod
    def out_channels(self, channels: int) -> int:
        """How many channels the network has to put out for `channels` of data."""

    @abstractmethod
    def loss(self, network: Network, x0: Tensor, generator: torch.Generator, copies: int = 1) -> Tensor:
        """Training loss of every row of x0 (R, ..., C), each at a time of its own: (R,) float32.

        Where x0 is several copies of a batch, one after another, `copies` says how many.
        """

    @abstractmethod
    def sample(
        self,
        network: Network,
        shape: tuple[int, ...],
        generator: torch.Generator,
        device: torch.device,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draw x0 of `shape` (R, ..., C). `temperature` scales the noise of every step (MAR), or, where a solver adds
        none, the noise it starts from."""

    def clip(self, x0: Tensor) -> Tensor:
        """Bound a predicted x0, if so configured."""
        bound = self.config.clip_x0
        return x0.clamp(-bound, bound) if bound > 0 else x0


def make_process(config: DiffusionConfig) -> DiffusionProcess:
    """The process that `config` describes.

    Raises:
        ValueError: if its fields do not go together.
    """
    config.validate()
    return FlowProcess(config) if config.kind == "flow" else GaussianProcess(config)


def guide_prediction(conditional: Tensor, unconditional: Tensor, scale: float, channels: int) -> Tensor:
    """Classifier-free guidance of two network outputs (..., channels or 2 channels), s-form: scale 1 is no guidance.

    All predicted channels are guided: DiT's release guides 3 of 4, which its authors call unintended (DiT, PR 12). A
    learned variance, in channels of its own, stays the conditional one.
    """
    predicted, variance = conditional[..., :channels], conditional[..., channels:]
    return torch.cat([guide(predicted, unconditional[..., :channels], scale), variance], dim=-1)


def row_mean(values: Tensor) -> Tensor:
    """Mean over all dimensions but the first: (R, ...) -> (R,)."""
    return values.flatten(1).mean(dim=1)


class FlowProcess(DiffusionProcess):
    """Rectified flow: x_t = (1 - t) x0 + t eps, t from 0 (data) to 1 (noise); the network predicts eps - x0.

    The network is told 1000 t, the range that DiT's timestep embedding is made for.
    """

    TIME_UNIT = 1000.0

    def out_channels(self, channels: int) -> int:
        return channels

    def draw_times(self, rows: int, generator: torch.Generator, copies: int = 1) -> Tensor:
        """Training times (R,) in (0, 1)."""
        if self.config.time_law == "uniform":
            return draw(torch.rand, (rows,), generator, copies)
        return draw(torch.randn, (rows,), generator, copies).sigmoid()

    def loss(self, network: Network, x0: Tensor, generator: torch.Generator, copies: int = 1) -> Tensor:
        x0 = x0.float()
        t = self.draw_times(len(x0), generator, copies)
        noise = draw(torch.randn, x0.shape, generator, copies)
        x_t = torch.lerp(x0, noise, per_row(t, x0))
        velocity = network(x_t, self.TIME_UNIT * t).float()
        return row_mean((velocity - (noise - x0)) ** 2)

    def velocity(self, network: Network, x: Tensor, t: float) -> Tensor:
        """The network's velocity at x (R, ..., C), all rows at time t > 0, with x0 clipped if so configured."""
        times = torch.full((len(x),), self.TIME_UNIT * t, device=x.device)
        velocity = network(x, times).float()
        return (x - self.clip(x - t * velocity)) / t if self.config.clip_x0 > 0 else velocity

    @torch.no_grad()
    def sample(
        self,
        network: Network,
        shape: tuple[int, ...],
        generator: torch.Generator,
        device: torch.device,
        temperature: float = 1.0,
    ) -> Tensor:
        x = temperature * torch.randn(shape, generator=generator, device=device)
        steps = self.config.steps
        for k in range(steps, 0, -1):
            t, earlier = k / steps, (k - 1) / steps
            velocity = self.velocity(network, x, t)
            if self.config.solver == "heun" and k > 1:
                ahead = x + (earlier - t) * velocity
                velocity = (velocity + self.velocity(network, ahead, earlier)) / 2
            x = x + (earlier - t) * velocity
        return x


@dataclass
class Reverse:
    """The network's belief about one reverse step, all (R, ..., C) float32."""

    mean: Tensor
    log_variance: Tensor
    x0: Tensor


class GaussianProcess(DiffusionProcess):
    """DDPM with noise prediction, as in DiT and MAR (both carry ADM's process).

    The network is told the original timestep 0..T-1, when a sampler skips some as well.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__(config)
        choose = strided_timesteps if config.solver == "ddim" else spaced_timesteps
        self.training = DiffusionTables.from_betas(BETAS[config.schedule](config.timesteps))
        self.sampling = self.training.respaced(choose(config.timesteps, config.steps))
        self.rounded: dict[tuple[DiffusionTables, torch.device], DiffusionTables] = {}

    def on(self, tables: DiffusionTables, device: torch.device) -> DiffusionTables:
        """`tables` in float32 on `device`, copied there once."""
        if (tables, device) not in self.rounded:
            self.rounded[tables, device] = tables.float32(device)
        return self.rounded[tables, device]

    def out_channels(self, channels: int) -> int:
        return 2 * channels if self.config.learn_sigma else channels

    def loss(self, network: Network, x0: Tensor, generator: torch.Generator, copies: int = 1) -> Tensor:
        x0 = x0.float()
        t = draw(partial(torch.randint, self.config.timesteps), (len(x0),), generator, copies)
        noise = draw(torch.randn, x0.shape, generator, copies)
        x_t = self.corrupt(x0, t, noise)
        mse, bound = self.loss_terms(network(x_t, t.float()), x0, x_t, t, noise)
        return mse + bound

    def corrupt(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """A draw of q(x_t | x0), at timesteps t (R,)."""
        tables = self.on(self.training, x0.device)
        signal = gather(tables.sqrt_alphas_cumprod, t, x0)
        return signal * x0 + gather(tables.sqrt_one_minus_alphas_cumprod, t, x0) * noise

    def loss_terms(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of the noise, and the variational bound that trains a learned variance, else 0: (R,) each.

        The bound is in bits a dimension and does not move the mean (Nichol & Dhariwal 2021, section 3.1, without their
        weight of 1e-3, as DiT and MAR train).
        """
        output = output.float()
        predicted, variance = output[..., : x0.shape[-1]], output[..., x0.shape[-1] :]
        mse = row_mean((noise - predicted) ** 2)
        if not self.config.learn_sigma:
            return mse, torch.zeros_like(mse)
        tables = self.on(self.training, x0.device)
        frozen = torch.cat([predicted.detach(), variance], dim=-1)
        belief = self.reverse(frozen, x_t, t, tables, clip=False)
        mean, log_variance = posterior(x0, x_t, t, tables)
        divergence = row_mean(gaussian_kl(mean, log_variance, belief.mean, belief.log_variance))
        first = -row_mean(discretised_log_likelihood(x0, belief.mean, belief.log_variance / 2))
        return mse, torch.where(t == 0, first, divergence) / math.log(2)

    def reverse(self, output: Tensor, x: Tensor, index: Tensor, tables: DiffusionTables, clip: bool = True) -> Reverse:
        """p(x_{t-1} | x_t) from the network's output; `index` (R,) counts in `tables`."""
        output = output.float()
        predicted, fraction = output[..., : x.shape[-1]], (output[..., x.shape[-1] :] + 1) / 2
        x0 = gather(tables.sqrt_recip_alphas_cumprod, index, x) * x
        x0 = x0 - gather(tables.sqrt_recipm1_alphas_cumprod, index, x) * predicted
        x0 = self.clip(x0) if clip else x0
        mean, smallest = posterior(x0, x, index, tables)
        if self.config.learn_sigma:  # between the two extremes, in log space (Nichol & Dhariwal 2021, eq. 15)
            largest = gather(tables.betas, index, x).log()
            log_variance = fraction * largest + (1 - fraction) * smallest
        else:
            log_variance = gather(tables.fixed_log_variance, index, x).expand_as(x)
        return Reverse(mean, log_variance, x0)

    def step(self, output: Tensor, x: Tensor, index: Tensor, noise: Tensor, tables: DiffusionTables) -> Tensor:
        """x_{t-1} from x_t by the configured solver; the last step adds none of the `noise`."""
        belief = self.reverse(output, x, index, tables)
        noise = noise * per_row(index > 0, x)
        if self.config.solver == "ancestral":
            return belief.mean + (belief.log_variance / 2).exp() * noise
        cumulative, previous = (gather(a, index, x) for a in (tables.alphas_cumprod, tables.alphas_cumprod_prev))
        # After clipping, the noise that agrees with x0 is not the one predicted.
        predicted = gather(tables.sqrt_recip_alphas_cumprod, index, x) * x - belief.x0
        predicted = predicted / gather(tables.sqrt_recipm1_alphas_cumprod, index, x)
        sigma = self.config.eta * ((1 - previous) / (1 - cumulative) * (1 - cumulative / previous)).sqrt()
        mean = belief.x0 * previous.sqrt() + (1 - previous - sigma**2).sqrt() * predicted
        return mean + sigma * noise

    @torch.no_grad()
    def sample(
        self,
        network: Network,
        shape: tuple[int, ...],
        generator: torch.Generator,
        device: torch.device,
        temperature: float = 1.0,
    ) -> Tensor:
        tables = self.on(self.sampling, device)
        deterministic = self.config.solver == "ddim" and self.config.eta == 0
        x = torch.randn(shape, generator=generator, device=device) * (temperature if deterministic else 1.0)
        for entry in range(self.config.steps - 1, -1, -1):
            index = torch.full((shape[0],), entry, device=device)
            output = network(x, tables.timestep_map[index].float())
            noise = temperature * torch.randn(shape, generator=generator, device=device)
            x = self.step(output, x, index, noise, tables)
        return x
