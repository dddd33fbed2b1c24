"""What a drawn face is: a class of each factor, the values behind them, and everything else that varies.

Face ``i`` of a seed is a function of (seed, i) alone and shows composition ``i`` modulo 8. Every nuisance is a uniform number of
its own, drawn without looking at the factors; ``drawn`` says how it is used. Some are used in different ranges for women and men
(``hair_length``): that draws gender itself. None is used by smile or colour of hair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.faces.cells import WIDTHS, space_of
from datasets.factors import seed_for

NUISANCES = (
    *("x", "y", "scale", "tilt", "face_width", "face_height", "jaw", "skin", "warmth"),
    *(
        "ground_hue",
        "ground_depth",
        "ground_light",
        "ground_shade",
        "cloth_hue",
        "cloth_depth",
        "cloth_light",
        "collar",
    ),
    *("hair_length", "hair_volume", "hairline", "fringe", "parting", "strands"),
    *("eye_size", "eye_spacing", "eye_height", "iris", "brow_height", "brow_tilt", "brow_weight", "glasses"),
    *("nose_length", "nose_width", "mouth_height", "mouth_width", "mouth_open", "lips", "blush", "stubble"),
)


@dataclass(frozen=True)
class People:
    """Faces not yet painted."""

    classes: Tensor  # (B, 3) int64: gender, smile, hair
    values: Tensor  # (B, 4) float32: curve of the mouth in half widths, sRGB of the hair in [0, 1]
    nuisances: Tensor  # (B, len(NUISANCES)) float64 in [0, 1)

    def __len__(self) -> int:
        return len(self.classes)


def draw_people(seed: int, indices: Sequence[int]) -> People:
    """Faces by their indices."""
    space = space_of(drawn=True)
    table = torch.tensor([space.class_indices(composition) for composition in space.compositions])
    uniform = torch.empty(len(indices), len(WIDTHS) + len(NUISANCES), dtype=torch.float64)
    for row, index in enumerate(indices):
        generator = torch.Generator().manual_seed(seed_for(seed, "faces", index))
        uniform[row] = torch.rand(uniform.shape[1], generator=generator, dtype=torch.float64)
    classes = table[torch.tensor(list(indices), dtype=torch.int64) % len(table)]
    return People(classes, values_of(classes, uniform[:, : len(WIDTHS)]), uniform[:, len(WIDTHS) :])


def values_of(classes: Tensor, uniform: Tensor) -> Tensor:
    """Values (B, 4) float32 around the centres of (B, 3) classes, from uniform numbers (B, 4) in [0, 1)."""
    space = space_of(drawn=True)
    centres = torch.cat(
        [torch.tensor(factor.centres)[classes[:, k]] for k, factor in enumerate(space.factors) if factor.centres], 1
    )
    return (centres + torch.tensor(WIDTHS) * (2 * uniform - 1)).float()
