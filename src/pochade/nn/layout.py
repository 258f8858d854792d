"""The order in memory of gradients and of pictures."""

import torch
from torch import Tensor


def with_own_layout(weight: Tensor) -> Tensor:
    """The same weight, a view; its gradient will lie in memory as it does.

    A convolution of a channels-last picture, and an einsum, give the gradient in an order of their own. Distributed
    training copies such a gradient at every step, and warns.
    """
    return weight if torch.compiler.is_exporting() else weight.flatten().view(weight.shape)


def channels_last(x: Tensor) -> Tensor:
    """A picture [B, C, H, W] in the order that is fastest on a CPU; exported graphs have their own."""
    return x if torch.compiler.is_exporting() else x.contiguous(memory_format=torch.channels_last)
