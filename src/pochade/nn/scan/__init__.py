"""Linear recurrences and selective state spaces over a sequence of tokens (SPEC 0). Axis letters: pochade.types.

Each function has a plain twin, ``*_reference``, and several forms behind it: a composition of torch operators
anywhere, loops compiled by Numba on CPUs, Triton kernels on GPUs. ``backend`` names the one that runs on a device and
``use_backend`` chooses another. States are kept in float32 at least, whatever comes in; all gradients are exact.
"""

from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.errors import PochadeError
from pochade.nn.operator import is_transformed
from pochade.nn.scan import operators
from pochade.nn.scan.backends import BACKENDS, Backend, backend, use_backend
from pochade.nn.scan.contract import Inputs
from pochade.nn.scan.reference import linear_recurrence_reference, rg_lru_reference, selective_scan_reference

__all__ = [
    "BACKENDS",
    "Backend",
    "Inputs",
    "backend",
    "bidirectional_scan",
    "linear_recurrence",
    "linear_recurrence_reference",
    "rg_lru",
    "rg_lru_reference",
    "selective_scan",
    "selective_scan_reference",
    "use_backend",
]

_STEEPEST = 1000.0


def linear_recurrence(a: Tensor, b: Tensor, *, initial: Tensor | None = None, reverse: bool = False) -> Tensor:
    """h_n = a_n h_{n-1} + b_n for every token and channel.

    Args:
        a: [B, N, D] decays, in [0, 1] for a recurrence that stays bounded.
        b: [B, N, D] what drives it.
        initial: [B, D], the state before the first token (None: zeros).
        reverse: from the last token to the first: h_n = a_n h_{n+1} + b_n, ``initial`` being the state after the last.

    Returns:
        h [B, N, D], of the wider type of a and b. The state to go on from is ``h[:, -1]`` (reversed: ``h[:, 0]``).

    Raises:
        PochadeError: shapes that do not fit, no tokens, or whole numbers.
    """
    _check("a", a, ("B", "N", "D"), {})
    axes = dict(zip("BND", a.shape, strict=True))
    _check("b", b, ("B", "N", "D"), axes)
    if initial is not None:
        _check("initial", initial, ("B", "D"), axes)
    return operators.linear_recurrence(a, b, initial, reverse)


