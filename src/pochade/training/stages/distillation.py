"""Teaching a denoiser of any family by another: velocity matching on a cache of the teacher's answers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pochade.data.cache.velocities import cache_velocities
from pochade.errors import PochadeError
from pochade.flow.guidance import Guidance, GuidedDenoiser
from pochade.flow.path import interpolate
from pochade.pipelines import hub
from pochade.training.data import ImageData, check_squares
from pochade.training.stage import AnyStage, Stage
from pochade.training.stages.components import Components
from pochade.training.stages.flow import JOINT, FlowDraw, FlowKind, FlowSettings, FlowTask, draw_flow
from pochade.training.stages.kind import Data, Inputs, Work, with_synthetic_pictures
from pochade.training.stages.models import (
    check_cached,
    check_conditioning,
    check_earlier_denoiser,
    check_teacher,
    classes_of,
    encoding_on,
    teacher_folder,
    teachers_autoencoder,
    text_of,
    with_start,
)
from pochade.training.task import Batch
from pochade.types import Conditioning
from pochade.values import COUNT, FACTOR, WEIGHT, Ranges

Alpha = Literal["t", "1-t", "constant"]


@dataclass(frozen=True)
class DistillationSettings(FlowSettings):
    """Which student, distilled from which teacher. Raises PochadeError for a value outside its range.

    The student, its text encoder, the density of the times, and the probability of dropped conditioning are fields of
    ``FlowSettings``. The autoencoder is the teacher's; the times are cached, so there is no curriculum.
    """

    stage_kind = "distillation"
    can_shard = False  # beside the network there is its teacher
    ranges: ClassVar[Ranges] = {
        **FlowSettings.ranges,
        "curriculum": (lambda value: value == 0, "0, as the teacher's times are cached"),
        "records": COUNT,
        "teacher_weight": FACTOR,
        "flow_weight": WEIGHT,
    }

    teacher: str | None = None
    """Name of a model or the folder of one; None: the model of the stage before."""
    guidance: float = 3.0
    """The teacher's guidance scale, which the student has built in; 1 for none."""
    records: int = 4
    """Noises and times of each picture at which the teacher's velocity is cached, at least 1."""
    teacher_weight: float = 1.0
    """lambda, the weight of the distance to the teacher."""
    flow_weight: float = 0.5
    """Weight of the usual loss, the distance to the data."""
    alpha: Alpha = "t"
    """How the teacher's weight goes along the path. "t": it leads where the noise is high. There one picture of the
    data determines the mean that is to be learnt least, and guidance acts; where the noise is low, the data hold the
    details that a teacher blurs. "1-t" is the reverse, "constant" 1 everywhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.autoencoder is not None:
            raise PochadeError(f"autoencoder: {self.autoencoder!r} given, allowed is none: the teacher's is kept")


def alpha(t: Tensor, kind: Alpha) -> Tensor:
    """The teacher's weight, in [0, 1], at t [B] in [0, 1]."""
    if kind == "constant":
        return torch.ones_like(t)
    return t if kind == "t" else 1 - t


def answers_of(
    denoiser: nn.Module, text_encoder: Any, settings: DistillationSettings, device: torch.device
) -> Callable[[Batch], Tensor]:
    """The teacher as the cache calls it (``pochade.data.cache.velocities.Answer``): its guided velocity at z_t.

    z_t, t and the samples without conditioning are those that ``DistillationTask`` draws from the same seeds. A teacher
    with a state is given none, as in its first step.

    Args:
        denoiser: the teacher, of any family; it is moved to ``device`` and set to eval mode.
        text_encoder: the teacher's own, for batches with captions.
    """
    denoiser.to(device).eval()
    guided = GuidedDenoiser(denoiser, Guidance(settings.guidance))  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def answer(batch: Batch) -> Tensor:
        z_0: Tensor = batch["latents"].to(device)
        draw = draw_flow(z_0, batch["seed"], settings)
        if "caption" in batch:
            text = text_encoder.encode(batch["caption"])
            conditioning = Conditioning(tokens=text.tokens, mask=text.mask, pooled=text.pooled)
        else:
            conditioning = Conditioning(class_label=batch["class_label"])
        conditioning = conditioning.to(device).drop("text", "class_label", rows=draw.dropped)
        return guided(interpolate(z_0, draw.eps, draw.t), draw.t, conditioning).velocity

    return answer


