"""The selective scan with one decay a head (Mamba-2, 2405.21060) in the form of exported graphs: forward, for
any batch, in tensors of five axes at most, since runtimes of phones have no more.

It is the matrix form of ``composed``, with the chunks in the batch axis and the loop over the states between chunks
written out. Letters: B batch, K chunk, Q token in the chunk, G group, R head in the group, H head, P channel in the
head, S state.
"""

import torch
from torch import Tensor

from pochade.nn.scan.contract import CHUNK, Inputs, state_dtype


def selective_forward(inputs: Inputs, initial: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    dtype = state_dtype(*inputs)
    x, dt, B, C = (t.to(dtype).flip(1) if reverse else t.to(dtype) for t in (inputs.x, inputs.dt, inputs.B, inputs.C))
    (tokens, width), (groups, states) = x.shape[1:], B.shape[2:]
    heads = inputs.A.shape[0]
    each, channels = heads // groups, width // heads
    size = min(CHUNK, tokens)

    def split(t: Tensor) -> Tensor:
        """[B, N, A, W] -> [B K, A, Q, W]; tokens that complete the last chunk change nothing."""
        missing = -tokens % size
        if missing:
            t = torch.cat((t, t.new_zeros(t.shape[0], missing, *t.shape[2:])), 1)
        return t.reshape(-1, size, *t.shape[2:]).transpose(1, 2)

    step = split(dt[..., None])
    log_decay = step * inputs.A.to(dtype)[:, None, None]
    lower = torch.ones(size, size, dtype=dtype, device=x.device).tril()
    strictly = torch.ones(size, size, dtype=dtype, device=x.device).tril(-1)
    decay = (log_decay * strictly).cumsum(2).exp() * lower  # from token j (column) to token i (row)
    from_start = log_decay.cumsum(2).exp()
    to_end = decay[..., -1:, :].transpose(-1, -2)
    value, key, query = step * split(torch.unflatten(x, 2, (heads, channels))), split(B), split(C)
    scores = (query @ key.transpose(-1, -2))[:, :, None]
    inside = (torch.unflatten(decay, 1, (groups, each)) * scores).flatten(1, 2) @ value

    added = (to_end * value).transpose(-1, -2).reshape(-1, groups, each * channels, size) @ key
    added = added.reshape(x.shape[0], -1, heads, channels * states)
    kept = torch.unflatten(from_start[:, :, -1], 0, (x.shape[0], -1))
    state = (
        torch.zeros_like(added[:, 0]) if initial is None else initial.to(dtype).reshape(-1, heads, channels * states)
    )
    found: list[Tensor] = []
    for whole, more in zip(kept.unbind(1), added.unbind(1), strict=True):
        found.append(state)
        state = whole * state + more
    checkpoints = torch.stack(found, 1)
    before = checkpoints.reshape(-1, groups, each * channels, states)
    seen = torch.unflatten(query @ before.transpose(-1, -2), -1, (each, channels)).transpose(2, 3).flatten(1, 2)
    y = (inside + from_start * seen).transpose(1, 2).reshape(x.shape[0], -1, width)[:, :tokens]
    if inputs.D is not None:
        y = y + x * inputs.D.to(dtype)
    y = y.flip(1) if reverse else y
    return (
        y.to(inputs.x.dtype),
        state.reshape(-1, width, states),
        checkpoints.reshape(x.shape[0], -1, width, states),
    )
