"""Hyper-connections: a residual network at the beginning, the equations of the paper after it."""

from pathlib import Path

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.hyper_connections import HyperConnection, collapse, expand
from pochade.nn.norms import as_stream

DIM = 6


class PreNorm(nn.Module):
    """A layer as it stands on the residual branch: norm, then something non-linear that mixes tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x, (DIM,))
        return torch.tanh(self.linear(normed + normed.mean(1, keepdim=True)))


class Stack(nn.Module):
    """Layers connected by n streams; ``residual`` is the same network without them."""

    def __init__(self, streams: int, *, dynamic: bool, depth: int = 5) -> None:
        super().__init__()
        self.streams = streams
        self.layers = nn.ModuleList(PreNorm() for _ in range(depth))
        self.connections = nn.ModuleList(HyperConnection(DIM, streams, i, dynamic=dynamic) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        streams = expand(x, self.streams)
        for connection, layer in zip(self.connections, self.layers, strict=True):
            streams = connection(streams, layer)
        return collapse(streams)

    def residual(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def tokens(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, 7, DIM, generator=torch.Generator().manual_seed(seed))


def randomised(module: nn.Module) -> nn.Module:
    """The module as after some training: no parameter has its first value."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("streams", [1, 2, 3, 4])
def test_begins_as_the_residual_network(streams: int, dynamic: bool) -> None:
    torch.manual_seed(0)
    stack, x = Stack(streams, dynamic=dynamic), tokens()
    torch.testing.assert_close(stack(x), stack.residual(x), rtol=0, atol=1e-6)
    stack, x = stack.double(), x.double()
    torch.testing.assert_close(stack(x), stack.residual(x), rtol=0, atol=1e-14)


