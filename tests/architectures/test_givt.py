"""GIVT: the mixture likelihood of big_vision, its floor and its spread, and that samples follow what was trained."""

import math

import numpy as np
import pytest
import torch

from architectures.givt import GIVT, GIVTConfig, Mixture, make_mixture, square_plus
from architectures.masking import MaskingConfig, SamplingConfig, masked_mean, sample_mask

PUBLISHED_FLOOR = 1e-6


def build(context, **settings):
    torch.manual_seed(0)
    return GIVT(GIVTConfig(**{"mixtures": 4} | settings), context)


def some_latents(count=8, seed=0):
    return torch.randn(count, 6, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("variant", ["masked", "ar"])
def test_mixture_is_big_visions(golden, variant):
    arrays = {name.removeprefix(f"{variant}."): value for name, value in golden("givt_mixtures").items()}
    mixture = make_mixture(arrays["logits"], 3, PUBLISHED_FLOOR)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(mixture.means[..., 0, :, :], arrays["locs"], **close)
    torch.testing.assert_close(mixture.stds[..., 0, :, :], arrays["scales"], **close)
    torch.testing.assert_close(mixture.logits[..., 0, :].softmax(-1), arrays["probs"], **close)
    tempered = mixture.tempered(0.9, 1.5)
    torch.testing.assert_close(tempered.stds[..., 0, :, :], arrays["scales_temp09"], **close)
    torch.testing.assert_close(tempered.logits[..., 0, :].softmax(-1), arrays["probs_temp15"], **close)
    nll = -mixture.log_prob(arrays["sequence"])
    torch.testing.assert_close(nll, arrays["nll"], **close)
    flat = nll[arrays["input_mask"]].mean() if variant == "masked" else nll.mean()  # the published, flat reduction
    torch.testing.assert_close(flat, arrays["loss"], **close)


def test_mixture_per_channel_is_big_visions(golden):
    arrays = golden("givt_misc")
    mixture = make_mixture(arrays["per_channel_logits"], 3, PUBLISHED_FLOOR, per_channel=True)
    expected = arrays["per_channel_nll"].sum(-1)
    torch.testing.assert_close(-mixture.log_prob(arrays["per_channel_target"]), expected, atol=1e-5, rtol=1e-5)


def test_square_plus_is_the_fixed_formula(golden):
    arrays = golden("givt_misc")
    fixed = square_plus(arrays["square_plus_x"].float())
    torch.testing.assert_close(fixed, arrays["square_plus_fixed"], atol=1e-6, rtol=0)
    assert fixed.min() > 0 > arrays["square_plus_unfixed"].min()


@pytest.mark.parametrize("per_channel", [False, True])
def test_loss_at_init_is_that_of_unit_gaussians(context, conditions, seeded, per_channel):
    model = build(context(masking=MaskingConfig(loss_on="all")), mean_spread=0.0, per_channel=per_channel)
    latents = some_latents()
    loss, logs = model.training_loss(latents, conditions(8), seeded())
    expected = (6 * 0.5 * math.log(2 * math.pi) + 0.5 * latents.square().sum(-1)).mean()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    assert logs["nll_per_dim"].item() == pytest.approx(expected.item() / 6, abs=1e-5)
    assert logs["std_at_floor"] == 0


@pytest.mark.parametrize("per_channel", [False, True])
def test_only_spread_gives_components_gradients_of_their_own(context, conditions, seeded, per_channel):
    def distance(spread):
        model = build(context(), mean_spread=spread, per_channel=per_channel)
        model.training_loss(some_latents(), conditions(8), seeded())[0].backward()
        gradient = make_mixture(model.head.bias.grad, 4, 0.05, per_channel).means
        return gradient.std(dim=-2).max().item()

    assert distance(0.0) < 1e-6
    assert distance(1.0) > 1e-2


def test_loss_is_the_mean_over_masked_tokens_of_a_sample_then_over_samples(context, conditions, seeded, perturb):
    model = perturb(build(context()))
    latents, condition = some_latents(), conditions(8)
    mask = sample_mask(8, 6, MaskingConfig(), seeded())
    expected = masked_mean(-model.mixture(latents, mask, condition).log_prob(latents), mask)
    torch.testing.assert_close(model.training_loss(latents, condition, seeded())[0], expected)


def test_floor_bounds_the_deviations_and_is_logged(context, conditions, seeded):
    model = build(context(), std_floor=0.2)
    with torch.no_grad():
        model._mixture(model.head.bias).means.fill_(0.0)
        model.head.bias[4:].view(4, 2, 6)[0, 1] = -100.0  # one component of four, every channel
    mixture = model.mixture(some_latents(), torch.ones(8, 6).bool(), conditions(8))
    assert mixture.stds.min().item() == pytest.approx(0.2)
    assert model.training_loss(some_latents(), conditions(8), seeded())[1]["std_at_floor"].item() == 0.25


def test_atoms_have_a_bounded_likelihood(context, conditions, train):
    """On one repeated latent the loss goes to the floor's density, and no further."""
    model = build(context(), std_floor=0.05)
    losses = train(model, torch.full((8, 6, 6), 0.3), conditions(8), steps=200)
    bound = 6 * (0.5 * math.log(2 * math.pi) + math.log(0.05))
    assert bound - 1e-3 <= min(losses) < bound + 2


def test_hidden_latents_do_not_reach_the_mixture_and_visible_ones_do(context, conditions, perturb, seeded):
    model = perturb(build(context()))
    mask = torch.rand(8, 6, generator=seeded()) < 0.5
    mask[:, 0], mask[:, 1] = True, False
    latents, condition = some_latents(), conditions(8)

    def means(latents):
        return model.mixture(latents, mask, condition).means

    hidden = torch.where(mask[..., None], torch.nan, latents)
    assert torch.equal(means(latents), means(hidden))
    visible = torch.where(mask[..., None], latents, latents + 1)
    assert (means(latents) - means(visible)).abs().flatten(1).amax(1).min() > 1e-4


def test_samples_have_the_moments_of_the_mixture(seeded):
    logits = torch.tensor([[0.0, 1.0]])
    means = torch.tensor([[[-2.0, 0.0], [1.0, 3.0]]])
    stds = torch.tensor([[[0.5, 1.0], [0.2, 0.1]]])
    many = Mixture(*(value.expand(50_000, *value.shape) for value in (logits, means, stds)))
    drawn = many.sample(seeded())
    weights = logits[0].softmax(-1)[:, None]
    mean = (weights * means[0]).sum(0)
    variance = (weights * (stds[0] ** 2 + means[0] ** 2)).sum(0) - mean**2
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.var(0), variance, atol=0.05, rtol=0)


