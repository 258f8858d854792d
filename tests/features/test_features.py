"""The frozen feature extractor: its weights, its padding, and the perceptual distance."""

from pathlib import Path

import pytest
import skimage.data
import torch
import torch.nn.functional as F

from pochade.features.lite0 import FEATURES, EfficientNetLite0, _SameConv2d, checkpoint_path, load_lite0
from pochade.features.perceptual import PerceptualLoss


@pytest.fixture(scope="module")
def net() -> EfficientNetLite0:
    return load_lite0()


def test_weights_load_strictly_and_folding_the_norms_changes_nothing(net: EfficientNetLite0) -> None:
    plain = EfficientNetLite0()
    plain.load_state_dict(torch.load(checkpoint_path(), weights_only=True), strict=True)
    plain.eval()
    assert sum(p.numel() for p in plain.parameters()) == 4_652_008
    images = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(net.pooled(images), plain.pooled(images), atol=2e-5, rtol=1e-4)


def test_photographs_get_their_classes(net: EfficientNetLite0) -> None:
    # Padding, normalisation or the order of blocks gone wrong would show here.
    expected = {"chelsea.png": {281, 282, 285}, "coffee.png": {967}, "motorcycle_left.png": {665, 670}}
    for name, classes in expected.items():
        pixels = torch.from_numpy(skimage.io.imread(Path(skimage.data.__file__).parent / name).copy())
        side = min(pixels.shape[:2])
        top, left = ((n - side) // 2 for n in pixels.shape[:2])
        square = pixels[top : top + side, left : left + side, :3].permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            logits = net(F.interpolate(square, size=(224, 224), mode="bilinear", antialias=True))
        assert int(logits.argmax()) in classes


def test_same_padding_puts_the_odd_row_last() -> None:
    conv = _SameConv2d(1, 1, 3, 2, bias=False)
    conv.weight.data.fill_(0.0)
    conv.weight.data[0, 0, 0, 0] = 1.0  # reads the upper left of each window
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert conv(image).flatten().tolist() == [0, 2, 8, 10]  # even size: nothing padded above
    odd = torch.arange(25.0).view(1, 1, 5, 5)
    assert conv(odd).flatten().tolist() == [0, 0, 0, 0, 6, 8, 0, 16, 18]  # odd size: one row above, one below


def test_shapes_and_frozen(net: EfficientNetLite0) -> None:
    images = torch.zeros(2, 3, 64, 64)
    shapes = [tuple(m.shape[1:]) for m in net.maps(images)]
    assert shapes == [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    assert net.pooled(images).shape == (2, FEATURES)
    assert not any(p.requires_grad for p in net.parameters())
    assert not net.training


def test_perceptual_distance(net: EfficientNetLite0) -> None:
    loss = PerceptualLoss(net)
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    b = (a + 0.3 * torch.randn(a.shape, generator=generator)).clamp(-1, 1)
    far = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    assert float(loss(a, a)) == 0.0
    torch.testing.assert_close(loss(a, b), loss(b, a))
    assert 0 < float(loss(a, b)) < float(loss(a, far)) < 4
    torch.testing.assert_close(loss(a, b), loss.per_image(a, b).mean())
    moving = b.clone().requires_grad_()
    loss(moving, a).backward()
    assert moving.grad is not None
    step = b - 50 * moving.grad
    assert float(loss(step, a)) < float(loss(b, a))
    flat = torch.zeros(1, 3, 64, 64, requires_grad=True)
    loss(flat, torch.zeros(1, 3, 64, 64)).backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()
