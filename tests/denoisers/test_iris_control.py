"""IRIS's control input before it is trained, and what it can be made of."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from denoisers.test_iris import inputs, make, text
from pochade.denoisers.iris import IRISDenoiser
from pochade.errors import PochadeError


def latents(rows: int = 8, columns: int = 8, batch: int = 2) -> torch.Tensor:
    """Of a control picture."""
    return torch.randn(batch, 3, rows, columns, generator=torch.Generator().manual_seed(4))


def controlled(**changes: Any) -> Any:
    """With a control that has an effect."""
    model = make(**changes).with_control("edges")
    for parameter in model.control.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("patch", [1, 2])
def test_before_training_its_presence_changes_nothing(patch: int, training: bool) -> None:
    base = make(patch_size=patch).train(training)
    state = torch.random.get_rng_state()
    with torch.random.fork_rng():
        with_input: Any = base.with_control("edges")
    assert with_input.training == training
    added = {name for name in with_input.state_dict() if name not in base.state_dict()}
    assert added
    assert all(name.startswith("control.") for name in added)
    (z, t), given = inputs(columns=4), text()
    for control in (None, torch.zeros(2, 3, 8, 4), latents(columns=4)):
        found = []
        for model, conditioning in ((base, given), (with_input, replace(given, control=control))):
            torch.random.set_rng_state(state)
            found.append(model(z, t, conditioning).velocity)
        assert torch.equal(*found)


def test_it_begins_with_the_embedding_of_the_network() -> None:
    base = make()
    model: Any = base.with_control("edges")
    assert torch.equal(model.control.embed.weight, base.embed.weight)
    assert torch.equal(model.control.embed.bias, base.embed.bias)
    # They learn apart from each other, and a control that there is is kept.
    with torch.no_grad():
        model.control.embed.weight.zero_()
    assert base.embed.weight.abs().min() > 0
    assert model.embed.weight.abs().min() > 0
    assert model.with_control("edges").control.embed.weight.abs().max() == 0


@torch.no_grad()
def test_it_is_saved_with_the_network(tmp_path: Path) -> None:
    model = controlled()
    model.save_pretrained(tmp_path)
    again: Any = IRISDenoiser.from_pretrained(tmp_path)
    (z, t), given = inputs(), replace(text(), control=latents())
    assert torch.equal(again.eval()(z, t, given).velocity, model(z, t, given).velocity)
    # A sample of zeros is one without a control.
    without = latents()
    without[1] = 0
    mixed = model(z, t, replace(given, control=without)).velocity
    torch.testing.assert_close(mixed[:1], model(z, t, given).velocity[:1], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[1:], model(z, t, text()).velocity[1:], atol=1e-5, rtol=0)
    assert (model(z, t, given).velocity - model(z, t, text()).velocity).abs().amax((1, 2, 3)).min() > 1e-4


@torch.no_grad()
def test_a_line_is_seen_where_it_is() -> None:
    """A change in a corner of a wide picture shows there the most."""
    model = controlled(iterations=1, depths=(1,), blocks=1)
    (z, t), one = inputs(1, 8, 16), latents(8, 16, 1)
    other = one.clone()
    other[0, :, :2, 14:] *= -1
    first, second = (model(z, t, replace(text(1), control=c)).velocity for c in (one, other))
    change = (first - second).abs()[0].sum(0)
    assert change[:4, 12:].mean() > 2 * change[:, :8].mean()


def test_what_cannot_be() -> None:
    (z, t), model = inputs(), make().with_control("edges")
    with pytest.raises(PochadeError, match=r"control: shape \(2, 3, 4, 4\) given, allowed is \(2, 3, 8, 8\)"):
        model(z, t, replace(text(), control=latents(4, 4)))
    with pytest.raises(PochadeError, match="control: a tensor given, but the network has no input for it"):
        make()(z, t, replace(text(), control=latents()))
