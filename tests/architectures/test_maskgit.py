"""MaskGIT: its loss, what its logits may see, and that samples follow what was trained."""

import math

import numpy as np
import pytest
import torch

from architectures.maskgit import MaskGIT, MaskGITConfig, code_cross_entropy
from architectures.masking import MaskingConfig, SamplingConfig, masked_mean


def build(context, **settings):
    torch.manual_seed(0)
    return MaskGIT(MaskGITConfig(**settings), context)


def some_codes(count=8, seed=0):
    return torch.randint(0, 11, (count, 6), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("smoothing", "name"), [(0.0, "loss_ls0"), (0.1, "loss_ls01")])
def test_loss_is_maskgits_and_not_the_flat_mean(golden, smoothing, name):
    arrays = golden("maskgit_loss")
    logits, labels, mask = arrays["logits"], arrays["labels"].long(), arrays["weights"].bool()
    per_token = code_cross_entropy(logits, labels, smoothing)
    assert masked_mean(per_token, mask).item() == pytest.approx(float(arrays[name]), abs=1e-6)
    assert per_token[mask].mean().item() != pytest.approx(float(arrays[name]), abs=1e-3)


@pytest.mark.parametrize("source", ["codes", "latents"])
def test_loss_at_init_is_log_of_the_codebook_size(context, conditions, seeded, source):
    codebook = torch.randn(256, 6, generator=seeded())
    model = build(context(codebook=codebook), input=source)
    codes = torch.randint(0, 256, (64, 6), generator=seeded())
    loss, logs = model.training_loss(codes, conditions(64), seeded())
    assert loss.item() == pytest.approx(math.log(256), abs=0.3)
    assert set(logs) == {"cross_entropy", "masked_accuracy"}
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("source", ["codes", "latents"])
def test_hidden_codes_do_not_reach_the_logits_and_visible_ones_do(context, conditions, perturb, seeded, source):
    model = perturb(build(context(), input=source))
    mask = torch.rand(8, 6, generator=seeded()) < 0.5
    mask[:, 0], mask[:, 1] = True, False
    codes, condition = some_codes(), conditions(8)
    changed = (codes + 1) % 11
    reference = model.guided_logits(codes, mask, condition)
    assert torch.equal(reference, model.guided_logits(torch.where(mask, changed, codes), mask, condition))
    visible = model.guided_logits(torch.where(mask, codes, changed), mask, condition)
    assert (reference - visible).abs().amax((1, 2)).min() > 1e-4


def test_input_latents_reads_the_codebook(context, conditions, perturb, seeded):
    model = perturb(build(context(), input="latents"))
    codes, mask = some_codes(), torch.rand(8, 6, generator=seeded()) < 0.5
    before = model.guided_logits(codes, mask, conditions(8))
    model.codebook = model.codebook + 1
    assert not torch.allclose(before, model.guided_logits(codes, mask, conditions(8)))
    assert "codebook" not in model.state_dict()


@pytest.mark.parametrize(
    "change", [{"loss_on": "all"}, {"label_smoothing": 0.1}, {"ratio": "truncnorm"}, {"min_ratio": 0.9}]
)
def test_every_masking_option_changes_the_loss(context, conditions, perturb, seeded, change):
    def loss(masking):
        model = perturb(build(context(masking=masking)))
        return model.training_loss(some_codes(), conditions(8), seeded())[0].item()

    assert loss(MaskingConfig()) == loss(MaskingConfig())
    assert loss(MaskingConfig()) != pytest.approx(loss(MaskingConfig(**change)), abs=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"decode_steps": 0},
        {"order": "confidence"},
        {"temperature": 0.3},
        {"guidance": 3.0},
    ],
)
def test_every_sampling_option_changes_the_samples(context, conditions, perturb, seeded, change):
    def sample(**settings):
        model = perturb(build(context(sampling=SamplingConfig(**{"decode_steps": 3} | settings))))
        return model.sample(conditions(64), seeded())

    reference = sample()
    assert reference.shape == (64, 6) and reference.dtype == torch.int64
    assert reference.min() >= 0 and reference.max() < 11
    assert torch.equal(reference, sample())
    assert not torch.equal(reference, sample(**change))


def test_samples_depend_on_generator_and_condition(context, conditions, perturb, seeded):
    model = perturb(build(context()))
    reference = model.sample(conditions(64), seeded())
    assert not torch.equal(reference, model.sample(conditions(64), seeded(1)))
    assert not torch.equal(reference, model.sample(conditions(64).absent(), seeded()))


def test_guidance_is_in_s_form_with_every_factor_absent(context, conditions, perturb, seeded):
    model = perturb(build(context(sampling=SamplingConfig(decode_steps=3, guidance=2.5))))
    plain = build(context())
    plain.load_state_dict(model.state_dict())
    codes, mask, condition = some_codes(), torch.rand(8, 6, generator=seeded()) < 0.5, conditions(8)
    c, u = (plain.guided_logits(codes, mask, told) for told in (condition, condition.absent()))
    torch.testing.assert_close(model.guided_logits(codes, mask, condition), u + 2.5 * (c - u))


def test_temperature_zero_takes_the_most_likely_code(context, conditions, perturb, seeded):
    model = perturb(build(context(sampling=SamplingConfig(decode_steps=1, temperature=0.0))))
    everything = torch.ones(8, 6, dtype=torch.bool)
    likely = model.guided_logits(torch.zeros(8, 6, dtype=torch.int64), everything, conditions(8)).argmax(-1)
    assert torch.equal(model.sample(conditions(8), seeded()), likely)


def test_drawn_codes_follow_the_softmax(context, conditions, perturb, seeded):
    model = perturb(build(context(sampling=SamplingConfig(decode_steps=1, temperature=0.7))))
    condition = conditions(1)
    many = type(condition)(*(value.repeat(20_000, *[1] * (value.dim() - 1)) for value in vars(condition).values()))
    with torch.no_grad():
        logits = model.guided_logits(torch.zeros(1, 6, dtype=torch.int64), torch.ones(1, 6).bool(), condition)
        drawn = model.sample(many, seeded())
    shares = torch.stack([(drawn == code).float().mean(0) for code in range(11)], dim=-1)  # (N, K)
    assert (shares - (logits[0] / 0.7).softmax(-1)).abs().max() < 0.02


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_one_batch_is_overfitted_and_sampled(context, conditions, seeded, train, order):
    """Eight compositions, one code pattern each: the loss nears zero and sampling returns the patterns."""
    model = build(context(sampling=SamplingConfig(decode_steps=3, order=order)))
    losses = train(model, some_codes(), conditions(8), steps=250)
    assert losses[0] > 2 and np.mean(losses[-20:]) < 0.1
    with torch.no_grad():
        matches = model.sample(conditions(8), seeded()) == some_codes()
    assert matches.float().mean() > 0.9


def test_wrong_settings_are_refused(context):
    with pytest.raises(ValueError, match="decode_steps=7 exceeds the 6 tokens"):
        build(context(sampling=SamplingConfig(decode_steps=7)))
    with pytest.raises(ValueError, match="use tokenizer=vq"):
        build(context(codebook=None))
    with pytest.raises(ValueError, match="use codes or latents"):
        build(context(), input="pixels")
