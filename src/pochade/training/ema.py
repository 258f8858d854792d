"""The exponential moving average of a network."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, as views that share memory; a tied tensor appears once."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


class EMA:
    """``s <- d s + (1 - d) w`` for every parameter and buffer w, with ``d = min(decay, (1 + n) / (10 + n))``.

    ``n`` counts the updates: a young average forgets its random start quickly. ``decay`` in [0, 1); at 0 the
    average is the network itself. Tensors that are not floating are copied. The module must have reached its
    device.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = module_tensors(module)
        self.tensors = {name: tensor.clone() for name, tensor in self._live.items()}
        floating = [name for name, tensor in self._live.items() if tensor.is_floating_point()]
        self._average = [self.tensors[name] for name in floating]
        self._source = [self._live[name] for name in floating]
        self._copied = [name for name in self._live if name not in set(floating)]

    def decay_at(self, n: int) -> float:
        """The decay of update ``n``, counted from 0."""
        return min(self.decay, (1 + n) / (10 + n))

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Takes the network in as update ``n``."""
        torch._foreach_lerp_(self._average, self._source, 1 - self.decay_at(n))
        for name in self._copied:
            self.tensors[name].copy_(self._live[name])

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over the averages of a checkpoint."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @torch.no_grad()
    def copy_to_module(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Overwrites the network with its average, or with an earlier one, ``tensors``."""
        tensors = self.tensors if tensors is None else tensors
        for name, tensor in self._live.items():
            tensor.copy_(tensors[name])

    @contextmanager
    def applied(self, tensors: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Within the block the network holds its average, or an earlier one, ``tensors``."""
        kept = {name: tensor.clone() for name, tensor in self._live.items()}
        self.copy_to_module(tensors)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self._live.items():
                    tensor.copy_(kept[name])
