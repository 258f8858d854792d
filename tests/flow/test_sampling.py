import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pochade.flow.guidance import Guidance, GuidedDenoiser
from pochade.flow.noise import seeded_normal
from pochade.flow.sampling import sample, set_timesteps, steps_from
from pochade.pipelines.schedulers import SCHEDULERS, make_scheduler
from pochade.types import Conditioning, DenoiserOutput

SHAPE = (2, 3, 4, 4)
CPU = torch.device("cpu")

# diffusers' DPM-Solver calls numpy in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Field:
    """A velocity field z, t -> v in place of a denoiser; remembers t, depth and state of every call."""

    config = SimpleNamespace()

    def __init__(self, function: Any) -> None:
        self.function = function
        self.times: list[Tensor] = []
        self.depths: list[int | None] = []
        self.states: list[Tensor | None] = []

    def __call__(
        self, latents: Tensor, t: Tensor, conditioning: Conditioning, *, state: Any = None, depth: int | None = None
    ) -> DenoiserOutput:
        self.times.append(t)
        self.depths.append(depth)
        self.states.append(state)
        count = torch.zeros(len(t)) if state is None else state + 1
        return DenoiserOutput(self.function(latents, t.view(-1, 1, 1, 1)), count)


def noise(seed: int = 0) -> Tensor:
    return seeded_normal([seed, seed + 1], SHAPE[1:])


def towards(point: Tensor) -> Field:
    """The exact velocity where all data is one point: v = (z - z_0) / t."""
    return Field(lambda z, t: (z - point) / t)


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(SHAPE[0])]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_single_data_point_is_reached_in_any_number_of_steps(name: str, steps: int):
    point = torch.linspace(-2, 2, math.prod(SHAPE)).view(SHAPE)
    out = sample(
        towards(point), make_scheduler(name), noise(), Conditioning(), num_inference_steps=steps, generator=generators()
    )
    torch.testing.assert_close(out, point, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_the_network_gets_the_time_of_the_latents(name: str, steps: int):
    scheduler, field = make_scheduler(name), towards(torch.zeros(SHAPE))
    told: list[Tensor] = []
    arguments = {"num_inference_steps": steps, "depth": 3, "before_step": told.append, "generator": generators()}
    sample(field, scheduler, noise(), Conditioning(), **arguments)
    times = torch.stack(field.times)
    assert torch.equal(torch.stack(told), times[:, 0])
    assert (times[:, 0] == times[:, 1]).all()
    assert torch.equal(times[:, 0], scheduler.sigmas[: len(times)])
    assert (times[:, 0] - scheduler.timesteps / scheduler.config.num_train_timesteps).abs().max() < 1e-3
    assert times.max() >= 0.999
    assert times.min() > 0
    assert set(field.depths) == {3}
    assert field.states[0] is None
    assert [float(s[0]) for s in field.states[1:]] == list(range(len(times) - 1))


@pytest.mark.parametrize("name", ["euler", "lcm"])
def test_the_grid_is_even_where_the_scheduler_takes_one(name: str):
    for n in (1, 2, 7, 50):
        timesteps = set_timesteps(make_scheduler(name), n, CPU)
        torch.testing.assert_close(timesteps / 1000, 1 - torch.arange(n) / n)


def test_the_grids_of_the_other_schedulers():
    """Heun: n points from 1 to 0.001, all but the first evaluated twice. DPM-Solver: n even steps from 0.999."""
    heun = make_scheduler("heun")
    assert len(set_timesteps(heun, 5, CPU)) == 9
    torch.testing.assert_close(heun.sigmas[1::2], torch.cat((torch.linspace(1, 0.001, 5)[1:], torch.zeros(1))))
    dpm = make_scheduler("dpm")
    assert len(set_timesteps(dpm, 5, CPU)) == 5
    torch.testing.assert_close(dpm.sigmas, torch.linspace(0.999, 0, 6))


def exact(z: Tensor, rate: float) -> Tensor:
    """dz/dt = rate z from t = 1 to 0."""
    return z * math.exp(-rate)


def error(name: str, steps: int) -> float:
    out = sample(Field(lambda z, t: z), make_scheduler(name), noise(), Conditioning(), num_inference_steps=steps)
    return float((out - exact(noise(), 1.0)).abs().max())


def test_euler_gives_the_known_polygon_of_a_linear_equation():
    for steps in (1, 2, 10):
        out = sample(Field(lambda z, t: z), make_scheduler("euler"), noise(), Conditioning(), num_inference_steps=steps)
        torch.testing.assert_close(out, noise() * (1 - 1 / steps) ** steps, atol=1e-6, rtol=1e-5)


def test_orders_of_the_methods():
    """Halving the step halves Euler's error and quarters that of the second-order ones."""
    assert error("euler", 20) / error("euler", 40) == pytest.approx(2, abs=0.1)
    # 2 n + 1 points make 2 n steps; the last, of 0.001, is Euler's.
    assert error("heun", 11) / error("heun", 21) == pytest.approx(4, abs=0.4)
    assert error("dpm", 40) < error("euler", 40) / 4


@pytest.mark.parametrize("name", SCHEDULERS)
def test_gaussian_data_comes_out_with_its_mean_and_deviation(name: str):
    """For data N(m, s^2) the exact velocity is known; noise must turn into such data."""
    mean, deviation = 0.7, 0.5

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        variance = (1 - t) ** 2 * deviation**2 + t**2
        centred = z - (1 - t) * mean
        z_0 = mean + (1 - t) * deviation**2 / variance * centred
        eps = t / variance * centred
        return eps - z_0

    z = seeded_normal(range(8), (4, 16, 16))
    gens = [torch.Generator().manual_seed(i) for i in range(8)]
    scheduler = make_scheduler(name)
    out = sample(Field(velocity), scheduler, z, Conditioning(), num_inference_steps=60, generator=gens)
    assert float(out.mean()) == pytest.approx(mean, abs=0.03)
    if name == "lcm":  # draws new noise at each step: only the mean survives many of them
        return
    assert float(out.std()) == pytest.approx(deviation, rel=0.05)
    # The map is z -> m + s z, picture by picture.
    torch.testing.assert_close(out, mean + deviation * z, atol=0.12, rtol=0)


def test_samples_are_independent_and_the_noise_is_not_modified():
    point, start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)), noise()
    kept = start.clone()
    for name in SCHEDULERS:
        field = Field(lambda z, t, p=point: torch.tanh(z) - p[: len(z)])
        together = sample(
            field, make_scheduler(name), start, Conditioning(), num_inference_steps=4, generator=generators()
        )
        alone = sample(
            field, make_scheduler(name), start[:1], Conditioning(), num_inference_steps=4, generator=generators()[:1]
        )
        torch.testing.assert_close(alone, together[:1])
    assert torch.equal(start, kept)


