"""What a model is told: every switch changes what it should, and nothing else."""

import pytest
import torch

from architectures.conditioning import Condition, ConditionEmbedder, ConditioningConfig, drop_factors
from datasets.factors import Factor, FactorSpace

SPACE = FactorSpace(
    (
        Factor("shape", ("circle", "triangle")),
        Factor("colour", ("red", "blue"), ((0.9, 0.1, 0.1), (0.1, 0.1, 0.9))),
        Factor("size", ("large", "small"), ((7.0,), (4.5,))),
    )
)


def embedder(**settings):
    torch.manual_seed(0)
    return ConditionEmbedder(SPACE, ConditioningConfig(**settings), 16)


def told(shape=0, colour=(0.9, 0.1, 0.1), size=7.0, colour_class=0, size_class=0):
    return Condition.of(torch.tensor([[shape, colour_class, size_class]]), torch.tensor([[*colour, size]]))


@pytest.mark.parametrize("kind, tokens", [("per_factor", 3), ("joint", 1)])
def test_shapes(kind, tokens):
    assert embedder(embedder=kind)(told()).shape == (1, tokens, 16)


@pytest.mark.parametrize("kind", ["per_factor", "joint"])
def test_full_information_tells_values_within_a_class_apart(kind):
    embed = embedder(information="full", embedder=kind)
    assert not torch.equal(embed(told(size=7.0)), embed(told(size=6.6)))
    assert not torch.equal(embed(told(shape=0)), embed(told(shape=1)))


@pytest.mark.parametrize("information", ["centres", "quantized"])
@pytest.mark.parametrize("kind", ["per_factor", "joint"])
def test_less_information_tells_only_classes_apart(information, kind):
    embed = embedder(information=information, embedder=kind)
    assert torch.equal(embed(told(size=7.0)), embed(told(size=6.6, colour=(0.8, 0.2, 0.1))))
    assert not torch.equal(embed(told(size_class=0)), embed(told(size_class=1)))


@pytest.mark.parametrize("kind", ["per_factor", "joint"])
def test_centres_are_full_information_at_the_centres(kind):
    full, centres = embedder(information="full", embedder=kind), embedder(information="centres", embedder=kind)
    centres.load_state_dict(full.state_dict())
    torch.testing.assert_close(full(told()), centres(told(size=6.5)))


def test_one_factor_changes_one_token():
    embed = embedder(embedder="per_factor")
    changed = (embed(told()) != embed(told(size=5.0))).any(-1)[0]
    assert changed.tolist() == [False, False, True]


@pytest.mark.parametrize("information", ["full", "centres", "quantized"])
@pytest.mark.parametrize("kind", ["per_factor", "joint"])
def test_a_hidden_factor_has_no_influence_and_a_learned_null(information, kind):
    embed = embedder(information=information, embedder=kind)
    with torch.no_grad():
        for null in embed.nulls:
            null.fill_(0.3)
    for factor, other in enumerate(
        [told(shape=1), told(colour=(0.1, 0.1, 0.9), colour_class=1), told(size=4.5, size_class=1)]
    ):
        hidden = [Condition(c.classes, c.values, torch.arange(3)[None] != factor) for c in (told(), other)]
        torch.testing.assert_close(embed(hidden[0]), embed(hidden[1]))
        assert not torch.equal(embed(hidden[0]), embed(told()))


@pytest.mark.parametrize("information", ["full", "centres", "quantized"])
@pytest.mark.parametrize("kind", ["per_factor", "joint"])
def test_a_null_learns_where_its_factor_is_hidden_and_nowhere_else(information, kind):
    for hidden in range(3):
        embed = embedder(information=information, embedder=kind)
        present = torch.arange(3)[None] != hidden
        embed(Condition(told().classes, told().values, present)).square().sum().backward()
        found = null_gradients(embed)
        assert len(found) == 3
        assert [gradient.abs().sum() > 0 for gradient in found.values()] == [factor == hidden for factor in range(3)]
        assert found[list(found)[hidden]].count_nonzero() == found[list(found)[hidden]].numel()


def null_gradients(embed: ConditionEmbedder) -> dict[str, torch.Tensor]:
    """The gradient of what stands for each hidden factor, by the name of its parameter: an input, or a table's last row."""
    parameters, found, column = dict(embed.named_parameters()), {}, 0
    for index, as_class in enumerate(embed.categorical):
        size = embed.class_counts[index] + 1 if as_class else len(parameters[f"nulls.{index}"])
        column += size  # of the joint embedder's first layer, which has the table's rows side by side
        if not as_class:
            found[f"nulls.{index}"] = parameters[f"nulls.{index}"].grad
        elif embed.config.embedder == "joint":
            found[f"embedders.0.0.weight[:, {column - 1}]"] = parameters["embedders.0.0.weight"].grad[:, column - 1]
        else:
            found[f"embedders.{index}.weight[:, -1]"] = parameters[f"embedders.{index}.weight"].grad[:, -1]
    return found


def test_factors_are_dropped_one_by_one():
    many = told()
    many = Condition(*(part.expand(10_000, -1) for part in (many.classes, many.values, many.present)))
    dropped = ~drop_factors(many, 0.1, torch.Generator().manual_seed(0)).present
    sigma = (0.1 * 0.9 / 10_000) ** 0.5
    assert ((dropped.float().mean(0) - 0.1).abs() < 4 * sigma).all()
    assert abs(float(dropped.all(1).float().mean()) - 0.001) < 0.001  # one coin for all would give .1
    assert drop_factors(many, 0.0, torch.Generator()).present.all()


@pytest.mark.parametrize("key", ["information", "embedder", "injection"])
def test_an_unknown_choice_is_named(key):
    with pytest.raises(ValueError, match=f"conditioning.{key}=wrong"):
        ConditioningConfig(**{key: "wrong"}).validate()
