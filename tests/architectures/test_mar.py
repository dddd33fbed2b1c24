"""MAR: its head and sampler against the published ones, and what a masked diffusion model must do."""

from dataclasses import replace

import pytest
import torch

from architectures.base import ARCHITECTURES
from architectures.conditioning import ConditioningConfig
from architectures.diffusion import DiffusionConfig, guide_prediction, make_process
from architectures.mar import MAR, DiffusionHead, MARConfig
from architectures.masking import MaskingConfig, SamplingConfig, masked_mean

LATENTS = torch.randn(8, 9, 4, generator=torch.Generator().manual_seed(0))
SMALL = MARConfig(head_depth=2, head_width=32, diffusion_batch_mul=2)
PUBLISHED = DiffusionConfig(kind="ddpm", schedule="cosine", learn_sigma=True, solver="ancestral", steps=10)


@pytest.fixture
def build(make_context, perturb):
    """A small model, by default with every weight moved, so that zero-initialised ones hide nothing."""

    def make(fresh=False, config=SMALL, **changes):
        torch.manual_seed(0)
        model = MAR(config, make_context(**changes))
        return model if fresh else perturb(model)

    return make


@pytest.fixture
def published(golden):
    """The tiny published head: arrays, our head with its weights, the process."""
    names = {
        "time_embed.mlp": "embed_time.net",
        "cond_embed": "embed_state",
        "input_proj": "embed_token",
        "res_blocks": "blocks",
        "in_ln": "norm",
        "final_layer.adaLN_modulation.1": "final_modulation",
        "final_layer.linear": "output",
        "adaLN_modulation.1": "modulation",
    }
    g = golden("mar_head")
    weights = {}
    for key, value in g.items():
        name = key.removeprefix("w.diffloss.net.")
        if name == key:
            continue
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        weights[name] = value
    head = DiffusionHead(channels=4, out_channels=8, state_width=64, width=48, depth=2)
    head.load_state_dict(weights)
    return g, head.requires_grad_(False), make_process(PUBLISHED)