def test_callback_sees_the_predicted_data_and_may_replace_the_latents():
    point = torch.full(SHAPE, 0.5)
    seen: list[tuple[int, float, float]] = []

    def watch(i: int, t: Tensor, latents: Tensor, predicted: Tensor, aux: Any) -> None:
        assert aux == {}
        seen.append((i, float(t[0]), float((predicted - point).abs().max())))

    sample(towards(point), make_scheduler("euler"), noise(), Conditioning(), num_inference_steps=4, on_step=watch)
    assert [i for i, _, _ in seen] == [0, 1, 2, 3]
    assert [t for _, t, _ in seen] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert max(e for _, _, e in seen) < 1e-5

    out = sample(
        Field(lambda z, t: torch.zeros_like(z)),
        make_scheduler("euler"),
        noise(),
        Conditioning(),
        num_inference_steps=3,
        on_step=lambda i, t, z, p, aux: torch.full_like(z, float(i)),
    )
    assert out.eq(2).all()


def test_a_scheduler_can_be_used_again():
    scheduler = make_scheduler("dpm")
    first, second = (
        sample(Field(lambda z, t: z), scheduler, noise(), Conditioning(), num_inference_steps=n) for n in (6, 6)
    )
    assert torch.equal(first, second)


def test_guidance_keeps_one_state_for_each_branch_over_the_steps():
    field = Field(lambda z, t: z)
    text = Conditioning(pooled=torch.ones(2, 3))
    sample(GuidedDenoiser(field, Guidance(3.0)), make_scheduler("euler"), noise(), text, num_inference_steps=3)
    assert [None if s is None else s.tolist() for s in field.states] == [None, [0.0] * 4, [1.0] * 4]
    assert all(len(t) == 4 for t in field.times)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_grid_from_a_later_start_is_the_whole_one_made_smaller(name: str):
    assert [steps_from(s, 50) for s in (1.0, 0.6, 0.61, 0.02, 1e-6)] == [50, 30, 31, 1, 1]
    whole, part = make_scheduler(name), make_scheduler(name)
    set_timesteps(whole, 3, CPU)
    set_timesteps(part, 5, CPU, 0.6)
    torch.testing.assert_close(part.sigmas, 0.6 * whole.sigmas)
    assert (part.timesteps - 1000 * part.sigmas[:-1]).abs().max() <= 1
    # Whole again: nothing is left of the part.
    set_timesteps(part, 3, CPU)
    assert torch.equal(part.sigmas, whole.sigmas)


