"""Factors, compositions, splits and levels: the vocabulary that all four rooms share.

A *composition* is one class per factor, written as digits in the dataset's factor order (``"011"``). A *split* names
the compositions a generator trains on; the *level* of any composition is its Hamming distance to the nearest of them
(Farid et al. 2025, section on data; Okawa et al. 2023). This module imports no torch, so that every command can use it.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

Composition = str


@dataclass(frozen=True)
class Factor:
    """A named property with classes and, where it has one, a real value behind each class.

    A factor of one class is a nuisance that the model is told: it has values, but writes no digit and nobody judges it.
    """

    name: str
    classes: tuple[str, ...]
    centres: tuple[tuple[float, ...], ...] = ()  # one real vector a class; empty for a categorical factor

    @property
    def dim(self) -> int:
        """Number of real values behind the factor (0 for a categorical one)."""
        return len(self.centres[0]) if self.centres else 0

    @property
    def categorical(self) -> bool:
        """Whether the factor has classes only."""
        return not self.centres


@dataclass(frozen=True)
class FactorSpace:
    """The factors of a dataset, in the order in which a composition writes its digits; nuisances stand last."""

    factors: tuple[Factor, ...]

    def __post_init__(self) -> None:
        counts = [len(factor.classes) > 1 for factor in self.factors]
        if counts != sorted(counts, reverse=True):
            raise ValueError(f"factors of one class must stand last: {', '.join(self.names)}")

    @property
    def controlled(self) -> FactorSpace:
        """Without nuisances: what judges read. Its classes and values are the first columns of the whole space's."""
        return FactorSpace(tuple(factor for factor in self.factors if len(factor.classes) > 1))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(factor.name for factor in self.factors)

    @property
    def num_factors(self) -> int:
        return len(self.factors)

    @property
    def num_values(self) -> int:
        """V: the real values of all factors, concatenated in factor order."""
        return sum(factor.dim for factor in self.factors)

    @property
    def compositions(self) -> tuple[Composition, ...]:
        """Every composition, in lexicographic order."""
        digits = (range(len(factor.classes)) for factor in self.factors if len(factor.classes) > 1)
        return tuple("".join(map(str, combination)) for combination in itertools.product(*digits))

    @property
    def value_slices(self) -> tuple[slice, ...]:
        """Where each factor's values stand among the V concatenated ones."""
        ends = list(itertools.accumulate((factor.dim for factor in self.factors), initial=0))
        return tuple(slice(start, stop) for start, stop in itertools.pairwise(ends))

    def class_indices(self, composition: Composition) -> tuple[int, ...]:
        """Class index of each factor, (F,)."""
        return tuple(map(int, composition)) + (0,) * (self.num_factors - len(composition))

    def centre(self, composition: Composition) -> tuple[float, ...]:
        """The class centres behind a composition, (V,)."""
        pairs = zip(self.factors, self.class_indices(composition), strict=True)
        return tuple(value for factor, index in pairs if factor.centres for value in factor.centres[index])

    def describe(self, composition: Composition) -> str:
        """A composition in words: ``"circle blue small"``."""
        pairs = zip(self.factors, composition, strict=False)  # nuisances write no digit
        return " ".join(factor.classes[int(digit)] for factor, digit in pairs)


@dataclass
class SplitConfig:
    """Which compositions a generator trains on."""

    train: str = "h32"  # h32 | leave-one-out | compositions with commas; h32 is Okawa et al. 2023, H32-train1
    base: str = "000"  # the corner that a named split starts from


def resolve_split(split: SplitConfig, space: FactorSpace) -> tuple[Composition, ...]:
    """The training compositions that a split names, sorted.

    ``h32`` is the base corner and its neighbours at distance one; ``leave-one-out`` is everything but the corner
    opposite to the base.

    Raises:
        ValueError: for an unknown name, a composition that the factors do not have, or an empty list.
    """
    known = space.compositions
    if split.base not in known:
        raise ValueError(
            f"split.base={split.base} is no composition of {', '.join(space.names)}; use one of {', '.join(known)}"
        )
    if split.train == "h32":
        return tuple(c for c in known if hamming(c, split.base) <= 1)
    if split.train == "leave-one-out":
        farthest = max(hamming(c, split.base) for c in known)
        return tuple(c for c in known if hamming(c, split.base) < farthest)
    wanted = tuple(sorted({part.strip() for part in split.train.split(",") if part.strip()}))
    unknown = [c for c in wanted if c not in known]
    if unknown or not wanted:
        raise ValueError(
            f"split.train={split.train} is neither h32, leave-one-out nor a list of compositions such as 000,001,010"
        )
    return wanted


def hamming(first: Composition, second: Composition) -> int:
    """Number of factors in which two compositions differ."""
    return sum(a != b for a, b in zip(first, second, strict=True))


def level(composition: Composition, train: tuple[Composition, ...]) -> int:
    """Hamming distance to the nearest training composition: 0 is seen, 1 and 2 are novel."""
    return min(hamming(composition, seen) for seen in train)


def seed_for(*parts: int | str) -> int:
    """A 63-bit seed that is a stable function of its parts, for ``torch.Generator.manual_seed``.

    Every stream of random numbers in the suite is named (``seed_for(seed, "step", 17)``), so that no stream depends on
    how many numbers another one has drawn: that is what makes a resumed run equal to an uninterrupted one.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
