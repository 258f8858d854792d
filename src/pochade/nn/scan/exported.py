"""The selective scan with one decay a head (Mamba-2, 2405.21060) in the form of exported graphs: forward, for
any batch, in tensors of five axes at most, since runtimes of phones have no more.

It is the matrix form of ``composed``, with the chunks in the batch axis and the loop over the states between chunks
written out. A scan from the last token to the first has other triangles and the chunks in the other order: no token is
moved. Letters: B batch, K chunk, Q token in the chunk, G group, R head in the group, H head, P channel in the head,
S state.
"""

import torch
from torch import Tensor

from pochade.nn.scan.contract import CHUNK, Inputs, state_dtype


def selective_forward(inputs: Inputs, initial: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    dtype = state_dtype(*inputs)
    x, dt, B, C = (t.to(dtype) for t in (inputs.x, inputs.dt, inputs.B, inputs.C))
    (tokens, width), (groups, states) = x.shape[1:], B.shape[2:]
    heads = inputs.A.shape[0]
    each, channels = heads // groups, width // heads
    size = min(CHUNK, tokens)
    missing = -tokens % size

    def split(t: Tensor) -> Tensor:
        """[B, N, A, W] -> [B K, A, Q, W]; tokens that complete the chunk that is scanned last change nothing."""
        if missing:
            filled = t.new_zeros(t.shape[0], missing, *t.shape[2:])
            t = torch.cat((filled, t) if reverse else (t, filled), 1)
        return (t if tokens == size else t.reshape(-1, size, *t.shape[2:])).transpose(1, 2)

    # What a token (row) finds: of the tokens before it (columns) and itself, in the order of the scan.
    ones = torch.ones(size, size, dtype=dtype, device=x.device)
    found, before, last = (ones.triu(), ones.triu(1), 0) if reverse else (ones.tril(), ones.tril(-1), size - 1)
    step = split(dt[..., None])
    log_decay = step * inputs.A.to(dtype)[:, None, None]
    # Running sums as products with the triangle, for few runtimes are fast at sums along an axis.
    decay = (found @ (log_decay * before)).exp() * found  # from token j (column) to token i (row)
    value, key, query = step * split(torch.unflatten(x, 2, (heads, channels))), split(B), split(C)
    scores = (query @ key.transpose(-1, -2))[:, :, None]
    y = (torch.unflatten(decay, 1, (groups, each)) * scores).flatten(1, 2) @ value

    from_start = (found @ log_decay).exp()
    to_end = decay[..., last : last + 1, :].transpose(-1, -2)
    added = (to_end * value).transpose(-1, -2).reshape(-1, groups, each * channels, size) @ key
    added = added.reshape(x.shape[0], -1, heads, channels * states)
    kept = torch.unflatten(from_start[:, :, last], 0, (x.shape[0], -1))
    state = (
        torch.zeros_like(added[:, 0]) if initial is None else initial.to(dtype).reshape(-1, heads, channels * states)
    )
    chunks = range(added.shape[1])
    at_start = [state] * len(chunks)
    for chunk in reversed(chunks) if reverse else chunks:
        at_start[chunk] = state
        state = kept[:, chunk] * state + added[:, chunk]
    checkpoints = torch.stack(at_start[::-1] if reverse else at_start, 1)
    if initial is not None or len(chunks) > 1:  # else there is nothing to find
        found_states = torch.stack(at_start, 1).reshape(-1, groups, each * channels, states)
        seen = torch.unflatten(query @ found_states.transpose(-1, -2), -1, (each, channels))
        y = y + from_start * seen.transpose(2, 3).flatten(1, 2)
    y = y.transpose(1, 2).reshape(x.shape[0], -1, width)
    if missing:
        y = y[:, missing:] if reverse else y[:, :tokens]
    if inputs.D is not None:
        y = y + x * inputs.D.to(dtype)
    return (
        y.to(inputs.x.dtype),
        state.reshape(-1, width, states),
        checkpoints.reshape(x.shape[0], -1, width, states),
    )
