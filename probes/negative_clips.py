"""Clips that a strict judge of CLEVRER-Kubric must reject, made from real ones.

The thresholds in `probes.strict_clips` were set on these kinds and on real clips, before any generated clip was judged;
the tests hold them to it. Probes do not draw scenes: whoever calls hands in real clips, and of each its *twins*, the
same scene with another colour, shape or direction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from probes.negatives import Chance, blur
from probes.tracking import COLOURED, DARK, moments, to_linear

TWINS = ("shape", "colour", "direction")


class NegativeClips(Chance):
    """Makes each kind of negative of real clips.

    Args:
        clips: (B, T, 3, H, W) in [-1, 1].
        classes: what they show, (B, 3) int64.
        twins: for each of `TWINS`, the same scenes but for that factor, like ``clips``.
        generator: source of all randomness.
    """

    def __init__(self, clips: Tensor, classes: Tensor, twins: Mapping[str, Tensor], generator: torch.Generator) -> None:
        self.clips, self.classes, self.twins, self.generator = clips, classes, twins, generator
        self.half = clips.shape[1] // 2
        self.floor = self._floor()
        self.kinds: dict[str, Callable[[], Tensor]] = {
            "blend": self.blends,
            "blend of shapes": self.shape_blends,
            "hue": self.hues,
            "two objects": self.two_objects,
            "half": self.halves,
            "blur": self.blurs,
            "blank": self.blanks,
            "noise": self.noises,
            "vanishes": self.vanishing,
            "flickers": self.flickering,
            "changes colour": lambda: self.changing("colour"),
            "changes shape": lambda: self.changing("shape"),
            "stands still": self.still,
            "random order": self.shuffled,
            "turns back": self.returning,
            "other background": self.backgrounds,
        }

    def blends(self) -> Tensor:
        """Pixel averages of two clips of different compositions."""
        other = self._others()
        return (self.clips + self.clips[other]) / 2

    def shape_blends(self) -> Tensor:
        """Pixel averages of a cube and a sphere at the same place: the nearest of all blends."""
        return (self.clips + self.twins["shape"]) / 2

    def hues(self) -> Tensor:
        """Materials on the way from one class to the other, the middle fifth of it: light is linear in the material."""
        share = 0.4 + 0.2 * torch.rand(len(self.clips), 1, 1, 1, 1, generator=self.generator)
        return to_display(torch.lerp(linear(self.clips), linear(self.twins["colour"]), share))

    def two_objects(self) -> Tensor:
        """A second object laid over a clip: one that goes the other way, or one of another composition further down."""
        lower = self.clips[self._others()].roll(5 * self.clips.shape[-1] // 16, 3)
        second = torch.where(self._even(), self.twins["direction"], lower)
        return torch.where(dilated(coloured(second)), second, self.clips)

    def halves(self) -> Tensor:
        """Left, right, upper or lower halves of objects, cut through the centroid; floor in place of the rest."""
        x, y, _ = moments(coloured(self.clips).float())  # (B, T)
        axis = torch.arange(self.clips.shape[-1]) + 0.5
        across = (axis - x[..., None])[..., None, :].expand_as(self.clips[:, :, 0])
        down = (axis - y[..., None])[..., :, None].expand_as(across)
        side = self._integers(len(x), 4)[:, None, None, None]
        distance = torch.where(side < 2, across, down) * (1 - 2 * (side % 2))
        gone = (0.5 + distance).clamp(0, 1)[:, :, None] * dilated(coloured(self.clips))
        return torch.lerp(self.clips, self.floor[:, None].expand_as(self.clips), gone)

    def blurs(self) -> Tensor:
        """Real clips under a Gaussian of a standard deviation of a sixteenth of the image, about half a radius."""
        return self._each_frame(lambda frames: blur(frames, self.clips.shape[-1] / 16))

    def blanks(self) -> Tensor:
        """The floor alone, or plain images of any grey or colour."""
        still = torch.where(self._even()[:, 0], self.floor, self._plain())
        return still[:, None].expand_as(self.clips)

    def noises(self) -> Tensor:
        """Uniform noise, at every scale from a pixel to a quarter of the frame, anew in each frame."""
        count, frames, _, side, _ = self.clips.shape
        clips = torch.empty(count * frames, 3, side, side)
        for index, cells in enumerate((side, side // 2, side // 4, 4)):
            coarse = torch.rand(len(clips[index::4]), 3, cells, cells, generator=self.generator)
            clips[index::4] = F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
        clips = clips.unflatten(0, (frames, count)).transpose(0, 1)
        return 2 * clips - 1

    def vanishing(self) -> Tensor:
        """Objects that are gone from half way on."""
        return self._from_half_way(self._erased())

    def flickering(self) -> Tensor:
        """Objects that are gone in one frame."""
        frame = self._integers(len(self.clips), self.clips.shape[1])
        gone = frame[:, None] == torch.arange(self.clips.shape[1])
        return torch.where(gone[:, :, None, None, None], self._erased(), self.clips)

    def changing(self, factor: str) -> Tensor:
        """Objects that have another colour or shape from half way on."""
        return self._from_half_way(self.twins[factor])

    def still(self) -> Tensor:
        """One frame, repeated."""
        frame = self._integers(len(self.clips), self.clips.shape[1])
        return self.clips[torch.arange(len(frame)), frame][:, None].expand_as(self.clips)

    def shuffled(self) -> Tensor:
        """Frames in random order; of four frames or more, neither the right one nor the reverse."""
        frames = self.clips.shape[1]
        order = torch.stack([self._disorder(frames) for _ in self.clips])
        return self.clips[torch.arange(len(self.clips))[:, None], order]

    def returning(self) -> Tensor:
        """Objects that turn back half way."""
        return self._from_half_way(self.clips.flip(1))

    def backgrounds(self) -> Tensor:
        """Objects with their shadows cut out, in front of a plain wall of any colour or of noise."""
        wall = torch.where(self._even(), self.noises()[:, :1], self._plain()[:, None])
        return torch.where(dilated(coloured(self.clips)), self.clips, wall)

    def _plain(self) -> Tensor:
        """One colour in every pixel, half of them grey: (B, 3, 1, 1)."""
        colour = 2 * torch.rand(len(self.clips), 3, 1, 1, generator=self.generator) - 1
        colour[1::4] = colour[1::4, :1]
        colour[2::4] = colour[2::4, :1]
        return colour

    def _erased(self) -> Tensor:
        return torch.where(dilated(coloured(self.clips)), self.floor[:, None], self.clips)

    def _floor(self) -> Tensor:
        """The floor without the object (B, 3, H, W): of a clip and its twin's frames, the least coloured and lightest.

        Where an object never leaves a pixel, other clips show what lies beneath it.
        """
        own = torch.cat([self.clips, self.twins["direction"]], 1)
        others = [self.clips[:, :: self.clips.shape[1] - 1].roll(shift, 0) for shift in range(1, min(len(own), 9))]
        frames = torch.cat([own, *others], 1)
        light = frames.amin(2) - 4 * dilated(coloured(frames))[:, :, 0].float()
        light[:, own.shape[1] :] -= 2  # own ones first, as long as they are not coloured
        best = light.argmax(1)[:, None, None].expand(-1, 1, 3, -1, -1)
        return frames.gather(1, best)[:, 0]

    def _from_half_way(self, clips: Tensor) -> Tensor:
        return torch.cat([self.clips[:, : self.half], clips[:, self.half :]], 1)

    def _others(self) -> Tensor:
        """For each clip a random one of another composition, (B,) int64."""
        differs = (self.classes[:, None] != self.classes[None]).any(2).float()
        return torch.multinomial(differs, 1, generator=self.generator)[:, 0]

    def _disorder(self, frames: int) -> Tensor:
        while True:
            order = torch.randperm(frames, generator=self.generator)
            steps = order.diff().sign()
            if len(steps.unique()) > 1:
                return order

    def _each_frame(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        return change(self.clips.flatten(0, 1)).view_as(self.clips)

    def _even(self) -> Tensor:
        """Every second clip, (B, 1, 1, 1, 1) bool."""
        return (torch.arange(len(self.clips)) % 2 == 0)[:, None, None, None, None]


def linear(clips: Tensor) -> Tensor:
    """Linear light of clips in [-1, 1]."""
    return to_linear(clips.clamp(-1, 1).add(1).div(2))


def to_display(light: Tensor) -> Tensor:
    """Clips in [-1, 1] of linear light in [0, 1]."""
    display = torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp_min(1e-6) ** (1 / 2.4) - 0.055)
    return 2 * display - 1


def coloured(clips: Tensor) -> Tensor:
    """Where clips (B, T, 3, H, W) in [-1, 1] show an object: (B, T, H, W) bool."""
    light = linear(clips)
    brightest = light.amax(2)
    return (brightest - light.amin(2)) / brightest.clamp_min(DARK) > COLOURED


def dilated(mask: Tensor) -> Tensor:
    """A mask (B, T, H, W), a pixel wider, to choose among clips: (B, T, 1, H, W) bool."""
    return (F.max_pool2d(mask.float(), 3, 1, 1) > 0)[:, :, None]
