"""Requests: all that decides a picture, in one frozen dataclass for a generation and one for an edit.

The metadata of a PNG, the options of the command line and the arguments of ``pochade.generate`` and ``pochade.repeat``
are forms of them. What a request alone can tell is checked when it is made, without importing torch; what depends on
the model is checked by ``for_model``, from the model's configuration.
"""

import os
import secrets
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pochade.arguments import (
    ALPHA,
    EVERYWHERE,
    FACTORS,
    check_blur,
    check_count,
    check_factor,
    check_flag,
    check_guidance,
    check_guidance_interval,
    check_seed,
    check_strength,
    path_text,
    path_texts,
    plain,
    shown,
)
from pochade.device import check_device, check_precision
from pochade.errors import PochadeError, nearest
from pochade.pipelines import decoders, hub
from pochade.pipelines.checks import (
    IMAGE_GUIDANCE,
    UPSCALE_GUIDANCE,
    check_control,
    check_image_prompt,
    check_image_prompt_scale,
    check_size,
    usual_strength,
    without_guidance,
)
from pochade.pipelines.lora_files import parse_lora
from pochade.pipelines.schedulers import OWN as OWN_SCHEDULER
from pochade.pipelines.schedulers import check_scheduler

EditTask = Literal["edit", "inpaint", "super_resolution"]
EDIT_TASKS = ("edit", "inpaint", "super_resolution")

ITERATIONS = {"iterations": (1, 64), "recursions": (1, 64), "reasoning_steps": (2, 64)}
"""What a family calls its iterations in the configuration of a denoiser -> the least and the most that it takes."""

DRAWN_SEEDS = 2**31
"""A seed that is not given is drawn below this: small enough to be read out."""


@dataclass(frozen=True)
class ModelFacts:
    """What the folder of a model says without being loaded.

    Attributes:
        folder: of the model.
        steps: its default number of sampling steps.
        guidance: its default guidance scale.
        guidance_interval: the times at which it guides a picture from a prompt by default.
        tasks: of ``pochade.types.TASKS``, those its denoiser was trained for besides generation.
        control: kind of control that its denoiser has an input for, of ``pochade.types.CONTROLS``; empty for none.
        image_prompt_dim: width of the features of an image prompt, 0 where it has no input for one.
        size_multiple: pixels of which the sides of what it samples are multiples; None where only its autoencoder
            tells.
        depths: the least and the most iterations inside its denoiser; None where the family does not iterate.
    """

    folder: Path
    steps: int
    guidance: float
    guidance_interval: tuple[float, float]
    tasks: tuple[str, ...]
    control: str
    image_prompt_dim: int
    size_multiple: int | None
    depths: tuple[int, int] | None


def model_facts(model: str) -> ModelFacts:
    """The facts of a model by its name, folder or hub name. Raises PochadeError where there is no such model."""
    folder = hub.resolve(model)
    own, config = hub.defaults(folder), hub.denoiser_config(folder)
    cell = hub.downsampling(folder)
    return ModelFacts(
        folder=folder,
        steps=int(own["default_steps"]),
        guidance=float(own["default_guidance"]),
        guidance_interval=(float(own["default_guidance_low"]), float(own["default_guidance_high"])),
        tasks=tuple(config.get("tasks") or ()),
        control=config.get("control_kind", "edges") if config.get("controlled") else "",
        image_prompt_dim=int(config.get("image_prompt_dim", 0)),
        size_multiple=None if cell is None else cell * int(config["patch_size"]),
        depths=next((limits for name, limits in ITERATIONS.items() if config.get(name)), None),
    )


def check_depth(depth: int | None, model: ModelFacts) -> None:
    """Raises PochadeError for a depth that a model does not have; None is its own."""
    if depth is not None and model.depths is None:
        raise PochadeError(f"depth: {depth} given, but this model does not iterate: allowed is none")
    if depth is not None and model.depths is not None and not model.depths[0] <= depth <= model.depths[1]:
        raise PochadeError(f"depth: {depth} given, allowed are {model.depths[0]} to {model.depths[1]}")


@dataclass(frozen=True)
class FileForm:
    """How the file of a picture is read.

    Attributes:
        background: the colour that shows where it is transparent; None keeps the transparency.
        keep_16_bit: whether grey in 16 bits stays so.
        grey: whether it is read as grey in 8 bits, and not in RGB.
        edited: whether it is the picture that is edited: a change to it gives a warning.
    """

    background: str | None = "white"
    keep_16_bit: bool = False
    grey: bool = False
    edited: bool = False


