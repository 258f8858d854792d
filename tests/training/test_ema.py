"""The moving average against its formula."""

import pytest
import torch
from torch import nn

from pochade.training.ema import EMA, module_tensors


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()


def test_updates_follow_the_formula_with_its_warm_up() -> None:
    net = network()
    ema = EMA(net, 0.5)
    expected = {name: t.clone() for name, t in module_tensors(net).items()}
    for n in range(12):
        with torch.no_grad():
            for tensor in net.parameters():
                tensor.add_(torch.randn_like(tensor))
            net(torch.randn(4, 3).double())  # moves the running statistics
        ema.update(n)
        decay = min(0.5, (1 + n) / (10 + n))
        for name, w in module_tensors(net).items():
            floating = w.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * w if floating else w.clone()
    assert ema.decay_at(0) == 0.1
    assert ema.decay_at(8) == 0.5
    for name, tensor in ema.tensors.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)
    assert ema.tensors["1.num_batches_tracked"] == 12


def test_decay_zero_is_the_network_itself() -> None:
    net = network()
    ema = EMA(net, 0.0)
    with torch.no_grad():
        net[0].weight.add_(1)
    ema.update(0)
    assert torch.equal(ema.tensors["0.weight"], net[0].weight)


def test_applied_swaps_and_gives_back_also_after_an_error() -> None:
    net = network()
    ema = EMA(net, 0.9)
    with torch.no_grad():
        net[0].weight.add_(1)
    before = net[0].weight.clone()

    def inside() -> None:
        with ema.applied():
            assert torch.equal(net[0].weight, ema.tensors["0.weight"])
            assert not torch.equal(net[0].weight, before)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        inside()
    assert torch.equal(net[0].weight, before)
    ema.copy_to_module()
    assert torch.equal(net[0].weight, ema.tensors["0.weight"])


def test_tied_tensors_appear_once() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    assert list(module_tensors(net)) == ["0.weight"]
