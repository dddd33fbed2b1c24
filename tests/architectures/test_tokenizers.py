"""Tokenizers: shapes, views, what the settings change, and that training makes the loss fall."""

import copy
import math

import pytest
import torch

from architectures.tokenizers.base import TOKENIZERS, psnr, rate
from architectures.tokenizers.blocks import to_features, to_tokens
from architectures.tokenizers.kl import KLConfig, KLTokenizer, kl_divergence, posterior
from architectures.tokenizers.vq import VQConfig, VQTokenizer

SHAPE = (3, 16, 16)
TINY = {"width": 32, "groups": 4, "multipliers": [1, 2], "blocks": 1, "middle": "none", "channels": 4}  # f2: 8 x 8


def build(name="vq", shape=SHAPE, **settings):
    torch.manual_seed(0)
    cls = TOKENIZERS[name]
    codes = {"codes": 16} if name == "vq" else {}
    return cls(cls.config_class(**TINY | codes | settings), shape)


def some_images(count=8, shape=SHAPE):
    """Discs of random place and colour on black, in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    height, width = shape[1:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = 4 + torch.rand(count, 2, 1, 1, generator=generator) * (min(height, width) - 8)
    inside = (rows - centres[:, 0]).square() + (columns - centres[:, 1]).square() < 9  # (B, H, W)
    colours = torch.rand(count, shape[0], 1, 1, generator=generator)
    return 2 * inside[:, None] * colours - 1


def parameters_of(model):
    return sum(parameter.numel() for parameter in model.parameters())


# --- shapes and views


@pytest.mark.parametrize("name", ["kl", "vq"])
@pytest.mark.parametrize(
    ("shape", "settings", "grid"),
    [
        (SHAPE, {}, (8, 8)),
        ((1, 32, 16), {"patch": 2}, (8, 4)),
        ((3, 32, 32), {"multipliers": [1, 1, 2], "attention": [16], "middle": "attention"}, (8, 8)),
    ],
)
def test_shapes_of_latents_and_images(name, shape, settings, grid):
    model, images = build(name, shape, **settings), some_images(2, shape)
    tokens = math.prod(grid)
    assert model.grid == grid and model.channels == 4
    latents = model.encode(images)
    if name == "kl":
        assert latents["mean"].shape == latents["std"].shape == (2, tokens, 4) and latents["std"].min() > 0
        decodable = {"kl": latents["mean"]}
    else:
        assert latents["codes"].shape == (2, tokens) and latents["codes"].dtype == torch.int64
        assert latents["pre_quant"].shape == (2, tokens, 4)
        decodable = {
            "codes": latents["codes"],
            "embeddings": model.embed(latents["codes"]),
            "pre_quant": latents["pre_quant"],
        }
    assert tuple(decodable) == model.views
    for view, value in decodable.items():
        decoded = model.decode(value, view)
        assert decoded.shape == images.shape and decoded.dtype == torch.float32 and not decoded.requires_grad
    assert torch.equal(model.reconstruct(images), model.decode(decodable[model.views[0]], model.views[0]))


def test_tokens_run_along_rows_and_back():
    features = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    tokens = to_tokens(features)
    assert torch.equal(tokens[1, 2 * 5 + 3], features[1, :, 2, 3])
    assert torch.equal(to_features(tokens, (4, 5)), features)


def test_snap_decodes_continuous_latents_through_their_nearest_codes():
    snapping, plain = build(), build(snap=False)
    latents = snapping.encode(some_images())
    through_codes = snapping.decode(latents["codes"], "codes")
    embedded = snapping.embed(latents["codes"])
    assert torch.equal(snapping.decode(latents["pre_quant"], "pre_quant"), through_codes)
    assert torch.equal(snapping.decode(embedded, "embeddings"), through_codes)
    assert torch.equal(plain.decode(embedded, "embeddings"), through_codes)
    assert not torch.allclose(plain.decode(latents["pre_quant"], "pre_quant"), through_codes, atol=1e-3)


def test_only_vq_has_a_codebook():
    assert build("kl").codebook is None
    codebook = build("vq").codebook
    assert codebook.shape == (16, 4) and codebook.dtype == torch.float32 and not codebook.requires_grad


def test_a_wrong_view_is_refused():
    with pytest.raises(ValueError, match="The kl tokenizer has no view 'codes': use one of kl"):
        build("kl").decode(torch.zeros(1, 64, 4), "codes")
    with pytest.raises(ValueError, match="The vq tokenizer has no view 'kl': use one of codes, embeddings, pre_quant"):
        build("vq").decode(torch.zeros(1, 64, 4), "kl")


@pytest.mark.parametrize("name", ["kl", "vq"])
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"multipliers": [1, 1, 1, 1, 1, 1]}, "by 32, which does not divide 16x16 pixels: change one of them"),
        ({"patch": 3}, "by 6, which does not divide 16x16 pixels"),
        ({"width": 30}, "gives a level of 30 channels: GroupNorm needs multiples of tokenizer.{name}.groups=4"),
        ({"groups": 0}, "must be 1 or more"),
        ({"multipliers": []}, "multipliers needs an entry a level"),
        ({"middle": "some"}, "tokenizer.{name}.middle='some' is unknown: use one of attention, blocks, none"),
        ({"reconstruction": "lpips"}, "tokenizer.reconstruction=lpips is unknown; use l1 or l2"),
    ],
)
def test_wrong_sizes_are_refused_in_one_sentence(name, settings, sentence):
    with pytest.raises(ValueError, match=sentence.format(name=name)):
        build(name, **settings)


def test_a_resolution_that_fits_one_side_only_is_refused():
    with pytest.raises(ValueError, match="which does not divide 18x16 pixels"):
        build(shape=(3, 18, 16), multipliers=[1, 1, 1])


# --- settings of the autoencoder


@pytest.mark.parametrize(
    "settings",
    [{"attention": [16]}, {"attention": [8]}, {"middle": "blocks"}, {"middle": "attention"}, {"blocks": 2}],
)
def test_layers_are_added_where_asked_for(settings):
    assert parameters_of(build(**settings)) > parameters_of(build())


def test_groups_change_the_features_of_the_same_weights():
    four, eight = build("kl"), build("kl", groups=8)
    eight.load_state_dict(four.state_dict())
    images = some_images()
    assert not torch.allclose(four.encode(images)["mean"], eight.encode(images)["mean"], atol=1e-3)


def test_l2_squares_the_pixel_loss():
    image, reconstruction = torch.zeros(1, *SHAPE), torch.full((1, *SHAPE), 0.5)
    assert build(reconstruction="l1").pixel_loss(image, reconstruction).item() == pytest.approx(0.5)
    assert build(reconstruction="l2").pixel_loss(image, reconstruction).item() == pytest.approx(0.25)


# --- KL


def test_kl_is_that_of_two_gaussians():
    mean, logvar = (torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    posteriors = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(posteriors, torch.distributions.Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(kl_divergence(mean, logvar), expected)


def test_encode_gives_clamped_standard_deviations():
    model = build("kl")
    with torch.no_grad():
        model.to_latent.weight.zero_()
        model.to_latent.bias.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0, -1000.0, 0.0, 2.0, 1000.0]))
    latents = model.encode(some_images(1))
    assert latents["mean"][0, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    torch.testing.assert_close(latents["std"][0, 0], torch.tensor([-15.0, 0.0, 1.0, 10.0]).exp())
    assert model.loss(some_images(1), torch.Generator().manual_seed(0))[0].isfinite()


@pytest.mark.parametrize("kl_weight", [1e-6, 0.3])
def test_kl_weight_means_what_it_means_in_ldm(seeded, kl_weight):
    """Times the number of pixel values, the loss is LDM's: sums over pixels and latents, a mean over images."""
    model, images = build("kl", kl_weight=kl_weight), some_images()
    loss, logs = model.loss(images, seeded())
    with torch.no_grad():
        mean, logvar = posterior(model.features(images))
        noise = torch.randn(mean.shape, generator=seeded())
        drawn = mean + (0.5 * logvar).exp() * noise
        reconstruction = (images - model.image_of(to_tokens(drawn))).abs().sum() / len(images)
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / len(images)
    pixels = math.prod(SHAPE)
    torch.testing.assert_close(loss * pixels, reconstruction + kl_weight * divergence)
    torch.testing.assert_close(logs["reconstruction"] * pixels, reconstruction)
    torch.testing.assert_close(logs["kl"], divergence)


