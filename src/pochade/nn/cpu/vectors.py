# Numba's extension interface has no types, and calls its functions without their first argument.
# pyright: basic, reportCallIssue=false, reportOptionalCall=false, reportAttributeAccessIssue=false
"""What the loops on a CPU are written in: vectors of ``LANES`` neighbouring numbers, and functions compiled by Numba.

A vector is one value of LLVM, which puts it into as many registers as it takes. Loops over arrays become vector
instructions only where LLVM can prove that no two arrays overlap, and read and write every operand of every step.
Products and sums may be contracted to one rounding; nothing else is reordered but ``totals``.

Each loop gets the addresses of its tensors, inputs first, a zero of their type, and the range of units that it
computes.
"""

import math
import operator
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.registry import cpu_target
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

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
    if isinstance(dtype, types.Integer):
        return ir.IntType(dtype.bitwidth)
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


for _function, _name in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")
):  # fmt: skip
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


@intrinsic
def larger(typing_context: Any, first: Any, second: Any) -> Any:
    """The larger number of each pair of two vectors; the second where one is no number."""

    def generate(context: Any, builder: Any, of: Any, given: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *given), *given)

    return first(first, second), generate


@intrinsic
def largest(typing_context: Any, vector: Any) -> Any:
    """The largest of the numbers of a vector."""

    def generate(context: Any, builder: Any, of: Any, given: Any) -> Any:
        (whole,), distance = given, LANES // 2
        while distance:
            turned = _chosen(builder, whole, whole, [lane ^ distance for lane in range(LANES)])
            whole, distance = builder.select(builder.fcmp_ordered(">", whole, turned), whole, turned), distance // 2
        return builder.extract_element(whole, ir.Constant(ir.IntType(32), 0))

    return vector.dtype(vector), generate


@intrinsic
def number(typing_context: Any, value: Any, like: Any) -> Any:
    """``value`` in the type of ``like``."""

    def generate(context: Any, builder: Any, of: Any, given: Any) -> Any:
        return context.cast(builder, given[0], value, like)

    return like(value, like), generate


EXACT: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


_DIGEST = f"{zlib.crc32(Path(__file__).read_bytes()):08x}"


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Numba's ``njit`` whose work is kept on disk, where there is a folder to keep it in.

    What is kept of a function is compiled anew when its file changes and, since this file is a part of its name, when
    this one does.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        function.__qualname__ += f".{_DIGEST}"
        try:
            return njit(**options, cache=True)(function)
        except RuntimeError:
            return njit(**options)(function)

    return decorate


@compiled(**EXACT)
def zeros(rows, zero):
    """Rows of ``LANES`` zeros that begin where a line of the cache does."""
    room = np.full((rows + 1) * LANES, zero)
    begin = -room.ctypes.data % 64 // room.itemsize
    return room[begin : begin + rows * LANES]


@compiled(**EXACT, inline="always")
def sigmoid(x, zero):
    """1 / (1 + exp(-x)) of each number."""
    return fill(number(1, zero)) / (fill(number(1, zero)) + exp(fill(zero) - x))


@compiled(**EXACT, inline="always")
def tanh(x, zero):
    """tanh of each number, to one rounding of 1."""
    return fill(number(1, zero)) - fill(number(2, zero)) / (exp(x + x) + fill(number(1, zero)))


_TERMS = 16


@compiled(**EXACT, inline="always")
def softplus(x, zero):
    """log(1 + exp(x)) of each number: the larger of x and 0, and log(1 + u) = 2 artanh(u / (2 + u)), u = exp(-|x|)."""
    nothing = fill(zero)
    u = exp(nothing - larger(x, nothing - x))
    s = u / (fill(number(2, zero)) + u)
    square, series = s * s, fill(number(1 / (2 * _TERMS + 1), zero))
    for n in range(_TERMS - 1, -1, -1):
        series = series * square + fill(number(1 / (2 * n + 1), zero))
    return larger(x, nothing) + (s + s) * series
