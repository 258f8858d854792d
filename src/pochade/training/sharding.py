"""A task whose weights, gradients, moments and average are divided among the processes (FSDP2), and its checkpoints.

The processes train a copy, of which each holds a part of every tensor. Weights and gradients of a block are whole while
it is computed, forth and back, those outside of blocks from a forward pass to the end of its backward pass. The task
itself stays whole: it takes the averaged weights whenever it is saved, measured on held-out samples or sampled from.
"""

import copy
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from pochade.denoisers.base import DenoiserModel
from pochade.errors import FailureError, PochadeError
from pochade.files import remove_folder
from pochade.training.checkpoint import SHARDS, Checkpoint, Tensors, check_tensors, describe_last_good
from pochade.training.compute import repeated_blocks
from pochade.training.ema import EMA, module_tensors
from pochade.training.task import Task


class Sharding:
    """The copy of a task that is trained, divided among all processes, and the task itself as the place of its average.

    Attributes:
        task: the copy.
        whole: the task that was given.
        tensors: its weights by name, which ``collect`` fills.

    Raises:
        PochadeError: the task holds networks beside the one that is trained.
    """

    def __init__(self, task: Task, device: torch.device, *, main: bool) -> None:
        trained = {id(parameter) for parameter in task.trainable().parameters()}
        if task.extra_state() or any(id(parameter) not in trained for parameter in task.parameters()):
            raise PochadeError("fsdp: true given, but this stage holds more than the network that is trained")
        self.task, self.whole, self.main = copy.deepcopy(task).to(device), task, main
        if main:
            self.whole.to(device)
        # A block's vectors are views of one product, to which nothing is written.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        self._roots = self.task.compilable()
        for root in self._roots:
            for network in root.modules():
                if isinstance(network, DenoiserModel):
                    for block in repeated_blocks(network):
                        called = network._block_methods.get(type(block).__name__)
                        fully_shard(block, mesh=mesh)
                        if called is not None:
                            register_fsdp_forward_method(block, called)
            fully_shard(root, mesh=mesh, reshard_after_forward=False)
        missing = [n for n, p in self.task.trainable().named_parameters() if not isinstance(p, DTensor)]
        if missing:
            raise PochadeError(f"fsdp: true given, but {missing[0]} is in no module that the task calls")
        self.tensors = module_tensors(self.whole.trainable())

    def parameter_groups(self, weight_decay: float, learning_rate: float) -> list[dict[str, Any]]:
        """Those of the whole task, with the parameters of the copy, which lack the marks of its own."""
        names = {id(parameter): name for name, parameter in self.whole.named_parameters()}
        divided = dict(self.task.named_parameters())
        groups = self.whole.parameter_groups(weight_decay, learning_rate)
        return [{**group, "params": [divided[names[id(p)]] for p in group["params"]]} for group in groups]

    def sum_gradients(self, summed: bool) -> None:
        """Whether the next backward pass sums gradients over the processes; else they add up on each."""
        for root in self._roots:
            assert isinstance(root, FSDPModule)
            root.set_requires_gradient_sync(summed)

    @torch.no_grad()
    def collect(self, ema: EMA, *, everywhere: bool = False) -> None:
        """Puts the average into the whole task, on the first process alone or on all; all must call it."""
        for name, tensor in ema.tensors.items():
            value = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.main or everywhere:
                self.tensors[name].copy_(value)

    @contextmanager
    def applied(self, tensors: Mapping[str, Tensor] | None = None) -> Generator[None]:
        """Within it the whole task has what ``collect`` has put there, or earlier weights, ``tensors``."""
        if tensors is None:
            yield
            return
        with torch.no_grad():
            kept = {name: tensor.clone() for name, tensor in self.tensors.items()}
            try:
                for name, tensor in self.tensors.items():
                    tensor.copy_(tensors[name])
                yield
            finally:
                for name, tensor in self.tensors.items():
                    tensor.copy_(kept[name])


def write_shards(run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]]) -> Path:
    """Groups of tensors in a new folder beside the checkpoints of a run, of which each process writes what it has.

    All processes must call it. The folder is to become part of the checkpoint of that step.

    Raises:
        FailureError: they could not be written, or the processes see different folders.
    """
    folder = run / f".{SHARDS}-{step:08d}"
    if distributed.get_rank() == 0:
        for other in run.glob(f".{SHARDS}-*"):  # of a killed run, maybe of more processes
            remove_folder(other)
    distributed.barrier()
    flat = {f"{group}/{name}": tensor for group, named in tensors.items() for name, tensor in named.items()}
    try:
        dcp.save(flat, storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except dcp.CheckpointException as error:
        raise FailureError(f"{folder}: could not be written ({error}); {describe_last_good(run)}") from error
    distributed.barrier()
    there, needed = len(list(folder.glob("*.safetensors"))), distributed.get_world_size()
    distributed.barrier()  # before the first process moves it
    if there != needed:
        found = f"{there} of {needed} shards are there"
        raise FailureError(f"{folder}: {found}; with fsdp all processes must see one folder")
    return folder


def load_tensors(network: nn.Module, saved: Checkpoint) -> None:
    """Fills a network, divided or whole, with the weights of a checkpoint. Raises PochadeError as ``load_weights``."""
    tensors = module_tensors(network)
    values = read_group(saved, "model", tensors)
    check_tensors(
        str(saved.path),
        {name: tuple(tensor.shape) for name, tensor in values.items()},
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
    )
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)


def read_group(saved: Checkpoint, group: str, like: Mapping[str, Tensor]) -> Tensors:
    """A group of tensors of a checkpoint, whole or in shards; all processes must call it.

    Each is divided among the processes as that of its shape in ``like``, whose name its own ends with after a "/", or
    is the same as its own; else it is whole.
    """
    if group in saved.tensors:
        return {name: _divided(value, _model(name, value.shape, like)) for name, value in saved.tensors[group].items()}
    assert saved.shards is not None
    reader = dcp.HuggingFaceStorageReader(str(saved.shards))
    found: Tensors = {}
    for path, about in reader.read_metadata().state_dict_metadata.items():
        within, _, name = path.partition("/")
        if within == group:
            assert isinstance(about, dcp.TensorStorageMetadata)
            model = _model(name, about.size, like)
            kind = about.properties.dtype
            found[name] = torch.empty(about.size, dtype=kind) if model is None else torch.empty_like(model, dtype=kind)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process alone
        dcp.load({f"{group}/{name}": tensor for name, tensor in found.items()}, storage_reader=reader)
    return found


def _model(name: str, shape: torch.Size, like: Mapping[str, Tensor]) -> Tensor | None:
    model = like.get(name, like.get(name.partition("/")[2]))
    return model if model is not None and model.shape == shape else None


def _divided(value: Tensor, model: Tensor | None) -> Tensor:
    if not isinstance(model, DTensor):
        return value
    return distribute_tensor(value.to(model.device), model.device_mesh, model.placements, src_data_rank=None)
