# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (The bodies of kernels are in Triton's language, whose types Python's checkers do not know.)
"""The recurrences on CUDA: Triton kernels, forward and backward. Imported only where this backend is chosen.

How the work is cut. A token of a linear recurrence costs one multiply-add for twelve bytes of traffic, so what counts
is how many loads are in flight. A program of one warp walks over the tokens of a block of channels with the state in
registers: the plain loop, so no running product and no division. It asks for a batch of tokens before it uses the
batch before; a scan across tiles of tokens would have as much in flight, and need shuffles and barriers on top.

Where batch and channels make too few programs for the GPU, the tokens are cut into segments, in three passes: every
segment's end from a zero state, with the product of its decays; the same recurrence over these few pairs, which yields
every segment's entry; the walk itself. The first pass reads the inputs once more, but where so few channels call for it
they are mostly still in the second-level cache afterwards.

``reverse`` is arithmetic on indices: step t of 0 .. N - 1 is token t, or token N - 1 - t. Steps past N are identities
(decay 1, input 0). All offsets grow from a 64-bit program index.

Signatures and shapes: ``contract``. Scans with one decay a head are matrix products, left to torch: ``composed``.
"""

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pochade.nn.scan import composed
from pochade.nn.scan.contract import CHUNK, Gradients, Inputs, chunks, state_dtype

_DTYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def _rows(pointer, stride, left, fill: tl.constexpr, COUNT: tl.constexpr):
    """COUNT rows from ``pointer`` on as a tuple, ``fill`` from row ``left`` (of each column) on.

    Values keep their type here: a conversion would wait for its load before the next one is issued.
    """
    rows = ()
    for u in tl.static_range(COUNT):
        rows = rows + (tl.load(pointer, mask=u < left, other=fill),)  # noqa: RUF005
        pointer += stride
    return rows


@triton.jit
def _origin(item, N, stride, REVERSE: tl.constexpr):
    """Offset of step 0 of an item of a [B, N, ``stride``] tensor, and the offset between steps."""
    origin = item * N * stride
    if REVERSE:
        origin += (N - 1) * tl.full((), stride, tl.int64)
    return origin, -stride if REVERSE else stride


@triton.jit
def _linear_kernel(
    a, b, entries, h, products, ends, states, initial, grad_a, final, N, D, segments, length,
    REVERSE: tl.constexpr, ADJOINT: tl.constexpr, STATE: tl.constexpr, COUNT: tl.constexpr,
    BLOCK_D: tl.constexpr
):  # fmt: skip
    """h_t = a_t h_(t-1) + b_t, or h_t = a_(t-1) h_(t-1) + b_t, for one batch item, segment and block of channels.

    The second is the adjoint of the first; a_t h_t is what it carries on. With ``ends``, the segment's product of
    decays and its end go to slot ``segment + 1``. With ``grad_a``, the adjoint meets the ``states`` of the first
    backwards.
    """
    program = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(D, BLOCK_D)
    column = (program % blocks * BLOCK_D).to(tl.int32) + tl.arange(0, BLOCK_D)
    segment = program // blocks % segments
    item = program // blocks // segments
    inside = column < D
    origin, stride = _origin(item, N, D, REVERSE)
    end = tl.where(inside, N, 0)
    first = segment * length
    last = tl.minimum(first + length, N)

    carried = tl.zeros((BLOCK_D,), STATE)
    edge = tl.zeros((BLOCK_D,), STATE)
    product = tl.full((BLOCK_D,), 1, STATE)
    if entries is not None:
        carried = tl.load(entries + (item * segments + segment) * D + column, mask=inside, other=0).to(STATE)
    if initial is not None:
        edge = tl.load(initial + item * D + column, mask=inside, other=0).to(STATE)
    row = origin + first * stride
    left = (end - first).to(tl.int32)
    next_decays = _rows(a + row + column, stride, left, 1.0, COUNT)
    next_values = _rows(b + row + column, stride, left, 0.0, COUNT)
    for _ in range(tl.cdiv(last - first, COUNT)):
        decays = next_decays
        values = next_values
        next_decays = _rows(a + row + COUNT * stride + column, stride, left - COUNT, 1.0, COUNT)
        next_values = _rows(b + row + COUNT * stride + column, stride, left - COUNT, 0.0, COUNT)
        if grad_a is not None:
            befores = _rows(states + row + stride + column, stride, left - 1, 0.0, COUNT)
        for u in tl.static_range(COUNT):
            decay = decays[u].to(STATE)
            value = values[u].to(STATE)
            if ADJOINT:
                value += carried
                carried = decay * value
            else:
                value += decay * carried
                carried = value
            if h is not None:
                tl.store(h + row + column, value, mask=u < left)
            if ends is not None:
                product *= decay
            if grad_a is not None:
                before = tl.where(u < left - 1, befores[u].to(STATE), edge)
                tl.store(grad_a + row + column, value * before, mask=u < left)
            row += stride
        left -= COUNT
    if ends is not None:
        slot = (item * (segments + 1) + segment + 1) * D + column
        tl.store(products + slot, product, mask=inside)
        tl.store(ends + slot, carried, mask=inside)
    if final is not None and segment == segments - 1:
        tl.store(final + item * D + column, carried, mask=inside)


