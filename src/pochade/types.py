"""What every family takes and gives, and the letters for the axes.

| letter | axis |
|---|---|
| B | batch |
| N | tokens of the picture, H * W |
| D | width of the network |
| H, W | rows and columns of the token grid (of the latents, of the image, where said) |
| M | text tokens |
| K | plan tokens |
| S | state size of a recurrence |
| C | latent channels |
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from pochade.runtime import manifest

PARTS = ("text", "class_label", "source", "control", "image_prompt")
"""The parts of a conditioning that guidance can drop."""
CONTROLS = ("edges", "depth", "pose")
"""Kinds of spatial control (``pochade.images.controls``)."""
TASKS = manifest.TASKS
"""What ``Conditioning.task`` counts: the task where there is a source picture."""


@dataclass(frozen=True)
class Conditioning:
    """The inputs of a denoiser beside latents and time. Absent parts are None; the batch axis is first everywhere.

    A dropped row keeps its shape: text has an all-False mask and zero vectors, a class label is -1, images and features
    are zero and the task that goes with an image is -1.
    Every denoiser treats such a row exactly as one that never had the part.
    """

    tokens: Tensor | None = None
    """[B, M, D_text] float, zero where padded."""
    mask: Tensor | None = None
    """[B, M] bool, True where a token is real."""
    pooled: Tensor | None = None
    """[B, D_pool] float."""
    class_label: Tensor | None = None
    """[B] int64, 0 to classes - 1, or -1 for no label."""
    source: Tensor | None = None
    """[B, C, H, W] latents of the picture to edit."""
    source_mask: Tensor | None = None
    """[B, 1, H, W] in [0, 1], 1 where the picture is to be changed."""
    control: Tensor | None = None
    """[B, C, H, W] latents of the picture of a spatial control, such as edges or depth."""
    image_prompt: Tensor | None = None
    """[B, R, D_image] float, features of image prompts, pictures whose style is followed; R of them, mostly one."""
    image_prompt_scale: Tensor | None = None
    """[B] float from 0 on, the weight of the image prompt; absent, 1."""
    task: Tensor | None = None
    """[B] int64, index into ``TASKS``, or -1 for none."""

    @property
    def batch_size(self) -> int | None:
        """B, or None where no part is present."""
        return next((int(v.shape[0]) for v in self._present().values()), None)

    def _present(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def map(self, function: Callable[[Tensor], Tensor]) -> "Conditioning":
        """A copy with ``function`` applied to every part that is present."""
        return replace(self, **{name: function(value) for name, value in self._present().items()})

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Conditioning":
        """A copy on ``device``, floating parts in ``dtype``."""
        return self.map(lambda v: v.to(device=device, dtype=dtype if v.is_floating_point() else None))

    def drop(self, *parts: str, rows: Tensor | None = None) -> "Conditioning":
        """A copy without the named parts (``PARTS``), in the given ``rows`` ([B] bool) or in all of them.

        Raises ValueError for an unknown part.
        """
        unknown = set(parts) - set(PARTS)
        if unknown:
            raise ValueError(f"parts: {sorted(unknown)} given, allowed are {PARTS}")
        fills: dict[str, float] = {}
        if "text" in parts:
            fills |= {"tokens": 0, "mask": False, "pooled": 0}
        if "class_label" in parts:
            fills |= {"class_label": -1}
        if "source" in parts:
            fills |= {"source": 0, "source_mask": 0, "task": -1}
        if "control" in parts:
            fills |= {"control": 0}
        if "image_prompt" in parts:
            fills |= {"image_prompt": 0, "image_prompt_scale": 0}
        changed: dict[str, Tensor] = {}
        for name, value in self._present().items():
            if name not in fills:
                continue
            if rows is None:
                changed[name] = torch.full_like(value, fills[name])
            else:
                where = rows.view(-1, *[1] * (value.ndim - 1))
                changed[name] = value.masked_fill(where, fills[name])
        return replace(self, **changed)

    @staticmethod
    def cat(items: "Sequence[Conditioning]") -> "Conditioning":
        """Joined along the batch; all items must hold the same parts, text of the same M.

        Raises ValueError where they do not.
        """
        names = [set(item._present()) for item in items]
        if any(n != names[0] for n in names):
            raise ValueError(f"items: all must hold the same parts, given {[sorted(n) for n in names]}")
        return Conditioning(**{name: torch.cat([getattr(i, name) for i in items]) for name in names[0]})


@dataclass(frozen=True)
class DenoiserOutput:
    """What a denoiser gives back."""

    velocity: Tensor
    """[B, C, H, W], eps - z_0 as the network sees it; the shape of the latents."""
    state: Tensor | None = None
    """What the family carries to the next sampling step, [B, ...]; None where it carries nothing."""
    aux: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Named extras, for instance the reasoning steps taken."""


@dataclass(frozen=True)
class InputSpec:
    """What a denoiser takes beside latents and time, by its configuration: the one place that pipelines, training and
    export ask. A width or number of 0, False and None mean that it has no such input."""

    latent_channels: int
    """C."""
    sample_size: int
    """H and W of the latents in training."""
    size_multiple: int
    """H and W of any latents are multiples of this."""
    text_dim: int = 0
    """D_text of ``tokens``, which come with their ``mask``."""
    pooled_dim: int = 0
    """D_pool of ``pooled``."""
    text_encoder: str | None = None
    """Identity of the text encoder whose vectors it was trained on."""
    num_classes: int = 0
    """Of ``class_label``."""
    source: bool = False
    """``source`` and ``source_mask``."""
    source_apart: bool = False
    """Whether a sample without a source is computed in another way than one whose source and mask are zeros."""
    task: bool = False
    """``task``."""
    tasks: tuple[str, ...] = ()
    """Of ``TASKS``, those with a source that it was trained for."""
    control: str = ""
    """The kind of ``control``, of ``CONTROLS``; empty for none."""
    image_prompt_dim: int = 0
    """D_image of ``image_prompt``."""
    image_prompt_encoder: str | None = None
    """Identity of the encoder of ``image_prompt``, where it is known."""
    state_shape: tuple[int, ...] | None = None
    """Of what goes from one sampling step to the next, without the batch axis."""
    depth: int | None = None
    """Iterations of a call without ``depth``; None where the family has none."""


class Denoiser(Protocol):
    """``denoiser(latents, t, conditioning, state=None, depth=None)``: the call that every family answers.

    latents [B, C, H, W]; t [B] in [0, 1], 0 is data and 1 is noise; ``depth`` the number of iterations where the
    family has them (None: as configured); ``state`` as handed back by the call before.
    """

    config: Any

    def __call__(
        self,
        latents: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        *,
        state: Tensor | None = None,
        depth: int | None = None,
    ) -> DenoiserOutput: ...


@dataclass(frozen=True)
class TextEncoding:
    """What a text encoder gives for B prompts."""

    tokens: Tensor
    """[B, M, D_text] float32, zero where padded."""
    mask: Tensor
    """[B, M] bool."""
    pooled: Tensor
    """[B, D_pool] float32."""
