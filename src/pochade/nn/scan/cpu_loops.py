# pyright: basic, reportCallIssue=false
"""The loops of the scans on a CPU, over vectors of neighbouring channels.

The numbers of their tensors lie without gaps in the shapes of ``contract``. Sums over channels, the gradients of B, C
and of a dt of heads, have a leading axis of blocks [blocks, ...].
"""

from pochade.nn.cpu.vectors import (
    EXACT,
    LANES,
    compiled,
    exp,
    fill,
    load,
    load_part,
    pointers,
    store,
    store_part,
    totals,
    zeros,
)
from pochade.nn.scan.contract import CHUNK


@compiled(**EXACT)
def linear_forward(addresses, zero, tokens, width, reverse, first, last):
    a, b, initial, h = pointers(addresses, zero)
    blocks = (width + LANES - 1) // LANES
    part, spare, states = zeros(1, zero), zeros(1, zero), zeros(blocks, zero)
    while first < last:
        i, begin = divmod(first, blocks)
        end = min(blocks, begin + last - first)
        for d in range(begin * LANES, min(width, end * LANES)):
            states[d] = initial[i * width + d]
        for k in range(tokens):
            row = (i * tokens + (tokens - 1 - k if reverse else k)) * width
            for at in range(begin * LANES, end * LANES, LANES):
                size = min(LANES, width - at)
                decay = load_part(a, row + at, size, part)
                state = decay * load(states, at) + load_part(b, row + at, size, part)
                store(states, at, state)
                store_part(h, row + at, size, spare, state)
        first += end - begin


@compiled(**EXACT)
def linear_backward(addresses, zero, tokens, width, reverse, first, last):
    grad, a, h, initial, grad_a, grad_b, grad_initial = pointers(addresses, zero)
    blocks = (width + LANES - 1) // LANES
    part, spare, carried = zeros(1, zero), zeros(1, zero), zeros(blocks, zero)
    while first < last:
        i, begin = divmod(first, blocks)
        end = min(blocks, begin + last - first)
        carried[:] = 0
        for k in range(tokens - 1, -1, -1):
            row = (i * tokens + (tokens - 1 - k if reverse else k)) * width
            before = row + width if reverse else row - width
            for at in range(begin * LANES, end * LANES, LANES):
                size = min(LANES, width - at)
                gradient = load_part(grad, row + at, size, part) + load(carried, at)
                found = load_part(h, before + at, size, part) if k else load_part(initial, i * width + at, size, part)
                store(carried, at, gradient * load_part(a, row + at, size, part))
                store_part(grad_a, row + at, size, spare, gradient * found)
                store_part(grad_b, row + at, size, spare, gradient)
        for d in range(begin * LANES, min(width, end * LANES)):
            grad_initial[i * width + d] = carried[d]
        first += end - begin


@compiled(**EXACT)
def _place(unit, width, spans):
    """Row of the batch, span, block in the span, first channel and number of channels of a unit of work."""
    span = width // spans
    blocks = (span + LANES - 1) // LANES
    i, r = divmod(unit, blocks * spans)
    j, block = divmod(r, blocks)
    return i, j, block, j * span + block * LANES, min(LANES, span - block * LANES)


@compiled(**EXACT)
def _read_rows(array, at, size, states, rows):
    """[size, S] -> S rows of ``LANES`` numbers."""
    for d in range(size):
        for s in range(states):
            rows[s * LANES + d] = array[at + d * states + s]


@compiled(**EXACT)
def _write_rows(array, at, size, states, rows):
    for d in range(size):
        for s in range(states):
            array[at + d * states + s] = rows[s * LANES + d]


