# torch.library has no types.
# pyright: reportUnknownMemberType=false
"""Functions as operators of torch, one node each of compiled and exported graphs."""

from collections.abc import Callable
from typing import Any

import torch


def operator(function: Callable[..., Any]) -> Any:
    """Defines ``function`` as ``torch.ops.pochade.NAME`` for all devices, and returns that.

    ``torch.library.custom_op`` does the same, but loads torch's compiler at the first call, which takes seconds, and
    searches for aliases among the results at every call, which takes longer than a short scan.
    """
    name = function.__name__
    torch.library.define(f"pochade::{name}", torch.library.infer_schema(function, mutates_args=()))
    torch.library.impl(f"pochade::{name}", "default", function)
    return getattr(torch.ops.pochade, name)