@triton.jit
def _place(D, G, segments, BLOCK_D: tl.constexpr):
    """What one program of the selective scan works on: item, segment, group, its block's index, channels, inside."""
    program = tl.program_id(0).to(tl.int64)
    width = D // G
    blocks = tl.cdiv(width, BLOCK_D)
    block = program % blocks
    group = program // blocks % G
    segment = program // blocks // G % segments
    item = program // blocks // G // segments
    local = block * BLOCK_D + tl.arange(0, BLOCK_D)
    return item, segment, group, block, group * width + local, local < width


@triton.jit
def _ends_kernel(
    scale, dt, A, vector, products, ends, N, D, S, G, segments, length, REVERSE: tl.constexpr,
    ADJOINT: tl.constexpr, STATE: tl.constexpr, COUNT: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr
):  # fmt: skip
    """Ends and products of decays of segments, from a zero state: of h (scale x, vector B), or of its adjoint walked
    backwards (scale grad_y, vector C), whose segments are counted from the last."""
    item, segment, group, _, channel, inside = _place(D, G, segments, BLOCK_D)
    index = tl.arange(0, BLOCK_S)
    cell = channel[:, None] * S + index[None, :]
    cells = inside[:, None] & (index < S)[None, :]
    slot = (item * (segments + 1) + segment + 1) * D * S + cell
    if ADJOINT:
        segment = segments - segment
    wide, wide_stride = _origin(item, N, D, REVERSE)
    wide += channel
    thin, thin_stride = _origin(item, N, G * S, REVERSE)
    thin += group * S + index
    end = tl.where(inside, N, 0)
    end_S = tl.where(index < S, N, 0)
    first = segment * length
    last = tl.minimum(first + length, N)

    rates = tl.load(A + cell, mask=cells, other=0).to(STATE)
    state = tl.zeros((BLOCK_D, BLOCK_S), STATE)
    total = tl.zeros((BLOCK_D,), STATE)
    batches = tl.cdiv(last - first, COUNT)
    for i in range(batches):
        start = first + (batches - 1 - i if ADJOINT else i) * COUNT
        left, left_S = (end - start).to(tl.int32), (end_S - start).to(tl.int32)
        row, row_S = wide + start * wide_stride, thin + start * thin_stride
        scales = _rows(scale + row, wide_stride, left, 0.0, COUNT)
        dts = _rows(dt + row, wide_stride, left, 0.0, COUNT)
        vectors = _rows(vector + row_S, thin_stride, left_S, 0.0, COUNT)
        for u in tl.static_range(COUNT - 1 if ADJOINT else 0, -1 if ADJOINT else COUNT, -1 if ADJOINT else 1):
            step = dts[u].to(STATE)
            decay = tl.exp(step[:, None] * rates)
            value = scales[u].to(STATE)
            if ADJOINT:
                state = decay * (state + value[:, None] * vectors[u].to(STATE)[None, :])
            else:
                state = decay * state + (step * value)[:, None] * vectors[u].to(STATE)[None, :]
            total += step
    tl.store(products + slot, tl.exp(total[:, None] * rates), mask=cells)
    tl.store(ends + slot, state, mask=cells)


