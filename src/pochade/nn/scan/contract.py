"""What the public functions, the operators and the forms of the scans agree on.

Every form (``composed``, ``cpu_kernels``, ``triton_kernels``) has the same four functions:

    linear_forward(a, b, initial, reverse) -> h
    linear_backward(grad_h, a, h, initial, reverse) -> (grad_a, grad_b, grad_initial)
    selective_forward(inputs, initial, reverse) -> (y, final, checkpoints)
    selective_backward(grad_y, grad_final, inputs, checkpoints, reverse) -> Gradients

a, b, h [B, N, D]; initial [B, D] or, of a selective scan, [B, D, S], None for zeros. States are of ``state_dtype``;
h has the wider type of a and b, y that of x, and gradients come in the states' type. ``checkpoints``
[B, chunks(N), D, S] are the states that every ``CHUNK``-th token found: the backward pass computes the others anew.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 64


class Inputs(NamedTuple):
    """What a selective scan reads.

    x [B, N, D]; dt [B, N, D] with A [D, S], or dt [B, N, heads] with A [heads]; B and C [B, N, G, S], where channel
    d belongs to group d // (D / G); D [D] or None.
    """

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None


class Gradients(NamedTuple):
    """Of the inputs and the first state of a selective scan, each of the shape of what it belongs to."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    initial: Tensor


def state_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if any tensor has it, float32 otherwise."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def chunks(tokens: int) -> int:
    """How many checkpoints a selective scan of ``tokens`` keeps."""
    return -(-tokens // CHUNK)
