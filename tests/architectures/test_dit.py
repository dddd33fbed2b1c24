"""DiT: its network against the published one, and what an architecture must do."""

from dataclasses import replace

import pytest
import torch

from architectures.base import ARCHITECTURES
from architectures.conditioning import ConditioningConfig
from architectures.diffusion import DiffusionConfig, guide_prediction
from architectures.dit import DiT, DiTConfig
from architectures.masking import SamplingConfig
from architectures.transformer import TrunkConfig, sincos_position, timestep_embedding

LATENTS = torch.randn(8, 9, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def build(make_context, perturb):
    """A small model, by default with every weight moved, so that zero-initialised ones hide nothing."""

    def make(fresh=False, **changes):
        torch.manual_seed(0)
        model = DiT(DiTConfig(), make_context(**changes))
        return model if fresh else perturb(model)

    return make


def published_weights(g: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The golden's weights under our names; a patch is a token with channels (c, p, q)."""
    names = {
        "t_embedder.mlp": "embed_time.net",
        "attn.qkv": "qkv",
        "attn.proj": "attention_out",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.2",
        "adaLN_modulation.1": "modulation",
        "final_layer.modulation": "trunk.final_modulation",
        "final_layer.linear": "output",
        "x_embedder.proj": "embed_token",
    }
    ours = {}
    for key, value in g.items():
        if not key.startswith("w.") or "pos_embed" in key or "y_embedder" in key:
            continue
        name = key.removeprefix("w.")
        for theirs, our in names.items():
            name = name.replace(theirs, our)
        ours["trunk." + name if name.startswith("blocks") else name] = value
    ours["embed_token.weight"] = ours["embed_token.weight"].flatten(1)
    return ours


def patchify(images: torch.Tensor) -> torch.Tensor:
    """(B, C, 8, 8) to (B, 16, C 2 2), channels (c, p, q)."""
    return images.unflatten(2, (4, 2)).unflatten(4, (4, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(tokens: torch.Tensor) -> torch.Tensor:
    """(B, 16, 2 2 C) with channels (p, q, c), as DiT's last layer has them, to (B, C, 8, 8)."""
    return tokens.view(-1, 4, 4, 2, 2, tokens.shape[-1] // 4).permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


@pytest.fixture
def published(golden, build):
    """The tiny published network: arrays, our model with its weights, and ours called as theirs is."""
    g = golden("dit_tiny_forward")
    model = build(
        grid=(4, 4),
        channels=16,
        trunk=TrunkConfig(depth=2, width=64, heads=4),
        diffusion=DiffusionConfig(kind="ddpm", solver="ancestral", learn_sigma=True),
    )
    missing, unexpected = model.load_state_dict(published_weights(g), strict=False)
    assert not unexpected
    assert all(name.startswith("condition_embedder") for name in missing)
    table = g["w.y_embedder.embedding_table.weight"]

    def network(x, t, y):
        with torch.no_grad():
            return unpatchify(model(patchify(x), t, table[y]))

    return g, model, network


def test_forward_matches_the_published_network(published):
    g, _, network = published
    torch.testing.assert_close(network(g["x"], g["t"], g["y"]), g["out"], atol=2e-6, rtol=0)


def test_loss_matches_the_published_one(published):
    g, model, network = published
    last = [g[key].movedim(1, -1) for key in ("x", "loss_noise")]
    x_t = model.process.corrupt(last[0], g["t"], last[1])
    output = network(x_t.movedim(-1, 1), g["t"], g["y"]).movedim(1, -1)
    mse, bound = model.process.loss_terms(output, last[0], x_t, g["t"], last[1])
    torch.testing.assert_close(mse, g["mse"], atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(bound, g["vb"], atol=2e-6, rtol=1e-5)


def test_guidance_matches_where_the_release_guides(published):
    g, _, network = published
    raw = network(g["cfg_in_x"], g["cfg_t"], g["cfg_in_y"])
    torch.testing.assert_close(raw, g["cfg_raw"], atol=2e-6, rtol=0)
    conditional, unconditional = g["cfg_raw"].movedim(1, -1).chunk(2)
    guided = guide_prediction(conditional, unconditional, g["cfg_scale"].item(), 4).movedim(-1, 1)
    released = g["cfg_out_three_channels_as_released"][: len(guided)]
    torch.testing.assert_close(guided[:, :3], released[:, :3], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(guided[:, 4:], released[:, 4:], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(guided[:, 3], released[:, 3])


@pytest.mark.parametrize(
    ("key", "grid", "width"),
    [
        ("grid16_dim384", 16, 384),
        ("grid12_dim384", 12, 384),
        ("grid8_dim384", 8, 384),
        ("grid7_dim448", 7, 448),
        ("grid7_dim384", 7, 384),
        ("grid8_dim64", 8, 64),
        ("grid4_dim64", 4, 64),
    ],
)
def test_positions_match_the_published_table(golden, key, grid, width):
    expected = golden("sincos_pos_embed_2d")[key].float()
    torch.testing.assert_close(sincos_position((grid, grid), width), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dim", [256, 64])
def test_time_embedding_matches_the_published_one(golden, dim):
    g = golden("timestep_embedding")
    with torch.autocast("cpu", torch.bfloat16):
        ours = timestep_embedding(g["t"], dim)
    assert ours.dtype == torch.float32
    # exp differs in its last bit between CPUs, and a float32 angle of 999 rad is known to 6e-5.
    allowed = 1e-6 + 6e-8 * g["t"][:, None]
    assert ((ours - g[f"dim{dim}"]).abs() <= allowed).all()


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_a_fresh_model_puts_out_exactly_zero(build, make_condition, learn_sigma):
    model = build(fresh=True, diffusion=DiffusionConfig(kind="ddpm", solver="ancestral", learn_sigma=learn_sigma))
    c, _ = model.embed(make_condition())
    output = model(torch.randn(8, 9, 4), torch.arange(8.0), c)
    assert output.shape == (8, 9, 8 if learn_sigma else 4)
    assert not output.any()


def test_fresh_weights_have_the_published_spread(build):
    model = build(fresh=True, trunk=TrunkConfig(depth=2, width=128, heads=2))
    for layer in (model.embed_time.net[0], model.embed_time.net[2]):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for layer in (model.trunk.blocks[0].qkv, model.trunk.blocks[1].mlp[0]):
        xavier = (2 / sum(layer.weight.shape)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(xavier, rel=0.05)


def test_the_first_noise_loss_is_one(build, conditions, seeded):
    model = build(fresh=True, diffusion=DiffusionConfig(kind="ddpm", solver="ancestral"))
    condition = conditions(64)
    loss, _ = model.training_loss(LATENTS.repeat(8, 1, 1), condition, seeded())
    assert loss.shape == ()
    assert loss.item() == pytest.approx(1.0, abs=0.05)


def test_every_input_matters(build, make_condition):
    model = build()
    x, t = LATENTS, torch.full((8,), 300.0)
    condition = make_condition()
    c, _ = model.embed(condition)
    reference = model(x, t, c)
    assert not torch.allclose(reference, model(x + 0.1, t, c))
    assert not torch.allclose(reference, model(x, t + 50, c))
    assert not torch.allclose(reference, model(x.flip(1), t, c).flip(1))  # positions
    assert not torch.allclose(reference, model(x, t, c.flip(0)))
    for factor in range(3):
        present = condition.present.clone()
        present[:, factor] = False
        hidden, _ = model.embed(replace(condition, present=present))
        assert not torch.allclose(c, hidden)


def test_samples_are_a_function_of_condition_generator_and_settings(build, make_condition, seeded):
    condition = make_condition()
    model = build()
    with torch.no_grad():
        drawn = model.sample(condition, seeded())
        assert drawn.shape == (8, 9, 4)
        assert drawn.isfinite().all()
        assert torch.equal(drawn, model.sample(condition, seeded()))
        assert not torch.equal(drawn, model.sample(condition, seeded(1)))
        assert not torch.equal(drawn, model.sample(condition.absent(), seeded()))
        for settings in (SamplingConfig(guidance=2.0), SamplingConfig(temperature=0.5)):
            assert not torch.equal(drawn, build(sampling=settings).sample(condition, seeded()))


def test_guidance_zero_is_unconditional(build, make_condition, seeded):
    model = build(sampling=SamplingConfig(guidance=0.0))
    with torch.no_grad():
        unconditional = build().sample(make_condition().absent(), seeded())
        torch.testing.assert_close(model.sample(make_condition(), seeded()), unconditional)


def test_condition_tokens_reach_the_output(build, make_condition, seeded):
    model = build(conditioning=ConditioningConfig(injection="tokens"))
    with torch.no_grad():
        drawn = model.sample(make_condition(), seeded())
        assert not torch.allclose(drawn, model.sample(make_condition().absent(), seeded()))


def test_one_batch_can_be_learned(build, make_condition, train):
    losses = train(build(fresh=True), LATENTS, make_condition(), steps=300)
    assert sum(losses[:5]) / 5 == pytest.approx(2.0, abs=0.4)  # variance of data plus noise
    assert sum(losses[-20:]) / 20 < 0.6


def test_autocast_trains_in_float32_loss(build, make_condition, seeded):
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model.training_loss(LATENTS, make_condition(), seeded())
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_published_size_has_the_published_count(make_context):
    """DiT-S/2 has 32,963,360 parameters, 98,304 of them positions, which are a buffer here, and 384,384 label rows."""
    context = make_context(
        grid=(16, 16),
        channels=16,
        trunk=TrunkConfig(depth=12, width=384, heads=6),
        diffusion=DiffusionConfig(kind="ddpm", solver="ancestral", learn_sigma=True),
    )
    with torch.device("meta"):
        trunk_less_labels = sum(
            parameter.numel()
            for name, parameter in DiT(DiTConfig(), context).named_parameters()
            if not name.startswith("condition_embedder")
        )
    assert trunk_less_labels == 32_963_360 - 98_304 - 1001 * 384


def test_it_is_registered():
    assert ARCHITECTURES["dit"] is DiT
