import math
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.attention import (
    CrossAttention,
    HeadNorm,
    LinearCrossAttention,
    MultiQueryAttention,
    SpatialMixer,
    WindowAttention,
    context_state,
    join_heads,
    join_windows,
    linear_attention,
    linear_attention_reference,
    linear_cross_attention_reference,
    multi_query_attention,
    multi_query_attention_reference,
    read_state,
    split_heads,
    split_windows,
    window_attention_reference,
    window_sides,
)

KINDS = ("softmax", "linear")


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mixer(kind: str, dim: int = 8) -> SpatialMixer:
    torch.manual_seed(0)
    return SpatialMixer(dim, 2, kind).double()


def values_and_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The result, and the gradient of a random projection of it at every input."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    return [out, *torch.autograd.grad((out * noise(*out.shape, seed=9, dtype=out.dtype)).sum(), leaves)]


def assert_equal_with_gradients(ours: list[Tensor], reference: list[Tensor], dtype: torch.dtype) -> None:
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for one, other in zip(ours, reference, strict=True):
        scale = max(other.abs().max().item(), 1.0)
        torch.testing.assert_close(one, other, atol=tolerance * scale, rtol=0)


DTYPES = (torch.float64, torch.float32)


def test_heads_are_split_and_joined_losslessly():
    x = noise(2, 5, 12)
    heads = split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 4)
    assert torch.equal(heads[:, 1], x[..., 4:8])
    assert torch.equal(join_heads(heads), x)


def test_head_norm_has_unit_mean_square_whatever_the_scale():
    norm = HeadNorm(16).double()
    for scale in (1e-2, 1.0, 1e4):
        out = norm(scale * noise(3, 16))
        torch.testing.assert_close(out.square().mean(-1), torch.ones(3, dtype=torch.float64), atol=0.02, rtol=0)


@pytest.mark.parametrize("tokens", [1, 2, 7, 33])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_linear_attention_equals_its_reference(tokens: int, dtype: torch.dtype, tolerance: float):
    results: list[list[Tensor]] = []
    for attention in (linear_attention, linear_attention_reference):
        q, k, v = (noise(2, 3, tokens, 4, seed=s, dtype=dtype).requires_grad_() for s in range(3))
        out = attention(q, k, v)
        (out * noise(*out.shape, seed=3, dtype=dtype)).sum().backward()
        results.append([out, q.grad, k.grad, v.grad])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, atol=tolerance, rtol=tolerance)


def test_linear_attention_has_the_gradient_of_its_value():
    inputs = tuple(noise(1, 2, 5, 3, seed=s).requires_grad_() for s in range(3))
    assert torch.autograd.gradcheck(linear_attention, inputs)


def test_linear_attention_is_a_weighted_mean():
    """Rows of weights sum to one: constant values come out unchanged, others stay within their range."""
    q, k = noise(1, 2, 9, 4), noise(1, 2, 9, 4, seed=1)
    torch.testing.assert_close(linear_attention(q, k, torch.full_like(q, 3.0)), torch.full_like(q, 3.0))
    v = noise(1, 2, 9, 4, seed=2)
    out = linear_attention(q, k, v)
    assert (out <= v.amax(-2, keepdim=True) + 1e-12).all()
    assert (out >= v.amin(-2, keepdim=True) - 1e-12).all()


def test_linear_attention_keeps_its_sums_out_of_half_precision():
    """16,384 keys overflow a sum in float16 and lose digits in bfloat16."""
    for dtype, tolerance in ((torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
        q, k, v = (noise(1, 1, 16_384, 4, seed=s).to(dtype) for s in range(3))
        v = v + 1
        out = linear_attention(q[:, :, :8] * 8, k * 8, v)
        assert out.dtype == dtype
        weights = torch.nn.functional.elu(k.double() * 8) + 1
        queries = torch.nn.functional.elu(q[:, :, :8].double() * 8) + 1
        exact = queries @ (weights.transpose(-2, -1) @ v.double()) / (queries @ weights.sum(-2)[..., None])
        torch.testing.assert_close(out.double(), exact, atol=tolerance * 2, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 6)])
