"""MicroForge: few tokens of strongly compressed latents, a backbone that scans, a planner that remembers.

A planner reads the embedded picture and makes K plan tokens; each block then scans the picture along a zigzag path of
its own, attends to text and plan together, and ends in a feed-forward. One attention module, a single instance, is
called after every few blocks. The plan is the state that goes from one sampling step to the next. A picture to edit
lies beside the one that is generated, in width or in channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pochade.configuration import register_to_config
from pochade.denoisers.base import RANGES, DenoiserModel
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
from pochade.denoisers.microforge.planner import (
    PlanLayer,
    Planner,
    marked_tokens,
    mean_cosine,
    mean_squared_cosine,
)
from pochade.errors import PochadeError
from pochade.nn.attention import CrossAttention, MultiQueryAttention, SpatialMixer, scaled_init
from pochade.nn.cpu import inference
from pochade.nn.feedforward import FeedForward
from pochade.nn.four_direction_scan import Decay
from pochade.nn.image_prompt import ImagePromptAttention
from pochade.nn.linear import Linear
from pochade.nn.modulation import GroupedModulation, Modulation, modulated_norm
from pochade.nn.norms import as_stream, layer_norm
from pochade.nn.positions import PositionTable
from pochade.nn.scan_orders import ZIGZAGS
from pochade.nn.zigzag_scan import ZigzagScan
from pochade.types import TASKS, Conditioning, DenoiserOutput, InputSpec
from pochade.values import LAYERS, MAX_WIDTH, NATURAL, NO_WIDTH, WEIGHT, WIDTH, Ranges

MixerKind = Literal["scan", "attention"]
ModulationKind = Literal["grouped", "full"]
SourceKind = Literal["none", "width", "channels"]

MOST_REGIONS = 64
"""Tokens for the part of a picture that is to be changed, at most."""
KERNELS = (3, 5, 7)
"""Rows and columns of the convolutions beside the scans."""
EXPANSION = 3
"""Inner width of a block's feed-forward over D."""


