"""The processes that share a run, joined by accelerate, and the device of each."""

import atexit
import os
import time
import uuid
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from pochade.errors import FailureError

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

LONGEST_JOIN = timedelta(minutes=10)
"""That one process waits for the others to start."""


def join_processes(device: torch.device, *, has_unused: bool = False) -> "tuple[Accelerator, torch.device]":
    """The group of all processes that ``torchrun`` launched, of one where it did not, and this process's own device.

    Args:
        device: what is trained on; with several processes on GPUs each gets one of its own.
        has_unused: whether a step may leave parameters without a gradient (``Task.has_unused``).

    Raises:
        FailureError: the processes that were launched did not all join, or joined earlier for another kind of device.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    threads, launched = torch.get_num_threads(), int(os.environ.get("WORLD_SIZE", "1"))
    # One process has its device from the stage, and stages may differ; accelerate settles a device for good. Of
    # several it must know that they compute on the CPU, or it runs each as if it were alone.
    on_cpu = device.type == "cpu" if launched > 1 else not torch.accelerator.is_available()
    # Precision is left to torch.autocast: accelerate allows one for the life of a process, stages differ.
    distributed = DistributedDataParallelKwargs(find_unused_parameters=has_unused, gradient_as_bucket_view=True)
    try:
        process_state(on_cpu)
        accelerator = Accelerator(
            cpu=on_cpu, device_placement=False, mixed_precision="no", kwargs_handlers=[distributed]
        )
    except ValueError as error:  # its state is settled for a GPU
        raise FailureError(f"device: {device.type} given, but the processes joined for another device") from error
    torch.set_num_threads(threads)  # accelerate sets its own where several processes share the processor
    if accelerator.num_processes != launched:
        raise FailureError(f"{launched} processes were launched, accelerate joined {accelerator.num_processes}")
    if launched == 1:
        return accelerator, device
    _leave_group_at_exit()
    own = torch.device(accelerator.device)
    if own.type != device.type:
        raise FailureError(f"device: {device.type} given, but the processes joined on {own.type}")
    return accelerator, own


def process_state(on_cpu: bool) -> "PartialState":
    """What accelerate knows of the processes, which join here where they have not."""
    from accelerate import PartialState

    return PartialState(cpu=on_cpu, **({} if distributed.is_initialized() else group_store()))


def group_store() -> dict[str, Any]:
    """What ``init_process_group`` takes so that the processes of this start meet, and no others; {}: its own way.

    The store of torchrun's agent outlives the processes. After a restart it still has the addresses of those before,
    and whoever reads one waits for a process that is gone (github.com/pytorch/pytorch/issues/135712). So the first
    process draws a name for this start, below which all else is written, and gives it to each other one by a key that
    this one has drawn: no key is there from before. Machines may count torchrun's restarts differently.

    Raises:
        FailureError: a process did not come.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = distributed.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=LONGEST_JOIN
    )
    own = uuid.uuid4().hex
    if rank == 0:
        _name_start(store, own, size)
        name = own
    else:
        store.set(f"pochade/{rank}", own)
        try:
            name = store.get(f"pochade/{own}").decode()
        except RuntimeError as error:
            raise FailureError(f"process {rank} of {size} heard nothing of the first: {error}") from error
        store.set(f"pochade/{name}/{rank}", own)
    return {"store": distributed.PrefixStore(name, store), "rank": rank, "world_size": size}


def _name_start(store: distributed.Store, name: str, size: int) -> None:
    """Gives the name of this start to all other processes."""
    missing = set(range(1, size))
    last = time.monotonic() + LONGEST_JOIN.total_seconds()
    while missing:
        for rank in list(missing):
            if store.check([f"pochade/{rank}"]):  # may be from before; the new one takes its place
                store.set(f"pochade/{store.get(f'pochade/{rank}').decode()}", name)
            if store.check([f"pochade/{name}/{rank}"]):
                missing.remove(rank)
        if missing and time.monotonic() > last:
            raise FailureError(f"of {size} processes these did not come: {', '.join(map(str, sorted(missing)[:8]))}")
        time.sleep(0.02)


@cache
def _leave_group_at_exit() -> None:
    """The threads of the process group must end before the interpreter does, or the process aborts on its way out."""
    atexit.register(lambda: distributed.destroy_process_group() if distributed.is_initialized() else None)