def rg_lru(
    x: Tensor,
    recurrence_gate: Tensor,
    input_gate: Tensor,
    decay: Tensor,
    *,
    initial: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """The real-gated linear recurrent unit (2402.19427 eq. 1-4).

    log a_n = -8 r_n softplus(decay), h_n = a_n h_{n-1} + sqrt(1 - a_n^2) i_n x_n. The slope of the square root, which
    has no bound as a goes to 1, is cut at 1000 in the backward pass.

    Args:
        x: [B, N, D].
        recurrence_gate: r [B, N, D] in (0, 1).
        input_gate: i [B, N, D] in (0, 1).
        decay: [D], any real number; softplus makes it positive.
        initial: [B, D], the state before the first token (None: zeros).
        reverse: from the last token to the first.

    Returns:
        h [B, N, D] in the type of x.

    Raises:
        PochadeError: shapes that do not fit, no tokens, or whole numbers.
    """
    _check("x", x, ("B", "N", "D"), {})
    axes = dict(zip("BND", x.shape, strict=True))
    _check("recurrence_gate", recurrence_gate, ("B", "N", "D"), axes)
    _check("input_gate", input_gate, ("B", "N", "D"), axes)
    _check("decay", decay, ("D",), axes)
    if initial is not None:
        _check("initial", initial, ("B", "D"), axes)
    wide = torch.promote_types(x.dtype, torch.float32)
    log_a = -8 * recurrence_gate.to(wide) * F.softplus(decay.to(wide))
    driven = _square_root(-torch.expm1(2 * log_a)) * input_gate * x
    return operators.linear_recurrence(torch.exp(log_a), driven, initial, reverse).to(x.dtype)


class _SquareRoot(torch.autograd.Function):
    """sqrt(y) whose derivative is at most 1000."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return y.sqrt()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tangent * _slope(ctx.saved_tensors[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad * _slope(ctx.saved_tensors[0])


def _slope(root: Tensor) -> Tensor:
    return 0.5 / root.clamp(min=0.5 / _STEEPEST)


def _square_root(y: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        node: Any = _SquareRoot
        return node.apply(y) if y.requires_grad or is_transformed() else y.sqrt()
    if not y.requires_grad:
        return y.sqrt()
    # Compilers take no derivative forward, which compiled graphs have none of either, nor a second one.
    root = y.detach().sqrt()
    return root + _slope(root) * (y - y.detach())


@overload
def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial: Tensor | None = None,
    reverse: bool = False,
    return_state: Literal[False] = False,
) -> Tensor: ...


@overload
def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial: Tensor | None = None,
    reverse: bool = False,
    return_state: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial: Tensor | None = None,
    reverse: bool = False,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """h_n = exp(dt_n A) h_{n-1} + dt_n x_n B_n and y_n = h_n C_n + D x_n, a state of S numbers for every channel.

    The shape of A gives the structure: [D, S] is one decay a channel and state (Mamba, 2312.00752 eq. 2-4 with the
    input's discretisation simplified as its section 3 does), [heads] is one decay a head of D / heads channels
    (Mamba-2, 2405.21060 section 6). The [B, N, D, S] tensor of states is never stored whole.

    Args:
        x: [B, N, D].
        dt: [B, N, D] or, with heads, [B, N, heads]; positive.
        A: [D, S] or [heads]; negative.
        B: [B, N, S], or [B, N, G, S] for G groups of D / G neighbouring channels. G divides heads.
        C: as B.
        D: [D] or None.
        initial: [B, D, S], the state before the first token (None: zeros).
        reverse: from the last token to the first; ``initial`` is then the state after the last.
        return_state: also give the state to go on from, [B, D, S] in float32 (float64 stays float64).

    Returns:
        y [B, N, D] in the type of x, or (y, state).

    Raises:
        PochadeError: shapes that do not fit, no tokens, or whole numbers.
    """
    _check("x", x, ("B", "N", "D"), {})
    axes = dict(zip("BND", x.shape, strict=True))
    if A.dim() == 1:
        axes["heads"] = A.shape[0]
        _check("A", A, ("heads",), axes)
        _check("dt", dt, ("B", "N", "heads"), axes)
        _divides("A", "heads", axes["heads"], "channels", axes["D"])
    else:
        _check("A", A, ("D", "S"), axes)
        axes["S"] = A.shape[1]
        _check("dt", dt, ("B", "N", "D"), axes)
    grouped = ("B", "N", "G", "S") if B.dim() == 4 else ("B", "N", "S")
    _check("B", B, grouped, axes)
    axes |= {"S": B.shape[-1], "G": B.shape[2] if B.dim() == 4 else 1}
    _check("C", C, grouped, axes)
    _divides("B", "groups", axes["G"], *(("heads", axes["heads"]) if A.dim() == 1 else ("channels", axes["D"])))
    if D is not None:
        _check("D", D, ("D",), axes)
    if initial is not None:
        _check("initial", initial, ("B", "D", "S"), axes)
    read, write = (B, C) if B.dim() == 4 else (B.unsqueeze(2), C.unsqueeze(2))
    y, state, _ = operators.selective_scan(x, dt, A, read, write, D, initial, reverse)
    return (y, state) if return_state else y


def bidirectional_scan(forth: Inputs, back: Inputs) -> Tensor:
    """The sum of two selective scans of the same tokens: ``forth`` from the first to the last, ``back`` from the last
    to the first.

    Args:
        forth: the arguments of ``selective_scan``, B and C with groups.
        back: as ``forth``, with the same x.

    Returns:
        y [B, N, D] in the type of x.

    Raises:
        PochadeError: as ``selective_scan``.
    """
    return selective_scan(*forth).add_(selective_scan(*back, reverse=True))


def _check(name: str, tensor: Tensor, axes: tuple[str, ...], sizes: dict[str, int]) -> None:
    shape = tuple(tensor.shape)
    known = [sizes.get(axis) for axis in axes]
    fits = len(shape) == len(axes) and all(size in (wanted, None) for wanted, size in zip(shape, known, strict=True))
    if not fits or not tensor.is_floating_point():
        wanted = ", ".join(f"{axis} = {sizes[axis]}" if axis in sizes else axis for axis in axes)
        raise PochadeError(f"{name}: {list(shape)} of {tensor.dtype} given, wanted is [{wanted}] of a floating type")
    if "N" in axes and shape[axes.index("N")] == 0:
        raise PochadeError(f"{name}: {list(shape)} given, wanted is one token at least")


def _divides(name: str, parts: str, count: int, whole: str, size: int) -> None:
    if count < 1 or size % count:
        raise PochadeError(f"{name}: {count} {parts} given, wanted is a divisor of the {size} {whole}")
