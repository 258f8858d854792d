# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportCallIssue=false
# (The bodies of kernels are in Triton's language, whose types Python's checkers do not know.)
"""The depthwise 3 x 3 convolution of tokens on CUDA: Triton kernels, forward and backward. Imported only there.

How the work is cut. A convolution of a channel alone is nine multiply-adds for each number that is read and written:
what counts is that every number crosses the memory once. A program takes a row of the grid, or a part of it, and a
block of channels; its eight neighbours are read by other programs at about the same time, and come from the caches.
Channels lie side by side, as tokens have them, and the rows of x may be farther apart than it is wide: a part of a
wider tensor is read where it lies.

The gradient of the weights is a sum over all tokens for each channel and place of the kernel. A program adds up the
rows that fall to it in registers and leaves one partial sum; these are added in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PLACES = 9
SPAN = 16
"""Tokens of a row that a program takes at a time, at most."""
TILE = 1024
"""Numbers that it takes at a time."""
PARTIAL_SUMS = 512
"""Programs that share the sum over the tokens, for each block of channels."""


@triton.jit
def _tile(x, row, column, channel, item_stride, token_stride, item, height, width, inside):
    """The numbers [SPAN, BLOCK_D] of a row of the grid, zero outside."""
    row += 0 * column  # of a number alone the interpreter makes a mask of whole numbers
    there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    offset = item * item_stride + (row * width + column).to(tl.int64)[:, None] * token_stride + channel[None, :]
    return tl.load(x + offset, mask=there[:, None] & inside[None, :], other=0)


@triton.jit
def _forward_kernel(
    x, weight, bias, y, item_stride, token_stride, height, width, D, FLIP: tl.constexpr, SUM: tl.constexpr,
    BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """y = conv(x) + bias for one row, or part of one, and a block of channels; ``weight`` [9, D].

    FLIP: with the weights turned about, which is the adjoint.
    """
    program = tl.program_id(0).to(tl.int64)
    blocks, parts = tl.cdiv(D, BLOCK_D), tl.cdiv(width, BLOCK_W)
    channel = (program % blocks * BLOCK_D).to(tl.int32) + tl.arange(0, BLOCK_D)
    column = (program // blocks % parts * BLOCK_W).to(tl.int32) + tl.arange(0, BLOCK_W)
    row = (program // blocks // parts % height).to(tl.int32)
    item = program // blocks // parts // height
    inside = channel < D

    total = tl.zeros((BLOCK_W, BLOCK_D), SUM)
    if bias is not None:
        total += tl.load(bias + channel, mask=inside, other=0).to(SUM)[None, :]
    for place in tl.static_range(9):
        down, right = place // 3 - 1, place % 3 - 1
        tile = _tile(x, row + down, column + right, channel, item_stride, token_stride, item, height, width, inside)
        factor = tl.load(weight + (8 - place if FLIP else place) * D + channel, mask=inside, other=0)
        total += factor.to(SUM)[None, :] * tile.to(SUM)
    token = item * height * width + row * width + column
    tl.store(y + token[:, None] * D + channel[None, :], total, mask=(column < width)[:, None] & inside[None, :])


@triton.jit
def _weight_kernel(
    grad, x, sums, grad_item_stride, grad_token_stride, item_stride, token_stride, rows, share, height, width, D,
    SUM: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """The sums of grad x, at each of the nine places, and of grad, over ``share`` of the ``rows`` of all items."""
    program = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(D, BLOCK_D)
    channel = (program % blocks * BLOCK_D).to(tl.int32) + tl.arange(0, BLOCK_D)
    inside = channel < D
    slot = program // blocks
    totals = ()
    for _ in tl.static_range(10):
        totals = totals + (tl.zeros((BLOCK_W, BLOCK_D), SUM),)  # noqa: RUF005
    for index in range(slot * share, tl.minimum((slot + 1) * share, rows)):
        item, row = index // height, (index % height).to(tl.int32)
        for start in range(0, width, BLOCK_W):
            column = start + tl.arange(0, BLOCK_W)
            own = _tile(
                grad, row, column, channel, grad_item_stride, grad_token_stride, item, height, width, inside
            ).to(SUM)
            added = ()
            for place in tl.static_range(9):
                down, right = place // 3 - 1, place % 3 - 1
                tile = _tile(
                    x, row + down, column + right, channel, item_stride, token_stride, item, height, width, inside
                )
                added = added + (totals[place] + own * tile.to(SUM),)  # noqa: RUF005
            totals = added + (totals[9] + own,)  # noqa: RUF005
    for place in tl.static_range(10):
        tl.store(sums + (slot * 10 + place) * D + channel, tl.sum(totals[place], axis=0), mask=inside)


def _sum_type(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _blocks(width: int, dim: int) -> tuple[int, int]:
    span = min(SPAN, triton.next_power_of_2(width))
    return span, min(TILE // span, max(16, triton.next_power_of_2(dim)))


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int, flip: bool) -> Tensor:
    batch, tokens, dim = x.shape
    x = x if x.stride(2) == 1 else x.contiguous()
    places = weight.reshape(dim, PLACES).t().contiguous()  # channels side by side, as those of the tokens
    y = x.new_empty(batch, tokens, dim)
    span, block = _blocks(width, dim)
    programs = batch * height * triton.cdiv(width, span) * triton.cdiv(dim, block)
    if programs:
        _forward_kernel[(programs,)](
            x, places, bias, y, x.stride(0), x.stride(1), height, width, dim,
            FLIP=flip, SUM=_sum_type(x), BLOCK_W=span, BLOCK_D=block
        )  # fmt: skip
    return y


def forward(x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    """x [B, H W, D], weight [D, 1, 3, 3], bias [D] -> [B, H W, D] in the type of x."""
    return _convolve(x, weight, bias, height, width, flip=False)


def backward(grad: Tensor, x: Tensor, weight: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x in its type, of weight and bias in float32 (float64 of float64)."""
    grad_x = _convolve(grad, weight, None, height, width, flip=True)
    batch, _, dim = x.shape
    rows = batch * height
    span, block = _blocks(width, dim)
    block = min(block, max(16, TILE // 4 // span))  # ten tiles are held at once
    grad, x = (t if t.stride(2) == 1 else t.contiguous() for t in (grad, x))
    slots = max(1, min(PARTIAL_SUMS, rows))
    share = max(1, triton.cdiv(rows, slots))
    sums = x.new_empty(slots, PLACES + 1, dim, dtype=torch.promote_types(x.dtype, torch.float32))
    _weight_kernel[(slots * triton.cdiv(dim, block),)](
        grad, x, sums, grad.stride(0), grad.stride(1), x.stride(0), x.stride(1), rows, share, height, width, dim,
        SUM=_sum_type(x), BLOCK_W=span, BLOCK_D=block, num_warps=1
    )  # fmt: skip
    total = sums.sum(0)
    return grad_x, total[:PLACES].t().contiguous().view(weight.shape), total[PLACES]
