"""What `prepare` tells of a dataset's images."""

from types import SimpleNamespace

import torch

from benchmark import preparation
from benchmark.artefacts import Artefacts
from datasets.factors import Factor, FactorSpace

SPACE = FactorSpace((Factor("hair", ("black", "blond")),))
COUNTS = {"0": {"train": 22, "test": 3}, "1": {"train": 4, "test": 1}}


class Read:
    """Images that were read from somewhere."""

    folder, space = "cache", SPACE
    verified = False

    @property
    def origin(self):
        return {"source": "real", "checksum": "official", "cells": COUNTS}

    def verify(self):
        self.verified = True

    def images(self, part):
        return torch.empty({"train": 26, "probe": 4, "test": 4}[part])


def test_what_was_read_is_checked_and_counted_composition_by_composition(monkeypatch, capsys):
    data = Read()
    monkeypatch.setattr(Artefacts, "__init__", lambda self, *_: None)
    monkeypatch.setattr(Artefacts, "data", data)
    assert preparation.prepare_data(SimpleNamespace(dataset="read"), None, None) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert data.verified and lines[:2] == ["read: cache", "train: 26 images of 2 compositions"]
    assert lines[4:] == [
        "source: real",
        "checksum: official",
        "cells 0: train 22, test 3",
        "cells 1: train 4, test 1",
    ]
