"""The kinds of stage, by the name that their settings carry. A new kind is a file here and a line of ``KINDS``."""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pochade.errors import PochadeError
from pochade.training.stage import AnyStage

if TYPE_CHECKING:
    from pochade.training.stages.kind import Kind

KINDS: dict[str, str] = {
    "autoencoder": "pochade.training.stages.autoencoder:AutoencoderKind",
    "decoder": "pochade.training.stages.decoder:DecoderKind",
    "flow": "pochade.training.stages.flow:FlowKind",
    "distillation": "pochade.training.stages.distillation:DistillationKind",
    "consistency": "pochade.training.stages.consistency:ConsistencyKind",
    "control": "pochade.training.stages.control:ControlKind",
    "image_prompt": "pochade.training.stages.image_prompt:ImagePromptKind",
    "edit": "pochade.training.stages.edit:EditKind",
    "lora": "pochade.training.stages.lora:LoRAKind",
    "edit_lora": "pochade.training.stages.edit_lora:EditLoRAKind",
    "textual_inversion": "pochade.training.stages.textual_inversion:TextualInversionKind",
}
"""Kind of the settings -> "module:class"."""


def kind_of(stage: AnyStage) -> "Kind[Any, Any]":
    """The kind of a stage. Raises PochadeError where its settings are of none."""
    name = getattr(stage.task, "stage_kind", None)
    if name not in KINDS:
        raise PochadeError(f"task: {type(stage.task).__name__} given, allowed are the settings of {', '.join(KINDS)}")
    return _load(name)


@cache
def _load(name: str) -> "Kind[Any, Any]":
    module, _, cls = KINDS[name].partition(":")
    return getattr(import_module(module), cls)()
