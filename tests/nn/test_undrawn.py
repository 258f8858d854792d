"""Networks built without drawing their initial weights."""

import torch
from torch import nn

from pochade.nn.attention import scaled_init
from pochade.nn.undrawn import Undrawn


def build() -> nn.ModuleList:
    modules = nn.ModuleList([nn.Linear(8, 8), nn.Conv2d(2, 3, 3), nn.Embedding(5, 4), nn.LayerNorm(4)])
    scaled_init(modules[0])  # pyright: ignore[reportArgumentType]
    modules.register_parameter("own", nn.Parameter(torch.empty(4).uniform_(1, 16)))
    return modules


def test_nothing_is_drawn_within_and_all_behind() -> None:
    state = torch.get_rng_state()
    with Undrawn():
        modules = build()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(modules[3].weight, torch.ones(4))  # pyright: ignore[reportArgumentType]
    drawn = [p for name, p in modules.named_parameters() if not name.startswith("3.")]
    assert len(drawn) == 6
    assert not any(p.any() for p in drawn)
    assert all(p.requires_grad for p in drawn)
    assert all(p.any() for p in build().parameters() if p.ndim > 1)
    assert not torch.equal(torch.get_rng_state(), state)
