"""Images with what is true of them, and how networks are shown them: by composition, as tensors, in whole batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.factors import Composition, FactorSpace


def composition_index(classes: Tensor, space: FactorSpace) -> Tensor:
    """Position in ``space.compositions`` of each row of class indices: (M, F) int64 -> (M,) int64."""
    index = torch.zeros_like(classes[:, 0])
    for column, factor in enumerate(space.factors):
        index = index * len(factor.classes) + classes[:, column]
    return index


def belongs_to(index: Tensor, compositions: tuple[Composition, ...], space: FactorSpace) -> Tensor:
    """Which rows of a (M,) composition index are one of ``compositions``: (M,) bool."""
    wanted = torch.tensor([space.compositions.index(c) for c in compositions], dtype=torch.int64, device=index.device)
    return torch.isin(index, wanted)


@dataclass
class ImageSet:
    """Images with what is true of them. ``images`` may be a memory map: nothing is read before it is asked for."""

    images: np.ndarray  # (M, C, H, W) or (M, T, C, H, W) uint8
    values: Tensor  # (M, V) float32
    classes: Tensor  # (M, F) int64
    composition_index: Tensor  # (M,) int64, position in space.compositions

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, compositions: tuple[Composition, ...], space: FactorSpace) -> ImageSet:
        """The images of some compositions, in their order here, read into memory."""
        keep = belongs_to(self.composition_index, compositions, space)
        images = self.images[keep.numpy()]
        return ImageSet(images, self.values[keep], self.classes[keep], self.composition_index[keep])

    def tensor(self, indices: Tensor | slice | None = None) -> Tensor:
        """Images as the networks see them: float32 (B, [T,] C, H, W) in [-1, 1]; all of them without ``indices``."""
        chosen = indices.cpu().numpy() if isinstance(indices, Tensor) else indices or slice(None)
        return torch.tensor(self.images[chosen], dtype=torch.float32).div_(127.5).sub_(1)


class Batches(Dataset):
    """Whole batches by a list of indices, as dataloaders give them: one read a batch instead of one an image."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: list[int]) -> dict[str, Tensor]:
        chosen = torch.tensor(indices)
        return {
            "image": self.images.tensor(chosen),
            "values": self.images.values[chosen],
            "classes": self.images.classes[chosen],
        }
