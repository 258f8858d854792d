"""What a training step costs: operations, and memory by part. Operations are counted without computing anything."""

import copy
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten
from torch.utils.flop_counter import conv_flop_count, flop_registry, register_flop_formula, shape_wrapper

from pochade.nn.linear import linear_product
from pochade.nn.scan import operators
from pochade.training.compute import recomputing, repeated_blocks
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


def onednn_linear_operations(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """A multiplication and an addition for each weight and row."""
    return 2 * math.prod(x) * weight[0]


if torch.backends.mkldnn.is_available():
    register_flop_formula([torch.ops.mkldnn._linear_pointwise, linear_product])(onednn_linear_operations)


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


class _Shapes(FakeTensorMode):
    """Tensors without values. Where a step looks at one for a yes or no, as whether any sample has a source, it is
    yes: what is counted is the costlier way."""

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True
        return super().dispatch(func, types, args, kwargs)


def shapes_of(task: Task, batch: Batch) -> tuple[Task, Batch]:
    """A copy of both without values (fake tensors), which is computed with in no time and next to no memory."""
    fake = _Shapes(allow_non_fake_inputs=True)
    with FakeCopyMode(fake):
        task = copy.deepcopy(task)
    return task, {name: fake.from_tensor(v) if isinstance(v, Tensor) else v for name, v in batch.items()}


@dataclass(frozen=True)
class _Call:
    """What a call of a block costs, and what it returns."""

    forward: int
    backward: int
    """Operations."""
    shapes: tuple[tuple[torch.Size, torch.dtype, bool], ...]
    """Of the tensors that it returns, and whether gradients go through them."""
    spec: TreeSpec


class _Remembered(torch.autograd.Function):
    """A call of a block in place of another one like it: empty tensors forth and back."""

    @staticmethod
    def forward(ctx: Any, counter: OperationCounter, call: _Call, *inputs: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.counter, ctx.call, ctx.inputs = counter, call, [(x.shape, x.dtype) for x in inputs]
        counter.total += call.forward
        outputs = tuple(inputs[0].new_empty(shape, dtype=kind) for shape, kind, _ in call.shapes)
        ctx.mark_non_differentiable(*(x for x, (*_, wanted) in zip(outputs, call.shapes, strict=True) if not wanted))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.counter.total += ctx.call.backward
        wanted = zip(ctx.inputs, ctx.needs_input_grad[2:], strict=True)
        return None, None, *(gradients[0].new_empty(*x[0], dtype=x[1]) if needed else None for x, needed in wanted)


@contextmanager
def _remembering(
    modules: Iterable[nn.Module], counter: OperationCounter, *, with_gradient: bool = True
) -> Generator[None]:
    """Within it each repeated block is computed once for each kind of call, and its operations counted again for all
    others like it: blocks of one class and of the same shapes, called with tensors of the same shapes.

    Args:
        with_gradient: or else those calls alone that are made without.
    """
    calls: dict[Any, _Call] = {}
    blocks = [b for module in modules for b in repeated_blocks(module) if b is not module]
    before = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.forward = partial(_remembered_call, block, block.forward, counter, calls, with_gradient)
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            del block.forward
            if own is not None:
                block.forward = own


def _remembered_call(
    block: nn.Module,
    forward: Callable[..., Any],
    counter: OperationCounter,
    calls: dict[Any, _Call],
    with_gradient: bool,
    *inputs: Any,
    **named: Any,
) -> Any:
    leaves, spec = tree_flatten((inputs, named))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    rest = tuple(leaf for leaf in leaves if not isinstance(leaf, Tensor))
    if (torch.is_grad_enabled() and not with_gradient) or any(map(callable, rest)):  # which may hold tensors of its own
        return forward(*inputs, **named)
    own = list(block.parameters())
    shapes = tuple((t.shape, t.dtype, t.requires_grad) for t in (*own, *tensors))
    key = type(block), shapes, rest, spec, torch.is_grad_enabled()
    if key not in calls:
        apart = [t.detach().requires_grad_(t.requires_grad) for t in tensors]
        places = iter(apart)
        again = [next(places) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        given, given_named = tree_unflatten(again, spec)
        calls[key] = _measured_call(forward, counter, given, given_named, [*own, *apart])
    return tree_unflatten(_Remembered.apply(counter, calls[key], *own, *tensors), calls[key].spec)


def _measured_call(
    forward: Callable[..., Any],
    counter: OperationCounter,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    leaves: Sequence[Tensor],
) -> _Call:
    start = counter.total
    outputs, spec = tree_flatten(forward(*inputs, **named))
    between = counter.total
    to, of = [x for x in leaves if x.requires_grad], [x for x in outputs if x.requires_grad]
    if to and of:
        torch.autograd.grad(of, to, [torch.empty_like(x) for x in of], allow_unused=True)
    call = _Call(
        between - start, counter.total - between, tuple((x.shape, x.dtype, x.requires_grad) for x in outputs), spec
    )
    counter.total = start
    return call


def training_operations(task: Task, batch: Batch, *, recompute: bool = False) -> tuple[float, Tensor]:
    """Operations of the forward and the backward pass, a multiplication and an addition being two; and the state of
    torch's generator for the CPU before the costliest step that was counted.

    Matrix products, convolutions, attention and scans; neither what goes entry by entry nor Fourier transforms. Shapes
    alone are followed, of blocks that are alike one, so that a network of any size is counted in seconds. Where a step
    draws something for the whole batch, such as a depth, it is the mean of ``DRAWS`` steps.

    Args:
        recompute: whether blocks are computed anew in the backward pass (``Stage.gradient_checkpointing``).
    """
    task, batch = shapes_of(task, batch)
    task.train()
    counter = OperationCounter()
    counts: list[int] = []
    states: list[Tensor] = []
    with (
        torch.random.fork_rng(devices=[]),
        recomputing(task.compilable() if recompute else ()),
        _remembering(task.compilable(), counter),
    ):
        torch.manual_seed(0)
        while len(counts) < DRAWS:
            states.append(torch.get_rng_state())
            before = counter.total
            with counter:
                task(batch)["loss"].backward()
            counts.append(counter.total - before)
            if torch.equal(states[-1], torch.get_rng_state()):
                break
    return sum(counts) / len(counts), states[counts.index(max(counts))]


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


def whole_bytes(task: Task) -> int:
    """Bytes of the weights that a process has whole at once where they are divided among processes (``Stage.fsdp``):
    what is in no block, and of blocks the largest two, one that is computed and one on its way."""
    blocks = [block for root in task.compilable() for block in repeated_blocks(root)]
    inside = {id(p): p.nbytes for block in blocks for p in block.parameters()}
    largest = sorted((sum(p.nbytes for p in block.parameters()) for block in blocks), reverse=True)[:2]
    return sum(p.nbytes for p in task.trainable().parameters() if id(p) not in inside) + sum(largest)


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
    with (
        recomputing(recomputed) as blocks,
        _remembering(task.compilable(), OperationCounter(), with_gradient=False),  # which keeps nothing
    ):
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