class MicroForgeBlock(nn.Module):
    """adaLN-Zero block: mixer over the picture, attention to text and plan where there are any, feed-forward."""

    def __init__(self, dim: int, heads: int, mixer: ZigzagScan | SpatialMixer, attends: bool) -> None:
        super().__init__()
        self.mixer = mixer
        self.look = CrossAttention(dim, heads) if attends else None  # as saved weights are named
        self.feedforward = FeedForward(dim, EXPANSION * dim)

    def forward(
        self,
        x: Tensor,
        modulation: tuple[Tensor, ...],
        context: Tensor | None,
        mask: Tensor | None,
        grid: tuple[int, int],
        orders: tuple[tuple[Tensor, Tensor], ...] = (),
        image_prompt: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """``orders`` is the path of a scan (``ZigzagScan.orders``), ``image_prompt`` adds to the cross-attention, from
        the same input."""
        shift_mix, scale_mix, gate_mix, shift_ffn, scale_ffn, gate_ffn, *cross = modulation
        x = torch.addcmul(x, gate_mix, self.mixer(modulated_norm(x, shift_mix, scale_mix), *grid, *orders))
        if self.look is not None and context is not None:
            shift, scale, gate = cross
            queries = modulated_norm(x, shift, scale)
            attended = self.look(queries, self.look.context(context), mask)
            if image_prompt is not None:
                attended = attended + image_prompt(queries)
            x = torch.addcmul(x, gate, attended)
        return torch.addcmul(x, gate_ffn, self.feedforward(modulated_norm(x, shift_ffn, scale_ffn)))


class MicroForgeDenoiser(DenoiserModel, ModelMixin):  # in the module's namespace diffusers looks for it
    """The MicroForge denoiser: ``denoiser(latents, t, conditioning, state=...) -> DenoiserOutput``.

    Args:
        latent_channels: C of the latents.
        sample_size: rows of the (square) latents in training; other sizes work, positions are resized.
        patch_size: latent cells along one side of a token.
        dim: D. heads: attention heads, divide D. blocks: L.
        inner: width of a scan. state_size: S.
        plan_tokens: K, at least 2, or 0 for no planner. plan_layers: layers of the planner. plan_hidden: inner width of
            their feed-forward.
        self_conditioning: whether the plan is carried from step to step.
        diversity_weight: weight of the loss that holds plan tokens apart, their mean squared cosine.
        mixer: "scan" along zigzags, or softmax "attention" of every token to every other.
        decay: of the scans, "scalar" a head or "diagonal", a channel and state.
        depthwise: whether a depthwise convolution stands beside each scan. depthwise_kernel: its rows and columns, of
            ``KERNELS``: a larger one hides more of the scan's path.
        attention_every: the shared attention follows every so many blocks, 0 for none.
        modulation: "grouped", one MLP for all blocks with a cheap part of each block's own, or "full", one matrix each.
        modulation_groups: groups of channels of the grouped modulation, divide D.
        source: how a picture to edit enters: "none", not at all; "width", as further tokens of a grid twice as wide,
            of which the left half is generated; "channels", added to the tokens at its place. With it comes a vector
            for each of ``pochade.types.TASKS`` beside the time.
        tasks: of those, the ones with a source that the network was trained for.
        regions: R, tokens of the planner, up to ``MOST_REGIONS``, that read what the mask of the source marks and
            nothing else of the picture; they take a source and a planner. 0 for none.
        text_dim: width of the text tokens, 0 for no text. pooled_dim: width of the pooled text.
        text_encoder: identity of the text encoder whose vectors the network was trained on.
        num_classes: classes, 0 for none; one more embedding stands for "no class".
        image_prompt_dim: D_image of the features of an image prompt, 0 for no such input; it needs text or a planner.
        image_prompt_encoder: identity of what gives those features (``pochade.features.style``).

    Raises:
        PochadeError: an argument is of another type or out of range.
    """

    ranges: ClassVar[Ranges] = {
        **RANGES,
        **dict.fromkeys(("inner", "state_size", "plan_hidden", "modulation_groups"), WIDTH),
        "plan_tokens": (
            lambda value: value == 0 or 2 <= value <= MAX_WIDTH,
            f"0, or a whole number from 2 to {MAX_WIDTH}",
        ),
        "plan_layers": LAYERS,
        "image_prompt_dim": NO_WIDTH,
        "attention_every": NATURAL,
        "diversity_weight": WEIGHT,
        "depthwise_kernel": (lambda value: value in KERNELS, " or ".join(map(str, KERNELS))),
    }

    _repeated_blocks: ClassVar[list[str]] = ["MicroForgeBlock", "PlanLayer"]
    _trunk: ClassVar[str] = "core"

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        sample_size: int = 8,
        patch_size: int = 1,
        dim: int = 128,
        heads: int = 4,
        blocks: int = 6,
        inner: int = 640,
        state_size: int = 16,
        plan_tokens: int = 16,
        plan_layers: int = 2,
        plan_hidden: int = 384,
        self_conditioning: bool = True,
        diversity_weight: float = 0.0,
        mixer: MixerKind = "scan",
        decay: Decay = "scalar",
        depthwise: bool = True,
        depthwise_kernel: int = 3,
        attention_every: int = 3,
        modulation: ModulationKind = "grouped",
        modulation_groups: int = 16,
        source: SourceKind = "none",
        tasks: Sequence[str] = (),
        regions: int = 0,
        text_dim: int = 0,
        pooled_dim: int = 0,
        text_encoder: str | None = None,
        num_classes: int = 0,
        image_prompt_dim: int = 0,
        image_prompt_encoder: str | None = None,
    ) -> None:
        super().__init__()
        self.register_to_config(tasks=check_tasks(tasks))
        if tasks and source == "none":
            raise PochadeError("source: 'none' given, but tasks need one: allowed are 'width' and 'channels'")
        most = MOST_REGIONS if source != "none" and plan_tokens else 0
        if regions not in range(most + 1):
            allowed = f"0 to {most}" if most else "0 without a source and a planner"
            raise PochadeError(f"regions: {regions!r} given, allowed is {allowed}")
        if sample_size % patch_size:
            raise PochadeError(f"sample_size: {sample_size} given, allowed are multiples of patch_size, {patch_size}")
        if attention_every > blocks:
            raise PochadeError(f"attention_every: {attention_every} given, allowed are 0 to {blocks}, the blocks")
        for name, changed in (("depthwise", not depthwise), ("depthwise_kernel", depthwise_kernel != KERNELS[0])):
            if mixer == "attention" and changed:
                given = depthwise if name == "depthwise" else depthwise_kernel
                raise PochadeError(
                    f"{name}: {given} given, allowed with mixer='scan' alone: attention keeps its convolution"
                )
        if not depthwise and depthwise_kernel != KERNELS[0]:
            raise PochadeError(f"depthwise_kernel: {depthwise_kernel} given, but depthwise is False, allowed is True")

        def make_mixer(block: int) -> ZigzagScan | SpatialMixer:
            if mixer == "attention":
                return SpatialMixer(dim, heads, "softmax")
            path = ZIGZAGS[block % len(ZIGZAGS)]
            return ZigzagScan(dim, inner, state_size, path, decay, depthwise, depthwise_kernel)

        patch = latent_channels * patch_size**2
        self.embed = Linear(patch, dim)
        self.positions = PositionTable(dim, sample_size // patch_size)
        self.steering = ConditioningEmbedding(dim, num_classes, pooled_dim)
        self.text = TextInput(text_dim, dim) if text_dim else None
        self.embed_source = Linear(patch + patch_size**2, dim, bias=False) if source != "none" else None
        self.task_vectors = nn.Embedding(len(TASKS), dim) if source != "none" else None
        self.planner = None
        if plan_tokens:
            sizes = dim, heads, plan_hidden, plan_layers, plan_tokens
            self.planner = Planner(*sizes, bool(text_dim), self_conditioning, regions)
        attends = bool(plan_tokens or text_dim)
        if image_prompt_dim and not attends:
            raise PochadeError(
                f"image_prompt_dim: {image_prompt_dim} given, allowed is 0 without text and plan_tokens: no block has "
                "cross-attention"
            )
        if modulation == "grouped" and dim % modulation_groups:
            raise PochadeError(f"modulation_groups: {modulation_groups} given, allowed are the divisors of dim, {dim}")
        vectors = 9 if attends else 6
        self.modulations = (
            GroupedModulation(dim, vectors, blocks, modulation_groups)
            if modulation == "grouped"
            else nn.ModuleList(Modulation(dim, vectors) for _ in range(blocks))
        )
        self.core = nn.ModuleList(MicroForgeBlock(dim, heads, make_mixer(i), attends) for i in range(blocks))
        self.attention = MultiQueryAttention(dim, heads) if attention_every else None
        self.modulation_out = Modulation(dim, 2)
        self.out = Linear(dim, patch)
        self.image_prompt = ImagePromptAttention(image_prompt_dim, dim, heads, blocks) if image_prompt_dim else None
        self._initialise()

    def _initialise(self) -> None:
        """Zero at the start: modulations (so every block is the identity), the shared attention, the read-out, and what
        a source adds to the tokens and an image prompt to the cross-attentions.

        The planner adds nothing to its queries either, for plan tokens to set out apart (what is added to each of them
        is much alike), and what it carries is zero by the scale of its norm.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                scaled_init(module)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.normal_(self.positions.table, std=0.02)
        if self.text is not None:
            nn.init.normal_(self.text.null_token, std=0.02)
        zero = [self.modulation_out.linear, self.out]
        if isinstance(self.modulations, GroupedModulation):
            zero.append(self.modulations.shared)
        else:
            zero += [cast(Modulation, each).linear for each in self.modulations]
        if self.attention is not None:
            zero.append(self.attention.out)
        if self.embed_source is not None and self.config.source == "channels":
            zero.append(self.embed_source)
        if self.image_prompt is not None:
            zero += [cast(CrossAttention, each).out for each in self.image_prompt.attentions]
        if self.task_vectors is not None:
            nn.init.zeros_(self.task_vectors.weight)
        for layer in () if self.planner is None else self.planner.layers:
            assert isinstance(layer, PlanLayer)
            zero += [layer.read.out, layer.reason.out, layer.feedforward.out]
        if self.planner is not None and self.planner.text is not None:
            zero.append(self.planner.text.out)
        for linear in zero:
            nn.init.zeros_(linear.weight)
            if linear.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                nn.init.zeros_(linear.bias)

    @property
    def state_shape(self) -> tuple[int, int] | None:
        """[K, D], a row of the state that goes from step to step; None where nothing is carried."""
        carries = self.config.plan_tokens and self.config.self_conditioning
        return (self.config.plan_tokens, self.config.dim) if carries else None

    def input_spec(self) -> InputSpec:
        """What the network takes."""
        config, shown = self.config, self.config.source != "none"
        return replace(
            super().input_spec(),
            source=shown,
            source_apart=config.source == "width",
            task=shown,
            tasks=tuple(config.tasks),
            image_prompt_dim=config.image_prompt_dim,
            image_prompt_encoder=config.image_prompt_encoder,
            state_shape=self.state_shape,
        )

    def with_source(
        self, tasks: Sequence[str], source: SourceKind | None = None, regions: int | None = None
    ) -> "MicroForgeDenoiser":
        """A copy to be trained for ``tasks`` beside those that it has, each with a source.

        Without a source it gives what this one gives, bit for bit; in channels, where the path of the source starts
        closed, at first with one as well. In width a source is read at first as the generated picture is. New
        regions change nothing where nothing is marked.

        Args:
            tasks: of ``pochade.types.TASKS``, without "generate".
            source: how a source enters, "width" or "channels"; None: as it does already, or else in width.
            regions: R; None: as many as there are already.

        Raises:
            PochadeError: there is no such task, a source enters in another way already, or there are other regions.
        """
        old = self.config.source
        new = source or ("width" if old == "none" else old)
        if new == "none" or old not in ("none", new):
            raise PochadeError(f"source: {source!r} given, allowed is {old if old != 'none' else 'width or channels'}")
        known = self.config.regions
        if regions is not None and known and regions != known:
            raise PochadeError(f"regions: {regions!r} given, allowed is {known}, as many as there are")
        changes = {"source": new, "tasks": [*self.config.tasks, *check_tasks(tasks)]}
        copy: MicroForgeDenoiser = copy_with(self, **changes, regions=known if regions is None else regions)
        if old == "none" and new == "width" and copy.embed_source is not None:
            with torch.no_grad():
                copy.embed_source.weight.zero_()[:, : self.embed.in_features] = self.embed.weight
        return copy

    def with_image_prompt(self, dim: int, encoder: str | None = None) -> "MicroForgeDenoiser":
        """A copy that takes the features of an image prompt, D_image = ``dim`` of them, as ``encoder`` gives them.

        Before its ``image_prompt`` is trained it gives what this one gives, bit for bit, whatever the image prompt is.
        """
        return copy_with(self, image_prompt_dim=dim, image_prompt_encoder=encoder)

    def _check(self, latents: Tensor, t: Tensor, conditioning: Conditioning, state: Tensor | None) -> None:
        check_latents(latents, t, self)
        check_conditioning(latents, conditioning, self.input_spec())
        if state is None:
            return
        if self.state_shape is None:
            raise PochadeError(
                "state: a tensor given, but nothing is carried without plan_tokens and self_conditioning"
            )
        allowed = (latents.shape[0], *self.state_shape)
        if tuple(state.shape) != allowed:
            raise PochadeError(f"state: shape {tuple(state.shape)} given, allowed is {allowed}")

    def _modulations(self, embedding: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        if isinstance(self.modulations, GroupedModulation):
            return self.modulations(embedding)
        return tuple(each(embedding) for each in self.modulations)

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

        Args:
            conditioning: text (tokens, mask, pooled) and class label are used where present, source and task where
                the configuration has a ``source``, an image prompt where it has an ``image_prompt_dim``; zeros
                are none.
            state: the plan [B, K, D] of the step before; None, as zeros, where there was none.
            depth: MicroForge does not iterate; must be None.

        Returns:
            the velocity, the plan as the state, and in ``aux`` "diversity" [B], the mean cosine between plan tokens,
            with "loss_diversity" [B] where ``diversity_weight`` is above 0.

        Raises:
            PochadeError: a shape does not fit, or a depth was given.
        """
        self.check_depth(depth)
        self._check(latents, t, conditioning, state)
        if self.config.source == "width" and conditioning.source is not None and not torch.compiler.is_exporting():
            there = torch.cat(source_and_mask(conditioning), 1).flatten(1).any(1)
            if not bool(there.all()):
                return self._by_rows(latents, t, conditioning, state, there)
        config, p = self.config, self.config.patch_size
        height, width = latents.shape[2] // p, latents.shape[3] // p
        grid, beside = (height, width), False
        x: Tensor = self.embed(self._tokens(latents)) + self.positions(*grid)
        if self.embed_source is not None and conditioning.source is not None:
            source: Tensor = self.embed_source(self._tokens(torch.cat(source_and_mask(conditioning), 1)))
            beside = config.source == "width"
            if beside:
                halves = [torch.unflatten(half, 1, grid) for half in (x, source + self.positions(*grid))]
                x, grid = torch.flatten(torch.cat(halves, 2), 1, 2), (height, 2 * width)
            else:
                x = x + source
        x = as_stream(x)
        embedding = add_task_embedding(self.steering(t, conditioning), self.task_vectors, conditioning)
        context, mask = (None, None) if self.text is None else self.text(latents.shape[0], conditioning)
        plan, aux = None, dict[str, Tensor]()
        if self.planner is not None:
            marked = marked_tokens(conditioning, p, beside) if config.regions else None
            plan, there = self.planner(x, embedding, context, mask, state, marked)
            if context is None or mask is None:
                context, mask = plan, there
            else:
                context = torch.cat((context, plan), 1)
                mask = F.pad(mask, (0, plan.shape[1]), value=True) if there is None else torch.cat((mask, there), 1)
            plan = plan[:, : config.plan_tokens]
            aux["diversity"] = mean_cosine(plan)
            if config.diversity_weight:
                aux["loss_diversity"] = config.diversity_weight * mean_squared_cosine(plan)
        attention, prompt = self.image_prompt, None
        if attention is not None and conditioning.image_prompt is not None:
            prompt = attention.read(conditioning.image_prompt, conditioning.image_prompt_scale)
        for i, (block, modulation) in enumerate(zip(self.core, self._modulations(embedding), strict=True), 1):
            also = None
            if attention is not None and prompt is not None:
                also = partial(attention, block=i - 1, prompt=prompt)
            orders = (cast(ZigzagScan, block.mixer).orders(*grid, x.device),) if config.mixer == "scan" else ()
            x = block(x, modulation, context, mask, grid, orders, also)
            if self.attention is not None and i % config.attention_every == 0:
                x = x + self.attention(layer_norm(x))
        if beside:
            x = torch.flatten(torch.unflatten(x, 1, grid)[:, :, :width], 1, 2)
        tokens = self.out(modulated_norm(x, *self.modulation_out(embedding)))
        velocity = F.pixel_shuffle(torch.unflatten(tokens.transpose(1, 2), 2, (height, width)), p)
        return DenoiserOutput(velocity, plan if self.state_shape is not None else None, aux)

    def _tokens(self, maps: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, N, C p^2]."""
        return F.pixel_unshuffle(maps, self.config.patch_size).flatten(2).transpose(1, 2)

    def _by_rows(
        self, latents: Tensor, t: Tensor, conditioning: Conditioning, state: Tensor | None, there: Tensor
    ) -> DenoiserOutput:
        """Rows without a source (``there`` [B] False) on their own, on a grid that has no place for one."""
        without = replace(conditioning, source=None, source_mask=None)
        parts: list[tuple[Tensor, DenoiserOutput]] = []
        for told, rows in ((conditioning, there.nonzero()[:, 0]), (without, (~there).nonzero()[:, 0])):
            if len(rows):
                own = told.map(lambda v, rows=rows: v[rows])
                parts.append((rows, self(latents[rows], t[rows], own, state=None if state is None else state[rows])))
        order = torch.cat([rows for rows, _ in parts]).argsort()
        outputs = [out for _, out in parts]
        return DenoiserOutput(
            torch.cat([out.velocity for out in outputs])[order],
            torch.cat([cast(Tensor, out.state) for out in outputs])[order] if self.state_shape is not None else None,
            {name: torch.cat([out.aux[name] for out in outputs])[order] for name in outputs[0].aux},
        )


_MINILM: dict[str, Any] = {"text_dim": 384, "pooled_dim": 384, "text_encoder": "minilm-l6-v2"}

# fmt: off
VARIANTS: dict[str, dict[str, Any]] = {
    "nano":  dict(latent_channels=16, sample_size=8,  dim=128, heads=4, blocks=6,  inner=640,
                  attention_every=3, plan_tokens=16, plan_layers=2, plan_hidden=384,  **_MINILM),
    "tiny":  dict(latent_channels=16, sample_size=8,  dim=256, heads=4, blocks=6,  inner=512,
                  attention_every=3, plan_tokens=16, plan_layers=4, plan_hidden=768,  **_MINILM),
    "small": dict(latent_channels=32, sample_size=16, dim=384, heads=6, blocks=12, inner=576,
                  attention_every=4, plan_tokens=32, plan_layers=4, plan_hidden=1024, **_MINILM),
    "base":  dict(latent_channels=32, sample_size=16, dim=512, heads=8, blocks=18, inner=640,
                  attention_every=6, plan_tokens=32, plan_layers=3, plan_hidden=1536, **_MINILM),
}
# fmt: on
"""Sizes by name; parameters of backbone and planner: nano 3-4 M and 0.5 M, tiny 8 and 4 M, small 29 and 8 M, base 71
and 12 M."""