def test_mixer_sees_the_grid_through_its_convolution_alone(kind: str, size: tuple[int, int]):
    """Without the convolution, shuffling the tokens shuffles the output; with it, it does not."""
    module, n = mixer(kind), size[0] * size[1]
    x = noise(2, n, 8)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    assert (module(x[:, order], *size) - module(x, *size)[:, order]).abs().max() > 1e-3
    torch.nn.init.zeros_(module.local.weight)
    torch.testing.assert_close(module(x[:, order], *size), module(x, *size)[:, order])


@pytest.mark.parametrize("kind", KINDS)
def test_mirroring_the_grid_and_the_kernel_mirrors_the_output(kind: str):
    module, h, w = mixer(kind), 3, 5
    x = noise(1, h * w, 8)

    def mirrored(y: Tensor) -> Tensor:
        return y.unflatten(1, (h, w)).flip(2).flatten(1, 2)

    out = module(x, h, w)
    with torch.no_grad():
        module.local.weight.copy_(module.local.weight.flip(-1))
    torch.testing.assert_close(module(mirrored(x), h, w), mirrored(out))


@pytest.mark.parametrize("kind", KINDS)
def test_transposing_the_grid_and_the_kernel_transposes_the_output(kind: str):
    module, h, w = mixer(kind), 3, 5
    x = noise(1, h * w, 8)

    def transposed(y: Tensor, rows: int, columns: int) -> Tensor:
        return y.unflatten(1, (rows, columns)).transpose(1, 2).flatten(1, 2)

    out = module(x, h, w)
    with torch.no_grad():
        module.local.weight.copy_(module.local.weight.transpose(-1, -2).clone())
    torch.testing.assert_close(module(transposed(x, h, w), w, h), transposed(out, h, w))


def test_only_the_linear_mixer_is_gated():
    x = noise(1, 6, 8)
    linear = mixer("linear")
    torch.nn.init.zeros_(linear.gate.weight)
    torch.testing.assert_close(linear(x, 2, 3), linear.out.bias.expand(1, 6, 8))
    assert mixer("softmax").gate is None


def test_cross_attention_reads_real_tokens_alone():
    torch.manual_seed(0)
    attention = CrossAttention(8, 2).double()
    x, tokens = noise(2, 5, 8), noise(2, 4, 8, seed=1)
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    out = attention(x, attention.context(tokens), mask)
    changed = tokens.clone()
    changed[0, 2:] = 1e3
    assert torch.equal(attention(x, attention.context(changed), mask), out)
    alone = attention(x[:1], attention.context(tokens[:1, :2]), torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(alone, out[:1])
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(attention(x, attention.context(tokens[:, order]), mask[:, order]), out)


def test_cross_attention_and_mixers_refuse_heads_that_do_not_divide():
    for make in (
        lambda: SpatialMixer(8, 3, "softmax"),
        lambda: CrossAttention(8, 0),
        lambda: WindowAttention(8, 3),
        lambda: MultiQueryAttention(8, 16),
        lambda: LinearCrossAttention(8, -1),
    ):
        with pytest.raises(PochadeError, match=r"heads: .* given, allowed are the divisors of dim, 8"):
            make()


@given(st.integers(1, 60), st.integers(1, 12))
def test_windows_cover_the_grid_evenly_and_none_is_outside(length: int, window: int):
    count, side = window_sides(length, window)
    assert side <= window
    assert (count - 1) * side < length <= count * side
    assert count == math.ceil(length / window)
    if length % window == 0:
        assert (count, side) == (length // window, window)


@given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 6))
def test_windows_are_split_and_joined_losslessly(height: int, width: int, window: int):
    x = noise(2, height * width, 3)
    windows = split_windows(x, height, width, window)
    assert torch.equal(join_windows(windows, height, width, window), x)
    assert windows.count_nonzero() == x.numel()


