"""The processes that share a run, joined by accelerate, and the device of each."""

import atexit
import os
from functools import cache
from typing import TYPE_CHECKING

import torch

from pochade.errors import FailureError

if TYPE_CHECKING:
    from accelerate import Accelerator


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


@cache
def _leave_group_at_exit() -> None:
    """The threads of the process group must end before the interpreter does, or the process aborts on its way out."""
    from torch import distributed

    atexit.register(lambda: distributed.destroy_process_group() if distributed.is_initialized() else None)
