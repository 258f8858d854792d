from pathlib import Path

import onnxruntime
import pytest
import torch

from pochade.errors import PochadeError
from pochade.nn.modulation import (
    GroupedModulation,
    IterationEmbedding,
    Modulation,
    TimestepEmbedding,
    grouped_modulation_reference,
    modulated_norm,
    sinusoid,
)
from pochade.nn.positions import PositionTable


def test_sinusoid_separates_times_evenly():
    """Pairs of cosine and sine have length 1, and the angle between two times depends on their distance alone."""
    t = torch.linspace(0, 1, 11)
    embedded = sinusoid(t, 64)
    assert embedded.shape == (11, 64)
    torch.testing.assert_close(embedded[0], torch.cat((torch.ones(32), torch.zeros(32))))
    torch.testing.assert_close(embedded.square().sum(1), torch.full((11,), 32.0))
    products = embedded @ embedded.T
    for distance in range(1, 10):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=2e-3, rtol=0)
    assert products.fill_diagonal_(-99).max() < 31


def test_sinusoid_is_float32_for_half_precision_times():
    assert sinusoid(torch.rand(3).bfloat16(), 8).dtype == torch.float32


def test_timestep_embedding_shape_and_type():
    module = TimestepEmbedding(24, frequencies=16)
    assert module(torch.rand(5)).shape == (5, 24)
    assert module.bfloat16()(torch.rand(5)).dtype == torch.bfloat16


def test_modulated_norm_is_the_norm_scaled_and_shifted():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 2
    zero, shift, scale = torch.zeros(2, 1, 8).double(), torch.randn(2, 1, 8).double(), torch.randn(2, 1, 8).double()
    plain = modulated_norm(x, zero, zero)
    torch.testing.assert_close(plain.mean(-1), torch.zeros(2, 5).double())
    torch.testing.assert_close(plain.var(-1, correction=0), torch.ones(2, 5).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(modulated_norm(x, shift, scale), plain * (1 + scale) + shift)


def test_modulation_gives_a_vector_for_each_name_and_sample():
    torch.manual_seed(0)
    module = Modulation(4, 6)
    vectors = module(torch.randn(3, 4))
    assert [v.shape for v in vectors] == [(3, 1, 4)] * 6
    torch.nn.init.zeros_(module.linear.weight)
    torch.nn.init.zeros_(module.linear.bias)
    assert all(v.eq(0).all() for v in module(torch.randn(3, 4)))


def test_iterations_differ_by_count_and_by_fraction():
    torch.manual_seed(0)
    module = IterationEmbedding(24, 16)
    vectors = {(i, r): v for r in (1, 4, 8, 16) for i, v in enumerate(module(r).detach(), 1)}
    assert all(v.shape == (24,) for v in vectors.values())
    together = torch.stack(list(vectors.values()))
    assert torch.pdist(together).min() > 1e-4
    assert module.bfloat16()(4).dtype == torch.bfloat16


def test_the_same_fraction_of_another_depth_changes_the_count_alone():
    module = IterationEmbedding(4, 8)
    seen: dict[int, torch.Tensor] = {}
    module.first.register_forward_hook(lambda _, inputs, __: seen.update({len(inputs[0]): inputs[0]}))
    for iterations in (4, 8):
        module(iterations)
    waves = [seen[iterations][iteration - 1] for iteration, iterations in ((2, 4), (4, 8), (4, 4), (8, 8))]
    count, fraction = zip(*(wave.chunk(2) for wave in waves), strict=True)
    assert torch.equal(count[1], count[2])
    for one, other in ((0, 1), (2, 3)):
        assert torch.equal(fraction[one], fraction[other])
        assert not torch.equal(count[one], count[other])
    passes = torch.tensor([2.0, 32 * 2 / 4])  # the fastest wave has one radian a pass, and the whole way is 32 passes
    torch.testing.assert_close(torch.stack((count[0][0], fraction[0][0])), passes.cos(), atol=1e-5, rtol=0)


def test_neighbouring_depths_have_neighbouring_iterations():
    """Depths between those of training must not surprise: features move by less than from pass to pass."""
    torch.manual_seed(0)
    module = IterationEmbedding(32)
    nine, ten = module(9), module(10)
    assert (nine[4] - ten[4]).norm() < (ten[4] - ten[8]).norm()


def grouped(dtype: torch.dtype, dim: int = 12, vectors: int = 3, blocks: int = 2, groups: int = 4) -> GroupedModulation:
    torch.manual_seed(0)
    module = GroupedModulation(dim, vectors, blocks, groups).to(dtype)
    torch.nn.init.normal_(module.weight)
    torch.nn.init.normal_(module.bias)
    return module


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("groups", [1, 4, 12])
def test_grouped_modulation_equals_its_reference(groups: int, dtype: torch.dtype, tolerance: float):
    module = grouped(dtype, groups=groups)
    conditioning = torch.randn(5, 12, dtype=dtype)
    projection = torch.randn(2, 3, 5, 1, 12, dtype=dtype)
    results = []
    for function in (module, lambda c: grouped_modulation_reference(module, c)):
        c = conditioning.clone().requires_grad_()
        out = torch.stack([torch.stack(tuple(block)) for block in function(c)])
        leaves = [c, *module.parameters()]
        results.append([out, *torch.autograd.grad((out * projection).sum(), leaves)])
    assert results[0][0].shape == (2, 3, 5, 1, 12)
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, atol=tolerance * reference.abs().max().item(), rtol=0)


