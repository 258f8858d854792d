"""A large picture sampled in tiles that agree at every step."""

from dataclasses import replace

import torch
from torch import Tensor

from pochade.autoencoders.tiling import pieces
from pochade.types import Conditioning, Denoiser, DenoiserOutput

AT_ONCE = 16
"""Samples in a batch of tiles."""


class TiledDenoiser:
    """A denoiser whose latents may be of any size: it sees tiles of one size, and the velocities of tiles that overlap
    are blended (2302.08113 eq. 5), so that all steps work on one picture, without seams.

    The same call as a denoiser's. A tile gets its own part of a source and a mask, and the other parts of the
    conditioning as they are (there is no control). Every tile carries its own state from step to step, [B, tiles, ...]
    for all; ``aux`` is the mean over the tiles.

    Args:
        denoiser: of any family.
        tile: rows and columns of a tile in latent cells; what is smaller is one tile.
        overlap: rows and columns that neighbours share, 0 to ``tile - 1``.
    """

    def __init__(self, denoiser: Denoiser, tile: int, overlap: int) -> None:
        self.denoiser = denoiser
        self.tile = tile
        self.overlap = overlap
        self.config = denoiser.config

    def __call__(
        self,
        latents: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        *,
        state: Tensor | None = None,
        depth: int | None = None,
    ) -> DenoiserOutput:
        B, _, H, W = latents.shape
        rows, columns = (pieces(size, self.tile, self.overlap, 1) for size in (H, W))
        places = [(row, column) for row in rows for column in columns]
        many = max(1, AT_ONCE // B)
        groups = [places[i : i + many] for i in range(0, len(places), many)]
        # A tile's rows are those of the batch, the state that is handed over has the batch axis first.
        carried = (
            [None] * len(groups)
            if state is None
            else [part.transpose(0, 1).flatten(0, 1) for part in state.split([len(group) for group in groups], dim=1)]
        )
        velocity = torch.zeros_like(latents)
        outputs: list[DenoiserOutput] = []
        for group, own in zip(groups, carried, strict=True):
            n = len(group)
            cut = [latents[:, :, y : y + h, x : x + w] for (y, h, _), (x, w, _) in group]
            conditionings = Conditioning.cat([_inside(conditioning, y, h, x, w) for (y, h, _), (x, w, _) in group])
            out = self.denoiser(torch.cat(cut), t.repeat(n), conditionings, state=own, depth=depth)
            outputs.append(out)
            for ((y, h, down), (x, w, across)), part in zip(group, out.velocity.split(B), strict=True):
                weight = down.to(part)[:, None] * across.to(part)
                velocity[:, :, y : y + h, x : x + w] += weight * part
        states = [out.state.unflatten(0, (-1, B)).transpose(0, 1) for out in outputs if out.state is not None]
        aux = {
            name: torch.cat([out.aux[name].float() for out in outputs]).unflatten(0, (-1, B)).mean(0)
            for name, value in outputs[0].aux.items()
            if value.ndim
        }
        return DenoiserOutput(velocity, torch.cat(states, dim=1) if states else None, aux)


def _inside(conditioning: Conditioning, y: int, height: int, x: int, width: int) -> Conditioning:
    """With source and mask cut to a tile."""
    if conditioning.source is None:
        return conditioning
    mask = conditioning.source_mask
    return replace(
        conditioning,
        source=conditioning.source[:, :, y : y + height, x : x + width],
        source_mask=None if mask is None else mask[:, :, y : y + height, x : x + width],
    )
