"""A distance between pictures that is nearer to the eye's than pixels are: that of a network's features."""

import torch
from torch import Tensor, nn

from pochade.features.lite0 import EfficientNetLite0


def _unit(features: Tensor) -> Tensor:
    # The 1e-6 sits inside the root: its gradient is finite where a feature vector is all zero.
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + 1e-6)


class PerceptualLoss(nn.Module):
    """Squared difference of channel-normalised features, mean over maps: 1801.03924 without learned weights.

    Between 0 (same features) and 4 (opposite ones). The network is frozen; gradients flow to both images.
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
        pairs = zip(maps_a, maps_b, strict=True)
        terms = [(_unit(x) - _unit(y)).square().sum(1).mean((1, 2)) for x, y in pairs]
        return torch.stack(terms).mean(0)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The mean of ``per_image``: a scalar."""
        return self.per_image(a, b).mean()
