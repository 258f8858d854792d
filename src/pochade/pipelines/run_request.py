"""From a request to its picture: load the model, read the files, sample; and the same request again from a PNG."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pochade.arguments import ALPHA, path_text, shown
from pochade.device import precision_name
from pochade.errors import PochadeError, RepeatWarning
from pochade.pipelines import decoders, hub
from pochade.pipelines.embedding_files import EmbeddingFile
from pochade.pipelines.lora_files import LoRAFile
from pochade.pipelines.metadata import PictureMetadata, read_metadata, slug, write_png
from pochade.pipelines.prepare import PreparedRequest, prepare, prepare_repeat
from pochade.pipelines.requests import EditRequest, FileForm, GenerationRequest
from pochade.pipelines.schedulers import OWN as OWN_SCHEDULER

# Requests are checked before seconds are spent on importing torch.
if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from pochade.pipelines.callbacks import Callback

ADVICE = {
    "too large": "make it smaller first",
    "unsupported format": "save it as PNG or JPEG first, in 8 or 16 bits (of a film, one picture)",
}
"""What to do about a picture that is refused, by the reason."""


@dataclass(frozen=True)
class Picture:
    """A picture that a request gave.

    Attributes:
        image: in RGB.
        metadata: its request, with every value filled in.
        aux: what the family reports of its sampling, such as the mean of LiRA's reasoning steps; means over the steps.
    """

    image: "Image.Image"
    metadata: PictureMetadata
    aux: Mapping[str, float]

    def save(self, folder: str | os.PathLike[str], stem: str | None = None, *, metadata: bool = True) -> Path:
        """Write a PNG that ``repeat`` takes; never replaces a file.

        Args:
            folder: where.
            stem: name without ``.png``; None for ``<prompt>-<seed>``.
            metadata: whether the request stands in the file.

        Returns:
            The path: ``<stem>.png``, or ``<stem>-2.png`` and so on where the name is taken.
        """
        request = self.metadata.request
        name = stem or f"{slug(request.prompt)}-{request.seed}"
        return write_png(self.image, Path(path_text("folder", folder)), name, self.metadata if metadata else None)


def open_pipeline(
    kind: str,
    folder: Path,
    *,
    scheduler: str = OWN_SCHEDULER,
    decoder: Path | None = None,
    loras: Sequence[LoRAFile] = (),
    embeddings: Sequence[EmbeddingFile] = (),
    device: str = "auto",
    precision: str = "auto",
    allow_pickle: bool = False,
) -> Any:
    """A pipeline on its device and in its precision, without a progress bar.

    Args:
        kind: name of its class in ``pochade``.
        folder: of the model.
        scheduler: as in a request.
        decoder: folder of a decoder that stands in place of the model's own.
        loras: added to the model's weights, before these are rounded to the precision.
        embeddings: words that its text encoder is taught.
        device: as in a request.
        precision: as in a request.
        allow_pickle: as of ``from_pretrained``.

    Raises:
        PochadeError: the model's files are damaged, or there is no such device.
    """
    import pochade
    from pochade.pipelines.lora import merge_loras
    from pochade.pipelines.schedulers import make_scheduler, shift_of
    from pochade.pipelines.textual_inversion import load_embeddings

    pipe = getattr(pochade, kind).from_pretrained(hub.current(folder), allow_pickle=allow_pickle)
    if scheduler != OWN_SCHEDULER:
        pipe.scheduler = make_scheduler(scheduler, shift_of(pipe.scheduler))
    merge_loras(pipe, loras)
    load_embeddings(pipe, embeddings)
    pipe.place(device, precision)
    if decoder is not None:
        decoders.use_decoder(pipe, decoder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_pipeline(prepared: PreparedRequest, *, allow_pickle: bool = False) -> Any:
    """The pipeline that runs a request, and others with the same model, LoRAs, task, scheduler, decoder, device and
    precision.

    Raises PochadeError as ``open_pipeline`` does.

    Warns:
        RepeatWarning: the picture to repeat was made by graphs.
    """
    request = prepared.request
    repeats = prepared.repeats or {}
    if "bundle" in repeats and repeats.get("model") == prepared.sha256["model"]:
        warnings.warn(
            "the picture to repeat was made by graphs, PyTorch makes it now: it may differ",
            RepeatWarning,
            stacklevel=3,
        )
    return open_pipeline(
        request.pipeline,
        prepared.model.folder,
        scheduler=request.scheduler,
        decoder=prepared.decoder,
        loras=prepared.loras,
        embeddings=prepared.embeddings,
        device=request.device,
        precision=request.precision,
        allow_pickle=allow_pickle,
    )


def read_images(prepared: PreparedRequest) -> "dict[str, Image.Image]":
    """The pictures in the files that a request names, by the names of their fields.

    Raises:
        PochadeError: a file is no picture, or one that is too large.

    Warns:
        EditingWarning: a film, of which the first picture is taken; a transparent part of a picture that is edited or
            enlarged as a whole, which is taken as white; a colour profile that cannot be used.
    """
    request = prepared.request
    return {name: read_picture(path, name, request.form(name)) for name, path in request.files().items()}


def marked_in(request: GenerationRequest | EditRequest, images: "dict[str, Image.Image]") -> "np.ndarray | None":
    """Where a picture is inpainted, as ``pochade.runtime.masks.read_mask`` gives it; None where nothing is marked.

    Args:
        request: that names a mask, or none.
        images: as ``read_images`` gives them.

    Raises:
        PochadeError: a mask has another size than the picture, or nothing is marked.
    """
    if not isinstance(request, EditRequest) or request.mask is None:
        return None
    import numpy as np

    from pochade.runtime.masks import read_mask, transparent

    source = images["source"]
    if request.mask == ALPHA:
        return transparent("mask", np.asarray(source.getchannel("A")) if source.mode == "RGBA" else None)
    form: dict[str, Any] = {"soft": request.soft_mask, "blur": request.mask_blur, "invert": request.invert_mask}
    with warnings.catch_warnings():  # they come with the edit
        warnings.simplefilter("ignore")
        return read_mask("mask", np.asarray(images["mask"]), (source.height, source.width), **form)


def for_pipeline(request: GenerationRequest | EditRequest, images: "dict[str, Image.Image]") -> dict[str, Any]:
    """``images`` as ``pipeline_arguments`` takes them: the one that is edited as ``read_pictures`` gives it. That is
    taken out of ``images``, so that a large one is in memory once when a model is loaded."""
    from pochade.pipelines.pictures import read_pictures

    return {
        name: read_pictures(images.pop(name)) if request.form(name).edited else images[name] for name in list(images)
    }


def read_files(prepared: PreparedRequest) -> dict[str, Any]:
    """``for_pipeline`` of ``read_images``, which raises and warns; raises as ``marked_in`` does."""
    images = read_images(prepared)
    marked_in(prepared.request, images)
    return for_pipeline(prepared.request, images)


def read_picture(path: Path, name: str, form: FileForm) -> "Image.Image":
    """One of ``read_files``, in sRGB or grey; ``name`` is what errors call it."""
    from pochade.runtime.decode import BadImage, load_image
    from pochade.runtime.pictures import warn_of_conversions

    try:
        image, conversions = load_image(path, background=form.background, keep_16_bit=form.keep_16_bit)
    except BadImage as error:
        advice = ADVICE.get(error.reason)
        raise PochadeError(f"{name}: {error}" + (f": {advice}" if advice else "")) from error
    flattened = form.edited and form.background is not None
    warn_of_conversions(str(path), conversions, flattened=flattened, stacklevel=4)
    return image.convert("L") if form.grey else image


def pipeline_arguments(
    request: GenerationRequest | EditRequest, pipe: Any, pictures: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``pipe`` is called with for a request, but for prompt, seed and sampling.

    Args:
        request: prepared.
        pipe: as ``load_pipeline`` gives it.
        pictures: as ``read_files`` gives them.

    Raises:
        PochadeError: a size is not allowed, or a picture does not fit.
    """
    sampling = {"num_inference_steps": request.steps, "guidance_scale": request.guidance}
    if isinstance(request, EditRequest):
        pipe.check_inputs(**sampling, strength=request.strength, size=request.size)
        options = {
            "image": pictures["source"],
            "mask_image": ALPHA if request.mask == ALPHA else pictures.get("mask"),
            "factor": request.factor,
            "image_guidance_scale": request.image_guidance,
        }
        if request.mask is not None:
            options |= {name: getattr(request, name) for name in ("soft_mask", "mask_blur", "invert_mask")}
        given = {name: value for name, value in options.items() if value is not None}
        return {**given, "strength": request.strength, "size": request.size}
    height, width = request.height or pipe.default_size, request.width or pipe.default_size
    pipe.check_inputs(**sampling, height=height, width=width)
    arguments: dict[str, Any] = {"height": height, "width": width}
    if request.control is not None:
        arguments["control"] = _control(request, pipe.denoiser.input_spec().control, pictures["control"], width, height)
    if request.image_prompt is not None:
        arguments["image_prompt"] = pipe.encode_image_prompt(pictures["image_prompt"])
        arguments["image_prompt_scale"] = request.image_prompt_scale
    return arguments


