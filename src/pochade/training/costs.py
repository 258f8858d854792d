"""What a training step costs: operations, and memory by part. Operations are counted without computing anything."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry, register_flop_formula, shape_wrapper

from pochade.nn.scan import operators
from pochade.training.compute import recomputing
from pochade.training.task import Batch, Task

DRAWS = 8
"""Steps that are counted where the operations of a step depend on what is drawn for the whole batch."""


# torch counts nothing for operators that it does not know,


@register_flop_formula(operators.selective_scan)
def selective_scan_operations(
    x: Sequence[int], _dt: Sequence[int], A: Sequence[int], B: Sequence[int], *_: Any, **__: Any
) -> int:
    """A state a channel and token costs 5 operations (decay, add, read out), 2 more where each has its own decay."""
    return math.prod(x) * (B[-1] * (5 if len(A) == 1 else 7) + 3)


@register_flop_formula(operators.selective_scan_backward)
def selective_scan_backward_operations(_y: Sequence[int], _final: Sequence[int], *inputs: Any, **__: Any) -> int:
    """Three times the forward pass: the states are computed anew, then gradients of states and of inputs."""
    return 3 * selective_scan_operations(*inputs)


@register_flop_formula(operators.linear_recurrence)
def linear_recurrence_operations(a: Sequence[int], *_: Any, **__: Any) -> int:
    """A multiplication and an addition an entry."""
    return 2 * math.prod(a)


@register_flop_formula(operators.linear_recurrence_backward)
def linear_recurrence_backward_operations(grad: Sequence[int], *_: Any, **__: Any) -> int:
    """Twice the forward pass: the recurrence in reverse, and the product for the gradient of the decay."""
    return 4 * math.prod(grad)


# and the gradient of the weights of a convolution with groups as if it had none.


def convolution_backward_operations(
    grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any
) -> int:
    """As many as the forward pass for the gradient of the input, and for that of the weights, where they are wanted."""
    transposed, wanted = rest[4], rest[7]
    return conv_flop_count(list(x), list(weight), list(grad), transposed) * (bool(wanted[0]) + bool(wanted[1]))


FORMULAS = {**flop_registry, torch.ops.aten.convolution_backward: shape_wrapper(convolution_backward_operations)}
"""By operator, from its arguments."""


class OperationCounter(TorchDispatchMode):
    """Counts the operations within its ``with`` block into ``total``.

    torch's ``FlopCounterMode`` counts by module besides, for which it hangs hooks into all modules, which fail where a
    part is computed without gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def shapes_of(task: Task, batch: Batch) -> tuple[Task, Batch]:
    """A copy of both without values (fake tensors), which is computed with in no time and next to no memory."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(fake):
        task = copy.deepcopy(task)
    return task, {name: fake.from_tensor(v) if isinstance(v, Tensor) else v for name, v in batch.items()}


def training_operations(task: Task, batch: Batch, *, recompute: bool = False) -> float:
    """Operations of the forward and the backward pass, a multiplication and an addition being two.

    Matrix products, convolutions, attention and scans; neither what goes entry by entry nor Fourier transforms. Shapes
    alone are followed, so that a network of any size is counted in seconds. Where a step draws something for the whole
    batch, such as a depth, it is the mean of ``DRAWS`` steps.

    Args:
        recompute: whether blocks are computed anew in the backward pass (``Stage.gradient_checkpointing``).
    """
    task, batch = shapes_of(task, batch)
    task.train()
    counts: list[int] = []
    with torch.random.fork_rng(devices=[]), recomputing(task.compilable() if recompute else ()):
        torch.manual_seed(0)
        while len(counts) < DRAWS:
            before = torch.get_rng_state()
            with OperationCounter() as counter:
                task(batch)["loss"].backward()
            counts.append(counter.total)
            if torch.equal(before, torch.get_rng_state()):
                break
    return sum(counts) / len(counts)


def fixed_memory(task: Task) -> tuple[dict[str, int], int]:
    """Bytes that do not depend on the batch, by part, and the number of trained parameters."""
    network = task.trainable()
    own = {id(p) for p in network.parameters()}
    weights = sum(p.nbytes for p in network.parameters())
    trained = [p for p in network.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    frozen = sum(p.nbytes for p in task.parameters() if id(p) not in own)
    memory = {"weights": weights, "gradients": gradients, "optimiser": 2 * gradients, "average": weights}
    return {**memory, "frozen": frozen}, sum(p.numel() for p in trained)


def activation_bytes(task: Task, batch: Batch, precision: str, *, recompute: bool = False) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights and the batch itself not counted.

    Counted from the tensors that autograd saves, each storage once, by the kernels that this device uses. With
    ``recompute`` (``Stage.gradient_checkpointing``) what is kept outside of blocks, their inputs, and what one block
    of average size keeps while it is computed anew.
    """
    whole = _kept(task, batch, precision, ())[0]
    if not recompute:
        return whole
    kept, calls = _kept(task, batch, precision, task.compilable())
    return kept + (whole - kept) // max(1, calls)


def _kept(task: Task, batch: Batch, precision: str, recomputed: Sequence[nn.Module]) -> tuple[int, int]:
    """Bytes, and the calls of blocks that are computed anew."""
    known = {p.untyped_storage()._cdata for p in task.parameters()}
    known |= {v.untyped_storage()._cdata for v in batch.values() if isinstance(v, Tensor)}
    saved: dict[int, torch.UntypedStorage] = {}
    calls = 0

    def pack(tensor: Tensor) -> None:  # a tensor that it returned would keep the graph, and the graph that tensor
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage

    def pack_inputs(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        for value in tree_leaves((inputs, named)):
            if isinstance(value, Tensor):
                pack(value)

    task.train()
    device = next(task.parameters()).device.type
    hooks = saved_tensors_hooks(pack, lambda nothing: nothing)
    with recomputing(recomputed) as blocks:
        handles = [block.register_forward_pre_hook(pack_inputs, with_kwargs=True) for block in blocks]
        with hooks, torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            task(batch)
        for handle in handles:
            handle.remove()
    return sum(storage.nbytes() for storage in saved.values()), calls


def fewest_parts(batch_size: int, least: int, fixed: int, activations: float, free: int | None) -> int | None:
    """The fewest parts of a batch, at least ``least``, of which one fits into ``free`` bytes; None where none does.

    Args:
        fixed: bytes that do not depend on the batch.
        activations: bytes of one sample.
    """
    for parts in range(least, batch_size + 1):
        if batch_size % parts == 0 and (free is None or fixed + activations * batch_size / parts <= free):
            return parts
    return None
