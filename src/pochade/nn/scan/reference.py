"""The formulas of ``pochade.nn.scan`` as short loops, for any floating type: what every fast form must equal."""

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_recurrence_reference(
    a: Tensor, b: Tensor, *, initial: Tensor | None = None, reverse: bool = False
) -> Tensor:
    """h_n = a_n h_{n-1} + b_n: see ``linear_recurrence``."""
    if reverse:
        return linear_recurrence_reference(a.flip(1), b.flip(1), initial=initial).flip(1)
    h = torch.zeros_like(b[:, 0]) if initial is None else initial
    states: list[Tensor] = []
    for a_n, b_n in zip(a.unbind(1), b.unbind(1), strict=True):
        h = a_n * h + b_n
        states.append(h)
    return torch.stack(states, 1)


def rg_lru_reference(
    x: Tensor,
    recurrence_gate: Tensor,
    input_gate: Tensor,
    decay: Tensor,
    *,
    initial: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """h_n = a_n h_{n-1} + sqrt(1 - a_n^2) i_n x_n with a_n = exp(-8 r_n softplus(decay)): see ``rg_lru``."""
    a = torch.exp(-8 * recurrence_gate * F.softplus(decay))
    driven = torch.sqrt(1 - a**2) * input_gate * x
    return linear_recurrence_reference(a, driven, initial=initial, reverse=reverse)


def selective_scan_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """h_n = exp(dt_n A) h_{n-1} + dt_n x_n B_n, y_n = h_n C_n + D x_n; y and the last state: see ``selective_scan``."""
    width = x.shape[2]
    rates = A
    if A.dim() == 1:
        per_head = width // A.shape[0]
        rates, dt = A.repeat_interleave(per_head)[:, None], dt.repeat_interleave(per_head, 2)
    grouped = (v if v.dim() == 4 else v[:, :, None] for v in (B, C))
    write, read = (v.repeat_interleave(width // v.shape[2], 2) for v in grouped)
    h = x.new_zeros(x.shape[0], width, write.shape[3]) if initial is None else initial
    outputs: list[Tensor] = []
    order = range(x.shape[1])
    for n in reversed(order) if reverse else order:
        step = dt[:, n, :, None]
        h = torch.exp(step * rates) * h + step * x[:, n, :, None] * write[:, n]
        outputs.append((h * read[:, n]).sum(2))
    y = torch.stack(outputs[::-1] if reverse else outputs, 1)
    return (y if D is None else y + D * x), h
