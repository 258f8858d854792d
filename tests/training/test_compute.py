"""Numbers read late, blocks compiled one by one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from contracts.families import FAMILIES, conditioning_for, inputs_for, make, stir
from pochade.errors import PochadeError
from pochade.training.compute import (
    CompiledBlocks,
    LateNumbers,
    check_compiler,
    is_bf16_slow,
    products_for,
    recomputing,
    repeated_blocks,
)

CPU = torch.device("cpu")


def test_numbers_are_those_of_the_moment_at_which_they_were_sent() -> None:
    values = torch.tensor([1.5, float("nan")])
    late = LateNumbers(values * 2)
    values.zero_()
    first, second = late.read()
    assert first == 3.0
    assert second != second  # noqa: PLR0124 - nan


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_family_repeats(name: str) -> None:
    denoiser = make(name, next(iter(FAMILIES[name].toys)))
    blocks = repeated_blocks(denoiser)
    assert len(blocks) >= 2
    assert denoiser not in blocks
    inside = sum(p.numel() for block in blocks for p in block.parameters())
    assert inside > 0.5 * sum(p.numel() for p in denoiser.parameters())


def test_a_network_that_names_no_blocks_is_one() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    assert repeated_blocks(network) == [network]


def test_a_cpu_without_a_compiler_is_found_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler.exe"
    compiler.touch(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    check_compiler(torch.device("cpu"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    check_compiler(torch.device("cuda"))
    with pytest.raises(PochadeError, match=r"^compile: true needs a C\+\+ compiler on a CPU, .* no-such-compiler"):
        check_compiler(torch.device("cpu"))


@pytest.mark.filterwarnings("ignore")
def test_compilation_can_be_suspended_and_ends() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    compiled = CompiledBlocks([network])
    compiled.start()
    implementation = network._compiled_call_impl
    assert implementation is not None
    with compiled.suspended():
        assert network._compiled_call_impl is None
    assert network._compiled_call_impl is implementation
    compiled.stop()
    assert network._compiled_call_impl is None


GRAPHS = {"iris": 4, "lira": 2, "lrf": 1, "microforge": 2}
"""Different codes of the first toy in a training step: kinds of block, times those with and without a gradient."""


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself
@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_of_one_kind_share_their_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of each family, its blocks compiled: how many codes there are, none broken, and the same gradients."""
    torch._dynamo.reset()
    denoiser = stir(make(name, next(iter(FAMILIES[name].toys)))).train()
    latents, t = inputs_for(denoiser, 2, (4, 4))
    conditioning = conditioning_for(denoiser, ("text",), 2, (4, 4))

    def gradients() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        denoiser.zero_grad()
        denoiser(latents, t, conditioning).velocity.square().sum().backward()
        return {name: p.grad.clone() for name, p in denoiser.named_parameters() if p.grad is not None}

    expected = gradients()
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for block in repeated_blocks(denoiser):
        block.compile(dynamic=False, backend=backend, fullgraph=True)
    found = gradients()
    gradients()
    assert len(graphs) == GRAPHS[name]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)


def test_products_change_on_gpus_alone() -> None:
    before = torch.get_float32_matmul_precision()
    with products_for("bf16", CPU):
        assert torch.get_float32_matmul_precision() == before
    with products_for("fp32", torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == before
    with products_for("bf16", torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_a_cpu_without_bf16_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_bf16_slow(torch.device("cuda"))
    for capabilities, slow in (({"avx512_bf16": True}, False), ({"avx512_bf16": False, "avx2": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert is_bf16_slow(CPU) is slow


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_that_are_computed_anew_give_the_same_gradient(name: str) -> None:
    denoiser = stir(make(name, next(iter(FAMILIES[name].toys)))).train()
    given = *inputs_for(denoiser, 2, (4, 4)), conditioning_for(denoiser, FAMILIES[name].parts, 2, (4, 4))

    def step() -> tuple[torch.Tensor, list[torch.Tensor]]:
        torch.manual_seed(3)
        denoiser.zero_grad()
        velocity = denoiser(*given).velocity
        velocity.square().sum().backward()
        return velocity.detach(), [p.grad for p in denoiser.parameters() if p.grad is not None]

    velocity, gradients = step()
    with recomputing([denoiser]) as blocks:
        assert blocks == repeated_blocks(denoiser)
        again, others = step()
    assert torch.equal(velocity, again)
    assert len(gradients) == len(others)
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
    assert "forward" not in vars(blocks[0])
