"""Mixing over the token grid by frequency: adaptive Fourier neural operators. Axis letters: pochade.types."""

import math
import operator
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.norms import without_autocast

Transform = Literal["auto", "fft", "dft"]
Weights = tuple[Tensor, Tensor, Tensor, Tensor]
"""Complex weights and biases of the two layers as real tensors, real part first.

[2, blocks, d, d], [2, blocks, d], [2, blocks, d, d] and [2, blocks, d], where d = D / blocks.
"""
Layers = Sequence[tuple[Tensor, Tensor]]
"""Weight and bias of each layer in the form of ``_real_form``."""

# Measured with benchmarks/grid_mixers.py.
_DFT_LIMIT = 256
"""H + W up to which matrix products are the cheaper transform."""
_SPLIT_FROM = 48
"""Rows from which a butterfly ahead of the product along them, for half the arithmetic, pays."""
_PART = 2**18
"""Numbers transformed at a time where no gradient is kept: what a processor's cache holds."""


class SpectralMixer(nn.Module):
    """AFNO token mixing (2111.13587, section 4): rfft2, a complex MLP at each frequency, soft-shrink, irfft2.

    The MLP (two layers, block-diagonal over the channels, ReLU on real and imaginary parts separately) has the same
    weights at every frequency, so any H x W is served. The transforms are orthonormal. The residual connection and
    the norm around it are the caller's. The weights start normal with deviation 1 / sqrt(d), then 1 / sqrt(2 d),
    d = D / blocks, which keeps the variance of white noise; biases start at zero.

    Args:
        dim: D, a multiple of ``blocks``.
        blocks: number of blocks of channels.
        shrinkage: what the real and the imaginary parts of the spectrum lose in size, at least 0.
        transform: "dft" for products with DFT matrices in real arithmetic, which every runtime has; "fft" for
            ``torch.fft``; "auto" for the cheaper by grid size, and "dft" whenever the module is exported.

    Raises:
        PochadeError: an argument is out of range.
    """

    def __init__(self, dim: int, blocks: int = 8, shrinkage: float = 0.01, *, transform: Transform = "auto") -> None:
        super().__init__()
        if blocks < 1 or dim < 1 or dim % blocks:
            raise PochadeError(f"dim: {dim} given, must be a positive multiple of {blocks}, the blocks of channels")
        if not shrinkage >= 0:
            raise PochadeError(f"shrinkage: {shrinkage} given, allowed is 0 and more")
        if transform not in ("auto", "fft", "dft"):
            raise PochadeError(f"transform: {transform!r} given, allowed are 'auto', 'fft' and 'dft'")
        self.dim = dim
        self.shrinkage = shrinkage
        self.transform: Transform = transform
        size = dim // blocks
        self.first_weight = nn.Parameter(torch.randn(2, blocks, size, size) / math.sqrt(size))
        self.first_bias = nn.Parameter(torch.zeros(2, blocks, size))
        self.second_weight = nn.Parameter(torch.randn(2, blocks, size, size) / math.sqrt(2 * size))
        self.second_bias = nn.Parameter(torch.zeros(2, blocks, size))
        for bias in (self.first_bias, self.second_bias):
            bias.no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]

    def weights(self) -> Weights:
        """As ``spectral_mix`` takes them."""
        return self.first_weight, self.first_bias, self.second_weight, self.second_bias

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """[B, H W, D] -> [B, H W, D]."""
        return spectral_mix(x, height, width, self.weights(), self.shrinkage, transform=self.transform)


