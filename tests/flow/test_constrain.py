"""What is known of a picture, kept at every step of sampling."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from pochade.flow.sampling import sample
from pochade.types import Conditioning, DenoiserOutput


class Towards:
    """The velocity of straight paths that all end at ``value``."""

    config = None

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(
        self,
        latents: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        *,
        state: Tensor | None = None,
        depth: int | None = None,
    ) -> DenoiserOutput:
        return DenoiserOutput((latents - self.value) / t.view(-1, 1, 1, 1), None, {})


def test_what_is_known_comes_out_and_the_rest_is_the_denoisers() -> None:
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def constrain(z: Tensor) -> Tensor:
        return torch.cat([torch.full_like(z[:, :1], 0.5), z[:, 1:]], dim=1)

    for steps in (1, 5):
        scheduler = FlowMatchEulerDiscreteScheduler()
        options = {"num_inference_steps": steps, "constrain": constrain}
        out = sample(Towards(-2.0), scheduler, noise, Conditioning(), **options)
        torch.testing.assert_close(out[:, :1], torch.full_like(out[:, :1], 0.5))
        torch.testing.assert_close(out[:, 1:], torch.full_like(out[:, 1:], -2.0))


def test_a_callback_sees_the_constrained_prediction() -> None:
    noise = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    sample(
        Towards(1.0),
        FlowMatchEulerDiscreteScheduler(),
        noise,
        Conditioning(),
        num_inference_steps=2,
        constrain=torch.zeros_like,
        on_step=lambda i, t, z, predicted, aux: seen.append(predicted),
    )
    assert len(seen) == 2
    assert all(not bool(one.any()) for one in seen)