@pytest.mark.parametrize("strength", [1e-3, 0.3, 1.0])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_from_a_source_a_single_data_point_is_reached(name: str, strength: float):
    point, source = torch.linspace(-2, 2, math.prod(SHAPE)).view(SHAPE), noise(5)
    field, scheduler = towards(point), make_scheduler(name)
    out = sample(
        field,
        scheduler,
        noise(),
        Conditioning(),
        num_inference_steps=7,
        generator=generators(),
        source=source,
        strength=strength,
    )
    torch.testing.assert_close(out, point, atol=2e-5, rtol=0)
    assert torch.equal(torch.stack(field.times)[:, 0], scheduler.sigmas[:-1])
    assert float(field.times[0][0]) == pytest.approx(strength, rel=2e-3)


def test_the_trajectory_begins_on_the_line_between_source_and_noise():
    """Where the velocity is that of the line, its end is the source; where it is zero, its beginning comes back."""
    source = noise(5)
    line = Field(lambda z, t: noise() - source)
    still = Field(lambda z, t: torch.zeros_like(z))
    for name in ("euler", "heun", "dpm"):
        for field, expected in ((line, source), (still, 0.6 * source + 0.4 * noise())):
            out = sample(
                field,
                make_scheduler(name),
                noise(),
                Conditioning(),
                num_inference_steps=5,
                source=source,
                strength=0.4,
            )
            torch.testing.assert_close(out, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_a_mask_keeps_ends_as_the_source(name: str, strength: float):
    source, mask = noise(5), torch.zeros(2, 1, 4, 4)
    mask[0, :, 1:3, 1:3] = 1
    seen: list[Tensor] = []
    out = sample(
        Field(lambda z, t: torch.tanh(z) + 3),
        make_scheduler(name),
        noise(),
        Conditioning(),
        num_inference_steps=5,
        generator=generators(),
        source=source,
        source_mask=mask,
        strength=strength,
        on_step=lambda i, t, z, predicted, aux: seen.append(predicted),
    )
    changed = (out != source).any(1, keepdim=True)
    assert torch.equal(changed, mask > 0)
    assert all(torch.equal((p != source).any(1, keepdim=True), mask > 0) for p in seen)


# --- what is known of a picture, kept at every step


@pytest.mark.parametrize("steps", [1, 5])
def test_what_is_known_comes_out_and_the_rest_is_the_denoisers(steps: int):
    def constrain(z: Tensor) -> Tensor:
        return torch.cat([torch.full_like(z[:, :1], 0.5), z[:, 1:]], dim=1)

    out = sample(
        towards(torch.tensor(-2.0)),
        make_scheduler("euler"),
        noise(),
        Conditioning(),
        num_inference_steps=steps,
        constrain=constrain,
    )
    torch.testing.assert_close(out[:, :1], torch.full_like(out[:, :1], 0.5))
    torch.testing.assert_close(out[:, 1:], torch.full_like(out[:, 1:], -2.0))


def test_a_callback_sees_the_constrained_prediction():
    seen: list[Tensor] = []
    sample(
        towards(torch.tensor(1.0)),
        make_scheduler("euler"),
        noise(),
        Conditioning(),
        num_inference_steps=2,
        constrain=torch.zeros_like,
        on_step=lambda i, t, z, predicted, aux: seen.append(predicted),
    )
    assert len(seen) == 2
    assert all(not bool(one.any()) for one in seen)