class DistillationTask(FlowTask):
    """``FlowTask`` on {..., "record_seed" [B], "teacher_velocity" [B, C, H, W]}, with the teacher's answer beside the
    data's.

    loss = flow_weight L_flow + teacher_weight mean of alpha(t) |v_student - v_teacher|^2, both squares means over
    C, H, W; both parts are logged, without their weights. Noise, time and the samples that lose their conditioning
    come from the seed of the record, so that they are those of the teacher's answer.

    With a teacher that knows the mean of the data, v_teacher = v_0 + s (v_c - v_0) under guidance s, the least of the
    loss at t lies at v_0 + s' (v_c - v_0) with s' = (flow_weight w(t) + teacher_weight alpha(t) s) /
    (flow_weight w(t) + teacher_weight alpha(t)): what guidance is built in falls short of s where the data count.
    """

    settings: DistillationSettings

    def objective(self, batch: Batch, draw: FlowDraw, v: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        flow, metrics = super().objective(batch, draw, v)
        error = (v.float() - batch["teacher_velocity"]).square().mean((1, 2, 3))
        teacher = (alpha(draw.t, self.settings.alpha) * error).mean()
        loss = self.settings.flow_weight * flow + self.settings.teacher_weight * teacher
        return loss, {**metrics, "loss_flow": flow.detach(), "loss_teacher": teacher.detach()}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return super().forward({**batch, "seed": batch["record_seed"]})


DistillationStage = Stage[DistillationSettings, ImageData]
TEACHER_SHAPE = ("guidance", "records", "density", "density_scale", "time_shift", "cfg_dropout")
"""The settings that the teacher's answers depend on."""


class DistillationKind(FlowKind[DistillationSettings]):
    """Training a denoiser by another's velocities: ``FlowKind`` on the teacher's latents, beside its cached answers."""

    def check(self, stage: DistillationStage, earlier: Sequence[AnyStage], components: Components) -> Data:
        check_squares(stage)
        check_cached(stage)
        teacher = stage.task.teacher
        if teacher is None:
            check_earlier_denoiser(earlier)
        else:
            pipeline = components.pipeline(teacher, field="task.teacher")
            check_teacher(teacher, pipeline, "task.teacher")
            check_conditioning(pipeline, stage.data.open(stage=stage.name), "task.teacher")
        return super().check(stage, earlier, components)

    def autoencoder(self, stage: DistillationStage, earlier: Sequence[AnyStage], components: Components) -> Any:
        return teachers_autoencoder(stage, stage.task.teacher, earlier, components)

    def build(self, stage: DistillationStage, inputs: Inputs) -> Work:
        settings = stage.task
        folder = teacher_folder(settings.teacher, inputs)
        teacher = inputs.components.pipeline(str(folder), field="task.teacher")
        dataset = stage.data.open(stage=stage.name)
        check_conditioning(teacher, dataset, "task.teacher")
        defaults = {} if settings.guidance == 1 else {"default_guidance": 1.0}
        pipeline = self.pipeline(stage, dataset, teacher.autoencoder, inputs, **defaults)
        started = with_start(stage, pipeline.denoiser)
        frozen = None if settings.text_encoder in (None, JOINT) else text_of(pipeline)
        with encoding_on(inputs.device, teacher.autoencoder, frozen) as encoders:
            latents = inputs.cache_latents(dataset, stage.data.size, encoders)
        identity = json.dumps([hub.model_sha256(folder), *(getattr(settings, name) for name in TEACHER_SHAPE)])
        answer = answers_of(teacher.denoiser, teacher.text_encoder, settings, inputs.device)
        samples = cache_velocities(latents, answer, settings.records, identity, inputs.cache, progress=inputs.progress)
        return self.work(stage, started, pipeline, samples, dataset, folder, DistillationTask)

    def synthetic(
        self, stage: DistillationStage, earlier: Sequence[AnyStage], components: Components
    ) -> DistillationStage:
        if stage.task.teacher is None:
            return super().synthetic(stage, earlier, components)
        return with_synthetic_pictures(stage, classes_of(components.pipeline(stage.task.teacher, field="task.teacher")))
