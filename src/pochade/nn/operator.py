# torch.library and what torch says of its dispatch have no types.
# pyright: reportUnknownMemberType=false
"""Functions as operators of torch, one node each of compiled and exported graphs."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

_torch: Any = torch._C  # pyright: ignore[reportPrivateUsage]
_forward_ad: Any = forward_ad


def operator(function: Callable[..., Any]) -> Any:
    """Defines ``function`` as ``torch.ops.pochade.NAME`` for all devices, and returns that.

    ``torch.library.custom_op`` does the same, but loads torch's compiler at the first call, which takes seconds, and
    searches for aliases among the results at every call, which takes longer than a short scan.
    """
    name = function.__name__
    torch.library.define(f"pochade::{name}", torch.library.infer_schema(function, mutates_args=()))
    torch.library.impl(f"pochade::{name}", "default", function)
    return getattr(torch.ops.pochade, name)


def is_transformed() -> bool:
    """Whether derivatives are computed forward (``torch.autograd.forward_ad``), or within a function of ``torch.func``:
    whatever is computed may have a tangent, or be one of many."""
    return bool(_forward_ad._current_level >= 0 or _torch._functorch.peek_interpreter_stack() is not None)


def differentiable(
    called: Any, composition: Callable[..., Any], keep: Callable[..., None], differentiate: Callable[..., Any]
) -> None:
    """Gives an operator its derivatives: backward its own, all others those of a composition of torch operators.

    ``torch.library.register_autograd`` takes the same functions, but forward derivatives through its operators are zero
    without a word, and ``torch.func`` does not take them.

    Args:
        called: what ``operator`` returned.
        composition: computes the same of the same arguments, by torch's own operators.
        keep: (ctx, arguments, output), stores on ctx what ``differentiate`` needs.
        differentiate: (ctx, *gradients of the outputs) -> those of the arguments, None of what has none. Where
            gradients are enabled in it, gradients of its results are wanted: it computes them by what has some.
    """
    name = called.default.name()

    def below(*arguments: Any) -> Any:
        with _torch._AutoDispatchBelowAutograd():
            return called(*arguments)

    def forward(ctx: Any, *arguments: Any) -> Any:
        output = below(*arguments)
        keep(ctx, arguments, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(differentiate)}
    node: Any = type(name.partition("::")[2], (torch.autograd.Function,), methods)

    def derived(*arguments: Any) -> Any:
        if is_transformed():
            return composition(*arguments)
        if torch.is_grad_enabled() and _torch._any_requires_grad(*arguments):
            return node.apply(*arguments)
        return below(*arguments)

    torch.library.impl(name, "Autograd", derived)
