# pyright: basic, reportCallIssue=false
"""Parts of networks in one loop each, forward alone: what ``inference`` calls.

Each writes what a composition of torch operators would give, within rounding. The numbers of a token lie without gaps;
tokens may be farther apart where a loop is given how far.
"""

import math

from pochade.nn.cpu.vectors import (
    EXACT,
    LANES,
    compiled,
    exp,
    fill,
    load,
    load_part,
    number,
    pointers,
    sigmoid,
    softplus,
    store,
    store_part,
    tanh,
    totals,
    zeros,
)

TILE = 16
"""Tokens that a unit of hyper-connections has at once: their numbers stay in the nearest cache."""


@compiled(**EXACT)
def hyper_read(addresses, zero, sizes, first, last):
    streams, alpha, beta, weight, alpha_scale, beta_scale, read, connections = pointers(addresses, zero)
    rows, tokens, width, n, of_item, of_stream, of_token = sizes
    each, eps = n + 2, number(1e-5, zero)
    part, spare, room = zeros(1, zero), zeros(1, zero), zeros((TILE * n * each + LANES - 1) // LANES, zero)
    nothing = fill(zero)
    for unit in range(first, last):
        begin, end = unit * TILE, min(rows, (unit + 1) * TILE)
        for row in range(begin, end):
            for j in range(n):
                at = row // tokens * of_item + row % tokens * of_token + j * of_stream
                store(part, 0, nothing)
                total = nothing
                for d in range(0, width, LANES):
                    total = total + load_part(streams, at + d, min(LANES, width - d), part)
                mean = totals(total, nothing)[0] / number(width, zero)
                store(part, 0, fill(mean))  # in the lanes without a number: these add nothing to what is centred
                squares = nothing
                for d in range(0, width, LANES):
                    centred = load_part(streams, at + d, min(LANES, width - d), part) - fill(mean)
                    squares = squares + centred * centred
                scale = number(1, zero) / math.sqrt(totals(squares, nothing)[0] / number(width, zero) + eps)
                for c in range(each):
                    product = nothing
                    for d in range(0, width, LANES):
                        size = min(LANES, width - d)
                        centred = load_part(streams, at + d, size, part) - fill(mean)
                        product = product + centred * load_part(weight, c * width + d, size, spare)
                    room[((row - begin) * n + j) * each + c] = totals(product, nothing)[0] * scale
        for at in range(0, (end - begin) * n * each, LANES):
            store(room, at, tanh(load(room, at), zero))
        for row in range(begin, end):
            for j in range(n):
                here = ((row - begin) * n + j) * each
                for c in range(n + 1):
                    room[here + c] = alpha[j * (n + 1) + c] + alpha_scale[0] * room[here + c]
                room[here + n + 1] = beta[j] + beta_scale[0] * room[here + n + 1]
                for c in range(n + 1):
                    connections[(row * n + j) * (n + 1) + c] = room[here + c + 1]
            at = row // tokens * of_item + row % tokens * of_token
            for d in range(0, width, LANES):
                size, mixed = min(LANES, width - d), nothing
                for j in range(n):
                    factor = fill(room[((row - begin) * n + j) * each])
                    mixed = mixed + factor * load_part(streams, at + j * of_stream + d, size, part)
                store_part(read, row * width + d, size, spare, mixed)
            store(spare, 0, nothing)


@compiled(**EXACT)
def hyper_write(addresses, zero, sizes, first, last):
    streams, connections, layer, out = pointers(addresses, zero)
    rows, tokens, width, n, of_item, of_stream, of_token = sizes
    part, spare = zeros(1, zero), zeros(1, zero)
    for unit in range(first, last):
        for row in range(unit * TILE, min(rows, (unit + 1) * TILE)):
            at = row // tokens * of_item + row % tokens * of_token
            for d in range(0, width, LANES):
                size = min(LANES, width - d)
                given = load_part(layer, row * width + d, size, part)
                for i in range(n):
                    mixed = fill(connections[(row * n + i) * (n + 1) + n]) * given
                    for j in range(n):
                        factor = fill(connections[(row * n + j) * (n + 1) + i])
                        mixed = mixed + factor * load_part(streams, at + j * of_stream + d, size, part)
                    store_part(out, (row * n + i) * width + d, size, spare, mixed)


@compiled(**EXACT)
def path_scan(addresses, zero, sizes, first, last):
    x, selection, bias, logs, skips, y = pointers(addresses, zero)
    tokens, width, heads, states, groups, of_x, divisor, order_address = sizes
    order = pointers((order_address,), number(0, tokens))[0]
    span, each = width // heads, heads + 2 * states
    blocks = (span + LANES - 1) // LANES
    filled = (tokens + LANES - 1) // LANES
    part, spare, state = zeros(1, zero), zeros(1, zero), zeros(states, zero)
    steps, decays = zeros(filled, zero), zeros(filled, zero)
    share = fill(number(1, zero) / number(divisor, zero))
    for unit in range(first, last):
        i, r = divmod(unit, blocks * heads)
        head, block = divmod(r, blocks)
        c0, size = head * span + block * LANES, min(LANES, span - block * LANES)
        store(part, 0, fill(zero))
        for g in range(groups):
            path = g // 2 * tokens
            offset = bias[g * heads + head]
            for k in range(tokens):
                steps[k] = selection[((i * tokens + order[path + k]) * groups + g) * each + head] + offset
            rate = fill(-math.exp(logs[g * heads + head]))
            for at in range(0, tokens, LANES):
                step = softplus(load(steps, at), zero)
                store(steps, at, step)
                store(decays, at, exp(step * rate))
            state[:] = 0
            skip = load_part(skips, g * width + c0, size, part)
            for place in range(tokens):
                k = tokens - 1 - place if g % 2 else place
                row = i * tokens + order[path + k]
                of_token = load_part(x, row * of_x + c0, size, part)
                decay, driven, out = fill(decays[k]), fill(steps[k]) * of_token, skip * of_token
                at = (row * groups + g) * each + heads
                for s in range(states):
                    h = decay * load(state, s * LANES) + driven * fill(selection[at + s])
                    store(state, s * LANES, h)
                    out = out + h * fill(selection[at + states + s])
                if g:
                    out = out + load_part(y, row * width + c0, size, part)
                if g == groups - 1:
                    out = out * share
                store_part(y, row * width + c0, size, spare, out)


@compiled(**EXACT)
def depthwise(addresses, zero, sizes, first, last):
    x, weight, bias, y = pointers(addresses, zero)
    height, width, channels, kernel, of_x, silu, added = sizes
    blocks, half = (channels + LANES - 1) // LANES, kernel // 2
    part, spare, taps = zeros(1, zero), zeros(1, zero), zeros(kernel * kernel, zero)
    for unit in range(first, last):
        i, block = divmod(unit, blocks)
        c0 = block * LANES
        size = min(LANES, channels - c0)
        _read_taps(weight, c0, size, kernel * kernel, taps)
        start = load_part(bias, c0, size, part)
        for row in range(height):
            for column in range(width):
                at = (i * height + row) * width + column
                total = start
                for down in range(max(-half, -row), min(half, height - 1 - row) + 1):
                    for right in range(max(-half, -column), min(half, width - 1 - column) + 1):
                        tap = load(taps, ((down + half) * kernel + right + half) * LANES)
                        total = total + tap * load_part(x, (at + down * width + right) * of_x + c0, size, part)
                if silu:
                    total = total * sigmoid(total, zero)
                if added:
                    total = total + load_part(y, at * channels + c0, size, part)
                store_part(y, at * channels + c0, size, spare, total)


@compiled(**EXACT)
def gated_depthwise(addresses, zero, sizes, first, last):
    x, weight, bias, y = pointers(addresses, zero)
    height, width, channels = sizes
    blocks, of_x = (channels + LANES - 1) // LANES, 2 * channels
    part, spare, taps, gate_taps = zeros(1, zero), zeros(1, zero), zeros(9, zero), zeros(9, zero)
    for unit in range(first, last):
        i, block = divmod(unit, blocks)
        c0 = block * LANES
        size = min(LANES, channels - c0)
        _read_taps(weight, c0, size, 9, taps)
        _read_taps(weight, channels + c0, size, 9, gate_taps)
        value_start, gate_start = load_part(bias, c0, size, part), load_part(bias, channels + c0, size, spare)
        for token in range(height * width):
            for at in (c0, channels + c0):
                place = (i * height * width + token) * of_x + at
                given = load_part(x, place, size, part)
                store_part(x, place, size, spare, given * sigmoid(given, zero))
        for row in range(height):
            for column in range(width):
                at = (i * height + row) * width + column
                value, gate = value_start, gate_start
                for down in range(max(-1, -row), min(1, height - 1 - row) + 1):
                    for right in range(max(-1, -column), min(1, width - 1 - column) + 1):
                        tap = (3 * down + right + 4) * LANES
                        place = (at + down * width + right) * of_x + c0
                        value = value + load(taps, tap) * load_part(x, place, size, part)
                        gate = gate + load(gate_taps, tap) * load_part(x, place + channels, size, part)
                store_part(y, at * channels + c0, size, spare, value * gate * sigmoid(gate, zero))


@compiled(**EXACT)
def _read_taps(weight, at, size, count, taps):
    for c in range(size):
        for tap in range(count):
            taps[tap * LANES + c] = weight[(at + c) * count + tap]


@compiled(**EXACT)
def modulated_norm(addresses, zero, sizes, first, last):
    x, shift, scale, y = pointers(addresses, zero)
    rows, tokens, width, of_x, of_shift, of_scale = sizes
    part, spare = zeros(1, zero), zeros(1, zero)
    one = fill(number(1, zero))
    for unit in range(first, last):
        for row in range(unit * TILE, min(rows, (unit + 1) * TILE)):
            mean, factor = _moments(x, row * of_x, width, part, zero)
            item = row // tokens
            for d in range(0, width, LANES):
                size = min(LANES, width - d)
                normed = (load_part(x, row * of_x + d, size, part) - fill(mean)) * fill(factor)
                found = normed * (one + load_part(scale, item * of_scale + d, size, part))
                found = found + load_part(shift, item * of_shift + d, size, part)
                store_part(y, row * width + d, size, spare, found)


@compiled(**EXACT)
def gated_norm(addresses, zero, sizes, first, last):
    x, weight, bias, gate, y, out = pointers(addresses, zero)
    rows, width, of_gate, mixed = sizes
    part, spare = zeros(1, zero), zeros(1, zero)
    for unit in range(first, last):
        for row in range(unit * TILE, min(rows, (unit + 1) * TILE)):
            mean, factor = _moments(y, row * width, width, part, zero)
            for d in range(0, width, LANES):
                size = min(LANES, width - d)
                normed = (load_part(y, row * width + d, size, part) - fill(mean)) * fill(factor)
                normed = normed * load_part(weight, d, size, part)
                given = load_part(gate, row * of_gate + d, size, part)
                opened = sigmoid(given, zero)
                if mixed:
                    beside = load_part(x, row * width + d, size, part)
                    found = beside + opened * (normed + load_part(bias, d, size, part) - beside)
                    store_part(out, row * width + d, size, spare, found)
                else:
                    store_part(out, row * width + d, size, spare, normed * given * opened)


@compiled(**EXACT, inline="always")
def _moments(x, at, width, part, zero):
    """The mean of a token and one over its standard deviation."""
    nothing = fill(zero)
    store(part, 0, nothing)
    total = nothing
    for d in range(0, width, LANES):
        total = total + load_part(x, at + d, min(LANES, width - d), part)
    mean = totals(total, nothing)[0] / number(width, zero)
    store(part, 0, fill(mean))
    squares = nothing
    for d in range(0, width, LANES):
        centred = load_part(x, at + d, min(LANES, width - d), part) - fill(mean)
        squares = squares + centred * centred
    variance = totals(squares, nothing)[0] / number(width, zero)
    return mean, number(1, zero) / math.sqrt(variance + number(1e-6, zero))


@compiled(**EXACT)
def reason(addresses, zero, sizes, rest, first, last):
    y, gate, w_in, b_in, w_out, b_out, w_keep, b_keep, w_halt, b_halt, r, thought, left, taken = pointers(
        addresses, zero
    )
    tokens, width, hidden, of_gate, may_halt, is_last = sizes
    part, spare = zeros(1, zero), zeros(1, zero)
    mean, inside = zeros((width + LANES - 1) // LANES, zero), zeros((hidden + LANES - 1) // LANES, zero)
    both, kept = zeros((2 * width + LANES - 1) // LANES, zero), zeros((width + LANES - 1) // LANES, zero)
    nothing, one = fill(zero), number(1, zero)
    for i in range(first, last):
        squares = nothing
        store(spare, 0, nothing)
        for d in range(0, width, LANES):
            size, total = min(LANES, width - d), nothing
            for row in range(i * tokens, (i + 1) * tokens):
                given = load_part(gate, row * of_gate + d, size, part)
                total = total + load_part(y, row * width + d, size, spare) * given * sigmoid(given, zero)
            total = total * fill(one / number(tokens, zero))
            squares = squares + total * total
            store(mean, d, total)
        square = totals(squares, nothing)[0] / number(width, zero)
        factor = fill(one / math.sqrt(square + number(1e-6, zero)))
        for d in range(0, width, LANES):
            store(mean, d, load(mean, d) * factor)
        _product(w_in, b_in, hidden, width, mean, inside, zero)
        for d in range(hidden):
            inside[d] *= (one + math.erf(inside[d] * number(math.sqrt(0.5), zero))) / number(2, zero)
        _product(w_out, b_out, width, hidden, inside, mean, zero)
        for d in range(width):
            both[d], both[width + d] = r[i * width + d], mean[d]
        _product(w_keep, b_keep, width, 2 * width, both, kept, zero)
        for d in range(0, width, LANES):
            opened, candidate = sigmoid(load(kept, d), zero), load(mean, d)
            store(kept, d, candidate + opened * (load(both, d) - candidate))
        share = left[i] if is_last else zero
        if may_halt and not is_last:
            score = b_halt[0]
            for d in range(width):
                score += w_halt[d] * kept[d]
            share = left[i] / (one + math.exp(-score))
            share = left[i] if left[i] - share <= number(rest, zero) else share
        for d in range(width):
            r[i * width + d] = kept[d]
            thought[i * width + d] += share * kept[d]
        taken[i] += one if left[i] > zero else zero
        left[i] -= share


@compiled(**EXACT)
def _product(weight, bias, rows, width, given, out, zero):
    """W x + b of x whose last vector ends in zeros."""
    part, spare, nothing = zeros(1, zero), zeros(1, zero), fill(zero)
    for row in range(0, rows, 2):
        other, a, b = min(row + 1, rows - 1), nothing, nothing
        for d in range(0, width, LANES):
            size, x = min(LANES, width - d), load(given, d)
            a = a + load_part(weight, row * width + d, size, part) * x
            b = b + load_part(weight, other * width + d, size, spare) * x
        sums = totals(a, b)
        out[row], out[other] = sums[0] + bias[row], sums[1] + bias[other]
