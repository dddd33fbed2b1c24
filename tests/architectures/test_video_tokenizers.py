"""Tokenizers of videos: their grids, which frames a latent step sees, and that folding loses nothing."""

import pytest
import torch

from architectures.tokenizers.folding import Fold, Unfold
from architectures.tokenizers.kl import KLConfig, KLTokenizer
from architectures.tokenizers.vq import VQConfig, VQTokenizer

SHAPE = (8, 3, 16, 16)
TINY = {"patch": 2, "width": 16, "groups": 4, "multipliers": [1, 1], "blocks": 1, "middle": "none", "channels": 4}


def build(name="vq", shape=SHAPE, **settings):
    torch.manual_seed(0)
    if name == "kl":
        return KLTokenizer(KLConfig(**TINY | settings), shape).eval()
    return VQTokenizer(VQConfig(**TINY | {"codes": 16} | settings), shape).eval()


def some_videos(count=4):
    return 2 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0)) - 1


@pytest.mark.parametrize("name", ["kl", "vq"])
@pytest.mark.parametrize(
    ("settings", "grid"),
    [
        ({"patch_frames": 4}, (2, 4, 4)),
        ({"patch_frames": 1, "patch": 4}, (8, 2, 2)),
        ({"patch_frames": 2, "middle": "attention", "attention": [4]}, (4, 4, 4)),
    ],
)
def test_shapes_of_latents_and_videos(name, settings, grid):
    model = build(name, **settings)
    assert model.grid == grid
    latents = next(iter(model.encode(some_videos()).values()))
    assert latents.shape[:2] == (4, grid[0] * grid[1] * grid[2])
    assert model.decode(latents, model.views[0]).shape == (4, *SHAPE)
    loss, _ = model.loss(some_videos(), torch.Generator().manual_seed(0))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (2, 6, 3, 8, 12)])
def test_unfolding_is_the_inverse_of_folding(shape):
    x = torch.randn(shape)
    fold, unfold = Fold(4, 3), Unfold(4, 3)
    folded = fold(x)
    assert folded.shape == (2, fold.channels(shape[1:]), *[2] * (len(shape) - 4), 2, 3)
    assert torch.equal(unfold(folded), x)


def test_a_latent_step_holds_its_own_frames_and_each_pixel_its_place():
    x = torch.zeros(1, *SHAPE)
    x[0, 5, 1, 6, 9] = 1  # frame 5 of 8, green
    (where,) = Fold(2, 4)(x).nonzero()
    _, _, step, row, column = where.tolist()
    assert (step, row, column) == (1, 3, 4)


def test_frames_mix_forwards_and_backwards_in_time():
    """Non-causal: a change in the first frames reaches the last latent step, and one in the last reaches the first."""
    model, videos = build("kl", patch_frames=2), some_videos(1)
    before = model.encode(videos)["mean"].unflatten(1, model.grid)
    for changed, reached in ((0, 1), (-1, -2)):  # one convolution reaches one step; there are several
        other = videos.clone()
        other[:, changed] += 0.5
        moved = (model.encode(other)["mean"].unflatten(1, model.grid) - before).abs().amax((0, 2, 3, 4))
        assert moved[changed] > 1e-4 and moved[reached] > 1e-6


def test_time_has_no_stride_but_the_patch():
    for frames in (1, 2, 4, 8):
        assert build(patch_frames=frames).grid[0] == 8 // frames


def test_frames_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"tokenizer.vq.patch_frames=3 does not divide 8 frames"):
        build(patch_frames=3)


def test_images_are_left_alone_by_the_frames_of_a_patch():
    image = some_videos()[:, 0]
    first, second = (build("kl", SHAPE[1:], patch_frames=frames).encode(image)["mean"] for frames in (1, 4))
    assert torch.equal(first, second)
