"""LiRA's latent reasoning loop: it reads the picture and the prompt several times before the blocks start."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.nn.cpu import inference
from pochade.nn.feedforward import FeedForward
from pochade.nn.four_direction_scan import Decay, Selection
from pochade.nn.linear import Linear
from pochade.nn.norms import layer_norm, rms_norm
from pochade.nn.operator import is_transformed

LEAST_STEPS = 2
"""Every picture takes so many steps at least."""


class ReasoningLoop(nn.Module):
    """A state r [B, R] that is refined step by step until it halts, each picture for itself.

    r_0 = MLP(mean of the tokens, conditioning embedding). A step scans the tokens, modulated by r, into a candidate u
    and keeps a part of what was there: d = sigmoid(W_d [r; u]), r <- d r + (1 - d) u. From the second step on, l_n =
    sigmoid(W_s r_n) is the probability to halt where it has not before, p_n = l_n prod_{m < n} (1 - l_m), and the last
    step takes what is left (2107.05407 eq. 1 to 3).

    In training the result is the expected state, sum p_n r_n, which has a gradient where a stop has none. At inference
    a picture stops once the p_n add up to ``threshold``, and the state where it stops takes the rest (1603.08983 eq. 6,
    7): the same sum, cut short.

    Args:
        dim: D of the tokens.
        width: R.
        state_size: S of the scan.
        decay: see ``Selection``.
        steps: T, the most steps, at least 2.
        threshold: in (0, 1]; with 1 every picture takes all steps at inference.
        prior_steps: mean of the geometric distribution (from the second step on) that the halting starts with and that
            the ponder cost draws it to.
        halting: False for a loop that always takes T steps and whose last state is the result.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        state_size: int,
        decay: Decay,
        steps: int,
        threshold: float,
        prior_steps: float,
        halting: bool,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.threshold = threshold
        self.prior = 1 / (prior_steps - LEAST_STEPS + 1)
        self.tokens = Linear(dim, width)
        self.start = nn.Sequential(Linear(width + dim, width), nn.SiLU(), Linear(width, width))
        self.modulate = Linear(width, 2 * width)
        self.inner = Linear(width, 2 * width)
        self.selection = Selection(width, width, 1, state_size, decay)
        self.candidate = FeedForward(width, width)
        self.keep = Linear(2 * width, width)
        self.halt = Linear(width, 1) if halting else None
        self.out = Linear(width, dim)

    def initialise_halting(self) -> None:
        """Every picture halts as the prior does, until it has learned better."""
        if self.halt is not None:
            nn.init.zeros_(self.halt.weight)
            nn.init.constant_(self.halt.bias, math.log(self.prior / (1 - self.prior)))

    def step(self, tokens: Tensor, r: Tensor) -> Tensor:
        """One step: tokens [B, N, R] and the state [B, R] before it -> the state after it."""
        y, gate = self._scanned(tokens, r)
        u = self.candidate(rms_norm((y * F.silu(gate)).mean(1)))
        return torch.lerp(u, r, torch.sigmoid(self.keep(torch.cat((r, u), -1))))

    def _scanned(self, tokens: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """The scan of the tokens modulated by r, and its gate, both [B, N, R]."""
        shift, scale = self.modulate(r).unsqueeze(1).chunk(2, dim=-1)
        x, gate = self.inner(torch.addcmul(shift, tokens, 1 + scale)).chunk(2, dim=-1)
        x = F.silu(x)
        return self.selection.scan(x, self.selection(x)), gate

    def _halting(self, r: Tensor, step: int, last: bool) -> Tensor:
        """l_n [B] in float32 at least."""
        wide = torch.promote_types(r.dtype, torch.float32)
        if last or step < LEAST_STEPS or self.halt is None:
            return torch.full_like(r[:, 0], float(last), dtype=wide)
        return torch.sigmoid(self.halt(r)[:, 0].to(wide))

    def forward(self, x: Tensor, embedding: Tensor, depth: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, N, D] and conditioning embedding [B, D] -> the thought [B, D], steps [B] and the ponder cost [B].

        Args:
            depth: T for this call. Given, or while the call is being compiled, exported or transformed by
                ``torch.func``, all T steps are computed and those of a picture that has stopped are masked; otherwise
                the loop ends when all have stopped.

        Returns:
            ``steps``, float32: those taken; in training the expected number. The ponder cost, float32: KL(p || prior)
            in training, zeros at inference and without halting.
        """
        total = self.steps if depth is None else depth
        unrolled = self.training or depth is not None or torch.compiler.is_compiling() or is_transformed()
        tokens = layer_norm(self.tokens(x))
        r = self.start(torch.cat((tokens.mean(1), embedding), -1))
        layers = self.candidate.inner, self.candidate.out, self.keep, self.keep if self.halt is None else self.halt
        weights = [weight for layer in layers for weight in (layer.weight, layer.bias)]
        # An adapter takes the place of a layer, and computes more than its weights say.
        plain = not self.training and all(type(layer) is Linear for layer in layers)
        if plain and inference.serves(r, *weights):
            thought, steps = self._inferred(tokens, r, weights, total, unrolled)
            return self.out(thought), steps, torch.zeros_like(steps)
        wide = torch.promote_types(r.dtype, torch.float32)
        left = torch.ones_like(r[:, 0], dtype=wide)
        thought = torch.zeros_like(r, dtype=wide)
        steps, shares = torch.zeros_like(left), list[Tensor]()
        for n in range(1, total + 1):
            r = self.step(tokens, r)
            share = left * self._halting(r, n, n == total)
            if self.training:
                steps = steps + n * share
                if self.halt is not None:
                    shares.append(share)
            else:
                steps = steps + (left > 0)
                # Nothing is left once a picture has stopped, so all later shares of it are zero.
                share = torch.where(left - share <= 1 - self.threshold, left, share) if n >= LEAST_STEPS else share
            thought = torch.addcmul(thought, share[:, None], r.to(wide))
            left = left - share
            if not unrolled and not bool((left > 0).any()):
                break
        cost = self._ponder_cost(shares[LEAST_STEPS - 1 :]) if shares else torch.zeros_like(steps)
        return self.out(thought.to(r.dtype)), steps, cost

    def _inferred(
        self, tokens: Tensor, r: Tensor, weights: Sequence[Tensor], total: int, unrolled: bool
    ) -> tuple[Tensor, Tensor]:
        """The expected state [B, R] and the steps [B] of inference, all but the scans in one loop a step."""
        thought, left, steps = torch.zeros_like(r), torch.ones_like(r[:, 0]), torch.zeros_like(r[:, 0])
        for n in range(1, total + 1):
            y, gate = self._scanned(tokens, r)
            may_halt = n >= LEAST_STEPS and self.halt is not None
            state = r, thought, left, steps
            inference.reason(y, gate, weights, state, self.threshold, may_halt=may_halt, is_last=n == total)
            if not unrolled and not left.any():
                break
        return thought, steps

    def _ponder_cost(self, shares: list[Tensor]) -> Tensor:
        """KL(p || geometric prior, cut at T), [B], of the shares [B] of the steps from the second to the last."""
        rest = len(shares) - 1
        p = torch.stack(shares, -1)
        k = torch.arange(rest + 1, device=p.device, dtype=p.dtype)
        prior = k * math.log1p(-self.prior) + (k < rest).to(p) * math.log(self.prior)
        return (p * (p.clamp(min=1e-20).log() - prior)).sum(-1)