@compiled(**EXACT)
def selective_forward(addresses, zero, sizes, reverse, diagonal, first, last):
    x, dt, A, B, C, D, initial, y, final, checkpoints = pointers(addresses, zero)
    _, tokens, width, groups, states, spans = sizes
    part, spare, state, rates = zeros(1, zero), zeros(1, zero), zeros(states, zero), zeros(states, zero)
    for unit in range(first, last):
        i, span, _, c0, size = _place(unit, width, spans)
        g = span * groups // spans
        part[:] = 0
        skip = load_part(D, c0, size, part)
        _read_rows(initial, (i * width + c0) * states, size, states, state)
        if diagonal:
            _read_rows(A, c0 * states, size, states, rates)
        else:
            store(rates, 0, fill(A[span]))
        for k in range(tokens):
            row = i * tokens + (tokens - 1 - k if reverse else k)
            if k % CHUNK == 0:
                kept = i * ((tokens - 1) // CHUNK + 1) + k // CHUNK
                _write_rows(checkpoints, (kept * width + c0) * states, size, states, state)
            of_x = load_part(x, row * width + c0, size, part)
            steps = load_part(dt, row * width + c0, size, part) if diagonal else fill(dt[row * spans + span])
            driven, out = steps * of_x, skip * of_x
            at = (row * groups + g) * states
            if diagonal:
                for s in range(states):
                    decay = exp(steps * load(rates, s * LANES))
                    h = decay * load(state, s * LANES) + driven * fill(B[at + s])
                    store(state, s * LANES, h)
                    out = out + h * fill(C[at + s])
            else:
                decay = exp(steps * load(rates, 0))
                for s in range(states):
                    h = decay * load(state, s * LANES) + driven * fill(B[at + s])
                    store(state, s * LANES, h)
                    out = out + h * fill(C[at + s])
            store_part(y, row * width + c0, size, spare, out)
        _write_rows(final, (i * width + c0) * states, size, states, state)


@compiled(**EXACT)
def selective_backward(addresses, zero, sizes, reverse, diagonal, first, last):
    (
        grad_y, grad_final, x, dt, A, B, C, D, checkpoints,
        grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_initial,
    ) = pointers(addresses, zero)  # fmt: skip
    batch, tokens, width, groups, states, spans = sizes
    line = states * LANES
    part, spare, rates, carried = zeros(1, zero), zeros(1, zero), zeros(states, zero), zeros(states, zero)
    blocks = (width // spans + LANES - 1) // LANES
    of_A, of_A_total, of_D, of_D_total = zeros(states, zero), zeros(states, zero), zeros(1, zero), zeros(1, zero)
    found = zeros((CHUNK + 1) * states, zero)  # the states that the tokens of a chunk found, and those after the last
    decays = zeros(CHUNK * states if diagonal else CHUNK, zero)
    nothing = fill(zero)
    for unit in range(first, last):
        i, span, block, c0, size = _place(unit, width, spans)
        g = span * groups // spans
        of_block = (span % (spans // groups) * blocks + block) * batch * tokens * groups * states
        part[:] = 0
        found[:line] = 0
        of_A_total[:] = 0
        of_D_total[:] = 0
        skip = load_part(D, c0, size, part)
        _read_rows(grad_final, (i * width + c0) * states, size, states, carried)
        if diagonal:
            _read_rows(A, c0 * states, size, states, rates)
        else:
            store(rates, 0, fill(A[span]))
        for chunk in range((tokens - 1) // CHUNK, -1, -1):
            begin, end = chunk * CHUNK, min(tokens, (chunk + 1) * CHUNK)
            kept = i * ((tokens - 1) // CHUNK + 1) + chunk
            _read_rows(checkpoints, (kept * width + c0) * states, size, states, found)
            for k in range(begin, end):
                row = i * tokens + (tokens - 1 - k if reverse else k)
                steps = load_part(dt, row * width + c0, size, part) if diagonal else fill(dt[row * spans + span])
                driven = steps * load_part(x, row * width + c0, size, part)
                at, here = (row * groups + g) * states, (k - begin) * line
                if diagonal:
                    for s in range(states):
                        decay = exp(steps * load(rates, s * LANES))
                        store(decays, here + s * LANES, decay)
                        h = decay * load(found, here + s * LANES) + driven * fill(B[at + s])
                        store(found, here + line + s * LANES, h)
                else:
                    decay = exp(steps * load(rates, 0))
                    store(decays, (k - begin) * LANES, decay)
                    for s in range(states):
                        h = decay * load(found, here + s * LANES) + driven * fill(B[at + s])
                        store(found, here + line + s * LANES, h)
            of_A[:] = 0
            of_D[:] = 0
            for k in range(end - 1, begin - 1, -1):
                row = i * tokens + (tokens - 1 - k if reverse else k)
                steps = load_part(dt, row * width + c0, size, part) if diagonal else fill(dt[row * spans + span])
                of_x = load_part(x, row * width + c0, size, part)
                gy = load_part(grad_y, row * width + c0, size, part)
                driven, to_driven, to_steps = steps * of_x, nothing, nothing
                at, here = (row * groups + g) * states, (k - begin) * line
                for s in range(states):
                    gradient = load(carried, s * LANES) + gy * fill(C[at + s])
                    grad_B[of_block + at + s], grad_C[of_block + at + s] = totals(
                        gradient * driven, gy * load(found, here + line + s * LANES)
                    )
                    back = gradient * load(decays, here + s * LANES if diagonal else (k - begin) * LANES)
                    store(carried, s * LANES, back)
                    to_exponent = back * load(found, here + s * LANES)
                    to_driven = to_driven + gradient * fill(B[at + s])
                    to_steps = to_steps + to_exponent * load(rates, s * LANES if diagonal else 0)
                    store(of_A, s * LANES, load(of_A, s * LANES) + to_exponent * steps)
                store_part(grad_x, row * width + c0, size, spare, to_driven * steps + skip * gy)
                to_steps = to_driven * of_x + to_steps
                if diagonal:
                    store_part(grad_dt, row * width + c0, size, spare, to_steps)
                else:
                    grad_dt[(block * batch * tokens + row) * spans + span] = totals(to_steps, nothing)[0]
                store(of_D, 0, load(of_D, 0) + gy * of_x)
            # Sums over a chunk, then over the chunks: in float32 a long sum loses less that way.
            store(of_D_total, 0, load(of_D_total, 0) + load(of_D, 0))
            for s in range(states):
                store(of_A_total, s * LANES, load(of_A_total, s * LANES) + load(of_A, s * LANES))
        _write_rows(grad_initial, (i * width + c0) * states, size, states, carried)
        _write_rows(grad_A, (i * width + c0) * states, size, states, of_A_total)
        _write_rows(grad_D, i * width + c0, size, 1, of_D_total)
