"""What FSDP sends: bytes of weights put together and of gradients divided in a step, as multiples of the weights.

    python benchmarks/gathering.py

Two processes on the CPU (gloo) take one step of each family's ``nano`` with two latents of 8 x 8 cells each; what
torch's collectives are given is added up. Takes seconds; prints a line for each family.
"""

import multiprocessing
import os
import socket
from typing import Any

import torch
from torch import distributed

from pochade.denoisers import FAMILIES
from pochade.training.processes import join_processes
from pochade.training.sharding import Sharding
from pochade.training.stages.flow import FlowSettings, FlowTask
from pochade.training.stages.models import build_denoiser

PROCESSES, SAMPLES, CELLS, TOKENS = 2, 2, 8, 16


def one(rank: int, port: int) -> None:
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(PROCESSES)}
    os.environ |= {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(PROCESSES)}
    join_processes(torch.device("cpu"))
    sent = {"gathered": 0, "scattered": 0}
    gather, scatter = distributed.all_gather_single, distributed.reduce_scatter_single

    def gathered(output: Any, *given: Any, **named: Any) -> Any:
        sent["gathered"] += output.nbytes
        return gather(output, *given, **named)

    def scattered(*, input: Any, **named: Any) -> Any:
        sent["scattered"] += input.nbytes
        return scatter(input=input, **named)

    distributed.all_gather_single, distributed.reduce_scatter_single = gathered, scattered
    for family in FAMILIES:
        torch.manual_seed(0)
        task = FlowTask(build_denoiser(family, "nano", (), sample_size=CELLS), FlowSettings(family=family))
        weights = sum(parameter.nbytes for parameter in task.parameters())
        spec = task.spec
        batch: dict[str, Any] = {
            "latents": torch.randn(SAMPLES, spec.latent_channels, CELLS, CELLS),
            "seed": torch.arange(SAMPLES),
            "tokens": torch.randn(SAMPLES, TOKENS, spec.text_dim),
            "mask": torch.ones(SAMPLES, TOKENS, dtype=torch.bool),
            "pooled": torch.randn(SAMPLES, spec.pooled_dim),
        }
        divided = Sharding(task, torch.device("cpu"), main=rank == 0).task.train()
        sent.update(gathered=0, scattered=0)
        divided(batch)["loss"].backward()
        if rank == 0:
            shares = ", ".join(f"{what} {count / weights:.2f}" for what, count in sent.items())
            print(f"{family} nano, {weights / 1e6:.0f} MB of weights: {shares}", flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    processes = [multiprocessing.Process(target=one, args=(rank, number)) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
