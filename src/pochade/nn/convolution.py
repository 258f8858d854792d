"""Convolutions over the token grid that take and give tokens. Axis letters: pochade.types.

Tokens [B, H W, D] seen as [B, D, H, W] are a channels-last picture already, so no data is moved on the way in or out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.cpu import inference
from pochade.nn.depthwise import as_grid, as_tokens, depthwise
from pochade.nn.layout import with_own_layout
from pochade.nn.linear import Linear
from pochade.nn.norms import as_stream


def check_grid(x: Tensor, height: int, width: int) -> None:
    """Raises PochadeError unless x [B, N, D] holds the N = H W tokens of the grid."""
    if height < 1 or width < 1 or x.shape[1] != height * width:
        raise PochadeError(
            f"height, width: {height} and {width} given, allowed are those with a product of {x.shape[1]} tokens"
        )


class DepthwiseConv(nn.Conv2d):
    """k x k convolution of each channel alone, zeros around the grid: [B, H W, D] -> [B, H W, D].

    Args:
        dim: D.
        kernel: k, odd.

    Raises:
        PochadeError: H W is not the number of tokens.
    """

    def __init__(self, dim: int, kernel: int = 3) -> None:
        super().__init__(dim, dim, kernel, padding=kernel // 2, groups=dim)  # pyright: ignore[reportUnknownMemberType]

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, height: int, width: int, middle: Tensor | None = None
    ) -> Tensor:
        """``middle`` [D] is added to the middle of each channel's kernel, in exported graphs alone."""
        check_grid(x, height, width)
        if self.bias is not None and inference.serves(x, self.weight):
            return inference.depthwise(x, self.weight, self.bias, height, width)
        own = self.kernel_size == (3, 3)  # what the operator for GPUs computes
        if x.is_cuda and own and self.bias is not None and not torch.compiler.is_exporting():
            return depthwise(as_stream(x), self.weight, self.bias, height, width)
        weight = with_own_layout(self.weight)
        if middle is not None:
            weight = weight + F.pad(middle[:, None, None, None], (self.kernel_size[0] // 2,) * 4)
        return as_tokens(self._conv_forward(as_grid(x, height, width), weight, self.bias))


class PatchEmbedding(nn.Conv2d):
    """A vector for each patch of p x p cells: [B, C, H, W] -> [B, D, H / p, W / p].

    On GPUs it is a matrix product: there convolutions in float32 are computed in TF32 unless torch is told otherwise,
    products are not. With ten bits of each factor here IRIS gives velocities that are off by 1e-4 to 7e-4, in float32
    throughout by 3e-6 (both against float64).
    """

    def __init__(self, channels: int, dim: int, patch: int, *, bias: bool = True) -> None:
        super().__init__(channels, dim, patch, stride=patch, bias=bias)  # pyright: ignore[reportUnknownMemberType]

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return patch_product(x, self.weight, self.bias) if x.is_cuda else super().forward(x)


def patch_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of x [B, C, H, W] with weight [D, C, p, p] in steps of p: [B, D, H / p, W / p]."""
    patches = F.pixel_unshuffle(x, weight.shape[-1]).permute(0, 2, 3, 1)
    return F.linear(patches, weight.flatten(1), bias).permute(0, 3, 1, 2)


class DepthwiseSeparableConv(nn.Module):
    """W GELU(depthwise 3 x 3 (x)): [B, H W, D] -> [B, H W, D] (1704.04861, section 3.1, one activation).

    Raises:
        PochadeError: H W is not the number of tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return self.out(F.gelu(self.depthwise(x, height, width)))