def spectral_mix(
    x: Tensor, height: int, width: int, weights: Weights, shrinkage: float = 0.01, *, transform: Transform = "auto"
) -> Tensor:
    """irfft2(shrink(MLP(rfft2(x)))) over the token grid, see ``SpectralMixer``: [B, H W, D] -> [B, H W, D].

    Computes in float32 at least; the output has the type of ``x``.

    Raises:
        PochadeError: ``x`` is not [B, H W, D], or D is not that of the weights.
    """
    blocks, size = weights[1].shape[1:]
    if x.ndim != 3 or x.shape[1] != height * width or x.shape[2] != blocks * size:
        given = f"{list(x.shape)} given for a grid of {height} x {width}"
        raise PochadeError(f"x: {given}, must be [B, {height * width}, {blocks * size}]")
    if torch.compiler.is_exporting() or x.numel() == 0:  # runtimes have no FFT, MKL's fails on empty batches
        transform = "dft"
    elif transform == "auto":
        transform = "dft" if height + width <= _DFT_LIMIT else "fft"
    dtype = torch.promote_types(x.dtype, torch.float32)
    with without_autocast(x):
        layers = [_real_form(w.to(dtype), b.to(dtype)) for w, b in (weights[:2], weights[2:])]
        tokens = x.to(dtype)
        if transform == "fft":
            mixed = _by_blocks(tokens, height, width, layers, shrinkage, "fft")
        elif height % 2 or height < _SPLIT_FROM:
            mixed = _by_blocks(tokens, height, width, layers, shrinkage, "all")
        else:
            # Even frequencies of n rows are all frequencies of n / 2 rows (a + b), odd ones are made of a - b.
            top, bottom = tokens.chunk(2, dim=1)
            even = _by_blocks(top + bottom, height // 2, width, layers, shrinkage, "even")
            odd = _by_blocks(top - bottom, height // 2, width, layers, shrinkage, "odd")
            mixed = torch.cat((even + odd, even - odd), dim=1)
        return mixed.to(x.dtype)


def spectral_reference(x: Tensor, height: int, width: int, weights: Weights, shrinkage: float = 0.01) -> Tensor:
    """``spectral_mix`` by its definition, with the N x N matrix of the two-dimensional DFT written out.

    The half of the spectrum with 0 <= k_w <= W / 2 stands for all of it, as in ``torch.fft.rfft2``: what the MLP
    makes of a frequency, the conjugate frequency gets conjugated.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    tokens = [(r, c) for r in range(height) for c in range(width)]
    half = [(r, c) for r, c in tokens if c <= width // 2]
    angle = [[-2 * math.pi * (k * r / height + m * c / width) for r, c in tokens] for k, m in half]
    angles = torch.tensor(angle, dtype=torch.float64, device=x.device)
    dft = (torch.polar(torch.ones_like(angles), angles) / math.sqrt(height * width)).to(dtype.to_complex())
    first_weight, first_bias, second_weight, second_bias = (torch.complex(*w.to(dtype).unbind()) for w in weights)
    spectrum = (dft @ x.to(dft.dtype)).view(*x.shape[:1], len(half), *first_bias.shape)
    hidden = torch.einsum("bnki,kij->bnkj", spectrum, first_weight) + first_bias
    hidden = torch.complex(hidden.real.relu(), hidden.imag.relu())
    out = torch.einsum("bnki,kij->bnkj", hidden, second_weight) + second_bias
    shrunk = torch.complex(F.softshrink(out.real, shrinkage), F.softshrink(out.imag, shrinkage)).flatten(2)
    count = torch.tensor([1 + (0 < 2 * m < width) + (2 * m > width) for _, m in half], dtype=dtype, device=x.device)
    return ((dft.mH * count) @ shrunk).real.to(x.dtype)


def _by_blocks(x: Tensor, height: int, width: int, layers: Layers, shrinkage: float, form: str) -> Tensor:
    """[B, H W, D] -> [B, H W, D], all blocks at once where gradients are kept, else as many as the cache holds."""
    blocks = layers[0][0].shape[0]
    grid = x.view(-1, height, width, blocks, x.shape[2] // blocks).permute(3, 0, 2, 1, 4)
    step = blocks
    if not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
        step = min(blocks, max(1, blocks * _PART // max(1, x.numel())))
    mixed: list[Tensor] = []
    for start in range(0, blocks, step):
        part = slice(start, start + step)
        some = [(weight[part], bias[part]) for weight, bias in layers]
        out = _mix(grid[part].contiguous(), some, shrinkage, form)
        mixed.append(out.permute(1, 3, 2, 0, 4))
    return torch.cat(mixed, dim=3).reshape(x.shape)


def _mix(x: Tensor, layers: Layers, shrinkage: float, form: str) -> Tensor:
    """[blocks, B, W, H, d] -> the same shape, by ``torch.fft`` or by the matrices of ``_rows``.

    With the products, real and imaginary parts are an axis beside the frequency: in that order of axes each product
    takes the last one's output as it lies in memory.
    """
    blocks, batch, width, height, size = x.shape
    if form == "fft":
        spectrum = torch.view_as_real(torch.fft.rfft2(x, dim=(3, 2), norm="ortho")).transpose(-1, -2)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        spectrum = _mlp(spectrum.reshape(blocks, -1, 2 * size), layers, shrinkage)
        pairs = spectrum.view(blocks, batch, -1, height, 2, size).transpose(-1, -2).contiguous()
        return torch.fft.irfft2(torch.view_as_complex(pairs), s=(height, width), dim=(3, 2), norm="ortho")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    # Compiled graphs hold the matrices as constants, so they serve one grid size: no symbolic numbers.
    rows, columns = operator.index(height), operator.index(width)
    along_width = _matrix("real", columns, x)
    back_along_width = _matrix("real inverse", columns, x)
    along_height = _matrix(form, rows if form == "all" else 2 * rows, x)
    spectrum = along_width @ x.view(blocks, batch, width, height * size)
    spectrum = along_height @ spectrum.view(-1, 2 * height, size)
    spectrum = _mlp(spectrum.view(blocks, -1, 2 * size), layers, shrinkage)
    spectrum = along_height.mT @ spectrum.view(-1, 2 * height, size)
    spectrum = spectrum.view(blocks, batch, along_width.shape[0], height * size)
    return (back_along_width @ spectrum).view(x.shape)


def _mlp(spectrum: Tensor, layers: Layers, shrinkage: float) -> Tensor:
    """Both layers and the shrinkage: [blocks, frequencies, 2 d] -> the same shape."""
    (first_weight, first_bias), (second_weight, second_bias) = layers
    hidden = F.relu(torch.baddbmm(first_bias, spectrum, first_weight))
    out = torch.baddbmm(second_bias, hidden, second_weight)
    return out - out.clamp(-shrinkage, shrinkage)


def _real_form(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A complex layer as a real one on (real, imaginary): [blocks, 2 d, 2 d] and [blocks, 1, 2 d]."""
    real, imaginary = weight
    rows = torch.cat((real, imaginary), dim=-1), torch.cat((-imaginary, real), dim=-1)
    return torch.cat(rows, dim=-2), torch.cat((bias[0], bias[1]), dim=-1).unsqueeze(1)


_matrices: dict[tuple[str, int, torch.device, torch.dtype], Tensor] = {}


@torch.compiler.allow_in_graph  # pyright: ignore[reportUnknownMemberType]
def _matrix(form: str, size: int, like: Tensor) -> Tensor:
    """``_rows`` on the device and in the type of ``like``, made once; a constant of compiled and exported graphs."""
    key = (form, size, like.device, like.dtype)
    matrix = None if torch.compiler.is_compiling() else _matrices.get(key)
    if matrix is None:
        with torch.inference_mode(False):
            matrix = torch.tensor(_rows(form, size), dtype=like.dtype, device=like.device)
        # Kept are tensors alone, not what stands in for them while a graph is traced or a function transformed.
        matrix = torch.func.debug_unwrap(matrix, recurse=True)
        if type(matrix) is Tensor:
            _matrices[key] = matrix
    return matrix


def _rows(form: str, size: int) -> list[list[float]]:
    """The orthonormal DFT exp(-2 pi i k n / size) / sqrt(size) as a real matrix, in double precision.

    "real": real points to the frequencies 0 to size / 2, [2 (size // 2 + 1), size], rows (k, part).
    "real inverse": back, [size, 2 (size // 2 + 1)]; each frequency also stands for its conjugate.
    "all": complex, [2 size, 2 size], rows (k, part), columns (part, n); its transpose is the inverse.
    "even", "odd": [size, size], those rows of "all" and half its points.
    """
    cosine = [math.cos(2 * math.pi * k / size) / math.sqrt(size) for k in range(size)]
    sine = [math.sin(2 * math.pi * k / size) / math.sqrt(size) for k in range(size)]
    rows: list[list[float]] = []
    if form.startswith("real"):
        for k in range(size // 2 + 1):
            rows += [[cosine[k * n % size] for n in range(size)], [-sine[k * n % size] for n in range(size)]]
        if form == "real":
            return rows
        counts = [1 if 2 * k % size == 0 else 2 for k in range(size // 2 + 1) for _ in range(2)]
        return [[count * row[n] for count, row in zip(counts, rows, strict=True)] for n in range(size)]
    first, step = {"all": (0, 1), "even": (0, 2), "odd": (1, 2)}[form]
    for k in range(first, size, step):
        c, s = ([table[k * n % size] for n in range(size // step)] for table in (cosine, sine))
        rows += [c + s, [-v for v in s] + c]
    return rows
