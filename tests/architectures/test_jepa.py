"""MaskGIT+JEPA: what the target sees, what gradients reach, how the target moves, and what stays out of the average."""

import math

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from architectures.jepa import MaskGITJEPA, MaskGITJEPAConfig, collapse_monitors, normalise, state_loss
from architectures.jepa_controls import partners_within
from architectures.maskgit import MaskGIT, MaskGITConfig
from architectures.masking import sample_mask


def build(context, **settings):
    torch.manual_seed(0)
    return MaskGITJEPA(MaskGITJEPAConfig(**{"layers": (0, 1)} | settings), context)


def some_codes(count=8, seed=0):
    return torch.randint(0, 11, (count, 6), generator=torch.Generator().manual_seed(seed))


def test_targets_and_error_are_ijepas(golden):
    arrays = golden("jepa_targets")
    targets = normalise(arrays["states"])
    torch.testing.assert_close(targets, arrays["target_layernormed_full"], atol=1e-6, rtol=0)
    rows, indices = torch.arange(2)[:, None], arrays["masked_indices"]
    mask = torch.zeros(targets.shape[:2], dtype=torch.bool)
    mask[rows, indices] = True
    predicted = torch.full_like(targets, 1e3)  # what is not masked must not count
    predicted[rows, indices] = arrays["predictions"]
    expected = (arrays["predictions"] - arrays["targets"]).square().mean()
    torch.testing.assert_close(state_loss([predicted], [targets], mask), expected, atol=1e-6, rtol=0)


def test_loss_is_maskgits_plus_the_weighted_state_loss(context, conditions, perturb, seeded):
    model = perturb(build(context(), weight=0.6))
    plain = MaskGIT(MaskGITConfig(), context())
    plain.load_state_dict({name: model.state_dict()[name] for name in plain.state_dict()})
    loss, logs = model.training_loss(some_codes(), conditions(8), seeded())
    code_loss, _ = plain.training_loss(some_codes(), conditions(8), seeded())
    torch.testing.assert_close(loss, code_loss + 0.6 * logs["jepa"])
    assert set(logs) == {
        "cross_entropy", "masked_accuracy", "jepa", "target_std", "target_cosine", "jepa_over_variance"
    }  # fmt: skip


def test_state_loss_by_hand(context, conditions, perturb, seeded):
    """Predictions from masked codes against normalised states of the target, which sees all codes."""
    model = perturb(build(context()))
    codes, condition = some_codes(), conditions(8)
    mask = sample_mask(8, 6, model.context.masking, seeded())
    _, seen = model.states(codes, mask, condition, (0, 1))
    _, complete = model.jepa_target.states(codes, torch.zeros_like(mask), condition, (0, 1))
    per_layer = []
    for predictor, student, teacher in zip(model.predictors, seen, complete, strict=True):
        target = torch.nn.functional.layer_norm(teacher, (32,))
        error = (predictor(student) - target).square().mean(-1)
        per_layer.append(torch.stack([row[hidden].mean() for row, hidden in zip(error, mask, strict=True)]).mean())
    _, logs = model.training_loss(codes, condition, seeded())
    torch.testing.assert_close(logs["jepa"], torch.stack(per_layer).mean())


def test_same_initial_weights_as_maskgit(context):
    model = build(context())
    torch.manual_seed(0)
    plain = MaskGIT(MaskGITConfig(), context())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
        assert torch.equal(value, model.state_dict()[f"jepa_target.{name}"])


def test_gradient_reaches_predictors_and_trunk_but_never_the_target(context, conditions, perturb, seeded):
    model = perturb(build(context()))
    loss, _ = model.training_loss(some_codes(), conditions(8), seeded())
    loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("jepa_target."):
            assert parameter.grad is None and not parameter.requires_grad
    for prefix in ("predictors.", "trunk.", "embed_token."):
        gradients = [p.grad for name, p in model.named_parameters() if name.startswith(prefix)]
        assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_state_loss_alone_reaches_the_trunk_but_not_the_head(context, conditions, perturb, seeded):
    model = perturb(build(context()))
    codes = some_codes()
    mask = sample_mask(8, 6, model.context.masking, seeded())
    _, kept = model.states(codes, mask, conditions(8), model.layers)
    predicted = [predictor(states) for predictor, states in zip(model.predictors, kept, strict=True)]
    state_loss(predicted, model.target_states(codes, conditions(8)), mask).backward()
    assert model.head.weight.grad is None
    assert model.trunk.blocks[0].qkv.weight.grad.abs().sum() > 0