def test_components_are_drawn_by_their_weights(seeded):
    """Of three: a difference of two Gumbels is symmetric, so that two components would not tell the noise's sign."""
    weights = torch.tensor([0.6, 0.3, 0.1])
    means = torch.tensor([-10.0, 0.0, 10.0]).view(1, 3, 1)
    many = Mixture(*(v.expand(50_000, *v.shape) for v in (weights.log()[None], means, torch.full_like(means, 0.1))))
    nearest = (many.sample(seeded()) - means.flatten()).abs().argmin(-1)
    torch.testing.assert_close(nearest.bincount(minlength=3) / 50_000, weights, atol=0.01, rtol=0)


@pytest.mark.parametrize("per_channel", [False, True])
def test_density_integrates_to_one(seeded, per_channel):
    raw = torch.randn(18 if per_channel else 15, generator=seeded())  # three components, two channels
    mixture = make_mixture(raw, 3, 0.2, per_channel)
    assert mixture.means.shape == ((2, 3, 1) if per_channel else (1, 3, 2))
    axis = torch.linspace(-12, 12, 801)
    total = mixture.log_prob(torch.cartesian_prod(axis, axis)).exp().sum().item() * 0.03**2
    assert total == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("sampling", "settings"),
    [
        ({"decode_steps": 0}, {}),
        ({"order": "confidence"}, {}),
        ({"temperature": 0.5}, {}),
        ({}, {"sharpness": 10.0}),
        ({}, {"std_floor": 1.5}),
        ({}, {"per_channel": True}),
        ({}, {"mixtures": 1}),
    ],
)
def test_every_option_changes_the_samples(context, conditions, perturb, seeded, sampling, settings):
    def sample(sampling, settings):
        world = context(sampling=SamplingConfig(**{"decode_steps": 3} | sampling))
        return perturb(build(world, **settings)).sample(conditions(8), seeded())

    reference = sample({}, {})
    assert reference.shape == (8, 6, 6)
    assert torch.equal(reference, sample({}, {}))
    assert not torch.equal(reference, sample(sampling, settings))


def test_samples_depend_on_generator_and_condition(context, conditions, perturb, seeded):
    model = perturb(build(context()))
    reference = model.sample(conditions(8), seeded())
    assert not torch.equal(reference, model.sample(conditions(8), seeded(1)))
    assert not torch.equal(reference, model.sample(conditions(8).absent(), seeded()))


def test_likelihood_is_float32_under_autocast(context, conditions, perturb, seeded):
    model = perturb(build(context()))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model.training_loss(some_latents(), conditions(8), seeded())
        mixture = model.mixture(some_latents(), torch.ones(8, 6).bool(), conditions(8))
    assert {value.dtype for value in (loss, *vars(mixture).values())} == {torch.float32}


def test_one_batch_is_overfitted_and_sampled(context, conditions, seeded, train):
    model = build(context())
    losses = train(model, some_latents(), conditions(8), steps=300)
    assert losses[0] > 8 and np.mean(losses[-20:]) < -4
    with torch.no_grad():
        error = (model.sample(conditions(8), seeded()) - some_latents()).abs()
    assert error.median() < 0.2


def test_wrong_settings_are_refused(context):
    with pytest.raises(ValueError, match="decode_steps=7 exceeds the 6 tokens"):
        build(context(sampling=SamplingConfig(decode_steps=7)))
    with pytest.raises(ValueError, match=r"guidance=2\.0 must be 1"):
        build(context(sampling=SamplingConfig(decode_steps=3, guidance=2.0)))
    for settings in ({"mixtures": 0}, {"std_floor": 0.0}, {"mean_spread": -1.0}):
        with pytest.raises(ValueError, match="architecture"):
            build(context(), **settings)
