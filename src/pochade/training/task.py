"""The contract between the training loop and a task."""

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import Any

from torch import Tensor, nn

Batch = dict[str, Any]
"""Tensors with the batch first, lists of strings, and ``"seed"``: [B] int64, the keys of ``nn.keyed_random``."""


class Stream(IntEnum):
    """Which of a sample's random numbers (``pochade.nn.keyed_random``): what is to be independent has its own."""

    TIME = 0
    NOISE = 1
    DROPPED = 2
    STATE_GIVEN = 3
    ADDED_DROPPED = 4
    """Of what an adapter or an editing model reads beside text and class."""
    DIFFUSED_TIME = 5
    """At which an adversary compares samples,"""
    DIFFUSED_NOISE = 6
    """and the noise with which they are brought there."""


class Task(nn.Module, ABC):
    """A loss and the network that it trains. The loop sees neither noise nor time.

    Whatever is random in ``forward`` and matters to the loss (noise, t) is to be drawn from the keys ``batch["seed"]``
    (``pochade.nn.keyed_random``): then a run does not depend on how many processes share it.
    Frozen parts (a text encoder, a feature network) are put into ``eval()`` by the task itself; the loop puts
    ``trainable()`` alone into training mode.
    """

    has_unused: bool = False
    """Whether a step may leave a parameter of ``trainable()`` without a gradient, such as the path of a source picture
    where a batch has none. Several processes then look in every step which these are, at a cost."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss": scalar, ...}``, the loss a mean over the samples.

        Every other entry is a detached scalar to be logged, but for ``"t"`` [B] in [0, 1] and
        ``"per_sample"`` [B], the loss of each sample, which together give the loss binned by t.
        """

    def validate(self, batch: Batch) -> Tensor:
        """The loss, a scalar, by which a network is compared with itself at other steps: the same at any progress."""
        return self(batch)["loss"]

    @abstractmethod
    def trainable(self) -> nn.Module:
        """The part that is optimised, averaged (EMA) and saved."""

    def compilable(self) -> list[nn.Module]:
        """The modules that ``compile`` compiles, by the blocks that each repeats: those that ``forward`` calls.
        ``trainable()`` by default."""
        return [self.trainable()]

    def begin_step(self, progress: float) -> None:
        """Called before every optimiser step, with the fraction of the steps that are done, in [0, 1).

        For a schedule, or for a copy of the network that follows it. Nothing by default.
        """

    def extra_state(self) -> dict[str, Tensor]:
        """Tensors beside ``trainable()`` that change from step to step: a checkpoint holds them, and a resumed
        run finds them restored in place. None by default."""
        return {}

    def parameter_groups(self, weight_decay: float, learning_rate: float) -> list[dict[str, Any]]:
        """The optimiser's groups, each with ``"params"``, ``"lr"`` and ``"weight_decay"``; see ``decay_groups``."""
        return decay_groups(self.trainable(), weight_decay, learning_rate)


def decay_groups(network: nn.Module, weight_decay: float, learning_rate: float) -> list[dict[str, Any]]:
    """The parameters of a network that are trained, as groups of an optimiser.

    Weight decay falls on matrices and kernels; not on vectors and scalars, on embeddings, and on any
    parameter marked by an attribute ``no_weight_decay = True``.
    """
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        marked = id(parameter) in embeddings or getattr(parameter, "no_weight_decay", False)
        (kept if marked or parameter.ndim < 2 else decayed).append(parameter)
    groups = [(decayed, weight_decay), (kept, 0.0)]
    return [{"params": p, "lr": learning_rate, "weight_decay": decay} for p, decay in groups if p]
