"""Training a LoRA of a model of any family: few weights beside its layers, which themselves stay (2106.09685)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from pochade.errors import PochadeError, nearest
from pochade.flow.consistency import distance, euler_step, grid, intervals_at, step_weight
from pochade.flow.path import interpolate
from pochade.flow.timesteps import Density
from pochade.flow.weighting import Weighting
from pochade.nn.keyed_random import keyed_normal, keyed_uniform
from pochade.pipelines import hub
from pochade.pipelines.lora import check_peft
from pochade.pipelines.lora_files import ALPHA, BASE, BASE_SHA256, RANK, TRIGGER, weights_sha256
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.training.data import ImageData
from pochade.training.stage import AnyStage, Settings, Stage
from pochade.training.stages.components import Components
from pochade.training.stages.flow import FlowSettings, FlowTask, keep_state
from pochade.training.stages.kind import Data, Inputs, Kind, Work, check_size, with_synthetic_pictures
from pochade.training.stages.models import (
    ModelWork,
    check_conditioning,
    classes_of,
    held_out_of,
    latents_of,
    shown_of,
    takes_few_steps,
    text_of,
)
from pochade.training.task import Batch, Stream
from pochade.values import COUNT, FACTOR, Ranges

S = TypeVar("S", bound=Settings)
B = TypeVar("B", bound="BaseSettings")
ADAPTER = "default"
"""What peft calls the adapter that is trained."""
USUAL_RANK, USUAL_RATE = 16, 1e-3
"""The rank by default, and the learning rate of that rank."""
FIRST_INTERVALS, LAST_INTERVALS = 8, 64
"""Of the grid of times on which a model of few steps is trained, about; a coarse one hands on what the data show."""


@dataclass(frozen=True)
class BaseSettings(Settings):
    """Of what is trained beside a model that itself stays. Raises PochadeError for a value outside its range."""

    start_field = "task.base"

    base: str | None = None
    """Name of a trained model or the folder of one; it must be named."""
    density: Density = "logit_normal"
    density_scale: float | None = None
    """Width of the density; None: as published."""
    time_shift: float = 2.0
    """s in t' = s t / (1 + (s - 1) t); a distilled model that is sampled by Euler's steps has its own."""
    weighting: Weighting = "constant"
    self_conditioning_prob: float = 0.9
    """Probability that a sample is given a state, where the denoiser has one (2212.11972)."""

    def common(self, kind: type[S]) -> S:
        """The settings of another kind of stage, those that both have as they are here, the others by default."""
        own = {f.name for f in fields(self)} & {f.name for f in fields(kind)}  # pyright: ignore[reportArgumentType]
        return kind(**{name: getattr(self, name) for name in own})


@dataclass(frozen=True)
class AdapterForm(BaseSettings):
    """Of which form a LoRA is. Raises PochadeError for a value outside its range."""

    ranges: ClassVar[Ranges] = {**BaseSettings.ranges, "rank": COUNT, "alpha": FACTOR}

    rank: int = USUAL_RANK
    """r: each adapted matrix W [n, m] becomes W + alpha / r B A, with B [n, r] from zero and A [r, m]."""
    alpha: float | None = None
    """Of that; None: the rank, so that the factor is 1."""
    dora: bool = False
    """Whether the norm of each row of W is learned apart from its direction (2402.09353)."""
    layers: tuple[str, ...] = ()
    """Names of the layers that are adapted, or the last parts of such names, as in qkv,feedforward.out; (): all linear
    layers of the network's blocks, but for those that make modulations."""

    @property
    def usual_rate(self) -> float:
        """1e-3 at rank 16, and by the inverse root of the rank: the change of W grows by the root (2312.03732)."""
        return float(f"{USUAL_RATE * math.sqrt(USUAL_RANK / self.rank):.3g}")

    def metadata(self, folder: Path, trigger: str = "") -> dict[str, str]:
        """The words in the head of a LoRA's file; ``folder`` is that of the model, ``trigger`` calls up the LoRA."""
        return {
            BASE: str(self.base),
            BASE_SHA256: weights_sha256(folder),
            RANK: str(self.rank),
            ALPHA: f"{self.rank if self.alpha is None else self.alpha:g}",
            TRIGGER: trigger,
        }

    def describe(self, adapters: nn.Module) -> str:
        """What is trained, in words."""
        count = sum(parameter.numel() for parameter in adapters.parameters())
        layers = len({name.partition("/lora_")[0] for name, _ in adapters.named_parameters()})
        kind = "DoRA" if self.dora else "LoRA"
        return f"{kind} of rank {self.rank} on {layers} layers of {self.base}, {2 * count / 1e6:.2f} MB"


