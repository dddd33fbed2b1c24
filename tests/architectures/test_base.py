"""What every architecture shares: averages, optimiser, clipping, and the trunk's switches."""

import math
import re

import pytest
import torch
from torch import nn

from architectures.averages import Average, decay_for_half_life
from architectures.base import ARCHITECTURES, OptimiserConfig
from architectures.conditioning import ConditioningConfig
from architectures.dit import DiT, DiTConfig
from architectures.givt import GIVT, GIVTConfig
from architectures.mar import MAR, MARConfig
from architectures.maskgit import MaskGIT, MaskGITConfig
from architectures.transformer import Trunk, TrunkConfig, attend, sincos_position


def test_an_average_follows_slowly_and_swaps_in_and_out():
    parameter = nn.Parameter(torch.zeros(3))
    average = Average({"a.weight": parameter}, decay=0.9)
    with torch.no_grad():
        parameter.fill_(1.0)
    average.update({"a.weight": parameter})
    torch.testing.assert_close(average.shadows[0], torch.full((3,), 0.1))
    with average.swapped_into({"a.weight": parameter}):
        assert parameter[0].item() == pytest.approx(0.1)
    assert parameter[0] == 1.0


def test_an_average_is_float32_and_survives_a_checkpoint():
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    average = Average({"w": parameter}, decay=0.999)
    with torch.no_grad():
        parameter.fill_(1.0)
    for _ in range(10):
        average.update({"w": parameter})
    assert average.shadows[0].dtype == torch.float32 and 0 < average.shadows[0][0] < 0.02  # lost in bfloat16 steps
    copy = Average({"w": parameter}, decay=0.999)
    assert copy.sha256() != average.sha256()
    copy.load_state_dict(average.state_dict())
    assert copy.sha256() == average.sha256()


def test_half_life():
    assert decay_for_half_life(693) == pytest.approx(0.999, abs=1e-6)


def test_averaged_weights_are_those_that_sample(context, conditions, seeded, perturb):
    model = DiT(DiTConfig(), context())
    model.finalise()
    perturb(model)
    raw = model.sample(conditions(4), seeded())
    with model.averaged():
        assert not model.training
        averaged = model.sample(conditions(4), seeded())
    assert model.training and not torch.equal(raw, averaged)
    torch.testing.assert_close(model.sample(conditions(4), seeded()), raw)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_rate_warms_up_and_then_follows_its_schedule(context, schedule):
    model = DiT(DiTConfig(), context(optimiser=OptimiserConfig(warmup_steps=10, schedule=schedule), max_steps=100))
    factors = [model._lr_factor(step) for step in range(100)]
    assert factors[0] < 0.2 and factors[:9] == sorted(factors[:9])
    if schedule == "constant":
        assert factors[10:] == [1.0] * 90
    else:
        assert factors[99] < 0.01 and factors[10:] == sorted(factors[10:], reverse=True)


def test_gradients_are_clipped_by_hand(context):
    model = DiT(DiTConfig(), context(optimiser=OptimiserConfig(clip_norm=0.5)))
    optimiser = model.configure_optimizers()["optimizer"]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    count = sum(parameter.numel() for parameter in model.parameters())
    model.on_before_optimizer_step(optimiser)
    assert float(model.last_logs["gradient_norm"]) == pytest.approx(math.sqrt(count), rel=1e-4)
    clipped = torch.stack([p.grad.square().sum() for p in model.parameters() if p.requires_grad]).sum().sqrt()
    assert float(clipped) == pytest.approx(0.5, rel=1e-3)


def test_condition_dropout_reaches_training_and_not_sampling(context, conditions, seeded):
    model = DiT(DiTConfig(), context(conditioning=ConditioningConfig(dropout=0.999999)))
    seen = []
    model.training_loss = lambda latents, condition, generator: (seen.append(condition) or torch.zeros(()), {})
    condition = conditions(64)
    batch = {"latents": torch.zeros(64, 6, 6), "values": condition.values, "classes": condition.classes}
    model.training_step({**batch, "generator": seeded()}, 0)
    assert not seen[0].present.any()


@pytest.mark.parametrize(
    ("cls", "config"),
    [(DiT, DiTConfig()), (MAR, MARConfig()), (GIVT, GIVTConfig()), (MaskGIT, MaskGITConfig(input="latents"))],
)
def test_linear_layers_begin_as_in_dit(context, cls, config):
    """Xavier's uniform law and biases of zero, also where an architecture embeds tokens and states itself."""
    model = cls(config, context())
    checked = 0
    for path, layer in model.named_modules():
        if not isinstance(layer, nn.Linear) or not layer.weight.any() or re.search("embed_time|condition|^head$", path):
            continue  # gates begin at zero; heads and the embeddings of times and conditions have laws of their own
        std = math.sqrt(2 / sum(layer.weight.shape))
        assert layer.bias is None or not layer.bias.any(), path
        assert layer.weight.abs().max() <= math.sqrt(3) * std + 1e-6, path
        assert layer.weight.std().item() == pytest.approx(std, rel=0.15), path
        checked += 1
    assert checked >= 8


def test_a_fresh_trunk_is_a_normalisation_of_its_input():
    trunk = Trunk(TrunkConfig(depth=3, width=32, heads=2), (2, 2))
    x, c = torch.randn(5, 4, 32), torch.randn(5, 32)
    expected = nn.functional.layer_norm(x + sincos_position((2, 2), 32), (32,), eps=1e-6)
    torch.testing.assert_close(trunk(x, c)[0], expected)


def test_kept_layers_are_block_outputs_in_order():
    trunk = Trunk(TrunkConfig(depth=3, width=32, heads=2), (2, 2), extra_tokens=2)
    for block in trunk.blocks:
        nn.init.normal_(block.modulation.weight, std=0.1)
    x, c, extra = torch.randn(5, 4, 32), torch.randn(5, 32), torch.randn(5, 2, 32)
    _, (first, last) = trunk(x, c, extra, keep_layers=(0, 2))
    assert first.shape == last.shape == (5, 4, 32) and not torch.equal(first, last)


def test_attention_by_hand_equals_the_fused_kernel():
    q, k, v = torch.randn(3, 2, 4, 7, 8).unbind(0)
    torch.testing.assert_close(attend(q, k, v), nn.functional.scaled_dot_product_attention(q, k, v))


def test_activations_differ_a_little():
    outputs = []
    for activation in ("gelu_tanh", "gelu"):
        torch.manual_seed(0)
        trunk = Trunk(TrunkConfig(depth=1, width=32, heads=2, activation=activation), (2, 2))
        nn.init.normal_(trunk.blocks[0].modulation.weight)
        outputs.append(trunk(torch.ones(1, 4, 32), torch.ones(1, 32))[0])
    assert 0 < (outputs[0] - outputs[1]).abs().max() < 0.05


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"trunk.width=100 must be a multiple of trunk.heads=3"):
        TrunkConfig(width=100, heads=3).validate()


def test_every_architecture_is_registered_with_its_config():
    from benchmark.registry import discover

    names = {"dit", "mar", "givt", "maskgit", "maskgit-jepa"}
    for name in names:
        cls = discover([]).entry("architecture", name).load()
        assert ARCHITECTURES[name] is cls and cls.name == name
