"""The convolutional autoencoder under both tokenizers.

Encoder and decoder are those of latent diffusion (Rombach et al. 2022, appendix E; the same as VQGAN's, Esser et al. 2021):
residual blocks with GroupNorm and swish, one down- or up-sampling between levels. Each is a flat sequence of layers in the
order in which they run. A `patch` larger than 1 folds that many pixels into channels before the first convolution and unfolds
them after the last, which saves the costly levels at full resolution.

Videos take the same network with 3x3x3 convolutions. Frames mix in two places: `patch_frames` of them are folded into the
channels of one latent step, the only stride in time; and every convolution and the attention look at neighbouring steps, before
and after alike, so that nothing is causal. Down- and up-sampling between levels have strides in space only.
"""

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional as F

from architectures.tokenizers.convolutions import CONVOLUTIONS
from architectures.tokenizers.folding import Fold, Unfold

MIDDLES = {"attention": (True, True), "blocks": (True, False), "none": (False, False)}  # residual blocks?, attention?


@dataclass
class AutoencoderConfig:
    """Shape of the autoencoder; it divides the resolution by `patch * 2 ** (len(multipliers) - 1)`."""

    channels: int = 8  # latent channels a token
    patch: int = 1  # pixels folded into channels per side, ahead of the network; 1 as published
    patch_frames: int = 1  # frames of a video folded into one latent step; images have none
    width: int = 128  # channels of the first level; LDM `ch`
    multipliers: list[int] = field(default_factory=lambda: [1, 2, 4])  # of `width`, one a level; LDM f4 `ch_mult`
    blocks: int = 2  # residual blocks a level in the encoder, one more in the decoder; LDM `num_res_blocks`
    attention: list[int] = field(default_factory=list)  # heights of feature maps with self-attention; LDM f4 has none
    groups: int = 32  # of GroupNorm, as published; fewer where narrow: a channel normalised alone loses contrast
    middle: str = "attention"  # at the lowest resolution: "attention" (as published), "blocks" alone or "none"

    @property
    def downsampling(self) -> int:
        """Pixels per token and side, f."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    def grid(self, image_shape: tuple[int, ...], key: str = "tokenizer") -> tuple[int, ...]:
        """Tokens along each axis, (h, w) for images (C, H, W) and (t, h, w) for videos (T, C, H, W).

        Raises:
            ValueError: if none fits, with `key` in front of the fields' names.
        """
        if self.middle not in MIDDLES:
            raise ValueError(f"{key}.middle={self.middle!r} is unknown: use one of {', '.join(MIDDLES)}.")
        sizes = [self.channels, self.patch, self.patch_frames, self.width, self.blocks, self.groups]
        if min([*sizes, *(self.multipliers or [0])]) < 1:
            raise ValueError(
                f"{key}: channels, patch, patch_frames, width, blocks, groups and every one of multipliers must be 1 or "
                f"more, and multipliers needs an entry a level."
            )
        wrong = [self.width * multiplier for multiplier in self.multipliers if self.width * multiplier % self.groups]
        if self.width % self.groups or wrong:
            raise ValueError(
                f"{key}.width={self.width} with {key}.multipliers={list(self.multipliers)} gives a level of "
                f"{(wrong or [self.width])[0]} channels: GroupNorm needs multiples of {key}.groups={self.groups}."
            )
        sides = image_shape[-2:]
        if any(side % self.downsampling for side in sides):
            raise ValueError(
                f"{key}.patch={self.patch} and the {len(self.multipliers)} levels of {key}.multipliers divide the resolution "
                f"by {self.downsampling}, which does not divide {sides[0]}x{sides[1]} pixels: change one of them."
            )
        *frames, _, _, _ = image_shape
        if any(count % self.patch_frames for count in frames):
            raise ValueError(
                f"{key}.patch_frames={self.patch_frames} does not divide {frames[0]} frames: change one of them."
            )
        return (*(count // self.patch_frames for count in frames), *(side // self.downsampling for side in sides))


class ResidualBlock(nn.Module):
    """(B, C_in, ...) -> (B, C_out, ...); norm, swish, convolution, twice, plus a skip (1x1 where channels change)."""

    def __init__(self, channels_in: int, channels_out: int, groups: int, axes: int) -> None:
        super().__init__()
        self.norm1 = normalisation(channels_in, groups)
        self.conv1 = convolution(channels_in, channels_out, axes)
        self.norm2 = normalisation(channels_out, groups)
        self.conv2 = convolution(channels_out, channels_out, axes)
        self.skip = nn.Identity() if channels_in == channels_out else CONVOLUTIONS[axes](channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return self.skip(x) + hidden


class SelfAttention(nn.Module):
    """(B, C, ...) -> the same: single-head attention over positions, with a skip."""

    def __init__(self, channels: int, groups: int, axes: int) -> None:
        super().__init__()
        self.norm = normalisation(channels, groups)
        self.query, self.key, self.value, self.project = (CONVOLUTIONS[axes](channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        query, key, value = (
            layer(normed).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )  # (B, N, C)
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.project(attended.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """(B, C, [t,] H, W) -> (B, C, [t,] H/2, W/2); padded on the right and at the bottom only, as published."""

    def __init__(self, channels: int, axes: int) -> None:
        super().__init__()
        in_time = axes - 2
        self.conv = CONVOLUTIONS[axes](channels, channels, 3, stride=(*[1] * in_time, 2, 2))
        self.padding = (0, 1, 0, 1, *[1, 1] * in_time)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class Upsample(nn.Module):
    """(B, C, [t,] H, W) -> (B, C, [t,] 2H, 2W): nearest neighbour, then a convolution."""

    def __init__(self, channels: int, axes: int) -> None:
        super().__init__()
        self.conv = convolution(channels, channels, axes)
        self.scale = (*[1.0] * (axes - 2), 2.0, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=self.scale, mode="nearest"))


class Encoder(nn.Sequential):
    """Images (B, C, H, W) -> features (B, outputs, h, w); videos (B, T, C, H, W) -> (B, outputs, t, h, w)."""

    def __init__(self, config: AutoencoderConfig, image_shape: tuple[int, ...], outputs: int) -> None:
        axes = len(image_shape) - 1
        fold = Fold(config.patch, config.patch_frames)
        height, width, groups = image_shape[-2] // config.patch, config.width, config.groups
        layers: list[nn.Module] = [fold, convolution(fold.channels(image_shape), width, axes)]
        for level, multiplier in enumerate(config.multipliers):
            if level > 0:
                layers.append(Downsample(width, axes))
                height //= 2
            layers += stage(width, config.width * multiplier, config.blocks, height in config.attention, groups, axes)
            width = config.width * multiplier
        super().__init__(*layers, *middle(width, config, axes), *head(width, outputs, groups, axes))


class Decoder(nn.Sequential):
    """Features to images or videos: the inverse shapes of `Encoder`."""

    def __init__(self, config: AutoencoderConfig, image_shape: tuple[int, ...], inputs: int) -> None:
        axes = len(image_shape) - 1
        unfold = Unfold(config.patch, config.patch_frames)
        height, groups = image_shape[-2] // config.downsampling, config.groups
        width = config.width * config.multipliers[-1]
        layers = [convolution(inputs, width, axes), *middle(width, config, axes)]
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            attention = height in config.attention
            layers += stage(width, config.width * multiplier, config.blocks + 1, attention, groups, axes)
            width = config.width * multiplier
            if level > 0:
                layers.append(Upsample(width, axes))
                height *= 2
        super().__init__(*layers, *head(width, unfold.channels(image_shape), groups, axes), unfold)


def stage(channels_in: int, channels_out: int, blocks: int, attention: bool, groups: int, axes: int) -> list[nn.Module]:
    """The layers of one level."""
    layers: list[nn.Module] = []
    for index in range(blocks):
        layers.append(ResidualBlock(channels_out if index else channels_in, channels_out, groups, axes))
        if attention:
            layers.append(SelfAttention(channels_out, groups, axes))
    return layers


def middle(channels: int, config: AutoencoderConfig, axes: int) -> list[nn.Module]:
    """The layers at the lowest resolution: a key of MIDDLES."""
    groups = config.groups
    blocks, attention = MIDDLES[config.middle]
    if not blocks:
        return []
    first, last = (ResidualBlock(channels, channels, groups, axes) for _ in range(2))
    return [first, SelfAttention(channels, groups, axes), last] if attention else [first, last]


def head(channels: int, outputs: int, groups: int, axes: int) -> list[nn.Module]:
    """The last layers of either half."""
    return [normalisation(channels, groups), nn.SiLU(), convolution(channels, outputs, axes)]


def normalisation(channels: int, groups: int) -> nn.GroupNorm:
    """GroupNorm with LDM's epsilon; over time too, where there is any."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


def convolution(channels_in: int, channels_out: int, axes: int) -> nn.Module:
    """Three wide along each axis, of equal size in and out."""
    return CONVOLUTIONS[axes](channels_in, channels_out, 3, padding=1)


def to_tokens(features: Tensor) -> Tensor:
    """(B, C, [t,] h, w) -> (B, N, C), the last axis fastest."""
    return features.flatten(2).transpose(1, 2)


def to_features(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    """(B, N, C) -> (B, C, [t,] h, w), the inverse of `to_tokens`.

    Contiguous: on a CPU in bfloat16 PyTorch's GroupNorm is ten times slower on channels-last memory (measured).
    """
    return tokens.transpose(1, 2).unflatten(2, grid).contiguous()
