"""Checks of what a family is given, and how time, class and text enter."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.dtype import check_dtype
from pochade.nn.linear import Linear
from pochade.nn.modulation import TimestepEmbedding
from pochade.nn.norms import as_stream, autocasts
from pochade.types import TASKS, Conditioning, InputSpec


def check_latents(latents: Tensor, t: Tensor, network: Any) -> None:
    """Raises PochadeError unless latents are [B, C, H, W], H and W divide by the patches, t is [B], latents are of the
    network's type and t of a floating one."""
    shape, channels, multiple = tuple(latents.shape), network.config.latent_channels, network.config.patch_size
    if len(shape) != 4 or shape[1] != channels or not all(side and side % multiple == 0 for side in shape[2:]):
        raise PochadeError(
            f"latents: shape {shape} given, allowed is [B, {channels}, H, W] with H and W multiples of {multiple}"
        )
    if t.shape != latents.shape[:1]:
        raise PochadeError(f"t: shape {tuple(t.shape)} given, allowed is [{shape[0]}]")
    check_dtype("latents", latents, network, network.embed.weight)
    if not t.is_floating_point():
        raise PochadeError(f"t: {t.dtype} given, allowed is a floating type, in [0, 1]")


def check_conditioning(latents: Tensor, conditioning: Conditioning, spec: InputSpec) -> None:
    """Raises PochadeError unless every part that is present and used fits the latents and the network's inputs.

    Source and control have the type of the latents; text and image prompts may have any.

    A picture or a task that the network has no input for is an error; text and labels that it has none for are not
    used.

    Args:
        latents: [B, C, H, W].
        conditioning: of any parts.
        spec: what the network takes.
    """
    batch = latents.shape[0]
    length = None if conditioning.tokens is None else conditioning.tokens.shape[1]
    allowed: dict[str, tuple[int | None, ...]] = {}
    if spec.text_dim:
        allowed |= {"tokens": (batch, length, spec.text_dim), "mask": (batch, length)}
    if spec.pooled_dim:
        allowed["pooled"] = (batch, spec.pooled_dim)
    if spec.num_classes:
        allowed["class_label"] = (batch,)
    if spec.source:
        allowed |= {"source": tuple(latents.shape), "source_mask": (batch, 1, *latents.shape[2:])}
    if spec.control:
        allowed["control"] = tuple(latents.shape)
    if spec.image_prompt_dim:
        vectors = None if conditioning.image_prompt is None else conditioning.image_prompt.shape[1:2].numel()
        allowed |= {"image_prompt": (batch, vectors, spec.image_prompt_dim), "image_prompt_scale": (batch,)}
    if spec.task:
        allowed["task"] = (batch,)
    for name, shape in allowed.items():
        value = getattr(conditioning, name)
        if value is None:
            continue
        if tuple(value.shape) != shape:
            raise PochadeError(f"{name}: shape {tuple(value.shape)} given, allowed is {shape}")
        alike = name not in ("source", "control") or value.dtype == latents.dtype
        if not alike and not (value.is_floating_point() and autocasts(value)):
            raise PochadeError(f"{name}: {value.dtype} given, allowed is {latents.dtype}, the type of the latents")
    if spec.text_dim and (conditioning.tokens is None) != (conditioning.mask is None):
        raise PochadeError("mask: text tokens come with their mask, both or neither is allowed")
    for name in ("source", "control", "image_prompt", "task"):
        if name not in allowed and getattr(conditioning, name) is not None:
            raise PochadeError(f"{name}: a tensor given, but the network has no input for it: allowed is None")


def source_and_mask(conditioning: Conditioning) -> tuple[Tensor, Tensor]:
    """The source [B, C, H, W] that there is, and its mask [B, 1, H, W], zero where none is given."""
    assert conditioning.source is not None
    mask = conditioning.source_mask
    return conditioning.source, torch.zeros_like(conditioning.source[:, :1]) if mask is None else mask


def check_tasks(tasks: Sequence[str]) -> list[str]:
    """The tasks that are named, in the order of ``TASKS``. Raises PochadeError for one without a source."""
    allowed = TASKS[1:]
    if isinstance(tasks, str) or set(tasks) - set(allowed):
        raise PochadeError(f"tasks: {tasks!r} given, allowed are some of {', '.join(allowed)}")
    return [task for task in allowed if task in tasks]


def add_task_embedding(embedding: Tensor, vectors: nn.Embedding | None, conditioning: Conditioning) -> Tensor:
    """The embedding [B, D] with the vector of the task added, where there are vectors: without a source, "generate"."""
    if vectors is None:
        return embedding
    if conditioning.task is None:
        return embedding + vectors.weight[TASKS.index("generate")]
    return embedding + vectors(conditioning.task.clamp_min(TASKS.index("generate")))


def copy_with(network: Any, **changes: Any) -> Any:
    """A copy of a network with other arguments: weights that both have are equal, new ones are as at their start."""
    own: dict[str, Any] = {name: value for name, value in dict(network.config).items() if not name.startswith("_")}
    copy: Any = type(network)(**{**own, **changes})
    copy.load_state_dict({**copy.state_dict(), **network.state_dict()})
    if copy.dtype != network.dtype:
        copy.to(network.dtype)
    return copy.to(network.device).train(network.training)


class ConditioningEmbedding(nn.Module):
    """Time, class and pooled text in one vector [B, D].

    Args:
        dim: D.
        num_classes: classes, 0 for none; one more embedding stands for "no class".
        pooled_dim: width of the pooled text, 0 for none. Its length does not matter, its direction does.
    """

    def __init__(self, dim: int, num_classes: int, pooled_dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.time = TimestepEmbedding(dim)
        self.classes = nn.Embedding(num_classes + 1, dim) if num_classes else None
        self.pooled = Linear(pooled_dim, dim, bias=False) if pooled_dim else None

    def forward(self, t: Tensor, conditioning: Conditioning) -> Tensor:
        embedding = self.time(t)
        if self.classes is not None:
            label, none = conditioning.class_label, self.num_classes
            label = t.new_full(t.shape, none).long() if label is None else torch.where(label < 0, none, label)
            embedding = embedding + self.classes(label)
        if self.pooled is not None and conditioning.pooled is not None:
            pooled = conditioning.pooled.to(embedding.dtype)
            embedding = embedding + self.pooled(F.rms_norm(pooled, (pooled.shape[-1],), eps=1e-6))
        return embedding


class TextInput(nn.Module):
    """Text tokens [B, M, D_text] -> [B, 1 + M, D] and their mask.

    The first token is learned and always real: no sample is ever empty, and one whose text was dropped has it alone.
    """

    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__()
        self.project = Linear(text_dim, dim)
        self.null_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.null_token.no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, batch: int, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        null = self.null_token.expand(batch, -1, -1)
        always = torch.ones(batch, 1, dtype=torch.bool, device=null.device)
        if conditioning.tokens is None or conditioning.mask is None:
            return null, always
        tokens = conditioning.tokens.to(null.dtype)
        tokens = self.project(F.rms_norm(tokens, (tokens.shape[-1],), eps=1e-6))
        return as_stream(torch.cat((null, tokens), 1)), torch.cat((always, conditioning.mask), 1)
