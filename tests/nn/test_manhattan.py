from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pochade.errors import PochadeError
from pochade.nn.manhattan import ManhattanMixer, manhattan_decay, manhattan_decay_reference

SIZES = [(1, 1), (1, 7), (6, 1), (4, 4), (5, 3), (8, 13), (32, 2)]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def decays(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_row_and_column_operators_equal_the_dense_matrix(size: tuple[int, int], dtype: torch.dtype, tolerance: float):
    results: list[list[Tensor]] = []
    for decay in (manhattan_decay, manhattan_decay_reference):
        x = noise(2, size[0] * size[1], 6, dtype=dtype).requires_grad_()
        gamma = decays(0.3, 0.8, 0.97, dtype=dtype).requires_grad_()
        out = decay(x, gamma, *size)
        assert out.dtype == dtype
        (out * noise(*out.shape, seed=1, dtype=dtype)).sum().backward()
        results.append([out, x.grad, gamma.grad])
    (out, *gradients), (expected, *expected_gradients) = results
    torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)
    for ours, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, reference, atol=100 * tolerance, rtol=10 * tolerance)


def test_gradients_are_those_of_the_values():
    x, gamma = noise(2, 6, 4).requires_grad_(), decays(0.2, 0.9).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, gamma: manhattan_decay(x, gamma, 2, 3), (x, gamma))
    assert torch.autograd.gradgradcheck(lambda x, gamma: manhattan_decay(x, gamma, 2, 3), (x, gamma))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decay_runs_from_the_token_alone_to_the_mean_of_all(dtype: torch.dtype):
    x = noise(1, 128 * 128, 2, dtype=dtype).requires_grad_()
    gamma = decays(1e-6, 1 - 1e-6, dtype=dtype).requires_grad_()
    out = manhattan_decay(x, gamma, 128, 128)
    out.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(gamma.grad).all()
    torch.testing.assert_close(out[..., 0], x[..., 0], atol=2e-5, rtol=0)
    torch.testing.assert_close(out[..., 1], x[..., 1].mean(1, keepdim=True).expand(1, 128 * 128), atol=1e-4, rtol=0)


def test_limits_themselves_are_finite():
    x, gamma = noise(1, 12, 2).requires_grad_(), decays(0.0, 1.0).requires_grad_()
    out = manhattan_decay(x, gamma, 3, 4)
    torch.testing.assert_close(out[..., 0], x[..., 0])
    torch.testing.assert_close(out[..., 1], x[..., 1].mean(1, keepdim=True).expand(1, 12))
    out.sum().backward()
    assert torch.isfinite(gamma.grad).all()


@pytest.mark.parametrize("size", SIZES)
def test_constant_picture_passes_unchanged(size: tuple[int, int]):
    x = torch.full((1, size[0] * size[1], 4), 3.0, dtype=torch.float64)
    torch.testing.assert_close(manhattan_decay(x, decays(0.4, 0.99), *size), x)


def test_mirroring_and_transposing_the_grid_does_the_same_to_the_output():
    h, w, gamma = 5, 4, decays(0.5, 0.9)
    x = noise(2, h * w, 4)
    out = manhattan_decay(x, gamma, h, w).unflatten(1, (h, w))
    grid = x.unflatten(1, (h, w))
    for axes in ((1,), (2,), (1, 2)):
        flipped = manhattan_decay(grid.flip(axes).flatten(1, 2), gamma, h, w)
        torch.testing.assert_close(flipped, out.flip(axes).flatten(1, 2))
    turned = manhattan_decay(grid.transpose(1, 2).flatten(1, 2), gamma, w, h)
    torch.testing.assert_close(turned, out.transpose(1, 2).flatten(1, 2))


def test_influence_falls_by_gamma_a_step():
    """An impulse, each output multiplied by its own row sum: gamma to the power of the Manhattan distance."""
    h, w, gamma = 6, 7, decays(0.7)
    x = torch.zeros(1, h * w, 1, dtype=torch.float64)
    x[0, 2 * w + 3] = 1
    distances = [[abs(r - 2) + abs(c - 3) for c in range(w)] for r in range(h)]
    sums = [sum(0.7 ** abs(r - q) for q in range(h)) for r in range(h)]
    column_sums = [sum(0.7 ** abs(c - q) for q in range(w)) for c in range(w)]
    total = torch.tensor(sums, dtype=torch.float64)[:, None] * torch.tensor(column_sums, dtype=torch.float64)
    out = manhattan_decay(x, gamma, h, w)[0, :, 0].view(h, w) * total
    torch.testing.assert_close(out, 0.7 ** torch.tensor(distances, dtype=torch.float64))