def test_begins_with_the_gradients_of_the_residual_network() -> None:
    torch.manual_seed(0)
    stack, x = Stack(2, dynamic=True).double(), tokens().double()
    parameters = list(stack.layers.parameters())
    ours = torch.autograd.grad(stack(x).square().sum(), parameters)
    theirs = torch.autograd.grad(stack.residual(x).square().sum(), parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_is_the_equation_of_the_paper_for_each_token(streams: int, dynamic: bool) -> None:
    """2409.19606, section 2, as matrices of one token's streams H [n, D]; values and gradients."""
    torch.manual_seed(0)
    connection, layer = randomised(HyperConnection(DIM, streams, 1, dynamic=dynamic)).double(), PreNorm().double()
    h = torch.randn(2, streams, 5, DIM, dtype=torch.float64, requires_grad=True)

    def matrices(token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        read, keep, write = connection.alpha[:, 0], connection.alpha[:, 1:], connection.beta
        if dynamic:
            normed = F.layer_norm(token, (DIM,))
            w = connection.weight
            read = read + connection.alpha_scale * torch.tanh(normed @ w[0])
            keep = keep + connection.alpha_scale * torch.tanh(normed @ w[1 : 1 + streams].T)
            write = write + connection.beta_scale * torch.tanh(normed @ w[-1])
        return read, keep, write

    each = [[(token, *matrices(token)) for token in row.unbind(1)] for row in h]
    y = layer(torch.stack([torch.stack([read @ token for token, read, _, _ in row]) for row in each]))
    expected = torch.stack(
        [
            torch.stack(
                [keep.T @ token + torch.outer(write, y[b, i]) for i, (token, _, keep, write) in enumerate(row)],
                dim=1,
            )
            for b, row in enumerate(each)
        ]
    )
    ours = connection(h, layer)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(ours)
    variables = [h, *connection.parameters(), *layer.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((ours * weights).sum(), variables),
        torch.autograd.grad((expected * weights).sum(), variables),
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("dynamic", [False, True])
def test_every_parameter_receives_a_gradient(dynamic: bool) -> None:
    """At the beginning all but the two scales of what is still zero; after one step those too."""
    torch.manual_seed(0)
    stack, x = Stack(2, dynamic=dynamic), tokens()
    optimiser = torch.optim.SGD(stack.parameters(), lr=0.1)
    for waiting in (("alpha_scale", "beta_scale"), ()):
        optimiser.zero_grad()
        F.mse_loss(stack(x), tokens(seed=1)).backward()
        without = [n for n, p in stack.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert all(name.endswith(waiting) for name in without), without
        optimiser.step()


@pytest.mark.parametrize("dynamic", [False, True])
def test_streams_part_in_training(dynamic: bool) -> None:
    """Layers read different streams, so that a step of gradient descent makes the copies differ."""
    torch.manual_seed(0)
    stack, x = Stack(2, dynamic=dynamic), tokens()
    optimiser = torch.optim.SGD(stack.parameters(), lr=0.1)
    F.mse_loss(stack(x), tokens(seed=1)).backward()
    optimiser.step()
    streams = expand(x, 2)
    for connection, layer in zip(stack.connections, stack.layers, strict=True):
        streams = connection(streams, layer)
    assert (streams[:, 0] - streams[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("dynamic", [False, True])
def test_tokens_and_samples_are_independent(dynamic: bool) -> None:
    torch.manual_seed(0)
    connection = randomised(HyperConnection(DIM, 2, 0, dynamic=dynamic))
    h = torch.randn(3, 2, 5, DIM)
    whole = connection(h, torch.tanh)
    torch.testing.assert_close(connection(h[1:2, :, 2:4], torch.tanh), whole[1:2, :, 2:4])
    assert connection(h[:0], torch.tanh).shape == (0, 2, 5, DIM)


def test_numbers_are_kept_from_weight_decay_and_the_matrix_is_not() -> None:
    connection = HyperConnection(DIM, 2, 0, dynamic=True)
    kept = {name for name, p in connection.named_parameters() if getattr(p, "no_weight_decay", False)}
    assert kept == {"alpha", "beta", "alpha_scale", "beta_scale"}
    assert dict(HyperConnection(DIM, 2, 0, dynamic=False).named_parameters()).keys() == {"alpha", "beta"}


def test_half_precision_streams_keep_their_type() -> None:
    torch.manual_seed(0)
    connection = randomised(HyperConnection(DIM, 2, 0, dynamic=True))
    h = torch.randn(2, 2, 5, DIM)
    expected = connection(h, torch.tanh)
    for module in (connection, connection.bfloat16()):
        out = module(h.bfloat16(), torch.tanh)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(PochadeError, match="streams: 0 given"):
        HyperConnection(DIM, 0, 0, dynamic=False)
    with pytest.raises(PochadeError, match="layer_index: -1 given"):
        HyperConnection(DIM, 2, -1, dynamic=False)
    connection = HyperConnection(DIM, 2, 0, dynamic=True)
    for shape in ((2, 3, 5, DIM), (2, 2, 5, DIM + 1), (2, 5, DIM)):
        with pytest.raises(PochadeError, match=r"streams: shape .* must be \[B, 2, N, 6\]"):
            connection(torch.zeros(shape), torch.tanh)


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # a warning of torch's exporter about its own code
@pytest.mark.parametrize("dynamic", [False, True])
def test_exports_and_compiles(dynamic: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    stack, x = randomised(Stack(2, dynamic=dynamic, depth=2)).eval(), tokens()
    expected = stack(x).detach()
    path = tmp_path / "stack.onnx"
    batch = {0: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        stack, (x,), path, dynamo=True, opset_version=20, dynamic_shapes=(batch,), verbose=False, report=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    (output,) = session.run(None, {name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-5, atol=1e-5)
    (output,) = session.run(None, {name: x[:1].numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected[:1], rtol=1e-5, atol=1e-5)
    compiled = torch.compile(stack, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x).detach(), expected)


def test_half_precision_leaves_the_gradient_of_the_connections() -> None:
    """Under autocast, against float32, where the first layer reads a small difference of streams, as trained ones do.

    The numbers are those of lira-nano. Rounded to bfloat16 the difference is zero.
    """
    torch.manual_seed(0)
    stack = Stack(2, dynamic=True, depth=2)
    first = stack.connections[0]
    with torch.no_grad():
        first.alpha.copy_(torch.tensor([[0.5009765625, 1.0693, -0.0321], [-0.4990234375, 0.0695, 0.9678]]))
    x, target, parameters = 3 * tokens(8), tokens(8, seed=1), list(first.parameters())

    def gradients(half: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = stack(as_stream(x))
        found = torch.autograd.grad((out.float() - target).square().mean(), parameters)
        return torch.cat([gradient.flatten() for gradient in found])

    expected = gradients(half=False)
    assert (gradients(half=True) - expected).norm() < 0.02 * expected.norm()
