"""Velocity matching: what is cached is what the teacher says, and a student comes nearer to it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pochade.denoisers.microforge import MicroForgeDenoiser
from pochade.errors import PochadeError
from pochade.flow.guidance import Guidance, GuidedDenoiser
from pochade.flow.path import interpolate
from pochade.training.stages.distillation import (
    DistillationSettings,
    DistillationTask,
    alpha,
    answers_of,
)
from pochade.training.stages.flow import FlowSettings, FlowTask, draw_flow
from pochade.types import Conditioning, DenoiserOutput, TextEncoding
from training.stages.test_flow import Carry, Remember, lrf, vectors

CPU = torch.device("cpu")
CAPTIONS = ["red apple", "", "blue house door", "pears"]


class Words:
    """A vector of width D for each word of a caption."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def encode(self, captions: list[str]) -> TextEncoding:
        lengths = [len(caption.split()) for caption in captions]
        tokens = torch.zeros(len(captions), max(1, *lengths), self.dim)
        for row, caption in enumerate(captions):
            for place, word in enumerate(caption.split()):
                g = torch.Generator().manual_seed(sum(map(ord, word)))
                tokens[row, place] = torch.randn(self.dim, generator=g)
        mask = torch.arange(tokens.shape[1])[None] < torch.tensor(lengths)[:, None]
        return TextEncoding(tokens, mask, tokens.sum(1))


def question(rows: int = 8) -> dict[str, Any]:
    g = torch.Generator().manual_seed(1)
    return {
        "latents": torch.randn(rows, 2, 4, 4, generator=g),
        "seed": torch.arange(rows) * 31 + 5,
        "caption": (CAPTIONS * rows)[:rows],
    }


def lesson(inputs: dict[str, Any], velocity: Tensor, encoder: Words) -> dict[str, Any]:
    """What the data set gives for that question and its answer, with the text of a student's encoder."""
    text = encoder.encode(inputs["caption"])
    result = {"tokens": text.tokens, "mask": text.mask, "pooled": text.pooled}
    other = {"seed": torch.zeros_like(inputs["seed"]), "record_seed": inputs["seed"]}
    return {"latents": inputs["latents"], **result, **other, "teacher_velocity": velocity.half().float()}