def test_target_sees_all_codes_and_the_same_condition(context, conditions, perturb):
    model = perturb(build(context()))
    model.jepa_target.load_state_dict({name: model.state_dict()[name] for name in model.jepa_target.state_dict()})
    condition = conditions(8)
    reference = model.target_states(some_codes(), condition)[-1]
    changed = some_codes().clone()
    changed[:, 3] = (changed[:, 3] + 1) % 11
    assert (reference - model.target_states(changed, condition)[-1]).abs().amax((1, 2)).min() > 1e-4
    condition.present[:, 1] = False
    assert not torch.allclose(reference, model.target_states(some_codes(), condition)[-1])


def test_training_hands_the_target_the_dropped_factors(context, conditions, perturb, seeded, monkeypatch):
    model = perturb(build(context()))
    condition = conditions(8)
    condition.present[::2] = False
    told = []
    original = model.target_states
    monkeypatch.setattr(model, "target_states", lambda codes, c: told.append(c) or original(codes, c))
    model.training_loss(some_codes(), condition, seeded())
    assert torch.equal(told[0].present, condition.present)


def test_target_is_an_exponential_average_with_the_configured_half_life(context):
    model = build(context(max_steps=200), half_life=0.05)  # half-life of 10 steps
    start = {name: value.clone() for name, value in model.jepa_target.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    for step in range(1, 11):
        model.update_target()
        for name, value in model.jepa_target.named_parameters():
            moved = value - start[name]
            expected = 0.0 if name.startswith("condition_embedder.centres") else 1 - 0.5 ** (step / 10)
            torch.testing.assert_close(moved, torch.full_like(moved, expected), atol=1e-5, rtol=0)


def test_half_life_changes_the_target(context, conditions, train):
    def target(half_life):
        model = build(context(), half_life=half_life)
        train(model, some_codes(), conditions(8), steps=5)
        return model.jepa_target.head.weight

    assert torch.equal(target(0.05), target(0.05))
    assert not torch.equal(target(0.05), target(0.01))


def test_the_average_that_samples_follows_beside_the_target(context, conditions, train):
    model = build(context())
    start = model.head.weight.detach().clone()
    train(model, some_codes(), conditions(8), steps=5)
    now = model.head.weight.detach().clone()
    with model.averaged():
        average = model.head.weight.detach().clone()
    assert not average.equal(start) and not average.equal(now)
    torch.testing.assert_close(average, start, atol=(now - start).abs().max().item(), rtol=0)


def test_predictors_are_trained_but_neither_averaged_nor_sampled(context, conditions, perturb, seeded):
    model = perturb(build(context()))
    model.finalise()
    trained = {id(p) for group in model.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert all(id(parameter) in trained for parameter in model.predictors.parameters())
    assert not any(id(parameter) in trained for parameter in model.jepa_target.parameters())
    plain = MaskGIT(MaskGITConfig(), context())
    assert set(model.averaged_parameters()) == set(plain.averaged_parameters())
    reference = model.sample(conditions(8), seeded())
    with torch.no_grad():
        for module in (model.predictors, model.jepa_target):
            for parameter in module.parameters():
                parameter.fill_(math.nan)
    assert torch.equal(reference, model.sample(conditions(8), seeded()))


def test_target_stays_in_eval_mode_and_in_the_checkpoint(context):
    model = build(context()).train()
    assert model.training and not model.jepa_target.training
    assert not model.eval().training
    assert "jepa_target.trunk.blocks.0.qkv.weight" in model.state_dict()


@pytest.mark.parametrize("change", [{"weight": 3.0}, {"layers": (1,)}, {"input": "latents"}])
def test_every_option_changes_the_loss(context, conditions, perturb, seeded, change):
    def loss(**settings):
        return perturb(build(context(), **settings)).training_loss(some_codes(), conditions(8), seeded())[0].item()

    assert loss() == loss()
    assert loss() != pytest.approx(loss(**change), abs=1e-4)


def test_monitors_tell_a_collapse(seeded):
    spread = [normalise(torch.randn(64, 6, 32, generator=seeded()))]
    collapsed = [spread[0][:1, :1].expand(64, 6, 32) + 1e-3 * spread[0]]
    loss = torch.tensor(1.0)
    healthy, dead = collapse_monitors(loss, spread), collapse_monitors(loss, collapsed)
    assert healthy["target_std"] > 0.9 and dead["target_std"] < 0.01
    assert abs(healthy["target_cosine"]) < 0.1 and dead["target_cosine"] > 0.99
    assert healthy["jepa_over_variance"].item() == pytest.approx(1, abs=0.1) and dead["jepa_over_variance"] > 1e3


def test_targets_that_know_their_position_only_are_a_collapse(seeded):
    own = normalise(torch.randn(64, 6, 32, generator=seeded()))
    position = own[:1].expand(64, 6, 32)
    loss = torch.tensor(0.5)
    assert position.flatten(0, 1).std(dim=0).mean() > 0.8  # over images and positions it would look healthy
    dead, healthy = collapse_monitors(loss, [position, position]), collapse_monitors(loss, [own, own])
    assert dead["target_std"] < 1e-6 < 0.9 < healthy["target_std"]
    assert dead["jepa_over_variance"] > 1e6 and healthy["jepa_over_variance"].item() == pytest.approx(0.5, abs=0.05)
    half = collapse_monitors(loss, [own, position])  # one dead layer of two shows in the mean
    assert half["target_std"].item() == pytest.approx(healthy["target_std"].item() / 2, abs=1e-4)


def test_one_batch_is_overfitted(context, conditions, train, seeded):
    model = build(context())
    losses = train(model, some_codes(), conditions(8), steps=300)
    _, logs = model.training_loss(some_codes(), conditions(8), seeded())
    assert np.mean(losses[-20:]) < 0.25 * losses[0]
    assert logs["cross_entropy"] < 0.2
    assert logs["jepa_over_variance"] < 0.7


def test_wrong_settings_are_refused(context):
    with pytest.raises(ValueError, match="must name blocks from 0 to 1"):
        build(context(), layers=(2,))
    with pytest.raises(ValueError, match="half_life"):
        build(context(), half_life=0.1)
    with pytest.raises(ValueError, match="weight"):
        build(context(), weight=-1.0)
    with pytest.raises(ValueError, match="input"):
        build(context(), input="pixels")
    with pytest.raises(ValueError, match="target=states is unknown"):
        MaskGITJEPAConfig(target="states").validate()
    with pytest.raises(ValueError, match="predictor=mlpp is unknown"):
        MaskGITJEPAConfig(predictor="mlpp").validate()


# Controls ------------------------------------------------------------------------------------------


def test_partners_are_others_of_the_same_composition(conditions, seeded):
    classes = torch.cat([conditions(24).classes, torch.tensor([[2, 2, 2]])])  # the last has its composition for itself
    partners = partners_within(classes, seeded())
    assert torch.equal(classes[partners], classes)
    assert torch.equal(partners.sort().values, torch.arange(25))
    assert (partners[:24] != torch.arange(24)).all() and partners[24] == 24
    assert torch.equal(partners, partners_within(classes, seeded()))
    assert not torch.equal(partners, partners_within(classes, seeded(1)))


def test_shuffled_targets_are_states_of_partners(context, conditions, perturb, seeded):
    model = perturb(build(context(), target="shuffled"))
    codes, condition = some_codes(16), conditions(16)
    own = model.target_states(codes, condition)
    partners = partners_within(condition.classes, seeded())
    for layer, shuffled in zip(own, model.targets(codes, condition, seeded()), strict=True):
        assert torch.equal(shuffled, layer[partners]) and not torch.allclose(shuffled, layer)


def test_a_frozen_target_stays_while_the_model_learns(context, conditions, train):
    model = build(context(), target="frozen")
    before = {name: value.clone() for name, value in model.jepa_target.state_dict().items()}
    start = model.head.weight.detach().clone()
    train(model, some_codes(), conditions(8), steps=3)
    assert all(torch.equal(value, before[name]) for name, value in model.jepa_target.state_dict().items())
    assert not torch.equal(model.head.weight, start)


def test_a_frozen_targets_states_are_embeddings_with_their_position(context, conditions):
    """The gates of a fresh network are zero, so that no block does anything: what the control predicts is nothing deeper."""
    model, codes = build(context(), target="frozen"), some_codes()
    target = model.jepa_target
    embedded = target.embed_token(codes) + target.trunk.position
    conditions_of_others = conditions(8)
    conditions_of_others.values = conditions_of_others.values.flip(0)
    conditions_of_others.classes = conditions_of_others.classes.flip(0)
    for condition in (conditions(8), conditions_of_others):
        states = model.target_states(codes, condition)
        assert len(states) == 2 and all(torch.equal(layer, normalise(embedded)) for layer in states)
    between_images = states[0].var(dim=0).mean() / states[0].flatten(0, 1).var(dim=0).mean()
    assert between_images < 0.05  # the rest is position


def test_codebook_targets_are_clean_vectors_from_the_last_block(context, conditions, perturb, seeded):
    model = perturb(build(context(), target="codebook", layers=(0,), weight=0.6))
    codes, condition = some_codes(), conditions(8)
    assert model.layers == (1,) and model.jepa_target is None
    mask = sample_mask(8, 6, model.context.masking, seeded())
    hidden, (last,) = model.states(codes, mask, condition, (1,))
    error = (model.predictors[0](last) - model.context.codebook[codes]).square().mean(-1)  # (B, N)
    expected = torch.stack([row[masked].mean() for row, masked in zip(error, mask, strict=True)]).mean()
    loss, logs = model.training_loss(codes, condition, seeded())
    torch.testing.assert_close(logs["jepa"], expected)
    torch.testing.assert_close(loss, model.code_loss(hidden, codes, mask)[0] + 0.6 * expected)


@pytest.mark.parametrize("shape", [{"layers": (0, 1)}, {"layers": (1,), "predictor": "linear"}])
def test_second_masks_cost_what_the_state_loss_costs(context, conditions, seeded, shape):
    """The same operations, to a hundredth: the batch is large so that rounding to whole samples does not matter."""

    def flops(target):
        model = build(context(), target=target, **shape)
        with FlopCounterMode(display=False) as counter:
            model.training_loss(some_codes(256), conditions(256), seeded())[0].backward()
        return counter.get_total_flops()

    assert flops("none") == pytest.approx(flops("average"), rel=0.01)


def test_second_masks_are_maskgits_own_loss_over_more_masks(context, conditions, perturb, seeded):
    model = perturb(build(context(), target="none"))
    assert model.jepa_target is None and not list(model.predictors.parameters())
    codes, condition, generator = some_codes(), conditions(8), seeded()
    masks = [sample_mask(8, 6, model.context.masking, generator) for _ in range(2)]
    extra = round(8 * model.second_share)
    again = [int(index / model.second_share) for index in range(extra)]
    assert 1 < extra < 8 and len(set(again)) == extra and max(again) < 8
    losses = []
    for row, mask in [*enumerate(masks[0]), *((row, masks[1][row]) for row in again)]:
        one = type(condition)(*(part[row : row + 1] for part in vars(condition).values()))
        hidden, _ = model.states(codes[row : row + 1], mask[None], one)
        losses.append(model.code_loss(hidden, codes[row : row + 1], mask[None])[0])
    loss, logs = model.training_loss(codes, condition, seeded())
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    assert "jepa" not in logs
    plain = MaskGIT(MaskGITConfig(), context())
    assert model.target_share() == pytest.approx(plain.target_share() * (1 + model.second_share))


@pytest.mark.parametrize("target", ["shuffled", "frozen", "codebook", "none"])
def test_controls_train_sample_and_compile(context, conditions, train, seeded, target):
    model = build(context(), target=target)
    losses = train(model, some_codes(16), conditions(16), steps=20)
    assert np.mean(losses[-5:]) < 0.95 * losses[0]
    assert model.sample(conditions(8), seeded()).shape == (8, 6)
    model.compile_networks()
    assert not any(name.startswith("predictors.") for name in model.averaged_parameters())


def test_a_linear_predictor_is_one_layer(context):
    model = build(context(), predictor="linear")
    assert all(isinstance(each, torch.nn.Linear) for each in model.predictors)
    assert [tuple(each.weight.shape) for each in model.predictors] == [(32, 32)] * 2
