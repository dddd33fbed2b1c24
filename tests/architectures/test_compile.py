"""Compiled training and sampling: the same numbers as uncompiled, and a graph a shape."""

import pytest
import torch
from torch._dynamo.utils import counters

from architectures.dit import DiT, DiTConfig
from architectures.givt import GIVT, GIVTConfig
from architectures.jepa import MaskGITJEPA, MaskGITJEPAConfig
from architectures.mar import MAR, MARConfig
from architectures.masking import SamplingConfig
from architectures.transformer import Trunk

CODES = torch.randint(0, 11, (8, 6), generator=torch.Generator().manual_seed(0))
LATENTS = torch.randn(8, 6, 6, generator=torch.Generator().manual_seed(0))
CASES = [
    pytest.param(DiT, DiTConfig(), LATENTS, id="dit"),
    pytest.param(GIVT, GIVTConfig(mixtures=3), LATENTS, id="givt"),
    pytest.param(MAR, MARConfig(head_depth=1, head_width=16), LATENTS, id="mar"),
    pytest.param(MaskGITJEPA, MaskGITJEPAConfig(layers=(1,)), CODES, id="maskgit-jepa"),
]


def graphs():
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(("cls", "config", "latents"), CASES)
def test_every_trunk_is_compiled_also_where_a_class_compiles_more(context, cls, config, latents):
    model = cls(config, context())
    model.compile_networks()
    trunks = [module for module in model.modules() if isinstance(module, Trunk)]
    assert len(trunks) == (2 if cls is MaskGITJEPA else 1)
    assert all(trunk._compiled_call_impl is not None for trunk in trunks)


@pytest.mark.parametrize(("cls", "config", "latents"), CASES)
def test_a_compiled_step_is_the_uncompiled_one(context, conditions, perturb, seeded, cls, config, latents):
    model = perturb(cls(config, context()))
    model.finalise()

    def step(seed):
        model.zero_grad()
        loss, _ = model.training_loss(latents, conditions(8), seeded(seed))
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    def samples(seed=0):
        with model.averaged():
            return model.sample(conditions(5), seeded(seed))

    names, (loss, gradients), drawn = list(model.state_dict()), step(1), samples()
    torch.compiler.reset()
    counters.clear()
    model.compile_networks()
    compiled_loss, compiled_gradients = step(1)
    compiled = graphs()
    assert compiled > 0
    assert compiled_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(compiled_gradients, gradients, rtol=1e-4, atol=1e-5)
    step(2)  # other masks
    assert graphs() == compiled
    torch.testing.assert_close(samples(), drawn, rtol=1e-4, atol=1e-5)
    compiled = graphs()
    samples(1)  # other noise
    step(3)
    assert graphs() == compiled
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_mar_samples_every_number_of_rows_by_one_graph(context, conditions, perturb, seeded, guidance):
    """Each step of decoding wants another number of tokens; a graph for each would meet dynamo's limit and then none."""

    def graphs_of_a_sample(decode_steps):
        torch.compiler.reset()
        counters.clear()
        sampling = SamplingConfig(decode_steps=decode_steps, guidance=guidance)
        model = perturb(MAR(MARConfig(head_depth=1, head_width=16), context(sampling=sampling)))
        model.finalise()
        with model.averaged():
            eager = model.sample(conditions(5), seeded(0))
            model.compile_networks()
            # each of the six steps is fed by the ones before, so rounding adds up
            torch.testing.assert_close(model.sample(conditions(5), seeded(0)), eager, rtol=1e-3, atol=1e-4)
        return graphs()

    assert graphs_of_a_sample(6) == graphs_of_a_sample(1)