TEXTS = {
    "prompt": "a sentence",
    "model": "a name or the path of a folder",
    "negative_prompt": "a sentence",
    "scheduler": "a name",
    "device": "a name",
    "precision": "a name",
}
"""The fields that are text in every request, and what is allowed in them."""
LISTS = {
    "loras": "a list of folders, each also as FOLDER:WEIGHT",
    "embeddings": "a list of files",
}
"""The fields that are lists of paths in every request, likewise."""


@dataclass(frozen=True)
class Request(ABC):
    """What a generation and an edit have in common.

    Attributes:
        prompt: a sentence.
        seed: of the noise, in [0, 2^63); None draws one.
        model: name of a shipped model, folder, or ``OWNER/NAME``.
        steps: of the scheduler, at least 1; None for the model's own.
        guidance: the scale of classifier-free guidance; 1 is none; None for the model's own.
        guidance_interval: times (low, high) in [0, 1], 1 being noise, at which guidance applies; None for the model's
            own in a generation, and for all times in an edit.
        negative_prompt: what guidance leads away from; empty for none.
        scheduler: its short name, or ``model`` for the one that is stored with the model.
        depth: iterations inside the denoiser; None for the model's own.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: of denoiser and autoencoder: ``auto`` (bf16 on a GPU, else fp32), ``fp32``, ``bf16`` or ``fp16``.
        loras: folders or files of LoRAs that are added to the model, each also with its weight, as in ``FOLDER:0.8``.
        embeddings: folders or files of learned words (textual inversion), which the prompt names.

    Raises:
        PochadeError: a field is not allowed, whatever the model is.
    """

    prompt: str = ""
    _: KW_ONLY
    seed: int | None = None
    model: str = hub.DEFAULT_MODEL
    steps: int | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    negative_prompt: str = ""
    scheduler: str = OWN_SCHEDULER
    depth: int | None = None
    device: str = "auto"
    precision: str = "auto"
    loras: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()

    FILES: ClassVar[tuple[str, ...]] = ()
    """The fields that name files which the picture depends on."""
    FLAGS: ClassVar[tuple[str, ...]] = ()
    """The fields that are True or False."""

    def __post_init__(self) -> None:
        for name in ("model", *self.FILES):  # what a caller gives as a path
            value: Any = getattr(self, name)
            if isinstance(value, os.PathLike):
                object.__setattr__(self, name, os.fspath(value))
        for name in (*TEXTS, *self.FILES):
            value = getattr(self, name)
            if not isinstance(value, str) and (name in TEXTS or value is not None):
                allowed = TEXTS.get(name, "the path of a file")
                raise PochadeError(f"{name}: {shown(value)} given, allowed is {allowed}")
        for name in ("prompt", "negative_prompt"):  # an argument of a command may be any bytes
            if any("\ud800" <= character <= "\udfff" for character in getattr(self, name)):
                raise PochadeError(f"{name}: {getattr(self, name)!r} given, allowed is text in UTF-8")
        for name, allowed in LISTS.items():
            object.__setattr__(self, name, path_texts(name, getattr(self, name), allowed))
        for lora in self.loras:
            parse_lora(lora)
        for name in self.FLAGS:
            check_flag(name, getattr(self, name))
        for field in fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        if self.seed is not None:
            check_seed(self.seed)
        for name in ("steps", "depth"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_guidance("guidance", self.guidance)
        if self.guidance_interval is not None:
            check_guidance_interval(self.guidance_interval)
        if self.scheduler != OWN_SCHEDULER:
            check_scheduler(self.scheduler)
        check_device(self.device)
        check_precision(self.precision)
        if self.negative_prompt and self.guidance == 1:
            raise PochadeError("negative_prompt: has no effect at guidance 1, allowed is any other scale")

    @property
    @abstractmethod
    def pipeline(self) -> str:
        """The name of the pipeline's class in ``pochade``."""

    @abstractmethod
    def for_model(self, model: ModelFacts) -> Self:
        """A copy with a seed and the model's own values where none are given.

        Size, device and precision stay open where they are: the loaded model decides them.

        Raises:
            PochadeError: the model cannot do what is requested.
        """

    @property
    def prompt_argument(self) -> str:
        """The argument of the pipeline that takes the prompt."""
        return "prompt"

    def decoder_folder(self, model: ModelFacts) -> Path | None:  # noqa: ARG002 - of those that can choose one
        """The folder of the decoder, None for the model's own. Raises PochadeError where there is none in it."""
        return None

    def completed(self, width: int, height: int, device: str, precision: str) -> Self:  # noqa: ARG002 - of an edit
        """A copy with what only the loaded model and the picture tell."""
        return replace(self, device=device, precision=precision)

    def files(self) -> dict[str, Path]:
        """The files that the picture depends on, by the names of the fields that name them."""
        named = {name: getattr(self, name) for name in self.FILES}
        return {name: Path(value) for name, value in named.items() if value not in (None, ALPHA)}

    def form(self, name: str) -> FileForm:  # noqa: ARG002 - of those whose files differ
        """How the file that the field ``name`` names is read."""
        return FileForm()

    def changed(self, **changes: Any) -> Self:
        """A copy with other values. Raises PochadeError for a name that is no field, or a value not allowed."""
        known = [field.name for field in fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise PochadeError(
                f"{unknown[0]}: given, allowed are {', '.join(sorted(known))}{nearest(unknown[0], known)}"
            )
        return replace(self, **changes)

    def _sampling(self, model: ModelFacts, interval: tuple[float, float]) -> dict[str, Any]:
        """What every task fills in; ``interval`` is guided where none is given.

        Raises PochadeError for a depth that the model does not have.
        """
        check_depth(self.depth, model)
        low, high = interval if self.guidance_interval is None else self.guidance_interval
        return {
            "seed": secrets.randbelow(DRAWN_SEEDS) if self.seed is None else self.seed,
            "steps": model.steps if self.steps is None else self.steps,
            "guidance": without_guidance(
                model.guidance if self.guidance is None else float(self.guidance), model.guidance
            ),
            "guidance_interval": (float(low), float(high)),
        }


@dataclass(frozen=True, kw_only=True)
class GenerationRequest(Request):
    """A picture from a sentence.

    Attributes:
        height: rows of pixels; None for the model's own.
        width: columns of pixels, likewise.
        decoder: ``tiny`` (where the model ships one), the folder of a decoder, or ``model`` for the model's own.
        control: file of a picture that is followed, of the kind that the model was trained with: white edges on black,
            a depth map, near being bright, or a stick figure on black; or with ``control_edges`` of one whose edges are
            followed; None for none.
        control_edges: whether the file is a picture whose edges are to be found.
        image_prompt: file of a picture whose style is followed; None for none.
        image_prompt_scale: how strongly, from 0 on; None for 1 where there is an image prompt.

    Raises:
        PochadeError: a field is not allowed, whatever the model is.
    """

    height: int | None = None
    width: int | None = None
    decoder: str = decoders.OWN
    control: str | None = None
    control_edges: bool = False
    image_prompt: str | None = None
    image_prompt_scale: float | None = None

    FILES: ClassVar[tuple[str, ...]] = ("control", "image_prompt")
    FLAGS: ClassVar[tuple[str, ...]] = ("control_edges",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "decoder", path_text("decoder", self.decoder, "a name or the path of a folder"))
        if not self.prompt.strip():
            raise PochadeError("prompt: empty, allowed is a sentence such as 'a red apple'")
        for name in ("height", "width"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.image_prompt_scale is not None:
            if self.image_prompt is None:
                raise PochadeError(
                    f"image_prompt_scale: {self.image_prompt_scale} given without an image prompt, allowed is none"
                )
            check_image_prompt_scale(self.image_prompt_scale)

    @property
    def pipeline(self) -> str:
        return "TextToImagePipeline"

    def form(self, name: str) -> FileForm:
        if name == "control" and not self.control_edges:  # transparent: nothing to follow
            return FileForm("black", keep_16_bit=True)
        return super().form(name)

    def decoder_folder(self, model: ModelFacts) -> Path | None:
        return decoders.find_decoder(self.decoder, model.folder)

    def completed(self, width: int, height: int, device: str, precision: str) -> Self:
        return replace(self, width=width, height=height, device=device, precision=precision)

    def for_model(self, model: ModelFacts) -> Self:
        for side in (self.width, self.height):
            check_size("size", side, model.size_multiple)
        if self.control is not None:
            check_control(model.control, self.control_edges)
        scale = self.image_prompt_scale
        if self.image_prompt is not None:
            check_image_prompt(model.image_prompt_dim)
            scale = 1.0 if scale is None else float(scale)
        return replace(self, **self._sampling(model, model.guidance_interval), image_prompt_scale=scale)


@dataclass(frozen=True, kw_only=True)
class EditRequest(Request):
    """A picture from another one.

    Attributes:
        source: the file that is edited: PNG, JPEG or WebP.
        task: ``edit``, ``inpaint`` (what ``mask`` marks is made anew) or ``super_resolution`` (``factor`` times as
            large).
        mask: to inpaint: a file of the size of the source, white where it is made anew, or ``alpha`` for its
            transparent part.
        soft_mask: whether grey in a mask shows as much of the new picture as it is bright, and is not taken as black or
            white.
        mask_blur: standard deviation in pixels of a Gaussian that the mask is convolved with; 0 for none.
        invert_mask: whether what is black in the mask is made anew.
        factor: of super-resolution, 2 or 4; None for 2.
        strength: how much noise the source gets, in (0, 1]; None for the usual one of the task.
        size: pixels a side of the square as large as which the source is sampled, or of its tiles; None for the
            model's own.
        instruction: whether the prompt says what to do ("make it green"), and not what the new picture shows. None for
            an instruction in the task ``edit`` where the model was trained for it, else a description.
        image_guidance: with an instruction, the scale of guidance towards the source; 1 is none; None for 1.5.

    Raises:
        PochadeError: a field is not allowed, whatever the model is.
    """

    source: str = ""
    task: EditTask = "edit"
    mask: str | None = None
    soft_mask: bool = False
    mask_blur: float = 0.0
    invert_mask: bool = False
    factor: int | None = None
    strength: float | None = None
    size: int | None = None
    instruction: bool | None = None
    image_guidance: float | None = None

    FILES: ClassVar[tuple[str, ...]] = ("source", "mask")
    FLAGS: ClassVar[tuple[str, ...]] = ("soft_mask", "invert_mask")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task not in EDIT_TASKS:
            raise PochadeError(f"task: {self.task!r} given, allowed are {', '.join(EDIT_TASKS)}")
        if not self.source:
            raise PochadeError("source: none given, allowed is the file of a picture")
        if self.task != "super_resolution" and not self.prompt.strip():
            raise PochadeError("prompt: empty, allowed is a sentence such as 'a green apple'")
        if (self.mask is None) == (self.task == "inpaint"):
            raise PochadeError(f"mask: {self.mask!r} given for {self.task}, allowed is one to inpaint, else none")
        check_blur(self.mask_blur)
        for name in ("soft_mask", "mask_blur", "invert_mask"):
            if getattr(self, name) and self.mask in (None, ALPHA):
                raise PochadeError(f"{name}: given for the mask {self.mask!r}, allowed is the file of a mask")
        if self.instruction is not None:
            check_flag("instruction", self.instruction)
        if self.factor is not None:
            if self.task != "super_resolution":
                raise PochadeError(f"factor: {self.factor} given for {self.task}, allowed is none")
            check_factor(self.factor)
        if self.strength is not None:
            check_strength(self.strength)
        if self.size is not None:
            check_count("size", self.size)
        check_guidance("image_guidance", self.image_guidance)
        if self.instruction and self.task == "super_resolution":
            raise PochadeError("instruction: given for super_resolution, allowed is a description")
        if self.instruction is False and self.image_guidance is not None:
            raise PochadeError("image_guidance: given without an instruction, allowed is none")

    @property
    def pipeline(self) -> str:
        classes = {"inpaint": "InpaintPipeline", "super_resolution": "SuperResolutionPipeline"}
        return classes.get(self.task, "ImageToImagePipeline")

    @property
    def prompt_argument(self) -> str:
        return "instruction" if self.instruction else "prompt"

    def form(self, name: str) -> FileForm:
        if name == "mask":
            return FileForm("black", grey=True)
        return FileForm("white" if self.mask is None else None, edited=True)

    def for_model(self, model: ModelFacts) -> Self:
        check_size("size", self.size, model.size_multiple)
        instruction = self.instruction
        if instruction is None:
            instruction = self.task == "edit" and "edit" in model.tasks
        if instruction:
            hub.check_instruction(model.tasks)
        image_guidance = self.image_guidance
        if instruction and image_guidance is None:
            image_guidance = IMAGE_GUIDANCE
        enlarge = self.task == "super_resolution"
        factor = FACTORS[0] if enlarge and self.factor is None else self.factor
        trained = instruction if self.task == "edit" else self.task in model.tasks
        changes = self._sampling(model, EVERYWHERE)
        if enlarge and self.guidance is None:
            changes["guidance"] = UPSCALE_GUIDANCE
        return replace(
            self,
            **changes,
            factor=factor,
            mask_blur=float(self.mask_blur),
            strength=usual_strength(self.task, trained, factor) if self.strength is None else float(self.strength),
            instruction=instruction,
            image_guidance=None if image_guidance is None else float(image_guidance),
        )
