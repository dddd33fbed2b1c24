"""A network of timm as the judge's eyes: weights come from the file, never from elsewhere, and never change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from probes.backbone import Backbone
from probes.linear import LinearProbe, ProbeConfig, train_probe

NAME = "test_resnet"  # timm's own for tests: 160 px, half a million weights
CONFIG = ProbeConfig(features="cnn", backbone=NAME, epochs=3, lr=1e-2, batch=16)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a classifier, as published files have one."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(timm.create_model(NAME, pretrained=False).state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the network fails."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was to be downloaded")

    monkeypatch.setattr("socket.socket.connect", refuse)


def test_it_reads_with_the_weights_of_the_file_and_only_heads_learn(weights, published, tmp_path) -> None:
    images, classes = published.images[:48], published.classes[:48]
    config = replace(CONFIG, weights=str(weights))
    probe = train_probe(images, classes, published.space, config, seed=0)
    reference = timm.create_model(NAME, pretrained=False)
    reference.load_state_dict(timm.models.load_state_dict(str(weights)))
    assert all(
        torch.equal(probe.features.net.state_dict()[k], v) for k, v in reference.state_dict().items() if "fc" not in k
    )
    untrained = train_probe(images, classes, published.space, replace(config, epochs=0), seed=0)
    assert not torch.equal(probe.heads.weight, untrained.heads.weight)
    assert torch.equal(probe.embed(images), untrained.embed(images))
    again = train_probe(images, classes, published.space, config, seed=0)
    assert torch.equal(probe.heads.weight, again.heads.weight)
    probe.save(tmp_path / "probe.safetensors")
    loaded = LinearProbe.load(tmp_path / "probe.safetensors", published.space, tuple(images.shape[1:]))
    assert torch.equal(loaded.judge(images).logits, probe.judge(images).logits)


def test_images_are_resized_and_normalised_as_the_network_wants_them(weights) -> None:
    backbone = Backbone(NAME, 3)
    backbone.read(str(weights))
    seen: list[Tensor] = []
    backbone.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    backbone(torch.full((1, 3, 20, 20), 0.5))
    told = timm.data.resolve_model_data_config(backbone.net)
    expected = (0.75 - torch.tensor(told["mean"])) / torch.tensor(told["std"])
    assert seen[0].shape[2:] == told["input_size"][1:]
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), expected)
    assert not backbone.train().net.training


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state}])
def test_a_pt_file_is_read_too(wrap, weights, tmp_path) -> None:
    state = timm.models.load_state_dict(str(weights))
    torch.save(wrap(state), tmp_path / "net.pt")
    backbone = Backbone(NAME, 3)
    backbone.read(str(tmp_path / "net.pt"))
    assert all(torch.equal(value, state[name]) for name, value in backbone.net.state_dict().items())


def test_a_file_that_does_not_serve_is_told_in_one_sentence(weights, tmp_path) -> None:
    backbone = Backbone(NAME, 3)
    state = timm.models.load_state_dict(str(weights))
    first = next(iter(backbone.net.state_dict()))
    save_file({**state, first: torch.zeros(2, 2)}, tmp_path / "wrong.safetensors")
    save_file({name: value for name, value in state.items() if name != first}, tmp_path / "less.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(weights.read_bytes()[:100])
    (tmp_path / "page.pt").write_text("<html>not found</html>")
    torch.save({"state_dict": Path("a class that a file may not bring")}, tmp_path / "code.pt")
    for name, words in (
        ("none.pt", "is no file"),
        ("wrong.safetensors", rf"no weights of {NAME}: {first} is \(2, 2\) and should be"),
        ("less.safetensors", f"it has no {first}"),
        ("torn.safetensors", "cannot be read as safetensors or pt"),
        ("page.pt", "cannot be read as safetensors or pt"),
        ("code.pt", "cannot be read as safetensors or pt"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            backbone.read(str(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["resnet1", "hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp"])
def test_names_that_timm_does_not_have_are_refused_without_asking_anybody(name) -> None:
    with pytest.raises(ValueError, match=r"is no network of timm"):
        Backbone(name, 3)


def test_videos_are_refused() -> None:
    with pytest.raises(ValueError, match=r"these have 24; use probe\.backbone=cnn"):
        Backbone(NAME, 24)


def test_what_the_file_holds_is_settled_and_not_where_it_lies(weights, tmp_path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    told = [ProbeConfig.settle({"weights": str(path), "backbone": NAME}) for path in (weights, copy)]
    assert told[0] == told[1] and len(told[0]["weights_sha256"]) == 64
    assert ProbeConfig.settle({"weights": "", "backbone": "cnn"}) == {}
    with pytest.raises(ValueError, match=r"probe\.weights=nowhere is no file"):
        ProbeConfig.settle({"weights": "nowhere", "backbone": NAME})
