"""The linear layer that a LoRA is trained in: peft's, with fewer passes over its outputs."""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor

from pochade.nn.linear import linear


class _AdaptedProduct(torch.autograd.Function):
    """y = x (W + s B A)^T + b for x [..., m], W [n, m], B [n, r], A [r, m]; gradients reach x, A and B.

    The matrix is added up once for all rows of x, and its gradient [n, m] is never formed::

        g = s dy B      dx = dy W + g A      dA = g^T x      dB = s dy^T (x A^T)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return linear(x, torch.addmm(weight, b, a, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        rows, dy = x.flatten(0, -2), gradients[0].flatten(0, -2)
        g = dy @ (ctx.scale * b)
        dx = linear(dy, weight.t()).addmm_(g, a).view(x.shape) if ctx.needs_input_grad[0] else None
        h = rows @ (ctx.scale * a).T
        return dx, None, None, g.T @ rows, (h.T @ dy).T, None


class AdaptedLinear(Linear):
    """peft's ``Linear``, which it is in all but the training of one plain LoRA in the precision of its weights."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names = self.active_adapters
        plain = len(names) == 1 and names[0] in self.lora_A and names[0] not in self.lora_variant
        learns = torch.is_grad_enabled() and not self.disable_adapters and not self.merged
        if not plain or not learns or torch.is_autocast_enabled(x.device.type):
            return super().forward(x, *args, **kwargs)
        layer, name = self.get_base_layer(), names[0]
        factors = self.lora_A[name].weight, self.lora_B[name].weight
        return _AdaptedProduct.apply(x, layer.weight, layer.bias, *factors, self.scaling[name])  # pyright: ignore[reportReturnType]
