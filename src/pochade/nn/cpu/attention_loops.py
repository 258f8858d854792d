# pyright: basic, reportCallIssue=false
"""Attention in one loop each, forward alone: what ``inference`` calls, as ``loops``."""

import math

import numpy as np

from pochade.nn.cpu.loops import TILE
from pochade.nn.cpu.vectors import (
    EXACT,
    LANES,
    compiled,
    exp,
    fill,
    larger,
    largest,
    load,
    load_part,
    number,
    pointers,
    sigmoid,
    store,
    store_part,
    totals,
    zeros,
)

KEYS = 128
"""Of attention that a block of rows has at once."""
_LOWEST = -1e30
"""No score is lower; infinity less infinity is no number."""


@compiled(**EXACT)
def text_state(addresses, zero, sizes, first, last):
    keys, values, weight, state = pointers(addresses, zero)
    tokens, heads, width, of_token, mask_address = sizes
    real = pointers((mask_address,), np.uint8(0))[0]
    part, spare = zeros(1, zero), zeros(1, zero)
    blocks = (width + LANES - 1) // LANES
    normed, most, total = zeros(tokens * blocks, zero), zeros(blocks, zero), zeros(blocks, zero)
    nothing, eps = fill(zero), number(1e-6, zero)
    for unit in range(first, last):
        i, head = divmod(unit, heads)
        most[:] = -np.inf
        total[:] = 0
        for m in range(tokens):
            at = (i * tokens + m) * of_token + head * width
            store(part, 0, nothing)
            squares = nothing
            for block in range(blocks):
                given = load_part(keys, at + block * LANES, min(LANES, width - block * LANES), part)
                squares = squares + given * given
            factor = number(1, zero) / math.sqrt(totals(squares, nothing)[0] / number(width, zero) + eps)
            for block in range(blocks):
                d = block * LANES
                size = min(LANES, width - d)
                key = load_part(keys, at + d, size, part) * fill(factor) * load_part(weight, d, size, spare)
                store(normed, m * blocks * LANES + d, key)
                if real[i * tokens + m]:
                    store(most, d, larger(key, load(most, d)))
        for m in range(tokens):
            for d in range(0, blocks * LANES, LANES):
                at = m * blocks * LANES + d
                share = exp(load(normed, at) - load(most, d)) if real[i * tokens + m] else nothing
                store(normed, at, share)
                store(total, d, load(total, d) + share)
        for row in range(width):
            over = number(1, zero) / total[row] if total[row] > 0 else zero
            for d in range(0, width, LANES):
                size, sum_ = min(LANES, width - d), nothing
                for m in range(tokens):
                    share = fill(normed[m * blocks * LANES + row] * over)
                    at = (i * tokens + m) * of_token + head * width
                    sum_ = sum_ + share * load_part(values, at + d, size, part)
                store_part(state, ((i * heads + head) * width + row) * width + d, size, spare, sum_)


