"""Drawn faces: functions of (seed, index), nuisances that say nothing of the factors, and pixels that say them plainly."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.faces.cells import CURVES, HAIR, WIDTHS, space_of
from datasets.faces.decode import decode
from datasets.faces.drawn import HEIGHT, WIDTH, encode, paint
from datasets.faces.people import GROUPS, NUISANCES, STILL, draw_people


@pytest.fixture(scope="module")
def people():
    return draw_people(0, range(8000))


def pixels(people, row):
    return np.asarray(paint(people, row), float) / 255


def test_a_face_is_a_function_of_seed_and_index(people):
    other = draw_people(0, [77, 5])
    for field in ("classes", "values", "nuisances"):
        assert torch.equal(getattr(other, field), getattr(people, field)[[77, 5]])
    assert encode(paint(other, 1)) == encode(paint(people, 5))
    assert not torch.equal(draw_people(1, [5]).nuisances, people.nuisances[5:6])
    assert paint(people, 5).size == (WIDTH, HEIGHT) == (178, 218)


def test_compositions_take_turns(people):
    space = space_of(drawn=True)
    shown = ["".join(map(str, row)) for row in people.classes[:16].tolist()]
    assert shown == [*space.compositions, *space.compositions]
    assert space.centre("010") == (0.0, *HAIR["black"])


def test_nuisances_do_not_depend_on_the_factors_or_on_each_other(people):
    assert people.nuisances.shape == (8000, len(NUISANCES))
    told = torch.cat([people.classes.double(), people.values.double(), people.nuisances], 1)
    correlation = torch.corrcoef(told.T)[7:]
    correlation[:, 7:].fill_diagonal_(0)
    assert correlation.abs().max() < 0.055  # 5 standard errors
    assert (people.nuisances.mean(0) - 0.5).abs().max() < 0.02


def test_what_is_switched_off_stays_in_the_middle_and_the_rest_as_it_was(people):
    still = draw_people(0, range(64), ("hair", "mouth"))
    varies = [name in {*GROUPS["hair"], *GROUPS["mouth"]} for name in NUISANCES]
    assert torch.equal(still.nuisances[:, varies], people.nuisances[:64, varies])
    assert (still.nuisances[:, [not each for each in varies]] == STILL).all() and sum(varies) == 10
    assert torch.equal(still.values, people.values[:64])
    faces = np.stack([pixels(draw_people(0, range(64), ()), row) for row in range(0, 64, 8)])
    assert np.ptp(faces, axis=0)[:40].max() < 1e-9  # of one composition, above the hair: one ground
    assert np.ptp(np.stack([pixels(people, row) for row in range(0, 64, 8)]), axis=0)[:40].max() > 0.2


def test_values_spread_around_the_centre_of_their_class(people):
    space = space_of(drawn=True)
    centres = torch.tensor([space.centre("".join(map(str, row))) for row in people.classes[:8].tolist()])
    away = people.values - centres.repeat(1000, 1)
    assert (away.abs() <= torch.tensor(WIDTHS) + 1e-6).all()
    assert (away.abs().amax(0) > 0.95 * torch.tensor(WIDTHS)).all()
    assert CURVES["smiling"] - CURVES["neutral"] > 2 * WIDTHS[0]


@pytest.mark.parametrize("changed", [1, 2])
def test_smile_and_hair_change_nothing_else(people, changed):
    """The same nuisances with another smile or another colour of hair: only mouth, or only hair, is painted anew."""
    for row in range(0, 24, 3):
        values = people.values.clone()
        if changed == 1:
            values[row, 0] = 0.6 if people.values[row, 0] < 0.3 else 0.0
        else:
            values[row, 1:] = 1 - values[row, 1:]
        twin = type(people)(people.classes, values, people.nuisances)
        differs = (pixels(people, row) != pixels(twin, row)).any(-1)
        moved = differs.mean()
        if changed == 1:
            rows, columns = np.nonzero(differs)
            assert 0.002 < moved < 0.05 and rows.min() > 120 and columns.min() > 50 and columns.max() < 128
        else:
            assert moved > 0.06


def test_hair_of_every_face_can_be_read_from_its_pixels(people):
    """At least a twenty-fifth of the square in the middle has the colour in the values."""
    for row in range(48):
        near = np.abs(pixels(people, row)[20:198] - people.values[row, 1:].numpy()).max(-1) < 0.01
        assert near.mean() > 0.04


def test_jpeg_changes_little():
    people = draw_people(3, range(4))
    for row in range(4):
        whole = decode(encode(paint(people, row)), 178).astype(float).transpose(1, 2, 0) / 255
        assert np.abs(whole - pixels(people, row)[20:198]).mean() < 0.02


def test_the_middle_square_is_scaled_with_antialiasing():
    stripes = np.zeros((218, 178, 3), np.uint8)
    stripes[20:198, ::2] = 255  # what is cut off above and below is black
    file = io.BytesIO()
    Image.fromarray(stripes).save(file, "PNG")
    assert np.abs(decode(file.getvalue(), 32).astype(float) - 127.5).max() < 8


def test_a_smaller_square_is_cut_out_of_the_same_middle():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)).save(file, "PNG")
    whole, middle = decode(file.getvalue(), 178), decode(file.getvalue(), 128, crop=128)
    assert np.array_equal(middle, whole[:, 25:153, 25:153])
