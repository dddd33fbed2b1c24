"""Pixels and frames folded into channels, and back: what a tokenizer does before its first convolution and after its last."""

import math

from torch import Tensor, nn
from torch.nn import functional as F


class Fold(nn.Module):
    """Images (B, C, H, W) -> (B, C p p, H/p, W/p); videos (B, T, C, H, W) -> (B, f C p p, T/f, H/p, W/p).

    Args:
        patch: p, pixels a side.
        frames: f, frames of a video; images are left alone by it.
    """

    def __init__(self, patch: int, frames: int) -> None:
        super().__init__()
        self.patch, self.frames = patch, frames

    def channels(self, image_shape: tuple[int, ...]) -> int:
        """Channels that an image or video of this shape is folded into."""
        *time, channels, _, _ = image_shape
        return channels * self.patch**2 * math.prod(self.frames for _ in time)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return F.pixel_unshuffle(x, self.patch)
        x = x.unflatten(1, (-1, self.frames)).flatten(2, 3)  # (B, t, f C, H, W)
        return F.pixel_unshuffle(x, self.patch).transpose(1, 2).contiguous()


class Unfold(Fold):
    """The inverse of `Fold`."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return F.pixel_shuffle(x, self.patch)
        x = F.pixel_shuffle(x.transpose(1, 2), self.patch)  # (B, t, f C, H, W)
        return x.unflatten(2, (self.frames, -1)).flatten(1, 2)
