"""The strict judge: it reads what real images show, measures what was drawn, and rejects everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from datasets.factors import Factor, FactorSpace
from datasets.shapes2d import COLOURS, INRADIUS, SHAPES, Shapes2D, Shapes2DConfig
from probes.evaluation import accuracy
from probes.judgement import Reason
from probes.negatives import Negatives, blur
from probes.strict import CHUNK, StrictShapes2D, Thresholds, render, two_largest_blobs

RED, BLUE = COLOURS.values()
KINDS = ("blend", "hue", "shape", "size", "two objects", "half", "blur", "blank", "noise")
MOST_ACCEPTED = 0.01
# Half-way shapes are one more kind than the rule asks for. At the laptop's geometry 2 % of the small ones pass as one of
# the two: 203 of 20000 in all. Thresholds are frozen, so this is a limit on what is known and not a wish.
HALF_WAY_AT_LAPTOP = 0.02


def test_real_images_are_accepted_and_read_right(world) -> None:
    said = world.judge.judge(world.images)
    for composition in world.space.compositions:
        rows = (world.classes == torch.tensor(world.space.class_indices(composition))).all(1)
        assert rows.sum() == 128
        assert said.accepted[rows].float().mean() >= 0.99, composition
    assert torch.equal(said.classes[said.accepted], world.classes[said.accepted])
    assert min(accuracy(world.judge, world.images, world.classes, world.space).values()) >= 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_negatives_are_rejected(world, kind, seeded) -> None:
    images = Negatives(world.judge, seeded(11)).kinds[kind](500)
    assert images.shape == (500, *world.data.image_shape)
    limit = HALF_WAY_AT_LAPTOP if (world.name, kind) == ("laptop", "shape") else MOST_ACCEPTED
    assert world.judge.judge(images).accepted.float().mean() <= limit


def test_no_kind_of_negative_is_forgotten(laptop, seeded) -> None:
    assert tuple(Negatives(laptop.judge, seeded()).kinds) == KINDS


def test_negatives_differ_from_real_images_only_in_what_makes_them_so(world, seeded) -> None:
    """What negatives are made from is accepted, so that nothing else rejects them."""
    negatives = Negatives(world.judge, seeded(3))
    scene = negatives.scene(256)
    said = world.judge.judge(negatives.draw(scene))
    assert said.accepted.float().mean() >= 0.99
    assert torch.equal(said.classes, scene.classes)


@pytest.mark.parametrize("factor", range(3), ids=["shape", "colour", "size"])
def test_changing_one_property_changes_exactly_that_reading(world, factor, seeded) -> None:
    space = world.space
    for composition in space.compositions:
        digits = list(composition)
        digits[factor] = "10"[int(digits[factor])]
        other = "".join(digits)
        values = world.data.draw_values(composition, 16, seeded(5))
        changed = values.clone()
        place = space.value_slices[factor]
        changed[:, place] = world.data.draw_values(other, 16, seeded(6))[:, place]
        before, after = (
            world.judge.judge(draw(world.data, asked, column))
            for asked, column in ((composition, values), (other, changed))
        )
        assert before.accepted.all() and after.accepted.all()
        differs = before.classes != after.classes
        assert differs[:, factor].all()
        assert differs.sum() == 16, "nothing else is read anew"


def test_moving_an_object_changes_no_reading(laptop, seeded) -> None:
    values = laptop.data.draw_values("101", 64, seeded(7))
    classes = torch.tensor([[1, 0, 1]]).expand(64, -1)
    positions = laptop.data.draw_positions(values, classes, seeded(8))
    said = laptop.judge.judge(laptop.data.render(values, classes, positions))
    assert said.accepted.all()
    assert (said.classes == classes).all()
    # Positions are drawn from the frame's centre, y up; measured from its corner, y down.
    torch.testing.assert_close(said.measurements["x"], 16 + positions[:, 0], rtol=0, atol=0.1)
    torch.testing.assert_close(said.measurements["y"], 16 - positions[:, 1], rtol=0, atol=0.1)


def test_measured_values_are_the_true_ones(world) -> None:
    said = world.judge.judge(world.images)
    error = (said.values - world.values).abs()
    assert error[:, :3].max() < 0.01  # images have 256 levels
    assert error[:, 3].max() < 0.08  # px
    assert error[:, 3].mean() < 0.01
    for column, name in enumerate(("red", "green", "blue", "radius")):
        assert torch.equal(said.values[:, column], said.measurements[name])


def test_all_raw_measurements_are_kept(laptop) -> None:
    said = laptop.judge.judge(laptop.images[:8])
    names = {"background", "background_noise", "contrast", "second_object", "stray", "softness", "x", "y", "radius"}
    assert names | {"red", "green", "blue", "overlap_circle", "overlap_triangle"} == said.measurements.keys()
    assert all(v.shape == (8,) and v.dtype == torch.float32 and v.isfinite().all() for v in said.measurements.values())


def test_verdicts_follow_from_the_measurements(laptop) -> None:
    """Thresholds can be drawn anew from what is kept."""
    softest = laptop.judge.judge(laptop.images).measurements["softness"]
    limit = float(softest.median())
    strict = StrictShapes2D(laptop.space, laptop.data.judge_geometry(), replace(Thresholds(), softness=limit))
    said = strict.judge(laptop.images)
    assert torch.equal(said.reasons == Reason.BLURRED, softest > limit)
    assert torch.equal(said.accepted, softest <= limit)


# -- reasons ----------------------------------------------------------------------------------------------------------


def draw(data: Shapes2D, composition: str, values: Tensor, at: tuple[float, float] | None = None) -> Tensor:
    classes = torch.tensor([data.space.class_indices(composition)]).expand(len(values), -1)
    return data.render(values, classes, None if at is None else torch.tensor([at]).expand(len(values), -1))


def one(data: Shapes2D, shape: int, rgb: tuple[float, ...], radius: float, at: tuple[float, float] = (0, 0)) -> Tensor:
    """An image (1, 3, H, W) of exactly this; ``at`` in pixels from the middle."""
    return draw(data, f"{shape}00", torch.tensor([[*rgb, radius]]), at)


def two_colours(data: Shapes2D) -> Tensor:
    red, blue = one(data, 0, RED, 7), one(data, 0, BLUE, 7)
    return torch.cat([red[..., :16], blue[..., 16:]], -1)


REJECTED: dict[Reason, Callable[[Shapes2D], Tensor]] = {
    Reason.BACKGROUND: lambda data: one(data, 0, RED, 7) - 0.5,
    Reason.NO_OBJECT: lambda data: torch.ones(1, 3, 32, 32),
    Reason.TWO_OBJECTS: lambda data: torch.minimum(one(data, 0, RED, 4.5, (-7, 0)), one(data, 0, RED, 4.5, (7, 0))),
    Reason.WRONG_COLOURS: two_colours,
    Reason.BLURRED: lambda data: blur(one(data, 0, RED, 7), 2.0),
    Reason.COLOUR_BETWEEN_CLASSES: lambda data: one(data, 0, (0.5, 0.1, 0.5), 7),
    Reason.OFF_CENTRE: lambda data: one(data, 0, RED, 4.5, (9, 0)),
    Reason.SIZE_BETWEEN_CLASSES: lambda data: one(data, 0, RED, 5.75),
    Reason.SHAPE_UNCLEAR: lambda data: torch.where(torch.arange(32)[:, None] < 16, one(data, 0, RED, 7.5), 1.0),
}


@pytest.mark.parametrize("reason", REJECTED, ids=lambda reason: reason.words)
def test_each_reason_can_be_given(laptop, reason) -> None:
    said = laptop.judge.judge(REJECTED[reason](laptop.data))
    assert Reason(int(said.reasons[0])) is reason
    assert not said.accepted[0]


def test_every_reason_was_tried() -> None:
    """Those after the first ten are reasons for clips."""
    assert {Reason.NONE, *REJECTED} == {reason for reason in Reason if reason < Reason.VANISHES}


def test_what_the_rejected_images_are_made_of_is_accepted(laptop) -> None:
    images = torch.cat([one(laptop.data, shape, rgb, r) for shape in (0, 1) for rgb in (RED, BLUE) for r in (7, 4.5)])
    assert laptop.judge.judge(images).reasons.tolist() == [Reason.NONE] * 8


def test_the_first_reason_stands(laptop) -> None:
    """A grey frame around a blurred, purple, off-centre object is called by its background."""
    image = blur(one(laptop.data, 0, (0.5, 0.1, 0.5), 5.75, (9, 0)), 2.0)
    assert laptop.judge.judge(image).reasons[0] == Reason.BLURRED
    assert laptop.judge.judge(image - 0.5).reasons[0] == Reason.BACKGROUND


def test_slightly_soft_or_noisy_images_still_pass(world, seeded) -> None:
    """Decoders blur and add noise; up to a point that is not the generator's fault."""
    soft = blur(world.images, 0.5)
    noisy = world.images + 0.04 * torch.randn(world.images.shape, generator=seeded(9))
    for images in (soft, noisy):
        assert min(accuracy(world.judge, images, world.classes, world.space).values()) >= 0.99