def test_head_and_its_losses_match_mar(published):
    g, head, process = published
    x0, z = (g[key].flatten(0, 1).repeat(2, 1) for key in ("tokens", "z"))
    t, noise, state = g["diff_t"], g["diff_noise"], head.embed_state(z)
    clean = head(x0, t.float(), state)  # the recorded output is that on clean tokens
    torch.testing.assert_close(clean, g["diff_net_out"], atol=1e-6, rtol=1e-6)
    x_t = process.corrupt(x0, t, noise)
    mse, bound = process.loss_terms(head(x_t, t.float(), state), x0, x_t, t, noise)
    torch.testing.assert_close(mse, g["diff_mse"], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(bound, g["diff_vb"], atol=1e-6, rtol=2e-6)
    torch.testing.assert_close(mse + bound, g["diff_loss_per_row"], atol=1e-6, rtol=2e-6)
    per_token = (mse + bound).view(2, -1).mean(0).view(3, 64)
    torch.testing.assert_close(masked_mean(per_token, g["mask"].bool()), g["loss"], atol=1e-6, rtol=1e-6)


def test_head_sampler_matches_mar(published):
    g, head, process = published
    tables = process.on(process.sampling, torch.device("cpu"))
    assert torch.equal(tables.timestep_map, g["head_timestep_map"])
    conditional, null = head.embed_state(g["head_sample_c"]).chunk(2)
    x = g["head_sample_x_T"][:3]
    for entry, noise in zip(reversed(range(10)), g["head_sample_step_noise"][:, :3], strict=True):
        index = torch.full((3,), entry)
        t = tables.timestep_map[index].float()
        output = guide_prediction(head(x, t, conditional), head(x, t, null), g["head_sample_cfg"].item(), 4)
        x = process.step(output, x, index, g["head_sample_temperature"].item() * noise, tables)
    expected = g["head_sample_out"][:3]
    assert (x - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["L64_T8", "L256_T64", "L49_T12", "L144_T16"])
def test_guidance_grows_as_mars_does(golden, make_context, name):
    g = golden("mar_decode_schedule")
    context = make_context(grid=(int(name[1:].split("_")[0]),), sampling=SamplingConfig(guidance=3.0))
    model = MAR(replace(SMALL, guidance_schedule="linear"), context)
    scales = [model.guidance_at(int(masked)) for masked in g[f"mask_len_after_step_{name}"]]
    torch.testing.assert_close(torch.tensor(scales).double(), g[f"cfg_iter_linear_cfg3_{name}"], atol=1e-6, rtol=0)


def test_the_published_head_has_the_published_count():
    """MAR-L's head with 3 blocks of width 1024 on a trunk of 1024: 20,261,920 parameters."""
    with torch.device("meta"):
        head = DiffusionHead(channels=16, out_channels=32, state_width=1024, width=1024, depth=3)
    assert sum(parameter.numel() for parameter in head.parameters()) == 20_261_920


def test_a_fresh_head_puts_out_exactly_zero_and_the_first_noise_loss_is_one(build, conditions, seeded):
    model = build(fresh=True, diffusion=DiffusionConfig(kind="ddpm", solver="ancestral"))
    assert not model.head(torch.randn(5, 4), torch.arange(5.0), torch.randn(5, 32)).any()
    loss, _ = model.training_loss(LATENTS.repeat(8, 1, 1), conditions(64), seeded())
    assert loss.item() == pytest.approx(1.0, abs=0.05)


def test_every_input_of_the_head_matters(build):
    head = build().head
    x, t, state = torch.randn(5, 4), torch.full((5,), 300.0), torch.randn(5, 32)
    reference = head(x, t, state)
    for changed in (head(x + 0.1, t, state), head(x, t + 50, state), head(x, t, state + 0.1)):
        assert not torch.allclose(reference, changed)


def test_masked_tokens_are_hidden_from_the_trunk_and_visible_ones_are_not(build, make_condition):
    model, condition = build(), make_condition()
    mask = torch.zeros(8, 9, dtype=torch.bool)
    mask[:, :4] = True
    states = model.states(LATENTS, mask, condition)
    hidden, visible = LATENTS.clone(), LATENTS.clone()
    hidden[:, :4] += 1
    visible[:, 4:] += 1
    assert torch.equal(states, model.states(hidden, mask, condition))
    assert not torch.allclose(states, model.states(visible, mask, condition))
    assert not torch.allclose(states, model.states(LATENTS, ~mask, condition))
    assert not torch.allclose(states, model.states(LATENTS, mask, condition.absent()))


def test_only_counted_tokens_carry_the_loss(build, make_condition, monkeypatch):
    mask = torch.rand(8, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[:, 0] = True
    monkeypatch.setattr("architectures.mar.sample_mask", lambda *_: mask)

    def loss_of(model):
        monkeypatch.setattr(model, "head_loss", lambda z, x0, generator: x0[:, 0] ** 2)
        return model.training_loss(LATENTS, make_condition(), torch.Generator())[0]

    masked = loss_of(build())
    torch.testing.assert_close(masked, masked_mean(LATENTS[..., 0] ** 2, mask))
    everything = loss_of(build(masking=MaskingConfig(loss_on="all")))
    torch.testing.assert_close(everything, (LATENTS[..., 0] ** 2).mean())


def test_more_noise_draws_give_the_same_loss_with_less_noise(build, make_condition, seeded):
    def losses(repeats):
        model = build(config=replace(SMALL, diffusion_batch_mul=repeats))
        z, x0 = torch.randn(50, 32, generator=seeded()), torch.randn(50, 4, generator=seeded(1))
        with torch.no_grad():
            return torch.stack([model.head_loss(z, x0, seeded(seed)).mean() for seed in range(20)])

    one, many = losses(1), losses(8)
    assert many.mean().item() == pytest.approx(one.mean().item(), rel=0.1)
    assert many.std() < 0.7 * one.std()


def test_samples_are_a_function_of_condition_generator_and_settings(build, make_condition, seeded):
    condition = make_condition()
    with torch.no_grad():
        model = build()
        drawn = model.sample(condition, seeded())
        assert drawn.shape == (8, 9, 4)
        assert drawn.isfinite().all()
        assert torch.equal(drawn, model.sample(condition, seeded()))
        assert not torch.equal(drawn, model.sample(condition, seeded(1)))
        assert not torch.equal(drawn, model.sample(condition.absent(), seeded()))
        for change in ({"guidance": 2.0}, {"temperature": 0.5}, {"decode_steps": 2}):
            settings = replace(model.context.sampling, **change)
            assert not torch.equal(drawn, build(sampling=settings).sample(condition, seeded()))
        guided = {"sampling": SamplingConfig(decode_steps=4, guidance=2.0)}
        constant = build(**guided).sample(condition, seeded())
        linear = build(config=replace(SMALL, guidance_schedule="linear"), **guided).sample(condition, seeded())
        assert not torch.equal(constant, linear)


def test_every_token_is_drawn_once(build, make_condition, seeded, monkeypatch):
    model, drawn = build(), []
    sample = model.process.sample

    def counting(network, shape, *settings):
        drawn.append(shape[0])
        return sample(network, shape, *settings)

    monkeypatch.setattr(model.process, "sample", counting)
    with torch.no_grad():
        model.sample(make_condition(), seeded())
    assert len(drawn) == 4
    assert sum(drawn) == 8 * 9


def test_guidance_zero_is_unconditional(build, make_condition, seeded):
    with torch.no_grad():
        unguided = build(sampling=SamplingConfig(decode_steps=4, guidance=0.0)).sample(make_condition(), seeded())
        torch.testing.assert_close(unguided, build().sample(make_condition().absent(), seeded()))


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (SamplingConfig(decode_steps=4, order="confidence"), "order=random"),
        (SamplingConfig(decode_steps=10), "exceeds the 9 tokens"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_is_built(build, sampling, message):
    with pytest.raises(ValueError, match=message):
        MARConfig().check_sampling(sampling, tokens=9)
    with pytest.raises(ValueError, match=message):
        build(sampling=sampling)


def test_condition_tokens_reach_the_samples(build, make_condition, seeded):
    model = build(conditioning=ConditioningConfig(injection="tokens"))
    with torch.no_grad():
        drawn = model.sample(make_condition(), seeded())
        assert not torch.allclose(drawn, model.sample(make_condition().absent(), seeded()))


def test_clipping_keeps_early_samples_finite(build, make_condition, seeded):
    def largest(clip):
        model = build(fresh=True, diffusion=replace(PUBLISHED, clip_x0=clip))
        with torch.no_grad():
            return model.sample(make_condition(), seeded()).abs().max().item()

    assert largest(4.0) <= 4.0
    assert largest(0.0) > 100


def test_one_batch_can_be_learned(build, make_condition, train):
    losses = train(build(fresh=True), LATENTS, make_condition(), steps=300)
    assert sum(losses[:5]) / 5 == pytest.approx(2.0, abs=0.4)  # variance of data plus noise
    assert sum(losses[-20:]) / 20 < 0.8


def test_autocast_keeps_the_loss_in_float32(build, make_condition, seeded):
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model.training_loss(LATENTS, make_condition(), seeded())
        drawn = model.sample(make_condition(), seeded())
    loss.backward()
    assert loss.dtype == drawn.dtype == torch.float32
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_depth": 0}, "head_depth=0"),
        ({"head_width": 0}, "head_width=0"),
        ({"diffusion_batch_mul": 0}, "diffusion_batch_mul=0"),
        ({"guidance_schedule": "cosine"}, "constant or linear"),
    ],
)
def test_wrong_values_are_told_by_name(build, change, message):
    with pytest.raises(ValueError, match=message):
        build(config=replace(SMALL, **change))


def test_it_is_registered():
    assert ARCHITECTURES["mar"] is MAR
