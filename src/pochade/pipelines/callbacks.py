"""What a callback of a pipeline sees after a step, and what it may replace: the contract of diffusers' callbacks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from pochade.arguments import shown
from pochade.errors import PochadeError
from pochade.flow.guidance import GuidedDenoiser
from pochade.pipelines.checks import CALLBACK_TENSORS
from pochade.types import Conditioning

Callback = Callable[[Any, int, Any, dict[str, Any]], Mapping[str, Any] | None]
"""(pipe, step, timestep, tensors) -> replaced tensors, after each step."""


@dataclass(eq=False)
class Run:
    """What callbacks may see and set of one call of a pipeline.

    Attributes:
        scale: of guidance in the steps that follow; a number, or [B].
        steps: calls of the denoiser.
        interrupted: whether it is to end after this step.
    """

    scale: float | Tensor
    steps: int = 0
    interrupted: bool = False


_CALLER: ContextVar[Run | None] = ContextVar("caller", default=None)


class Runs:
    """The calls of one pipeline, of which several threads may make one each.

    Inside a callback ``current`` is the call that it belongs to. Elsewhere, as for a button that stops the work, it is
    the latest one.
    """

    def __init__(self) -> None:
        self.latest = Run(1.0)
        self._active: set[Run] = set()

    @property
    def current(self) -> Run:
        """The call of the callback that is running, or the latest one."""
        caller = _CALLER.get()
        return self.latest if caller is None or caller not in self._active else caller

    def set_interrupted(self, value: bool) -> None:
        """Of the call whose callback is running; outside callbacks of all that are running."""
        current = self.current
        for run in (current,) if current is _CALLER.get() else tuple(self._active):
            run.interrupted = value

    @contextmanager
    def active(self, run: Run) -> Iterator[None]:
        """While it samples."""
        self.latest = run
        self._active.add(run)
        try:
            yield
        finally:
            self._active.discard(run)


@contextmanager
def calling_back(run: Run) -> Iterator[None]:
    """While a callback of that call runs."""
    token = _CALLER.set(run)
    try:
        yield
    finally:
        _CALLER.reset(token)


EMBEDS = {"prompt_embeds": "tokens", "pooled_prompt_embeds": "pooled"}
"""Tensor of a callback -> part of the conditioning; with guidance both branches, the unconditional one first."""


def wanted_tensors(callback: Callback | None, names: Sequence[str], conditioning: Conditioning) -> list[str]:
    """The names of the tensors that a callback gets; one of diffusers says itself which.

    Raises:
        PochadeError: it cannot be called; there is no such tensor, or none in a model that takes no text.
    """
    if callback is not None and not callable(callback):
        raise PochadeError(f"callback_on_step_end: {callback!r} given, allowed is a function")
    own = isinstance(callback, PipelineCallback | MultiPipelineCallbacks)
    wanted = list(callback.tensor_inputs) if own else list(names)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess, reportFunctionMemberAccess]
    text = {"negative_prompt_embeds", *EMBEDS}
    known = [name for name in CALLBACK_TENSORS if conditioning.tokens is not None or name not in text]
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise PochadeError(f"callback_on_step_end_tensor_inputs: {unknown} given, allowed are {', '.join(known)}")
    return wanted


def callback_tensors(names: Sequence[str], guided: GuidedDenoiser, step: Mapping[str, Any]) -> dict[str, Any]:
    """The named tensors: ``step`` are those of the step itself, the others those of its conditioning."""
    conditional, *others = guided.branches()
    known = dict(step)
    if conditional.tokens is not None:
        unconditional = (others or guided.branches(2)[1:])[0]
        known["negative_prompt_embeds"] = unconditional.tokens
        for name, part in EMBEDS.items():
            known[name] = torch.cat([getattr(branch, part) for branch in (*others[:1], conditional)])
    return {name: known[name] for name in names}


def returned_tensors(returned: Any) -> Mapping[str, Any]:
    """What a callback returned. Raises PochadeError where that is neither None nor a dictionary of tensors."""
    fits = isinstance(returned, Mapping) and isinstance(returned.get("latents"), Tensor | None)
    if returned is not None and not fits:
        raise PochadeError(
            f"callback_on_step_end: {shown(returned)} returned, allowed are None and a dictionary of tensors"
        )
    return returned or {}


def replace_text(guided: GuidedDenoiser, given: Mapping[str, Any], returned: Mapping[str, Any]) -> None:
    """Let the text that a callback returned condition the steps that follow.

    Raises:
        PochadeError: it has another shape.
    """
    conditional, unconditional = guided.branches(2)[:2]
    B = conditional.batch_size or 0
    for name in ("negative_prompt_embeds", *EMBEDS):
        new = returned.get(name)
        if new is None or name not in given or new is given[name]:
            continue
        part = EMBEDS.get(name, "tokens")
        old: Tensor = getattr(conditional, part)
        if not isinstance(new, Tensor) or new.shape[1:] != old.shape[1:] or len(new) not in (B, 2 * B):
            shape = list(new.shape) if isinstance(new, Tensor) else type(new).__name__
            allowed = [B, *old.shape[1:]]
            raise PochadeError(f"{name}: {shape} returned by a callback, allowed are {allowed} and twice as many")
        new = new.to(old)
        if name != "negative_prompt_embeds":
            conditional = replace(conditional, **{part: new[-B:]})
        if name == "negative_prompt_embeds" or len(new) == 2 * B:
            dropped = unconditional.mask is None or not bool(unconditional.mask.any())
            mask = conditional.mask if dropped else unconditional.mask
            unconditional = replace(unconditional, mask=mask, **{part: new[:B]})
            guided.negative = unconditional
    guided.conditioning = conditional