# -- what it is made for ----------------------------------------------------------------------------------------------


def test_thresholds_are_frozen_under_their_version(laptop) -> None:
    """Whoever moves a threshold gives it a new version, and a new line here."""
    frozen = {
        "shapes2d-1": (0.15, 0.15, 0.45, 0.12, 0.30, 4.5, 0.6, 0.5, 0.1, 0.83, 0.11),
    }
    version, *numbers = vars(Thresholds()).values()
    assert frozen[version] == tuple(numbers)
    assert laptop.judge.version == version
    own = StrictShapes2D(laptop.space, laptop.data.judge_geometry(), Thresholds(version="mine", stray=0.1))
    assert own.version == "mine"


def test_an_image_is_read_alike_alone_and_among_others(laptop, seeded) -> None:
    odd = Negatives(laptop.judge, seeded(1)).two_objects(CHUNK)
    images = torch.stack([laptop.images[:CHUNK], odd], 1).flatten(0, 1)[: CHUNK + 9]
    together = laptop.judge.judge(images)
    for index in (0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 8):
        alone = laptop.judge.judge(images[index : index + 1])
        assert torch.equal(alone.classes[0], together.classes[index])
        assert alone.reasons[0] == together.reasons[index]
        for name, value in alone.measurements.items():
            torch.testing.assert_close(value[0], together.measurements[name][index], rtol=1e-4, atol=1e-4)


