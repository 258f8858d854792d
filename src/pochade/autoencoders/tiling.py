"""Large pictures piece by piece, for any autoencoder: memory for one tile, seams blended."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pochade.errors import PochadeError


def decode_tiled(autoencoder: Any, latents: Tensor, *, tile: int = 64, overlap: int = 16) -> Tensor:
    """``autoencoder.decode(latents)`` computed in tiles: [B, C, H, W] -> [B, 3, f H, f W] in [-1, 1].

    Three eighths of an overlap at either side, where the cuts are felt, are thrown away, and the quarter between them
    is blended linearly. A network of convolutions with a receptive field of at most ``3/8 overlap`` cells gives exactly
    what it gives in one piece.

    Args:
        autoencoder: has ``decode``, ``downsampling`` and ``config.latent_channels``.
        latents: of unit variance; as large as one tile or smaller they are decoded in one piece.
        tile: rows and columns of a tile, in latent cells.
        overlap: rows and columns that neighbours share, in latent cells, 0 to ``tile - 1``.

    Raises:
        PochadeError: a shape, the tile or the overlap does not fit.
    """
    _check(tile, overlap)
    return _in_tiles(autoencoder.decode, latents, tile, overlap, unit=1, scale=autoencoder.downsampling)


def encode_tiled(autoencoder: Any, images: Tensor, *, tile: int = 64, overlap: int = 16) -> Tensor:
    """``autoencoder.encode(images)`` computed in tiles: [B, 3, f H, f W] -> [B, C, H, W].

    Tile, overlap (both in latent cells) and errors as for ``decode_tiled``.
    """
    _check(tile, overlap)
    f = autoencoder.downsampling
    if images.ndim != 4 or images.shape[2] % f or images.shape[3] % f:
        raise PochadeError(
            f"images: shape {tuple(images.shape)} given, allowed is [B, 3, H, W] with H and W multiples of {f}"
        )
    return _in_tiles(autoencoder.encode, images, tile, overlap, unit=f, scale=1)


def _check(tile: int, overlap: int) -> None:
    if tile < 1:
        raise PochadeError(f"tile: {tile} given, allowed is 1 and more")
    if not 0 <= overlap < tile:
        raise PochadeError(f"overlap: {overlap} given, allowed is 0 to {tile - 1}, less than the tile")


def _in_tiles(
    convert: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, *, unit: int, scale: int
) -> Tensor:
    """``convert`` on tiles of ``x``; a latent cell is ``unit`` values wide in x and ``scale`` wide in the result."""
    if x.ndim != 4 or max(x.shape[2:]) <= tile * unit:
        return convert(x)
    rows, columns = (size // unit for size in x.shape[2:])
    out: Tensor | None = None
    for top, height, down in pieces(rows, tile, overlap, scale):
        for left, width, across in pieces(columns, tile, overlap, scale):
            part = convert(x[:, :, top * unit : (top + height) * unit, left * unit : (left + width) * unit])
            if out is None:
                out = part.new_zeros((*part.shape[:2], rows * scale, columns * scale), dtype=torch.float32)
            weight = down.to(part.device)[:, None] * across.to(part.device)
            here = out[:, :, top * scale : (top + height) * scale, left * scale : (left + width) * scale]
            here += weight * part
    assert out is not None
    return out.to(x.dtype)


def pieces(size: int, tile: int, overlap: int, scale: int) -> list[tuple[int, int, Tensor]]:
    """Start and length of each tile along one axis, in cells, and its weights [length * scale].

    ``scale`` is how many values of the result stand for a cell. All tiles are equally long (the last one overlaps
    more, if need be), and the weights add up to 1 everywhere.
    """
    length = min(tile, size)
    starts = [*range(0, size - length, tile - overlap), size - length]
    total = torch.zeros(size * scale)
    weights: list[Tensor] = []
    for start in starts:
        ones = torch.ones(length * scale)
        ramp = _ramp(length, overlap, scale)
        weight = (ramp if start else ones) * (ramp.flip(0) if start < size - length else ones)
        total[start * scale : (start + length) * scale] += weight
        weights.append(weight)
    return [
        (start, length, weight / total[start * scale : (start + length) * scale])
        for start, weight in zip(starts, weights, strict=True)
    ]


def _ramp(length: int, overlap: int, scale: int) -> Tensor:
    """0 in the first three eighths of the overlap, then linearly to 1 within the next quarter."""
    if overlap == 0:
        return torch.ones(length * scale)
    at = (torch.arange(length * scale) + 0.5) / scale
    return ((at - overlap * 3 / 8) / (overlap / 4)).clamp(0, 1)
