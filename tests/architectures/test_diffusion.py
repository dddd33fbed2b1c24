"""Diffusion processes: the numbers of the published ones, and that both draw what they were trained on."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from architectures.diffusion import (
    DiffusionConfig,
    GaussianProcess,
    guide_prediction,
    make_process,
)
from architectures.noise import DiffusionTables, cosine_betas, linear_betas, spaced_timesteps, strided_timesteps

DIT = DiffusionConfig(kind="ddpm", learn_sigma=True, solver="ancestral", steps=250)


def channels_last(images: Tensor) -> Tensor:
    return images.movedim(1, -1)


def gaussian(config: DiffusionConfig) -> GaussianProcess:
    process = make_process(config)
    assert isinstance(process, GaussianProcess)
    return process


@pytest.mark.parametrize(
    ("name", "betas", "kept"),
    [
        ("dit_diffusion_linear_1000", linear_betas, range(1000)),
        ("dit_diffusion_linear_respaced_250", linear_betas, spaced_timesteps(1000, 250)),
        ("dit_diffusion_linear_respaced_50", linear_betas, spaced_timesteps(1000, 50)),
        ("dit_diffusion_linear_respaced_10", linear_betas, spaced_timesteps(1000, 10)),
        ("dit_diffusion_linear_respaced_ddim50", linear_betas, strided_timesteps(1000, 50)),
        ("mar_diffusion_cosine_1000", cosine_betas, range(1000)),
        ("mar_diffusion_cosine_respaced_100", cosine_betas, spaced_timesteps(1000, 100)),
    ],
)
def test_tables_match_the_published_ones(golden, name, betas, kept):
    expected = golden(name)
    tables = DiffusionTables.from_betas(betas(1000))
    if len(kept) < 1000:
        tables = tables.respaced(list(kept))
    assert torch.equal(tables.timestep_map, expected["timestep_map"])
    for key in set(expected) & set(vars(tables)) - {"timestep_map"}:
        np.testing.assert_allclose(getattr(tables, key), expected[key], rtol=1e-12, err_msg=key)


def test_a_stride_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="integer stride"):
        strided_timesteps(1000, 499)


def test_loss_terms_match_dit(golden):
    g = golden("dit_loss_and_step")
    process = gaussian(DIT)
    x0, noise, output = (channels_last(g[key]) for key in ("x_start", "noise", "model_output"))
    x_t = process.corrupt(x0, g["t"], noise)
    torch.testing.assert_close(x_t, channels_last(g["x_t"]), atol=1e-6, rtol=0)
    mse, bound = process.loss_terms(output, x0, x_t, g["t"], noise)
    torch.testing.assert_close(mse, g["mse"], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(bound, g["vb"], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(mse + bound, g["loss"], atol=1e-6, rtol=1e-6)


def test_without_learned_variance_the_loss_is_the_squared_error(golden):
    g = golden("dit_loss_and_step")
    process = gaussian(replace(DIT, learn_sigma=False))
    x0, noise, output = (channels_last(g[key]) for key in ("x_start", "noise", "model_output"))
    mse, bound = process.loss_terms(output[..., :4], x0, process.corrupt(x0, g["t"], noise), g["t"], noise)
    torch.testing.assert_close(mse, g["loss_fixed_large"], atol=1e-6, rtol=1e-6)
    assert not bound.any()
    belief = process.reverse(output[..., :4], channels_last(g["x_t"]), g["t"], process.training.float32(x0.device))
    torch.testing.assert_close(belief.log_variance, channels_last(g["p_log_variance_fixed_large"]))


@pytest.mark.parametrize(("clip", "suffix"), [(0.0, ""), (1.0, "_clipped")])
def test_reverse_step_matches_dit(golden, clip, suffix):
    g = golden("dit_loss_and_step")
    process = gaussian(replace(DIT, clip_x0=clip))
    output, x_t = channels_last(g["model_output"]), channels_last(g["x_t"])
    belief = process.reverse(output, x_t, g["t"], process.training.float32(x_t.device))
    torch.testing.assert_close(belief.x0, channels_last(g[f"pred_xstart{suffix}"]), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(belief.mean, channels_last(g[f"p_mean{suffix}"]), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(belief.log_variance, channels_last(g["p_log_variance"]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("solver", "eta", "key"),
    [("ancestral", 0.0, "p_sample"), ("ddim", 0.0, "ddim_eta0"), ("ddim", 1.0, "ddim_eta1")],
)
def test_solver_steps_match_dit(golden, solver, eta, key):
    g = golden("dit_loss_and_step")
    process = gaussian(replace(DIT, solver=solver, eta=eta))
    output, x_t, noise = (channels_last(g[name]) for name in ("model_output", "x_t", "step_noise"))
    stepped = process.step(output, x_t, g["t"], noise, process.training.float32(x_t.device))
    torch.testing.assert_close(stepped, channels_last(g[key]), atol=1e-6, rtol=1e-6)


def test_the_bound_trains_the_variance_only(seeded):
    process = gaussian(DIT)
    x0, noise = torch.randn(4, 3, 2, generator=seeded()), torch.randn(4, 3, 2, generator=seeded(1))
    t = torch.tensor([0, 10, 500, 999])
    output = torch.zeros(4, 3, 4, requires_grad=True)
    _, bound = process.loss_terms(output, x0, process.corrupt(x0, t, noise), t, noise)
    bound.sum().backward()
    assert not output.grad[..., :2].any()
    assert output.grad[..., 2:].any()


def test_guidance_touches_every_channel_and_no_variance(seeded):
    conditional, unconditional = torch.randn(3, 8, generator=seeded()), torch.randn(3, 8, generator=seeded(1))
    assert torch.equal(guide_prediction(conditional, unconditional, 1.0, 4)[:, 4:], conditional[:, 4:])
    torch.testing.assert_close(guide_prediction(conditional, unconditional, 1.0, 4), conditional)
    guided = guide_prediction(conditional, unconditional, 3.0, 4)
    torch.testing.assert_close(guided[:, :4], (3 * conditional - 2 * unconditional)[:, :4])


PROCESSES = {
    "flow euler": DiffusionConfig(steps=50),
    "flow heun": DiffusionConfig(solver="heun", steps=20),
    "flow uniform": DiffusionConfig(time_law="uniform", steps=50),
    "flow clipped": DiffusionConfig(steps=50, clip_x0=5.0),
    "ddpm ancestral": DiffusionConfig(kind="ddpm", solver="ancestral", steps=250),
    "ddpm cosine": DiffusionConfig(kind="ddpm", schedule="cosine", solver="ancestral", steps=250),
    "ddpm ddim": DiffusionConfig(kind="ddpm", solver="ddim", steps=50),
    "ddpm eta 1": DiffusionConfig(kind="ddpm", solver="ddim", steps=250, eta=1.0),
}


def perfect_network(config: DiffusionConfig, mean: float, std: float):
    """The exact answer for data N(mean, std^2), from Gaussian conditioning."""
    cumulative = DiffusionTables.from_betas(linear_betas(1000)).alphas_cumprod.float()
    if config.schedule == "cosine":
        cumulative = DiffusionTables.from_betas(cosine_betas(1000)).alphas_cumprod.float()

    def network(x: Tensor, t: Tensor) -> Tensor:
        if config.kind == "flow":
            signal, sigma = 1 - t[:, None] / 1000, t[:, None] / 1000
        else:
            a = cumulative[t.long()][:, None]
            signal, sigma = a.sqrt(), (1 - a).sqrt()
        surprise = (x - signal * mean) / (signal**2 * std**2 + sigma**2)
        noise, x0 = sigma * surprise, mean + signal * std**2 * surprise
        return noise - x0 if config.kind == "flow" else noise

    return network


@pytest.mark.parametrize("name", PROCESSES)
def test_a_perfect_network_draws_the_data(seeded, name):
    config = PROCESSES[name]
    drawn = make_process(config).sample(perfect_network(config, 1.5, 0.5), (4000, 2), seeded(), torch.device("cpu"))
    assert drawn.mean().item() == pytest.approx(1.5, abs=0.03)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_perfect_network_has_the_lowest_loss(seeded, name):
    config = PROCESSES[name]
    x0 = 1.5 + 0.5 * torch.randn(4000, 2, generator=seeded())
    process, network = make_process(config), perfect_network(config, 1.5, 0.5)
    best = process.loss(network, x0, seeded(1)).mean()
    assert best < process.loss(lambda x, t: 1.1 * network(x, t), x0, seeded(1)).mean()
    assert best < process.loss(lambda x, t: network(x, t) + 0.1, x0, seeded(1)).mean()


@pytest.mark.parametrize("name", PROCESSES)
def test_samples_are_a_function_of_the_generator_and_temperature(seeded, name):
    config = PROCESSES[name]
    process, network = make_process(config), perfect_network(config, 0.0, 1.0)

    def draw(seed: int, temperature: float = 1.0) -> Tensor:
        return process.sample(network, (64, 2), seeded(seed), torch.device("cpu"), temperature)

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert draw(0, 0.5).std() < 0.9 * draw(0).std()


@pytest.mark.parametrize("time_law", ["logit_normal", "uniform"])
def test_flow_times_follow_their_law(seeded, time_law):
    seen = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return torch.zeros_like(x)

    loss = make_process(DiffusionConfig(time_law=time_law)).loss(network, torch.zeros(20000, 1), seeded())
    assert loss.mean().item() == pytest.approx(1.0, abs=0.05)
    t = seen[0] / 1000
    middle = 2 / 3 if time_law == "uniform" else math.erf(math.log(5) / math.sqrt(2))  # share within (1/6, 5/6)
    assert ((t > 1 / 6) & (t < 5 / 6)).float().mean().item() == pytest.approx(middle, abs=0.02)


def test_the_noise_loss_of_a_silent_network_is_one(seeded):
    process = make_process(replace(DIT, learn_sigma=False))
    loss = process.loss(lambda x, t: torch.zeros_like(x), torch.randn(512, 16, 8, generator=seeded()), seeded(1))
    assert loss.shape == (512,)
    assert loss.mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("config", [DiffusionConfig(), DIT, replace(DIT, schedule="cosine")])
def test_coefficients_stay_float32_under_autocast(seeded, config):
    process = make_process(config)
    seen = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.extend([x.dtype, t.dtype])
        return torch.zeros(*x.shape[:-1], process.out_channels(x.shape[-1]), dtype=torch.bfloat16)

    x0 = torch.randn(6, 4, 3, generator=seeded())
    plain = process.loss(network, x0, seeded(1))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = process.loss(network, x0, seeded(1))
        drawn = process.sample(network, (2, 4, 3), seeded(), torch.device("cpu"))
    assert set(seen) == {torch.float32} == {mixed.dtype, drawn.dtype}
    assert torch.equal(plain, mixed)


def test_clipping_keeps_an_untrained_cosine_process_finite(seeded):
    config = DiffusionConfig(kind="ddpm", schedule="cosine", solver="ancestral", steps=100, learn_sigma=True)

    def largest(clip: float) -> float:
        process = make_process(replace(config, clip_x0=clip))
        silent = process.sample(lambda x, t: torch.zeros(64, 4), (64, 2), seeded(), torch.device("cpu"))
        return silent.abs().max().item()

    assert largest(0.0) > 1000
    assert largest(4.0) <= 4.0


def test_the_loss_of_a_learned_variance_is_least_where_it_is_the_true_one(seeded):
    """Told the noise and x0 exactly, a step back varies as the posterior does: fraction 0, an output of -1."""
    process = gaussian(replace(DIT, timesteps=200, steps=50))
    x0 = torch.randn(2000, 2, generator=seeded())
    tables = process.training.float32(x0.device)

    def network(fraction: float):
        def told(x: Tensor, t: Tensor) -> Tensor:
            signal, sigma = (
                table[t.long()][:, None] for table in (tables.sqrt_alphas_cumprod, tables.sqrt_one_minus_alphas_cumprod)
            )
            return torch.cat([(x - signal * x0) / sigma, torch.full_like(x, 2 * fraction - 1)], dim=-1)

        return told

    losses = [process.loss(network(fraction), x0, seeded(1)).mean() for fraction in (0.0, 0.5, 1.0)]
    assert losses[0] < losses[1] < losses[2]


def test_a_flow_ends_within_the_bound_on_x0(seeded):
    def largest(clip: float) -> float:
        process = make_process(DiffusionConfig(steps=8, clip_x0=clip))
        return process.sample(lambda x, t: -9 * x, (64, 2), seeded(), torch.device("cpu")).abs().max().item()

    assert largest(0.0) > 100
    assert [largest(clip) for clip in (0.5, 2.0)] == pytest.approx([0.5, 2.0], abs=1e-5)


@pytest.mark.parametrize(("solver", "evaluations"), [("euler", 6), ("heun", 11)])
def test_heun_asks_twice_a_step_but_for_the_last(seeded, solver, evaluations):
    asked = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        asked.append(t[0].item())
        return torch.zeros_like(x)

    make_process(DiffusionConfig(solver=solver, steps=6)).sample(network, (2, 3), seeded(), torch.device("cpu"))
    assert len(asked) == evaluations
    assert min(asked) > 0


@pytest.mark.parametrize(
    ("config", "std"),
    [
        (DIT, 1.0),
        (replace(DIT, solver="ddim", steps=50), 0.5),
        (replace(DIT, solver="ddim", steps=50, eta=1.0), 1.0),
        (DiffusionConfig(), 0.5),
    ],
    ids=["ancestral", "ddim", "ddim eta 1", "flow"],
)
def test_temperature_scales_the_first_noise_where_it_is_the_only_one(seeded, config, std):
    seen = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros(len(x), make_process(config).out_channels(2))

    make_process(config).sample(network, (4000, 2), seeded(), torch.device("cpu"), temperature=0.5)
    assert seen[0].std().item() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 1},
        {"kind": "ddpm", "solver": "ancestral", "steps": 1000},
        {"kind": "ddpm", "solver": "ancestral", "steps": 499},
        {"kind": "ddpm", "solver": "ancestral", "timesteps": 21, "steps": 5},
        {"kind": "ddpm", "solver": "ancestral", "schedule": "cosine", "timesteps": 2, "steps": 2},
        {"timesteps": 2},
    ],
)
def test_settings_at_the_edge_are_taken(seeded, change):
    process = make_process(DiffusionConfig(**change))
    drawn = process.sample(lambda x, t: torch.zeros_like(x), (2, 3), seeded(), torch.device("cpu"))
    assert drawn.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_x0": -1.0}, "clip_x0"),
        ({"eta": 1.5}, "eta"),
        ({"timesteps": 1}, "timesteps"),
        ({"kind": "ddpm", "solver": "ancestral", "timesteps": 20, "steps": 5}, "more than 20"),
        ({"kind": "score"}, "use one of flow, ddpm"),
        ({"kind": "ddpm", "solver": "euler"}, "use one of ancestral, ddim"),
        ({"solver": "ddim"}, "use one of euler, heun"),
        ({"schedule": "quadratic"}, "use one of linear, cosine"),
        ({"time_law": "normal"}, "use one of logit_normal, uniform"),
        ({"steps": 0}, "between 1"),
        ({"kind": "ddpm", "solver": "ddim", "steps": 2000}, "between 2 and 1000"),
        ({"kind": "ddpm", "solver": "ddim", "steps": 499}, "integer stride"),
    ],
)
def test_settings_that_do_not_fit_are_told(change, message):
    with pytest.raises(ValueError, match=message):
        make_process(DiffusionConfig(**change))
