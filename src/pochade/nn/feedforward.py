"""The part of a block that works on each token alone, or on a token and its neighbours."""

import torch.nn.functional as F
from torch import Tensor, nn

from pochade.nn.convolution import DepthwiseConv
from pochade.nn.cpu import inference
from pochade.nn.linear import Linear


class FeedForward(nn.Module):
    """W_out GELU(W_in x) (1706.03762 eq. 2, 1606.08415): [..., D] -> [..., D].

    GELU is the exact one: on a CPU it takes a third of the time of its tanh approximation.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.inner = Linear(dim, hidden)
        self.out = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.inner(x)))


class GatedFeedForward(nn.Module):
    """W_out (SiLU(W_gate x) * W_in x) (SwiGLU, 2002.05202 eq. 6): [..., D] -> [..., D]."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate_and_in = Linear(dim, 2 * hidden)
        self.out = Linear(hidden, dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        gate, inner = self.gate_and_in(x).chunk(2, dim=-1)
        hidden = F.silu(gate) * inner
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        return self.out(hidden)


class MixFeedForward(nn.Module):
    """The gated feed-forward of SANA (2410.10629, Mix-FFN), which sees each token's eight neighbours.

    [a, g] = depthwise 3 x 3 (SiLU(W_in x)), out = W_out (a * SiLU(g)): [B, H W, D] -> [B, H W, D].

    Args:
        dim: D.
        hidden: width of a and of g.

    Raises:
        PochadeError: H W is not the number of tokens.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.inner = Linear(dim, 2 * hidden)
        self.depthwise = DepthwiseConv(2 * hidden)
        self.out = Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        inner = self.inner(x)
        depthwise = self.depthwise
        if depthwise.bias is not None and inference.serves(inner, depthwise.weight):
            return self.out(inference.gated_depthwise(inner, depthwise.weight, depthwise.bias, height, width))
        value, gate = self.depthwise(F.silu(inner), height, width).chunk(2, dim=-1)
        # In place: large new tensors cost a processor as much as the product itself.
        return self.out(F.silu(gate).mul_(value))
