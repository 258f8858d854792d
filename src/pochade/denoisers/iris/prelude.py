"""What IRIS reads once, before its core is iterated: the latents, and those of a control picture beside them."""

from torch import Tensor, nn

from pochade.nn.convolution import DepthwiseSeparableConv, PatchEmbedding
from pochade.nn.feedforward import FeedForward
from pochade.nn.linear import Linear
from pochade.nn.modulation import Modulation, modulated_norm
from pochade.nn.norms import LayerNorm, RMSNorm, rms_norm


class PreludeBlock(nn.Module):
    """Depthwise-separable convolution, then feed-forward, each normalised before and added: [B, H W, D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mixer_norm = LayerNorm(dim)
        self.mixer = DepthwiseSeparableConv(dim)
        self.feedforward_norm = LayerNorm(dim)
        self.feedforward = FeedForward(dim, 4 * dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.mixer(self.mixer_norm(x), height, width)
        return x + self.feedforward(self.feedforward_norm(x))


class ControlInput(nn.Module):
    """A branch of the prelude that reads the latents of a control picture, such as edges, and what it adds to the
    prelude's output.

    The network's autoencoder has made the latents: it can see lines already, which a branch that reads pixels would
    have to learn from the few pictures that it is trained on. Two blocks read their patches together with the latents
    to denoise, and a read-out that time, class and text modulate is added, from zero, so that at first the picture
    changes nothing (2302.05543, section 3.1, with a branch of its own in place of a copy of the network). A row that
    is zero everywhere has no control: nothing is added to it.

    Args:
        channels: C of the latents. patch_size: latent cells along one side of a token. dim: D.
    """

    def __init__(self, channels: int, patch_size: int, dim: int) -> None:
        super().__init__()
        self.embed = PatchEmbedding(channels, dim, patch_size)
        self.norm = RMSNorm(dim)
        self.blocks = nn.ModuleList(PreludeBlock(dim) for _ in range(2))
        self.modulation = Modulation(dim, 2)
        self.out = Linear(dim, dim)

    def forward(self, control: Tensor, x: Tensor, embedding: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, C, H, W], the latents' tokens x [B, N, D] and conditioning embedding [B, D] -> [B, N, D] to add."""
        there = (control != 0).flatten(1).any(1)
        y = self.embed(control.to(x.dtype)).flatten(2).transpose(1, 2)
        y = self.norm(y) + rms_norm(x)
        for block in self.blocks:
            y = block(y, *grid)
        return self.out(modulated_norm(y, *self.modulation(embedding))) * there[:, None, None]
