"""IRIS's control input before it is trained, and what it can be made of."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from denoisers.test_iris import inputs, make, text
from pochade.denoisers.iris import IRISDenoiser
from pochade.errors import PochadeError


def edges(rows: int, columns: int, batch: int = 2) -> torch.Tensor:
    return (torch.rand(batch, 1, rows, columns, generator=torch.Generator().manual_seed(4)) < 0.2).float()


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("patch", "downsampling"), [(1, 1), (2, 4), (1, 8)])
def test_before_training_its_presence_changes_nothing(patch: int, downsampling: int, training: bool) -> None:
    base = make(patch_size=patch).train(training)
    state = torch.random.get_rng_state()
    with torch.random.fork_rng():
        with_input = base.with_control(1, downsampling)
    assert with_input.training == training
    added = {name for name in with_input.state_dict() if name not in base.state_dict()}
    assert added
    assert all(name.startswith("control.") for name in added)
    (z, t), told = inputs(columns=4), text()
    for control in (
        None,
        torch.zeros(2, 1, 8 * downsampling, 4 * downsampling),
        edges(8 * downsampling, 4 * downsampling),
    ):
        found = []
        for model, conditioning in ((base, told), (with_input, replace(told, control=control))):
            torch.random.set_rng_state(state)
            found.append(model(z, t, conditioning).velocity)
        assert torch.equal(*found)


@torch.no_grad()
def test_it_is_saved_with_the_network(tmp_path: Path) -> None:
    model = make().with_control(1, 2)
    for parameter in model.control.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    again: Any = IRISDenoiser.from_pretrained(tmp_path)
    (z, t), told = inputs(), replace(text(), control=edges(16, 16))
    assert torch.equal(again.eval()(z, t, told).velocity, model(z, t, told).velocity)
    # A row without edges is one without a control.
    assert told.control is not None
    without = torch.cat((told.control[:1], torch.zeros_like(told.control[1:])))
    mixed = model(z, t, replace(told, control=without)).velocity
    torch.testing.assert_close(mixed[:1], model(z, t, told).velocity[:1], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[1:], model(z, t, text()).velocity[1:], atol=1e-5, rtol=0)
    assert (model(z, t, told).velocity - model(z, t, text()).velocity).abs().amax((1, 2, 3)).min() > 1e-4


@torch.no_grad()
def test_an_edge_is_seen_where_it_is() -> None:
    """A change in a corner of a wide picture shows there the most."""
    model = make(iterations=1, depths=(1,), blocks=1).with_control(1, 2)
    for parameter in model.control.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    (z, t), lines = inputs(1, 8, 16), edges(16, 32, 1)
    other = lines.clone()
    other[0, :, :4, 28:] = 1 - other[0, :, :4, 28:]
    one, two = (model(z, t, replace(text(1), control=c)).velocity for c in (lines, other))
    change = (one - two).abs()[0].sum(0)
    assert change[:4, 12:].mean() > 2 * change[:, :8].mean()


def test_what_cannot_be() -> None:
    with pytest.raises(PochadeError, match="control_channels: -1 given, allowed is 0 and more"):
        make(control_channels=-1)
    for cell in (0, 3, 6):
        with pytest.raises(PochadeError, match=r"control_downsampling: .* powers of two"):
            make(patch_size=1, control_channels=1, control_downsampling=cell)
    (z, t), model = inputs(), make().with_control(1, 2)
    with pytest.raises(PochadeError, match=r"control: shape \(2, 1, 8, 8\) given, allowed is \(2, 1, 16, 16\)"):
        model(z, t, replace(text(), control=edges(8, 8)))
    with pytest.raises(PochadeError, match="control: a tensor given, but the network has no input for it"):
        make()(z, t, replace(text(), control=edges(16, 16)))
