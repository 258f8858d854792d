# Numba's extension interface has no types, and calls its functions without their first argument.
# pyright: basic, reportCallIssue=false, reportOptionalCall=false, reportAttributeAccessIssue=false
"""The loops of the scans on a CPU, compiled by Numba, over vectors of ``LANES`` neighbouring channels.

A vector is one value of LLVM, which puts it into as many registers as it takes. Loops over arrays become vector
instructions only where LLVM can prove that no two arrays overlap, and read and write every operand of every step.
Products and sums may be contracted to one rounding; nothing else is reordered but ``totals``.

Each loop gets the addresses of its tensors, inputs first, whose numbers lie without gaps in the shapes of
``contract``, a zero of their type, and the range of units that it computes. Sums over channels, the gradients of B, C
and of a dt of heads, have a leading axis of blocks [blocks, ...].

All is in one file, since Numba compiles anew what is kept on disk when the file of a function changes, and no other.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.registry import cpu_target
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

from pochade.nn.scan.contract import CHUNK

_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2]  # a part of the key of what Numba keeps on disk
_REGISTER = 16 if "+avx512f" in _FEATURES else 8 if "+avx" in _FEATURES else 4  # numbers of float32
LANES = 4 * _REGISTER
"""Four registers: what is computed of one need not wait for what is computed of the others."""

_CONTRACT = ("contract",)
_ANY_ORDER = ("contract", "reassoc")


class Vector(types.Type):
    """``LANES`` numbers of ``dtype``."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


VECTORS = tuple(Vector(dtype) for dtype in (types.float32, types.float64))


def _element(dtype: Any) -> ir.Type:
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(_element(vector.dtype), LANES))


def _define(function: Any, name: str) -> None:
    infer_global(function)(type(name, (ConcreteTemplate,), {"cases": [signature(v, v, v) for v in VECTORS]}))

    @lower_builtin(function, Vector, Vector)
    def lower(context: Any, builder: Any, of: Any, given: Any) -> Any:
        return getattr(builder, name)(*given, flags=_CONTRACT)


for _function, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _define(_function, _name)