def test_values_beyond_the_range_are_clipped(laptop) -> None:
    strong = 1.5 * laptop.images[:64]
    assert torch.equal(laptop.judge.judge(strong).values, laptop.judge.judge(strong.clamp(-1, 1)).values)


def test_factors_are_read_in_the_order_of_the_space(laptop) -> None:
    shape, colour, size = laptop.space.factors
    turned = FactorSpace((size, shape, colour))
    said = StrictShapes2D(turned, laptop.data.judge_geometry()).judge(laptop.images[:64])
    assert torch.equal(said.classes, laptop.classes[:64][:, [2, 0, 1]])
    assert (said.values - laptop.values[:64][:, [3, 0, 1, 2]]).abs().max() < 0.08


def test_squares_are_read_where_the_dataset_has_them(tmp_path) -> None:
    config = Shapes2DConfig(square=True)
    data = Shapes2D(config, seed=0, folder=tmp_path)
    images, _, classes = data.draw_block("test", 0)
    judge = StrictShapes2D(data.space, data.judge_geometry())
    shares = accuracy(judge, images.float().div(127.5).sub(1), classes, data.space)
    assert len(shares) == 12
    assert min(shares.values()) >= 0.99


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ((Factor("shape", ("circle",)), Factor("colour", ("red",), (RED,))), "factor size"),
        (
            (
                Factor("shape", ("circle", "star")),
                Factor("colour", ("red", "blue"), (RED, BLUE)),
                Factor("size", ("large", "small"), ((7.0,), (4.0,))),
            ),
            "template for the shape star",
        ),
    ],
)
def test_other_factors_are_refused(laptop, factors, words) -> None:
    with pytest.raises(ValueError, match=words):
        StrictShapes2D(FactorSpace(factors), laptop.data.judge_geometry())


def test_an_incomplete_geometry_is_refused(laptop) -> None:
    geometry = laptop.data.judge_geometry()
    del geometry["size_jitter"]
    with pytest.raises(ValueError, match="size_jitter"):
        StrictShapes2D(laptop.space, geometry)


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [0, 1, 2], ids=SHAPES)
def test_templates_have_the_area_of_their_circle(shape, seeded) -> None:
    """On average over all places on the pixel grid, and but for the soft edge.

    An edge of width 1 averages the areas, k d^2, of outlines at inradius d - 1/2 to d + 1/2, which adds k / 12.
    """
    x, y = 16 + torch.rand(2, 2000, generator=seeded())
    for radius in (3.0, 5.0):
        covered = render(SHAPES[shape], torch.full((2000,), radius), x, y, 32, 1.0).sum((1, 2)).mean()
        edge = math.pi / INRADIUS[shape] ** 2 / 12
        assert float(covered) == pytest.approx(math.pi * radius**2 + edge, rel=0.001)


def test_templates_are_what_the_dataset_draws(laptop) -> None:
    """Two rasterisers were written apart; on real images they agree."""
    for shape, name in enumerate(laptop.judge.shapes):
        drawn = one(laptop.data, shape, (0.0, 0.0, 0.0), 6.0, (1.3, -2.2))
        template = laptop.judge.template(name, torch.tensor([6.0]), torch.tensor([17.3]), torch.tensor([18.2]))
        torch.testing.assert_close((1 - drawn[:, 0]) / 2, template, rtol=0, atol=1e-5)


def test_blobs_are_counted_within_their_image() -> None:
    strength = torch.zeros(4, 8, 8)
    strength[0, :3, :4] = 1  # 12 pixels, which reach the first row
    strength[0, 6, 6] = 1
    strength[1, :, :2] = 0.9  # where the last image has nothing
    strength[1, 0, 4:] = 0.5
    strength[1, 5:, 5:] = 0.45  # 9 pixels
    strength[3] = 0.4  # not above the limit
    first, second = two_largest_blobs(strength)
    assert first.tolist() == [12, 16, 0, 0]
    assert second.tolist() == [1, 9, 0, 0]
    diagonal = torch.eye(3)[None]
    assert two_largest_blobs(diagonal)[0].tolist() == [1], "corners do not touch"