@dataclass(frozen=True)
class LoRASettings(AdapterForm):
    """Of a LoRA that is trained on pictures. Raises PochadeError for a value outside its range."""

    stage_kind = "lora"

    text: bool = False
    """Whether the text encoder is adapted as well, where it was trained along with the denoiser ("bag")."""
    cfg_dropout: float = 0.1
    """Probability that a sample loses its conditioning, for classifier-free guidance."""


class AdapterWeights(nn.Module):
    """The parameters of some networks that are trained, without those that are frozen, by their names with slashes."""

    def __init__(self, networks: nn.Module) -> None:
        super().__init__()
        for name, parameter in networks.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)


class LoRATask(FlowTask):
    """``FlowTask`` of which only what is not frozen learns, such as adapters.

    Args:
        denoiser: with adapters, or frozen.
        settings: density, weighting, probabilities.
        text_encoder: with adapters or words to learn, on "caption"; None where the batch holds vectors or classes.
    """

    def __init__(self, denoiser: nn.Module, settings: BaseSettings, text_encoder: nn.Module | None = None) -> None:
        super().__init__(denoiser, settings.common(FlowSettings), text_encoder)
        self.adapters = AdapterWeights(self.parts)
        self.parts.train()  # the loop turns to ``trainable()`` alone

    def trainable(self) -> nn.Module:
        return self.adapters