def test_windows_are_blocks_of_the_grid_in_raster_order():
    grid = torch.arange(24.0).view(1, 24, 1)
    windows = split_windows(grid, 4, 6, 3)[..., 0]  # two windows of 2 down, two of 3 across
    assert windows.tolist()[1] == [3, 4, 5, 9, 10, 11]
    assert windows.tolist()[2] == [12, 13, 14, 18, 19, 20]


def windowed(window: int, dim: int = 8) -> WindowAttention:
    torch.manual_seed(0)
    return WindowAttention(dim, 2, window).double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "window"), [((4, 6), 2), ((5, 7), 3), ((9, 4), 8), ((1, 11), 4), ((3, 3), 8)])
def test_window_attention_equals_its_reference(size: tuple[int, int], window: int, dtype: torch.dtype):
    module = windowed(window).to(dtype)

    def reference(x: Tensor) -> Tensor:
        q, k, v = (split_heads(part, 2) for part in module.qkv(x).chunk(3, -1))
        q, k = module.query_norm(q), module.key_norm(k)
        return module.out(join_heads(window_attention_reference(q, k, v, *size, window)))

    x = noise(2, size[0] * size[1], 8, dtype=dtype)
    ours = values_and_gradients(lambda x: module(x, *size), x)
    assert_equal_with_gradients(ours, values_and_gradients(reference, x), dtype)


def test_window_attention_is_full_attention_of_each_window_cut_out():
    module = windowed(4)
    x = noise(2, 8 * 12, 8)
    out = module(x, 8, 12)
    for row in (0, 4):
        for column in (0, 4, 8):

            def cut(y: Tensor) -> Tensor:
                return y.unflatten(1, (8, 12))[:, row : row + 4, column : column + 4].flatten(1, 2)  # noqa: B023

            torch.testing.assert_close(cut(out), module(cut(x), 4, 4))


def test_window_as_large_as_the_grid_is_full_attention():
    """Full attention knows no grid: shuffled tokens give the shuffled result."""
    x = noise(1, 30, 8)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    for window in (6, 8, 100):
        module = windowed(window)
        torch.testing.assert_close(module(x[:, order], 5, 6), module(x, 5, 6)[:, order])
    assert not torch.allclose(windowed(4)(x[:, order], 5, 6), windowed(4)(x, 5, 6)[:, order])


def test_tokens_beyond_the_grid_take_no_part():
    """Constant values come out constant: with padding among the keys they would shrink."""
    module = windowed(3)
    with torch.no_grad():
        module.qkv.weight[16:].zero_()
        module.qkv.weight[16:, 0] = 1
        module.out.weight.copy_(torch.eye(8))
        module.out.bias.zero_()
    x = noise(2, 7 * 5, 8)
    x[..., 0] = 2.0
    torch.testing.assert_close(module(x, 7, 5), torch.full_like(x, 2.0))


def test_window_attention_refuses_what_it_cannot_do():
    with pytest.raises(PochadeError, match="window: 0 given, allowed are 1 and above"):
        WindowAttention(8, 2, 0)
    for module in (windowed(4), mixer("linear")):
        with pytest.raises(PochadeError, match=r"height, width: 3 and 4 given, allowed are .* 13 tokens"):
            module(noise(1, 13, 8), 3, 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "heads", "width"), [(1, 1, 4), (7, 3, 5), (33, 4, 2)])
def test_multi_query_attention_equals_its_reference(tokens: int, heads: int, width: int, dtype: torch.dtype):
    q = noise(2, tokens, heads, width, dtype=dtype)
    k, v = noise(2, tokens, width, seed=1, dtype=dtype), noise(2, tokens, width, seed=2, dtype=dtype)
    ours = values_and_gradients(multi_query_attention, q, k, v)
    assert_equal_with_gradients(ours, values_and_gradients(multi_query_attention_reference, q, k, v), dtype)


