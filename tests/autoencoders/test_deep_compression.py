from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pochade.autoencoders.deep_compression import VARIANTS, DeepCompressionVAE
from pochade.autoencoders.hierarchical import ResidualBlock
from pochade.training.stages.autoencoder import AutoencoderSettings, AutoencoderTask

TOY: dict[str, Any] = {
    "latent_channels": 4,
    "widths": (4, 8, 8, 16),
    "encoder_blocks": (0, 1, 0, 1),
    "decoder_blocks": (1, 0, 1, 1),
}


def make(**changes: Any) -> Any:
    torch.manual_seed(0)
    return DeepCompressionVAE(**(TOY | changes)).eval()


def images(rows: int = 64, columns: int = 128, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, rows, columns, generator=torch.Generator().manual_seed(1)) * 2 - 1


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("variant", "millions", "widths"), [
    ("tiny", 16, (32, 64, 128, 256)),
    ("small", 77, (64, 128, 256, 512)),
    ("base", 110, (128, 256, 512, 512)),
])  # fmt: skip
def test_sizes_of_the_variants(variant: str, millions: float, widths: tuple[int, ...]):
    with torch.device("meta"):
        model: Any = DeepCompressionVAE(**VARIANTS[variant])
    assert count(model) == pytest.approx(millions * 1e6, rel=0.05)
    assert tuple(model.config.widths) == widths
    assert model.config.latent_channels == (16 if variant == "tiny" else 32)
    assert model.downsampling == 32


def test_nano_has_at_most_two_million():
    with torch.device("meta"):
        assert count(DeepCompressionVAE(**VARIANTS["nano"])) <= 2e6
    assert set(VARIANTS) == {"nano", "tiny", "small", "base"}


@pytest.mark.parametrize("f", [16, 32, 64])
@torch.no_grad()
def test_other_compressions_are_a_setting(f: int):
    model = make(downsampling=f)
    picture = images(f, 2 * f)
    latents = model.encode(picture)
    assert latents.shape == (2, 4, 1, 2)
    assert model.decode(latents).shape == picture.shape
    blocks = [m for m in model.encoder.modules() if isinstance(m, ResidualBlock)]
    assert len(blocks) == {16: 2, 32: 3, 64: 4}[f]


@torch.no_grad()
def test_the_shortcuts_alone_lose_nothing_where_channels_grow_fourfold():
    """16 x 16 pixels of three colours in 768 latents; also 16 -> 64 -> 16 channels, inside."""
    none = (0, 0, 0, 0)
    settings = {"widths": (12, 48, 192, 768), "encoder_blocks": none, "decoder_blocks": none, "downsampling": 16}
    full = make(latent_channels=768, **settings)
    torch.testing.assert_close(full(images()), images(), atol=1e-5, rtol=0)
    inner = make(latent_channels=64, widths=(16, 64), encoder_blocks=(1, 1), decoder_blocks=(1, 1), downsampling=4)
    features = torch.randn(2, 16, 8, 12, generator=torch.Generator().manual_seed(2))
    down, up = inner.encoder.stages, inner.decoder.stages
    assert down(features).shape == (2, 64, 4, 6)
    torch.testing.assert_close(up(down(features)), features, atol=1e-5, rtol=0)


@pytest.mark.parametrize("widths", [(4, 8, 8, 16), (16, 32, 32, 32), (12, 12, 24, 48)])
@torch.no_grad()
def test_before_training_the_picture_is_projected_on_what_the_latents_hold(widths: tuple[int, ...]):
    """Linear, of no effect when done twice, and the nearest picture of its kind: what is lost is orthogonal to it."""
    model = make(widths=widths)
    x = images(batch=1)
    once = model(x)
    torch.testing.assert_close(model(once), once, atol=1e-5, rtol=0)
    torch.testing.assert_close(model(-2 * x), -2 * once, atol=1e-5, rtol=0)
    assert float(((x - once) * once).sum() / once.square().sum()) == pytest.approx(0, abs=1e-4)
    assert 0 < once.square().sum() < x.square().sum()


def test_it_learns_one_batch_at_the_learning_rate_of_the_recipe():
    model = make(widths=(12, 12, 24, 48), latent_channels=12, variational=True).train()
    task = AutoencoderTask(model, AutoencoderSettings(perceptual=0.0, latent_noise=0.05, kl=1e-6))
    coarse = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1
    batch = {"image": nn.functional.interpolate(coarse, size=(32, 32)), "seed": torch.arange(4)}
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0)
    losses: list[float] = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = task(batch)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert max(losses) < 1.2 * losses[0]
    assert losses[-1] < 0.6 * losses[0]
