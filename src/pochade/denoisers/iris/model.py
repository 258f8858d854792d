"""IRIS: a prelude, a core of shared blocks iterated as often as is wanted, a coda.

The prelude reads the latents once into e. From s_0 the core is iterated, s <- norm(core(A [s; e])), each pass modulated
by its number i of r; the coda reads the last s into the velocity (2502.05171, section 3, for pictures).
Depth is chosen at each call, and training draws it, so one network serves several budgets of computation.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, cast

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
from pochade.denoisers.iris.mixer import GRFM
from pochade.denoisers.iris.prelude import ControlInput, PreludeBlock
from pochade.errors import PochadeError
from pochade.nn.attention import CrossAttention, WindowAttention, scaled_init
from pochade.nn.convolution import PatchEmbedding
from pochade.nn.feedforward import FeedForward, GatedFeedForward
from pochade.nn.keyed_random import keyed_truncated_normal, row_keys
from pochade.nn.linear import Linear
from pochade.nn.modulation import IterationEmbedding, Modulation, modulated_norm
from pochade.nn.norms import LayerNorm, RMSNorm, as_stream
from pochade.nn.positions import PositionTable
from pochade.types import CONTROLS, TASKS, Conditioning, DenoiserOutput, InputSpec
from pochade.values import COUNT, WEIGHT, Ranges, whole

WINDOW = 8
"""Largest side of the coda's attention windows, in tokens."""
INITIAL_DEVIATION = math.sqrt(2 / 5)
"""Of the state that training starts from (2502.05171, section 3.2), for states and e of mean square 1."""

Context = tuple[Tensor, Tensor]


