"""An exponential moving average of parameters: float32, in the checkpoint, updated after the optimiser's step.

Lightning's own wrapper copies the whole module and averages buffers too; this one holds trainable parameters only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """Float32 shadows of named parameters, kept as buffers so that device moves and checkpoints include them."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.names = tuple(parameters)
        for name, parameter in parameters.items():
            self.register_buffer(name.replace(".", "/"), parameter.detach().float().clone())

    @property
    def shadows(self) -> list[Tensor]:
        return [self._buffers[name.replace(".", "/")] for name in self.names]  # type: ignore[misc]

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Move the shadows by ``1 - decay`` towards the parameters, all in one call."""
        current = [parameters[name].detach().float() for name in self.names]
        torch._foreach_lerp_(self.shadows, current, 1 - self.decay)

    @contextmanager
    def swapped_into(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Let the parameters hold the averaged values for the length of a ``with`` block."""
        raw = [parameters[name].data for name in self.names]
        for name, shadow in zip(self.names, self.shadows, strict=True):
            parameters[name].data = shadow.to(parameters[name].dtype)
        try:
            yield
        finally:
            for name, value in zip(self.names, raw, strict=True):
                parameters[name].data = value

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take shadows by name, as they were kept in a file."""
        for name, shadow in zip(self.names, self.shadows, strict=True):
            shadow.copy_(weights[name])

    def sha256(self) -> str:
        """Digest of the averaged weights, names included: equal if and only if the weights are bit-equal."""
        digest = hashlib.sha256()
        for name, shadow in zip(self.names, self.shadows, strict=True):
            digest.update(name.encode())
            digest.update(shadow.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def decay_for_half_life(steps: float) -> float:
    """The decay with which a contribution halves in so many steps."""
    return 0.5 ** (1 / max(steps, 1e-9))
