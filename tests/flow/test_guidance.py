from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pochade.flow.guidance import Guidance, GuidedDenoiser
from pochade.types import Conditioning, DenoiserOutput

B, SHAPE = 3, (3, 2, 4, 4)


class Linear:
    """A denoiser whose velocity is a known sum of its conditioning; its state counts the calls of each sample."""

    config = SimpleNamespace(name="linear")

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.depths: list[int | None] = []

    def __call__(
        self, latents: Tensor, t: Tensor, conditioning: Conditioning, *, state: Any = None, depth: int | None = None
    ) -> DenoiserOutput:
        self.batches.append(len(latents))
        self.depths.append(depth)
        value = 0.1 * t
        if conditioning.pooled is not None:
            value = value + conditioning.pooled.sum(1)
        if conditioning.class_label is not None:
            value = value + 10 * conditioning.class_label.clamp(min=0)
        if conditioning.source is not None:
            value = value + 100 * conditioning.source.mean((1, 2, 3))
        if conditioning.control is not None:
            value = value + 1000 * conditioning.control.mean((1, 2, 3))
        before = torch.zeros(len(latents)) if state is None else state
        step = value * torch.arange(1, len(latents) + 1)
        return DenoiserOutput(latents + value.view(-1, 1, 1, 1), before + step)


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.5, 0.9])


def text(value: float = 1.0, **parts: Tensor) -> Conditioning:
    return Conditioning(torch.ones(B, 2, 4), torch.ones(B, 2, dtype=torch.bool), torch.full((B, 4), value / 4), **parts)


def image(value: float = 1.0) -> Tensor:
    return torch.full(SHAPE, value)


def test_scale_one_is_one_branch_and_the_denoiser_itself():
    denoiser, (z, t) = Linear(), inputs()
    out = GuidedDenoiser(denoiser, Guidance(1.0))(z, t, text(), depth=5)
    assert denoiser.batches == [B]
    assert denoiser.depths == [5]
    assert torch.equal(out.velocity, Linear()(z, t, text()).velocity)


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 7.5])
def test_guidance_is_v0_plus_s_times_the_difference(scale: float):
    denoiser, (z, t) = Linear(), inputs()
    out = GuidedDenoiser(denoiser, Guidance(scale))(z, t, text(2.0), depth=4).velocity
    without, with_text = (Linear()(z, t, c).velocity for c in (text().drop("text"), text(2.0)))
    torch.testing.assert_close(out, without + scale * (with_text - without))
    assert denoiser.batches == [2 * B]
    assert denoiser.depths == [4]


def test_classes_are_dropped_too():
    z, t = inputs()
    conditioning = Conditioning(class_label=torch.tensor([1, 2, -1]))
    out = GuidedDenoiser(Linear(), Guidance(3.0))(z, t, conditioning).velocity
    torch.testing.assert_close(out - z, (0.1 * t + 30 * torch.tensor([1, 2, 0])).view(-1, 1, 1, 1).expand(SHAPE))


def test_negative_prompt_takes_the_place_of_no_prompt():
    z, t = inputs()
    out = GuidedDenoiser(Linear(), Guidance(3.0), negative=text(0.5))(z, t, text(2.0)).velocity
    expected = 0.1 * t + 0.5 + 3 * (2.0 - 0.5)
    torch.testing.assert_close(out - z, expected.view(-1, 1, 1, 1).expand(SHAPE))


def test_each_sample_may_have_its_own_scale():
    z, t = inputs()
    scales = torch.tensor([1.0, 2.0, 5.0])
    out = GuidedDenoiser(Linear(), Guidance(scales))(z, t, text()).velocity
    for i, scale in enumerate(scales.tolist()):
        alone = GuidedDenoiser(Linear(), Guidance(scale))(z, t, text()).velocity
        torch.testing.assert_close(out[i], alone[i])


@pytest.mark.parametrize("negative", [False, True])
def test_two_scales_for_text_and_image(negative: bool):
    """v(0, 0) + s_I (v(0, I) - v(0, 0)) + s_T (v(T, I) - v(0, I)) (2211.09800 eq. 3)."""
    denoiser, (z, t) = Linear(), inputs()
    given = text(1.0, source=image())
    guided = GuidedDenoiser(denoiser, Guidance(7.0, image_scale=1.5), negative=text(0.25) if negative else None)
    out = guided(z, t, given).velocity
    base = 0.25 if negative else 0.0
    expected = 0.1 * t + base + 1.5 * 100 + 7 * (1 - base)
    torch.testing.assert_close(out - z, expected.view(-1, 1, 1, 1).expand(SHAPE), atol=1e-3, rtol=1e-5)
    assert denoiser.batches == [3 * B]


def test_with_one_scale_the_source_stays_in_both_branches():
    z, t = inputs()
    out = GuidedDenoiser(Linear(), Guidance(3.0))(z, t, text(1.0, source=image(0.5))).velocity
    torch.testing.assert_close(out - z, (0.1 * t + 50 + 3).view(-1, 1, 1, 1).expand(SHAPE), atol=1e-4, rtol=1e-5)


