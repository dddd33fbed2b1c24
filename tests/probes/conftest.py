"""What tests of judges share: real images in both geometries, and generators to be judged that need no training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datasets.factors import Factor, FactorSpace
from datasets.shapes2d import Shapes2D, Shapes2DConfig
from probes.judgement import Judgement, Reason
from probes.strict import StrictShapes2D

LAPTOP = Shapes2DConfig(resolution=32, radius_large=7.0, radius_small=4.5, position_jitter=4.5)
PUBLISHED = Shapes2DConfig()


@dataclass
class World:
    """A dataset, its strict judge and 128 held-out real images of each composition."""

    name: str
    data: Shapes2D
    judge: StrictShapes2D
    images: Tensor  # (1024, 3, H, W) in [-1, 1]
    values: Tensor  # (1024, 4)
    classes: Tensor  # (1024, 3)

    @property
    def space(self) -> FactorSpace:
        return self.data.space


def make_world(name: str, config: Shapes2DConfig) -> World:
    data = Shapes2D(config, seed=0, folder=Path("unused"))  # blocks are drawn in memory
    images, values, classes = data.draw_block("test", 0)
    judge = StrictShapes2D(data.space, data.judge_geometry())
    return World(name, data, judge, images.float().div(127.5).sub(1), values, classes)


@pytest.fixture(scope="session")
def laptop() -> World:
    return make_world("laptop", LAPTOP)


@pytest.fixture(scope="session")
def published() -> World:
    return make_world("published", PUBLISHED)


@pytest.fixture(params=["laptop", "published"])
def world(request: pytest.FixtureRequest) -> World:
    """Either geometry in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def seeded() -> Callable[..., torch.Generator]:
    """A generator by its seed."""
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture
def obedient(laptop: World) -> Callable[[Tensor, Tensor, torch.Generator], Tensor]:
    """A generator that draws exactly what it is asked for."""
    return lambda classes, values, generator: laptop.data.render(values, classes)


@pytest.fixture
def space() -> FactorSpace:
    """Two factors, one of them with a real value behind it, for tables made by hand."""
    return FactorSpace((Factor("shape", ("circle", "triangle")), Factor("size", ("large", "small"), ((7.0,), (4.0,)))))


class Scripted:
    """A judge that says what it was told to say, whatever the images show."""

    def __init__(
        self, classes: Tensor, name: str = "strict", reasons: Tensor | None = None, values: Tensor | None = None
    ):
        self.name, self.classes, self.values = name, classes, values
        self.reasons = torch.zeros(len(classes), dtype=torch.int64) if reasons is None else reasons
        self.place = 0

    def judge(self, images: Tensor) -> Judgement:
        rows = slice(self.place, self.place + len(images))
        self.place += len(images)
        values = None if self.values is None else self.values[rows]
        return Judgement(
            self.name, self.classes[rows], self.reasons[rows] == Reason.NONE, self.reasons[rows], None, values
        )


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted
