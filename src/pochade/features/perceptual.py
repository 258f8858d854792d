"""A distance between pictures that follows the eye better than pixels do: differences of a network's feature maps."""

import torch
from torch import Tensor, nn

from pochade.features.lite0 import EfficientNetLite0


def _unit(features: Tensor) -> Tensor:
    # The 1e-6 sits inside the root: its gradient is finite where a feature vector is all zero.
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + 1e-6)


class PerceptualLoss(nn.Module):
    """Mean over the maps of the squared difference of channel-normalised features (1801.03924 without learned weights).

    A value between 0 (same features) and 4 (opposite ones). The network is frozen; gradients flow to both images.
    """

    def __init__(self, net: EfficientNetLite0) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)

    def per_image(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance [B] of images ``a`` and ``b``, both [B, 3, H, W] in [-1, 1] of any size from 32 px on."""
        if b.requires_grad:
            maps_a, maps_b = self.net.maps(a), self.net.maps(b)
        else:
            maps_a = self.net.maps(a)
            with torch.no_grad():
                maps_b = self.net.maps(b)
        terms = [(_unit(x) - _unit(y)).square().sum(1).mean((1, 2)) for x, y in zip(maps_a, maps_b, strict=True)]
        return torch.stack(terms).mean(0)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The mean of ``per_image``: a scalar."""
        return self.per_image(a, b).mean()
