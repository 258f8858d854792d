"""The networks of a model as functions of tensors, which every exporter takes: inputs by name, batch axis first.

One call of the denoiser is one run of its graph; the sampling loop stays in the host.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pochade.autoencoders.base import ImageAutoencoder
from pochade.denoisers.base import DenoiserModel
from pochade.errors import PochadeError
from pochade.export.parity import Input
from pochade.text_encoders.base import PromptEncoder
from pochade.types import TASKS, Conditioning, InputSpec


@dataclass(frozen=True)
class Network:
    """One network of a model, a copy on the CPU in float32."""

    name: str
    """``text_encoder``, ``denoiser``, ``decoder`` or ``encoder``."""
    module: nn.Module
    """Takes ``inputs`` in order, gives ``outputs`` in order: a tensor, or a tuple of several."""
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """How many numbers it has learned."""
        return sum(p.numel() for p in self.module.parameters())


class _FlatDenoiser(nn.Module):
    """Tensors in, velocity out: a conditioning is put together from the named parts. With a state, that too."""

    def __init__(self, denoiser: nn.Module, parts: Sequence[str], depth: int | None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.parts = tuple(parts)
        self.depth = depth

    def forward(self, latents: Tensor, t: Tensor, *parts: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        values = dict(zip(self.parts, parts, strict=True))
        state = values.pop("state", None)
        out = self.denoiser(latents, t, Conditioning(**values), state=state, depth=self.depth)
        return out.velocity if state is None else (out.velocity, out.state)


class _FlatTextEncoder(nn.Module):
    """Ids and mask in, tokens and pooled out."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        out = self.encoder(ids, mask)
        return out.tokens, out.pooled


class _Encoder(nn.Module):
    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor) -> Tensor:
        return self.autoencoder.encode(images)  # pyright: ignore[reportCallIssue]


class _Decoder(nn.Module):
    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)  # pyright: ignore[reportCallIssue]


def denoiser_inputs(spec: InputSpec, latent_size: tuple[int, int], text_tokens: int) -> tuple[Input, ...]:
    """The inputs of a denoiser's graph: latents, t, then the conditioning that it takes, then its state.

    One that was trained with a source takes the source's latents, the mask of what is to be changed, and the task, an
    index into ``pochade.types.TASKS``. ``Input.absent`` fills what a picture is sampled without, as it fills the state
    at the first step: a denoiser treats that as if it had no such input.
    """
    latents = (spec.latent_channels, *latent_size)
    inputs = [Input("latents", latents), Input("t", (), bounded=True)]
    if spec.text_dim:
        inputs.append(Input("tokens", (text_tokens, spec.text_dim), absent=0))
        inputs.append(Input("mask", (text_tokens,), torch.bool, absent=0))
    if spec.pooled_dim:
        inputs.append(Input("pooled", (spec.pooled_dim,), absent=0))
    if spec.num_classes:
        inputs.append(Input("class_label", (), torch.int64, low=-1, high=spec.num_classes, absent=-1))
    if spec.tasks:
        inputs.append(Input("source", latents, absent=0))
        inputs.append(Input("source_mask", (1, *latent_size), bounded=True, absent=0))
        inputs.append(Input("task", (), torch.int64, high=len(TASKS), absent=-1))
    if spec.control:
        inputs.append(Input("control", latents, absent=0))
    if spec.image_prompt_dim:
        inputs.append(Input("image_prompt", (1, spec.image_prompt_dim), absent=0))
    if spec.state_shape is not None:
        inputs.append(Input("state", spec.state_shape, absent=0))
    return tuple(inputs)


