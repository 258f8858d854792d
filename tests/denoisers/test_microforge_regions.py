"""MicroForge's tokens for the part of a picture that is to be changed."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from denoisers.test_microforge import edit, inputs, make, text
from pochade.errors import PochadeError
from pochade.training.stages.flow import FlowSettings, FlowTask
from pochade.types import Conditioning


def marked(samples: Tensor | None = None) -> Conditioning:
    """Edits whose upper left quarter is marked, in ``samples`` ([4] bool) or in all four."""
    mask = torch.zeros(4, 1, 4, 4)
    mask[:, :, :2, :2] = 1
    return replace(edit(4), source_mask=mask if samples is None else mask * samples[:, None, None, None])


def pair_of(kind: str, **changes: Any) -> tuple[Any, Any]:
    """A network with two regions, and the same one without."""
    base = make(source=kind, tasks=("edit",), **changes).eval()
    torch.manual_seed(3)
    return base.with_source((), regions=2), base


@pytest.mark.parametrize("kind", ["width", "channels"])
@torch.no_grad()
def test_regions_count_where_something_is_marked_alone(kind: str):
    """To the bit where no sample of the batch is, and as near as two kernels are beside samples that are."""
    model, base = pair_of(kind)
    z, t = inputs(4)
    state = torch.randn(4, 3, 16)
    nothing = marked(torch.zeros(4))
    for conditioning in (text(4), nothing, replace(nothing, source_mask=None), edit(4).drop("source")):
        found, expected = model(z, t, conditioning, state=state), base(z, t, conditioning, state=state)
        assert torch.equal(found.velocity, expected.velocity)
        assert torch.equal(found.state, expected.state)
    samples = torch.tensor([True, False, False, True])
    for conditioning in (marked(samples), marked().drop("source", rows=~samples)):
        found, expected = model(z, t, conditioning, state=state), base(z, t, conditioning, state=state)
        for one, other in ((found.velocity, expected.velocity), (found.state, expected.state)):
            torch.testing.assert_close(one[~samples], other[~samples], atol=1e-5, rtol=0)
            assert (one[samples] - other[samples]).abs().amax(tuple(range(1, one.ndim))).min() > 1e-4
        assert found.state.shape == (4, 3, 16)
        assert set(found.aux) == {"diversity"}


@pytest.mark.parametrize(("kind", "patch"), [("width", 1), ("channels", 1), ("width", 2), ("channels", 2)])
@torch.no_grad()
def test_regions_read_what_is_marked_and_the_time_alone(kind: str, patch: int):
    """In both halves where the source lies beside; one cell marks its token."""
    model, seen = make(source=kind, regions=2, patch_size=patch).eval(), []
    model.planner.layers[0].read.register_forward_hook(lambda module, given, out: seen.append((given[2], out)))
    z, t = inputs(1)
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, 1, 2] = 0.5
    conditioning = replace(edit(1), source_mask=mask)
    model(z, t, conditioning)
    where, read = seen[0]
    n, halves = 4 // patch, 2 if kind == "width" else 1
    grid = torch.zeros(n, halves * n, dtype=torch.bool)
    grid[1 // patch, 2 // patch] = grid[1 // patch, (halves - 1) * n + 2 // patch] = True
    assert where[0, :3].all()  # the plan reads everywhere
    assert all(torch.equal(row, torch.cat((grid.flatten(), torch.tensor([True])))) for row in where[0, 3:])
    elsewhere, inside = z.clone(), z.clone()
    elsewhere[..., 3, 0] += 1
    inside[..., 1, 2] += 1
    changes = []
    for other in (elsewhere, inside, z):
        model(other, t / 2 if other is z else t, conditioning)
        changes.append((seen[-1][1] - read)[:, 3:].abs().max() > 1e-4)
    assert [bool(change) for change in changes] == [False, True, True]


@torch.no_grad()
def test_blocks_attend_to_regions_in_samples_that_have_one():
    model, seen = make(source="channels", regions=2).eval(), []
    model.core[0].look.register_forward_hook(lambda module, given, out: seen.append(given[2]))
    model(*inputs(4), marked(torch.tensor([True, False, True, False])))
    assert seen[0][:, -5:].tolist() == [[True] * 5, [True] * 3 + [False] * 2] * 2
    model_without = make(source="channels", regions=2, text_dim=0, pooled_dim=0).eval()
    model_without.core[0].look.register_forward_hook(lambda module, given, out: seen.append(given[2]))
    conditioning = replace(marked(torch.tensor([True, False, True, False])), tokens=None, mask=None, pooled=None)
    assert torch.isfinite(model_without(*inputs(4), conditioning).velocity).all()
    assert seen[-1].tolist() == [[True] * 5, [True] * 3 + [False] * 2] * 2


def test_regions_learn():
    model = make(source="width", regions=2, plan_layers=2)
    z, t = inputs(4)
    state = model(z, t, marked()).state.detach()
    model(z, t, marked(), state=state).velocity.square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    task = FlowTask(model, FlowSettings())
    kept = {id(p) for group in task.parameter_groups(0.1, 1e-3) if group["weight_decay"] == 0 for p in group["params"]}
    assert id(model.planner.region_queries) in kept


def test_regions_that_there_cannot_be():
    for changes, message in (
        ({"regions": 2}, "regions: 2 given, allowed is 0 without a source and a planner"),
        ({"regions": 2, "source": "width", "plan_tokens": 0}, "regions: 2 given, allowed is 0 without"),
        ({"regions": -1, "source": "width"}, "regions: -1 given, allowed is 0 to 64"),
        ({"regions": "a", "source": "width"}, "regions: 'a' given, must be a whole number"),
    ):
        with pytest.raises(PochadeError, match=message):
            make(**changes)
    editor = make().with_source(["edit"], regions=2)
    assert (editor.config.source, editor.config.regions) == ("width", 2)
    assert editor.with_source(["inpaint"]).config.regions == editor.with_source([], regions=2).config.regions == 2
    with pytest.raises(PochadeError, match="regions: 3 given, allowed is 2, as many as there are"):
        editor.with_source(["inpaint"], regions=3)
