"""LRF, the smallest family: four or six blocks, applied twice.

A patch embedding, a core of a few blocks applied ``recursions`` times with the input injected at each, and a linear
read-out. Text enters twice: its tokens through cross-attention, its pooled vector beside the time. A source picture is
added to the input through a projection that starts at zero, so the same core edits.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pochade.configuration import register_to_config
from pochade.denoisers.base import MAX_DEPTH, RANGES, DenoiserModel
from pochade.denoisers.inputs import (
    add_task_embedding,
    check_conditioning,
    check_latents,
    check_tasks,
    copy_with,
    source_and_mask,
)
from pochade.errors import PochadeError
from pochade.nn.attention import CrossAttention, MixerKind, SpatialMixer, scaled_init
from pochade.nn.feedforward import GatedFeedForward
from pochade.nn.linear import Linear
from pochade.nn.modulation import Modulation, TimestepEmbedding, modulated_norm
from pochade.nn.norms import LayerNorm, as_stream
from pochade.nn.positions import PositionTable
from pochade.types import TASKS, Conditioning, DenoiserOutput, InputSpec
from pochade.values import SHARE, Ranges, whole

SOFTMAX_TOKENS = 256
"""Up to this many tokens the mixer is softmax attention, above it linear attention."""


class LRFBlock(nn.Module):
    """adaLN-Zero block: spatial mixer, cross-attention where there is text, gated feed-forward."""

    def __init__(self, dim: int, heads: int, hidden: int, mixer: MixerKind, text: bool, dropout: float) -> None:
        super().__init__()
        self.modulation = Modulation(dim, 6)
        self.mixer = SpatialMixer(dim, heads, mixer)
        self.text_norm = LayerNorm(dim, eps=1e-5) if text else None
        self.text = CrossAttention(dim, heads) if text else None
        self.feedforward = GatedFeedForward(dim, hidden, dropout)

    def prepare(
        self, embedding: Tensor, text: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor] | None]:
        """What is the same in all recursions: the vectors of the modulation by ``embedding`` [B, D], keys and values of
        text [B, M, D]."""
        return self.modulation(embedding), None if self.text is None or text is None else self.text.context(text)

    def forward(
        self,
        x: Tensor,
        modulation: tuple[Tensor, ...],
        context: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        grid: tuple[int, int],
    ) -> Tensor:
        shift_mix, scale_mix, gate_mix, shift_ffn, scale_ffn, gate_ffn = modulation
        x = torch.addcmul(x, gate_mix, self.mixer(modulated_norm(x, shift_mix, scale_mix), *grid))
        if self.text is not None and self.text_norm is not None and context is not None and mask is not None:
            x = x + self.text(self.text_norm(x), context, mask)
        return torch.addcmul(x, gate_ffn, self.feedforward(modulated_norm(x, shift_ffn, scale_ffn)))


class LRFDenoiser(DenoiserModel, ModelMixin):  # in the module's namespace diffusers looks for it
    """The LRF denoiser: ``denoiser(latents, t, conditioning) -> DenoiserOutput``.

    Args:
        latent_channels: C of the latents.
        sample_size: rows of the (square) latents in training; other sizes work, positions are resized.
        patch_size: latent cells along one side of a token.
        dim: D. heads: attention heads, divide D. hidden: inner width of the feed-forward.
        blocks: blocks in the core. recursions: how often the core is applied (``depth`` overrides it).
        mixer: "softmax", "linear", or None: chosen by the number of tokens of ``sample_size`` and stored.
        gradient: "full" back-propagates through all recursions; "last" through the last one only, with memory that
            does not grow with their number (2510.04871).
        text_dim: width of the text tokens, 0 for no text. pooled_dim: width of the pooled text.
        text_encoder: identity of the text encoder whose vectors the network was trained on.
        num_classes: classes, 0 for none; one more embedding stands for "no class".
        dropout: inside the feed-forward, in training; in [0, 1).
        tasks: of ``pochade.types.TASKS``, those with a source that the network was trained for; with any of them comes
            a vector for each task beside the time.

    Raises:
        PochadeError: an argument is of another type or out of range.
    """

    ranges: ClassVar[Ranges] = {**RANGES, "recursions": whole(1, MAX_DEPTH), "dropout": SHARE}

    _repeated_blocks: ClassVar[list[str]] = ["LRFBlock"]
    _block_methods: ClassVar[dict[str, str]] = {"LRFBlock": "prepare"}
    _depths: ClassVar[tuple[int, int] | None] = (1, MAX_DEPTH)
    _trunk: ClassVar[str] = "core"

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        sample_size: int = 8,
        patch_size: int = 1,
        dim: int = 128,
        heads: int = 4,
        hidden: int = 480,
        blocks: int = 4,
        recursions: int = 2,
        mixer: MixerKind | None = None,
        gradient: Literal["full", "last"] = "full",
        text_dim: int = 0,
        pooled_dim: int = 0,
        text_encoder: str | None = None,
        num_classes: int = 0,
        dropout: float = 0.0,
        tasks: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.register_to_config(tasks=check_tasks(tasks))
        if dim % heads or sample_size % patch_size:
            raise PochadeError(
                f"dim, sample_size: {dim} and {sample_size} given, must divide by {heads} and {patch_size}"
            )
        side = sample_size // patch_size
        if mixer is None:
            mixer = "softmax" if side * side <= SOFTMAX_TOKENS else "linear"
            self.register_to_config(mixer=mixer)
        patch = latent_channels * patch_size**2
        self.embed = Linear(patch, dim)
        self.embed_source = Linear(patch + patch_size**2, dim, bias=False)
        self.positions = PositionTable(dim, side)
        self.time = TimestepEmbedding(dim)
        self.classes = nn.Embedding(num_classes + 1, dim) if num_classes else None
        self.task_vectors = nn.Embedding(len(TASKS), dim) if tasks else None
        self.pooled = Linear(pooled_dim, dim, bias=False) if pooled_dim else None
        self.text_in = Linear(text_dim, dim) if text_dim else None
        self.null_token = nn.Parameter(torch.zeros(1, 1, dim)) if text_dim else None
        self.core = nn.ModuleList(LRFBlock(dim, heads, hidden, mixer, bool(text_dim), dropout) for _ in range(blocks))
        self.modulation_out = Modulation(dim, 2)
        self.out = Linear(dim, patch)
        self._initialise()

    def _initialise(self) -> None:
        """Zero at the start: modulations (so every block is the identity), text paths, source path, read-out."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                scaled_init(module)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.normal_(self.positions.table, std=0.02)
        if self.null_token is not None:
            nn.init.normal_(self.null_token, std=0.02)
        if self.task_vectors is not None:
            nn.init.zeros_(self.task_vectors.weight)
        zero = [self.embed_source, self.modulation_out.linear, self.out]
        for block in self.core:
            assert isinstance(block, LRFBlock)
            zero.append(block.modulation.linear)
            if block.text is not None:
                zero.append(block.text.out)
        for linear in zero:
            nn.init.zeros_(linear.weight)
            if linear.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                nn.init.zeros_(linear.bias)

    def input_spec(self) -> InputSpec:
        """What the network takes; a source even where it was not trained with one."""
        config, tasks = self.config, tuple(self.config.tasks)
        return replace(super().input_spec(), source=True, task=bool(tasks), tasks=tasks, depth=config.recursions)

    def with_source(self, tasks: Sequence[str]) -> "LRFDenoiser":
        """A copy to be trained for ``tasks`` beside those that it has, each with a source.

        Where it had none, the source path is closed: before training it gives what this one gives without a source,
        bit for bit, whatever it is shown.
        """
        copy: LRFDenoiser = copy_with(self, tasks=[*self.config.tasks, *check_tasks(tasks)])
        if not self.config.tasks:
            nn.init.zeros_(copy.embed_source.weight)
        return copy

    def _tokens(self, latents: Tensor) -> Tensor:
        return F.pixel_unshuffle(latents, self.config.patch_size).flatten(2).transpose(1, 2)

    def _embedding(self, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Time, class, pooled text and task in one vector [B, D]."""
        embedding = self.time(t)
        if self.classes is not None:
            label = conditioning.class_label
            none = self.config.num_classes
            label = t.new_full(t.shape, none).long() if label is None else torch.where(label < 0, none, label)
            embedding = embedding + self.classes(label)
        if self.pooled is not None and conditioning.pooled is not None:
            pooled = conditioning.pooled.to(embedding.dtype)
            embedding = embedding + self.pooled(F.rms_norm(pooled, (pooled.shape[-1],), eps=1e-6))
        return add_task_embedding(embedding, self.task_vectors, conditioning)

    def _context(self, batch: int, conditioning: Conditioning) -> tuple[Tensor, Tensor] | None:
        """Text tokens [B, 1 + M, D] and their mask; the first is learned, so that no row is ever empty."""
        if self.text_in is None or self.null_token is None:
            return None
        null = self.null_token.expand(batch, -1, -1)
        always = torch.ones(batch, 1, dtype=torch.bool, device=null.device)
        if conditioning.tokens is None or conditioning.mask is None:
            return null, always
        tokens = conditioning.tokens.to(null.dtype)
        tokens = self.text_in(F.rms_norm(tokens, (tokens.shape[-1],), eps=1e-6))
        return as_stream(torch.cat((null, tokens), 1)), torch.cat((always, conditioning.mask), 1)

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        *,
        state: Tensor | None = None,
        depth: int | None = None,
    ) -> DenoiserOutput:
        """Velocity at ``latents`` [B, C, H, W] and time ``t`` [B] in [0, 1].

        Args:
            conditioning: text (tokens, mask, pooled), class label and source are used where present, the task where
                the configuration has ``tasks``.
            state: must be None, LRF has none.
            depth: recursions, 1 to 64; None as configured.

        Raises:
            PochadeError: a shape, a type or the depth does not fit, or a state was given.
        """
        recursions: int = self.config.recursions if depth is None else depth
        p = self.config.patch_size
        check_latents(latents, t, self)
        check_conditioning(latents, conditioning, self.input_spec())
        self.check_depth(depth)
        if state is not None:
            raise PochadeError("state: a tensor given, but LRF has no state: allowed is None")
        grid = (latents.shape[2] // p, latents.shape[3] // p)
        x = self.embed(self._tokens(latents)) + self.positions(*grid)
        if conditioning.source is not None:
            x = x + self.embed_source(self._tokens(torch.cat(source_and_mask(conditioning), 1)))
        elif self.training:  # no source is one of zeros, and no parameter is without a gradient
            x = x + self.embed_source(x.new_zeros(self.embed_source.in_features))
        x = as_stream(x)

        embedding = self._embedding(t, conditioning)
        text = self._context(latents.shape[0], conditioning)
        mask = None if text is None else text[1]
        prepared: list[tuple[LRFBlock, tuple[Tensor, ...], tuple[Tensor, Tensor] | None]] = []
        for block in self.core:
            assert isinstance(block, LRFBlock)
            prepared.append((block, *block.prepare(embedding, None if text is None else text[0])))

        h = x.view_as(x)  # a use of x apart, so that its gradients add up in the order of the recursions
        full: bool = self.config.gradient == "full"
        for recursion in range(recursions):
            last = recursion == recursions - 1
            with torch.set_grad_enabled(torch.is_grad_enabled() and (last or full)):
                h = h + x if recursion else h
                for block, modulation, context in prepared:
                    h = block(h, modulation, context, mask, grid)

        tokens = self.out(modulated_norm(h, *self.modulation_out(embedding)))
        velocity = F.pixel_shuffle(torch.unflatten(tokens.transpose(1, 2), 2, grid), p)
        return DenoiserOutput(velocity)


_MINILM: dict[str, Any] = {"text_dim": 384, "pooled_dim": 384, "text_encoder": "minilm-l6-v2"}

VARIANTS: dict[str, dict[str, Any]] = {
    "cifar": dict(latent_channels=4, sample_size=4, patch_size=1, dim=128, heads=4, hidden=480, num_classes=10),
    "nano": dict(latent_channels=8, sample_size=8, patch_size=2, dim=224, heads=7, hidden=608, **_MINILM),
    "tiny": dict(latent_channels=16, sample_size=16, patch_size=2, dim=384, heads=6, hidden=1024, blocks=6, **_MINILM),
    "small": dict(latent_channels=8, sample_size=32, patch_size=2, dim=576, heads=9, hidden=1536, **_MINILM),
}
"""Sizes by name; parameters: cifar 1.47 M, nano 4-6 M, tiny 20 M, small 30 M."""