def test_multi_query_attention_with_one_head_is_self_attention_that_knows_no_grid():
    torch.manual_seed(0)
    module = MultiQueryAttention(8, 1).double()
    x = noise(2, 9, 8)
    key, value = module.key_value(x).chunk(2, -1)
    scores = module.query_norm(module.query(x)) @ module.key_norm(key).transpose(1, 2) / math.sqrt(8)
    torch.testing.assert_close(module(x), module.out(scores.softmax(-1) @ value))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order])


def test_multi_query_attention_has_one_key_and_value_head():
    module = MultiQueryAttention(12, 4)
    assert module.key_value.weight.shape == (2 * 3, 12)
    assert sum(p.numel() for p in module.parameters()) == 2 * 12 * 12 + 2 * 12 * 3 + 12 + 2 * 3


def texts(lengths: tuple[int, ...], longest: int) -> Tensor:
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "lengths"), [(1, (1, 1)), (7, (3, 5)), (32, (77, 1))])
def test_linear_cross_attention_equals_its_reference(tokens: int, lengths: tuple[int, ...], dtype: torch.dtype):
    longest, width = max(lengths) + 2, 5
    q = noise(2, tokens, 3, width, dtype=dtype)
    k, v = (noise(2, 3, longest, width, seed=s, dtype=dtype) for s in (1, 2))
    mask = texts(lengths, longest)
    ours = values_and_gradients(lambda q, k, v: read_state(q, context_state(k, v, mask)), q, k, v)
    reference = values_and_gradients(lambda q, k, v: linear_cross_attention_reference(q, k, v, mask), q, k, v)
    assert_equal_with_gradients(ours, reference, dtype)


def test_linear_cross_attention_is_a_weighted_mean():
    """Each d of the result lies between the smallest and the largest real value of its head, for any M and d."""
    for longest, width in ((1, 4), (9, 2), (300, 8)):
        k, v = noise(1, 1, longest, width, seed=1) * 30, noise(1, 1, longest, width, seed=2)
        out = read_state(noise(1, 5, 1, width) * 30, context_state(k, v, texts((longest,), longest)))
        assert (out <= v.amax((0, 1, 2)) + 1e-12).all()
        assert (out >= v.amin((0, 1, 2)) - 1e-12).all()
        same = read_state(noise(1, 5, 1, width), context_state(k, torch.full_like(v, 3.0), texts((longest,), longest)))
        torch.testing.assert_close(same, torch.full_like(same, 3.0))


def crossed() -> LinearCrossAttention:
    torch.manual_seed(0)
    return LinearCrossAttention(8, 2).double()


def test_linear_cross_attention_reads_real_tokens_alone():
    module, x, tokens = crossed(), noise(2, 5, 8), noise(2, 6, 8, seed=1)
    mask = texts((2, 4), 6)
    out = module(x, module.context(tokens, mask))
    changed = torch.where(mask[..., None], tokens, 1e3)
    assert torch.equal(module(x, module.context(changed, mask)), out)
    for i, length in enumerate((2, 4)):
        alone = module.context(tokens[i : i + 1, :length], torch.ones(1, length, dtype=torch.bool))
        torch.testing.assert_close(module(x[i : i + 1], alone), out[i : i + 1])
    order = torch.tensor([2, 0, 5, 3, 1, 4])
    torch.testing.assert_close(module(x, module.context(tokens[:, order], mask[:, order])), out)


def test_a_sample_without_text_reads_nothing_and_has_finite_gradients():
    module, x, tokens = crossed(), noise(2, 5, 8), noise(2, 3, 8, seed=1).requires_grad_()
    state = module.context(tokens, texts((0, 3), 3))
    out = module(x, state)
    torch.testing.assert_close(out[0], module.out.bias.expand(5, 8))
    out.square().sum().backward()
    assert tokens.grad[0].eq(0).all()
    assert tokens.grad.isfinite().all()


