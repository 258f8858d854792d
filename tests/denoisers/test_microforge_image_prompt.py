"""MicroForge's image prompt before it is trained, and its arguments."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from denoisers.test_microforge import inputs, make, text
from pochade.denoisers.microforge import MicroForgeDenoiser
from pochade.errors import PochadeError
from pochade.flow.guidance import Guidance, GuidedDenoiser

WIDTH = 7


def features(batch: int = 2, vectors: int = 1) -> Tensor:
    return torch.randn(batch, vectors, WIDTH, generator=torch.Generator().manual_seed(4))


def stirred(model: Any) -> Any:
    """With an image prompt whose output is not zero."""
    with torch.no_grad():
        for parameter in model.image_prompt.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("changes", [{}, {"plan_tokens": 0}, {"source": "width", "tasks": ("edit",)}, {"text_dim": 0}])
def test_before_training_its_presence_changes_nothing(changes: dict[str, Any], training: bool) -> None:
    base = make(**changes).train(training)
    with torch.random.fork_rng():
        with_input = base.with_image_prompt(WIDTH, "lite0")
    assert with_input.training == training
    assert (with_input.config.image_prompt_dim, with_input.config.image_prompt_encoder) == (WIDTH, "lite0")
    added = {name.partition(".")[0] for name in with_input.state_dict() if name not in base.state_dict()}
    assert added == {"image_prompt"}
    (z, t), conditioning = inputs(), text()
    expected = base(z, t, conditioning).velocity
    for prompt in (None, torch.zeros(2, 1, WIDTH), features(), features(vectors=3)):
        assert torch.equal(with_input(z, t, replace(conditioning, image_prompt=prompt)).velocity, expected)


@torch.no_grad()
def test_it_is_saved_with_the_network(tmp_path: Path) -> None:
    model = stirred(make().with_image_prompt(WIDTH, "lite0"))
    model.image_prompt.standardise(torch.randn(WIDTH), torch.rand(WIDTH) + 0.5)
    model.save_pretrained(tmp_path)
    again: Any = MicroForgeDenoiser.from_pretrained(tmp_path)
    (z, t), conditioning = inputs(), replace(text(), image_prompt=features())
    found = model(z, t, conditioning).velocity
    assert torch.equal(again.eval()(z, t, conditioning).velocity, found)
    assert (found - model(z, t, text()).velocity).abs().amax((1, 2, 3)).min() > 1e-3
    # The scale is each sample's own, and at 0 there is no image prompt.
    scales = replace(conditioning, image_prompt_scale=torch.tensor([1.0, 0.0]))
    mixed = model(z, t, scales).velocity
    torch.testing.assert_close(mixed[:1], found[:1], atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed[1:], model(z, t, text()).velocity[1:], atol=1e-6, rtol=0)
    # It is the same for all tokens: a picture of another size takes it as well.
    wide = torch.randn(2, 3, 4, 8)
    assert model(wide, t, conditioning).velocity.shape == wide.shape


@torch.no_grad()
def test_guidance_drops_it_with_the_text() -> None:
    model = stirred(make().with_image_prompt(WIDTH))
    (z, t), conditioning = (
        inputs(),
        replace(text(), image_prompt=features(), image_prompt_scale=torch.tensor([0.5, 1.0])),
    )
    guided = GuidedDenoiser(model, Guidance(3.0))(z, t, conditioning).velocity
    with_both, with_none = model(z, t, conditioning).velocity, model(z, t, replace(text().drop("text"))).velocity
    torch.testing.assert_close(guided, with_none + 3 * (with_both - with_none), atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_cannot_be() -> None:
    with pytest.raises(PochadeError, match="image_prompt_dim: -1 given, must be a whole number from 0 to"):
        make(image_prompt_dim=-1)
    with pytest.raises(PochadeError, match="image_prompt_dim: 7 given, allowed is 0 without text and plan_tokens"):
        make(image_prompt_dim=7, text_dim=0, plan_tokens=0)
    (z, t), model = inputs(), make().with_image_prompt(WIDTH)
    for wrong in (torch.ones(2, 1, 6), torch.ones(2, WIDTH), torch.ones(3, 1, WIDTH)):
        with pytest.raises(PochadeError, match=r"image_prompt: shape .* given, allowed is \(2, \d, 7\)"):
            model(z, t, replace(text(), image_prompt=wrong))
    with pytest.raises(PochadeError, match=r"image_prompt_scale: shape \(1,\) given, allowed is \(2,\)"):
        model(z, t, replace(text(), image_prompt=features(), image_prompt_scale=torch.ones(1)))
    with pytest.raises(PochadeError, match="image_prompt: a tensor given, but the network has no input for it"):
        make()(z, t, replace(text(), image_prompt=features()))
