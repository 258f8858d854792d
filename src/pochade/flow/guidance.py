"""Classifier-free guidance (2207.12598), with two scales where there is a source image (2211.09800 eq. 3)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pochade.arguments import EVERYWHERE
from pochade.types import Conditioning, Denoiser, DenoiserOutput

Scale = float | Tensor


@dataclass(frozen=True)
class Guidance:
    """What is dropped in each branch, and how the branches are joined.

    Attributes:
        scale: s in v_0 + s (v_c - v_0); a number, or [B] for one a row. 1 is no guidance and costs one branch.
        image_scale: with a source image, the scale of the image against nothing; None where there is none.
        interval: guidance applies for t in [low, high] (2404.07724); outside it the scales are 1, at the cost of one
            branch.
    """

    scale: Scale = 1.0
    image_scale: Scale | None = None
    interval: tuple[float, float] = EVERYWHERE

    @property
    def branches(self) -> int:
        """Rows of the network's batch for each row of the latents inside the interval: 1, 2, or 3 with two scales."""
        if self.image_scale is not None:
            return 3
        return 1 if not isinstance(self.scale, Tensor) and self.scale == 1 else 2

    def inside(self, t: Tensor) -> Tensor:
        """Whether guidance applies at t [B], bool [B]."""
        low, high = self.interval
        return (t >= low) & (t <= high)

    def branches_at(self, t: Tensor) -> int:
        """``branches`` where guidance applies at any of the times t, else 1; reads them where there is an interval."""
        if self.branches == 1 or self.interval == EVERYWHERE:
            return self.branches
        return self.branches if bool(self.inside(t).any()) else 1


def _column(scale: Scale, like: Tensor) -> Scale:
    if not isinstance(scale, Tensor):
        return scale
    value = scale.to(like)
    return value.view(-1, *[1] * (like.ndim - 1)) if value.ndim else value


class GuidedDenoiser:
    """A denoiser with guidance: the same call, branches joined along the batch into one forward pass.

    ``denoiser(latents, t, conditioning, state=...)`` where ``state`` is that of all branches: each keeps its own. At
    times outside the guidance interval only the conditional branch is computed; its state is what the others start
    from where the interval begins.
    ``aux`` is that of the branch with the text. The text or class of ``negative`` (a negative prompt, M as in the
    conditioning) stands where it would be dropped. An image prompt is dropped together with the text, as
    in 2308.06721, section 3.2.3, and so is a control, so that guidance leads towards all of them. ``guidance``,
    ``negative`` and ``conditioning``, which stands in place of that of the calls, may be replaced between two calls.
    """

    def __init__(self, denoiser: Denoiser, guidance: Guidance, negative: Conditioning | None = None) -> None:
        self.denoiser = denoiser
        self.guidance = guidance
        self.negative = negative
        self.conditioning = Conditioning()
        self._time: Tensor | None = None
        self.config = denoiser.config

    def begin(self, t: Tensor) -> None:
        """The time, on the processor, of all samples of the calls that follow.

        So whether guidance applies is known without waiting for the device, on which the times of a call lie.
        """
        self._time = t

    def branches(self, least: int = 1) -> list[Conditioning]:
        """The conditioning of each branch, the one with the text first; at least that many, up to 2."""
        return self._branches(self.conditioning)[: max(least, self.guidance.branches)]

    def _branches(self, conditioning: Conditioning) -> list[Conditioning]:
        without_text = conditioning.drop("text", "class_label", "image_prompt", "control")
        if self.negative is not None:
            given = {name: getattr(self.negative, name) for name in ("tokens", "mask", "pooled", "class_label")}
            without_text = replace(without_text, **{name: v for name, v in given.items() if v is not None})
        if self.guidance.image_scale is not None:
            return [conditioning, without_text, without_text.drop("source")]
        return [conditioning, without_text]

    def __call__(
        self,
        latents: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        *,
        state: Tensor | None = None,
        depth: int | None = None,
    ) -> DenoiserOutput:
        guidance, rows = self.guidance, latents.shape[0]
        if self.conditioning.batch_size is not None:
            conditioning = self.conditioning
        n = guidance.branches_at(t if self._time is None else self._time)
        if n == 1:
            own = None if state is None else state[:rows]
            return self.denoiser(latents, t, conditioning, state=own, depth=depth)
        if state is not None and state.shape[0] == rows:
            state = state.repeat(n, *[1] * (state.ndim - 1))
        out = self.denoiser(
            latents.repeat(n, 1, 1, 1),
            t.repeat(n),
            Conditioning.cat(self._branches(conditioning)),
            state=state,
            depth=depth,
        )
        inside = guidance.inside(t).view(-1, *[1] * (latents.ndim - 1))
        v = out.velocity.chunk(n)
        joined = v[1] + _column(guidance.scale, latents) * (v[0] - v[1])
        if guidance.image_scale is not None:
            # v = v(0, 0) + s_I (v(0, I) - v(0, 0)) + s_T (v(T, I) - v(0, I)), arranged  # noqa: ERA001
            joined = joined + (_column(guidance.image_scale, latents) - 1) * (v[1] - v[2])
        aux = {name: value[:rows] if value.ndim else value for name, value in out.aux.items()}
        return DenoiserOutput(torch.where(inside, joined, v[0]), out.state, aux)


BeforeStep = Callable[[Tensor], None]
"""(t), a scalar on the processor."""
OnStep = Callable[[int, Tensor, Tensor, Tensor, Mapping[str, Tensor]], Tensor | None]
