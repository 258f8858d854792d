"""The recipe of a picture: what to ask again to get the same picture, kept in the PNG itself."""

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import pochade
from pochade.errors import PochadeError
from pochade.files import write_new

if TYPE_CHECKING:
    from PIL import Image

KEY = "pochade"
"""Keyword of the PNG text chunk."""


def versions() -> dict[str, str]:
    """Versions of all that the bits of a picture depend on."""
    found = {"pochade": pochade.__version__, "python": platform.python_version()}
    for package in ("torch", "diffusers", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


_LATER = {"decoder", "decoder_sha256", "control", "control_edges", "control_sha256", "depth"}
_LATER |= {"reference", "reference_sha256", "reference_scale"}
_LATER |= {"task", "source", "source_sha256", "mask", "mask_sha256", "strength", "size"}
_LATER |= {"instruction", "image_guidance"}
"""Fields that older recipes do without."""


@dataclass(frozen=True)
class PictureRecipe:
    """One picture, made alone (a batch may differ from it in the last bits).

    Attributes:
        prompt: the sentence.
        seed: of the noise, in [0, 2^63).
        model: name or folder as it was given.
        model_sha256: of the model's configurations and weights (``hub.model_sha256``).
        steps: of the scheduler.
        guidance: the scale of classifier-free guidance.
        height: rows of pixels.
        width: columns of pixels.
        scheduler: its short name, or ``model`` for the one that is stored with the model.
        negative_prompt: what guidance leads away from; empty for none.
        decoder: its name or folder as it was given, or ``model`` for the model's own autoencoder.
        decoder_sha256: of the decoder's configuration and weights; empty for the model's own.
        control: file of the edges that the picture follows, or of the picture whose edges they are; empty for none.
        control_edges: whether the file is a picture whose edges were found.
        control_sha256: of that file.
        reference: file of the picture whose style is followed; empty for none.
        reference_sha256: of that file.
        reference_scale: how strongly, from 0 on; 1 where there is none.
        depth: iterations inside the denoiser; 0 for the model's own.
        task: what was asked for, of ``pochade.types.TASKS``.
        source: file of the picture that was edited; empty where there is none.
        source_sha256: of that file.
        mask: file that was white where the picture is repainted, or ``alpha`` for its transparent part; empty for none.
        mask_sha256: of that file.
        strength: how much noise the source was given, in (0, 1].
        size: pixels a side of the square, as large as which the source was painted, or of its tiles; 0 for the model's.
        instruction: whether the prompt says what to do with the source, and not what is to be seen.
        image_guidance: the scale of guidance towards the source; 1 for none.
        versions: package -> version.
    """

    prompt: str
    seed: int
    model: str
    model_sha256: str
    steps: int
    guidance: float
    height: int
    width: int
    scheduler: str = "model"
    negative_prompt: str = ""
    decoder: str = "model"
    decoder_sha256: str = ""
    control: str = ""
    control_edges: bool = False
    control_sha256: str = ""
    reference: str = ""
    reference_sha256: str = ""
    reference_scale: float = 1.0
    depth: int = 0
    task: str = "generate"
    source: str = ""
    source_sha256: str = ""
    mask: str = ""
    mask_sha256: str = ""
    strength: float = 1.0
    size: int = 0
    instruction: bool = False
    image_guidance: float = 1.0
    versions: Mapping[str, str] = field(default_factory=versions)

    def to_json(self) -> str:
        """One line of ASCII."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "PictureRecipe":
        """The recipe from its line. Raises PochadeError where a field is missing or of another type."""
        try:
            values: Any = json.loads(text)
        except ValueError as error:
            raise PochadeError(f"recipe: not valid JSON ({error})") from error
        names = {f.name for f in fields(cls)}
        if isinstance(values, dict):  # as it was before there were these to choose from
            earlier = {f.name: f.default for f in fields(cls) if f.name in _LATER}
            values = {**earlier, **values}
        if not isinstance(values, dict) or set(values) != names:
            given = sorted(set(values) ^ names) if isinstance(values, dict) else type(values).__name__
            raise PochadeError(f"recipe: its fields are missing or unknown ({given})")
        hints = {**get_type_hints(cls), "versions": dict}
        for name, kind in hints.items():
            value = values[name]
            if kind is float and type(value) is int:
                values[name] = value = float(value)
            if type(value) is not kind:
                raise PochadeError(f"recipe: {name} is {value!r}, a value of type {kind.__name__} is needed")
        return cls(**values)


def read_recipe(path: str | os.PathLike[str]) -> PictureRecipe:
    """The recipe in a PNG. Raises PochadeError where the file is no PNG or holds none."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = getattr(image, "text", {}).get(KEY)
    except (OSError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or "damaged, or another format"
        raise PochadeError(f"{os.fspath(path)}: not a readable PNG ({reason})") from error
    if text is None:
        raise PochadeError(f"{os.fspath(path)}: holds no recipe (made with --no-metadata, or by another program)")
    return PictureRecipe.from_json(text)


def slug(prompt: str, length: int = 48) -> str:
    """A file name from a prompt: lower-case words joined by hyphens, at most ``length`` characters."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")
    return words[:length].rstrip("-_") or "picture"


def save_png(image: "Image.Image", folder: Path, stem: str, recipe: PictureRecipe | None) -> Path:
    """Write ``<stem>.png`` into an existing folder, with the recipe where one is given.

    Never replaces a file: where the name is taken, ``<stem>-2.png`` and so on. Returns the path.

    Raises:
        FailureError: the file could not be written.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if recipe is not None:
        info.add_text(KEY, recipe.to_json())
    return write_new(folder, stem, ".png", lambda file: image.save(file, format="PNG", pnginfo=info))