@triton.jit
def _diagonal_kernel(
    x, dt, A, B, C, skip, entries, y, final, checkpoints, N, D, S, G, segments, length, REVERSE: tl.constexpr,
    STATE: tl.constexpr, CHUNK: tl.constexpr, COUNT: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr
):  # fmt: skip
    """The selective scan of one batch item, segment and block of channels."""
    item, segment, group, _, channel, inside = _place(D, G, segments, BLOCK_D)
    index = tl.arange(0, BLOCK_S)
    cell = channel[:, None] * S + index[None, :]
    cells = inside[:, None] & (index < S)[None, :]
    wide, wide_stride = _origin(item, N, D, REVERSE)
    wide += channel
    thin, thin_stride = _origin(item, N, G * S, REVERSE)
    thin += group * S + index
    end = tl.where(inside, N, 0)
    end_S = tl.where(index < S, N, 0)
    first = segment * length
    last = tl.minimum(first + length, N)

    rates = tl.load(A + cell, mask=cells, other=0).to(STATE)
    through = tl.zeros((BLOCK_D,), STATE)
    if skip is not None:
        through = tl.load(skip + channel, mask=inside, other=0).to(STATE)
    state = tl.zeros((BLOCK_D, BLOCK_S), STATE)
    if entries is not None:
        state = tl.load(entries + (item * segments + segment) * D * S + cell, mask=cells, other=0).to(STATE)
    for i in range(tl.cdiv(last - first, COUNT)):
        start = first + i * COUNT
        if start % CHUNK == 0:
            chunk = item * tl.cdiv(N, CHUNK) + start // CHUNK
            tl.store(checkpoints + chunk * D * S + cell, state, mask=cells)
        left, left_S = (end - start).to(tl.int32), (end_S - start).to(tl.int32)
        row, row_S = wide + start * wide_stride, thin + start * thin_stride
        xs = _rows(x + row, wide_stride, left, 0.0, COUNT)
        dts = _rows(dt + row, wide_stride, left, 0.0, COUNT)
        Bs = _rows(B + row_S, thin_stride, left_S, 0.0, COUNT)
        Cs = _rows(C + row_S, thin_stride, left_S, 0.0, COUNT)
        for u in tl.static_range(COUNT):
            step = dts[u].to(STATE)
            value = xs[u].to(STATE)
            state = tl.exp(step[:, None] * rates) * state + (step * value)[:, None] * Bs[u].to(STATE)[None, :]
            out = tl.sum(state * Cs[u].to(STATE)[None, :], axis=1) + through * value
            tl.store(y + row, out, mask=u < left)
            row += wide_stride
    if segment == segments - 1:
        tl.store(final + item * D * S + cell, state, mask=cells)