@compiled(**EXACT)
def read_state(addresses, zero, sizes, first, last):
    queries, weight, state, gate, y = pointers(addresses, zero)
    rows, tokens, heads, width = sizes
    part, spare = zeros(1, zero), zeros(1, zero)
    blocks = (width + LANES - 1) // LANES
    shares = zeros(blocks, zero)
    nothing, eps = fill(zero), number(1e-6, zero)
    for unit in range(first, last):
        for row in range(unit * TILE, min(rows, (unit + 1) * TILE)):
            for head in range(heads):
                at, squares = (row * heads + head) * width, nothing
                store(part, 0, nothing)
                for d in range(0, width, LANES):
                    given = load_part(queries, at + d, min(LANES, width - d), part)
                    squares = squares + given * given
                factor = number(1, zero) / math.sqrt(totals(squares, nothing)[0] / number(width, zero) + eps)
                for d in range(0, width, LANES):
                    size = min(LANES, width - d)
                    normed = load_part(queries, at + d, size, part) * fill(factor)
                    store(shares, d, normed * load_part(weight, d, size, spare))
                shares[width:] = -np.inf
                highest = largest(load(shares, 0))
                for d in range(LANES, width, LANES):
                    highest = max(highest, largest(load(shares, d)))
                total = nothing
                for d in range(0, width, LANES):
                    share = exp(load(shares, d) - fill(highest))
                    store(shares, d, share)
                    total = total + share
                over = fill(number(1, zero) / totals(total, nothing)[0])
                of_state = (row // tokens * heads + head) * width * width
                for d in range(0, width, LANES):
                    size, sum_ = min(LANES, width - d), nothing
                    for c in range(width):
                        sum_ = sum_ + fill(shares[c]) * load_part(state, of_state + c * width + d, size, part)
                    opened = sigmoid(load_part(gate, at + d, size, part), zero)
                    store_part(y, at + d, size, spare, sum_ * over * opened)


@compiled(**EXACT)
def attention(addresses, zero, sizes, strides, first, last):
    q, k, v, y = pointers(addresses, zero)
    heads, rows, keys, width, masked, mask_address = sizes
    real, hidden = pointers((mask_address,), np.uint8(0))[0], fill(number(-np.inf, zero))
    of_q, of_k, of_v, of_y = strides
    turned, summed, scores = zeros(width, zero), zeros(width, zero), zeros(min(keys, KEYS), zero)
    blocks, scale = (rows + LANES - 1) // LANES, number(1, zero) / math.sqrt(number(width, zero))
    nothing, step = fill(zero), of_k[2]
    for unit in range(first, last):
        i, r = divmod(unit, heads * blocks)
        head, block = divmod(r, blocks)
        n0 = block * LANES
        size = min(LANES, rows - n0)
        if size < LANES:
            turned[:] = 0
        for row in range(size):
            at = i * of_q[0] + head * of_q[1] + (n0 + row) * of_q[2]
            for d in range(width):
                turned[d * LANES + row] = q[at + d] * scale
        summed[:] = 0
        most, total = fill(number(_LOWEST, zero)), nothing
        for begin in range(0, keys, KEYS):
            count, before = min(KEYS, keys - begin), most
            quads = count // 4 * 4
            for j in range(0, quads, 4):
                at = i * of_k[0] + head * of_k[1] + (begin + j) * step
                a, b, c, e = nothing, nothing, nothing, nothing
                for d in range(width):
                    query = load(turned, d * LANES)
                    a = a + fill(k[at + d]) * query
                    b = b + fill(k[at + step + d]) * query
                    c = c + fill(k[at + 2 * step + d]) * query
                    e = e + fill(k[at + 3 * step + d]) * query
                if masked:
                    of_mask = i * keys + begin + j
                    a = a if real[of_mask] else hidden
                    b = b if real[of_mask + 1] else hidden
                    c = c if real[of_mask + 2] else hidden
                    e = e if real[of_mask + 3] else hidden
                store(scores, j * LANES, a)
                store(scores, (j + 1) * LANES, b)
                store(scores, (j + 2) * LANES, c)
                store(scores, (j + 3) * LANES, e)
                most = larger(larger(larger(a, b), larger(c, e)), most)
            for j in range(quads, count):
                at, a = i * of_k[0] + head * of_k[1] + (begin + j) * step, nothing
                for d in range(width):
                    a = a + fill(k[at + d]) * load(turned, d * LANES)
                if masked and not real[i * keys + begin + j]:
                    a = hidden
                store(scores, j * LANES, a)
                most = larger(a, most)
            if begin:
                fade = exp(before - most)
                total = total * fade
                for d in range(width):
                    store(summed, d * LANES, load(summed, d * LANES) * fade)
            for j in range(count):
                share = exp(load(scores, j * LANES) - most)
                total = total + share
                store(scores, j * LANES, share)
            for j in range(0, quads, 4):
                at = i * of_v[0] + head * of_v[1] + (begin + j) * of_v[2]
                a, b = load(scores, j * LANES), load(scores, (j + 1) * LANES)
                c, e = load(scores, (j + 2) * LANES), load(scores, (j + 3) * LANES)
                for d in range(width):
                    sum_ = load(summed, d * LANES) + fill(v[at + d]) * a
                    sum_ = sum_ + fill(v[at + of_v[2] + d]) * b
                    sum_ = sum_ + fill(v[at + 2 * of_v[2] + d]) * c
                    store(summed, d * LANES, sum_ + fill(v[at + 3 * of_v[2] + d]) * e)
            for j in range(quads, count):
                at, a = i * of_v[0] + head * of_v[1] + (begin + j) * of_v[2], load(scores, j * LANES)
                for d in range(width):
                    store(summed, d * LANES, load(summed, d * LANES) + fill(v[at + d]) * a)
        over = fill(number(1, zero)) / total
        for d in range(width):
            store(summed, d * LANES, load(summed, d * LANES) * over)
        for row in range(size):
            at = i * of_y[0] + head * of_y[1] + (n0 + row) * of_y[2]
            for d in range(width):
                y[at + d] = summed[d * LANES + row]
