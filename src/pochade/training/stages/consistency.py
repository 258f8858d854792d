"""Distilling a denoiser of any family into one that needs few steps (``pochade.flow.consistency``)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pochade.arguments import EVERYWHERE, check_guidance_interval
from pochade.flow.consistency import (
    Distance,
    distance,
    euler_step,
    grid,
    intervals_at,
    neighbours,
    predict_edge,
    step_weight,
)
from pochade.flow.guidance import Guidance, GuidedDenoiser
from pochade.flow.path import interpolate
from pochade.nn.keyed_random import keyed_normal, keyed_uniform
from pochade.pipelines.schedulers import make_scheduler
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.training.data import ImageData
from pochade.training.ema import module_tensors
from pochade.training.stage import AnyStage, Settings, Stage
from pochade.training.stages import kind_of, reconstruction
from pochade.training.stages.components import Components
from pochade.training.stages.discriminator import RATE, LatentDiscriminator, adversarial_losses
from pochade.training.stages.flow import encoded_conditioning, keep_state
from pochade.training.stages.kind import Data, Inputs, Kind, Work, with_synthetic_pictures
from pochade.training.stages.models import (
    ModelWork,
    check_conditioning,
    check_earlier_denoiser,
    check_start,
    check_teacher,
    classes_of,
    latents_of,
    shown_of,
    teacher_folder,
    teachers_autoencoder,
    text_of,
    with_start,
)
from pochade.training.task import Batch, Stream, Task, decay_groups
from pochade.values import COUNT, FACTOR, SHARE, Ranges

FEW_STEPS = 4
"""What a distilled model samples with where a call names nothing else."""


@dataclass(frozen=True)
class ConsistencySettings(Settings):
    """Which teacher, with how much guidance, on which grid. Raises PochadeError for a value outside its range."""

    stage_kind = "consistency"
    ranges: ClassVar[Ranges] = {
        **Settings.ranges,
        "phases": COUNT,
        "target_decay": SHARE,
        "adversarial": (FACTOR[0], "above 0, or none"),
    }

    teacher: str | None = None
    """Name of a model or the folder of one; None: the model of the stage before."""
    guidance: float = 3.0
    """The teacher's guidance scale, which the student has built in."""
    guidance_interval: tuple[float, float] | None = None
    """Times at which the teacher is guided; None: those that are stored with it."""
    distance: Distance = "pseudo_huber"
    # None, and not 1: a run from before this field goes on.
    phases: int | None = None
    """Parts that the times are cut into, for a student that leads to the end of its part and is sampled in as many
    Euler steps (2405.18407). None: it leads to the data from anywhere, and is sampled with new noise between steps."""
    first_intervals: int = 8
    """Intervals of the grid of times at the start of the training,"""
    last_intervals: int = 64
    """and at its end; they double in between."""
    time_shift: float = 2.0
    """s in t' = s t / (1 + (s - 1) t) for the points of the grid; above 1 puts more of them at high noise."""
    target_decay: float = 0.95
    """Decay of the moving average that gives the target, in [0, 1)."""
    cfg_dropout: float = 0.05
    """Probability that a sample loses its conditioning, so that an empty prompt still works."""
    self_conditioning_prob: float = 0.9
    """Probability that a sample is given a state, where the denoiser has one (2212.11972)."""
    # None, and not 0: a run from before this field goes on.
    adversarial: float | None = None
    """Weight of the loss of a discriminator on features of the teacher, above 0 (2403.12015); None: without one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guidance_interval is not None:
            check_guidance_interval(self.guidance_interval)
        for name in ("first_intervals", "last_intervals"):
            intervals = getattr(self, name)
            self.check(name, intervals >= 1 and intervals % self.parts == 0, f"a multiple of phases={self.parts}")

    @property
    def parts(self) -> int:
        """Parts that the times are cut into; 1: none."""
        return 1 if self.phases is None else self.phases

    @property
    def steps(self) -> int:
        """What the student samples with where a call names nothing else."""
        return FEW_STEPS if self.phases is None else self.phases

    def scheduler(self) -> Any:
        """What the student is sampled with."""
        return make_scheduler("lcm") if self.phases is None else make_scheduler("euler", self.time_shift)

    def intervals_at(self, progress: float) -> int:
        """The intervals of the grid at ``progress`` in [0, 1]. Raises PochadeError where they would fall."""
        return intervals_at(progress, self.first_intervals, self.last_intervals)


@lru_cache(maxsize=16)
def _times(intervals: int, time_shift: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The grid on a device, copied there once."""
    return grid(intervals, time_shift).to(device, dtype)