@triton.jit
def _diagonal_backward_kernel(
    grad_y, x, dt, A, B, C, skip, entries, checkpoints, scratch, grad_x, grad_dt, grad_A, grad_B, grad_C,
    grad_skip, grad_initial, N, D, S, G, items, segments, length, REVERSE: tl.constexpr, STATE: tl.constexpr,
    CHUNK: tl.constexpr, COUNT: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr
):  # fmt: skip
    """The adjoint of the scan, chunk by chunk from the last.

    A chunk is walked forward once to leave the state at the entry of each batch of COUNT tokens in ``scratch`` (a
    fraction of the chunk's states, small enough for the caches); then batch by batch from the last: forward with all
    its states in registers, and backward. Sums over channels end in one partial sum a block, sums over tokens in one a
    program: whoever launches adds them up, always in the same order.
    """
    item, segment, group, block, channel, inside = _place(D, G, segments, BLOCK_D)
    index = tl.arange(0, BLOCK_S)
    cell = channel[:, None] * S + index[None, :]
    cells = inside[:, None] & (index < S)[None, :]
    wide, wide_stride = _origin(item, N, D, REVERSE)
    wide += channel
    thin, thin_stride = _origin(item, N, G * S, REVERSE)
    thin += group * S + index
    partial = block * items * N * G * S
    square = tl.arange(0, BLOCK_D)[:, None] * BLOCK_S + index[None, :]
    scratch += tl.program_id(0).to(tl.int64) * (CHUNK // COUNT * BLOCK_D * BLOCK_S)
    end = tl.where(inside, N, 0)
    end_S = tl.where(index < S, N, 0)
    first = segment * length
    last = tl.minimum(first + length, N)

    rates = tl.load(A + cell, mask=cells, other=0).to(STATE)
    through = tl.zeros((BLOCK_D,), STATE)
    if skip is not None:
        through = tl.load(skip + channel, mask=inside, other=0).to(STATE)
    # decay_(t+1) times the adjoint of h_(t+1): what reaches h_t from later steps.
    carried = tl.zeros((BLOCK_D, BLOCK_S), STATE)
    if entries is not None:
        entry = (item * segments + segments - 1 - segment) * D * S
        carried = tl.load(entries + entry + cell, mask=cells, other=0).to(STATE)
    sum_A = tl.zeros((BLOCK_D, BLOCK_S), STATE)
    sum_skip = tl.zeros((BLOCK_D,), STATE)

    pieces = tl.cdiv(last - first, CHUNK)
    for i in range(pieces):
        begin = first + (pieces - 1 - i) * CHUNK
        # Sums over a chunk, then over the chunks: a long sum in float32 loses less that way.
        chunk_A = tl.zeros((BLOCK_D, BLOCK_S), STATE)
        chunk_skip = tl.zeros((BLOCK_D,), STATE)
        batches = tl.cdiv(tl.minimum(CHUNK, N - begin), COUNT)
        chunk = item * tl.cdiv(N, CHUNK) + begin // CHUNK
        state = tl.load(checkpoints + chunk * D * S + cell, mask=cells, other=0).to(STATE)
        tl.debug_barrier()  # the chunk before has been read
        tl.store(scratch + square, state)
        for j in range(batches - 1):
            start = begin + j * COUNT
            left, left_S = (end - start).to(tl.int32), (end_S - start).to(tl.int32)
            row, row_S = wide + start * wide_stride, thin + start * thin_stride
            xs = _rows(x + row, wide_stride, left, 0.0, COUNT)
            dts = _rows(dt + row, wide_stride, left, 0.0, COUNT)
            Bs = _rows(B + row_S, thin_stride, left_S, 0.0, COUNT)
            for u in tl.static_range(COUNT):
                step = dts[u].to(STATE)
                inflow = (step * xs[u].to(STATE))[:, None] * Bs[u].to(STATE)[None, :]
                state = tl.exp(step[:, None] * rates) * state + inflow
            tl.store(scratch + (j + 1) * (BLOCK_D * BLOCK_S) + square, state)
        tl.debug_barrier()  # this chunk has been written
        for j in range(batches):
            back = batches - 1 - j
            start = begin + back * COUNT
            left, left_S = (end - start).to(tl.int32), (end_S - start).to(tl.int32)
            row, row_S = wide + start * wide_stride, thin + start * thin_stride
            xs = _rows(x + row, wide_stride, left, 0.0, COUNT)
            dts = _rows(dt + row, wide_stride, left, 0.0, COUNT)
            grads = _rows(grad_y + row, wide_stride, left, 0.0, COUNT)
            Bs = _rows(B + row_S, thin_stride, left_S, 0.0, COUNT)
            Cs = _rows(C + row_S, thin_stride, left_S, 0.0, COUNT)
            state = tl.load(scratch + back * (BLOCK_D * BLOCK_S) + square)
            befores = ()
            for u in tl.static_range(COUNT):
                befores = befores + (state,)  # noqa: RUF005
                step = dts[u].to(STATE)
                inflow = (step * xs[u].to(STATE))[:, None] * Bs[u].to(STATE)[None, :]
                state = tl.exp(step[:, None] * rates) * state + inflow
            row += COUNT * wide_stride
            row_S += COUNT * thin_stride
            for u in tl.static_range(COUNT - 1, -1, -1):
                row -= wide_stride
                row_S -= thin_stride
                step = dts[u].to(STATE)
                value = xs[u].to(STATE)
                grad = grads[u].to(STATE)
                vector = Bs[u].to(STATE)[None, :]
                adjoint = carried + grad[:, None] * Cs[u].to(STATE)[None, :]
                carried = tl.exp(step[:, None] * rates) * adjoint
                kept = carried * befores[u]
                inflow = tl.sum(adjoint * vector, axis=1)
                tl.store(grad_x + row, step * inflow + through * grad, mask=u < left)
                tl.store(grad_dt + row, tl.sum(kept * rates, axis=1) + value * inflow, mask=u < left)
                tl.store(grad_B + partial + row_S, tl.sum(adjoint * (step * value)[:, None], axis=0), mask=u < left_S)
                tl.store(grad_C + partial + row_S, tl.sum(state * grad[:, None], axis=0), mask=u < left_S)
                state = befores[u]
                chunk_A += kept * step[:, None]
                chunk_skip += grad * value
        sum_A += chunk_A
        sum_skip += chunk_skip
    part = item * segments + segment
    tl.store(grad_A + part * D * S + cell, sum_A, mask=cells)
    tl.store(grad_skip + part * D + channel, sum_skip, mask=inside)
    if segment == 0:
        tl.store(grad_initial + item * D * S + cell, carried, mask=cells)


def _launch(kernel: Any, programs: int, *arguments: Any, like: Tensor, **options: Any) -> None:
    # One warp a program: barriers cost nothing, and many programs share a multiprocessor.
    with torch.cuda.device(like.device) if like.is_cuda else nullcontext():
        kernel[(programs,)](*arguments, **options, num_warps=1, enable_fp_fusion=True)


def _cut(like: Tensor, tokens: int, piece: int, programs: int, enough: float) -> tuple[int, int]:
    """Segments of the tokens and the length of one, a multiple of ``piece``.

    With ``enough`` of the uncut ``programs`` for each multiprocessor, reading the inputs twice would cost more than
    more programs gain.
    """
    # The interpreter has no multiprocessors: two, so that small sizes take both ways.
    processors = torch.cuda.get_device_properties(like.device).multi_processor_count if like.is_cuda else 2
    pieces = triton.cdiv(tokens, piece)
    if programs >= enough * processors:
        return 1, pieces * piece
    length = triton.cdiv(pieces, min(pieces, triton.cdiv(8 * processors, programs))) * piece
    return triton.cdiv(tokens, length), length


def _linear(
    a: Tensor, b: Tensor, initial: Tensor | None, out: Tensor, reverse: bool, gradient: tuple[Tensor | None, ...] = ()
) -> None:
    """Fill ``out`` by the recurrence, or by its adjoint with ``gradient``: states, initial, grad_a, grad_initial."""
    batch, tokens, width = a.shape
    if not a.numel():
        return
    dtype = state_dtype(a, b)
    block = min(32, triton.next_power_of_2(width))
    programs = batch * triton.cdiv(width, block)
    # Two warps on three multiprocessors, with two batches of rows in flight each, come near the memory's bandwidth.
    segments, length = _cut(a, tokens, CHUNK, programs, 2 / 3)
    options = {
        "REVERSE": reverse,
        "ADJOINT": bool(gradient),
        "STATE": _DTYPES[dtype],
        "COUNT": (16 if gradient else 32) * 4 // dtype.itemsize,  # what registers hold
        "BLOCK_D": block,
        "like": a,
    }
    entries, nothing = initial, (None,) * 4
    if segments > 1:
        products, ends = (a.new_zeros(batch, segments, width, dtype=dtype) for _ in range(2))
        if initial is not None:
            ends[:, 0] = initial
        arguments = (a, b, None, None, products, ends, *nothing, tokens, width, segments - 1, length)
        _launch(_linear_kernel, programs * (segments - 1), *arguments, **options)
        entries = torch.empty_like(ends)
        _linear(products, ends, None, entries, False)
    arguments = (a, b, entries, out, None, None, *(gradient or nothing), tokens, width, segments, length)
    _launch(_linear_kernel, programs * segments, *arguments, **options)


def linear_forward(a: Tensor, b: Tensor, initial: Tensor | None, reverse: bool) -> Tensor:
    h = b.new_empty(b.shape, dtype=torch.promote_types(a.dtype, b.dtype))
    _linear(a.contiguous(), b.contiguous(), _packed(initial), h, reverse)
    return h


def linear_backward(
    grad: Tensor, a: Tensor, h: Tensor, initial: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_a, grad_b = (a.new_empty(a.shape, dtype=state_dtype(a, h)) for _ in range(2))
    grad_initial = torch.empty_like(grad_b[:, 0])
    gradient = (h.contiguous(), _packed(initial), grad_a, grad_initial)
    _linear(a.contiguous(), grad.contiguous(), None, grad_b, not reverse, gradient)
    return grad_a, grad_b, grad_initial


def _packed(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


class _Scan:
    """The inputs of a selective scan, its cut into programs, and its launches."""

    def __init__(self, inputs: Inputs, reverse: bool) -> None:
        self.inputs = Inputs(*(_packed(t) for t in inputs))  # pyright: ignore[reportArgumentType]
        self.batch, self.tokens, self.width = inputs.x.shape
        groups, states = inputs.B.shape[2:]
        self.dtype = state_dtype(*inputs)
        per_group, block_S = self.width // groups, triton.next_power_of_2(states)
        # 256 cells of state are eight a thread.
        self.block = min(triton.next_power_of_2(per_group), max(256 // block_S, 1), 64)
        self.blocks = triton.cdiv(per_group, self.block)
        self.programs = self.batch * groups * self.blocks
        self.segments, self.length = _cut(inputs.x, self.tokens, CHUNK, max(self.programs, 1), 2)
        self.count = 8 * 4 // self.dtype.itemsize  # tokens at once, by what registers hold; the backward takes half
        self.sizes = (self.tokens, self.width, states, groups)
        self.states = (self.width, states)
        self.options: dict[str, Any] = {
            "REVERSE": reverse,
            "STATE": _DTYPES[self.dtype],
            "BLOCK_D": self.block,
            "BLOCK_S": block_S,
            "like": inputs.x,
        }

    def empty(self, *shape: int) -> Tensor:
        return self.inputs.x.new_empty(shape, dtype=self.dtype)

    def launch(self, kernel: Any, segments: int, *arguments: Any, **options: Any) -> None:
        _launch(kernel, self.programs * segments, *arguments, segments, self.length, **self.options, **options)

    def entries(self, scale: Tensor, vector: Tensor, start: Tensor | None, adjoint: bool) -> Tensor | None:
        """The state, or what the adjoint carries, at the entry of every segment: [B, segments, D, S]."""
        if self.segments == 1:
            return start
        shape = (self.batch, self.segments, *self.states)
        products, ends = (torch.zeros_like(self.empty(*shape)) for _ in range(2))
        if start is not None:
            ends[:, 0] = start
        arguments = (scale, self.inputs.dt, self.inputs.A, vector, products, ends, *self.sizes)
        self.launch(_ends_kernel, self.segments - 1, *arguments, ADJOINT=adjoint, COUNT=self.count)
        entries = torch.empty_like(ends)
        _linear(products.flatten(2), ends.flatten(2), None, entries.flatten(2), False)
        return entries


def selective_forward(inputs: Inputs, initial: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    if inputs.A.dim() == 1:
        return composed.selective_forward(inputs, initial, reverse)
    scan = _Scan(inputs, reverse)
    x, _, _, B, _, _ = scan.inputs
    y, final = torch.empty_like(x), scan.empty(scan.batch, *scan.states)
    checkpoints = scan.empty(scan.batch, chunks(scan.tokens), *scan.states)
    if scan.programs:
        entries = scan.entries(x, B, _packed(initial), adjoint=False)
        arguments = (*scan.inputs, entries, y, final, checkpoints, *scan.sizes)
        scan.launch(_diagonal_kernel, scan.segments, *arguments, CHUNK=CHUNK, COUNT=scan.count)
    return y, final, checkpoints


def selective_backward(
    grad_y: Tensor, grad_final: Tensor, inputs: Inputs, checkpoints: Tensor, reverse: bool
) -> Gradients:
    if inputs.A.dim() == 1:
        return composed.selective_backward(grad_y, grad_final, inputs, checkpoints, reverse)
    scan = _Scan(inputs, reverse)
    grad_y, count = grad_y.contiguous(), scan.count // 2
    to_x, to_dt = scan.empty(*inputs.x.shape), scan.empty(*inputs.x.shape)
    parts = scan.batch * scan.segments
    to_A, to_D = scan.empty(parts, *scan.states), scan.empty(parts, scan.width)
    to_B, to_C = (scan.empty(scan.blocks, *inputs.B.shape) for _ in range(2))
    to_initial = scan.empty(scan.batch, *scan.states)
    if scan.programs:
        entries = scan.entries(grad_y, scan.inputs.C, grad_final.contiguous(), adjoint=True)
        scratch = scan.empty(scan.programs * scan.segments, CHUNK // count, scan.block, scan.options["BLOCK_S"])
        gradients = (to_x, to_dt, to_A, to_B, to_C, to_D, to_initial)
        arguments = (grad_y, *scan.inputs, entries, checkpoints, scratch, *gradients, *scan.sizes, scan.batch)
        scan.launch(_diagonal_backward_kernel, scan.segments, *arguments, CHUNK=CHUNK, COUNT=count)
    return Gradients(to_x, to_dt, to_A.sum(0), to_B.sum(0), to_C.sum(0), to_D.sum(0), to_initial)
