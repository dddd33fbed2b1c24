"""Both tokenizers against the published ones: taming's quantiser and LDM's KL autoencoder, with their own weights."""

import pytest
import torch

from architectures.tokenizers.base import Tokenizer
from architectures.tokenizers.blocks import to_tokens
from architectures.tokenizers.kl import KLConfig, KLTokenizer, kl_divergence, posterior
from architectures.tokenizers.vq import VectorQuantizer

BETA = 0.25
ENCODER = (  # LDM's module names in the order in which they run; "" has no weights
    *("", "conv_in", "down.0.block.0", "down.0.downsample", "down.1.block.0", "down.1.attn.0"),
    *("mid.block_1", "mid.attn_1", "mid.block_2", "norm_out", "", "conv_out"),
)
DECODER = (
    *("conv_in", "mid.block_1", "mid.attn_1", "mid.block_2"),
    *("up.1.block.0", "up.1.attn.0", "up.1.block.1", "up.1.attn.1", "up.1.upsample"),
    *("up.0.block.0", "up.0.block.1", "norm_out", "", "conv_out", ""),
)
INSIDE = {"query": "q", "key": "k", "value": "v", "project": "proj_out", "skip": "nin_shortcut"}


@pytest.mark.parametrize(("flavour", "codebook_weight", "commitment"), [("legacy", BETA, 1.0), ("fixed", 1.0, BETA)])
def test_quantiser_is_tamings(golden, flavour, codebook_weight, commitment):
    """Golden 19: taming's default puts beta on the wrong term; our two weights give that and the paper's."""
    arrays = golden("vq_quantizer")
    quantizer = VectorQuantizer(8, 4, codebook_weight, commitment)
    quantizer.codebook.data.copy_(arrays["codebook"])
    z = arrays["z"].requires_grad_()
    quantised, codes, loss = quantizer(to_tokens(z))
    assert torch.equal(codes.flatten(), arrays["indices"])
    close = {"atol": 1e-7, "rtol": 1e-7}
    torch.testing.assert_close(quantised, to_tokens(arrays["z_q"]), **close)
    torch.testing.assert_close(loss, arrays[f"{flavour}_loss"], **close)
    grad_z, grad_codebook = torch.autograd.grad(loss, (z, quantizer.codebook))
    torch.testing.assert_close(grad_z, arrays[f"{flavour}_grad_z"], **close)
    torch.testing.assert_close(grad_codebook, arrays[f"{flavour}_grad_codebook"], **close)


def published_name(name: str) -> str:
    """Our parameter's name -> LDM's."""
    half, *rest = name.split(".")
    if half in ("to_latent", "from_latent"):
        return ".".join([{"to_latent": "quant_conv", "from_latent": "post_quant_conv"}[half], *rest])
    names = ENCODER if half == "encoder" else DECODER
    return ".".join([half[:3], names[int(rest[0])], *(INSIDE.get(part, part) for part in rest[1:])])


def load_published(model: Tokenizer, arrays: dict[str, torch.Tensor]) -> Tokenizer:
    """Copy LDM's weights, all of them, each into the parameter of the same shape."""
    names = {name: published_name(name) for name, _ in model.named_parameters()}
    weights = {name for name in arrays if name.endswith((".weight", ".bias"))}
    assert set(names.values()) == weights and len(names) == len(weights)
    model.load_state_dict({name: arrays[published] for name, published in names.items()})
    return model


def test_kl_autoencoder_is_ldms(golden):
    """Golden 20: moments, drawn latents, KL and reconstruction."""
    arrays = golden("kl_vae_tiny")
    config = KLConfig(channels=4, width=32, multipliers=[1, 2], blocks=1, attention=[8], groups=32)
    model = load_published(KLTokenizer(config, (3, 16, 16)), arrays)
    close = {"atol": 1e-5, "rtol": 0}
    with torch.no_grad():
        moments = model.features(arrays["x"])
    mean, logvar = posterior(moments)
    torch.testing.assert_close(moments, arrays["moments"], **close)
    torch.testing.assert_close(mean, arrays["mean"], **close)
    torch.testing.assert_close(logvar, arrays["logvar"], **close)
    torch.testing.assert_close(kl_divergence(mean, logvar), arrays["kl_sum_per_image"], atol=0, rtol=1e-6)

    latents = model.encode(arrays["x"])
    z = latents["mean"] + latents["std"] * to_tokens(arrays["eps"])
    torch.testing.assert_close(z, to_tokens(arrays["z"]), **close)
    torch.testing.assert_close(model.decode(z), arrays["reconstruction"], **close)


def test_log_variance_is_clamped_as_published(golden):
    arrays = golden("kl_vae_tiny")
    mean, logvar = posterior(arrays["clamp_in"])
    assert torch.equal(logvar, arrays["clamp_logvar"])
    assert mean.flatten().tolist() == [0.5, -100.0]
    _, lowest = posterior(torch.full((1, 2, 1, 1), -50.0))
    assert lowest.item() == -30.0