class ConsistencyTask(Task):
    """One step of consistency distillation on {"latents" [B, C, H, W], "seed" [B]} with text vectors or classes.

    For t and the next lower s of the grid, with f the prediction of the data, or of the edge of their phase
    (2303.01469, algorithm 2; 2405.18407, equation 9)::

        z_s  = z_t - (t - s) v_teacher(z_t, t)           one Euler step with guidance, without gradient
        loss = mean of w d(f_student(z_t, t), f_target(z_s, s))

    The target is a moving average of the student; where s is the edge it is z_s itself. Noise, times and the samples
    that lose their conditioning come from each sample's own key, its "seed".

    A state that the teacher leaves at z_t is given to student and target for some samples, as the sampler will give
    them the one of the step before; the others start from zeros. What the student leaves in ``aux`` under a name
    that begins with ``loss_`` is added, already weighted; all of ``aux`` is logged.

    With ``adversarial`` a discriminator learns along to tell f_student(z_t, t) from data, and its weighted loss is
    added (``pochade.training.stages.discriminator``).

    Args:
        teacher: of any family, trained by flow matching; it is frozen here. Student and target start as copies of it.
        settings: guidance, grid, distance.
        interval: times at which the teacher is guided.
    """

    def __init__(
        self, teacher: nn.Module, settings: ConsistencySettings, interval: tuple[float, float] = EVERYWHERE
    ) -> None:
        super().__init__()
        self.guidance = Guidance(settings.guidance, interval=interval)
        # A batch has times inside the interval and outside: both branches, without asking the device which they are.
        self.guided_time = torch.tensor(interval[0])
        self.intervals = settings.intervals_at(0.0)
        self.teacher: Any = teacher.requires_grad_(False).eval()
        self.target: Any = copy.deepcopy(teacher)
        self.student: Any = copy.deepcopy(teacher).requires_grad_(True)
        self.settings = settings
        adversarial = settings.adversarial is not None
        self.discriminator = (
            LatentDiscriminator(self.teacher.config.dim, len(self.teacher.trunk)) if adversarial else None
        )
        both = {"student": self.student, "discriminator": self.discriminator}
        self.parts = nn.ModuleDict({name: part for name, part in both.items() if part is not None})

    def trainable(self) -> nn.Module:
        """The student; with an adversary both, so that a checkpoint holds both."""
        return self.student if self.discriminator is None else self.parts

    def parameter_groups(self, weight_decay: float, learning_rate: float) -> list[dict[str, Any]]:
        """As usual, with the discriminator in groups of ``discriminator.RATE`` times the learning rate."""
        if self.discriminator is None:
            return super().parameter_groups(weight_decay, learning_rate)
        return [
            {"params": list(self.discriminator.parameters()), "weight_decay": 0.0, "lr": RATE * learning_rate},
            *decay_groups(self.student, weight_decay, learning_rate),
        ]

    def compilable(self) -> list[nn.Module]:
        return [self.student, self.teacher, self.target]

    @torch.no_grad()
    def begin_step(self, progress: float) -> None:
        """Moves the target towards the student, and refines the grid. At ``progress`` 0 the target is the student."""
        settings = self.settings
        self.intervals = settings.intervals_at(progress)
        student, target = module_tensors(self.student), module_tensors(self.target)
        averaged = [] if progress == 0 else [name for name, tensor in target.items() if tensor.is_floating_point()]
        for name in target.keys() - set(averaged):
            target[name].copy_(student[name])
        if averaged:
            moved = [target[name] for name in averaged]
            torch._foreach_lerp_(moved, [student[name] for name in averaged], 1 - settings.target_decay)

    def extra_state(self) -> dict[str, Tensor]:
        return module_tensors(self.target)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.settings
        z_0: Tensor = batch["latents"]
        keys = batch["seed"].to(z_0.device)
        eps = keyed_normal(keys, z_0.shape[1:], Stream.NOISE).to(z_0)
        u = keyed_uniform(keys, 1, Stream.TIME)[:, 0].to(z_0)
        t, s, edge = neighbours(u, _times(self.intervals, settings.time_shift, u.device, u.dtype), settings.parts)
        dropped = keyed_uniform(keys, 1, Stream.DROPPED)[:, 0] < settings.cfg_dropout
        state_given = keyed_uniform(keys, 1, Stream.STATE_GIVEN)[:, 0] < settings.self_conditioning_prob
        conditioning = encoded_conditioning(batch).drop("text", "class_label", rows=dropped)
        z_t = interpolate(z_0, eps, t)

        with torch.no_grad():
            guided = GuidedDenoiser(self.teacher, self.guidance)
            guided.begin(self.guided_time)
            step = guided(z_t, t, conditioning)
            z_s = euler_step(z_t, step.velocity, t, s)
            state = None if step.state is None else keep_state(step.state[: len(z_t)], state_given)
            target, _ = predict_edge(self.target, z_s, s, edge, conditioning, state=state)
        predicted, out = predict_edge(self.student, z_t, t, edge, conditioning, state=state)

        per_sample = distance(predicted, target, settings.distance)
        extras = {name: value.float().mean() for name, value in out.aux.items()}
        loss = (step_weight(t, s, self.intervals) * per_sample).mean()
        loss = loss + sum(value for name, value in extras.items() if name.startswith("loss_"))
        logged = {name: value.detach() for name, value in extras.items()}
        if self.discriminator is not None and settings.adversarial is not None:
            real = interpolate(z_0, eps, edge)
            fooled, discriminated = adversarial_losses(
                self.discriminator, self.teacher, predicted, real, edge, conditioning, keys
            )
            loss = loss + settings.adversarial * fooled + discriminated
            logged |= {"fooled": fooled.detach(), "discriminator": discriminated.detach()}
        return {
            **logged,
            "loss": loss,
            "t": t,
            "per_sample": per_sample.detach(),
            "intervals": z_0.new_full((), self.intervals),
        }


