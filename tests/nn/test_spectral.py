from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pochade.errors import PochadeError
from pochade.nn.spectral import SpectralMixer, Weights, spectral_mix, spectral_reference

TRANSFORMS = ("dft", "fft")
SIZES = [(1, 1), (1, 4), (3, 1), (4, 6), (7, 4), (5, 3), (6, 8), (48, 2), (50, 3)]
BLOCKS, SIZE = 2, 3


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_weights(dtype: torch.dtype = torch.float64) -> Weights:
    matrix, vector = (2, BLOCKS, SIZE, SIZE), (2, BLOCKS, SIZE)
    first, first_bias, second, second_bias = (
        (0.5 * noise(*shape, seed=9 + i)).to(dtype).requires_grad_()
        for i, shape in enumerate((matrix, vector, matrix, vector))
    )
    return first, first_bias, second, second_bias


def linear_weights(multiplier: complex) -> Weights:
    """Layers that multiply by a number: the first bias lifts all above the ReLU's kink, the second takes it back."""
    lift = torch.full((BLOCKS, SIZE), 100.0, dtype=torch.float64)
    identity = torch.eye(SIZE, dtype=torch.float64).expand(BLOCKS, SIZE, SIZE)
    first = torch.stack((identity, 0 * identity))
    second = torch.stack((multiplier.real * identity, multiplier.imag * identity))
    back = -multiplier * torch.complex(lift, lift)
    return first, torch.stack((lift, lift)), second, torch.stack((back.real, back.imag))


class Operators(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_both_transforms_equal_the_definition(
    size: tuple[int, int], transform: str, dtype: torch.dtype, tolerance: float
):
    """Values and the gradients of the tokens and of every weight."""
    results: list[list[Tensor]] = []
    for mix in (lambda *a: spectral_mix(*a, transform=transform), spectral_reference):
        x, weights = noise(2, size[0] * size[1], BLOCKS * SIZE, dtype=dtype).requires_grad_(), random_weights(dtype)
        out = mix(x, *size, weights)
        assert out.dtype == dtype
        (out * noise(*out.shape, seed=3, dtype=dtype)).sum().backward()
        results.append([out.detach(), x.grad, *(w.grad for w in weights)])
    for ours, reference in zip(*results, strict=True):
        scale = max(1.0, float(reference.abs().max()))
        torch.testing.assert_close(ours, reference, atol=tolerance * scale, rtol=tolerance)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_gradients_are_those_of_the_values(transform: str):
    x, weights = noise(1, 6, BLOCKS * SIZE).requires_grad_(), random_weights()
    assert torch.autograd.gradcheck(lambda x, *w: spectral_mix(x, 2, 3, w, transform=transform), (x, *weights))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("size", [(1, 1), (5, 4), (4, 7), (48, 5), (49, 2)])
def test_layers_that_change_nothing_give_the_tokens_back(transform: str, size: tuple[int, int]):
    x = noise(2, size[0] * size[1], BLOCKS * SIZE)
    torch.testing.assert_close(spectral_mix(x, *size, linear_weights(1), 0.0, transform=transform), x)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_shrinkage_takes_from_real_and_imaginary_parts_separately(transform: str):
    x, h, w = noise(1, 20, BLOCKS * SIZE), 4, 5
    out = spectral_mix(x, h, w, linear_weights(1), 0.6, transform=transform)
    before, after = (torch.fft.rfft2(y.unflatten(1, (h, w)), dim=(1, 2), norm="ortho") for y in (x, out))
    expected = torch.complex(*(torch.nn.functional.softshrink(p, 0.6) for p in (before.real, before.imag)))
    torch.testing.assert_close(after[:, :, 1:], expected[:, :, 1:])  # conjugate pairs share the first column
    assert spectral_mix(x, h, w, linear_weights(1), 1e3, transform=transform).eq(0).all()


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_linear_layers_make_a_circular_convolution(transform: str):
    """What is the same at every frequency commutes with circular shifts along both axes."""
    x, h, w = noise(1, 48 * 3, BLOCKS * SIZE), 48, 3

    def mixed(grid: Tensor) -> Tensor:
        out = spectral_mix(grid.flatten(1, 2), h, w, linear_weights(0.3 - 0.7j), 0.0, transform=transform)
        return out.unflatten(1, (h, w))

    grid = x.unflatten(1, (h, w))
    rolled = mixed(grid.roll((5, 1), (1, 2)))
    torch.testing.assert_close(rolled, mixed(grid).roll((5, 1), (1, 2)))
    assert (mixed(grid) - 0.3 * grid).abs().max() > 0.1


def test_white_noise_keeps_its_variance_at_the_start():
    torch.manual_seed(0)
    out = SpectralMixer(256)(noise(2, 256, 256, dtype=torch.float32), 16, 16).detach()
    assert float(out.square().mean()) == pytest.approx(1, abs=0.1)


def test_cheaper_transform_is_taken_unless_one_is_named():
    def uses_fft(transform: Any, height: int, width: int) -> bool:
        with Operators() as operators, torch.no_grad():
            SpectralMixer(8, transform=transform)(torch.zeros(1, height * width, 8), height, width)
        return any("fft" in name for name in operators.names)

    assert [uses_fft("auto", *size) for size in ((4, 4), (64, 64), (130, 130))] == [False, False, True]
    assert uses_fft("fft", 4, 4)
    assert not uses_fft("dft", 130, 130)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_without_gradients_the_same_comes_out_in_parts(transform: str):
    torch.manual_seed(0)
    mixer, x = SpectralMixer(256, transform=transform), noise(3, 1600, 256, dtype=torch.float32)
    whole = mixer(x, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x, 40, 40), whole, atol=1e-5, rtol=1e-5)