def test_grouped_modulation_serves_blocks_differently_and_starts_at_zero():
    first, second = grouped(torch.float32)(torch.randn(3, 12))
    assert all((a - b).abs().max() > 0.1 for a, b in zip(first, second, strict=True))
    module = GroupedModulation(12, 3, 2, 4)
    torch.nn.init.zeros_(module.shared.weight)
    vectors = [v for block in module(torch.randn(3, 12)) for v in block]
    assert all(v.eq(0).all() for v in vectors)
    sum(v.sum() for v in vectors).backward()
    assert all(p.grad.abs().max() > 0 for p in (module.shared.weight, module.weight, module.bias))


def test_grouped_modulation_has_the_documented_number_of_parameters():
    dim, vectors, blocks, groups = 32, 9, 6, 16
    module = GroupedModulation(dim, vectors, blocks, groups)
    weights = (1 + vectors + blocks * vectors / groups) * dim**2
    assert sum(p.numel() for p in module.parameters() if p.ndim != 4) == weights + dim
    full = blocks * sum(p.numel() for p in Modulation(dim, vectors).parameters())
    assert 0.2 < weights / full < 0.26


def test_grouped_modulation_refuses_groups_that_do_not_divide():
    with pytest.raises(PochadeError, match="groups: 5 given, allowed are the divisors of dim, 12"):
        GroupedModulation(12, 3, 2, 5)


class Modulated(torch.nn.Module):
    """A loop of two passes, each with its own modulation."""

    def __init__(self) -> None:
        super().__init__()
        self.iteration = IterationEmbedding(12, 8)
        self.grouped = grouped(torch.float32)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        for each in self.iteration(2).unbind():
            for shift, scale, gate in self.grouped(c + each):
                x = x + gate * modulated_norm(x, shift, scale)
        return x


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning")  # of torch, in its exporter
def test_modulation_compiles_into_one_graph_and_exports(tmp_path: Path):
    module = Modulated().eval()
    inputs = (torch.randn(2, 5, 12), torch.randn(2, 12))
    expected = module(*inputs).detach()
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(*inputs), expected)
    path = tmp_path / "modulation.onnx"
    torch.onnx.export(module, inputs, path, dynamo=True, opset_version=20, verbose=False, report=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    (out,) = session.run(None, {n: i.numpy() for n, i in zip(names, inputs, strict=True)})
    torch.testing.assert_close(torch.from_numpy(out), expected, atol=1e-5, rtol=1e-5)


def test_positions_are_the_table_at_its_own_size_and_resized_elsewhere():
    torch.manual_seed(0)
    module = PositionTable(3, 4)
    torch.nn.init.normal_(module.table)
    own = module(4, 4)
    assert torch.equal(own[0, 4 * 2 + 1], module.table[0, :, 2, 1])
    for rows, columns in ((8, 8), (2, 2), (3, 7)):
        out = module(rows, columns)
        assert out.shape == (1, rows * columns, 3)
        (slope,) = torch.autograd.grad(out.square().sum(), module.table)
        assert slope.ne(0).all(), "every entry of the table has a gradient"


def test_resized_positions_keep_constants_orientation_and_slopes():
    module = PositionTable(2, 8)
    with torch.no_grad():
        module.table[0, 0] = 5.0
        module.table[0, 1] = torch.arange(8.0)[:, None].expand(8, 8)  # a slope down the rows
    out = module(16, 4).detach()[0].unflatten(0, (16, 4))
    torch.testing.assert_close(out[..., 0], torch.full((16, 4), 5.0))
    torch.testing.assert_close(out[..., 1], out[:, :1, 1].expand(16, 4))
    inside = out[4:-4, 0, 1]  # away from the border: two fine rows for each row of the table
    torch.testing.assert_close(inside[2:] - inside[:-2], torch.ones(6))
    assert (inside.diff() > 0.4).all()


def test_positions_are_kept_from_weight_decay():
    assert PositionTable(2, 2).table.no_weight_decay