def denoiser_network(
    denoiser: DenoiserModel,
    *,
    latent_size: tuple[int, int] | int | None = None,
    text_tokens: int = 64,
    depth: int | None = None,
    source: bool = True,
    name: str = "denoiser",
) -> Network:
    """One call of a denoiser: ``(latents, t, parts of the conditioning) -> velocity``.

    Where the denoiser carries a state from step to step, that is the last input and a second output, ``next_state``.

    Args:
        denoiser: any family.
        latent_size: rows and columns of the latents (None: the resolution it was trained at).
        text_tokens: M; shorter prompts are padded to it with zeros and False.
        depth: iterations in the graph, where the family has them (None: as configured).
        source: whether the graph takes a source and a task, where the network does.
        name: of the graph.

    Raises:
        PochadeError: an argument is out of range.
    """
    spec = denoiser.input_spec()
    if not source:
        spec = replace(spec, source=False, task=False, tasks=())
    rows, columns = _pair(latent_size if latent_size is not None else spec.sample_size)
    multiple = spec.size_multiple
    if rows < 1 or columns < 1 or rows % multiple or columns % multiple:
        raise PochadeError(f"latent_size: {rows} x {columns} given, allowed are multiples of {multiple}")
    if text_tokens < 1:
        raise PochadeError(f"text_tokens: {text_tokens} given, allowed is 1 and more")
    inputs = denoiser_inputs(spec, (rows, columns), text_tokens)
    flat = _FlatDenoiser(_cpu_copy(denoiser), [i.name for i in inputs[2:]], depth).eval()
    outputs = ("velocity", "next_state") if inputs[-1].name == "state" else ("velocity",)
    return Network(name, flat, inputs, outputs)


def decoder_network(autoencoder: nn.Module, *, latent_size: tuple[int, int] | int) -> Network:
    """``latents [B, C, H, W] -> images [B, 3, ...] in [-1, 1]``. Raises PochadeError for a size below 1."""
    rows, columns = _cells(latent_size)
    config: Any = autoencoder.config
    inputs = (Input("latents", (config.latent_channels, rows, columns)),)
    return Network("decoder", _Decoder(_cpu_copy(autoencoder)).eval(), inputs, ("images",))


def encoder_network(autoencoder: ImageAutoencoder, *, latent_size: tuple[int, int] | int) -> Network:
    """``images [B, 3, ...] in [-1, 1] -> latents [B, C, H, W]``. Raises PochadeError for a size below 1."""
    rows, columns = _cells(latent_size)
    f = autoencoder.downsampling
    inputs = (Input("images", (3, f * rows, f * columns)),)
    return Network("encoder", _Encoder(_cpu_copy(autoencoder)).eval(), inputs, ("latents",))


def text_encoder_network(encoder: PromptEncoder, *, text_tokens: int | None = None) -> Network:
    """``ids, mask [B, M] -> tokens [B, M, D_text], pooled [B, D_pool]``; at least the opening and the closing token are
    real.

    Args:
        encoder: of prompts.
        text_tokens: M (None: the most that the encoder reads).

    Raises:
        PochadeError: ``text_tokens`` is out of range.
    """
    limit = encoder.max_tokens
    tokens = limit if text_tokens is None else text_tokens
    if not 1 <= tokens <= limit:
        raise PochadeError(f"text_tokens: {text_tokens} given, allowed are 1 to {limit}")
    inputs = (
        Input("ids", (tokens,), torch.int64, high=encoder.vocabulary_size),
        Input("mask", (tokens,), torch.bool, low=min(2, tokens)),
    )
    return Network("text_encoder", _FlatTextEncoder(_cpu_copy(encoder)).eval(), inputs, ("tokens", "pooled"))


def _cells(size: tuple[int, int] | int) -> tuple[int, int]:
    rows, columns = _pair(size)
    if rows < 1 or columns < 1:
        raise PochadeError(f"latent_size: {rows} x {columns} given, allowed is 1 x 1 and more")
    return rows, columns


def _pair(size: tuple[int, int] | int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    rows, columns = size
    return int(rows), int(columns)


def _cpu_copy(module: nn.Module) -> nn.Module:
    """Weights lie in memory as their axes say: some exporters take another order for another shape."""
    copied = copy.deepcopy(module).cpu().float().eval().requires_grad_(False)
    for parameter in copied.parameters():
        parameter.data = parameter.data.contiguous()
    return copied
