"""Training a LoRA of a model that edits, on pairs of pictures: ``EditKind`` of which only the adapters learn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from pochade.errors import PochadeError
from pochade.pipelines.lora import check_peft
from pochade.training.data import PairData
from pochade.training.stage import AnyStage, Stage, with_rate
from pochade.training.stages.components import Components
from pochade.training.stages.edit import EditKind, EditSettings, EditStage, EditTask, EditWork
from pochade.training.stages.kind import Data, Inputs, Kind, Work
from pochade.training.stages.lora import ADAPTER, AdapterForm, AdapterWeights, add_adapters, layers_of


@dataclass(frozen=True)
class EditLoRASettings(AdapterForm):
    """Of a LoRA that is trained on pairs. Raises PochadeError for a value outside its range."""

    stage_kind = "edit_lora"

    tasks: tuple[str, ...] = ("edit",)
    """What is learned, of the tasks that the model was trained for."""
    generate: float = 0.25
    """Share of the samples, in [0, 1), that are pictures with their captions and no source."""
    text_dropout: float = 0.05
    """Probability that a sample loses its text alone,"""
    source_dropout: float = 0.05
    """that it loses source, mask and task alone,"""
    joint_dropout: float = 0.05
    """and that it loses both (2211.09800, section 3.2.1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.editing()

    def editing(self) -> EditSettings:
        """The settings of the training of a whole model."""
        return replace(self.common(EditSettings), model=self.base)


class EditLoRATask(EditTask):
    """``EditTask`` of which only the adapters learn; everything else in the denoiser is frozen."""

    def __init__(self, denoiser: Any, settings: EditSettings) -> None:
        super().__init__(denoiser, settings)
        self.adapters = AdapterWeights(self.parts)
        self.parts.train()  # the loop turns to ``trainable()`` alone

    def trainable(self) -> nn.Module:
        return self.adapters


EditLoRAStage = Stage[EditLoRASettings, PairData]


@dataclass(kw_only=True)
class EditLoRAWork(EditWork):
    """A model that edits, with adapters, which alone are saved."""

    settings: EditLoRASettings

    def notes(self) -> list[str]:
        return [*super().notes(), self.settings.describe(self.task.trainable())]

    def save(self, folder: Path) -> None:
        assert self.start is not None
        self.pipeline.save_lora_weights(folder, ADAPTER, metadata=self.settings.metadata(self.start))


class EditLoRAKind(Kind[EditLoRASettings, PairData]):
    """Training a LoRA of a named model that was trained to edit."""

    produces = "lora"
    whole = EditKind()
    """The training of the whole model."""

    def check(self, stage: EditLoRAStage, earlier: Sequence[AnyStage], components: Components) -> Data:
        check_peft()
        base = stage.task.base
        if base is None:
            raise PochadeError("task.base: none given, allowed is the name or the folder of a model that edits")
        pipeline = components.pipeline(base, field="task.base")
        trained = tuple(pipeline.denoiser.input_spec().tasks)
        other = [task for task in stage.task.tasks if task not in trained]
        if other:
            allowed = f"some of {', '.join(trained)}" if trained else "a base that edits: pochade train edit makes one"
            raise PochadeError(
                f"task.tasks: {other[0]!r} given, but {base!r} was not trained for it: allowed is {allowed}"
            )
        layers_of(pipeline, stage.task)
        return self.whole.check(_editing(stage), earlier, components)

    def size(self, stage: EditLoRAStage, earlier: Sequence[AnyStage]) -> int:
        return self.whole.size(_editing(stage), earlier)

    def autoencoder(self, stage: EditLoRAStage, earlier: Sequence[AnyStage], components: Components) -> Any:
        return self.whole.autoencoder(_editing(stage), earlier, components)

    def build(self, stage: EditLoRAStage, inputs: Inputs) -> Work:
        work = self.whole.build(_editing(stage), inputs)
        assert isinstance(work, EditWork)
        add_adapters(work.pipeline, stage.task, stage.seed)
        kept = {name: getattr(work, name) for name in ("samples", "data", "start", "autoencoder", "pipeline", "shown")}
        return EditLoRAWork(
            stage=stage,
            task=EditLoRATask(work.pipeline.denoiser, stage.task.editing()),
            pairs=work.pairs,
            report=work.report,
            settings=stage.task,
            **kept,
        )

    def synthetic(self, stage: EditLoRAStage, earlier: Sequence[AnyStage], components: Components) -> EditLoRAStage:
        return replace(stage, data=self.whole.synthetic(_editing(stage), earlier, components).data)


def _editing(stage: EditLoRAStage) -> EditStage:
    """The stage that would train the whole model."""
    return replace(with_rate(stage), task=stage.task.editing())  # pyright: ignore[reportReturnType]
