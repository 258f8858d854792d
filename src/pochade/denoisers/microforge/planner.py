"""MicroForge's planner: a few tokens that attend to the picture, reason, and are passed to the next step; and a few
that attend only to the part of it that is to be changed."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.nn.attention import CrossAttention
from pochade.nn.feedforward import FeedForward
from pochade.nn.norms import as_stream, layer_norm, rms_norm, without_autocast
from pochade.types import Conditioning


def mean_cosine(plan: Tensor) -> Tensor:
    """Mean cosine between different tokens of each plan [B, K, D]: [B], 1 where all K are alike."""
    count = plan.shape[1]
    total = F.normalize(plan.float(), dim=-1).sum(1).square().sum(-1)
    return (total - count) / (count * (count - 1))


def mean_squared_cosine(plan: Tensor) -> Tensor:
    """Mean square of the cosine between different tokens of each plan [B, K, D]: [B], 0 where all are orthogonal."""
    count = plan.shape[1]
    with without_autocast(plan):
        tokens = F.normalize(plan.float(), dim=-1)
        cosines = tokens @ tokens.transpose(1, 2)
    return (cosines.square().sum((1, 2)) - count) / (count * (count - 1))


def marked_tokens(conditioning: Conditioning, patch: int, beside: bool) -> Tensor | None:
    """The tokens of the picture in which a cell is marked by the mask of the source, [B, N] bool; None where no row has
    any. ``beside``: the source lies beside the picture, and both halves are marked alike."""
    mask = conditioning.source_mask
    if conditioning.source is None or mask is None:
        return None
    # Regions that mark nothing count nowhere: leaving them out saves time, which an exported graph cannot decide.
    if not torch.compiler.is_exporting() and not bool((mask > 0).any()):
        return None
    marked = F.max_pool2d(mask, patch, patch) > 0  # Core ML has no default for the stride
    return torch.cat((marked, marked), 3).flatten(1) if beside else marked.flatten(1)


class PlanLayer(nn.Module):
    """READ: the plan attends to the picture and the time. REASON: its tokens attend to each other. A feed-forward."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.read = CrossAttention(dim, heads)
        self.reason = CrossAttention(dim, heads)
        self.feedforward = FeedForward(dim, hidden)

    def forward(self, plan: Tensor, picture: Tensor, seen: Tensor | None = None, there: Tensor | None = None) -> Tensor:
        """``plan`` [B, K, D], ``picture`` [B, N + 1, D], normed, the time its last token.

        ``seen`` [B, K, N + 1] bool is True where READ may attend, ``there`` [B, K] where REASON may; None: everywhere.
        """
        plan = plan + self.read(layer_norm(plan), self.read.context(picture), seen)
        own = layer_norm(plan)
        plan = plan + self.reason(own, self.reason.context(own), there)
        return plan + self.feedforward(layer_norm(plan))


class Planner(nn.Module):
    """K plan tokens, made of the text and of the plan of the step before, then layers of READ and REASON.

    p = sigmoid(w) norm(p_prev) + (1 - sigmoid(w)) p_init(text), w a number a channel, the norm's scale zero before
    training (latent self-conditioning, 2212.11972), p_init learned queries that have attended to the text. The plan
    that comes out is layer-normed: what is carried keeps its size over any number of steps.

    Where a part of the picture is marked, R more tokens stand behind the plan, which start at every step as queries
    that have attended to the text, and READ that part and the time alone. They REASON with the plan.

    Args:
        dim: D. heads: attention heads, divide D. hidden: inner width of the feed-forward.
        layers: layers of READ and REASON. tokens: K, at least 2.
        text: whether there is text to attend to. carries: whether it takes a plan from the step before.
        regions: R.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        layers: int,
        tokens: int,
        text: bool,
        carries: bool,
        regions: int = 0,
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, tokens, dim))
        self.queries.no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]
        self.region_queries = nn.Parameter(torch.randn(1, regions, dim)) if regions else None
        if self.region_queries is not None:
            self.region_queries.no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]
        self.text = CrossAttention(dim, heads) if text else None
        self.keep = nn.Parameter(torch.zeros(dim)) if carries else None
        self.carry_scale = nn.Parameter(torch.zeros(dim)) if carries else None
        self.layers = nn.ModuleList(PlanLayer(dim, heads, hidden) for _ in range(layers))

    def forward(
        self,
        x: Tensor,
        embedding: Tensor,
        text: Tensor | None,
        mask: Tensor | None,
        carried: Tensor | None,
        marked: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The plan [B, K, D]; with ``marked`` [B, K + R, D], and where its tokens count, [B, K + R] bool.

        Those of the regions count in rows with a marked token alone; elsewhere nothing may attend to them.

        Args:
            x: tokens of the picture [B, N, D].
            embedding: time and what else is one vector [B, D].
            text: [B, M, D] with ``mask`` [B, M], at least one True a row; None where there is none.
            carried: the plan of the step before [B, K, D]; None counts as zeros.
            marked: where the regions attend, [B, N] bool; None: nowhere, and in any case without region queries.
        """
        plan = self._informed(self.queries, x, text, mask)
        if self.keep is not None and self.carry_scale is not None:
            keep = torch.sigmoid(self.keep)
            plan = (1 - keep) * plan
            if carried is not None:
                plan = plan + keep * rms_norm(carried.to(plan.dtype), self.carry_scale)
        plan = as_stream(plan)
        picture = layer_norm(torch.cat((x, embedding[:, None]), 1))
        seen, there = None, None
        if marked is not None and self.region_queries is not None:
            K, R = plan.shape[1], self.region_queries.shape[1]
            plan = torch.cat((plan, as_stream(self._informed(self.region_queries, x, text, mask))), 1)
            there = F.pad(marked.any(1, keepdim=True).expand(-1, R), (K, 0), value=True)
            inside = F.pad(marked, (0, 1), value=True)[:, None].expand(-1, R, -1)
            seen = F.pad(inside, (0, 0, K, 0), value=True)
        for layer in self.layers:
            plan = layer(plan, picture, seen, there)
        return layer_norm(plan), there

    def _informed(self, queries: Tensor, x: Tensor, text: Tensor | None, mask: Tensor | None) -> Tensor:
        """Learned queries, one set a row, that have attended to the text where there is some."""
        # A product with an expanded tensor is another one, in the last bits, once its weight needs no gradient.
        tokens = queries.expand(x.shape[0], -1, -1).contiguous()
        if self.text is None or text is None:
            return tokens
        return tokens + self.text(tokens, self.text.context(text), mask)
