"""The order in memory of gradients."""

import torch
from torch import Tensor


def with_own_layout(weight: Tensor) -> Tensor:
    """The same weight, a view; its gradient will lie in memory as it does.

    A convolution of a channels-last picture, and an einsum, give the gradient in an order of their own. Distributed
    training copies such a gradient at every step, and warns.
    """
    return weight if torch.compiler.is_exporting() else weight.flatten().view(weight.shape)