ConsistencyStage = Stage[ConsistencySettings, ImageData]


class ConsistencyKind(Kind[ConsistencySettings, ImageData]):
    """Distilling a model to few steps, on its own autoencoder's latents."""

    produces = "few_steps"

    def check(self, stage: ConsistencyStage, earlier: Sequence[AnyStage], components: Components) -> Data:
        dataset = stage.data.open(stage=stage.name)
        stage.task.intervals_at(0.0)
        teacher = stage.task.teacher
        if teacher is None:
            check_earlier_denoiser(earlier)
        else:
            pipeline = components.pipeline(teacher, field="task.teacher")
            check_teacher(teacher, pipeline, "task.teacher")
            check_conditioning(pipeline, dataset, "task.teacher")
            check_start(stage, pipeline.denoiser)
        self.autoencoder(stage, earlier, components)
        return {"data.source": dataset}

    def autoencoder(self, stage: ConsistencyStage, earlier: Sequence[AnyStage], components: Components) -> Any:
        return teachers_autoencoder(stage, stage.task.teacher, earlier, components)

    def build(self, stage: ConsistencyStage, inputs: Inputs) -> Work:
        folder = teacher_folder(stage.task.teacher, inputs)
        teacher = inputs.components.pipeline(str(folder), field="task.teacher")
        dataset = stage.data.open(stage=stage.name)
        check_conditioning(teacher, dataset, "task.teacher")
        torch.manual_seed(stage.seed)
        task = ConsistencyTask(
            teacher.denoiser, stage.task, stage.task.guidance_interval or teacher.default_guidance_interval
        )
        started = reconstruction.with_start(
            with_start(stage, task.student), task.student, stage.task.adversarial is not None
        )
        samples = latents_of(stage.data, dataset, teacher, text_of(teacher), inputs)
        distilled = TextToImagePipeline(
            teacher.autoencoder,
            task.student,
            stage.task.scheduler(),
            teacher.text_encoder,
            default_steps=stage.task.steps,
            default_guidance=1.0,
            default_size=stage.data.size,
        )
        return ModelWork(
            stage=started,
            task=task,
            samples=samples,
            data={"data.source": dataset},
            start=folder,
            autoencoder=folder,
            pipeline=distilled,
            shown=shown_of(stage.data, dataset, distilled),
        )

    def synthetic(
        self, stage: ConsistencyStage, earlier: Sequence[AnyStage], components: Components
    ) -> ConsistencyStage:
        if stage.task.teacher is not None:
            return with_synthetic_pictures(
                stage, classes_of(components.pipeline(stage.task.teacher, field="task.teacher"))
            )
        before = kind_of(earlier[-1]).synthetic(earlier[-1], earlier[:-1], components) if earlier else stage
        return replace(stage, data=replace(stage.data, source=before.data.source))
