"""Masks, decoding tables and the decoding loop, against MaskGIT's and MAR's recorded numbers."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from architectures.masking import (
    MaskingConfig,
    SamplingConfig,
    confidence_rank,
    decode,
    decode_steps,
    decode_table,
    guide,
    gumbel_noise,
    loss_mask,
    mask_ratio,
    masked_mean,
    sample_mask,
)

GOLDENS = Path(__file__).parents[1] / "goldens"


def golden(name):
    return np.load(GOLDENS / f"{name}.npz")


def counts(config, tokens, draws=20_000, seed=0):
    return sample_mask(draws, tokens, config, torch.Generator().manual_seed(seed)).sum(1)


def test_cosine_law_is_maskgits():
    arrays = golden("maskgit_schedules")
    ratio = mask_ratio(torch.tensor(arrays["ratio"], dtype=torch.float32), "cosine")
    torch.testing.assert_close(ratio, torch.tensor(arrays["cosine"]), atol=1e-6, rtol=0)


def test_givt_law_stops_the_cosine_at_seven_tenths():
    arrays = golden("givt_misc")
    ratio = mask_ratio(torch.tensor(arrays["mask_schedule_ratio"]) / 0.7, "givt")
    expected = torch.tensor(arrays["mask_schedule_cosine"], dtype=torch.float64)
    torch.testing.assert_close(ratio, expected, atol=2e-6, rtol=0)  # the recorded one is clipped at 1e-6


def test_truncnorm_law_is_mars_inverse_distribution_function():
    arrays = golden("mar_mask_ratio_truncnorm")
    ratio = mask_ratio(torch.tensor(arrays["quantile"]), "truncnorm")
    torch.testing.assert_close(ratio, torch.tensor(arrays["ppf"]), atol=1e-9, rtol=0)


@pytest.mark.parametrize("tokens", [16, 64, 256])
def test_truncnorm_mask_counts_follow_mars_distribution(tokens):
    expected = golden("mar_mask_ratio_truncnorm")[f"p_num_masked_seq{tokens}"]
    seen = counts(MaskingConfig(ratio="truncnorm"), tokens, draws=20_000)
    assert seen.min() >= math.ceil(0.7 * tokens)
    observed = np.bincount(seen.numpy(), minlength=tokens + 1)[1:]
    likely = expected * len(seen) >= 5
    total = observed[likely].sum()
    assert total == len(seen)
    assert stats.chisquare(observed[likely], expected[likely] / expected[likely].sum() * total).pvalue > 1e-3


@pytest.mark.parametrize(
    ("law", "mean"), [("cosine", 2 / math.pi), ("arccos", 2 / math.pi), ("givt", 0.8102), ("truncnorm", 0.86702)]
)
def test_mean_ratio_of_each_law(law, mean):
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(1))
    assert mask_ratio(u, law).mean().item() == pytest.approx(mean, abs=2e-3)


@pytest.mark.parametrize("law", ["cosine", "arccos", "givt", "truncnorm"])
def test_every_sample_has_a_masked_token_and_its_own_ratio(law):
    masked = counts(MaskingConfig(ratio=law), 7)
    assert masked.min() >= 1
    assert masked.max() == 7
    assert len(masked.unique()) > 2


def test_masked_positions_are_uniform_and_masks_depend_on_the_generator_only():
    config = MaskingConfig()
    mask = sample_mask(20_000, 6, config, torch.Generator().manual_seed(0))
    assert mask.dtype == torch.bool
    share = mask.float().mean(0)
    assert (share - share.mean()).abs().max() < 0.02
    assert torch.equal(mask, sample_mask(20_000, 6, config, torch.Generator().manual_seed(0)))
    assert not torch.equal(mask, sample_mask(20_000, 6, config, torch.Generator().manual_seed(1)))


def test_arccos_masks_tokens_independently():
    """Given the ratio, counts are binomial, so they spread wider than the ratio does; `cosine` fixes the count."""
    tokens, u = 16, torch.rand(50_000, generator=torch.Generator().manual_seed(0))
    ratio = mask_ratio(u, "arccos")
    expected = tokens**2 * ratio.var() + tokens * (ratio * (1 - ratio)).mean()
    variance = counts(MaskingConfig(ratio="arccos"), tokens, 50_000).float().var()
    assert variance.item() == pytest.approx(expected.item(), rel=0.03)


def test_min_ratio_is_a_floor():
    assert counts(MaskingConfig(min_ratio=0.5), 16).min() == 8
    assert counts(MaskingConfig(min_ratio=1.0), 16).min() == 16


def test_loss_mask_and_reduction():
    per_token = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mask = torch.tensor([[True, False, False], [False, True, True]])
    assert masked_mean(per_token, loss_mask(mask, MaskingConfig())) == (1 + 5.5) / 2
    assert masked_mean(per_token, loss_mask(mask, MaskingConfig(loss_on="all"))) == 3.5
    assert masked_mean(per_token.bfloat16(), mask).dtype == torch.float32


@pytest.mark.parametrize("name", [n for n in golden("maskgit_schedules").files if n.startswith("mask_len")])
def test_decoding_table_is_maskgits_in_float32(name):
    tokens, steps = (int(part[1:]) for part in name.removeprefix("mask_len_").split("_"))
    recorded = golden("maskgit_schedules")[name].tolist()
    assert recorded[-1] == 1  # MaskGIT returns the ids from before this last re-masking
    assert decode_table(tokens, steps) == (*recorded[:-1], 0)


@pytest.mark.parametrize("name", [n for n in golden("mar_decode_schedule").files if n.startswith("num_predicted")])
def test_decoding_table_is_mars_in_float64(name):
    tokens, steps = (int(part[1:]) for part in name.removeprefix("num_predicted_").split("_"))
    table = (tokens, *decode_table(tokens, steps, "mar"))
    assert (-np.diff(table)).tolist() == golden("mar_decode_schedule")[name].tolist()


def test_the_two_rules_differ_where_the_cosine_is_one_half():
    assert decode_table(64, 12) != decode_table(64, 12, "mar")
    assert decode_table(16, 8) == decode_table(16, 8, "mar")


@pytest.mark.parametrize("tokens", [1, 2, 16, 49, 64])
def test_every_step_decides_something_and_zero_means_one_token_a_step(tokens):
    for steps in range(1, tokens + 1):
        table = (tokens, *decode_table(tokens, steps))
        assert table[-1] == 0
        assert all(after < before for before, after in itertools.pairwise(table))
    assert decode_table(tokens, 0) == tuple(range(tokens - 1, -1, -1))


def test_more_steps_than_tokens_are_refused():
    with pytest.raises(ValueError, match="decode_steps=17 exceeds the 16 tokens"):
        decode_table(16, 17)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_confidence_masks_are_maskgits(case):
    arrays = golden("maskgit_decode")
    probabilities = torch.tensor(arrays["topk_probs"])  # known tokens are recorded as +inf
    known = probabilities.isinf()
    noise = float(arrays[f"topk{case}_temperature"]) * torch.tensor(arrays[f"topk{case}_gumbel"])
    confidence = probabilities.masked_fill(known, 1.0).log() + noise
    masked = confidence_rank(confidence, known) >= 16 - int(arrays[f"topk{case}_mask_len"])
    assert torch.equal(masked, torch.tensor(arrays[f"topk{case}_mask"]))


def test_confidence_decoding_is_maskgits_step_by_step():
    """The whole stochastic run with constant logits: ids after every step are equal, recorded draws and noise given."""
    arrays = golden("maskgit_decode")
    log_probabilities = torch.tensor(arrays["decode_logits"]).log_softmax(-1)
    draws = torch.tensor(arrays["decode_categorical_draws"]).long()  # (T, B, N)

    def predict(state, known, step):
        return draws[step.index], log_probabilities.gather(-1, draws[step.index][..., None])[..., 0]

    config = SamplingConfig(
        decode_steps=int(arrays["decode_T"]),
        order="confidence",
        choice_temperature=float(arrays["decode_choice_temperature"]),
    )
    empty = torch.full(draws.shape[1:], -1)
    steps = decode_steps(empty, predict, config, torch.Generator(), gumbel=torch.tensor(arrays["decode_gumbel"]))
    recorded = torch.tensor(arrays["decode_all_iterations"]).long()  # (B, T, N)
    assert torch.equal(torch.stack(list(steps), dim=1), recorded)


def run(config, tokens=6, batch=4, seed=0, confidence=True):
    """Decode with proposals that name the step, so that the result shows when each token was decided."""
    seen = []

    def predict(state, known, step):
        seen.append((state.clone(), known.clone()))
        scores = torch.linspace(0, -3, tokens).repeat(batch, 1) if confidence else None
        return torch.full_like(state, float(step.index)), scores

    result = decode(torch.zeros(batch, tokens, 2), predict, config, torch.Generator().manual_seed(seed))
    return result[..., 0], seen


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_decoding_keeps_what_is_known_and_follows_the_table(order):
    result, seen = run(SamplingConfig(decode_steps=3, order=order))
    table = decode_table(6, 3)
    assert [int((~known).sum(1)[0]) for _, known in seen] == [6, *table[:-1]]
    decided = [6 - table[0], table[0] - table[1], table[1]]
    assert (torch.stack([(result == step).sum(1) for step in range(3)], 1) == torch.tensor(decided)).all()
    for (_, before), (state, after) in itertools.pairwise(seen):
        assert (after | ~before).all()  # nothing known becomes unknown again
        assert torch.equal(state[..., 0][after], result[after])


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_a_step_tells_which_tokens_it_may_decide(order):
    steps = []

    def predict(state, known, step):
        steps.append(step)
        assert not (step.wanted & known).any()
        return torch.ones_like(state), torch.zeros(4, 6)

    decode(torch.zeros(4, 6), predict, SamplingConfig(decode_steps=3, order=order), torch.Generator().manual_seed(0))
    before, after = (6, *decode_table(6, 3)[:-1]), decode_table(6, 3)
    counts = before if order == "confidence" else [b - a for b, a in zip(before, after, strict=True)]
    assert [step.wanted.sum(1).tolist() for step in steps] == [[count] * 4 for count in counts]
    assert tuple(step.masked for step in steps) == after


def test_random_order_is_drawn_per_sample_and_before_anything_else():
    result, _ = run(SamplingConfig(decode_steps=6))
    assert len({tuple(row.tolist()) for row in result}) > 1
    order = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)).argsort(1).argsort(1)
    assert torch.equal(result, order.float())
    assert torch.equal(result, run(SamplingConfig(decode_steps=6), confidence=False)[0])
    assert not torch.equal(result, run(SamplingConfig(decode_steps=6), seed=1)[0])


def test_choice_temperature_makes_the_confident_order_random():
    strict, _ = run(SamplingConfig(decode_steps=6, order="confidence", choice_temperature=0))
    assert torch.equal(strict, torch.arange(6.0).repeat(4, 1))
    noisy, _ = run(SamplingConfig(decode_steps=6, order="confidence", choice_temperature=4.5))
    assert not torch.equal(strict, noisy)


def test_drawn_noise_has_the_moments_of_gumbels_law():
    """Mean .5772 (Euler's constant), variance pi^2 / 6, and skewed to the right."""
    noise = gumbel_noise((200_000,), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.02)
    assert ((noise - noise.mean()) ** 3).mean() > 1


def test_confidence_order_needs_a_confidence():
    with pytest.raises(ValueError, match="use order=random"):
        run(SamplingConfig(decode_steps=3, order="confidence"), confidence=False)


def test_guidance_of_one_is_none():
    conditional, unconditional = torch.tensor([3.0]), torch.tensor([1.0])
    assert [guide(conditional, unconditional, s).item() for s in (0, 1, 2)] == [1, 3, 5]


@pytest.mark.parametrize(
    "config",
    [
        MaskingConfig(ratio="sine"),
        MaskingConfig(loss_on="some"),
        MaskingConfig(min_ratio=1.5),
        MaskingConfig(label_smoothing=-0.1),
        SamplingConfig(order="raster"),
        SamplingConfig(schedule="linear"),
        SamplingConfig(decode_steps=-1),
        SamplingConfig(temperature=-1.0),
        SamplingConfig(choice_temperature=-1.0),
    ],
)
def test_wrong_values_are_told_by_name(config):
    with pytest.raises(ValueError, match=r"(masking|sampling)\.\w+="):
        config.validate()
