"""Distillation: against a Gaussian's ODE in closed form, and as a run that can be killed and resumed."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pochade.data.samples import Batch, Samples
from pochade.errors import PochadeError
from pochade.flow.consistency import euler_step, grid, step_weight
from pochade.flow.sampling import sample
from pochade.nn.keyed_random import keyed_normal
from pochade.training.checkpoint import load_checkpoint
from pochade.training.loop import train
from pochade.training.stage import Stage
from pochade.training.stages.consistency import ConsistencySettings, ConsistencyTask
from pochade.training.stages.discriminator import LatentDiscriminator, adversarial_losses
from pochade.training.stages.flow import encoded_conditioning
from pochade.types import Conditioning, DenoiserOutput
from training.toy import ToyData, fingerprint

MEAN, DEVIATION = 0.7, 0.4


class Gaussian(nn.Module):
    """The exact velocity for data from Normal(shift + MEAN, DEVIATION^2); the class shifts it, no class does not."""

    config = SimpleNamespace()

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, latents: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None, depth: Any = None):
        label = conditioning.class_label.to(latents).clamp_min(0)
        mean, t = (MEAN + self.shift + 0.1 * label).view(-1, 1, 1, 1), t.view(-1, 1, 1, 1)
        variance = (1 - t).square() * DEVIATION**2 + t.square()
        return DenoiserOutput((t - (1 - t) * DEVIATION**2) / variance * (latents - (1 - t) * mean) - mean)


def gaussian_batch(rows: int = 16, first: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(first)
    data = MEAN + DEVIATION * torch.randn(rows, 2, 2, 2, generator=generator, dtype=dtype)
    return {"latents": data, "class_label": torch.zeros(rows).long(), "seed": torch.arange(rows) + 1000 * first}


class RollOut(nn.Module):
    """The student that is consistent: it takes every step of the teacher on the grid, from t to 0, and says
    where it came out."""

    config = SimpleNamespace()

    def __init__(self, teacher: nn.Module, times: Tensor) -> None:
        super().__init__()
        self.teacher, self.times = teacher, times

    def forward(self, latents: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None, depth: Any = None):
        z = latents
        for upper, lower in zip(self.times.flip(0)[:-1], self.times.flip(0)[1:], strict=True):
            step = euler_step(z, self.teacher(z, upper.expand(len(t)), conditioning).velocity, upper.expand(len(t)),
                              lower.expand(len(t)))  # fmt: skip
            z = torch.where((t >= upper - 1e-9).view(-1, 1, 1, 1), step, z)
        return DenoiserOutput((latents - z) / t.clamp_min(1e-9).view(-1, 1, 1, 1))


def replaced(task: ConsistencyTask, student: nn.Module) -> ConsistencyTask:
    task.student, task.target = student, student
    return task


@pytest.mark.parametrize("kind", ["pseudo_huber", "l2"])
@pytest.mark.parametrize("time_shift", [1.0, 2.0])
def test_the_loss_of_a_consistent_student_is_zero(kind: Any, time_shift: float) -> None:
    settings = ConsistencySettings(
        guidance=1.0, distance=kind, first_intervals=6, last_intervals=6, time_shift=time_shift, cfg_dropout=0.0
    )
    task, batch = ConsistencyTask(Gaussian(), settings), gaussian_batch(48)
    assert float(task(batch)["loss"].detach()) > 1e-3  # the teacher itself is not consistent: its paths bend
    out = replaced(task, RollOut(task.teacher, grid(6, time_shift)))(batch)
    assert float(out["per_sample"].max()) < 1e-12
    assert set(out["t"].tolist()) == set(grid(6, time_shift)[1:].tolist())


class PhasedRollOut(RollOut):
    """Takes every step of the teacher from t to the edge of its phase."""

    def __init__(self, teacher: nn.Module, times: Tensor, phases: int) -> None:
        super().__init__(teacher, times)
        self.edges = times[:: (len(times) - 1) // phases].contiguous()

    def forward(self, latents: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None, depth: Any = None):
        edge = self.edges[(torch.bucketize(t - 1e-6, self.edges) - 1).clamp_min(0)]
        z = latents
        for upper, lower in zip(self.times.flip(0)[:-1], self.times.flip(0)[1:], strict=True):
            upper, lower = upper.expand(len(t)), lower.expand(len(t))
            step = euler_step(z, self.teacher(z, upper, conditioning).velocity, upper, lower)
            inside = (t >= upper - 1e-6) & (lower >= edge - 1e-6)
            z = torch.where(inside.view(-1, 1, 1, 1), step, z)
        return DenoiserOutput((latents - z) / (t - edge).clamp_min(1e-9).view(-1, 1, 1, 1))


@pytest.mark.parametrize("phases", [2, 4])
def test_the_loss_of_a_student_that_is_consistent_in_each_phase_is_zero(phases: int) -> None:
    settings = ConsistencySettings(guidance=1.0, phases=phases, first_intervals=8, last_intervals=8, cfg_dropout=0.0)
    task, batch = ConsistencyTask(Gaussian(), settings), gaussian_batch(64)
    before = float(task(batch)["loss"].detach())
    out = replaced(task, PhasedRollOut(task.teacher, grid(8, 2.0), phases))(batch)
    assert float(out["per_sample"].max()) < 1e-12 < before
    wrong = replaced(task, PhasedRollOut(task.teacher, grid(8, 2.0), 1))(batch)
    assert float(wrong["per_sample"].max()) > 1e-3


@pytest.mark.parametrize("phases", [2, 4])
def test_a_phased_student_takes_as_many_steps_as_the_teacher_would_with_all_of_its_own(phases: int) -> None:
    settings = ConsistencySettings(phases=phases)
    assert settings.steps == phases
    teacher, z = Gaussian(), torch.randn(6, 2, 2, 2, generator=torch.Generator().manual_seed(5)).double()
    label = Conditioning(class_label=torch.zeros(6).long())
    student = PhasedRollOut(teacher, grid(8, settings.time_shift), phases)
    sampled = sample(student, settings.scheduler(), z, label, num_inference_steps=phases)
    own = sample(teacher, settings.scheduler(), z, label, num_inference_steps=8)
    torch.testing.assert_close(sampled, own, atol=1e-5, rtol=0)


class Table(nn.Module):
    """v = a_i z + b_i at the i-th time of an even grid: the exact student of a Gaussian is of this form."""

    config = SimpleNamespace()

    def __init__(self, intervals: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(intervals + 1)), nn.Parameter(torch.zeros(intervals + 1))

    def forward(self, latents: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None, depth: Any = None):
        i = (t * (len(self.a) - 1)).round().long()
        return DenoiserOutput(self.a[i].view(-1, 1, 1, 1) * latents + self.b[i].view(-1, 1, 1, 1))


def test_a_student_learns_where_the_ode_leads() -> None:
    """From noise in one step: f(z, 1) = mean + deviation z, up to the error of the teacher's 12 steps."""
    settings = ConsistencySettings(
        guidance=1.0,
        distance="l2",
        first_intervals=12,
        last_intervals=12,
        time_shift=1.0,
        cfg_dropout=0.0,
        target_decay=0.0,
    )
    task, steps = ConsistencyTask(Gaussian(), settings), 300
    task.student, task.target = Table(12), Table(12).requires_grad_(False)
    optimizer = torch.optim.Adam(task.trainable().parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for step in range(steps):
        task.begin_step(step / steps)
        optimizer.zero_grad()
        task(gaussian_batch(64, step, torch.float32))["loss"].backward()
        optimizer.step()
        schedule.step()
    z, ones = torch.randn(6, 2, 2, 2, generator=torch.Generator().manual_seed(5)), torch.ones(6)
    result = Conditioning(class_label=torch.zeros(6).long())
    with torch.no_grad():
        answer = z - task.student(z, ones, result).velocity
        stepped = z - RollOut(task.teacher, grid(12).float())(z, ones, result).velocity
        one_step_of_the_teacher = z - task.teacher(z, ones, result).velocity
    assert float((answer - stepped).abs().max()) < 0.02
    assert float((answer - (MEAN + DEVIATION * z)).abs().max()) < 0.2
    assert float(one_step_of_the_teacher.std()) < 1e-6  # all noise goes to the mean: what distillation is for


# --- what the task asks of the networks


class Remember(nn.Module):
    """Answers with a constant and keeps its arguments."""

    config = SimpleNamespace()

    def __init__(self, carries: bool = False) -> None:
        super().__init__()
        self.constant, self.carries = nn.Parameter(torch.tensor(0.3)), carries
        self.inputs: list[Any] = []

    def forward(self, latents: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None, depth: Any = None):
        self.inputs.append((latents, t, conditioning, state))
        dropped = conditioning.class_label == -1
        velocity = torch.where(dropped, 0.0, self.constant).view(-1, 1, 1, 1).expand(latents.shape)
        carried = (1.0 + torch.arange(len(t))).view(-1, 1) if self.carries else None
        aux = {"loss_extra": self.constant.square().expand(len(t)), "steps": torch.full((len(t),), 2)}
        return DenoiserOutput(velocity, carried, aux)


def test_one_step_by_hand() -> None:
    """Guidance 3 between velocities 0.3 and 0 is 0.9; student and target answer 0.3."""
    settings = ConsistencySettings(cfg_dropout=0.0, first_intervals=4, last_intervals=4)
    task, batch = ConsistencyTask(Remember(), settings), gaussian_batch(12)
    out = task(batch)
    (z_both, t_both, inputs, _), (z_t, t, _, _), (z_s, s, _, _) = (
        m.inputs[0] for m in (task.teacher, task.student, task.target)
    )
    assert torch.equal(z_both, z_t.repeat(2, 1, 1, 1))
    assert torch.equal(t_both, t.repeat(2))
    assert inputs.class_label.tolist() == [0] * 12 + [-1] * 12
    column = (t - s).view(-1, 1, 1, 1)
    torch.testing.assert_close(z_s, z_t - 0.9 * column)
    gap = ((0.9 - 0.3) * (t - s)).abs()  # f(z_t, t) - f(z_s, s) = (0.9 - 0.3) (t - s)
    expected = (step_weight(t, s, 4) * gap).mean() + 0.3**2
    torch.testing.assert_close(out["loss"].detach(), expected, atol=2e-3, rtol=0)
    assert (float(out["steps"]), float(out["intervals"])) == (2, 4)
    assert not any(v.requires_grad for k, v in out.items() if k != "loss")
    out["loss"].backward()
    assert task.student.constant.grad is not None
    assert task.teacher.constant.grad is None
    assert task.target.constant.grad is None


def test_the_teacher_is_guided_at_its_own_times() -> None:
    settings = ConsistencySettings(cfg_dropout=0.0, first_intervals=8, last_intervals=8, time_shift=1.0)
    task, batch = ConsistencyTask(Remember(), settings, (0.4, 0.8)), gaussian_batch(64)
    task(batch)
    (z_t, t, _, _), (z_s, s, _, _) = (m.inputs[0] for m in (task.student, task.target))
    inside = (t >= 0.4) & (t <= 0.8)
    assert 0 < int(inside.sum()) < 64
    moved = torch.where(inside, 0.9, 0.3) * (t - s)
    torch.testing.assert_close(z_s, z_t - moved.view(-1, 1, 1, 1).expand(z_t.shape))


def test_noise_is_that_of_the_path_and_comes_from_the_seeds() -> None:
    task, batch = (
        ConsistencyTask(Remember(), ConsistencySettings(first_intervals=4, last_intervals=4)),
        gaussian_batch(64),
    )
    task(batch)
    z_t, t, _, _ = task.student.inputs[-1]
    t = t.view(-1, 1, 1, 1)
    eps = (z_t - (1 - t) * batch["latents"]) / t
    assert abs(float(eps.mean())) < 0.1
    assert 0.9 < float(eps.std()) < 1.1
    torch.manual_seed(3)
    task(batch)
    assert torch.equal(task.student.inputs[-1][0], z_t)
    part = {k: v[10:13] for k, v in batch.items()}
    task(part)
    assert torch.equal(task.student.inputs[-1][0], z_t[10:13])
    task({**batch, "seed": batch["seed"] + 1})
    assert not torch.equal(task.student.inputs[-1][0], z_t)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_shares_of_rows_lose_their_class_and_are_given_a_state(share: float) -> None:
    settings = ConsistencySettings(cfg_dropout=share, self_conditioning_prob=share)
    task, batch = ConsistencyTask(Remember(carries=True), settings), gaussian_batch(400)
    task(batch)
    assert task.teacher.inputs[0][3] is None
    (_, _, result, state), (_, _, target_told, target_state) = task.student.inputs[0], task.target.inputs[0]
    dropped, given = result.class_label == -1, state[:, 0] > 0
    assert float(dropped.float().mean()) == pytest.approx(share, abs=0.08)
    assert float(given.float().mean()) == pytest.approx(share, abs=0.08)
    assert state[:, 0].tolist() == [i + 1 if g else 0 for i, g in enumerate(given.tolist())]  # the conditional branch's
    assert torch.equal(state, target_state)
    assert torch.equal(result.class_label, target_told.class_label)


def test_the_target_follows_the_student_and_the_grid_grows() -> None:
    task = ConsistencyTask(Gaussian(), ConsistencySettings(first_intervals=2, last_intervals=8, target_decay=0.75))
    with torch.no_grad():
        task.student.shift.fill_(1.0)
    task.begin_step(0.0)
    assert (float(task.target.shift), task.intervals) == (1.0, 2)
    with torch.no_grad():
        task.student.shift.fill_(2.0)
    task.begin_step(0.4)
    assert (float(task.target.shift), task.intervals) == (1.25, 4)
    task.begin_step(0.9)
    assert (float(task.target.shift), task.intervals) == (1.4375, 8)
    assert float(task.teacher.shift) == 0


@pytest.mark.parametrize(
    "wrong",
    [{"first_intervals": 0, "last_intervals": 0}, {"time_shift": 0.0}, {"target_decay": 1.0}, {"cfg_dropout": 1.5},
     {"phases": 0}, {"phases": 3}, {"phases": 4, "first_intervals": 6}, {"adversarial": 0.0},
     {"self_conditioning_prob": -0.1}],
)  # fmt: skip
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(PochadeError, match=r"given, (must be|allowed are)"):
        ConsistencySettings(**wrong)


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), float("inf")])
def test_a_weight_of_the_adversary_is_refused_by_one_sentence(wrong: float) -> None:
    with pytest.raises(PochadeError, match=f"^adversarial: {wrong} given, must be above 0, or none$"):
        ConsistencySettings(adversarial=wrong)


