"""A request, checked against its model and its files: all that can be said before torch is imported."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from pochade.arguments import shown, without_effect
from pochade.device import present_devices
from pochade.errors import PochadeError, RepeatWarning
from pochade.files import sha256
from pochade.pipelines import decoders, hub
from pochade.pipelines.embedding_files import EmbeddingFile, find_embeddings
from pochade.pipelines.lora_files import LoRAFile, find_loras
from pochade.pipelines.metadata import PictureMetadata, installed_version
from pochade.pipelines.requests import EditRequest, GenerationRequest, ModelFacts, Request, model_facts


@dataclass(frozen=True)
class PreparedRequest:
    """A request that its model can serve, with the digests of all that it names.

    Attributes:
        request: with the model's own values where none were given; size and device may still be open.
        model: the facts of its model.
        decoder: the folder of its decoder, None for the model's own.
        loras: what is added to its model.
        embeddings: words that its text encoder is taught.
        sha256: as in ``PictureMetadata``.
        repeats: that of the picture which the request is to give again, None for none.
    """

    request: GenerationRequest | EditRequest
    model: ModelFacts
    decoder: Path | None
    loras: tuple[LoRAFile, ...]
    embeddings: tuple[EmbeddingFile, ...]
    sha256: Mapping[str, str]
    repeats: Mapping[str, str] | None = None


def prepare(request: GenerationRequest | EditRequest) -> PreparedRequest:
    """Check a request against its model and its files, without loading either.

    Raises:
        PochadeError: there is no such model, it cannot do this, or a file cannot be read.
    """
    if not isinstance(request, Request):  # pyright: ignore[reportUnnecessaryIsInstance]
        allowed = "a GenerationRequest and an EditRequest"
        raise PochadeError(f"request: {shown(request)} given, allowed are {allowed}")
    # MKL then sums in one order whatever the number of threads, and a request gives its picture on any of them. It is
    # read when torch is imported.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    model = model_facts(request.model)
    if Path(request.model).expanduser() in model.folder.parents:
        # Of a run, the model in it is named: the next checkpoint is another one.
        request = request.changed(model=str(model.folder))
    request = request.for_model(model)
    decoder = request.decoder_folder(model)
    loras = find_loras(request.loras, model.folder, request.model)
    encoder = hub.denoiser_config(model.folder).get("text_encoder") or ""
    words = f"{request.prompt} {request.negative_prompt}".strip()
    embeddings = find_embeddings(request.embeddings, encoder, request.model, words)
    digests = {"model": hub.model_sha256(model.folder)}
    for name, path in request.files().items():
        try:
            digests[name] = sha256(path)
        except OSError as error:
            raise PochadeError(f"{name}: {str(path)!r} cannot be read ({error.strerror})") from error
    if decoder is not None:
        digests["decoder"] = decoders.decoder_sha256(decoder)
    digests |= {f"lora_{number}": sha256(lora.file) for number, lora in enumerate(loras, 1)}
    digests |= {f"embedding_{number}": sha256(one.file) for number, one in enumerate(embeddings, 1)}
    return PreparedRequest(request, model, decoder, loras, embeddings, digests)


def faster(prepared: PreparedRequest) -> PreparedRequest:
    """With few steps, and guidance where it matters (``pochade.runtime.options.fast``)."""
    from pochade.runtime.options import fast

    request = prepared.request
    assert request.guidance is not None
    return replace(prepared, request=request.changed(**fast(prepared.model.steps, request.guidance)))


def prepare_repeat(metadata: PictureMetadata, changes: Mapping[str, Any], name: str) -> PreparedRequest:
    """The prepared request of a picture, with some of its fields changed.

    Args:
        metadata: of the picture.
        changes: fields of its request -> new values.
        name: the path of the picture. A file that the request names may also lie beside it.

    Raises:
        PochadeError: model, decoder or a file that the request names is another one now, and not among the changes.

    Warns:
        RepeatWarning: the model was chosen anew and is another one, or has other weights; versions or the device are
            others.
    """
    from pochade.runtime.pictures import find_named  # here, as it imports numpy

    request, was = metadata.request, metadata.sha256
    changes = {**changes, **without_effect(metadata.to_dict(), changes)}
    if isinstance(request, EditRequest) and request.task == "super_resolution" and request.factor is None:
        changes = {"factor": _factor(request, metadata), **changes}  # not in the metadata of earlier versions
    elsewhere = request.device not in ("auto", "cpu") and request.device not in present_devices()
    if elsewhere and "device" not in changes:
        warnings.warn(
            f"{name}: made on {request.device}, which is not here: it may differ", RepeatWarning, stacklevel=3
        )
        changes = {"device": "auto", "precision": "auto", **changes}
    for field, path in request.files().items():
        found = find_named(name, path, was.get(field))
        if found not in (None, path):
            changes = {field: str(found), **changes}
    changed = request.changed(**changes)
    try:
        prepared = prepare(changed)
    except PochadeError as error:
        field = str(error).partition(":")[0]
        if "model" in changes and field not in changes and field in metadata.to_dict():
            error.args = (f"{error}; {name} has it, and was made by {request.model!r}",)
        raise
    now = prepared.sha256
    if was.get("model") != now["model"]:
        digests = f"SHA-256 {was.get('model', '')[:12]}, here {now['model'][:12]}"
        message = f"{name}: made by other weights of {request.model!r} ({digests})"
        if "model" not in changes:
            raise PochadeError(
                f"{message}; model={request.model} (--model {quote(request.model)}) uses those that are here"
            )
        if prepared.request.model != request.model:
            message = f"{name}: made by {request.model!r}, {prepared.request.model!r} makes it now"
        warnings.warn(f"{message}: the picture will differ", RepeatWarning, stacklevel=3)
    if "decoder" not in changes and was.get("decoder") != now.get("decoder"):
        other = (
            "other weights of its decoder"
            if "decoder" in now
            else "a decoder of a bundle, which an edit by PyTorch lacks"
        )
        raise PochadeError(f"{name}: made with {other}")
    for number, lora in enumerate(prepared.request.loras, 1):
        if "loras" not in changes and was.get(f"lora_{number}") != now[f"lora_{number}"]:
            raise PochadeError(f"{name}: made with another LoRA than {lora!r} holds now")
    for number, embedding in enumerate(prepared.request.embeddings, 1):
        if "embeddings" not in changes and was.get(f"embedding_{number}") != now[f"embedding_{number}"]:
            raise PochadeError(f"{name}: made with another embedding than {embedding!r} holds now")
    for field, path in prepared.request.files().items():
        if field not in changes and was.get(field) != now[field]:
            raise PochadeError(f"{name}: its {field} is {str(path)!r}, which is another file now")
    installed = {package: installed_version(package) for package in metadata.versions}
    other = [f"{k} {v} (here {installed[k]})" for k, v in metadata.versions.items() if installed[k] != v]
    if other:
        warnings.warn(
            f"{name}: made with {', '.join(other)}: it may differ in the last bits", RepeatWarning, stacklevel=3
        )
    return replace(prepared, repeats=was)


def _factor(request: EditRequest, metadata: PictureMetadata) -> int:
    from pochade.images.decode import BadImage, load_image

    try:
        image, _ = load_image(request.source)
    except BadImage as error:
        raise PochadeError(f"source: {error}") from error
    return round(max(metadata.width, metadata.height) / max(image.size))
