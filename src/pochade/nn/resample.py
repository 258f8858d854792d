"""Between resolutions without loss: the Haar transform and the residual shortcuts of DC-AE."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.errors import PochadeError


def haar_dwt(x: Tensor) -> Tensor:
    """Orthonormal Haar transform of one level: [B, C, H, W] -> [B, 4 C, H/2, W/2].

    Each 2 x 2 cell (a b / c d) gives four numbers, LL = (a + b + c + d) / 2, LH = (a + b - c - d) / 2,
    HL = (a - b + c - d) / 2 and HH = (a - b - c + d) / 2. The output holds the C channels of LL, then those of LH, HL
    and HH: the approximation and the horizontal, vertical and diagonal details of ``pywt.dwt2(x, "haar")``. The
    transform is orthogonal: energy is kept, and LL is twice the mean of its cell.

    Raises:
        PochadeError: H or W is odd.
    """
    _check_even(x)
    top, bottom = x[..., 0::2, :], x[..., 1::2, :]
    low, high = top + bottom, top - bottom
    low_left, low_right = low[..., 0::2], low[..., 1::2]
    high_left, high_right = high[..., 0::2], high[..., 1::2]
    bands = (low_left + low_right, high_left + high_right, low_left - low_right, high_left - high_right)
    return torch.cat(bands, dim=1) / 2


def haar_idwt(bands: Tensor) -> Tensor:
    """The inverse, and the transpose, of ``haar_dwt``: [B, 4 C, H, W] -> [B, C, 2 H, 2 W].

    Raises:
        PochadeError: the channels are not a multiple of 4.
    """
    if bands.shape[1] % 4:
        raise PochadeError(f"bands: {bands.shape[1]} channels given, must be a multiple of 4")
    ll, lh, hl, hh = bands.chunk(4, dim=1)
    low_left, low_right = ll + hl, ll - hl
    high_left, high_right = lh + hh, lh - hh
    top = torch.stack((low_left + high_left, low_right + high_right), dim=-1).flatten(-2)
    bottom = torch.stack((low_left - high_left, low_right - high_right), dim=-1).flatten(-2)
    return torch.stack((top, bottom), dim=-2).flatten(-3, -2) / 2


def downsample_shortcut(x: Tensor, channels: int) -> Tensor:
    """Space to channel, then the mean of each group of channels (2410.10733, figure 4).

    [B, C, H, W] -> [B, channels, H/2, W/2]. Lossless where ``channels`` is 4 C; the inverse of ``upsample_shortcut``
    from the left, whatever the channels: down(up(x)) is x.

    Raises:
        PochadeError: H or W is odd, or 4 C is not a multiple of ``channels``.
    """
    _check_down(x.shape[1], channels)
    _check_even(x)
    batch, given, height, width = x.shape
    return F.pixel_unshuffle(x, 2).view(batch, channels, 4 * given // channels, height // 2, width // 2).mean(2)


def upsample_shortcut(x: Tensor, channels: int) -> Tensor:
    """Each channel repeated, then channel to space (2410.10733, figure 4).

    [B, C, H, W] -> [B, channels, 2 H, 2 W]; lossless (a mere rearrangement) where ``channels`` is C / 4.

    Raises:
        PochadeError: 4 ``channels`` is not a multiple of C.
    """
    _check_up(x.shape[1], channels)
    return F.pixel_shuffle(x.repeat_interleave(4 * channels // x.shape[1], dim=1), 2)


class ShortcutDownsample(nn.Module):
    """[B, C_in, H, W] -> [B, C_out, H/2, W/2]: a 3 x 3 convolution of stride 2 beside ``downsample_shortcut``.

    Raises:
        PochadeError: 4 C_in is not a multiple of C_out; in ``forward`` an odd H or W.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        _check_down(in_channels, out_channels)
        self.out_channels = out_channels
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return downsample_shortcut(x, self.out_channels) + self.conv(x)


class ShortcutUpsample(nn.Module):
    """[B, C_in, H, W] -> [B, C_out, 2 H, 2 W]: a 3 x 3 convolution and pixel-shuffle beside ``upsample_shortcut``.

    Raises:
        PochadeError: 4 C_out is not a multiple of C_in.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        _check_up(in_channels, out_channels)
        self.out_channels = out_channels
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return upsample_shortcut(x, self.out_channels) + F.pixel_shuffle(self.conv(x), 2)


def _check_even(x: Tensor) -> None:
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        raise PochadeError(f"x: {x.shape[-2]} x {x.shape[-1]} given, height and width must be even")


def _check_down(given: int, channels: int) -> None:
    if channels < 1 or 4 * given % channels:
        raise PochadeError(f"channels: {channels} given, must divide {4 * given}, four times the {given} that enter")


def _check_up(given: int, channels: int) -> None:
    if channels < 1 or 4 * channels % given:
        raise PochadeError(f"channels: {channels} given, four times that must be a multiple of the {given} that enter")
