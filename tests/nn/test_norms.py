"""Norms in the type of their input, with and without autocast."""

import pytest
import torch
import torch.nn.functional as F

from pochade.nn.norms import LayerNorm, RMSNorm, as_stream, layer_norm, rms_norm


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_without_autocast_they_are_torch_s_own() -> None:
    x, weight, bias = noise(2, 5, 8), noise(8, seed=1), noise(8, seed=2)
    assert torch.equal(layer_norm(x, weight, bias, 1e-5), F.layer_norm(x, (8,), weight, bias, 1e-5))
    assert torch.equal(rms_norm(x, weight, 1e-5), F.rms_norm(x, (8,), weight, 1e-5))
    for ours, theirs in ((LayerNorm(8), torch.nn.LayerNorm(8, 1e-6)), (RMSNorm(8), torch.nn.RMSNorm(8, 1e-6))):
        theirs.load_state_dict(ours.state_dict())
        assert torch.equal(ours(x), theirs(x))
    assert as_stream(x) is x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_type_stays_and_the_sums_are_wide(dtype: torch.dtype) -> None:
    """Against float64; a mean of 30 over deviations of 1 would lose all digits in sums of bfloat16."""
    x = (noise(4, 512) + 30).to(dtype).requires_grad_()
    for norm in (LayerNorm(512), RMSNorm(512)):
        torch_norm = (torch.nn.LayerNorm if isinstance(norm, LayerNorm) else torch.nn.RMSNorm)(512, 1e-6).double()
        expected = torch_norm(x.double())
        with torch.autocast("cpu", torch.bfloat16):
            found = norm(x)
        assert found.dtype == dtype
        tolerance = 2**-8 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
        grad = noise(4, 512, seed=3, dtype=dtype)
        (got,) = torch.autograd.grad(found, x, grad)
        (wanted,) = torch.autograd.grad(expected, x, grad.double())
        torch.testing.assert_close(got.double(), wanted.double(), rtol=4 * tolerance, atol=4 * tolerance)


def test_a_stream_takes_the_type_of_products() -> None:
    x = noise(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert as_stream(x).dtype == torch.bfloat16
        assert as_stream(x.double()).dtype == torch.bfloat16
    with torch.autocast("cpu", enabled=False):
        assert as_stream(x) is x


def test_they_compile_into_one_graph_and_know_devices_without_autocast() -> None:
    norm = LayerNorm(8)
    compiled = torch.compile(lambda x: norm(as_stream(x)), backend="aot_eager", fullgraph=True)
    x = noise(2, 8)
    assert torch.equal(compiled(x), norm(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(x), norm(x.bfloat16()))
    meta = torch.empty(2, 8, device="meta")
    assert layer_norm(as_stream(meta)).dtype == torch.float32