def _spread(builder: Any, value: Any) -> Any:
    whole = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(whole, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return builder.shuffle_vector(first, first, zeros)


@intrinsic
def fill(typing_context: Any, value: Any) -> Any:
    """A vector of one number."""

    def generate(context: Any, builder: Any, of: Any, given: Any) -> Any:
        return _spread(builder, given[0])

    return Vector(value)(value), generate


@intrinsic
def pointers(typing_context: Any, addresses: Any, like: Any) -> Any:
    """The numbers at each of some addresses, of the type of ``like``."""

    def generate(context: Any, builder: Any, of: Any, given: Any) -> Any:
        kind = _element(like).as_pointer()
        found = [builder.inttoptr(address, kind) for address in cgutils.unpack_tuple(builder, given[0])]
        return context.make_tuple(builder, of.return_type, found)

    return types.UniTuple(types.CPointer(like), addresses.count)(addresses, like), generate


def _at(context: Any, builder: Any, kind: Any, numbers: Any, index: Any) -> Any:
    """Where an element of an array without gaps, or of the numbers at a pointer, lies."""
    if not isinstance(kind, types.CPointer):
        numbers = context.make_array(kind)(context, builder, numbers).data
    return builder.gep(numbers, [index])


def _as_vector(builder: Any, place: Any, dtype: Any) -> Any:
    return builder.bitcast(place, ir.VectorType(_element(dtype), LANES).as_pointer())


@intrinsic
def load(typing_context: Any, numbers: Any, index: Any) -> Any:
    """``LANES`` numbers of an array without gaps or at a pointer, from the element ``index`` on."""
    dtype = numbers.dtype

    def generate(context: Any, builder: Any, of: Any, given: Any) -> Any:
        place = _at(context, builder, numbers, *given)
        return builder.load(_as_vector(builder, place, dtype), align=dtype.bitwidth // 8)

    return Vector(dtype)(numbers, types.intp), generate


@intrinsic
def store(typing_context: Any, numbers: Any, index: Any, vector: Any) -> Any:
    """Writes a vector to an array without gaps or a pointer, from the element ``index`` on."""

    def generate(context: Any, builder: Any, of: Any, given: Any) -> Any:
        place = _at(context, builder, numbers, *given[:2])
        builder.store(given[2], _as_vector(builder, place, vector.dtype), align=vector.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(numbers, types.intp, vector), generate


def _copy(builder: Any, source: Any, target: Any, count: Any) -> None:
    with cgutils.for_range(builder, count) as loop:
        builder.store(builder.load(builder.gep(source, [loop.index])), builder.gep(target, [loop.index]))


@intrinsic
def load_part(typing_context: Any, numbers: Any, index: Any, count: Any, spare: Any) -> Any:
    """``load`` of at most ``LANES`` numbers; those of the array ``spare`` take the other lanes.

    Numba counts the references to each array that a function of its own is called with, which takes longer than this.
    """
    dtype = numbers.dtype

    def generate(context: Any, builder: Any, of: Any, given: Any) -> Any:
        source = _at(context, builder, numbers, *given[:2])
        part = _at(context, builder, spare, given[3], ir.Constant(given[1].type, 0))
        chosen = cgutils.alloca_once_value(builder, source)
        with builder.if_then(builder.icmp_signed("<", given[2], ir.Constant(given[2].type, LANES)), likely=False):
            _copy(builder, source, part, given[2])
            builder.store(part, chosen)
        return builder.load(_as_vector(builder, builder.load(chosen), dtype), align=dtype.bitwidth // 8)

    return Vector(dtype)(numbers, types.intp, types.intp, spare), generate


@intrinsic
def store_part(typing_context: Any, numbers: Any, index: Any, count: Any, spare: Any, vector: Any) -> Any:
    """``store`` of the first ``count`` numbers of a vector; the array ``spare`` of ``LANES`` may be changed."""
    size = vector.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, of: Any, given: Any) -> Any:
        target = _at(context, builder, numbers, *given[:2])
        part = _at(context, builder, spare, given[3], ir.Constant(given[1].type, 0))
        whole = builder.icmp_signed(">=", given[2], ir.Constant(given[2].type, LANES))
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                builder.store(given[4], _as_vector(builder, target, vector.dtype), align=size)
            with otherwise:
                builder.store(given[4], _as_vector(builder, part, vector.dtype), align=size)
                _copy(builder, part, target, given[2])
        return context.get_dummy_value()

    return types.void(numbers, types.intp, types.intp, spare, vector), generate


def _chosen(builder: Any, a: Any, b: Any, lanes: Any) -> Any:
    lanes = list(lanes)
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _folded(builder: Any, vector: Any) -> Any:
    """The sum of its four registers."""
    parts = [_chosen(builder, vector, vector, range(j, j + _REGISTER)) for j in range(0, LANES, _REGISTER)]
    pairs = [builder.fadd(a, b, flags=_ANY_ORDER) for a, b in (parts[:2], parts[2:])]
    return builder.fadd(*pairs, flags=_ANY_ORDER)


@intrinsic
def totals(typing_context: Any, first: Any, second: Any) -> Any:
    """The sums of the numbers of each of two vectors, in half the steps that both would take alone."""

    def generate(context: Any, builder: Any, of: Any, given: Any) -> Any:
        a, b = (_folded(builder, vector) for vector in given)
        half = _REGISTER // 2
        low = _chosen(builder, a, b, [*range(half), *range(_REGISTER, _REGISTER + half)])
        high = _chosen(builder, a, b, [*range(half, _REGISTER), *range(_REGISTER + half, 2 * _REGISTER)])
        both, distance = builder.fadd(low, high, flags=_ANY_ORDER), half // 2
        while distance:
            turned = _chosen(builder, both, both, [lane ^ distance for lane in range(_REGISTER)])
            both, distance = builder.fadd(both, turned, flags=_ANY_ORDER), distance // 2
        sums = [builder.extract_element(both, ir.Constant(ir.IntType(32), lane)) for lane in (0, half)]
        return context.make_tuple(builder, of.return_type, sums)

    return types.UniTuple(first.dtype, 2)(first, second), generate


class _Exponential:
    """How exp of one type of numbers is computed: x = n ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite), exp r by its
    power series, and 2^n by the bits of the exponent."""

    def __init__(
        self, bits: int, fraction: int, high: float, low: float, degree: int, limits: tuple[float, float]
    ) -> None:
        self.integer, self.fraction = ir.IntType(bits), fraction
        self.high, self.low, self.degree = high, low, degree
        self.smallest, self.largest = limits  # logarithms of normal numbers
        self.rounding = 1.5 * 2.0**fraction  # added, the numbers that are left are whole, in the lowest bits


_EXPONENTIALS = {
    types.float32: _Exponential(32, 23, 0.693359375, -2.12194440e-4, 6, (-87.33654, 88.0)),
    types.float64: _Exponential(64, 52, 6.93147180369123816490e-01, 1.90821492927058770002e-10, 13, (-708.39, 709.0)),
}


@intrinsic
def exp(typing_context: Any, vector: Any) -> Any:
    """exp of each number, to 2.5e-7 of it in float32; 0 below the logarithm of the smallest normal number."""
    way = _EXPONENTIALS[vector.dtype]

    def generate(context: Any, builder: Any, of: Any, given: Any) -> Any:
        (x,) = given
        integers = ir.VectorType(way.integer, LANES)

        def constant(value: float) -> Any:
            return _spread(builder, ir.Constant(x.type.element, value))

        def times_plus(a: Any, b: Any, c: Any) -> Any:
            return builder.fadd(builder.fmul(a, b, flags=_CONTRACT), c, flags=_CONTRACT)

        too_large = builder.fcmp_ordered(">", x, constant(way.largest))  # not of what is no number, which stays so
        inside = builder.select(too_large, constant(way.largest), x)
        shifted = times_plus(inside, constant(1 / math.log(2)), constant(way.rounding))
        doublings = builder.fsub(shifted, constant(way.rounding))
        r = times_plus(doublings, constant(-way.high), inside)
        r = times_plus(doublings, constant(-way.low), r)
        series = constant(1 / math.factorial(way.degree))
        for n in range(way.degree - 1, -1, -1):
            series = times_plus(series, r, constant(1 / math.factorial(n)))
        exponent = builder.shl(
            builder.bitcast(shifted, integers), _spread(builder, ir.Constant(way.integer, way.fraction))
        )
        power = builder.bitcast(builder.add(builder.bitcast(series, integers), exponent), x.type)
        return builder.select(builder.fcmp_ordered("<", x, constant(way.smallest)), ir.Constant(x.type, None), power)

    return vector(vector), generate


_EXACT: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Numba's ``njit`` whose work is kept on disk, where there is a folder to keep it in."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(**options, cache=True)(function)
        except RuntimeError:
            return njit(**options)(function)

    return decorate


@compiled(**_EXACT)
def _zeros(rows, zero):
    """Rows of ``LANES`` zeros that begin where a line of the cache does."""
    room = np.full((rows + 1) * LANES, zero)
    begin = -room.ctypes.data % 64 // room.itemsize
    return room[begin : begin + rows * LANES]


@compiled(**_EXACT)
def linear_forward(addresses, zero, tokens, width, reverse, first, last):
    a, b, initial, h = pointers(addresses, zero)
    blocks = (width + LANES - 1) // LANES
    part, spare, states = _zeros(1, zero), _zeros(1, zero), _zeros(blocks, zero)
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


@compiled(**_EXACT)
def linear_backward(addresses, zero, tokens, width, reverse, first, last):
    grad, a, h, initial, grad_a, grad_b, grad_initial = pointers(addresses, zero)
    blocks = (width + LANES - 1) // LANES
    part, spare, carried = _zeros(1, zero), _zeros(1, zero), _zeros(blocks, zero)
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


@compiled(**_EXACT)
def _place(unit, width, spans):
    """Row of the batch, span, block in the span, first channel and number of channels of a unit of work."""
    span = width // spans
    blocks = (span + LANES - 1) // LANES
    i, r = divmod(unit, blocks * spans)
    j, block = divmod(r, blocks)
    return i, j, block, j * span + block * LANES, min(LANES, span - block * LANES)


@compiled(**_EXACT)
def _read_rows(array, at, size, states, rows):
    """[size, S] -> S rows of ``LANES`` numbers."""
    for d in range(size):
        for s in range(states):
            rows[s * LANES + d] = array[at + d * states + s]


@compiled(**_EXACT)
def _write_rows(array, at, size, states, rows):
    for d in range(size):
        for s in range(states):
            array[at + d * states + s] = rows[s * LANES + d]


@compiled(**_EXACT)
def selective_forward(addresses, zero, sizes, reverse, diagonal, first, last):
    x, dt, A, B, C, D, initial, y, final, checkpoints = pointers(addresses, zero)
    _, tokens, width, groups, states, spans = sizes
    part, spare, state, rates = _zeros(1, zero), _zeros(1, zero), _zeros(states, zero), _zeros(states, zero)
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


@compiled(**_EXACT)
def selective_backward(addresses, zero, sizes, reverse, diagonal, first, last):
    (
        grad_y, grad_final, x, dt, A, B, C, D, checkpoints,
        grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_initial,
    ) = pointers(addresses, zero)  # fmt: skip
    batch, tokens, width, groups, states, spans = sizes
    line = states * LANES
    part, spare, rates, carried = _zeros(1, zero), _zeros(1, zero), _zeros(states, zero), _zeros(states, zero)
    blocks = (width // spans + LANES - 1) // LANES
    of_A, of_A_total, of_D, of_D_total = _zeros(states, zero), _zeros(states, zero), _zeros(1, zero), _zeros(1, zero)
    found = _zeros((CHUNK + 1) * states, zero)  # the states that the tokens of a chunk found, and those after the last
    decays = _zeros(CHUNK * states if diagonal else CHUNK, zero)
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
