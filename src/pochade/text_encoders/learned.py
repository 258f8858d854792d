"""Words that a frozen text encoder is taught: vectors beside its vocabulary (textual inversion, 2208.01618)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LearnedWords(nn.Module):
    """An embedding of V tokens with words beside it: ``vectors`` [n, D] are those of the ids from V on.

    The ids below V give what ``known`` gives, bit for bit.
    """

    def __init__(self, known: nn.Embedding, vectors: Tensor) -> None:
        super().__init__()
        self.known = known
        self.vectors = nn.Parameter(vectors, requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Of ids [B, M] the vectors [B, M, D]."""
        first = self.known.num_embeddings
        own = F.embedding((ids - first).clamp_min(0), self.vectors)
        return torch.where((ids >= first)[..., None], own.to(self.known.weight.dtype), self.known(ids % first))