def _control(request: GenerationRequest, kind: str, picture: "Image.Image", width: int, height: int) -> "Tensor":
    """The control [1, H, W]. Raises PochadeError where it does not fit."""
    from pochade.images.controls import KINDS
    from pochade.images.edges import edges_of

    if request.control_edges:
        return edges_of(picture, width, height)
    if picture.size != (width, height):
        w, h = picture.size
        raise PochadeError(f"control: {w} x {h} pixels given, allowed is the picture's size, {width}x{height}")
    return KINDS[kind].read(picture, "control")


def run(
    pipe: Any, prepared: PreparedRequest, arguments: Mapping[str, Any], on_step: "Callback | None" = None
) -> Picture:
    """The picture of a request.

    Args:
        pipe: as ``load_pipeline`` gives it.
        prepared: of the request.
        arguments: as ``pipeline_arguments`` gives them for this request, or for one that differs in prompt, seed and
            sampling.
        on_step: called after each step with ``predicted_data`` and ``aux``, as ``callback_on_step_end`` is.

    Raises:
        PochadeError: ``on_step`` is no function.
        FailureError: what came out is no picture.
    """
    import torch

    if on_step is not None and not callable(on_step):
        raise PochadeError(f"on_step: {shown(on_step)} given, allowed is a function")
    request = prepared.request
    assert request.seed is not None
    reported: dict[str, list[float]] = {}

    def step(pipe: Any, i: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        for name, value in tensors["aux"].items():
            reported.setdefault(name, []).append(float(value.float().mean()))
        return on_step(pipe, i, timestep, tensors) if on_step is not None else None

    # One picture a call: a batch may differ in the last bits, and a request repeats its picture to the bit.
    image: Image.Image = pipe(
        **{request.prompt_argument: request.prompt},
        negative_prompt=request.negative_prompt or None,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        guidance_interval=request.guidance_interval,
        generator=[torch.Generator().manual_seed(request.seed)],
        callback_on_step_end=step,
        callback_on_step_end_tensor_inputs=["predicted_data", "aux"],
        depth=request.depth,
        **arguments,
    ).images[0]
    complete = request.completed(image.width, image.height, pipe.device.type, precision_name(pipe.denoiser.dtype))
    metadata = PictureMetadata(complete, image.height, image.width, prepared.sha256)
    return Picture(image, metadata, {name: sum(values) / len(values) for name, values in reported.items()})


def generate(
    request: GenerationRequest | EditRequest,
    *,
    budget_ms: float | None = None,
    allow_pickle: bool = False,
    on_step: "Callback | None" = None,
) -> Picture:
    """The picture of a request: a generation or an edit. The model is loaded for it alone.

    For many pictures of one model, ``prepare``, ``load_pipeline``, ``read_files``, ``pipeline_arguments`` and ``run``
    are the parts of this function.

    Args:
        request: what to generate.
        budget_ms: milliseconds from the prompt to the picture, the loading of the model left out: steps and depth are
            those of the best measured quality that fit, in place of the request's (``pochade.pipelines.budget.fit``).
        allow_pickle: read pickled weights, which can run code: only of files that you trust.
        on_step: as of ``run``.

    Raises:
        PochadeError: the request is not allowed; before any work.
        FailureError: what came out is no picture.
    """
    return _generate(prepare(request), allow_pickle, on_step, budget_ms)


def repeat(
    path: str | os.PathLike[str],
    *,
    allow_pickle: bool = False,
    on_step: "Callback | None" = None,
    **changes: Any,
) -> Picture:
    """The picture of the request that is stored in a PNG, with some of its fields changed.

    On the same machine and versions it is the same picture to the bit where nothing is changed.

    Args:
        path: of a PNG that pochade wrote.
        allow_pickle: as of ``generate``.
        on_step: as of ``run``.
        changes: fields of the request -> other values, such as ``seed=8`` or ``steps=20``.

    Raises:
        PochadeError: the file holds no request, a change is not allowed, or the model or a file that the request names
            is another one now and not among the changes.
        FailureError: what came out is no picture.

    Warns:
        RepeatWarning: the picture may differ: see ``prepare_repeat``.
    """
    return _generate(prepare_repeat(read_metadata(path), changes, os.fspath(path)), allow_pickle, on_step)


def _generate(
    prepared: PreparedRequest, allow_pickle: bool, on_step: "Callback | None", budget_ms: float | None = None
) -> Picture:
    pictures = read_files(prepared)
    pipe = load_pipeline(prepared, allow_pickle=allow_pickle)
    arguments = pipeline_arguments(prepared.request, pipe, pictures)
    if budget_ms is not None:
        from pochade.pipelines import budget

        prepared = budget.spent(prepared, budget.fit(pipe, prepared, arguments, budget_ms))
    return run(pipe, prepared, arguments, on_step)