def test_linear_cross_attention_is_gated_by_its_input():
    module, x, tokens = crossed(), noise(1, 5, 8), noise(1, 4, 8, seed=1)
    state = module.context(tokens, texts((4,), 4))
    out = module(x, state) - module.out.bias
    nn.init.zeros_(module.gate.weight)
    nn.init.constant_(module.gate.bias, -50.0)
    torch.testing.assert_close(module(x, state), module.out.bias.expand(1, 5, 8))
    assert out.abs().max() > 1e-3


def test_interpolated_linear_cross_attention_passes_on_what_the_gate_leaves():
    """(1 - g) of the input and g of what was read: with the gate shut it is the input, projected."""
    torch.manual_seed(0)
    module, x, tokens = LinearCrossAttention(8, 2, interpolated=True).double(), noise(1, 5, 8), noise(1, 4, 8, seed=1)
    state = module.context(tokens, texts((4,), 4))
    gate, read = torch.sigmoid(module.gate(x)), LinearCrossAttention(8, 2).double()
    read.load_state_dict(module.state_dict())
    nn.init.constant_(read.gate.bias, 50.0)
    nn.init.zeros_(read.gate.weight)
    weight, bias = module.out.weight, module.out.bias
    inner = torch.linalg.solve(weight, (read(x, state) - bias).mT).mT
    torch.testing.assert_close(module(x, state), module.out(gate * inner + (1 - gate) * x))


def test_text_state_is_summed_in_float32():
    """4,096 equal keys: each weight is far below the resolution of bfloat16 in a running sum."""
    for dtype in (torch.bfloat16, torch.float16):
        k, v = noise(1, 1, 4096, 4).to(dtype), (noise(1, 1, 4096, 4, seed=1) + 1).to(dtype)
        mask = torch.ones(1, 4096, dtype=torch.bool)
        state = context_state(k, v, mask)
        assert state.dtype == dtype
        exact = k.double().softmax(-2).transpose(-2, -1) @ v.double()
        torch.testing.assert_close(state.double(), exact, atol=0, rtol=2**-8 if dtype == torch.bfloat16 else 2**-11)
        q = noise(1, 3, 1, 4, seed=2).to(dtype)
        assert read_state(q, state).dtype == dtype


class Each(nn.Module):
    """One graph of every block here."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.window = WindowAttention(8, 2, 3)
        self.shared = MultiQueryAttention(8, 4)
        self.text = LinearCrossAttention(8, 2)
        self.mixer = SpatialMixer(8, 2, "linear")

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        x = x + self.window(x, 5, 7)
        x = x + self.shared(x)
        x = x + self.text(x, self.text.context(tokens, mask))
        return x + self.mixer(x, 5, 7)


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning")  # of torch, in its exporter
def test_blocks_compile_into_one_graph_and_export(tmp_path: Path):
    module = Each().eval()
    inputs = (
        noise(2, 35, 8, dtype=torch.float32),
        noise(2, 6, 8, seed=1, dtype=torch.float32),
        texts((2, 6), 6),
    )
    expected = module(*inputs).detach()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), expected)

    path = tmp_path / "blocks.onnx"
    batch = {0: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        module, inputs, path, dynamo=True, opset_version=20, dynamic_shapes=(batch,) * 3, verbose=False, report=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (2, 3):
        feeds = [torch.cat((i, i))[:batch] for i in inputs]
        names = [i.name for i in session.get_inputs()]
        (out,) = session.run(None, {n: f.numpy() for n, f in zip(names, feeds, strict=True)})
        torch.testing.assert_close(torch.from_numpy(out), module(*feeds).detach(), atol=1e-5, rtol=1e-5)
