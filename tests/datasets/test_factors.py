"""The vocabulary: compositions, splits, levels, seeds."""

import subprocess
import sys

import pytest

from datasets.factors import Factor, FactorSpace, SplitConfig, hamming, level, resolve_split, seed_for

SPACE = FactorSpace(
    (
        Factor("shape", ("circle", "triangle")),
        Factor("colour", ("red", "blue"), ((0.9, 0.1, 0.1), (0.1, 0.1, 0.9))),
        Factor("size", ("large", "small"), ((7.0,), (4.5,))),
    )
)


def test_compositions_are_digits_in_factor_order():
    assert SPACE.compositions == ("000", "001", "010", "011", "100", "101", "110", "111")
    assert SPACE.describe("011") == "circle blue small"
    assert SPACE.class_indices("101") == (1, 0, 1)


def test_values_are_concatenated_without_categorical_factors():
    assert SPACE.num_values == 4
    assert SPACE.value_slices == (slice(0, 0), slice(0, 3), slice(3, 4))
    assert SPACE.centre("011") == (0.1, 0.1, 0.9, 4.5)


def test_h32_is_the_published_split():
    train = resolve_split(SplitConfig(), SPACE)
    assert train == ("000", "001", "010", "100")
    assert {c: level(c, train) for c in SPACE.compositions if c not in train} == {
        "011": 1,
        "101": 1,
        "110": 1,
        "111": 2,
    }


@pytest.mark.parametrize("base", SPACE.compositions)
def test_h32_has_the_same_levels_under_every_base(base):
    train = resolve_split(SplitConfig("h32", base), SPACE)
    levels = [level(c, train) for c in SPACE.compositions]
    assert base in train
    assert sorted(levels) == [0, 0, 0, 0, 1, 1, 1, 2]
    (hardest,) = (c for c in SPACE.compositions if level(c, train) == 2)
    assert hamming(hardest, base) == 3


@pytest.mark.parametrize("base", SPACE.compositions)
def test_leave_one_out_leaves_the_opposite_corner(base):
    train = resolve_split(SplitConfig("leave-one-out", base), SPACE)
    (left_out,) = set(SPACE.compositions) - set(train)
    assert hamming(left_out, base) == 3
    assert level(left_out, train) == 1


def test_a_written_list_is_sorted_and_freed_of_repeats():
    assert resolve_split(SplitConfig(" 110,000, 110"), SPACE) == ("000", "110")


@pytest.mark.parametrize(
    ("split", "word"),
    [
        (SplitConfig("h23"), "split.train=h23"),
        (SplitConfig("000,222"), "split.train=000,222"),
        (SplitConfig(""), "split.train="),
        (SplitConfig("h32", "0000"), "split.base=0000"),
    ],
)
def test_wrong_names_are_told_with_their_key(split, word):
    with pytest.raises(ValueError, match=word):
        resolve_split(split, SPACE)


def test_seeds_are_stable_and_distinct():
    assert seed_for(0, "step", 17) == 5289550233984761898
    assert len({seed_for(seed, "step", step) for seed in range(10) for step in range(100)}) == 1000
    assert seed_for(1, "1") != seed_for(11, "")


def test_the_vocabulary_needs_no_torch():
    command = "import sys, datasets.factors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


def test_a_factor_of_one_class_is_a_nuisance_that_writes_no_digit():
    told = Factor("position", ("any",), ((0.5, 1.5),))
    colour = Factor("colour", ("red", "blue"), ((1.0,), (0.0,)))
    space = FactorSpace((Factor("shape", ("cube", "sphere")), colour, told))
    assert space.compositions == ("00", "01", "10", "11")
    assert space.class_indices("01") == (0, 1, 0) and space.centre("01") == (0.0, 0.5, 1.5)
    assert space.describe("01") == "cube blue"
    assert space.controlled.names == ("shape", "colour") and space.controlled.compositions == space.compositions
    with pytest.raises(ValueError, match="one class must stand last: position, colour"):
        FactorSpace((told, colour))
