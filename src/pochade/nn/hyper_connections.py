"""Several residual streams and learned connections between them and the layers (hyper-connections, 2409.19606)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.cpu import inference
from pochade.nn.norms import autocasts, layer_norm


def expand(x: Tensor, streams: int) -> Tensor:
    """x [B, N, D] -> [B, streams, N, D]: the same in every stream."""
    return x.unsqueeze(1).repeat(1, streams, 1, 1)


def collapse(streams: Tensor) -> Tensor:
    """Streams [B, n, N, D] -> their mean [B, N, D].

    2409.19606 takes the sum, and the norm that follows takes the factor n away again; the mean leans on no norm.
    """
    return streams.mean(1)


class HyperConnection(nn.Module):
    """One layer's connections to n streams, in place of the residual ``x + layer(x)``.

    With streams h_j (2409.19606, section 2): ``h_i <- sum_j A_ji h_j + beta_i layer(sum_j a_j h_j)``. Static: A, a and
    beta are learned numbers that begin as the identity, the unit vector of stream ``layer_index`` mod n, and ones.
    Dynamic: each token adds to them ``s tanh(norm(h_j) W)``, W zero and s 0.01 at the beginning. Between
    ``expand`` and ``collapse`` a stack of these thus begins as exactly the residual network, for any n.

    Args:
        dim: D.
        streams: n, at least 1.
        layer_index: 0 for the first layer of the network, 1 for the next (each sub-layer counts): the stream that the
            layer reads at the beginning. Without different layers reading different streams, the streams would stay
            copies of each other.
        dynamic: whether the connections depend on the tokens.

    Raises:
        PochadeError: ``streams`` below 1 or a negative ``layer_index``; in ``forward``, streams of another shape.
    """

    def __init__(self, dim: int, streams: int, layer_index: int, *, dynamic: bool) -> None:
        super().__init__()
        if streams < 1:
            raise PochadeError(f"streams: {streams} given, must be at least 1")
        if layer_index < 0:
            raise PochadeError(f"layer_index: {layer_index} given, must be at least 0")
        self.dim = dim
        self.streams = streams
        identity = torch.eye(streams)
        self.alpha = nn.Parameter(torch.cat((identity[:, layer_index % streams, None], identity), dim=1))
        self.beta = nn.Parameter(torch.ones(streams))
        undecayed = [self.alpha, self.beta]
        self.dynamic = dynamic
        if dynamic:
            self.weight = nn.Parameter(torch.zeros(streams + 2, dim))
            self.alpha_scale = nn.Parameter(torch.full((1,), 0.01))
            self.beta_scale = nn.Parameter(torch.full((1,), 0.01))
            undecayed += [self.alpha_scale, self.beta_scale]
        for parameter in undecayed:
            parameter.no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, streams: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        """Streams [B, n, N, D] -> streams [B, n, N, D]; ``layer`` takes and gives [B, N, D], without a residual.

        Raises PochadeError for another shape.
        """
        if streams.ndim != 4 or streams.shape[1] != self.streams or streams.shape[3] != self.dim:
            raise PochadeError(
                f"streams: shape {list(streams.shape)} given, must be [B, {self.streams}, N, {self.dim}]"
            )
        if self.dynamic and inference.serves(streams, self.weight):
            given = self.alpha, self.beta, self.weight, self.alpha_scale, self.beta_scale
            read, connections = inference.hyper_read(streams, *given)
            return inference.hyper_write(streams, connections, layer(read))
        alpha, beta = self._connections(streams)
        # The first of the n + 1 mixtures is what the layer reads, the others are what the streams become without it.
        read, kept = _mixtures(streams, alpha).tensor_split((1,), dim=1)
        return torch.addcmul(kept, beta.unsqueeze(-1), layer(read.squeeze(1)).unsqueeze(1))

    def _connections(self, streams: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha [B, n, N, n + 1], in float32 at least, and beta [B, n, N] in the dtype of the streams."""
        batch, tokens = streams.shape[0], streams.shape[2]
        alpha, beta = self.alpha[:, None].expand(batch, -1, tokens, -1), self.beta[:, None].expand(batch, -1, tokens)
        if self.dynamic:
            # The streams of a token lie side by side after the first layer: normed in that order they are not copied.
            # In exported graphs they lie as their axes say.
            apart = torch.compiler.is_exporting()
            normed = layer_norm(streams if apart else streams.transpose(1, 2), eps=1e-5).to(self.weight.dtype)
            added = F.linear(normed, self.weight).tanh()
            added = added if apart else added.transpose(1, 2)
            alpha = alpha + self.alpha_scale * added[..., :-1]
            beta = beta + self.beta_scale * added[..., -1]
        return alpha.to(torch.promote_types(streams.dtype, torch.float32)), beta.to(streams.dtype)


def _mixtures(streams: Tensor, alpha: Tensor) -> Tensor:
    """sum_j alpha_ji h_j: streams [B, n, N, D] and alpha [B, n, N, n + 1] -> [B, n + 1, N, D].

    In float32 at least. A trained first layer may read a small difference of streams that are still alike: lira-nano's
    reads 0.50098 h - 0.49902 h, which rounded to bfloat16 is nothing, and the gradient of alpha is lost with it.
    """
    if streams.dtype == alpha.dtype and not autocasts(streams):
        return torch.einsum("bjnd,bjni->bind", streams, alpha)
    return (streams.unsqueeze(2) * alpha.transpose(2, 3).unsqueeze(-1)).sum(1).to(streams.dtype)
