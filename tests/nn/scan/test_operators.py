import os
import threading
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nn.scan.cases import FORMS, close, selective
from pochade.errors import PochadeError
from pochade.nn.scan import (
    Inputs,
    backend,
    bidirectional_scan,
    composed,
    exported,
    linear_recurrence,
    rg_lru,
    selective_scan,
    use_backend,
)
from pochade.nn.scan.operators import DECOMPOSITIONS
from processes import python

BATCH = torch.export.Dim("batch", min=1, max=64)


class Scans(nn.Module):
    """One of everything, of tokens [B, 70, 12]."""

    def __init__(self, structure: str) -> None:
        super().__init__()
        _, self.dt, self.A, self.B, self.C, self.D, self.initial = selective(
            structure, 70, batch=1, dtype=torch.float32
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dt, B, C, initial = (t.expand(x.shape[0], *t.shape[1:]) for t in (self.dt, self.B, self.C, self.initial))
        y, state = selective_scan(x, dt, self.A, B, C, self.D, initial=initial, reverse=True, return_state=True)
        unit = rg_lru(x, x.sigmoid(), (-x).sigmoid(), self.D)
        return y, state, unit, linear_recurrence(x.sigmoid(), x, reverse=True)


def tokens(batch: int) -> Tensor:
    return torch.randn(batch, 70, 12, generator=torch.Generator().manual_seed(2))


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.parametrize("structure", ["diagonal", "scalar"])
def test_export_sees_one_operator_for_each_scan(structure):
    program = torch.export.export(Scans(structure).eval(), (tokens(2),), dynamic_shapes=({0: BATCH},))
    names = [str(node.target) for node in program.graph.nodes]
    assert names.count("pochade.selective_scan.default") == 1
    assert names.count("pochade.linear_recurrence.default") == 2
    module = Scans(structure).eval()
    for found, wanted in zip(program.module()(tokens(3)), module(tokens(3)), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.parametrize("structure", ["diagonal", "scalar"])
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning")
@pytest.mark.filterwarnings("ignore:# The axis name:UserWarning")
def test_onnx_agrees_and_has_no_loop_over_the_tokens(structure, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    module = Scans(structure).eval()
    program = torch.onnx.export(
        module, (tokens(2),), dynamo=True, opset_version=20, dynamic_shapes=({0: BATCH},), verbose=False
    )
    assert program is not None
    nodes = [node.op_type for node in program.model_proto.graph.node]
    assert not {"Scan", "Loop"} & set(nodes)
    assert len(nodes) < 700  # 70 tokens, four scans; a loop over the tokens would take 280 steps of several nodes
    program.save(tmp_path / "scans.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "scans.onnx")
    found = session.run(None, {session.get_inputs()[0].name: tokens(3).numpy()})
    for value, wanted in zip(found, module(tokens(3)), strict=True):
        assert close(torch.from_numpy(value), wanted, 1e-5)


@pytest.mark.parametrize("tokens", [1, 5, 64, 70, 200])
@pytest.mark.parametrize(("groups", "heads"), [(1, 4), (2, 4), (4, 4), (3, 12)])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_scan_of_exported_graphs(tokens, groups, heads, reverse):
    *leaves, initial = selective("scalar", tokens, groups=groups, heads=heads)
    for first in (None, initial):
        found = exported.selective_forward(Inputs(*leaves), first, reverse)
        wanted = composed.selective_forward(Inputs(*leaves), first, reverse)
        assert all(close(a, b, 1e-12) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("tokens", [1, 5, 16, 70, 300])
@pytest.mark.parametrize(("paths", "ways", "heads"), [(1, 1, 2), (1, 2, 4), (3, 2, 1)])
def test_scans_along_paths_of_exported_graphs(tokens, paths, ways, heads):
    scans, state, kind = paths * ways, 3, torch.double
    x, selection = (torch.randn(2, tokens, n, dtype=kind) for n in (4 * heads, scans * (heads + 2 * state)))
    bias, rates = torch.randn(scans, heads, dtype=kind), torch.randn(scans * heads, dtype=kind)
    orders = [torch.randperm(tokens) for _ in range(paths)]
    orders = [way for order in orders for way in (order, order.flip(0))[:ways]]
    inverses = [order.argsort() for order in orders]
    found = exported.scan_paths(x, selection, bias, rates, torch.stack(orders), torch.stack(inverses), ways, state)
    wanted = torch.zeros_like(x)
    for own, order, inverse, b, A in zip(
        selection.chunk(scans, 2), orders, inverses, bias, rates.chunk(scans), strict=True
    ):
        dt, B, C = own[:, order].split((heads, state, state), dim=2)
        y = selective_scan(x[:, order], F.softplus(dt + b), -A.exp(), B, C)
        wanted += y[:, inverse]
    assert close(found, wanted, 1e-12)


def test_both_directions_are_the_sum_of_two_scans():
    x, *forth, _ = selective("scalar", 70, groups=3, heads=12)
    back = [t.flip(0 if t.dim() == 1 else 1) for t in forth]
    wanted = selective_scan(x, *forth) + selective_scan(x, *back, reverse=True)
    assert close(bidirectional_scan(Inputs(x, *forth), Inputs(x, *back)), wanted, 1e-12)


def test_values_go_along_paths_and_back():
    x = torch.randn(2, 7, 12)
    orders = [torch.arange(7), torch.randperm(7)]
    values = exported.along(x, orders, 3)
    for path, order in enumerate(orders):
        assert torch.equal(values[:, 3 * path : 3 * path + 3], exported.heads_first(x[:, order], 3))
    assert torch.equal(exported.back(values, [order.argsort() for order in orders]), 2 * x)


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.parametrize("structure", ["diagonal", "scalar"])
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning")
def test_no_tensor_of_an_exported_graph_has_six_axes_and_nothing_is_counted_in_it(structure):
    """Runtimes of phones have neither: triangles of zeros and ones are constants."""
    program = torch.export.export(Scans(structure).eval(), (tokens(1),)).run_decompositions(DECOMPOSITIONS)
    shapes = [node.meta["val"].shape for node in program.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    assert max(map(len, shapes)) <= 5
    called = " ".join(str(node.target) for node in program.graph.nodes)
    assert not any(f"aten.{name}." in called for name in ("arange", "tril", "triu", "eye"))


@pytest.mark.no_cover  # tracing a trace takes twice as long
def test_graph_grows_with_the_logarithm_of_the_tokens():
    def nodes(count: int) -> int:
        module = torch.nn.Module()
        module.forward = lambda x: selective_scan(x, x.exp(), -torch.ones(4, 2), x[..., :2], x[..., 2:])  # pyright: ignore
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module, (torch.zeros(1, count, 4),), dynamo=True, opset_version=20, verbose=False
            )
        assert program is not None
        return len(program.model_proto.graph.node)

    assert nodes(256) < 1.7 * nodes(64)


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.parametrize("structure", ["diagonal", "scalar"])
def test_compile_keeps_values_and_gradients(structure):
    compiled = torch.compile(lambda *t: selective_scan(*t[:6], initial=t[6]).cos(), backend="aot_eager", fullgraph=True)
    leaves = [t.requires_grad_() for t in selective(structure, 70)]
    found = torch.autograd.grad(compiled(*leaves).sum(), leaves)
    wanted = torch.autograd.grad(selective_scan(*leaves[:6], initial=leaves[6]).cos().sum(), leaves)
    assert all(close(f, w, 1e-12) for f, w in zip(found, wanted, strict=True))


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.no_cover  # tracing a trace takes twice as long
def test_operators_keep_torchs_rules():
    """The composition is traced with a symbol for every size: its formulas grow with the tokens, the rules do not."""
    leaves = [t.requires_grad_() for t in selective("diagonal", 70, dtype=torch.float32, groups=2)]
    torch.library.opcheck(torch.ops.pochade.selective_scan.default, (*leaves, False))
    x, dt, *_ = (t.requires_grad_() for t in selective("diagonal", 5, dtype=torch.float32))
    torch.library.opcheck(torch.ops.pochade.linear_recurrence.default, (dt, x, None, True))


def test_the_number_of_threads_changes_nothing():
    tensors = [
        t.requires_grad_() for t in selective("diagonal", 300, batch=4, width=256, states=16, dtype=torch.float32)
    ]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = selective_scan(*tensors[:6], initial=tensors[6])
            results.append((y, *torch.autograd.grad(y.cos().sum(), tensors)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_many_python_threads_at_once():
    tensors = selective("diagonal", 400, batch=4, width=256, states=16, dtype=torch.float32)
    expected = selective_scan(*tensors[:6])
    found: list[Tensor] = []
    callers = [threading.Thread(target=lambda: found.append(selective_scan(*tensors[:6]))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4
    assert all(torch.equal(y, expected) for y in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_a_fork():
    program = """
import os, torch
from pochade.nn.scan import linear_recurrence
torch.set_num_threads(2)
a = torch.rand(8, 4096, 256)
expected = linear_recurrence(a, a)
child = os.fork()
if not child:
    os._exit(0 if torch.equal(linear_recurrence(a, a), expected) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = python("-W", "ignore", "-c", program)
    assert done.returncode == 0, done.stderr


def test_compiles_also_where_nothing_can_be_kept():
    """As in a read-only container: code without a file has no place on disk either."""
    from pochade.nn.cpu.vectors import compiled

    names: dict[str, Any] = {}
    exec("def double(x):\n    return 2 * x", names)
    assert compiled(nogil=True)(names["double"])(21) == 42


def test_nothing_is_left_to_compile_after_compiling_ahead():
    program = """
import torch
from pochade.nn.scan import cpu_kernels as kernels, cpu_loops as loops, linear_recurrence, selective_scan

def compiled():
    each = loops.linear_forward, loops.linear_backward, loops.selective_forward, loops.selective_backward
    return [len(loop.signatures) for loop in each]

kernels.compile_ahead()
assert compiled() == [1, 1, 1, 1]
a = torch.rand(2, 70, 64, requires_grad=True)
B, C = a[..., :16], a[..., 16:32]
linear_recurrence(a, a, initial=a[:, 0]).sum().backward()
selective_scan(a, a, -torch.rand(64, 16), B, C, reverse=True).sum().backward()
selective_scan(a, a[..., :4], -torch.rand(4), B, C, torch.rand(64)).sum().backward()
assert compiled() == [1, 1, 1, 1]
"""
    done = python("-W", "ignore", "-c", program)
    assert done.returncode == 0, done.stderr


class TestBackends:
    def test_chosen_by_device(self):
        assert backend("cpu") == "numba"
        assert backend("mps") == "torch"
        assert backend("meta") == "torch"

    @pytest.mark.parametrize("form", FORMS)
    def test_overridden_and_given_back(self, form):
        with use_backend(form):
            assert backend("cpu") == form
            with use_backend(None):
                assert backend("cpu") == "numba"
            assert backend("cpu") == form
        assert backend("cpu") == "numba"

    def test_by_the_environment(self, monkeypatch):
        monkeypatch.setenv("POCHADE_SCAN", "torch")
        assert backend("cpu") == "torch"
        with use_backend("numba"):
            assert backend("cpu") == "numba"
        monkeypatch.setenv("POCHADE_SCAN", "numbe")
        with pytest.raises(PochadeError, match=r"POCHADE_SCAN: 'numbe' given.*did you mean 'numba'"):
            backend("cpu")

    def test_unknown_or_of_another_device(self):
        with pytest.raises(PochadeError, match="backend: 'cuda' given"), use_backend("cuda"):  # pyright: ignore
            pass
        with pytest.raises(PochadeError, match=r"device: 'numba' given, allowed is a device .* use_backend chooses of"):
            backend("numba")
        with use_backend("triton"), pytest.raises(PochadeError, match="triton given for tensors on cpu"):
            linear_recurrence(torch.rand(1, 2, 3), torch.rand(1, 2, 3))

    def test_gives_way_where_its_library_is_missing(self):
        program = """
import sys
sys.modules["numba"] = None
import torch
from pochade.errors import PochadeError
from pochade.nn.scan import backend, composed, exported, linear_recurrence, use_backend
assert backend("cpu") == "torch"
linear_recurrence(torch.rand(1, 2, 3), torch.rand(1, 2, 3))
try:
    with use_backend("numba"):
        linear_recurrence(torch.rand(1, 2, 3), torch.rand(1, 2, 3))
except PochadeError as error:
    assert "pip install numba" in str(error), error
else:
    raise AssertionError
"""
        done = python("-W", "ignore", "-c", program)
        assert done.returncode == 0, done.stderr