class FewStepsLoRATask(LoRATask):
    """One step of consistency training of the adapters, for a model that was distilled to few steps.

    For t and the next lower s of a grid, e <= s the edge of their phase, and f(z, t) = z - (t - e) v(z, t)
    (2303.01469, algorithm 3; in phases 2405.18407)::

        z_t, z_s = the points of one straight path from the data to one noise
        loss     = mean of w d(f(z_t, t), f(z_s, s)), the second without gradient

    Flow matching would teach the mean of all pictures that z_t may have come from, and undo the distillation.

    Args:
        phases: parts that the times are cut into: the model's steps where Euler's lead from edge to edge, else 1.
        time_shift: that of the grid.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        settings: BaseSettings,
        text_encoder: nn.Module | None = None,
        *,
        phases: int,
        time_shift: float,
    ) -> None:
        super().__init__(denoiser, settings, text_encoder)
        self.phases, self.time_shift = phases, time_shift
        self.begin_step(0.0)

    def begin_step(self, progress: float) -> None:
        """Refines the grid, from 8 intervals to 64, each phase having equally many (2310.14189, section 3.4)."""
        self.each = -(-intervals_at(progress, FIRST_INTERVALS, LAST_INTERVALS) // self.phases)
        self.times = grid(self.phases * self.each, self.time_shift)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        settings, denoiser = self.settings, self.parts["denoiser"]
        z_0: Tensor = batch["latents"]
        keys = batch["seed"].to(z_0.device)
        eps = keyed_normal(keys, z_0.shape[1:], Stream.NOISE).to(z_0)
        u = keyed_uniform(keys, 1, Stream.TIME)[:, 0].to(z_0)
        intervals = len(self.times) - 1
        lower = (u * intervals).long().clamp_max(intervals - 1)
        times = self.times.to(z_0)
        t, s, edge = times[lower + 1], times[lower], times[lower // self.each * self.each]
        dropped = keyed_uniform(keys, 1, Stream.DROPPED)[:, 0] < settings.cfg_dropout
        state_given = keyed_uniform(keys, 1, Stream.STATE_GIVEN)[:, 0] < settings.self_conditioning_prob
        conditioning = self.conditioning(batch).drop("text", "class_label", rows=dropped)
        z_t, z_s = interpolate(z_0, eps, t), interpolate(z_0, eps, s)

        options: dict[str, Tensor] = {}
        with torch.no_grad():
            if getattr(denoiser, "state_shape", None) is not None:
                options["state"] = keep_state(denoiser(z_t, t, conditioning).state, state_given)
            target = euler_step(z_s, denoiser(z_s, s, conditioning, **options).velocity, s, edge)
        out = denoiser(z_t, t, conditioning, **options)
        per_sample = distance(euler_step(z_t, out.velocity, t, edge), target)
        extras = {name: value.float().mean() for name, value in out.aux.items()}
        loss = (step_weight(t, s, intervals) * per_sample).mean()
        loss = loss + sum(value for name, value in extras.items() if name.startswith("loss_"))
        logged = {name: value.detach() for name, value in extras.items()}
        return {**logged, "loss": loss, "t": t, "per_sample": per_sample.detach()}


LoRAStage = Stage[LoRASettings, ImageData]


@dataclass(kw_only=True)
class LoRAWork(ModelWork):
    """A model with adapters, which alone are saved."""

    settings: LoRASettings
    trigger: str

    def notes(self) -> list[str]:
        about = [*super().notes(), f"{self.settings.describe(self.task.trainable())}; by {by_what(self.pipeline)}"]
        encoder = text_of(self.pipeline)
        if encoder is not None and encoder.knows(self.trigger):
            about.append(
                f"warning: data.trigger: {self.trigger!r} is a word that {self.settings.base} knows already, with a "
                "meaning of its own; several words or a new one call up the LoRA alone"
            )
        return about

    def save(self, folder: Path) -> None:
        assert self.start is not None
        self.pipeline.save_lora_weights(folder, ADAPTER, metadata=self.settings.metadata(self.start, self.trigger))


class BesideModelKind(Kind[B, ImageData], Generic[B]):
    """Training something beside a named model, which itself stays, on captioned pictures or classes."""

    def model(
        self, stage: Stage[B, ImageData], components: Components
    ) -> tuple[TextToImagePipeline, Stage[B, ImageData]]:
        """The model that a stage names, and the stage with the size of its pictures.

        Raises PochadeError where none is named, or the size is not allowed.
        """
        name = stage.task.base
        if name is None:
            raise PochadeError("task.base: none given, allowed is the name or the folder of a trained model")
        pipeline = components.pipeline(name, field="task.base")
        size = stage.data.size or pipeline.default_size
        check_size(size, pipeline.size_multiple)
        pipeline.register_to_config(default_size=size)
        return pipeline, replace(stage, data=replace(stage.data, size=size))

    def autoencoder(self, stage: Stage[B, ImageData], earlier: Sequence[AnyStage], components: Components) -> Any:
        return self.model(stage, components)[0].autoencoder

    def synthetic(
        self, stage: Stage[B, ImageData], earlier: Sequence[AnyStage], components: Components
    ) -> Stage[B, ImageData]:
        pipeline, stage = self.model(stage, components)
        return with_synthetic_pictures(stage, classes_of(pipeline))


class LoRAKind(BesideModelKind[LoRASettings]):
    """Training a LoRA of a named model on captioned pictures or classes."""

    produces = "lora"

    def check(self, stage: LoRAStage, earlier: Sequence[AnyStage], components: Components) -> Data:
        check_peft()
        pipeline, stage = self.model(stage, components)
        dataset = stage.data.open(stage=stage.name)
        check_conditioning(pipeline, dataset, "task.base")
        layers_of(pipeline, stage.task, text=stage.task.text)
        return {"data.source": dataset}

    def build(self, stage: LoRAStage, inputs: Inputs) -> Work:
        settings = stage.task
        pipeline, sized = self.model(stage, inputs.components)
        dataset = sized.data.open(stage=stage.name)
        frozen = None if settings.text else text_of(pipeline)
        samples = latents_of(sized.data, dataset, pipeline, frozen, inputs)
        held_out = held_out_of(sized.data, pipeline, frozen, inputs)
        add_adapters(pipeline, settings, stage.seed, text=settings.text)
        return LoRAWork(
            stage=sized,
            task=task_beside(pipeline, settings, pipeline.text_encoder if settings.text else None),
            samples=samples,
            held_out=held_out,
            data={"data.source": dataset},
            start=hub.resolve(str(settings.base)),
            autoencoder=hub.resolve(str(settings.base)),
            pipeline=pipeline,
            shown=shown_of(sized.data, dataset, pipeline),
            settings=settings,
            trigger=stage.data.trigger or "",
        )


def task_beside(pipeline: TextToImagePipeline, settings: BaseSettings, text_encoder: Any) -> LoRATask:
    """What a model learns by: flow matching, or consistency where it was distilled to few steps."""
    trained = pipeline.denoiser, settings, text_encoder
    if takes_few_steps(pipeline):
        return FewStepsLoRATask(*trained, **phases_of(pipeline, settings))
    return LoRATask(*trained)


def by_what(pipeline: TextToImagePipeline) -> str:
    """That in words."""
    return "consistency training, which keeps its few steps" if takes_few_steps(pipeline) else "flow matching"


def phases_of(pipeline: TextToImagePipeline, settings: BaseSettings) -> dict[str, Any]:
    """In how many phases, and on which grid, a model of few steps is consistent: as it is sampled."""
    scheduler = pipeline.scheduler
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return {"phases": pipeline.default_steps, "time_shift": float(scheduler.shift)}
    return {"phases": 1, "time_shift": settings.time_shift}


def layers_of(pipeline: TextToImagePipeline, settings: AdapterForm, *, text: bool = False) -> dict[str, list[str]]:
    """The names of the layers that are adapted, of each component.

    Raises PochadeError where there is no such layer, the text encoder can have none, or the rank is above that of all
    the matrices.
    """
    known: list[str] = pipeline.denoiser.adaptable_layers()
    chosen = known
    if settings.layers:
        wanted = [f".{part}" for part in settings.layers]
        missing = [part[1:] for part in wanted if not any(f".{name}".endswith(part) for name in known)]
        if missing:
            ends = sorted({name.rpartition(".")[2] for name in known})
            raise PochadeError(
                f"task.layers: {missing[0]!r} given, allowed are {', '.join(ends)}, or whole names such as {known[0]}"
                f"{nearest(missing[0], ends)}"
            )
        chosen = [name for name in known if f".{name}".endswith(tuple(wanted))]
    found = {"denoiser": chosen}
    if text:
        encoder: Any = pipeline.text_encoder
        if not isinstance(encoder, PeftAdapterMixin):
            kind = type(encoder).__name__
            raise PochadeError(
                f"task.text: true given, allowed is false: the text encoder of {settings.base!r}, {kind}, is frozen"
            )
        found["text_encoder"] = [n for n, m in cast(nn.Module, encoder).named_modules() if isinstance(m, nn.Linear)]
    sides = [
        min(cast(nn.Module, getattr(pipeline, component)).get_parameter(f"{name}.weight").shape)
        for component, names in found.items()
        for name in names
    ]
    if settings.rank > max(sides):
        raise PochadeError(
            f"task.rank: {settings.rank} given, must be at most {max(sides)}: no adapted matrix of {settings.base!r} "
            "has a rank above that"
        )
    return found


def add_adapters(pipeline: TextToImagePipeline, settings: AdapterForm, seed: int = 0, *, text: bool = False) -> None:
    """Gives a model's layers adapters with random A and B = 0: it gives the same pictures, bit for bit."""
    from peft import LoraConfig

    from pochade.training.stages.lora_layer import AdaptedLinear

    alpha: Any = settings.rank if settings.alpha is None else settings.alpha
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for component, layers in layers_of(pipeline, settings, text=text).items():
            network: Any = getattr(pipeline, component)
            network.requires_grad_(False)
            config = LoraConfig(r=settings.rank, lora_alpha=alpha, use_dora=settings.dora, target_modules=layers)
            config._register_custom_module({nn.Linear: AdaptedLinear})
            network.add_adapter(config, ADAPTER)