class Largest(TorchDispatchMode):
    """The most numbers that a result of an operator holds."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.numel = max(self.numel, *(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor)), 0)
        return out


def test_never_forms_a_matrix_of_all_tokens():
    """On 256 x 256 tokens it would hold 17 gigabytes."""
    x, gamma = noise(1, 32 * 48, 2).requires_grad_(), decays(0.9).requires_grad_()
    with Largest() as largest:
        manhattan_decay(x, gamma, 32, 48).sum().backward()
    assert x.numel() <= largest.numel < (32 * 48) ** 2 / 100


def test_without_gradients_the_same_comes_out_in_parts():
    x, gamma = noise(3, 1600, 160, dtype=torch.float32), decays(0.1, 0.5, 0.7, 0.9, 0.99, dtype=torch.float32)
    whole = manhattan_decay(x.requires_grad_(), gamma, 40, 40).detach()
    with torch.no_grad():
        torch.testing.assert_close(manhattan_decay(x, gamma, 40, 40), whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_left_while_computing(dtype: torch.dtype):
    x, gamma = noise(1, 15, 4).to(dtype), decays(0.5, 0.9, dtype=dtype)
    out = manhattan_decay(x, gamma, 3, 5)
    assert out.dtype == dtype
    exact = manhattan_decay(x.double(), gamma.double(), 3, 5)
    torch.testing.assert_close(out.double(), exact, atol=1e-6, rtol=torch.finfo(dtype).eps)
    x, gamma = x.float(), gamma.float()
    plain = manhattan_decay(x, gamma, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(manhattan_decay(x, gamma, 3, 5), plain)


def test_heads_start_with_reaches_from_2_to_32_tokens():
    reach = 1 / (1 - ManhattanMixer(15, 5).gamma())
    torch.testing.assert_close(reach, torch.tensor([2.0, 4.0, 8.0, 16.0, 32.0]))
    assert ManhattanMixer(4, 1).gamma().item() == pytest.approx(0.5)


def test_mixer_is_the_decay_of_projected_values():
    torch.manual_seed(0)
    mixer, x = ManhattanMixer(6, 3).double(), noise(3, 20, 6)
    out = mixer(x, 4, 5)
    torch.testing.assert_close(out, manhattan_decay_reference(x @ mixer.value.weight.mT, mixer.gamma(), 4, 5))
    torch.testing.assert_close(mixer(x[1:2], 4, 5), out[1:2])
    assert mixer(x[:0], 4, 5).shape == (0, 20, 6)
    out.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in mixer.parameters())
    assert mixer.gamma_logit.no_weight_decay


def test_function_transforms_see_through_it():
    x, gamma = noise(3, 12, 4), decays(0.5, 0.8)
    samples = torch.func.vmap(lambda sample: manhattan_decay(sample[None], gamma, 3, 4)[0])(x)
    torch.testing.assert_close(samples, manhattan_decay(x, gamma, 3, 4))


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning")  # of torch, in its exporter
def test_compiles_into_one_graph_and_exports(tmp_path: Path):
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = ManhattanMixer(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.mixer(x, 5, 7)

    torch.manual_seed(0)
    module, x = Module().eval(), noise(3, 35, 8, dtype=torch.float32)
    expected = module(x).detach()
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), expected)
    path = tmp_path / "mixer.onnx"
    batch = {0: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        module, (x,), path, dynamo=True, opset_version=20, dynamic_shapes=(batch,), verbose=False, report=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (2, 3):
        (out,) = session.run(None, {session.get_inputs()[0].name: x[:batch].numpy()})
        torch.testing.assert_close(torch.from_numpy(out), expected[:batch], atol=1e-5, rtol=1e-5)


def test_errors_name_the_argument():
    for dim, heads in ((10, 3), (0, 1), (4, 0)):
        with pytest.raises(PochadeError, match=rf"dim: {dim} given, must be a positive multiple of heads, {heads}"):
            ManhattanMixer(dim, heads)
    for shape in ((1, 11, 4), (1, 12, 5), (12, 4)):
        with pytest.raises(PochadeError, match=r"x: .* given for a grid of 3 x 4, must be \[B, 12, multiple of 2"):
            manhattan_decay(torch.zeros(shape), decays(0.5, 0.5), 3, 4)
