"""What a kind of stage is: how its settings are checked, what it trains, how it is tried, shown and saved."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from pochade.data.buckets import lost
from pochade.data.cache.latents import CachedLatents, LatentEncoders, cache_latents
from pochade.data.dataset import Dataset, Shape
from pochade.data.samples import Samples
from pochade.data.sources import SyntheticSource
from pochade.data.sources.pairs.pair import PairDataset
from pochade.errors import PochadeError
from pochade.training.ema import module_tensors
from pochade.training.stage import AnyStage, DataSettings, Settings, Stage
from pochade.training.stages.components import Components
from pochade.training.task import Task

if TYPE_CHECKING:
    from PIL import Image

S = TypeVar("S", bound=Settings)
D = TypeVar("D", bound=DataSettings)

Role = Literal["autoencoder", "decoder", "denoiser", "few_steps", "adapter", "lora", "embedding"]
"""What a stage leaves: an autoencoder or a decoder, or a whole model: one that samples in many steps, one distilled to
few, or one with an input added to it; or a LoRA or learned words, for the model that they were trained on."""
Data = Mapping[str, Dataset | PairDataset]
"""The data of a stage, opened, by the fields that name them: "data.source", "data.pairs"."""
SYNTHETIC_PICTURES = 4
"""Pictures of the data set of a dry run."""
SYNTHETIC_CLASSES = 10
CROPPED = 0.001
"""Share of the pixels that are lost by cropping, from which it is said."""


@dataclass(frozen=True)
class Result:
    """What a finished stage leaves: the folder of its model, and the weights that the next stage may start from."""

    model: Path
    weights: Path


@dataclass(frozen=True)
class Inputs:
    """What a stage is built from beside its settings."""

    components: Components
    """Ready-made parts by name or folder."""
    models: Mapping[Role, Path]
    """The models that the stages before have left, of each role the latest."""
    previous: Result | None
    """The result of the stage directly before."""
    cache: Path
    """The folder below which latents and the like are cached."""
    device: torch.device
    """Where the network is trained and the data encoded."""
    progress: bool = True

    def model(self, name: str | None, role: Role) -> str:
        """The model that a stage names, or else the latest of a role (``check`` has made sure that there is one)."""
        return name if name is not None else str(self.models[role])

    def cache_latents(self, dataset: Dataset, size: int | Shape, encoders: LatentEncoders) -> CachedLatents:
        """See ``pochade.data.cache.latents``; on a GPU all batches have text of one length."""
        one_length = self.device.type == "cuda"
        return cache_latents(dataset, size, encoders, self.cache, progress=self.progress, one_length=one_length)


@dataclass(kw_only=True)
class Work(ABC):
    """A stage made ready: what is trained on what, and what becomes of it. The network is trained in place."""

    stage: AnyStage
    """Its start weights settled: what is left in ``initialise_from`` is a file for the loop."""
    task: Task
    samples: Samples
    data: Data
    """What was trained on."""
    held_out: Samples | None = None
    """Samples that are kept out of training, by whose loss it is judged; None: it is not."""
    start: Path | None = None
    """The folder of the model that the settings of the kind name as its start, whose record is kept as well;"""
    autoencoder: Path | None = None
    """and that of the autoencoder, or of the model with the autoencoder, on whose latents the stage works."""
    usable: ClassVar[bool] = False
    """Whether what ``save`` writes is a model to sample from, and thus worth saving before the training has ended."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the trained model into a folder."""

    @property
    def datasets(self) -> list[Dataset]:
        """The pictures among the data."""
        return [dataset for dataset in self.data.values() if isinstance(dataset, Dataset)]

    def notes(self) -> list[str]:
        """What became of the files of the data, a line for each data set that is read from files, of the pictures that
        are held out, where none are, and of the pictures' ratios."""
        files = [
            f"{count} sample{'s' * (count != 1)} to train on{_different(dataset)}{self._shared(count)}; "
            f"{dataset.report.summary()}"
            for dataset, count in ((dataset, len(dataset)) for dataset in self.datasets)
            if dataset.report is not None
        ]
        return [*files, *self._not_held_out(), *(self.samples.notes() or cropped_to_squares(self.datasets))]

    def _shared(self, count: int) -> str:
        """What is to be said where pictures share their first caption, or another group."""
        groups = len(self.samples)
        if len(self.data) > 1 or groups >= count:
            return ""
        return f", in {groups} group{'s' * (groups != 1)} of one caption or concept, an epoch shows one of each"

    def _not_held_out(self) -> list[str]:
        if not self.stage.data.holds_out_nothing():
            return []
        return ["nothing is held out, all samples are on the training side of the split: no loss tells over-fitting"]

    def preview(self) -> "Image.Image | None":
        """A sheet of what the network gives as it is; None where there is nothing to show yet."""
        return None