class CodaBlock(nn.Module):
    """Attention in windows, then feed-forward, each normalised before and added: [B, H W, D]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.mixer_norm = LayerNorm(dim)
        self.mixer = WindowAttention(dim, heads, WINDOW)
        self.feedforward_norm = LayerNorm(dim)
        self.feedforward = FeedForward(dim, 4 * dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.mixer(self.mixer_norm(x), height, width)
        return x + self.feedforward(self.feedforward_norm(x))


class CoreBlock(nn.Module):
    """adaLN-Zero block: GRFM, cross-attention where there is text, gated feed-forward."""

    def __init__(self, dim: int, heads: int, hidden: int, text: bool) -> None:
        super().__init__()
        self.modulation = Modulation(dim, 9 if text else 6)
        self.mixer = GRFM(dim, heads)
        self.feedforward = GatedFeedForward(dim, hidden)
        self.text = CrossAttention(dim, heads) if text else None

    def prepare(self, text: Tensor | None) -> Context | None:
        """Keys and values of text [B, M, D], the same in all passes."""
        return None if text is None or self.text is None else self.text.context(text)

    def forward(
        self, x: Tensor, embedding: Tensor, context: Context | None, mask: Tensor | None, grid: tuple[int, int]
    ) -> Tensor:
        vectors = self.modulation(embedding)
        for_mixer, for_feedforward, for_text = vectors[:3], vectors[3:6], vectors[6:]
        shift, scale, gate = for_mixer
        x = torch.addcmul(x, gate, self.mixer(modulated_norm(x, shift, scale), *grid))
        if self.text is not None and context is not None:
            shift, scale, gate = for_text
            x = torch.addcmul(x, gate, self.text(modulated_norm(x, shift, scale), context, mask))
        shift, scale, gate = for_feedforward
        return torch.addcmul(x, gate, self.feedforward(modulated_norm(x, shift, scale)))


class Given(NamedTuple):
    """What stays the same in all passes of the core."""

    injected: Tensor
    """[B, N, D], the half of the adapter that reads e."""
    embedding: Tensor
    """[B, D], time, class and pooled text."""
    contexts: Sequence[Context | None]
    """Keys and values of the text, a pair for each block."""
    mask: Tensor | None
    """[B, 1 + M]."""
    grid: tuple[int, int]


class Core(nn.Module):
    """What is iterated: the adapter A [s; e], the blocks, a norm.

    A is kept as two matrices, so that the half that reads e is applied once and not in each pass. At the start
    the blocks are the identity and s <- A [s; e] keeps the mean square of 1 and forgets s_0 by half in each pass.
    """

    def __init__(self, dim: int, heads: int, hidden: int, blocks: int, text: bool) -> None:
        super().__init__()
        self.inject = Linear(dim, dim)
        self.carry = Linear(dim, dim, bias=False)
        self.iteration = IterationEmbedding(dim)
        self.blocks = nn.ModuleList(CoreBlock(dim, heads, hidden, text) for _ in range(blocks))
        self.norm = RMSNorm(dim)

    def contexts(self, text: Tensor | None) -> list[Context | None]:
        """Keys and values of text [B, M, D] for each block."""
        return [block.prepare(text) for block in cast(Iterable[CoreBlock], self.blocks)]

    def forward(self, s: Tensor, given: Given, iteration: Tensor) -> tuple[Tensor, Tensor]:
        """One pass, of the embedding ``iteration`` [D]: s [B, N, D] -> the next s, and the same before its norm."""
        embedding = given.embedding + iteration
        x = given.injected + self.carry(s)
        for block, context in zip(self.blocks, given.contexts, strict=True):
            x = block(x, embedding, context, given.mask, given.grid)
        return self.norm(x), x


class IRISDenoiser(DenoiserModel, ModelMixin):  # in the module's namespace diffusers looks for it
    """The IRIS denoiser: ``denoiser(latents, t, conditioning) -> DenoiserOutput``.

    In evaluation s_0 is zero and the depth is ``iterations``, unless the call gives another. In training s_0 is
    truncated normal noise, of each row's own from what is in the row, and the depth of a call without one is drawn
    from ``depths`` by torch's generator for the CPU, one for the batch.

    ``aux``: ``state_norm`` [B], root mean square of the last state before its norm; ``residual`` [B],
    |s_r - s_{r-1}| / |s_r|; in training with ``distillation`` also ``loss_depth`` [B].

    Args:
        latent_channels: C of the latents.
        sample_size: rows of the (square) latents in training; other sizes work, positions are resized.
        patch_size: latent cells along one side of a token.
        dim: D, a multiple of 8. heads: attention heads and spatial decays, divide D. hidden: inner width of the core's
            feed-forward.
        blocks: L, blocks in the core. iterations: r, how often the core is applied (``depth`` overrides it).
        depths: the depths that training draws from.
        gradient_iterations: k: the last k passes are back-propagated through; memory and time of the way back do not
            grow with the depth beyond.
        distillation: weight of ``loss_depth``, the mean square between the velocity at this depth (held fixed) and that
            at a smaller one, drawn from half the smallest of ``depths`` upwards; 0 for none.
        text_dim: width of the text tokens, 0 for no text. pooled_dim: width of the pooled text.
        text_encoder: identity of the text encoder whose vectors the network was trained on.
        num_classes: classes, 0 for none; one more embedding stands for "no class".
        controlled: whether there is an input for a control, the latents of a picture such as edges.
        control_kind: what that picture shows, of ``pochade.types.CONTROLS``.
        tasks: of ``pochade.types.TASKS``, those with a source that the network was trained for. With any of them comes
            a second embedding, of the source's latents and the mask, that is added to that of the latents from zero
            (an input convolution made wider, 2211.09800, section 3.2), and a vector for each task beside the time.

    Raises:
        PochadeError: an argument is of another type or out of range.
    """

    ranges: ClassVar[Ranges] = {
        **RANGES,
        **dict.fromkeys(("iterations", "depths"), whole(1, MAX_DEPTH)),
        "gradient_iterations": COUNT,
        "distillation": WEIGHT,
    }

    _repeated_blocks: ClassVar[list[str]] = ["PreludeBlock", "CoreBlock", "CodaBlock"]
    _block_methods: ClassVar[dict[str, str]] = {"CoreBlock": "prepare"}
    _depths: ClassVar[tuple[int, int] | None] = (1, MAX_DEPTH)
    _trunk: ClassVar[str] = "core.blocks"

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        sample_size: int = 16,
        patch_size: int = 2,
        dim: int = 192,
        heads: int = 6,
        hidden: int = 768,
        blocks: int = 2,
        iterations: int = 8,
        depths: Sequence[int] = (4, 6, 8, 10, 12),
        gradient_iterations: int = 4,
        distillation: float = 0.0,
        text_dim: int = 0,
        pooled_dim: int = 0,
        text_encoder: str | None = None,
        num_classes: int = 0,
        controlled: bool = False,
        control_kind: str = "edges",
        tasks: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.register_to_config(tasks=check_tasks(tasks))
        if sample_size % patch_size:
            raise PochadeError(f"sample_size: {sample_size} given, must be a positive multiple of {patch_size}")
        if control_kind not in CONTROLS:
            raise PochadeError(f"control_kind: {control_kind!r} given, allowed are {', '.join(CONTROLS)}")
        if not depths:
            raise PochadeError("depths: none given, allowed are one or more")
        self.register_to_config(depths=list(depths))
        self.embed = PatchEmbedding(latent_channels, dim, patch_size)
        self.positions = PositionTable(dim, sample_size // patch_size)
        self.steering = ConditioningEmbedding(dim, num_classes, pooled_dim)
        self.text = TextInput(text_dim, dim) if text_dim else None
        self.prelude = nn.ModuleList(PreludeBlock(dim) for _ in range(2))
        self.prelude_norm = RMSNorm(dim)
        self.core = Core(dim, heads, hidden, blocks, bool(text_dim))
        self.coda = nn.ModuleList(CodaBlock(dim, heads) for _ in range(2))
        self.modulation_out = Modulation(dim, 2)
        self.out = Linear(dim, latent_channels * patch_size**2)
        self.control = ControlInput(latent_channels, patch_size, dim) if controlled else None
        self.embed_source = self.task_vectors = None
        if tasks:
            self.embed_source = PatchEmbedding(latent_channels + 1, dim, patch_size, bias=False)
            self.task_vectors = nn.Embedding(len(TASKS), dim)
        self._initialise()

    def _initialise(self) -> None:
        """Zero at the start: modulations (so the core's blocks are the identity), gates of decay, read-outs, source."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                scaled_init(module)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for half in (self.core.inject, self.core.carry):
            nn.init.trunc_normal_(half.weight, std=1 / math.sqrt(2 * half.in_features))
        nn.init.normal_(self.positions.table, std=0.02)
        if self.text is not None:
            nn.init.normal_(self.text.null_token, std=0.02)
        if self.embed_source is not None and self.task_vectors is not None:
            nn.init.zeros_(self.embed_source.weight)
            nn.init.zeros_(self.task_vectors.weight)
        zero = [self.modulation_out.linear, self.out]
        if self.control is not None:
            zero += [self.control.modulation.linear, self.control.out]
        for block in self.core.blocks:
            assert isinstance(block, CoreBlock)
            zero += [block.modulation.linear, block.mixer.recurrent.recurrence_gate]
        for linear in zero:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def input_spec(self) -> InputSpec:
        """What the network takes."""
        config, tasks = self.config, tuple(self.config.tasks)
        taught, control = bool(tasks), config.control_kind if config.controlled else ""
        spec = super().input_spec()
        return replace(spec, source=taught, task=taught, tasks=tasks, control=control, depth=config.iterations)

    def effective_parameters(self, depth: int) -> int:
        """The parameters, those of the core counted once for each of ``depth`` passes."""
        return sum(p.numel() for p in self.parameters()) + (depth - 1) * sum(p.numel() for p in self.core.parameters())

    def with_control(self, kind: str) -> "IRISDenoiser":
        """A copy that takes the latents of a control picture, whose ``control`` begins with this one's patch embedding.

        Before its ``control`` is trained it gives what this one gives, bit for bit, whatever it is shown.

        Args:
            kind: what the picture shows, of ``pochade.types.CONTROLS``.
        """
        copy: IRISDenoiser = copy_with(self, controlled=True, control_kind=kind)
        if self.control is None and copy.control is not None:
            copy.control.embed.load_state_dict(self.embed.state_dict())
        return copy

    def with_source(self, tasks: Sequence[str]) -> "IRISDenoiser":
        """A copy to be trained for ``tasks`` beside those that it has, each with a source.

        Where it had none it gives, before training, what this one gives without a source, bit for bit, whatever it is
        shown. The source of an inpainting is the picture with a grey hole. That of a super-resolution is the small
        picture enlarged again: the LL band of the Haar transform, half the size, is such a small picture, and enlarged
        it has latents on the grid of what is sampled, by any autoencoder and at any factor, where the band itself
        would be an input of another kind for each.
        """
        return copy_with(self, tasks=[*self.config.tasks, *check_tasks(tasks)])

    def _check(
        self, latents: Tensor, t: Tensor, conditioning: Conditioning, state: Tensor | None, depth: int | None
    ) -> None:
        check_latents(latents, t, self)
        self.check_depth(depth)
        check_conditioning(latents, conditioning, self.input_spec())
        if state is not None:
            raise PochadeError("state: a tensor given, but IRIS has no state: allowed is None")
        trained = max(self.config.depths)
        if depth is not None and depth > trained:
            warnings.warn(
                f"depth: {depth} iterations given, training had {trained} at most: pictures may get worse",
                stacklevel=4,
            )

    def _given(self, e: Tensor, embedding: Tensor, conditioning: Conditioning, grid: tuple[int, int]) -> Given:
        text, mask = (None, None) if self.text is None else self.text(e.shape[0], conditioning)
        return Given(self.core.inject(e), embedding, self.core.contexts(text), mask, grid)

    def _iterate(self, s: Tensor, given: Given, iterations: int) -> tuple[Tensor, dict[str, Tensor]]:
        """s_0 -> s_r, both [B, N, D], and how the state ended."""
        previous, raw = s, s
        for i, iteration in enumerate(self.core.iteration(iterations).unbind()):
            cut = torch.is_grad_enabled() and i < iterations - self.config.gradient_iterations
            with torch.no_grad() if cut else nullcontext():
                previous = s
                s, raw = self.core(s, given, iteration)
        last, before, raw = s.detach().float(), previous.detach().float(), raw.detach().float()
        change = (last - before).square().mean((1, 2)) / last.square().mean((1, 2)).clamp_min(1e-12)
        return s, {"state_norm": raw.square().mean((1, 2)).sqrt(), "residual": change.sqrt()}

    def _read(self, s: Tensor, embedding: Tensor, grid: tuple[int, int]) -> Tensor:
        """The velocity [B, C, H, W] that the coda reads from a state [B, N, D]."""
        for block in self.coda:
            s = block(s, *grid)
        tokens = self.out(modulated_norm(s, *self.modulation_out(embedding)))
        return F.pixel_shuffle(torch.unflatten(tokens.transpose(1, 2), 2, grid), self.config.patch_size)

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
            conditioning: text (tokens, mask, pooled) and class label are used where present, and control [B, C, H, W]
                where there is an input for it, a row of zeros being none. Source and task are used where the
                configuration has ``tasks``.
            state: must be None, IRIS has none.
            depth: iterations of the core, 1 to 64; None as configured, or drawn in training. Beyond the largest
                depth of training a warning says that nothing was learned there.

        Raises:
            PochadeError: a shape, a type or the depth does not fit, or a state was given.
        """
        self._check(latents, t, conditioning, state, depth)
        config = self.config
        if depth is None:
            depth = _draw(config.depths) if self.training else int(config.iterations)
        grid = (latents.shape[2] // config.patch_size, latents.shape[3] // config.patch_size)
        x = self.embed(latents)
        if self.embed_source is not None and conditioning.source is not None:
            x = x + self.embed_source(torch.cat(source_and_mask(conditioning), 1))
        x = as_stream(x.flatten(2).transpose(1, 2) + self.positions(*grid))
        for block in self.prelude:
            x = block(x, *grid)
        embedding = add_task_embedding(self.steering(t, conditioning), self.task_vectors, conditioning)
        if self.control is not None and conditioning.control is not None:
            x = x + self.control(conditioning.control, x, embedding, grid)
        e = self.prelude_norm(x)
        given = self._given(e, embedding, conditioning, grid)
        if self.training:
            keys = row_keys(t[:, None], latents[:, :, 0, 0])
            start = keyed_truncated_normal(keys, *e.shape[1:], deviation=INITIAL_DEVIATION).to(e.dtype)
        else:
            start = torch.zeros_like(e)
        s, aux = self._iterate(start, given, depth)
        velocity = self._read(s, embedding, grid)
        if self.training and config.distillation:
            # At the smallest depth there is nothing to learn from a larger one.
            fewer = range(max(1, min(config.depths) // 2), depth) or [depth]
            short, _ = self._iterate(start, given, _draw(fewer))
            error = (self._read(short, embedding, grid).float() - velocity.detach().float()).square().mean((1, 2, 3))
            aux["loss_depth"] = config.distillation * error
        return DenoiserOutput(velocity, aux=aux)


def _draw(depths: Sequence[int]) -> int:
    return int(depths[int(torch.randint(len(depths), ()))])


_MINILM: dict[str, Any] = {"text_dim": 384, "pooled_dim": 384, "text_encoder": "minilm-l6-v2"}

VARIANTS: dict[str, dict[str, Any]] = {
    "nano": dict(sample_size=16, dim=192, heads=6, hidden=768, blocks=2, **_MINILM),
    "tiny": dict(sample_size=32, dim=384, heads=6, hidden=1536, blocks=2, **_MINILM),
    "small": dict(sample_size=32, dim=512, heads=8, hidden=1536, blocks=4, **_MINILM),
    "base": dict(sample_size=32, dim=768, heads=12, hidden=2048, blocks=6, **_MINILM),
}
"""Sizes by name; parameters: nano 4-6 M, tiny 19 M, small 47 M, base 135 M."""
