"""Resampling: the Haar transform is PyWavelets' and orthogonal; the shortcuts keep what channels allow."""

from pathlib import Path

import onnxruntime
import pytest
import pywt
import torch
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.resample import (
    ShortcutDownsample,
    ShortcutUpsample,
    downsample_shortcut,
    haar_dwt,
    haar_idwt,
    upsample_shortcut,
)

SIZES = [(2, 2), (2, 10), (6, 4), (8, 8), (32, 18)]


def pictures(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(2, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_haar_is_that_of_pywavelets(height: int, width: int) -> None:
    x = pictures(3, height, width)
    approximation, details = pywt.dwt2(x.numpy(), "haar")
    for ours, theirs in zip(haar_dwt(x).chunk(4, dim=1), (approximation, *details), strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_haar_round_trip_energy_and_adjoint(height: int, width: int) -> None:
    """The inverse is the transpose, from both sides: <dwt(x), y> = <x, idwt(y)>, idwt(dwt(x)) = x, dwt(idwt(y)) = y."""
    x, y = pictures(3, height, width), pictures(12, height // 2, width // 2, seed=1)
    assert (haar_idwt(haar_dwt(x)) - x).abs().max() < 1e-14
    assert (haar_dwt(haar_idwt(y)) - y).abs().max() < 1e-14
    torch.testing.assert_close(haar_dwt(x).square().sum(), x.square().sum(), rtol=1e-14, atol=0)
    torch.testing.assert_close((haar_dwt(x) * y).sum(), (x * haar_idwt(y)).sum(), rtol=0, atol=1e-12)


def test_haar_of_a_constant_and_of_edges() -> None:
    """LL is twice the mean; stripes one above the other are in LH, side by side in HL, a chessboard in HH."""
    rows, columns = torch.meshgrid(torch.arange(4) % 2, torch.arange(6) % 2, indexing="ij")
    x = torch.stack((torch.full((4, 6), 0.25), 1.0 - 2 * rows, 1.0 - 2 * columns, 1.0 - 2 * (rows ^ columns)))[None]
    bands = haar_dwt(x).unflatten(1, (4, 4))
    expected = torch.diag(torch.tensor([0.5, 2.0, 2.0, 2.0]))[None, :, :, None, None].expand_as(bands)
    assert torch.equal(bands, expected)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.05)])
def test_haar_keeps_the_type(dtype: torch.dtype, error: float) -> None:
    x = pictures(1, 6, 8).to(dtype)
    again = haar_idwt(haar_dwt(x))
    assert again.dtype == dtype
    assert (again - x).abs().max() < error
    assert haar_dwt(x[:0]).shape == (0, 4, 3, 4)


def test_haar_gradients() -> None:
    assert torch.autograd.gradcheck(haar_dwt, pictures(1, 4, 6).requires_grad_())
    assert torch.autograd.gradcheck(haar_idwt, pictures(4, 2, 3).requires_grad_())


def test_the_shortcut_alone_is_lossless_where_channels_allow() -> None:
    x = pictures(16, 6, 10)
    down = downsample_shortcut(x, 64)
    assert down.shape == (2, 64, 3, 5)
    assert torch.equal(upsample_shortcut(down, 16), x)


@pytest.mark.parametrize(("channels", "finer"), [(64, 16), (8, 4), (4, 4), (4, 8), (32, 32), (3, 3), (4, 1)])
def test_down_undoes_up(channels: int, finer: int) -> None:
    x = pictures(channels, 3, 5)
    up = upsample_shortcut(x, finer)
    assert up.shape == (2, finer, 6, 10)
    torch.testing.assert_close(downsample_shortcut(up, channels), x, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("channels", "coarser"), [(16, 32), (4, 4), (3, 6), (8, 2), (1, 1)])
def test_up_after_down_is_the_nearest_picture_of_its_kind(channels: int, coarser: int) -> None:
    """Where channels are lost, up(down(x)) is an orthogonal projection: it changes nothing when repeated, and what it
    leaves out is orthogonal to what it keeps."""
    x = pictures(channels, 4, 6)
    kept = upsample_shortcut(downsample_shortcut(x, coarser), channels)
    torch.testing.assert_close(upsample_shortcut(downsample_shortcut(kept, coarser), channels), kept)
    assert abs((kept * (x - kept)).sum()) < 1e-12
    torch.testing.assert_close(kept.mean(), x.mean())


def test_downsampling_to_the_same_channels_groups_as_in_the_paper() -> None:
    """Pixel-unshuffle orders [channel, row, column]; successive channels are averaged (2410.10733, figure 4)."""
    x = pictures(2, 2, 2)
    assert torch.equal(downsample_shortcut(x, 4)[:, :, 0, 0], x.mean(-1).flatten(1))
    assert torch.equal(upsample_shortcut(x, 1)[:, 0, ::2, ::2], x[:, 0])
    assert torch.equal(upsample_shortcut(x, 1)[:, 0, 1::2, ::2], x[:, 1])


def test_modules_are_the_shortcut_beside_a_convolution() -> None:
    torch.manual_seed(0)
    down, up = ShortcutDownsample(8, 16).double(), ShortcutUpsample(16, 8).double()
    x = pictures(8, 6, 4)
    torch.testing.assert_close(down(x), downsample_shortcut(x, 16) + down.conv(x))
    y = down(x)
    assert y.shape == (2, 16, 3, 2)
    assert up(y).shape == x.shape
    for module in (down, up):
        nn.init.zeros_(module.conv.weight)
        nn.init.zeros_(module.conv.bias)
    assert torch.equal(down(up(y)), y)


def test_channels_last_gives_the_same() -> None:
    x = pictures(8, 6, 4)
    last = x.to(memory_format=torch.channels_last)
    for function in (haar_dwt, haar_idwt, lambda x: downsample_shortcut(x, 16), lambda x: upsample_shortcut(x, 4)):
        assert torch.equal(function(last), function(x))


def test_bad_arguments_are_named() -> None:
    x = torch.zeros(1, 6, 4, 4)
    for function in (haar_dwt, lambda x: downsample_shortcut(x, 4), ShortcutDownsample(6, 4)):
        with pytest.raises(PochadeError, match="x: 3 x 4 given, height and width must be even"):
            function(x[:, :, :3])
        with pytest.raises(PochadeError, match="x: 4 x 3 given"):
            function(x[..., :3])
    with pytest.raises(PochadeError, match="bands: 6 channels given, must be a multiple of 4"):
        haar_idwt(x)
    for make in (lambda c: downsample_shortcut(x, c), lambda c: ShortcutDownsample(6, c)):
        for channels in (5, 0, 48):
            with pytest.raises(PochadeError, match=f"channels: {channels} given, must divide 24"):
                make(channels)
    for make in (lambda c: upsample_shortcut(x, c), lambda c: ShortcutUpsample(6, c)):
        for channels in (4, 0):
            with pytest.raises(PochadeError, match=f"channels: {channels} given, .* multiple of the 6 that enter"):
                make(channels)


class Resampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = ShortcutDownsample(12, 8)
        self.up = ShortcutUpsample(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return haar_idwt(self.up(self.down(haar_dwt(x))))


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # a warning of torch's exporter about its own code
def test_resampling_exports_and_compiles(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Resampling().eval(), pictures(3, 8, 12).float()
    expected = module(x).detach()
    path = tmp_path / "resampling.onnx"
    torch.onnx.export(module, (x,), path, dynamo=True, opset_version=20, verbose=False, report=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-5, atol=1e-5)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x).detach(), expected)