def test_a_control_is_dropped_with_the_text():
    z, t = inputs()
    out = GuidedDenoiser(Linear(), Guidance(3.0))(z, t, text(1.0, control=image(0.5))).velocity
    torch.testing.assert_close(out - z, (0.1 * t + 3 * 501).view(-1, 1, 1, 1).expand(SHAPE), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("image_scale", [None, 2.0])
def test_outside_its_interval_guidance_is_off(image_scale: float | None):
    z, t = inputs()
    given = text(1.0, source=image())
    guidance = Guidance(5.0, image_scale=image_scale, interval=(0.3, 0.6))
    out = GuidedDenoiser(Linear(), guidance)(z, t, given).velocity
    plain = Linear()(z, t, given).velocity
    everywhere = GuidedDenoiser(Linear(), Guidance(5.0, image_scale=image_scale))(z, t, given).velocity
    for i, inside in enumerate((False, True, False)):
        assert torch.equal(out[i], (everywhere if inside else plain)[i])
        assert (everywhere[i] - plain[i]).abs().max() > 1
    edge = GuidedDenoiser(Linear(), Guidance(5.0, interval=(0.5, 0.5)))(z, torch.full((B,), 0.5), text()).velocity
    torch.testing.assert_close(edge, GuidedDenoiser(Linear(), Guidance(5.0))(z, torch.full((B,), 0.5), text()).velocity)


def test_outside_its_interval_only_the_conditional_branch_is_computed():
    denoiser, (z, _) = Linear(), inputs()
    guided = GuidedDenoiser(denoiser, Guidance(3.0, image_scale=2.0, interval=(0.3, 0.6)))
    for t in (0.9, 0.6, 0.3, 0.2):
        guided(z, torch.full((B,), t), text(source=image()))
    assert denoiser.batches == [B, 3 * B, 3 * B, B]


def test_the_interval_is_known_without_a_read_of_the_device():
    """A tensor without values stands for one on a device that is not to be waited for."""
    denoiser = Linear()
    guided = GuidedDenoiser(denoiser, Guidance(3.0, interval=(0.3, 0.6)))
    z, t = torch.empty(SHAPE, device="meta"), torch.empty(B, device="meta")
    given, state = text(2.0).to("meta"), torch.empty(B, device="meta")
    with torch.device("meta"):
        for time in (0.9, 0.6, 0.3, 0.2):
            guided.begin(torch.tensor(time, device="cpu"))
            guided(z, t, given, state=state)
    assert denoiser.batches == [B, 2 * B, 2 * B, B]


def test_branches_that_begin_with_the_interval_take_over_the_state():
    z, _ = inputs()
    guided = GuidedDenoiser(Linear(), Guidance(3.0, interval=(0.3, 0.6)))
    before = guided(z, torch.full((B,), 0.9), text(2.0))
    within = guided(z, torch.full((B,), 0.5), text(2.0), state=before.state)
    after = guided(z, torch.full((B,), 0.1), text(2.0), state=within.state)
    assert before.state is not None
    assert within.state is not None
    assert after.state is not None
    counts = torch.arange(1, 2 * B + 1)
    torch.testing.assert_close(before.state, 2.09 * counts[:B])
    torch.testing.assert_close(within.state[:B], before.state + 2.05 * counts[:B])
    torch.testing.assert_close(within.state[B:], before.state + 0.05 * counts[B:])
    torch.testing.assert_close(after.state, within.state[:B] + 2.01 * counts[:B])


def test_every_branch_keeps_its_own_state():
    z, t = inputs()
    guided = GuidedDenoiser(Linear(), Guidance(3.0))
    first = guided(z, t, text(2.0))
    second = guided(z, t, text(2.0), state=first.state)
    assert first.state.shape == (2 * B,)
    torch.testing.assert_close(second.state, 2 * first.state)
    torch.testing.assert_close(first.state[:B] / torch.arange(1, B + 1), 0.1 * t + 2)
    torch.testing.assert_close(first.state[B:] / torch.arange(B + 1, 2 * B + 1), 0.1 * t)


def test_aux_is_that_of_the_branch_with_the_text():
    class WithAux(Linear):
        def __call__(self, latents: Tensor, *args: Any, **options: Any) -> DenoiserOutput:
            out = super().__call__(latents, *args, **options)
            aux = {"per_sample": torch.arange(len(latents)), "whole": torch.tensor(7.0)}
            return DenoiserOutput(out.velocity, out.state, aux)

    z, t = inputs()
    aux = GuidedDenoiser(WithAux(), Guidance(3.0))(z, t, text()).aux
    assert aux["per_sample"].tolist() == list(range(B))
    assert aux["whole"] == 7


def test_configuration_is_that_of_the_denoiser():
    assert GuidedDenoiser(Linear(), Guidance()).config.name == "linear"