def test_samples_of_a_batch_are_independent_and_it_may_be_empty():
    torch.manual_seed(0)
    mixer, x = SpectralMixer(16, 4).double(), noise(3, 15, 16)
    out = mixer(x, 3, 5)
    torch.testing.assert_close(mixer(x[1:2], 3, 5), out[1:2])
    for transform in TRANSFORMS:
        empty = spectral_mix(x[:0], 3, 5, mixer.weights(), transform=transform)
        assert empty.shape == (0, 15, 16)
        empty.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_half_precision_is_left_while_computing(dtype: torch.dtype, transform: str):
    x, weights = noise(1, 15, BLOCKS * SIZE).to(dtype), random_weights(dtype)
    exact = spectral_mix(x.double(), 3, 5, tuple(w.double() for w in weights))
    out = spectral_mix(x, 3, 5, weights, transform=transform)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, atol=1e-6, rtol=torch.finfo(dtype).eps)
    out.float().sum().backward()
    assert weights[0].grad.dtype == dtype


def test_autocast_does_not_lower_the_precision():
    x, weights = noise(1, 15, BLOCKS * SIZE, dtype=torch.float32), random_weights(torch.float32)
    plain = spectral_mix(x, 3, 5, weights)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(spectral_mix(x, 3, 5, weights), plain)


def test_tables_of_a_grid_first_met_without_gradients_serve_training():
    """Inference mode, fake tensors and function transforms hand out tensors that must not be kept."""
    mixer = SpectralMixer(8, 2)

    def loss(x: Tensor, height: int, width: int) -> Tensor:
        return mixer(x, height, width).square().sum()

    x = noise(1, 9 * 11, 8, dtype=torch.float32)
    with torch.inference_mode():
        loss(x, 9, 11)
    loss(x, 9, 11).backward()
    x = noise(1, 9 * 13, 8, dtype=torch.float32)
    with FakeTensorMode(allow_non_fake_inputs=True):
        loss(torch.zeros(1, 9 * 13, 8), 9, 13)
    loss(x, 9, 13).backward()
    x = noise(3, 11 * 13, 8, dtype=torch.float32)
    gradients = torch.func.vmap(torch.func.grad(lambda sample: loss(sample[None], 11, 13)))(x)
    x.requires_grad_()
    loss(x, 11, 13).backward()
    torch.testing.assert_close(gradients, x.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning")  # of torch, in its exporter
def test_compiles_into_one_graph_and_exports_without_fft(tmp_path: Path):
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = SpectralMixer(8, 2), SpectralMixer(8, 4, transform="fft")

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x, 48, 2), 6, 16) + self.second(x, 48, 2)

    torch.manual_seed(0)
    module, x = Module().eval(), noise(3, 96, 8, dtype=torch.float32)
    expected = module(x).detach()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected, atol=1e-5, rtol=1e-5)
    path = tmp_path / "mixer.onnx"
    batch = {0: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        module, (x,), path, dynamo=True, opset_version=20, dynamic_shapes=(batch,), verbose=False, report=False
    )
    used = {node.op_type for node in onnx.load(path).graph.node}
    assert "MatMul" in used
    assert not used & {"DFT", "STFT", "Cos", "Sin"}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (2, 3):
        (out,) = session.run(None, {session.get_inputs()[0].name: x[:batch].numpy()})
        torch.testing.assert_close(torch.from_numpy(out), expected[:batch], atol=1e-5, rtol=1e-5)


@pytest.mark.no_cover  # tracing a trace takes twice as long
def test_one_compiled_function_serves_several_grids():
    torch.manual_seed(0)
    mixer = SpectralMixer(8, 2)
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    for height, width in ((4, 6), (6, 4), (5, 5)):
        x = noise(2, height * width, 8, dtype=torch.float32)
        torch.testing.assert_close(compiled(x, height, width), mixer(x, height, width), atol=1e-5, rtol=1e-5)


def test_errors_name_the_argument():
    for arguments, message in (
        ({"dim": 12}, r"dim: 12 given, must be a positive multiple of 8, the blocks of channels"),
        ({"dim": 0}, r"dim: 0 given"),
        ({"dim": 8, "shrinkage": -0.1}, r"shrinkage: -0.1 given"),
        ({"dim": 8, "transform": "dct"}, r"transform: 'dct' given, allowed are 'auto', 'fft' and 'dft'"),
    ):
        with pytest.raises(PochadeError, match=message):
            SpectralMixer(**arguments)
    mixer = SpectralMixer(8, 2)
    for shape in ((1, 11, 8), (1, 12, 6), (12, 8)):
        with pytest.raises(PochadeError, match=r"x: .* given for a grid of 3 x 4, must be \[B, 12, 8\]"):
            mixer(torch.zeros(shape), 3, 4)
