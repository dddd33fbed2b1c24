"""The floor of a training step: the time that its operations and its bytes take on a device, whichever is longer.

Operations are those of matrix products and convolutions (`benchmark.hardware.costs`). Bytes are those that even perfectly
fused code moves: what each of these products reads and writes, and what the optimiser and the average hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from architectures.base import GenerativeModel
from architectures.conditioning import Condition

STATE_BYTES = 10 * 4  # a parameter and step: weight, two moments and average are read and written, its gradient too
COPIED = {"cpu": 2**28, "cuda": 2**30}  # bytes of the copy behind the bandwidth; more than caches hold


class ProductTraffic(TorchDispatchMode):
    """Bytes of the operands and results of all matrix products, convolutions and attentions inside a ``with`` block.

    These are the operators that torch's FLOP counter knows. Each tensor counts once a product, whole, as it lies there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


def step_bytes(model: GenerativeModel, batch: dict[str, Any]) -> int:
    """Bytes that a training step moves at least; under autocast, in autocast's types. Gradients are left at None."""
    condition = Condition.of(batch["classes"], batch["values"])
    with ProductTraffic() as products:
        loss, _ = model.training_loss(batch["latents"], condition, batch["generator"])
        loss.backward()
    model.zero_grad(set_to_none=True)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return products.bytes + STATE_BYTES * trained


def copy_work(device: torch.device) -> tuple[Callable[[], object], int]:
    """A copy in the device's memory, and the bytes that it reads and writes."""
    size = COPIED[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * size


def most_steps(flops: float, moved: float, flops_per_second: float, bytes_per_second: float) -> float:
    """Steps a second that no implementation with these operations and bytes exceeds on a device with these peaks."""
    return 1 / max(flops / flops_per_second, moved / bytes_per_second)
