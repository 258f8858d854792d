"""What IRIS reads once, before its core is iterated: the latents, and a control picture beside them."""

# torch leaves some of its types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import torch.nn.functional as F
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.convolution import DepthwiseSeparableConv
from pochade.nn.feedforward import FeedForward
from pochade.nn.modulation import Modulation, modulated_norm

NARROWEST = 16
"""Channels of the first convolution that reads a control picture; each further one has twice as many, up to D."""


class PreludeBlock(nn.Module):
    """Depthwise-separable convolution, then feed-forward, each normalised before and added: [B, H W, D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mixer_norm = nn.LayerNorm(dim, eps=1e-6)
        self.mixer = DepthwiseSeparableConv(dim)
        self.feedforward_norm = nn.LayerNorm(dim, eps=1e-6)
        self.feedforward = FeedForward(dim, 4 * dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.mixer(self.mixer_norm(x), height, width)
        return x + self.feedforward(self.feedforward_norm(x))


class ControlInput(nn.Module):
    """A branch of the prelude that reads a control picture, such as edges, and what it adds to the prelude's output.

    Convolutions halve the picture until a token has one cell, two blocks read it together with the latents, and a
    read-out that time, class and text modulate is added, from zero, so that at first the picture changes nothing
    (2302.05543, section 3.1, with a branch of its own in place of a copy of the network). A row whose picture is zero
    everywhere has no control: nothing is added to it.

    Args:
        channels: C_control. cell: pixels along one side of a token, a power of two. dim: D.

    Raises:
        PochadeError: an argument is out of range.
    """

    def __init__(self, channels: int, cell: int, dim: int) -> None:
        super().__init__()
        if channels < 1:
            raise PochadeError(f"control_channels: {channels} given, allowed is 0 and more")
        if cell < 1 or cell & (cell - 1):
            raise PochadeError(
                f"control_downsampling: {cell} pixels to a side of a token come of it, allowed are powers of two"
            )
        halvings = cell.bit_length() - 1
        widths = [channels, *(min(NARROWEST * 2**i, dim) for i in range(halvings))]
        self.halve = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, 2, 1) for i in range(halvings))
        self.widen = nn.Conv2d(widths[-1], dim, 1)
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.blocks = nn.ModuleList(PreludeBlock(dim) for _ in range(2))
        self.modulation = Modulation(dim, 2)
        self.out = nn.Linear(dim, dim)

    def forward(self, control: Tensor, x: Tensor, steer: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, C_control, H, W] in pixels, the latents' tokens x [B, N, D] and steering [B, D] -> [B, N, D] to add."""
        there = (control != 0).flatten(1).any(1)
        y = control.to(x.dtype)
        for convolution in self.halve:
            y = F.gelu(convolution(y))
        y = self.norm(self.widen(y).flatten(2).transpose(1, 2)) + F.rms_norm(x, (x.shape[-1],), eps=1e-6)
        for block in self.blocks:
            y = block(y, *grid)
        return self.out(modulated_norm(y, *self.modulation(steer))) * there[:, None, None]
