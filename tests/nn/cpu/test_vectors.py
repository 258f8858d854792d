# pyright: basic, reportCallIssue=false
"""The vectors that the loops of a CPU are written in."""

import numpy as np
import pytest

pytest.importorskip("numba")

from pochade.nn.cpu.vectors import (
    LANES,
    compiled,
    exp,
    fill,
    load,
    load_part,
    sigmoid,
    softplus,
    store,
    store_part,
    tanh,
    totals,
)  # fmt: skip

TYPES = [np.float32, np.float64]


@compiled(nogil=True)
def exponentials(x, y):
    for at in range(0, x.size, LANES):
        store(y, at, exp(load(x, at)))


@compiled(nogil=True)
def activations(x, y, zero):
    for at in range(0, x.size, LANES):
        store(y[0], at, sigmoid(load(x, at), zero))
        store(y[1], at, tanh(load(x, at), zero))
        store(y[2], at, softplus(load(x, at), zero))


@compiled(nogil=True)
def moved(source, target, count, part, spare):
    store_part(target, 1, count, spare, load_part(source, 1, count, part) + fill(source[0]))


@compiled(nogil=True)
def sums(x):
    return totals(load(x, 0), load(x, LANES))


@pytest.mark.parametrize(
    ("kind", "lowest", "highest", "error"), [(TYPES[0], -87.3, 88, 2.5e-7), (TYPES[1], -708, 709, 4e-16)]
)
def test_the_exponential(kind, lowest, highest, error) -> None:
    x = np.linspace(lowest, highest, 400 * LANES).astype(kind)
    y = np.empty_like(x)
    exponentials(x, y)
    exact = np.exp(x.astype(np.longdouble))
    assert float(np.abs(y / exact - 1).max()) < error
    special = np.zeros(LANES, kind)
    special[:5] = np.nan, -np.inf, 1.01 * lowest, 0, np.inf
    y = np.empty_like(special)
    exponentials(special, y)
    assert np.isnan(y[0])
    assert y[1:4].tolist() == [0, 0, 1]
    assert y[4] > 1e38


@pytest.mark.parametrize(("kind", "error"), [(TYPES[0], 3e-7), (TYPES[1], 5e-16)])
def test_the_logistic_function_tanh_and_softplus(kind, error) -> None:
    x = np.linspace(-80, 80, 100 * LANES).astype(kind)
    y = np.empty((3, x.size), kind)
    activations(x, y, kind(0))
    exact = x.astype(np.longdouble)
    known = 1 / (1 + np.exp(-exact)), np.tanh(exact), np.maximum(exact, 0) + np.log1p(np.exp(-abs(exact)))
    for found, wanted, least in zip(y, known, (0, 1, 0), strict=True):  # tanh to a rounding of 1
        assert float((abs(found - wanted) / np.maximum(abs(wanted), least)).max()) < error
    x[:3] = np.nan, np.inf, -np.inf
    activations(x, y, kind(0))
    assert np.isnan(y[:, 0]).all()
    assert y[:, 1].tolist() == [1, 1, np.inf]
    np.testing.assert_allclose(y[:, 2], [0, -1, 0], atol=1e-37)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("count", [1, LANES - 1, LANES])
def test_what_is_beside_a_part_is_left_alone(kind, count: int) -> None:
    source = np.arange(1, LANES + 3).astype(kind)
    target, part, spare = np.zeros(LANES + 2, kind), np.zeros(LANES, kind), np.zeros(LANES, kind)
    moved(source, target, count, part, spare)
    assert target.tolist() == [0, *(source[1 : count + 1] + 1), *[0] * (LANES + 1 - count)]


@pytest.mark.parametrize("kind", TYPES)
def test_two_sums_at_once(kind) -> None:
    x = np.random.default_rng(0).integers(-1000, 1000, 2 * LANES).astype(kind)
    assert sums(x) == (x[:LANES].sum(), x[LANES:].sum())
