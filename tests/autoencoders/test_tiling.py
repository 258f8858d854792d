from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contracts.families import AUTOENCODERS, load_class, stir
from pochade.autoencoders.tiling import decode_tiled, encode_tiled
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.errors import PochadeError
from pochade.pipelines import hub


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


class Local:
    """With a receptive field of three cells around; it sees a tile's border: what is outside counts as 7."""

    downsampling = 2

    def __init__(self) -> None:
        self.sizes: set[tuple[int, ...]] = set()

    def decode(self, latents: Tensor) -> Tensor:
        self.sizes.add(tuple(latents.shape[2:]))
        padded = nn.functional.pad(latents, (3, 3, 3, 3), value=7.0)
        blurred = nn.functional.avg_pool2d(padded, 7, 1)
        return blurred.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def encode(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(nn.functional.pad(images, (6, 6, 6, 6), value=7.0), 14, 2)


@pytest.mark.parametrize("size", [(9, 12), (12, 9), (31, 13), (24, 37)])
def test_a_network_whose_receptive_field_is_at_most_three_eighths_of_the_overlap_sees_no_cut(size: tuple[int, int]):
    net = Local()
    latents = noise(2, 3, *size)
    torch.testing.assert_close(decode_tiled(net, latents, tile=12, overlap=8), Local().decode(latents))
    assert net.sizes == {(min(12, size[0]), min(12, size[1]))}
    images = noise(2, 3, 2 * size[0], 2 * size[1])
    encoded = encode_tiled(net, images, tile=12, overlap=8)
    assert encoded.shape == latents.shape
    torch.testing.assert_close(encoded, net.encode(images))


def test_a_shorter_overlap_shows():
    latents = noise(1, 3, 30, 30)
    assert (decode_tiled(Local(), latents, tile=12, overlap=2) - Local().decode(latents)).abs().max() > 0.1


@pytest.mark.parametrize("overlap", [0, 1, 2, 3, 5, 9])
@pytest.mark.parametrize("size", [(10, 11), (29, 17)])
def test_weights_add_up_to_one(size: tuple[int, int], overlap: int):
    class Ones:
        downsampling = 3

        def decode(self, latents: Tensor) -> Tensor:
            return torch.ones(latents.shape[0], 3, 3 * latents.shape[2], 3 * latents.shape[3])

        def encode(self, images: Tensor) -> Tensor:
            return torch.ones(images.shape[0], 5, images.shape[2] // 3, images.shape[3] // 3)

    decoded = decode_tiled(Ones(), noise(1, 5, *size), tile=10, overlap=overlap)
    torch.testing.assert_close(decoded, torch.ones(1, 3, 3 * size[0], 3 * size[1]))
    encoded = encode_tiled(Ones(), noise(1, 3, 3 * size[0], 3 * size[1]), tile=10, overlap=overlap)
    torch.testing.assert_close(encoded, torch.ones(1, 5, *size))


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_a_difference_between_tiles_is_feathered(bias: float):
    """Tiles that disagree by 1 meet without a step of more than a blended pixel."""

    class Disagree:
        downsampling = 4

        def decode(self, latents: Tensor) -> Tensor:
            self.bias = -getattr(self, "bias", bias)
            return torch.full((1, 3, 4 * latents.shape[2], 4 * latents.shape[3]), self.bias)

    row = decode_tiled(Disagree(), noise(1, 2, 8, 24), tile=16, overlap=8)[0, 0, 0]
    steps = row.diff().abs()
    assert steps.max() <= 2 * bias / 8 + 1e-6  # a quarter of 8 cells of 4 pixels
    assert row[0] == -bias
    assert row[-1] == bias


@pytest.mark.parametrize("name", [name for name, entry in AUTOENCODERS.items() if entry.local])
@torch.no_grad()
def test_every_local_autoencoder_decodes_and_encodes_in_tiles(name: str):
    entry = AUTOENCODERS[name]
    torch.manual_seed(0)
    net: Any = stir(load_class(entry.path)(**entry.toy).eval(), 0.02)
    latents = noise(1, net.config.latent_channels, 9, 40)
    whole = net.decode(latents)
    tiled = decode_tiled(net, latents, tile=24, overlap=16)
    assert (tiled - whole).abs().max() * 127.5 < 0.5
    assert (encode_tiled(net, whole, tile=24, overlap=16) - net.encode(whole)).abs().max() < 1e-4


@torch.no_grad()
def test_the_shipped_autoencoder_shows_no_seam_of_one_in_255():
    folder = hub.shipped()["lrf-openmoji"] / "autoencoder"
    net: Any = TinyAutoencoder.from_pretrained(folder).eval()
    coarse = noise(1, 3, 5, 9).clamp(-1, 1)
    picture = nn.functional.interpolate(coarse, size=(160, 288))
    latents = net.encode(picture)
    seam = (decode_tiled(net, latents, tile=24, overlap=16) - net.decode(latents)).abs().max() * 127.5
    assert seam < 1
    assert (encode_tiled(net, picture, tile=24, overlap=16) - latents).abs().max() < 1e-3


@torch.no_grad()
def test_small_pictures_stay_in_one_piece_and_the_type_is_kept():
    net = Local()
    latents = noise(1, 3, 12, 5)
    assert torch.equal(decode_tiled(net, latents, tile=12, overlap=4), Local().decode(latents))
    assert net.sizes == {(12, 5)}
    half = decode_tiled(net, noise(1, 3, 20, 20).bfloat16(), tile=12, overlap=4)
    assert half.dtype == torch.bfloat16


def test_bad_tiles_are_named():
    net, latents = Local(), noise(1, 3, 20, 20)
    for tile, overlap, message in ((0, 0, "tile: 0"), (8, 8, "overlap: 8"), (8, -1, "overlap: -1")):
        for work, x in ((decode_tiled, latents), (encode_tiled, latents)):
            with pytest.raises(PochadeError, match=f"{message} given, allowed"):
                work(net, x, tile=tile, overlap=overlap)
    with pytest.raises(PochadeError, match=r"images: shape .* multiples of 2"):
        encode_tiled(net, noise(1, 3, 41, 40), tile=8, overlap=2)
