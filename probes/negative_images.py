"""Images that a strict judge must reject, made from real ones: for datasets of which nobody can draw a scene.

What one can hand to a judge in place of an image of a composition: two of them at once (blends, halves, mosaics), all of
them at once (means), too little (blurs, blanks), or no order at all (noise, shuffled patches).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from probes.negatives import Chance, blur

CELLS = 4  # patches along each side, of mosaics and of shuffled images
TRIES = 8  # to find a partner of another composition


class NegativeImages(Chance):
    """Makes each kind of negative of real images.

    Args:
        images: (M, C, H, W) in [-1, 1]; H and W are multiples of 4.
        groups: (M,) int64, the composition of each.
        generator: source of all randomness.
    """

    def __init__(self, images: Tensor, groups: Tensor, generator: torch.Generator) -> None:
        self.images, self.groups, self.generator = images, groups, generator
        self.side = images.shape[-1]
        self.kinds: dict[str, Callable[[int], Tensor]] = {
            "blend": self.blends,
            "mean": self.means,
            "half": self.halves,
            "mosaic": self.mosaics,
            "blur": self.blurs,
            "noise": self.noises,
            "shuffled": self.shuffled,
            "blank": self.blanks,
        }

    def blends(self, count: int) -> Tensor:
        """Pixel averages of two images of different compositions."""
        first, second = self._pairs(count)
        return (first + second) / 2

    def means(self, count: int) -> Tensor:
        """Averages of 4 to 64 images; of all, for the last."""
        made = [self._pick(4 << int(power)).mean(0) for power in self._integers(count, 5)]
        return torch.stack([*made[:-1], self.images.mean(0)])

    def halves(self, count: int) -> Tensor:
        """The left half of one image beside the right half of one of another composition."""
        first, second = self._pairs(count)
        return torch.cat([first[..., : self.side // 2], second[..., self.side // 2 :]], -1)

    def mosaics(self, count: int) -> Tensor:
        """Patches of two images of different compositions, each from either by chance."""
        first, second = self._pairs(count)
        mask = torch.rand(count, 1, CELLS, CELLS, generator=self.generator) < 0.5
        return torch.where(F.interpolate(mask.float(), size=first.shape[-2:]) > 0, first, second)

    def blurs(self, count: int) -> Tensor:
        """Gaussian blurs of a standard deviation of a sixteenth of the side."""
        return blur(self._pick(count), self.side / 16)

    def noises(self, count: int) -> Tensor:
        """Uniform noise in the pixels, at every scale from a pixel to a quarter of the frame."""
        shape = self.images.shape[1:]
        made = torch.empty(count, *shape)
        for index, cells in enumerate((self.side, self.side // 2, self.side // 4, CELLS)):
            coarse = torch.rand(len(made[index::4]), shape[0], cells, cells, generator=self.generator)
            made[index::4] = F.interpolate(coarse, size=shape[1:], mode="bilinear", align_corners=False)
        return 2 * made - 1

    def shuffled(self, count: int) -> Tensor:
        """Images whose patches changed places."""
        size = self.side // CELLS
        patches = F.unfold(self._pick(count), size, stride=size)  # (B, C * size^2, patches)
        order = torch.rand(count, patches.shape[2], generator=self.generator).argsort(1)
        moved = patches.gather(2, order[:, None].expand(-1, patches.shape[1], -1))
        return F.fold(moved, self.images.shape[-2:], size, stride=size)

    def blanks(self, count: int) -> Tensor:
        """Plain images of any colour."""
        colours = torch.rand(count, self.images.shape[1], 1, 1, generator=self.generator)
        return (2 * colours - 1).expand(-1, *self.images.shape[1:]).contiguous()

    def _pairs(self, count: int) -> tuple[Tensor, Tensor]:
        first, second = self._integers(count, len(self.images)), self._integers(count, len(self.images))
        for _ in range(TRIES):
            alike = self.groups[first] == self.groups[second]
            second = torch.where(alike, self._integers(count, len(self.images)), second)
        return self.images[first], self.images[second]

    def _pick(self, count: int) -> Tensor:
        return self.images[self._integers(count, len(self.images))]