def test_kl_draws_noise_in_training_and_none_in_reconstructions(seeded):
    model, images = build("kl"), some_images()
    first, again, other = (model.loss(images, seeded(seed))[0].item() for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(model.reconstruct(images), model.reconstruct(images))


@pytest.mark.parametrize("name", ["kl", "vq"])
def test_losses_and_latents_are_float32_under_autocast(name, seeded):
    model, images = build(name), some_images()
    reference = model.loss(images, seeded())[0].item()
    model = build(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = model.loss(images, seeded())
        latents = model.encode(images)
        reconstruction = model.reconstruct(images)
    assert loss.dtype == reconstruction.dtype == torch.float32
    assert all(value.dtype in (torch.float32, torch.int64) for value in latents.values())
    assert loss.item() == pytest.approx(reference, rel=0.05)


# --- codes in use


def test_restarts_end_with_their_share_of_training():
    quantizer = build(restart_until=0.5, max_steps=10).quantizer
    assert quantizer.restart_until == 5
    assert build(restart_after=7).quantizer.restart_after == 7


def test_only_training_restarts_codes(seeded):
    model, images = build().eval(), some_images()
    before = copy.deepcopy(model.state_dict())
    model.loss(images, seeded())
    model.encode(images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.train().loss(images, seeded())
    assert model.quantizer.steps == 1 and not torch.equal(model.codebook, before["quantizer.codebook"])


def test_restarts_bring_codes_into_use(seeded):
    """Far from the initial codebook one or two codes take every token; restarts spread them."""
    images = some_images()

    def used(**settings):
        model, generator = build(**settings), seeded()
        for _ in range(5):
            _, logs = model.loss(images, generator)
        return logs["codes_used"].item()

    assert used(restart_after=1) > 0.5 and used(restart_after=1) > used(restart_after=0)


def test_usage_counts_every_code():
    usage = build().usage(torch.tensor([[0, 3, 3], [15, 3, 0]]))
    assert usage.shape == (16,) and usage.dtype == torch.int64
    assert usage[[0, 3, 15]].tolist() == [2, 3, 1] and usage.sum() == 6


# --- training


@pytest.mark.parametrize("name", ["kl", "vq"])
def test_loss_falls_and_repeats_with_the_generator(name, seeded):
    """Fifteen steps on eight images, twice: the same losses to the last bit, and lower at the end."""
    images = some_images()

    def losses():
        model = build(name, learning_rate=3e-3, warmup_steps=1, max_steps=1000)
        setup = model.configure_optimizers()
        optimiser, schedule = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
        generator, history = seeded(), []
        for step in range(15):
            loss = model.training_step({"image": images, "generator": generator}, step)
            optimiser.zero_grad()
            loss.backward()
            model.configure_gradient_clipping(optimiser)
            optimiser.step()
            schedule.step()
            history.append(model.last_logs["reconstruction"].item())
        assert model.last_logs["loss"].item() == loss.item() and not model.last_logs["loss"].requires_grad
        return history

    first = losses()
    assert first == losses()
    assert sum(first[-3:]) < 0.6 * sum(first[:3])


@pytest.mark.parametrize("name", ["kl", "vq"])
def test_every_parameter_learns(name, seeded):
    model = build(name, attention=[8], middle="attention")
    model.loss(some_images(), seeded())[0].backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name


def test_decay_touches_convolution_weights_only():
    model = build(weight_decay=0.1)
    decayed, others = model.configure_optimizers()["optimizer"].param_groups
    assert decayed["weight_decay"] == 0.1 and all(p.ndim == 4 for p in decayed["params"])
    assert others["weight_decay"] == 0.0 and any(p is model.quantizer.codebook for p in others["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_clipping_bounds_the_gradient(seeded):
    model = build("kl", clip=0.01)
    model.loss(some_images(), seeded())[0].backward()
    model.configure_gradient_clipping(torch.optim.SGD(model.parameters(), 0.1))
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_rate_rises_and_falls():
    config = KLConfig(warmup_steps=10, max_steps=110, final_rate=0.1)
    assert rate(0, config) == pytest.approx(0.1) and rate(9, config) == rate(10, config) == 1.0
    assert rate(60, config) == pytest.approx(0.55) and rate(110, config) == rate(500, config) == pytest.approx(0.1)


def test_psnr_of_known_noise():
    images = torch.zeros(4, 3, 64, 64)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    spreads = torch.tensor([0.05, 0.1, 0.2, 0.2])
    measured = psnr(images, images + spreads[:, None, None, None] * noise)
    assert measured.shape == (4,)
    torch.testing.assert_close(measured, 20 * torch.log10(2 / spreads), atol=0.15, rtol=0)
    assert psnr(images, images + 0.1)[0].item() == pytest.approx(26.0206, abs=1e-3)


def test_psnr_clamps_reconstructions_to_the_range_of_images():
    white = torch.ones(1, 3, 8, 8)
    assert psnr(white, 1.7 * white).item() == pytest.approx(10 * math.log10(4 / 1e-10), rel=1e-5)


def test_the_registry_knows_both():
    assert TOKENIZERS["kl"] is KLTokenizer and TOKENIZERS["vq"] is VQTokenizer
    assert KLTokenizer.config_class is KLConfig and VQTokenizer.config_class is VQConfig
