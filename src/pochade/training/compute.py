"""What keeps a device busy while it trains: numbers read late, blocks compiled, products on tensor cores."""

import os
import shutil
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pochade.errors import PochadeError


class LateNumbers:
    """Numbers on their way from a device to the processor, to be read when they are needed.

    To read a number of a GPU at once is to wait until the GPU has done all that it was given, and to leave it idle
    until it is given more. What was put on its way a step ago has arrived.

    Args:
        values: [n] float32.
    """

    def __init__(self, values: Tensor) -> None:
        self._values, self._arrived = values, None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """The numbers; waits for what the device was given before them, and for nothing after."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks that a network repeats: modules of the classes that it names in ``_repeated_blocks``, as diffusers'
    networks do. The module itself where none are named.
    """
    blocks: list[nn.Module] = []
    for network in module.modules():
        names = network._repeated_blocks if isinstance(network, ModelMixin) else ()
        # By the classes that theirs are made of: what divides a block among processes gives it one of another name.
        blocks += [b for b in network.modules() if any(kind.__name__ in names for kind in type(b).__mro__)]
    return blocks or [module]


def check_compiler(device: torch.device) -> None:
    """Whether torch.compile can work for a device: for CPUs it writes C++.

    Raises:
        PochadeError: it cannot.
    """
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", usual)
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise PochadeError(f"compile: true needs a C++ compiler on a CPU, and there is no {compiler}; leave it out")


class CompiledBlocks:
    """The repeated blocks of some modules, to be compiled one by one (regional compilation).

    Blocks of one kind share their code: what is compiled is the first of them, in a fraction of the time of the whole
    network, and the others differ in their weights alone.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.blocks = [block for module in modules for block in repeated_blocks(module)]

    def start(self) -> None:
        """From now on the blocks run compiled; each is compiled at its first call, for the shapes of that call."""
        for block in self.blocks:
            block.compile(dynamic=False)

    def stop(self) -> None:
        """The blocks run as they are written."""
        for block in self.blocks:
            block._compiled_call_impl = None

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Within it the blocks run as they are written: what has other shapes for once need not be compiled."""
        compiled = [block._compiled_call_impl for block in self.blocks]
        self.stop()
        try:
            yield
        finally:
            for block, implementation in zip(self.blocks, compiled, strict=True):
                block._compiled_call_impl = implementation


@contextmanager
def recomputing(modules: Iterable[nn.Module]) -> Generator[list[nn.Module]]:
    """Within it the repeated blocks of some modules keep nothing but their inputs for the backward pass, which computes
    the rest of a block anew when it comes to it (gradient checkpointing, 1604.06174); yields these blocks.
    """
    blocks = [block for module in modules for block in repeated_blocks(module)]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield blocks
    finally:
        for block in blocks:
            del block.forward  # that of the class is left


@contextmanager
def products_for(precision: str, device: torch.device) -> Generator[None]:
    """Within it matrix products that stay in float32 run on tensor cores, in TF32, where ``precision`` is bf16.

    TF32 keeps ten bits of each factor, bf16 has seven: what autocast leaves in float32 (sums over frequencies, states
    of scans) loses nothing that its inputs had. In fp32 nothing changes, nor on the CPU.
    """
    if precision != "bf16" or device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def is_bf16_slow(device: torch.device) -> bool:
    """Whether ``device`` is a CPU without products in bfloat16, which then take longer than in float32."""
    if device.type != "cpu":
        return False
    return not any(present for name, present in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
