"""What every autoencoder keeps, at toy size."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from contracts.families import AUTOENCODERS, load_class, stir
from pochade.autoencoders.tiling import decode_tiled, encode_tiled
from pochade.errors import PochadeError
from pochade.export.onnx import export_decoder

DOCS = Path(__file__).parents[2] / "docs" / "families.md"
TIGHT = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(params=AUTOENCODERS)
def autoencoder(request: pytest.FixtureRequest) -> Any:
    entry = AUTOENCODERS[request.param]
    torch.manual_seed(0)
    return stir(load_class(entry.path)(**entry.toy).eval(), 0.02)


def images(autoencoder: Any, batch: int, rows: int, columns: int) -> torch.Tensor:
    """Random images of rows x columns latent cells."""
    f = autoencoder.downsampling
    generator = torch.Generator().manual_seed(3)
    return torch.rand((batch, 3, rows * f, columns * f), generator=generator) * 2 - 1


@pytest.mark.parametrize("cells", [(2, 2), (4, 4), (2, 3)])
@torch.no_grad()
def test_shapes_and_range(autoencoder: Any, cells: tuple[int, int]) -> None:
    pictures = images(autoencoder, 2, *cells)
    latents = autoencoder.encode(pictures)
    assert latents.shape == (2, autoencoder.config.latent_channels, *cells)
    decoded = autoencoder.decode(latents)
    assert decoded.shape == pictures.shape
    assert torch.isfinite(decoded).all()
    loud = autoencoder.decode(latents * 1e4)
    assert loud.min() >= -1
    assert loud.max() <= 1


@torch.no_grad()
def test_latents_are_normalised_by_the_configuration(autoencoder: Any, tmp_path: Path) -> None:
    pictures = images(autoencoder, 4, 3, 3)
    raw = autoencoder.encode(pictures)
    decoded = autoencoder.decode(raw)
    mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
    autoencoder.set_statistics(mean, std)
    latents = autoencoder.encode(pictures)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros_like(mean), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones_like(std), atol=1e-4, rtol=0)
    torch.testing.assert_close(autoencoder.decode(latents), decoded, atol=1e-4, rtol=0)
    autoencoder.save_pretrained(tmp_path)
    again = type(autoencoder).from_pretrained(tmp_path).eval()
    assert torch.equal(again.encode(pictures), latents)
    assert torch.equal(again.decode(latents), autoencoder.decode(latents))
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(PochadeError, match="std: "):
            autoencoder.set_statistics(mean, torch.full_like(std, wrong))


def test_every_parameter_receives_a_gradient(autoencoder: Any) -> None:
    autoencoder.train()
    pictures = images(autoencoder, 2, 2, 2)
    (autoencoder(pictures) - pictures).square().sum().backward()
    without = [n for n, p in autoencoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@torch.no_grad()
def test_batch_invariance(autoencoder: Any) -> None:
    pictures = images(autoencoder, 3, 2, 3)
    latents = autoencoder.encode(pictures)
    decoded = autoencoder.decode(latents)
    for i in range(3):
        torch.testing.assert_close(autoencoder.encode(pictures[i : i + 1])[0], latents[i], **TIGHT)
        torch.testing.assert_close(autoencoder.decode(latents[i : i + 1])[0], decoded[i], **TIGHT)


@torch.no_grad()
def test_bad_shapes(autoencoder: Any) -> None:
    f, c = autoencoder.downsampling, autoencoder.config.latent_channels
    for wrong in ((1, 3, f + 1, f), (1, 4, f, f), (3, f, f)):
        with pytest.raises(PochadeError, match=r"images: .*allowed"):
            autoencoder.encode(torch.zeros(wrong))
    for wrong in ((1, c + 1, 2, 2), (c, 2, 2)):
        with pytest.raises(PochadeError, match=r"latents: .*allowed"):
            autoencoder.decode(torch.zeros(wrong))


@torch.no_grad()
def test_other_types_than_that_of_the_weights_are_refused(autoencoder: Any) -> None:
    pictures = images(autoencoder, 1, 2, 2)
    latents = autoencoder.encode(pictures)
    for wrong in ((pictures * 127).byte(), pictures.double(), pictures.half()):
        for convert in (autoencoder.encode, autoencoder, lambda x: encode_tiled(autoencoder, x, tile=1, overlap=0)):
            with pytest.raises(PochadeError, match=f"^images: {wrong.dtype} given, allowed is torch.float32"):
                convert(wrong)
    for wrong in (latents.long(), latents.double(), latents.bfloat16()):
        for convert in (autoencoder.decode, lambda x: decode_tiled(autoencoder, x, tile=1, overlap=0)):
            with pytest.raises(PochadeError, match=f"^latents: {wrong.dtype} given, allowed is torch.float32"):
                convert(wrong)
    assert autoencoder.double().decode(autoencoder.encode(pictures.double())).dtype == torch.float64
    autoencoder.float()
    with torch.autocast("cpu", torch.bfloat16):  # which settles the types itself
        assert autoencoder.decode(autoencoder.encode(pictures.bfloat16())).shape == pictures.shape
        with pytest.raises(PochadeError, match=r"^images: torch.uint8 given"):
            autoencoder.encode((pictures * 127).byte())


def documented() -> list[tuple[str, str, int, int, float, float]]:
    """Class, variant, downsampling, channels and the parameters of both halves, from the table in docs/families.md."""
    row = re.compile(
        r"^\| (\w+) \| (\w+) \| (\d+) x \d+ \| (\d+) \| ([\d.]+) M \| ([\d.]+) M \|",
        re.MULTILINE,
    )
    return [
        (name, variant, int(f), int(c), 1e6 * float(encoder), 1e6 * float(decoder))
        for name, variant, f, c, encoder, decoder in row.findall(DOCS.read_text(encoding="utf-8"))
    ]


def tables() -> dict[str, tuple[Any, dict[str, dict[str, Any]]]]:
    """Class name -> class and variants, of the autoencoders that come in sizes."""
    classes = [load_class(entry.path) for entry in AUTOENCODERS.values()]
    modules = [(cls, sys.modules[cls.__module__]) for cls in classes]
    return {cls.__name__: (cls, module.VARIANTS) for cls, module in modules if hasattr(module, "VARIANTS")}


def test_every_variant_is_documented() -> None:
    known = {(name, variant) for name, (_, variants) in tables().items() for variant in variants}
    assert {row[:2] for row in documented()} == known


@pytest.mark.parametrize(("name", "variant", "f", "channels", "encoder", "decoder"), documented())
def test_parameter_counts(name: str, variant: str, f: int, channels: int, encoder: float, decoder: float) -> None:
    cls, variants = tables()[name]
    with torch.device("meta"):
        model = cls(**variants[variant])
    assert (model.downsampling, model.config.latent_channels) == (f, channels)
    for part, expected in ((model.encoder, encoder), (model.decoder, decoder)):
        assert sum(p.numel() for p in part.parameters()) == pytest.approx(expected, rel=0.03)


def test_export_parity(autoencoder: Any, tmp_path: Path) -> None:
    exported = export_decoder(autoencoder, tmp_path / "decoder.onnx", latent_size=(2, 3))
    assert exported.difference < 1e-5
