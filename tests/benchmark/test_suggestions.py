"""What a wrong name is answered with: the right one where it is near, and none where none is."""

import pytest

from benchmark.config import nearest
from benchmark.registry import discover
from benchmark.schema import Schema, nearest_key

NAMES = ["dit", "mar", "givt", "maskgit", "maskgit-jepa", "clevrer_kubric"]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("dti", "dit"), ("jepa", "maskgit-jepa"), ("clevr", "clevrer_kubric"), ("gan", None), ("diffusion", None)],
)
def test_only_a_near_name_is_suggested(wrong, right):
    assert nearest(wrong, NAMES).startswith(f"; did you mean '{right}'?" if right else ". Known: dit, mar")


@pytest.fixture(scope="module")
def keys() -> list[str]:
    return Schema(discover()).keys


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("optim.lr", "optimiser.lr"),
        ("architecture.layers", "architecture.maskgit-jepa.layers"),
        ("trainer.steps", "trainer.max_steps"),
        ("width", "trunk.width"),
        ("xyz.lr", None),
        ("tokenizer.lr", None),
        ("seeds.model", None),
        ("banana", None),
    ],
)
def test_only_a_near_key_is_suggested(keys, wrong, right):
    assert nearest_key(wrong, keys) == (f"; did you mean '{right}'?" if right else ".")
