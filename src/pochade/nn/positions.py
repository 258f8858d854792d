"""Where a token is: a learned table that serves any grid."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PositionTable(nn.Module):
    """A learned vector for each cell of a ``size`` x ``size`` grid, resized bicubically for other grids."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, dim, size, size))
        self.table.no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, height: int, width: int) -> Tensor:
        """[1, H W, D] for a grid of H rows and W columns."""
        table = self.table
        if table.shape[-2:] != (height, width):
            table = F.interpolate(table, size=(height, width), mode="bicubic", align_corners=False)
        return table.flatten(2).transpose(1, 2)
