import pytest
import torch
from torch import Tensor

from pochade.nn.attention import (
    CrossAttention,
    HeadNorm,
    SpatialMixer,
    join_heads,
    linear_attention,
    linear_attention_reference,
    split_heads,
)

KINDS = ("softmax", "linear")


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mixer(kind: str, dim: int = 8) -> SpatialMixer:
    torch.manual_seed(0)
    return SpatialMixer(dim, 2, kind).double()


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
