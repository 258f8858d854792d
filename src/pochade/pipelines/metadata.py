"""The metadata of a picture: the request that gives the same picture again, kept in the PNG itself."""

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin, get_type_hints

import pochade
from pochade.arguments import path_text
from pochade.errors import PochadeError
from pochade.files import write_new
from pochade.pipelines.requests import EditRequest, GenerationRequest

if TYPE_CHECKING:
    from PIL import Image

KEY = "pochade"
"""Keyword of the PNG text chunk."""

_RENAMED = {
    "reference": "image_prompt",
    "reference_sha256": "image_prompt_sha256",
    "reference_scale": "image_prompt_scale",
}
"""Fields as earlier versions wrote them -> as they are called now."""
_NONE = {"depth": 0, "size": 0, "control": "", "image_prompt": "", "mask": ""}
"""What earlier versions wrote for None."""
_EARLIER = {"device": "cpu", "precision": "fp32"}
"""How pictures were made before their metadata said it."""
_NEEDED = ("prompt", "seed", "model", "model_sha256", "steps", "guidance", "height", "width", "versions")
_SHA256 = "_sha256"


def versions() -> dict[str, str]:
    """Versions of all that the bits of a picture of PyTorch depend on."""
    packages = ("pochade", "python", "torch", "diffusers", "transformers")
    return {package: found for package in packages if (found := installed_version(package)) is not None}


def installed_version(package: str) -> str | None:
    """The version of one of those that pictures name, which may be made by graphs; None where it is not installed."""
    own = {"pochade": pochade.__version__, "pochade-runtime": pochade.__version__, "python": platform.python_version()}
    try:
        return own.get(package) or version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class PictureMetadata:
    """One picture, sampled alone (a batch may differ from it in the last bits).

    Attributes:
        request: with every value filled in.
        height: rows of the picture in pixels.
        width: its columns.
        sha256: SHA-256 of what the request names: ``model`` and ``decoder`` (``hub.model_sha256``), and the files
            ``control``, ``image_prompt``, ``source``, ``mask``, where there are any; ``lora_1`` and so on, the files of
            LoRAs, and ``embedding_1`` and so on.
        versions: package -> version.
    """

    request: GenerationRequest | EditRequest
    height: int
    width: int
    sha256: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=versions)

    def to_dict(self) -> dict[str, Any]:
        """The fields of the request and of this class in one table, as JSON has them."""
        digests = {f"{name}{_SHA256}": digest for name, digest in self.sha256.items()}
        facts = {"height": self.height, "width": self.width, "versions": dict(self.versions)}
        return {"task": "generate", **asdict(self.request), **digests, **facts}

    def to_json(self) -> str:
        """One line of ASCII."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "PictureMetadata":
        """The metadata from its line, also as earlier versions wrote it.

        Raises:
            PochadeError: a field is missing, unknown, or of a type or value that is not allowed.
        """
        try:
            given: Any = json.loads(text)
        except ValueError as error:
            raise PochadeError(f"metadata: not valid JSON ({error})") from error
        if not isinstance(given, dict):
            raise PochadeError(f"metadata: a {type(given).__name__} given, a JSON object is needed")
        values = {_RENAMED.get(key, key): value for key, value in cast(dict[str, Any], given).items()}
        missing = sorted(set(_NEEDED) - set(values))
        if missing:
            raise PochadeError(f"metadata: {', '.join(missing)} missing")
        task = values.pop("task", "generate")
        kind = GenerationRequest if task == "generate" else EditRequest
        digests = {key: values.pop(key) for key in list(values) if key.endswith(_SHA256)}
        if not all(isinstance(digest, str) for digest in digests.values()):
            raise PochadeError(f"metadata: digests are {list(digests.values())!r}, strings are needed")
        height, width, found = values["height"], values["width"], values.pop("versions")
        # Earlier versions wrote the fields of all tasks.
        known = {f.name for kinds in (GenerationRequest, EditRequest) for f in fields(kinds)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise PochadeError(f"metadata: {', '.join(unknown)} unknown")
        if type(height) is not int or type(width) is not int or not isinstance(found, dict):
            raise PochadeError(f"metadata: height, width and versions are {height!r}, {width!r} and {found!r}")
        own = {f.name for f in fields(kind)}
        values = _EARLIER | {key: value for key, value in values.items() if key in own}
        values |= {key: None for key, none in _NONE.items() if key in values and values[key] in (none, None)}
        if not values.get("image_prompt"):
            values.pop("image_prompt_scale", None)
        if not values.get("instruction"):
            values.pop("image_guidance", None)
        if kind is EditRequest:
            values["task"] = task
        hints = get_type_hints(kind)
        request = kind(**{key: _typed(key, value, hints[key]) for key, value in values.items()})
        sha256 = {key.removesuffix(_SHA256): digest for key, digest in digests.items() if digest}
        return cls(request, height, width, sha256, found)


def _typed(name: str, value: Any, hint: Any) -> Any:
    """A value of JSON as a field of that type. Raises PochadeError where it is none."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    for kind in kinds:
        if kind is float and type(value) in (int, float):
            return float(value)
        if type(value) is kind or (kind is NoneType and value is None):
            return value
        if get_origin(kind) is Literal and value in get_args(kind):
            return value
        if get_origin(kind) is tuple and isinstance(value, list):
            return tuple(_typed(name, each, get_args(kind)[0]) for each in cast(list[Any], value))
    allowed = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise PochadeError(f"metadata: {name} is {value!r}, a value of type {allowed} is needed")


def read_metadata(path: str | os.PathLike[str]) -> PictureMetadata:
    """The metadata in a PNG. Raises PochadeError where the file is no PNG or holds none."""
    from PIL import Image

    name = path_text("path", path)
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = getattr(image, "text", {}).get(KEY)
    except (OSError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or "damaged, or another format"
        raise PochadeError(f"{name}: not a readable PNG ({reason})") from error
    if text is None:
        raise PochadeError(f"{name}: holds no metadata (written with --no-metadata, or by another program)")
    try:
        return PictureMetadata.from_json(text)
    except PochadeError as error:
        raise PochadeError(f"{name}: {error}") from error


def slug(prompt: str, length: int = 48) -> str:
    """A file name from a prompt: lower-case words joined by hyphens, at most ``length`` characters."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")
    return words[:length].rstrip("-_") or "picture"


def write_png(image: "Image.Image", folder: Path, stem: str, metadata: PictureMetadata | None = None) -> Path:
    """Write ``<stem>.png`` into a folder, with its metadata where they are given; the path.

    Never replaces a file: where the name is taken, ``<stem>-2.png`` and so on.

    Raises:
        FailureError: the file could not be written.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if metadata is not None:
        info.add_text(KEY, metadata.to_json())
    return write_new(folder, stem, ".png", lambda file: image.save(file, format="PNG", pnginfo=info))
