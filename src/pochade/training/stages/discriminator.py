"""An adversary in latent space that reads the features of a frozen denoiser (LADD, 2403.12015)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pochade.flow.path import diffuse
from pochade.nn.keyed_random import keyed_normal
from pochade.nn.linear import Linear
from pochade.training.task import Stream
from pochade.types import Conditioning

WIDTH = 64
"""Inner width of a head."""
RATE = 10.0
"""Learning rate of the heads, over the stage's: they start from random weights, the student from the teacher's."""
MEAN = -1.0
"""Of the logit of the times at which samples are compared: details are told apart where there is little noise."""


class Head(nn.Module):
    """A score for each token: [B, N, D] -> [B, N]. Features are normalised first, as their scale differs by block."""

    def __init__(self, dim: int, width: int = WIDTH) -> None:
        super().__init__()
        self.hidden = Linear(dim, width)
        self.out = Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        normed = F.layer_norm(features, features.shape[-1:])
        return self.out(F.leaky_relu(self.hidden(normed), 0.2))[..., 0]


class LatentDiscriminator(nn.Module):
    """A head on each block of a denoiser: features -> the scores of all tokens of all heads, [B, blocks * N].

    Args:
        dim: D of the denoiser.
        blocks: of its trunk.
    """

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(dim) for _ in range(blocks))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return torch.cat([head(tokens) for head, tokens in zip(self.heads, features, strict=True)], 1)


def adversarial_losses(
    discriminator: LatentDiscriminator,
    teacher: Any,
    generated: Tensor,
    real: Tensor,
    edge: Tensor,
    conditioning: Conditioning,
    keys: Tensor,
) -> tuple[Tensor, Tensor]:
    """What is to be added to the loss of the generator, and the hinge loss of the discriminator; scalars.

    Both kinds of latents [B, C, H, W] lie at the times ``edge`` [B] of the path. They are diffused with the same noise
    to the same time of a logit-normal density above, and judged by the teacher's features there, with the conditioning
    that both are of (2403.12015, section 3; 2503.09641, section 3.3): at high noise by what is in the picture, at low
    noise by its details. The generator sees frozen heads, the discriminator features without gradient, so that one
    backward pass serves both.
    """
    time = torch.sigmoid(MEAN + keyed_normal(keys, (1,), Stream.DIFFUSED_TIME)[:, 0]).to(real)
    t = edge + (1 - edge) * time
    eps = keyed_normal(keys, real.shape[1:], Stream.DIFFUSED_NOISE).to(real)
    of_generated = teacher.features(diffuse(generated, eps, edge, t), t, conditioning)
    with torch.no_grad():
        of_real = teacher.features(diffuse(real, eps, edge, t), t, conditioning)
    frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
    fooled = -functional_call(discriminator, frozen, (of_generated,)).mean()
    found_real = F.relu(1 - discriminator(of_real)).mean()
    found_generated = F.relu(1 + discriminator([tokens.detach() for tokens in of_generated])).mean()
    return fooled, found_real + found_generated
