"""LiRA: a selective state-space network that plans first.

A latent reasoning loop reads the picture and the prompt a few times and adds what it found to the time and the text
that modulate the blocks. These scan the tokens in four directions and mix them with their neighbours; text enters after
every fourth block through a state of fixed size; long skips join the first half of the blocks to the second.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pochade.configuration import register_to_config
from pochade.denoisers.base import DenoiserModel
from pochade.denoisers.inputs import ConditioningEmbedding, TextInput, check_conditioning, check_latents
from pochade.denoisers.lira.reasoning import LEAST_STEPS, MAX_DEPTH, ReasoningLoop
from pochade.errors import PochadeError
from pochade.nn.attention import LinearCrossAttention, scaled_init
from pochade.nn.feedforward import MixFeedForward
from pochade.nn.four_direction_scan import Decay, FourDirectionScan
from pochade.nn.hyper_connections import HyperConnection, collapse, expand
from pochade.nn.modulation import Modulation, modulated_norm
from pochade.nn.norms import LayerNorm, as_stream
from pochade.nn.positions import PositionTable
from pochade.types import Conditioning, DenoiserOutput, InputSpec

Connections = Literal["residual", "static", "dynamic"]

EXPANSION = 2
"""Width of the scans over D."""


class Residual(nn.Module):
    """h + layer(h): what a hyper-connection generalises."""

    def forward(self, h: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        return h + layer(h)


class LiRABlock(nn.Module):
    """adaLN-Zero block: four-direction scan, Mix-FFN and, in some, the fusion with the text after them."""

    def __init__(
        self, dim: int, hidden: int, state_size: int, decay: Decay, heads: int, connect: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.modulation = Modulation(dim, 6)
        self.mixer = FourDirectionScan(dim, EXPANSION * dim, state_size, decay)
        self.feedforward = MixFeedForward(dim, hidden)
        self.text_norm = LayerNorm(dim, eps=1e-5) if heads else None
        self.text = LinearCrossAttention(dim, heads) if heads else None
        self.connect = nn.ModuleList(connect() for _ in range(3 if heads else 2))

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
        fusion, norm, state = self.text, self.text_norm, self.text.context(*text)
        return self.connect[2](h, lambda x: fusion(norm(x), state))  # pyright: ignore[reportUnknownLambdaType]


class LiRADenoiser(DenoiserModel, ModelMixin):  # in the module's namespace diffusers looks for it
    """The LiRA denoiser: ``denoiser(latents, t, conditioning) -> DenoiserOutput``.

    Args:
        latent_channels: C of the latents.
        sample_size: rows of the (square) latents in training; other sizes work, positions are resized.
        patch_size: latent cells along one side of a token.
        dim: D. blocks: number of blocks. hidden: inner width of the feed-forward.
        state_size: S of the scans.
        decay: of the scans, "scalar" (one a head of 64 channels) or "diagonal" (one a channel and state).
        connections: between the layers: "residual", or hyper-connections, "static" or "dynamic".
        streams: n of the hyper-connections.
        heads: of the fusion with the text, divide D. fusion_every: blocks from one fusion to the next.
        reasoning_steps: the most steps of the reasoning loop (``depth`` overrides it), 0 for no loop.
        reasoning_width: R of the loop. reasoning_halting: False for a loop of always ``reasoning_steps`` steps.
        halt_threshold: probability to have halted from which a picture stops at inference.
        ponder_steps: mean number of steps that the ponder cost draws to. ponder_weight: its weight in the loss.
        text_dim: width of the text tokens, 0 for no text. pooled_dim: width of the pooled text.
        text_encoder: identity of the text encoder whose vectors the network was trained on.
        num_classes: classes, 0 for none; one more embedding stands for "no class".

    Raises:
        PochadeError: an argument is out of range.
    """

    _repeated_blocks: ClassVar[list[str]] = ["LiRABlock"]
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
        state_size: int = 8,
        decay: Decay = "scalar",
        connections: Connections = "dynamic",
        streams: int = 2,
        heads: int = 3,
        fusion_every: int = 4,
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
    ) -> None:
        super().__init__()
        if dim % heads or sample_size % patch_size:
            raise PochadeError(
                f"dim, sample_size: {dim} and {sample_size} given, must divide by {heads} and {patch_size}"
            )
        if connections not in ("residual", "static", "dynamic"):
            raise PochadeError(f"connections: {connections!r} given, allowed are 'residual', 'static' and 'dynamic'")
        if blocks < 1 or fusion_every < 1 or streams < 1:
            raise PochadeError(
                f"blocks, fusion_every, streams: {blocks}, {fusion_every} and {streams} given, each must be at least 1"
            )
        patch = latent_channels * patch_size**2
        self.embed = nn.Linear(patch, dim)
        self.positions = PositionTable(dim, sample_size // patch_size)
        self.steering = ConditioningEmbedding(dim, num_classes, pooled_dim)
        self.text = TextInput(text_dim, dim) if text_dim else None
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

        self.layers = nn.ModuleList(
            LiRABlock(dim, hidden, state_size, decay, heads if text_dim and i % fusion_every == 0 else 0, connect)
            for i in range(1, blocks + 1)
        )
        self.skips = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(blocks // 2))
        self.modulation_out = Modulation(dim, 2)
        self.out = nn.Linear(dim, patch)
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
        for block in self.layers:
            assert isinstance(block, LiRABlock)
            zero.append(block.modulation.linear)
            if block.text is not None:
                zero.append(block.text.out)
        for linear in zero:
            for parameter in linear.parameters():
                nn.init.zeros_(parameter)

    def input_spec(self) -> InputSpec:
        """What the network takes."""
        return replace(super().input_spec(), depth=self.config.reasoning_steps or None)

    def _check(self, latents: Tensor, t: Tensor, conditioning: Conditioning, state: Any, depth: int | None) -> None:
        check_latents(latents, t, self.config.latent_channels, self.config.patch_size)
        check_conditioning(latents, conditioning, self.input_spec())
        if state is not None:
            raise PochadeError("state: a tensor given, but LiRA has no state: allowed is None")
        if depth is None:
            return
        if self.reasoning is None:
            raise PochadeError(f"depth: {depth} given, but the network has no reasoning loop: allowed is None")
        if not LEAST_STEPS <= depth <= MAX_DEPTH:
            raise PochadeError(f"depth: {depth} given, allowed are {LEAST_STEPS} to {MAX_DEPTH} reasoning steps")

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
            conditioning: text (tokens, mask, pooled) and class label are used where present.
            state: must be None, LiRA has none.
            depth: the most reasoning steps, 2 to 64; None as configured.

        Raises:
            PochadeError: a shape or the depth does not fit, or something was given that LiRA has no input for.
        """
        self._check(latents, t, conditioning, state, depth)
        p = self.config.patch_size
        grid = (latents.shape[2] // p, latents.shape[3] // p)
        x = self.embed(F.pixel_unshuffle(latents, p).flatten(2).transpose(1, 2)) + self.positions(*grid)
        x = as_stream(x)

        text = None if self.text is None else self.text(latents.shape[0], conditioning)
        embedding = self.steering(t, conditioning)
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
