"""The part of a block that works on each token alone."""

import torch.nn.functional as F
from torch import Tensor, nn


class GatedFeedForward(nn.Module):
    """W_out (SiLU(W_gate x) * W_in x) (SwiGLU, 2002.05202 eq. 6): [..., D] -> [..., D]."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate_and_in = nn.Linear(dim, 2 * hidden)
        self.out = nn.Linear(hidden, dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        gate, inner = self.gate_and_in(x).chunk(2, dim=-1)
        hidden = F.silu(gate) * inner
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        return self.out(hidden)