# --- every family


def toy_family(family: str) -> Any:
    from contracts.families import FAMILIES, make, stir

    return stir(make(family, next(iter(FAMILIES[family].toys))))


def families() -> list[str]:
    from contracts.families import FAMILIES

    return list(FAMILIES)


class Latents(Samples):
    """Rows in the form of the latent cache."""

    def __init__(self, denoiser: Any) -> None:
        self.config = denoiser.config

    def __len__(self) -> int:
        return 24

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        return {
            "tokens": keyed_normal(keys, (4, self.config.text_dim)),
            "pooled": keyed_normal(keys + 1, (self.config.pooled_dim,)),
            "mask": torch.arange(4) <= indices[:, None] % 4,
            "latents": keyed_normal(indices, (self.config.latent_channels, 4, 4)),
            "name": [str(index) for index in indices.tolist()],
        }


# --- the adversary


def adversarial_task(family: str = "lrf", weight: float = 0.4, **settings: Any) -> tuple[ConsistencyTask, Batch]:
    denoiser = toy_family(family)
    task = ConsistencyTask(denoiser, ConsistencySettings(adversarial=weight, **settings))
    indices = torch.arange(4)
    return task, {**Latents(denoiser).batch(indices, indices), "seed": indices}


def gradients(task: ConsistencyTask) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in task.trainable().named_parameters() if p.grad is not None}


