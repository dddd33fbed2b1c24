"""What a drawn face is: a class of each factor, the values behind them, and everything else that varies.

Face ``i`` of a seed is a function of (seed, i) alone and shows composition ``i`` modulo 8. Every nuisance is a uniform number of
its own, drawn without looking at the factors; ``drawn`` says how it is used. Some are used in different ranges for women and men
(``hair_length``): that draws gender itself. None is used by smile or colour of hair.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from datasets.faces.cells import WIDTHS, space_of
from datasets.factors import seed_for

GROUPS = {  # what varies besides the factors, by what can be switched off together
    "place": ("x", "y", "scale", "tilt"),
    "head": ("face_width", "face_height", "jaw"),
    "skin": ("skin", "warmth", "blush", "stubble"),
    "ground": ("ground_hue", "ground_depth", "ground_light", "ground_shade"),
    "clothes": ("cloth_hue", "cloth_depth", "cloth_light", "collar"),
    "hair": ("hair_length", "hair_volume", "hairline", "fringe", "parting", "strands"),
    "eyes": ("eye_size", "eye_spacing", "eye_height", "iris", "brow_height", "brow_tilt", "brow_weight"),
    "glasses": ("glasses",),
    "nose": ("nose_length", "nose_width"),
    "mouth": ("mouth_height", "mouth_width", "mouth_open", "lips"),
}
NUISANCES = tuple(chain.from_iterable(GROUPS.values()))
STILL = (
    0.5  # the number of a nuisance that does not vary: the middle of its range; no glasses, no stubble, a closed mouth
)


@dataclass(frozen=True)
class People:
    """Faces not yet painted."""

    classes: Tensor  # (B, 3) int64: gender, smile, hair
    values: Tensor  # (B, 4) float32: curve of the mouth in half widths, sRGB of the hair in [0, 1]
    nuisances: Tensor  # (B, len(NUISANCES)) float64 in [0, 1); STILL where they do not vary

    def __len__(self) -> int:
        return len(self.classes)


def draw_people(seed: int, indices: Sequence[int], groups: Collection[str] = GROUPS) -> People:
    """Faces by their indices; only nuisances of ``groups`` vary, and the others' draws stay what they were."""
    space = space_of(drawn=True)
    table = torch.tensor([space.class_indices(composition) for composition in space.compositions])
    uniform = torch.empty(len(indices), len(WIDTHS) + len(NUISANCES), dtype=torch.float64)
    for row, index in enumerate(indices):
        generator = torch.Generator().manual_seed(seed_for(seed, "faces", index))
        uniform[row] = torch.rand(uniform.shape[1], generator=generator, dtype=torch.float64)
    classes = table[torch.tensor(list(indices), dtype=torch.int64) % len(table)]
    varies = torch.tensor([group in groups for group, names in GROUPS.items() for _ in names])
    nuisances = torch.where(varies, uniform[:, len(WIDTHS) :], STILL)
    return People(classes, values_of(classes, uniform[:, : len(WIDTHS)]), nuisances)


def values_of(classes: Tensor, uniform: Tensor) -> Tensor:
    """Values (B, 4) float32 around the centres of (B, 3) classes, from uniform numbers (B, 4) in [0, 1)."""
    space = space_of(drawn=True)
    centres = torch.cat(
        [torch.tensor(factor.centres)[classes[:, k]] for k, factor in enumerate(space.factors) if factor.centres], 1
    )
    return (centres + torch.tensor(WIDTHS) * (2 * uniform - 1)).float()
