"""MicroForge's planner: a few tokens that look at the picture, think, and are remembered to the next step."""

# torch leaves the types of some methods open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.nn.attention import CrossAttention
from pochade.nn.feedforward import FeedForward


def normed(x: Tensor) -> Tensor:
    """Layer norm without weights of its own."""
    return F.layer_norm(x, (x.shape[-1],), eps=1e-6)


def mean_cosine(plan: Tensor) -> Tensor:
    """Mean cosine between different tokens of each plan [B, K, D]: [B], 1 where all K are alike."""
    count = plan.shape[1]
    total = F.normalize(plan.float(), dim=-1).sum(1).square().sum(-1)
    return (total - count) / (count * (count - 1))


def mean_squared_cosine(plan: Tensor) -> Tensor:
    """Mean square of the cosine between different tokens of each plan [B, K, D]: [B], 0 where all are orthogonal."""
    count = plan.shape[1]
    with torch.autocast(plan.device.type, enabled=False):
        tokens = F.normalize(plan.float(), dim=-1)
        cosines = tokens @ tokens.transpose(1, 2)
    return (cosines.square().sum((1, 2)) - count) / (count * (count - 1))


class PlanLayer(nn.Module):
    """READ: the plan looks at the picture and the time. REASON: its tokens look at each other. Then a feed-forward."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.read = CrossAttention(dim, heads)
        self.reason = CrossAttention(dim, heads)
        self.feedforward = FeedForward(dim, hidden)

    def forward(self, plan: Tensor, picture: Tensor) -> Tensor:
        """``plan`` [B, K, D], ``picture`` [B, N + 1, D], normed, the time its last token."""
        plan = plan + self.read(normed(plan), self.read.context(picture))
        own = normed(plan)
        plan = plan + self.reason(own, self.reason.context(own))
        return plan + self.feedforward(normed(plan))


class Planner(nn.Module):
    """K plan tokens, made of the text and of the plan of the step before, then layers of READ and REASON.

    p = sigmoid(w) norm(p_prev) + (1 - sigmoid(w)) p_init(text), w a number a channel, the norm's scale zero before
    training (latent self-conditioning, 2212.11972), p_init learned queries that have looked at the text. The plan that
    comes out is layer-normed: what is carried keeps its size over any number of steps.

    Args:
        dim: D. heads: attention heads, divide D. hidden: inner width of the feed-forward.
        layers: layers of READ and REASON. tokens: K, at least 2.
        text: whether there is text to look at. carries: whether it takes a plan from the step before.
    """

    def __init__(self, dim: int, heads: int, hidden: int, layers: int, tokens: int, text: bool, carries: bool) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, tokens, dim))
        self.queries.no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]
        self.text = CrossAttention(dim, heads) if text else None
        self.keep = nn.Parameter(torch.zeros(dim)) if carries else None
        self.carry_scale = nn.Parameter(torch.zeros(dim)) if carries else None
        self.layers = nn.ModuleList(PlanLayer(dim, heads, hidden) for _ in range(layers))

    def forward(
        self, x: Tensor, steer: Tensor, text: Tensor | None, mask: Tensor | None, carried: Tensor | None
    ) -> Tensor:
        """The plan [B, K, D].

        Args:
            x: tokens of the picture [B, N, D].
            steer: time and what else is one vector [B, D].
            text: [B, M, D] with ``mask`` [B, M], at least one True a row; None where there is none.
            carried: the plan of the step before [B, K, D]; None counts as zeros.
        """
        plan = self.queries.expand(x.shape[0], -1, -1)
        if self.text is not None and text is not None:
            plan = plan + self.text(plan, self.text.context(text), mask)
        if self.keep is not None and self.carry_scale is not None:
            keep = torch.sigmoid(self.keep)
            plan = (1 - keep) * plan
            if carried is not None:
                plan = plan + keep * F.rms_norm(carried.to(plan.dtype), plan.shape[-1:], self.carry_scale, 1e-6)
        picture = normed(torch.cat((x, steer[:, None]), 1))
        for layer in self.layers:
            plan = layer(plan, picture)
        return normed(plan)
