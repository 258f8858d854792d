"""Counted operations: against arithmetic by hand, and against torch's counter on real numbers."""

import pytest
import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from contracts.families import FAMILIES, make
from pochade.nn.scan.operators import linear_recurrence, selective_scan
from pochade.training.costs import (
    DRAWS,
    OperationCounter,
    activation_bytes,
    convolution_backward_operations,
    fewest_parts,
    training_operations,
    whole_bytes,
)
from pochade.training.stages.flow import FlowSettings, FlowTask
from pochade.training.task import Batch, Task

GROUPED = {torch.ops.aten.convolution_backward: convolution_backward_operations}
"""torch counts the gradient of a depthwise convolution's weights as if every channel met every other."""


class Layers(Task):
    """Two linear layers without an activation; ``draw`` repeats the second as often as torch's generator says."""

    def __init__(self, draw: bool = False) -> None:
        super().__init__()
        self.draw = draw
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 16)

    def trainable(self) -> nn.Module:
        return self

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        x = self.first(batch["x"])
        for _ in range(int(torch.randint(1, 4, ())) if self.draw else 1):
            x = self.second(x)
        return {"loss": x.square().mean()}


def test_products_are_counted_as_by_hand() -> None:
    """A product costs 2 m n k; its backward pass two more, but where no gradient goes to the input."""
    rows, first, second = 5, 2 * 5 * 8 * 16, 2 * 5 * 16 * 16
    assert training_operations(Layers(), {"x": torch.randn(rows, 8)})[0] == 2 * first + 3 * second


def test_what_is_drawn_for_a_batch_is_averaged() -> None:
    task = Layers(draw=True)
    first, second = 2 * 8 * 16, 2 * 16 * 16
    torch.manual_seed(0)
    drawn = [int(torch.randint(1, 4, ())) for _ in range(DRAWS)]
    assert len(set(drawn)) > 1
    batch, state = {"x": torch.randn(1, 8)}, torch.get_rng_state()
    found, costliest = training_operations(task, batch)
    torch.random.set_rng_state(costliest)
    assert int(torch.randint(1, 4, ())) == max(drawn)
    torch.set_rng_state(state)
    assert found == 2 * first + 3 * second * sum(drawn) / DRAWS
    assert torch.equal(torch.get_rng_state(), state)


def test_where_a_step_asks_its_samples_the_costlier_way_is_counted() -> None:
    class Asks(Layers):
        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            x = self.first(batch["x"])
            return {"loss": (self.second(x) if bool(batch["x"].any()) else x).mean()}

    assert training_operations(Asks(), {"x": torch.zeros(1, 8)})[0] == 2 * 2 * 8 * 16 + 3 * 2 * 16 * 16


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_counted_as_torch_counts_real_numbers(family: str) -> None:
    # torch's counter fails where a part is computed without gradient, as the pass that gives MicroForge its state.
    stateless = {"self_conditioning": False} if FAMILIES[family].stateful else {}
    task = FlowTask(make(family, next(iter(FAMILIES[family].toys)), **stateless), FlowSettings())
    task.train()
    batch = {
        "latents": torch.randn(2, 3, 4, 4),
        "seed": torch.arange(2),
        "tokens": torch.randn(2, 3, 10),
        "mask": torch.ones(2, 3, dtype=torch.bool),
        "pooled": torch.randn(2, 6),
    }
    found, _ = training_operations(task, batch)
    torch.manual_seed(0)
    counts: list[int] = []
    for _ in range(DRAWS if family == "iris" else 1):  # which draws its depth
        with FlopCounterMode(display=False, custom_mapping=GROUPED) as counter:
            task(batch)["loss"].backward()
        counts.append(counter.get_total_flops())
    assert found == sum(counts) / len(counts) > 0


def test_scans_are_counted() -> None:
    batch, tokens, width, states = 2, 5, 3, 4
    x, dt = torch.randn(batch, tokens, width), torch.rand(batch, tokens, width)
    with OperationCounter() as counter:
        linear_recurrence(dt, x, None, False)
    assert counter.total == 2 * x.numel()
    of_states = torch.randn(batch, tokens, 1, states)
    for decay, each in ((-torch.ones(width), 5), (-torch.ones(width, states), 7)):
        with OperationCounter() as counter:
            selective_scan(x, dt, decay, of_states, of_states, None, None, False)
        assert counter.total == x.numel() * (each * states + 3)


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_convolutions_with_groups_are_counted_as_by_hand(groups: int) -> None:
    """Each of 5 x 5 outputs of 6 channels sums 3 x 3 cells of the channels of its group."""
    layer, x = nn.Conv2d(6, 6, 3, padding=1, groups=groups), torch.randn(2, 6, 5, 5, requires_grad=True)
    forward = 2 * (2 * 6 * 5 * 5) * (3 * 3 * 6 // groups)
    with OperationCounter() as counter:
        out = layer(x)
    assert counter.total == forward
    with OperationCounter() as counter:
        out.sum().backward()
    assert counter.total == 2 * forward


def test_blocks_computed_anew_keep_their_inputs_alone_and_cost_another_forward_pass() -> None:
    """Four squares of a product, each a block: kept are its input and, for one of them at a time, the product."""

    computed: list[nn.Module] = []

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.product = nn.Linear(8, 8, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            computed.append(self)
            return self.product(x).square()

    class Net(ModelMixin):
        _repeated_blocks = ["Square"]  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*(Square() for _ in range(4)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks(x)

    class Squares(Layers):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Net(), nn.Identity()

        def compilable(self) -> list[nn.Module]:
            return [self.first]

    task, batch = Squares(), {"x": torch.randn(5, 8)}
    rows, forward = 4 * 5 * 8, 2 * 5 * 8 * 8
    # Each block keeps its product and its input, the first of which was there before; the loss keeps the last square.
    assert activation_bytes(task, batch, "fp32") == (4 + 4) * rows
    assert activation_bytes(task, batch, "fp32", recompute=True) == 4 * rows + 4 * rows // 4
    computed.clear()
    plain, anew = (training_operations(task, batch, recompute=again)[0] for again in (False, True))
    # The first, to whose input no gradient goes, and one of the others, which are alike; once, then twice each.
    assert len(computed) == 2 + 4
    assert plain == (4 + 3 + 4) * forward  # no gradient goes to the batch
    assert anew == plain + 4 * forward
    assert whole_bytes(task) == 2 * 8 * 8 * 4  # of four blocks two


def test_a_batch_is_divided_into_the_fewest_parts_that_fit() -> None:
    assert fewest_parts(12, 1, 10, 1.0, None) == 1
    assert fewest_parts(12, 1, 10, 1.0, 22) == 1
    assert fewest_parts(12, 1, 10, 1.0, 21) == 2
    assert fewest_parts(12, 2, 10, 1.0, 13) == 4
    assert fewest_parts(12, 1, 10, 1.0, 10) is None