def microforge(**changes: Any) -> MicroForgeDenoiser:
    torch.manual_seed(3)
    toy = {"latent_channels": 2, "sample_size": 4, "dim": 16, "heads": 2, "blocks": 2, "inner": 16, "state_size": 4}
    plan = {"plan_tokens": 3, "plan_layers": 1, "plan_hidden": 16, "attention_every": 0}
    model = MicroForgeDenoiser(**{**toy, **plan, "text_dim": 7, "pooled_dim": 7, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_the_answer_is_the_teachers_own_velocity(scale: float, drop: float) -> None:
    teacher, settings, inputs = (
        lrf(),
        DistillationSettings(guidance=scale, cfg_dropout=drop, time_shift=2.0),
        question(),
    )
    answer = answers_of(teacher, Words(5), settings, CPU)(inputs)
    assert not answer.requires_grad
    draw = draw_flow(inputs["latents"], inputs["seed"], settings)
    text = Words(5).encode(inputs["caption"])
    conditioning = Conditioning(text.tokens, text.mask, text.pooled)
    z_t = interpolate(inputs["latents"], draw.eps, draw.t)
    with torch.no_grad():
        result = teacher(z_t, draw.t, conditioning.drop("text", rows=draw.dropped)).velocity
        empty = teacher(z_t, draw.t, conditioning.drop("text")).velocity
    torch.testing.assert_close(answer, empty + scale * (result - empty))
    if drop:
        assert 0 < int(draw.dropped.sum()) < len(draw.dropped)
        torch.testing.assert_close(answer[draw.dropped], empty[draw.dropped])
    parts = [{k: v[s] for k, v in inputs.items()} for s in (slice(3), slice(3, 8))]
    both = torch.cat([answers_of(teacher, Words(5), settings, CPU)(part) for part in parts])
    torch.testing.assert_close(both, answer, atol=1e-5, rtol=1e-5)


def test_classes_are_answered_too() -> None:
    teacher, settings = (
        lrf(num_classes=3, text_dim=0, pooled_dim=0),
        DistillationSettings(guidance=2.0, cfg_dropout=0.3),
    )
    inputs = {k: v for k, v in question().items() if k != "caption"} | {"class_label": torch.arange(8) % 3}
    answer = answers_of(teacher, None, settings, CPU)(inputs)
    draw = draw_flow(inputs["latents"], inputs["seed"], settings)
    conditioning = Conditioning(class_label=inputs["class_label"]).drop("class_label", rows=draw.dropped)
    with torch.no_grad():
        guided = GuidedDenoiser(teacher, Guidance(2.0))
        z_t = interpolate(inputs["latents"], draw.eps, draw.t)
        torch.testing.assert_close(answer, guided(z_t, draw.t, conditioning).velocity)


def test_a_teacher_that_carries_a_state_is_given_none() -> None:
    class Sampled(Carry):
        config: Any = None

        def forward(self, *inputs: Any, state: Tensor | None = None, depth: int | None = None) -> DenoiserOutput:
            assert depth is None
            return super().forward(*inputs, state=state)

    teacher = Sampled()
    answers_of(teacher, Words(5), DistillationSettings(), CPU)(question())
    assert teacher.states == [None]


@pytest.mark.parametrize("family", ["lrf", "microforge"])
def test_the_teacher_itself_is_a_perfect_student(family: str) -> None:
    """But for float16: noise, time, dropped rows and text are those of the answer. Without a state, as it answered."""
    teacher, width = (lrf(), 5) if family == "lrf" else (microforge(), 7)
    settings = DistillationSettings(
        guidance=1.0, cfg_dropout=0.4, self_conditioning_prob=0.0, alpha="constant", density="laplace", time_shift=3.0
    )
    inputs = question()
    batch = lesson(inputs, answers_of(teacher, Words(width), settings, CPU)(inputs), Words(width))
    out = DistillationTask(teacher, settings)(batch)
    size = float(batch["teacher_velocity"].square().mean())
    assert float(out["loss_teacher"]) < 1e-6 * size
    wrong = DistillationTask(teacher, settings)({**batch, "record_seed": inputs["seed"] + 1})
    assert float(wrong["loss_teacher"]) > 1e-3 * size


@pytest.mark.parametrize("kind", ["t", "1-t", "constant"])
def test_the_loss_is_the_sum_of_its_parts(kind: Any) -> None:
    settings = DistillationSettings(
        cfg_dropout=0.0, alpha=kind, teacher_weight=0.7, flow_weight=0.2, weighting="centre"
    )
    batch, student = lesson(question(), torch.full((8, 2, 4, 4), 0.5), Words(5)), Remember()
    out = DistillationTask(student, settings)(batch)
    t = student.arguments[1]
    weights = {"t": t, "1-t": 1 - t, "constant": torch.ones_like(t)}[kind]
    torch.testing.assert_close(alpha(t, kind), weights)
    torch.testing.assert_close(out["loss_teacher"], weights.mean() * 0.04)
    names = list(FlowSettings.__dataclass_fields__)
    usual = FlowSettings(**{name: getattr(settings, name) for name in names})
    plain = FlowTask(Remember(), usual)({**batch, "seed": batch["record_seed"]})
    torch.testing.assert_close(out["loss_flow"], plain["loss"].detach())
    torch.testing.assert_close(out["loss"], 0.2 * plain["loss"] + 0.7 * weights.mean() * 0.04)
    assert torch.equal(out["per_sample"], plain["per_sample"])
    assert not any(v.requires_grad for k, v in out.items() if k != "loss")


def test_what_a_family_asks_for_is_added_whatever_the_weights() -> None:
    class Extras(Remember):
        def forward(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> DenoiserOutput:
            return DenoiserOutput(super().forward(latents, t, conditioning).velocity, aux={"loss_own": self.constant})

    batch = lesson(question(), torch.zeros(8, 2, 4, 4), Words(5))
    settings = DistillationSettings(flow_weight=0.0, alpha="constant")
    out = DistillationTask(Extras(), settings)(batch)
    torch.testing.assert_close(out["loss"], torch.tensor(0.09 + 0.3))


def test_the_least_of_the_loss_has_the_guidance_that_is_promised() -> None:
    """On numbers: the data have the mean 2 at a condition and 0 without one, the teacher says 0 + 3 (2 - 0)."""
    result = torch.tensor([2.0 - 1, 2.0 + 1], dtype=torch.float64)
    for t in (0.1, 0.9):
        flow, teacher = 0.5, float(alpha(torch.tensor(t, dtype=torch.float64), "t"))
        v = torch.zeros((), dtype=torch.float64, requires_grad=True)
        loss = flow * (v - result).square().mean() + teacher * (v - 6).square()
        (slope,) = torch.autograd.grad(loss, v)
        least = -slope / (2 * (flow + teacher))
        promised = (flow + teacher * 3) / (flow + teacher)
        torch.testing.assert_close(least, torch.tensor(2 * promised, dtype=torch.float64))


@pytest.mark.parametrize("self_conditioning", [True, False])
def test_a_student_of_another_family_and_text_encoder_comes_nearer(self_conditioning: bool) -> None:
    inputs = question(16)
    settings = DistillationSettings(guidance=2.0, cfg_dropout=0.1, flow_weight=0.0)
    answer = answers_of(lrf(), Words(5), settings, CPU)(inputs)
    student = microforge(self_conditioning=self_conditioning)
    assert (student.state_shape is not None) == self_conditioning
    task, batch = DistillationTask(student, settings), lesson(inputs, answer, Words(7))
    optimizer = torch.optim.Adam(task.trainable().parameters(), 5e-3)
    losses: list[float] = []
    for _ in range(60):
        optimizer.zero_grad()
        out = task(batch)
        out["loss"].backward()
        optimizer.step()
        losses.append(float(out["loss_teacher"]))
    assert losses[-1] < 0.3 * losses[0]


def test_a_text_encoder_is_trained_along() -> None:
    from pochade.text_encoders.bag import BagEncoder

    torch.manual_seed(0)
    encoder = BagEncoder(BagEncoder.train_tokenizer(CAPTIONS, 300), dim=5, hidden_dim=8)
    inputs = question()
    settings = DistillationSettings(text_encoder="bag")
    answer = answers_of(microforge(), Words(7), settings, CPU)(inputs)
    batch = {**inputs, "record_seed": inputs["seed"], "teacher_velocity": answer}
    out = DistillationTask(lrf(), settings, encoder)(batch)
    out["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_the_draws_are_the_records_and_not_the_runs() -> None:
    task, batch = DistillationTask(lrf(), DistillationSettings()), vectors()
    batch |= {"record_seed": batch["seed"], "teacher_velocity": torch.zeros(4, 2, 4, 4)}
    first = task(batch)
    assert torch.equal(task({**batch, "seed": batch["seed"] + 9})["loss"], first["loss"])
    assert not torch.equal(task({**batch, "record_seed": batch["seed"] + 9})["t"], first["t"])


@pytest.mark.parametrize(
    ("wrong", "result"),
    [
        ({"records": 0}, "records: 0 given, must be at least 1"),
        ({"teacher_weight": 0.0}, "teacher_weight: 0.0 given, must be above 0"),
        ({"flow_weight": -1.0}, "flow_weight: -1.0 given, must be at least 0"),
        ({"curriculum": -1.0}, "curriculum: -1.0 given, must be 0, as"),
        ({"guidance": float("nan")}, "guidance: nan given, must be finite"),
        ({"curriculum": 0.5}, "curriculum: 0.5 given, must be 0"),
        ({"curriculum": 1.5}, "curriculum: 1.5 given, must be 0, as"),
        ({"autoencoder": "lrf-openmoji"}, "autoencoder: 'lrf-openmoji' given, allowed is none"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any], result: str) -> None:
    with pytest.raises(PochadeError) as caught:
        replace(DistillationSettings(), **wrong)
    assert result in str(caught.value)


def test_modules_of_the_teacher_are_set_to_answer() -> None:
    class Noisy(nn.Module):
        config: Any = None

        def forward(self, latents: Tensor, *_: Any, **__: Any) -> DenoiserOutput:
            assert not self.training
            return DenoiserOutput(latents)

    answers_of(Noisy().train(), Words(5), DistillationSettings(guidance=1.0), CPU)(question())