def test_the_heads_score_a_token_by_its_direction_and_keep_its_scale_out() -> None:
    discriminator = LatentDiscriminator(8, 2)
    features = [torch.randn(3, 5, 8), torch.randn(3, 5, 8)]
    assert discriminator(features).shape == (3, 10)
    torch.testing.assert_close(discriminator([5 * tokens for tokens in features]), discriminator(features))


@pytest.mark.parametrize("phases", [None, 2])
def test_one_backward_pass_gives_the_gradients_of_both(phases: int | None) -> None:
    """The student's step against fixed heads, the heads' against fixed features, each on its own."""
    task, batch = adversarial_task(phases=phases)
    discriminator: Any = task.discriminator
    out = task(batch)
    out["loss"].backward()
    joint = gradients(task)
    assert {name.partition(".")[0] for name in joint} == {"student", "discriminator"}

    task.zero_grad()
    seen: list[Any] = []
    features, task.teacher.features = task.teacher.features, lambda *args: seen.append(args) or features(*args)
    again = task(batch)
    (fake, t, conditioning), (real, t_real, _) = seen
    assert torch.equal(t, t_real)
    assert bool(((t > 0) & (t < 1)).all())
    fooled = -discriminator(features(fake, t, conditioning)).mean()
    torch.testing.assert_close(fooled.detach(), out["fooled"])
    fooled.backward()
    of_student = gradients(task)
    task.zero_grad()
    hinge = (1 - discriminator(features(real, t, conditioning))).relu().mean()
    hinge = hinge + (1 + discriminator(features(fake.detach(), t, conditioning))).relu().mean()
    hinge.backward()
    for name, value in gradients(task).items():
        torch.testing.assert_close(joint[name], value, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(again["discriminator"], hinge.detach())
    task.zero_grad()
    (out_again := task(batch))["loss"].detach()
    consistency = out_again["loss"] - 0.4 * out_again["fooled"] - out_again["discriminator"]
    plain = ConsistencyTask(toy_family("lrf"), replace(task.settings, adversarial=None))
    wanted = plain(batch)["loss"]
    torch.testing.assert_close(consistency.detach(), wanted.detach(), atol=1e-5, rtol=1e-4)
    wanted.backward()
    for name, parameter in plain.student.named_parameters():
        if parameter.grad is None:
            continue
        expected = parameter.grad + 0.4 * of_student[f"student.{name}"]
        torch.testing.assert_close(joint[f"student.{name}"], expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("family", families())
def test_heads_learn_to_tell_latents_apart_and_the_teacher_stays(family: str) -> None:
    """On fixed latents of another mean, a few steps find which is which, and a latent that moves there fools them."""
    torch.manual_seed(0)
    task, batch = adversarial_task(family)
    discriminator: Any = task.discriminator
    discriminated: Any = None
    conditioning = encoded_conditioning(batch)
    real: Any = batch["latents"]
    keys: Any = batch["seed"]
    edge = torch.zeros(4)
    moved = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam(discriminator.parameters(), 0.02)
    first = 0.0
    for _ in range(6):
        optimizer.zero_grad()
        fooled, discriminated = adversarial_losses(
            discriminator, task.teacher, real + 2.0 + moved, real, edge, conditioning, keys
        )
        (fooled + discriminated).backward()
        optimizer.step()
        first = first or float(discriminated.detach())
    assert float(discriminated.detach()) < 0.7 * first
    assert moved.grad is not None
    assert all(p.grad is None for p in task.teacher.parameters())


# --- whole runs


def distil(folder: Path, family: str = "lrf", adversarial: float | None = None, **options: Any) -> ConsistencyTask:
    denoiser = toy_family(family)
    settings = ConsistencySettings(first_intervals=2, last_intervals=8, target_decay=0.6, adversarial=adversarial)
    task = ConsistencyTask(denoiser, settings)
    stage = Stage(
        name="toy", task=settings, data=ToyData(), steps=4, batch_size=4, accumulate=2, learning_rate=1e-2,
        warmup_steps=1, save_every=2, sample_every=0, log_every=2, keep=9,
    )  # fmt: skip
    train(stage, task, Latents(denoiser), folder, console=False, **options)
    return task


@pytest.mark.parametrize("adversarial", [None, 0.5])
@pytest.mark.parametrize("family", families())
def test_a_resumed_run_equals_the_straight_one(family: str, adversarial: float | None, tmp_path: Path) -> None:
    task = distil(tmp_path / "straight", family, adversarial)
    last = "checkpoint-00000004"
    shutil.copytree(tmp_path / "straight" / "checkpoint-00000002", tmp_path / "cut" / "checkpoint-00000002")
    distil(tmp_path / "cut", family, adversarial, resume=True)
    assert fingerprint(tmp_path / "cut" / last) == fingerprint(tmp_path / "straight" / last)
    saved = load_checkpoint(tmp_path / "straight" / last)
    assert set(saved.tensors) == {"model", "ema", "optimizer", "extra"}
    for name, value in task.extra_state().items():
        assert torch.equal(value, saved.tensors["extra"][name])
    model, target = saved.tensors["model"], saved.tensors["extra"]
    own = "" if adversarial is None else "student."
    assert any(not torch.equal(model[own + name], target[name]) for name in target)
    assert {name.partition(".")[0] for name in model} >= ({"student", "discriminator"} if own else set())
    teacher = toy_family(family).state_dict()
    assert all(torch.equal(value, teacher[name]) for name, value in task.teacher.state_dict().items())
