"""A network of timm as the judge's eyes: frozen, with weights from a file that the user names. Nothing is downloaded."""

from __future__ import annotations

import pickle
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.nn import functional as F

KEY = "probe.backbone"


class Backbone(nn.Module):
    """Pooled features (B, D) of images (B, 3, H, W) in [-1, 1], resized and normalised as the network wants them.

    It never trains: the heads on top of it do.

    Raises:
        ValueError: timm has no network of that name, or the images do not have three channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        if not timm.is_model(name):  # also keeps out names such as hf-hub:NAME, for which timm asks the network
            close = timm.list_models(f"{name}*")[:3]
            hint = f"; it has {', '.join(close)}" if close else ""
            raise ValueError(f"{KEY}={name} is no network of timm{hint}; use one of its names, or cnn")
        if channels != 3:
            raise ValueError(f"{KEY}={name} reads images of 3 channels, and these have {channels}; use {KEY}=cnn")
        self.name = name
        self.net = timm.create_model(name, pretrained=False, num_classes=0).requires_grad_(False)
        told = resolve_model_data_config(self.net)
        self.size = tuple(told["input_size"][1:])
        self.register_buffer("mean", torch.tensor(told["mean"]).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(told["std"]).view(-1, 1, 1), persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        resized = F.interpolate(images, size=self.size, mode="bilinear", antialias=True)
        return self.net((resized.add(1).div(2) - self.mean) / self.std)

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode: statistics of batches are those of the weights."""
        return super().train(False)

    def read(self, path: str) -> None:
        """Take the weights of a safetensors or pt file, whose classifier is left out.

        Raises:
            ValueError: there is no such file, it is none of the two, or its weights do not fit.
        """
        if not Path(path).is_file():
            raise ValueError(f"probe.weights={path} is no file; give the weights of {self.name} as safetensors or pt")
        try:
            state = load_state_dict(path, weights_only=True)
        except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
            raise ValueError(f"probe.weights={path} cannot be read as safetensors or pt; save it anew") from error
        own = self.net.state_dict()
        missing = [name for name in own if name not in state]
        wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
        if missing or wrong:
            found = f"it has no {missing[0]}" if missing else _shapes(wrong[0], state, own)
            raise ValueError(f"probe.weights={path} holds no weights of {self.name}: {found}")
        self.net.load_state_dict({name: state[name] for name in own})


def _shapes(name: str, state: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    return f"{name} is {tuple(state[name].shape)} and should be {tuple(own[name].shape)}"
