"""Optimiser and random states as named tensors and JSON, so that checkpoints need no pickle."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pochade.errors import PochadeError


def parameter_names(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[str]:
    """The names of the optimised parameters in the optimiser's order.

    Raises PochadeError for a parameter that is not the module's (it would not be saved).
    """
    names = {id(p): name for name, p in module.named_parameters()}
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    unknown = [list(p.shape) for p in ordered if id(p) not in names]
    if unknown:
        raise PochadeError(f"parameter_groups: parameters of shapes {unknown} are not in trainable()")
    return [names[id(p)] for p in ordered]


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """The optimiser's state, ``"exp_avg/blocks.0.weight"`` and so on."""
    state = optimizer.state_dict()["state"]
    return {f"{key}/{names[i]}": value for i, values in state.items() for key, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """Puts back what ``optimizer_tensors`` gave; the groups keep their own settings."""
    index = {name: i for i, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        key, name = path.split("/", 1)
        state.setdefault(index[name], {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    # The fused step walks the memory of a weight and of its state side by side: both need one order, which a file
    # does not keep (a convolution may lie channels last).
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                entries[key] = torch.empty_like(parameter).copy_(value)


def seed_all(*entropy: int) -> None:
    """Seeds Python, numpy and torch (all devices) from a few integers."""
    words = np.random.SeedSequence(list(entropy)).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 (users' code may draw from it)
    torch.manual_seed(int(words[2]))


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every generator of this process, as JSON values."""
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    key = numpy_state["state"]["key"].tolist()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": key}},
        "torch": _hex(torch.get_rng_state()),
    }
    if device.type != "cpu":
        state[device.type] = _hex(torch.get_device_module(device).get_rng_state())
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Puts back what ``random_state`` gave, also after a round through JSON."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy_state = state["numpy"]
    key = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state({**numpy_state, "state": {**numpy_state["state"], "key": key}})  # noqa: NPY002
    torch.set_rng_state(_bytes(state["torch"]))
    if device.type in state:
        torch.get_device_module(device).set_rng_state(_bytes(state[device.type]))


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
