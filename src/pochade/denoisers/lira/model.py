"""LiRA: a selective state-space network that plans first.

A latent reasoning loop reads the picture and the prompt a few times and adds what it found to the time and the text
that modulate the blocks. These scan the tokens in four directions and mix them with their neighbours; text enters after
every fourth block through a state of fixed size; long skips join the first half of the blocks to the second.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pochade.configuration import register_to_config
from pochade.denoisers.base import MAX_DEPTH, RANGES, DenoiserModel
from pochade.denoisers.inputs import (
    ConditioningEmbedding,
    TextInput,
    add_task_embedding,
    check_conditioning,
    check_latents,
    check_tasks,
    copy_with,
    source_and_mask,
)
from pochade.denoisers.lira.reasoning import LEAST_STEPS, ReasoningLoop
from pochade.errors import PochadeError
from pochade.nn.attention import CrossAttention, LinearCrossAttention, SpatialMixer, scaled_init
from pochade.nn.cpu import inference
from pochade.nn.feedforward import MixFeedForward
from pochade.nn.four_direction_scan import Decay, FourDirectionScan
from pochade.nn.hyper_connections import HyperConnection, collapse, expand
from pochade.nn.linear import Linear
from pochade.nn.modulation import Modulation, modulated_norm
from pochade.nn.norms import LayerNorm, as_stream
from pochade.nn.positions import PositionTable
from pochade.types import TASKS, Conditioning, DenoiserOutput, InputSpec
from pochade.values import COUNT, LAYERS, WEIGHT, WIDTH, Ranges

Mixer = Literal["scan", "attention"]
Connections = Literal["residual", "static", "dynamic"]
Fusion = Literal["gated", "interpolated", "attention", "none"]

EXPANSION = 2
"""Width of the scans over D."""
DIRECTIONS = 4
"""Of the scans, as published."""


class Residual(nn.Module):
    """h + layer(h): what a hyper-connection generalises."""

    def forward(self, h: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        return h + layer(h)


class AttentionFusion(nn.Module):
    """Ordinary cross-attention (1706.03762, section 3.2.2) with the interface of ``LinearCrossAttention``.

    Its state is keys, values and a mask.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = CrossAttention(dim, heads)

    @property
    def out(self) -> nn.Linear:
        """The output projection."""
        return self.attention.out

    def context(self, tokens: Tensor, mask: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Text tokens [B, M, D] and mask [B, M] -> the state that ``forward`` reads, the same at every token."""
        return self.attention.context(tokens), mask

    def forward(self, x: Tensor, state: tuple[tuple[Tensor, Tensor], Tensor]) -> Tensor:
        """[B, N, D] -> [B, N, D]; ``state`` from ``context``."""
        return self.attention(x, *state)


class LiRABlock(nn.Module):
    """adaLN-Zero block: mixer over the picture, Mix-FFN and, in some, the fusion with the text after them."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        mixer: FourDirectionScan | SpatialMixer,
        fuse: Callable[[], LinearCrossAttention | AttentionFusion] | None,
        connect: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.modulation = Modulation(dim, 6)
        self.mixer = mixer
        self.feedforward = MixFeedForward(dim, hidden)
        self.text_norm = None if fuse is None else LayerNorm(dim, eps=1e-5)
        self.text = None if fuse is None else fuse()
        self.connect = nn.ModuleList(connect() for _ in range(2 if fuse is None else 3))

    def forward(
        self, h: Tensor, embedding: Tensor, text: tuple[Tensor, Tensor] | None, grid: tuple[int, int]
    ) -> Tensor:
        """The stream [B, N, D], or the streams [B, n, N, D], after the block."""
        shift_mix, scale_mix, gate_mix, shift_ffn, scale_ffn, gate_ffn = self.modulation(embedding)

        def mix(x: Tensor) -> Tensor:
            return gate_mix * self.mixer(modulated_norm(x, shift_mix, scale_mix), *grid)

        def feed_forward(x: Tensor) -> Tensor:
            return gate_ffn * self.feedforward(modulated_norm(x, shift_ffn, scale_ffn), *grid)

        h = self.connect[1](self.connect[0](h, mix), feed_forward)
        if self.text is None or self.text_norm is None or text is None:
            return h
        fusion: Any = self.text
        norm, state = self.text_norm, fusion.context(*text)
        return self.connect[2](h, lambda x: fusion(norm(x), state))  # pyright: ignore[reportUnknownLambdaType]


class LiRADenoiser(DenoiserModel, ModelMixin):  # in the module's namespace diffusers looks for it
    """The LiRA denoiser: ``denoiser(latents, t, conditioning) -> DenoiserOutput``.

    Args:
        latent_channels: C of the latents.
        sample_size: rows of the (square) latents in training; other sizes work, positions are resized.
        patch_size: latent cells along one side of a token.
        dim: D. blocks: number of blocks. hidden: inner width of the feed-forward.
        mixer: of the blocks, "scan" in four directions, or softmax "attention" of every token to every other
            (1706.03762, section 3.2.1).
        state_size: S of the scans.
        decay: of the scans, "scalar" (one a head of 64 channels) or "diagonal" (one a channel and state).
        connections: between the layers: "residual", or hyper-connections, "static" or "dynamic".
        streams: n of the hyper-connections.
        heads: of the fusion with the text and of attention, divide D. fusion_every: blocks from one fusion to the next.
        fusion: "gated" linear attention, the same "interpolated" with its input (1 - g), ordinary cross-"attention", or
            "none": then text enters through the modulation alone.
        directions: of the scans, 4, 2 (along rows, forth and back) or 1.
        long_skips: whether the first half of the blocks is joined to the second.
        reasoning_steps: the most steps of the reasoning loop (``depth`` overrides it), 0 for no loop.
        reasoning_width: R of the loop. reasoning_halting: False for a loop of always ``reasoning_steps`` steps.
        halt_threshold: probability to have halted from which a picture stops at inference.
        ponder_steps: mean number of steps that the ponder cost draws to. ponder_weight: its weight in the loss.
        text_dim: width of the text tokens, 0 for no text. pooled_dim: width of the pooled text.
        text_encoder: identity of the text encoder whose vectors the network was trained on.
        num_classes: classes, 0 for none; one more embedding stands for "no class".
        tasks: of ``pochade.types.TASKS``, those with a source that the network was trained for. With any of them comes
            a second embedding, of the source's latents and the mask, that is added to that of the latents from zero,
            and a vector for each task beside the time.

    Raises:
        PochadeError: an argument is of another type or out of range.
    """

    ranges: ClassVar[Ranges] = {
        **RANGES,
        **dict.fromkeys(("state_size", "reasoning_width"), WIDTH),
        "streams": LAYERS,
        "fusion_every": COUNT,
        "directions": (lambda value: value in (1, 2, DIRECTIONS), "1, 2 or 4"),
        "reasoning_steps": (
            lambda value: value == 0 or LEAST_STEPS <= value <= MAX_DEPTH,
            f"0, or a whole number from {LEAST_STEPS} to {MAX_DEPTH}",
        ),
        "halt_threshold": (lambda value: 0 < value <= 1, "above 0, up to 1"),
        "ponder_steps": (lambda value: value > LEAST_STEPS, f"above {LEAST_STEPS}"),
        "ponder_weight": WEIGHT,
    }

    _repeated_blocks: ClassVar[list[str]] = ["LiRABlock"]
    _depths: ClassVar[tuple[int, int] | None] = (LEAST_STEPS, MAX_DEPTH)
    _trunk: ClassVar[str] = "layers"

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        sample_size: int = 16,
        patch_size: int = 2,
        dim: int = 192,
        blocks: int = 6,
        hidden: int = 384,
        mixer: Mixer = "scan",
        state_size: int = 8,
        decay: Decay = "scalar",
        connections: Connections = "dynamic",
        streams: int = 2,
        heads: int = 3,
        fusion_every: int = 4,
        fusion: Fusion = "gated",
        directions: int = DIRECTIONS,
        long_skips: bool = True,
        reasoning_steps: int = 8,
        reasoning_width: int = 128,
        reasoning_halting: bool = True,
        halt_threshold: float = 0.8,
        ponder_steps: float = 4.0,
        ponder_weight: float = 0.01,
        text_dim: int = 0,
        pooled_dim: int = 0,
        text_encoder: str | None = None,
        num_classes: int = 0,
        tasks: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.register_to_config(tasks=check_tasks(tasks))
        if dim % heads or sample_size % patch_size:
            raise PochadeError(
                f"dim, sample_size: {dim} and {sample_size} given, must divide by {heads} and {patch_size}"
            )
        if mixer == "attention" and directions != DIRECTIONS:
            raise PochadeError(f"directions: {directions} given, allowed with mixer='scan' alone")
        patch = latent_channels * patch_size**2
        self.embed = Linear(patch, dim)
        self.positions = PositionTable(dim, sample_size // patch_size)
        self.steering = ConditioningEmbedding(dim, num_classes, pooled_dim)
        fused = bool(text_dim) and fusion != "none"
        self.text = TextInput(text_dim, dim) if fused or (text_dim and not pooled_dim) else None
        self.reasoning = None
        if reasoning_steps:
            self.reasoning = ReasoningLoop(
                dim,
                reasoning_width,
                state_size,
                decay,
                reasoning_steps,
                halt_threshold,
                ponder_steps,
                # Of two steps both are always taken.
                reasoning_halting and reasoning_steps > LEAST_STEPS,
            )
        indices = iter(range(3 * blocks))

        def connect() -> nn.Module:
            if connections == "residual":
                return Residual()
            return HyperConnection(dim, streams, next(indices), dynamic=connections == "dynamic")

        def mix() -> FourDirectionScan | SpatialMixer:
            if mixer == "attention":
                return SpatialMixer(dim, heads, "softmax")
            return FourDirectionScan(dim, EXPANSION * dim, state_size, decay, directions)

        def fuse() -> LinearCrossAttention | AttentionFusion:
            if fusion == "attention":
                return AttentionFusion(dim, heads)
            return LinearCrossAttention(dim, heads, interpolated=fusion == "interpolated")

        self.layers = nn.ModuleList(
            LiRABlock(dim, hidden, mix(), fuse if fused and i % fusion_every == 0 else None, connect)
            for i in range(1, blocks + 1)
        )
        skips = blocks // 2 if long_skips else 0
        self.skips = nn.ModuleList(Linear(dim, dim, bias=False) for _ in range(skips))
        self.modulation_out = Modulation(dim, 2)
        self.out = Linear(dim, patch)
        self.embed_source = Linear(patch + patch_size**2, dim, bias=False) if tasks else None
        self.task_vectors = nn.Embedding(len(TASKS), dim) if tasks else None
        self._initialise()

    def _initialise(self) -> None:
        """Zero at the start: modulations and text paths (so every block is the identity), long skips, read-out."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                scaled_init(module)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.normal_(self.positions.table, std=0.02)
        if self.text is not None:
            nn.init.normal_(self.text.null_token, std=0.02)
        if self.reasoning is not None:
            self.reasoning.initialise_halting()
        zero: list[nn.Module] = [*self.skips, self.modulation_out.linear, self.out]
        zero += [module for module in (self.embed_source, self.task_vectors) if module is not None]
        for block in self.layers:
            assert isinstance(block, LiRABlock)
            zero.append(block.modulation.linear)
            if block.text is not None:
                zero.append(block.text.out)
        for linear in zero:
            for parameter in linear.parameters():
                nn.init.zeros_(parameter)

    def input_spec(self) -> InputSpec:
        """What the network takes; a source where the configuration has ``tasks``."""
        tasks = tuple(self.config.tasks)
        depth = self.config.reasoning_steps or None
        return replace(super().input_spec(), source=bool(tasks), task=bool(tasks), tasks=tasks, depth=depth)

    def with_source(self, tasks: Sequence[str]) -> "LiRADenoiser":
        """A copy to be trained for ``tasks`` beside those that it has, each with a source.

        Where it had none, the source path is closed: before training it gives what this one gives without a source,
        bit for bit, whatever it is shown.
        """
        return copy_with(self, tasks=[*self.config.tasks, *check_tasks(tasks)])

    def _tokens(self, latents: Tensor) -> Tensor:
        return F.pixel_unshuffle(latents, self.config.patch_size).flatten(2).transpose(1, 2)

    def _check(self, latents: Tensor, t: Tensor, conditioning: Conditioning, state: Any, depth: int | None) -> None:
        check_latents(latents, t, self)
        check_conditioning(latents, conditioning, self.input_spec())
        if state is not None:
            raise PochadeError("state: a tensor given, but LiRA has no state: allowed is None")
        self.check_depth(depth)

    def check_depth(self, depth: int | None) -> None:
        if depth is not None and self.reasoning is None:
            raise PochadeError(f"depth: {depth} given, but the network has no reasoning loop: allowed is none")
        super().check_depth(depth)

    @inference.by_loops
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

        ``aux`` holds ``reasoning_steps`` [B], the steps that each picture took (in training the expected number), and
        in training ``loss_ponder`` [B], the weighted ponder cost.

        Args:
            conditioning: text (tokens, mask, pooled) and class label are used where present, source and task where the
                configuration has ``tasks``.
            state: must be None, LiRA has none.
            depth: the most reasoning steps, 2 to 64; None as configured.

        Raises:
            PochadeError: a shape, a type or the depth does not fit, or something was given that LiRA has no input for.
        """
        self._check(latents, t, conditioning, state, depth)
        p = self.config.patch_size
        grid = (latents.shape[2] // p, latents.shape[3] // p)
        x = self.embed(self._tokens(latents)) + self.positions(*grid)
        if self.embed_source is not None and conditioning.source is not None:
            x = x + self.embed_source(self._tokens(torch.cat(source_and_mask(conditioning), 1)))
        x = as_stream(x)

        text = None if self.text is None else self.text(latents.shape[0], conditioning)
        embedding = add_task_embedding(self.steering(t, conditioning), self.task_vectors, conditioning)
        if text is not None and self.steering.pooled is None:
            embedding = embedding + _mean(*text)
        aux: dict[str, Tensor] = {}
        if self.reasoning is not None:
            thought, aux["reasoning_steps"], cost = self.reasoning(x, embedding, depth)
            aux["reasoning_steps"] = aux["reasoning_steps"].detach()
            embedding = embedding + thought
            if self.training:
                aux["loss_ponder"] = self.config.ponder_weight * cost

        several = self.config.connections != "residual"
        h = expand(x, self.config.streams) if several else x
        kept: list[Tensor] = []
        for i, block in enumerate(self.layers):
            if i >= len(self.layers) - len(self.skips):
                joined = self.skips[len(kept) - 1](kept.pop())
                h = h + (joined.unsqueeze(1) if several else joined)
            h = block(h, embedding, text, grid)
            if i < len(self.skips):
                kept.append(collapse(h) if several else h)

        h = collapse(h) if several else h
        tokens = self.out(modulated_norm(h, *self.modulation_out(embedding)))
        velocity = F.pixel_shuffle(torch.unflatten(tokens.transpose(1, 2), 2, grid), p)
        return DenoiserOutput(velocity, aux=aux)


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """[B, M, D] and [B, M] bool -> [B, D], the mean of the real tokens."""
    real = mask[..., None].to(tokens.dtype)
    return (tokens * real).sum(1) / real.sum(1)


_MINILM: dict[str, Any] = {"text_dim": 384, "pooled_dim": 384, "text_encoder": "minilm-l6-v2"}
_F32: dict[str, Any] = {"latent_channels": 32, "sample_size": 32, "patch_size": 1, **_MINILM}

# fmt: off
VARIANTS: dict[str, dict[str, Any]] = {
    "nano":  dict(dim=192, blocks=6,  hidden=384,  state_size=8,  heads=3,  fusion_every=2, **_MINILM),
    "tiny":  dict(dim=384, blocks=12, hidden=1344, state_size=8,  heads=6,  **_F32),
    "small": dict(dim=512, blocks=20, hidden=1984, state_size=16, heads=8,  **_F32),
    "base":  dict(dim=768, blocks=28, hidden=2944, state_size=16, heads=12, **_F32),
    "large": dict(dim=800, blocks=36, hidden=3040, state_size=16, heads=10, **_F32),
}
# fmt: on
"""Sizes by name; parameters: nano 4-6 M, tiny 46 M, small 140 M, base 433 M, large 600 M."""
