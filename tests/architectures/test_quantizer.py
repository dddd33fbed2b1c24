"""The vector quantiser: nearest codes, its gradients, float32 distances, and how codes out of use come back."""

import copy
import math

import pytest
import torch

from architectures.tokenizers.vq import VectorQuantizer


def tokens_for(channels=4, count=64, seed=0):
    return torch.randn(2, count // 2, channels, generator=torch.Generator().manual_seed(seed))


def test_nearest_code_is_nearest():
    quantizer, tokens = VectorQuantizer(16, 4), tokens_for()
    quantizer.codebook.data.normal_(generator=torch.Generator().manual_seed(1))
    expected = torch.cdist(tokens, quantizer.codebook[None]).argmin(-1)
    codes = quantizer.nearest(tokens)
    assert torch.equal(codes, expected) and len(codes.unique()) > 8
    assert torch.equal(quantizer.nearest(quantizer.codebook), torch.arange(16))


def test_gradients_pass_straight_through():
    quantizer = VectorQuantizer(16, 4)
    tokens = tokens_for().requires_grad_()
    quantised, codes, _ = quantizer(tokens)
    torch.testing.assert_close(quantised, quantizer.codebook[codes], atol=1e-6, rtol=0)
    direction = tokens_for(seed=1)
    quantised.backward(direction)
    assert torch.equal(tokens.grad, direction)
    assert quantizer.codebook.grad is None


@pytest.mark.parametrize(("codebook_weight", "commitment_weight"), [(1.0, 0.0), (0.0, 1.0), (2.0, 0.5)])
def test_each_weight_moves_its_own_side(codebook_weight, commitment_weight):
    quantizer = VectorQuantizer(16, 4, codebook_weight, commitment_weight)
    tokens = tokens_for().requires_grad_()
    _, codes, loss = quantizer(tokens)
    loss.backward()
    error = tokens.detach() - quantizer.codebook.detach()[codes]
    torch.testing.assert_close(loss.detach(), (codebook_weight + commitment_weight) * error.square().mean())
    torch.testing.assert_close(tokens.grad, commitment_weight * 2 * error / error.numel())
    assert (quantizer.codebook.grad.abs().sum() > 0) == (codebook_weight > 0)


def test_distances_are_float32_under_autocast():
    quantizer = VectorQuantizer(512, 4)
    quantizer.codebook.data.normal_(generator=torch.Generator().manual_seed(1))
    tokens = tokens_for(count=512)
    expected, codes = quantizer.distances(tokens), quantizer.nearest(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (tokens @ quantizer.codebook.T).dtype == torch.bfloat16  # the cast that must not happen
        assert torch.equal(quantizer.distances(tokens), expected)
        assert torch.equal(quantizer.nearest(tokens), codes)
        quantised, _, loss = quantizer(tokens.bfloat16())
    assert expected.dtype == quantised.dtype == loss.dtype == torch.float32


def test_a_fresh_codebook_is_small_and_uniform():
    torch.manual_seed(0)
    codebook = VectorQuantizer(64, 8).codebook
    assert codebook.abs().max() <= 1 / 64 and codebook.std().item() == pytest.approx(1 / 64 / math.sqrt(3), rel=0.1)


def test_the_first_batch_fills_the_codebook(seeded):
    torch.manual_seed(0)
    quantizer, tokens = VectorQuantizer(16, 4, restart_after=5, restart_until=100), 3 + tokens_for()
    used = quantizer.nearest(tokens).unique()
    before = quantizer.codebook.detach().clone()
    quantizer.restart(tokens, seeded())
    moved = (quantizer.codebook != before).any(-1)
    assert not moved[used].any() and moved.sum() == 16 - len(used)
    rows = (quantizer.codebook[moved][:, None] == tokens.flatten(0, 1)).all(-1)
    assert rows.any(1).all(), "every moved code sits on a token of the batch"
    assert quantizer.distances(tokens).amin(-1).mean() < 0.5 * (tokens - before[0]).square().sum(-1).mean()


def test_a_code_is_restarted_after_it_was_idle_long_enough(seeded):
    quantizer = VectorQuantizer(2, 1, restart_after=3, restart_until=100)
    quantizer.codebook.data.copy_(torch.tensor([[0.0], [100.0]]))
    quantizer.idle.zero_()
    generator, tokens = seeded(), torch.tensor([[[1.0], [2.0]]])
    for step in range(1, 4):
        quantizer.restart(tokens, generator)
        assert quantizer.idle.tolist() == [0, step] and quantizer.codebook[1] == 100
    quantizer.restart(tokens, generator)
    assert quantizer.codebook[1] in (1, 2) and quantizer.codebook[0] == 0
    assert quantizer.idle.tolist() == [0, 0] and quantizer.steps == 4


def test_codes_restart_at_badly_served_tokens(seeded):
    """One far token among a hundred that the used code serves well: its squared distance draws the idle codes."""
    quantizer = VectorQuantizer(32, 1, restart_after=1, restart_until=100)
    quantizer.codebook.data.fill_(-1000.0)
    quantizer.codebook.data[0] = 0.0
    tokens = torch.full((1, 100, 1), 0.01)
    tokens[0, 50] = 10.0
    quantizer.restart(tokens, seeded())
    assert (quantizer.codebook[1:] == 10).float().mean() > 0.9


@pytest.mark.parametrize(("restart_after", "restart_until"), [(0, 100), (2, 0)])
def test_no_restarts_when_switched_off_or_late_in_training(seeded, restart_after, restart_until):
    quantizer = VectorQuantizer(16, 4, restart_after=restart_after, restart_until=restart_until)
    before, generator = quantizer.codebook.detach().clone(), seeded()
    for _ in range(5):
        quantizer.restart(tokens_for(), generator)
    assert torch.equal(quantizer.codebook, before) and quantizer.steps == 5
    assert quantizer.idle.max() >= 5


def test_tokens_that_codes_serve_exactly_are_no_obstacle(seeded):
    quantizer = VectorQuantizer(4, 2, restart_after=1, restart_until=100)
    quantizer.codebook.data.zero_()
    quantizer.restart(torch.zeros(1, 9, 2), seeded())
    assert quantizer.codebook.isfinite().all()


def test_tokens_that_are_not_numbers_reach_the_loss(seeded):
    """Where training has gone wrong, it is the loss that tells, in a sentence of `Watch`; not the draw of a token."""
    quantizer = VectorQuantizer(4, 2, restart_after=1, restart_until=100)
    tokens = torch.full((1, 9, 2), float("nan"))
    quantizer.restart(tokens, seeded())
    assert quantizer(tokens)[2].isnan()


def test_restarts_are_a_function_of_the_generator_and_resume_from_a_checkpoint(seeded):
    """Interrupted after 4 of 8 steps and loaded into a fresh quantiser, or never interrupted: the same codebook."""
    batches = [tokens_for(seed=seed) + seed for seed in range(8)]

    def steps(quantizer, some, seed=0):
        for index in some:
            quantizer.restart(batches[index], seeded(100 * seed + index))
        return quantizer

    def fresh():
        torch.manual_seed(0)
        return VectorQuantizer(16, 4, restart_after=2, restart_until=7)

    straight, again, other = steps(fresh(), range(8)), steps(fresh(), range(8)), steps(fresh(), range(8), seed=1)
    assert torch.equal(straight.codebook, again.codebook) and not torch.equal(straight.codebook, other.codebook)
    saved = copy.deepcopy(steps(fresh(), range(4)).state_dict())
    assert {"codebook", "idle", "steps"} == set(saved)
    resumed = fresh()
    resumed.load_state_dict(saved)
    for name, value in steps(resumed, range(4, 8)).state_dict().items():
        assert torch.equal(value, straight.state_dict()[name]), name
