import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.errors import PochadeError
from pochade.nn.convolution import DepthwiseConv, DepthwiseSeparableConv, PatchEmbedding, patch_product

SIZES = ((1, 1), (3, 5), (1, 7), (6, 2))


def shifts(module: DepthwiseConv, x: Tensor, height: int, width: int) -> Tensor:
    """The convolution as its definition: a weighted sum of shifted grids."""
    kernel = module.weight.shape[-1]
    around = kernel // 2
    grid = F.pad(x.unflatten(1, (height, width)), (0, 0, around, around, around, around))
    total = module.bias
    for row in range(kernel):
        for column in range(kernel):
            total = total + module.weight[:, 0, row, column] * grid[:, row : row + height, column : column + width]
    return total.flatten(1, 2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", SIZES)
def test_depthwise_convolution_is_the_sum_of_shifts(
    size: tuple[int, int], kernel: int, dtype: torch.dtype, tolerance: float
):
    torch.manual_seed(0)
    module = DepthwiseConv(4, kernel).to(dtype)
    tokens = torch.randn(2, size[0] * size[1], 4, dtype=dtype)
    results: list[list[Tensor]] = []
    for function in (module, lambda *a: shifts(module, *a)):
        x = tokens.clone().requires_grad_()
        out = function(x, *size)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *module.parameters()])])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, atol=tolerance, rtol=tolerance)


def test_depthwise_convolution_is_the_identity_with_a_centre_of_one():
    module = DepthwiseConv(4).double()
    with torch.no_grad():
        module.weight.zero_()
        module.weight[:, :, 1, 1] = 1
        module.bias.zero_()
    x = torch.randn(2, 15, 4, dtype=torch.float64)
    assert torch.equal(module(x, 3, 5), x)


@pytest.mark.parametrize("size", SIZES)
def test_separable_convolution_is_depthwise_then_pointwise(size: tuple[int, int]):
    torch.manual_seed(0)
    module = DepthwiseSeparableConv(4).double()
    x = torch.randn(2, size[0] * size[1], 4, dtype=torch.float64)
    grid = F.gelu(module.depthwise(x, *size)).transpose(1, 2).unflatten(2, size)
    expected = F.conv2d(grid, module.out.weight[:, :, None, None], module.out.bias)
    torch.testing.assert_close(module(x, *size), expected.flatten(2).transpose(1, 2))


def test_a_grid_that_does_not_hold_the_tokens_is_refused():
    x = torch.zeros(1, 12, 4)
    for module in (DepthwiseConv(4), DepthwiseSeparableConv(4)):
        for height, width in ((3, 5), (-3, -4), (0, 12)):
            message = f"height, width: {height} and {width} given, allowed are those with a product of 12 tokens"
            with pytest.raises(PochadeError, match=message):
                module(x, height, width)


@pytest.mark.parametrize("patch", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_patch_embedding_is_one_matrix_product(patch: int, bias: bool):
    """What GPUs compute is what torch's convolution gives, values and gradients."""
    torch.manual_seed(0)
    module = PatchEmbedding(5, 4, patch, bias=bias).double()
    x = torch.randn(2, 5, 3 * patch, 2 * patch, dtype=torch.float64, requires_grad=True)
    results: list[list[Tensor]] = []
    for out in (module(x), patch_product(x, module.weight, module.bias)):
        assert out.shape == (2, 4, 3, 2)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *module.parameters()])])
    torch.testing.assert_close(*results)
