"""The optimiser's state comes back as it was, wherever the weights lie in memory."""

import copy

import torch

from pochade.training.state import load_optimizer, optimizer_tensors, parameter_names


def _step(network: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    network(images.contiguous(memory_format=torch.channels_last)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_weights_that_lie_channels_last_go_on_bit_for_bit() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2, fused=True)
    for seed in range(3):
        _step(network, optimizer, seed)
    names = parameter_names(optimizer, network)
    # A file keeps values in plain order.
    saved = {k: v.contiguous().clone() for k, v in optimizer_tensors(optimizer, names).items()}
    clone = copy.deepcopy(network)
    resumed = torch.optim.AdamW(clone.parameters(), 1e-2, fused=True)
    load_optimizer(resumed, names, saved)
    _step(network, optimizer, 3)
    _step(clone, resumed, 3)
    for a, b in zip(network.parameters(), clone.parameters(), strict=True):
        assert torch.equal(a, b)
