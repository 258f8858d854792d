"""LiRA's decoder: sizes as documented, shapes, tiles, what it refuses, and its graph."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from contracts.families import stir
from pochade.autoencoders.tiling import decode_tiled
from pochade.autoencoders.tiny_decoder import SIZES, TinyVAEDecoder, for_autoencoder
from pochade.errors import PochadeError
from pochade.export.onnx import export_decoder

DOCS = Path(__file__).parents[2] / "docs" / "families.md"
TOY: dict[str, Any] = {"latent_channels": 3, "widths": (8, 6), "blocks": (1, 1), "downsampling": 8}


def toy(**changes: Any) -> Any:
    torch.manual_seed(0)
    return stir(TinyVAEDecoder(**(TOY | changes)).eval(), 0.05)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("size", "expected"), [("tiny", 0.24e6), ("small", 1.2e6)])
@pytest.mark.parametrize(("channels", "f"), [(16, 8), (16, 16), (32, 32)])
def test_sizes_are_as_documented(size: str, expected: float, channels: int, f: int) -> None:
    with torch.device("meta"):
        decoder = for_autoencoder(size, channels, f)
    assert (decoder.downsampling, decoder.config.latent_channels) == (f, channels)
    assert sum(p.numel() for p in decoder.parameters()) == pytest.approx(expected, rel=0.05)
    kinds = {type(m) for m in decoder.modules() if not list(m.children())}
    assert kinds == {nn.Conv2d, nn.ReLU, nn.PixelShuffle}


def test_the_documentation_has_them() -> None:
    documented = re.findall(
        r"^\| TinyVAEDecoder (\w+) \| ([\d.]+) M \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert documented == [("tiny", "0.24"), ("small", "1.2")]
    assert [name for name, _ in documented] == list(SIZES)


@pytest.mark.parametrize("f", [2, 8, 32])
@torch.no_grad()
def test_shapes_and_range(f: int) -> None:
    decoder = toy(downsampling=f)
    latents = noise(2, 3, 3, 5)
    assert decoder.decode(latents).shape == (2, 3, 3 * f, 5 * f)
    assert torch.equal(decoder.decode(latents), decoder.decode_raw(latents).clamp(-1, 1))
    loud = decoder.decode(1e4 * latents)
    assert (float(loud.min()), float(loud.max())) == (-1, 1)


@torch.no_grad()
def test_before_training_pictures_are_about_grey() -> None:
    assert for_autoencoder("tiny", 4, 8).decode(noise(1, 4, 6, 6)).abs().mean() < 0.3


def test_every_parameter_receives_a_gradient() -> None:
    decoder = toy()
    decoder(noise(2, 3, 4, 4)).square().sum().backward()
    assert [n for n, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@torch.no_grad()
def test_a_sample_of_a_batch_and_a_shifted_picture() -> None:
    decoder, latents = toy(), noise(2, 3, 16, 16)
    decoded = decoder.decode(latents)
    torch.testing.assert_close(decoder.decode(latents[1:])[0], decoded[1], atol=1e-5, rtol=0)
    moved = decoder.decode(latents.roll((1, 1), (2, 3)))
    torch.testing.assert_close(moved[..., 48:88, 48:88], decoded[..., 40:80, 40:80], atol=1e-5, rtol=0)


@torch.no_grad()
def test_tiles_show_no_seam() -> None:
    for size, channels, f in (("tiny", 4, 8), ("tiny", 8, 32)):
        torch.manual_seed(0)
        decoder = stir(for_autoencoder(size, channels, f).eval(), 0.02)
        latents = noise(1, channels, 4, 28)
        seam = (decode_tiled(decoder, latents, tile=24, overlap=16) - decoder.decode(latents)).abs().max()
        assert seam * 127.5 < 0.5


@torch.no_grad()
def test_saved_and_loaded_every_bit_stays(tmp_path: Path) -> None:
    decoder, latents = toy(), noise(1, 3, 4, 4)
    decoder.save_pretrained(tmp_path)
    again: Any = TinyVAEDecoder.from_pretrained(tmp_path)
    assert torch.equal(again.eval().decode(latents), decoder.decode(latents))
    assert again.downsampling == 8


def test_export_parity(tmp_path: Path) -> None:
    assert export_decoder(toy(), tmp_path / "decoder.onnx", latent_size=(2, 3)).difference < 1e-5


def test_what_does_not_go_is_named() -> None:
    decoder = toy()
    with pytest.raises(PochadeError, match="encode: this is a decoder alone, allowed is the autoencoder"):
        decoder.encode(torch.zeros(1, 3, 16, 16))
    for wrong in ((1, 4, 2, 2), (3, 2, 2)):
        with pytest.raises(PochadeError, match=r"latents: shape .* given, allowed"):
            decoder.decode(torch.zeros(wrong))
    for changes in ({"downsampling": 1}, {"downsampling": 12}):
        with pytest.raises(PochadeError, match=r"downsampling: \d+ given, allowed are powers of two from 2"):
            toy(**changes)
    for changes in ({"blocks": (1,)}, {"widths": (), "blocks": ()}):
        with pytest.raises(PochadeError, match=r"blocks: .* given, allowed is a number for each"):
            toy(**changes)
    with pytest.raises(PochadeError, match=r"blocks: \(1, -1\) given, must be a list, each a whole number from 0 to"):
        toy(blocks=(1, -1))
    for size, f in (("large", 8), ("tiny", 64)):
        with pytest.raises(PochadeError, match=rf"size: '{size}' for {f} pixels .*allowed are tiny for 8/16/32, small"):
            for_autoencoder(size, 4, f)