def _different(dataset: Dataset) -> str:
    """What is to be said where pictures are copies of others."""
    count = dataset.different()
    return "" if count is None else f", of {count} different picture{'s' * (count != 1)}"


class Kind(ABC, Generic[S, D]):
    """One kind of stage. A new one is a file with such a class, and a line in ``pochade.training.stages.KINDS``."""

    produces: ClassVar[Role]
    weights: ClassVar[str] = "final/model.safetensors"
    """Below a stage's folder, what a next stage of the same kind may start from."""

    @abstractmethod
    def check(self, stage: Stage[S, D], earlier: Sequence[AnyStage], components: Components) -> Data:
        """The data. Raises PochadeError for whatever can be known to fail before any stage has run; makes no folder."""

    @abstractmethod
    def build(self, stage: Stage[S, D], inputs: Inputs) -> Work:
        """The network, with its start weights where these are a model's, and the data, cached where they are."""

    @abstractmethod
    def synthetic(self, stage: Stage[S, D], earlier: Sequence[AnyStage], components: Components) -> Stage[S, D]:
        """The same stage on made-up data, which needs nothing beyond what ``components`` has."""

    def ready_made(self, stage: Stage[S, D], components: Components) -> ModelMixin | None:
        """What a stage takes as it is in place of training; None where it trains."""
        return None

    def size(self, stage: Stage[S, D], earlier: Sequence[AnyStage]) -> int:
        """Rows and columns in pixels of the pictures that a stage works on."""
        return stage.data.size  # pyright: ignore[reportAttributeAccessIssue]

    def autoencoder(self, stage: Stage[S, D], earlier: Sequence[AnyStage], components: Components) -> Any:
        """The autoencoder whose latents the stage works on; without weights where a stage before trains it.

        Raises PochadeError where there is none.
        """
        raise PochadeError(f"task: {stage.name} works on no latents")


def tensor_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that start weights fill."""
    return {name: tuple(tensor.shape) for name, tensor in module_tensors(network).items()}


def cropped_to_squares(datasets: Sequence[Dataset]) -> list[str]:
    """How much is lost where pictures are cropped to squares, a line for each data set of which something is.

    Not of one with ``windows``, of which little is here.
    """
    here = [data for data in datasets if data.windows is None]
    shares = [lost([data.dimensions(i) for i in range(len(data))], lambda _: (1, 1)) for data in here]
    return [f"{share:.1%} of the pixels are cropped, to squares" for share in shares if share >= CROPPED]


def with_synthetic_pictures(stage: Stage[S, D], classes: Sequence[str] = ()) -> Stage[S, D]:
    """The stage with its pictures replaced by made-up ones, with captions or with ``classes``."""
    source = SyntheticSource(SYNTHETIC_PICTURES, tuple(classes))
    return replace(stage, data=stage.data.reading_from(source))


def check_size(size: int, downsampling: int) -> None:
    """Raises PochadeError where pictures of ``size`` pixels a side are not a whole number of latent cells."""
    if size < downsampling or size % downsampling:
        cell = f"multiples of {downsampling}, a cell of the latents, from {downsampling} on"
        raise PochadeError(f"data.size: {size} given, allowed are {cell}")
