"""What a bundle says of itself, ``manifest.json``: all that a host needs beside the graphs (docs/on-device.md)."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..arguments import EVERYWHERE, check_count, check_guidance, check_guidance_interval, check_strength, shown
from ..errors import PochadeError
from ..values import described, fits

TASKS = ("generate", "edit", "inpaint", "super_resolution")
"""What the input ``task`` of a denoiser counts: the task where there is a source picture."""
FORMAT = 1
"""The version of the format; a host refuses newer ones."""
ONNX = "onnx"
"""The target that a host in Python runs without PyTorch."""
METHODS = ("euler", "lcm")
"""By which a host samples."""
DTYPES = ("float32", "int64", "int32", "bool")
"""Of the inputs and outputs of graphs."""
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
EMOJI = "emoji.json"
"""Character -> what takes its place before a prompt is tokenised. Earlier bundles have no such file, nor those whose
vocabulary has everything."""
WITHOUT_SOURCE = "denoiser_without_source"
"""The graph that samples without a source go through, where they are computed in another way than those with one."""
OWN_DECODER = "model"
"""What stands for the model's own autoencoder in the recipe of a picture."""
TABLE_STEPS = (1, 2, 4, 8, 20)
"""The numbers of steps whose noise times stand in every manifest."""


@dataclass(frozen=True)
class Value:
    """An input or an output of a graph."""

    name: str
    shape: tuple[int | None, ...]
    """The batch axis is first, None where it is free."""
    dtype: str
    """``float32``, ``int64`` or ``bool``; LiteRT has ``int32`` in place of ``int64``, Core ML in place of both."""
    absent: float | None = None
    """The number that fills an input where there is none of it; None where there is always one."""


@dataclass(frozen=True)
class Graph:
    """One network."""

    file: str
    data: str | None
    """The file of its weights, None where they are in ``file``."""
    precision: str
    """Of the weights: ``fp32``, ``fp16`` or ``int8``. Inputs and outputs are float32 in every one."""
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    parameters: int
    largest_difference: float | None
    """Of the float32 graph from eager PyTorch, on random inputs, as a share of the largest magnitude above 1. This and
    what follows is None where the graph cannot run on the machine that exported it (Core ML, but for a Mac)."""
    precision_error: float | None
    """Of this precision from float32: root mean square over the standard deviation, on random inputs; 0 for fp32."""
    milliseconds: float | None
    """Of one call at batch 1, on the machine that exported it: ratios between graphs hold elsewhere."""


@dataclass(frozen=True)
class Model:
    """Where the weights come from."""

    name: str
    sha256: str | None = None
    """Of the model's files, as pictures carry it in their metadata; None where it was in no folder."""
    license: str | None = None
    attribution: str | None = None
    prompts: tuple[str, ...] = ()
    """To try."""
    styles: tuple[str, ...] = ()
    """Each is put behind a prompt: ``a red apple, STYLE style``."""


@dataclass(frozen=True)
class Latents:
    """What the denoiser samples."""

    channels: int
    height: int
    width: int
    downsampling: int
    """Pixels a side of one cell."""
    mean: tuple[float, ...]
    """Of each raw channel; encoder and decoder contain it: latents outside them have mean 0 and deviation 1."""
    std: tuple[float, ...]


@dataclass(frozen=True)
class Text:
    """How a prompt becomes the inputs of the text encoder, or of the denoiser where it takes classes."""

    encoder: str
    tokenizer: str | None = None
    """A file in the format of ``tokenizers``; None where prompts are classes."""
    max_tokens: int = 0
    """Longer prompts are cut to this, all are padded to it with id 0 and mask False."""
    closing_tokens: int = 0
    """The last tokens, which stay where a prompt is cut."""
    classes: tuple[str, ...] = ()
    """The label of a prompt is its index here."""


@dataclass(frozen=True)
class Sampling:
    """How noise becomes latents."""

    method: str
    """Of ``METHODS``: ``lcm`` adds new noise after each step."""
    shift: float
    """t = shift u / (1 + (shift - 1) u) on the even grid u = 1, 1 - 1/n, ..., 0."""
    times: Mapping[str, tuple[float, ...]]
    """Number of steps -> its n + 1 times from 1 to 0."""


@dataclass(frozen=True)
class Defaults:
    """Of a call that names nothing else."""

    steps: int
    guidance: float
    depth: int | None
    strength: Mapping[str, float]
    """Task -> strength, as the model was trained for it or not."""
    instruction_guidance: float
    """The scale of guidance towards the source where there is an instruction."""
    guidance_interval: tuple[float, float] = EVERYWHERE
    """Times (low, high) at which a picture from a prompt is guided (2404.07724)."""


@dataclass(frozen=True)
class Decoder:
    """A network that decodes in place of the model's own autoencoder."""

    name: str
    """What ``pochade generate --decoder`` takes: ``tiny`` for the one that the model ships, or a folder."""
    sha256: str
    """Of its files, as pictures carry it in their metadata."""


@dataclass(frozen=True)
class Quality:
    """What was measured of pictures with so many steps and iterations (``pochade evaluate --grid``)."""

    steps: int
    depth: int | None
    """None where the family has no iterations."""
    kid: float
    """KID (Lite0) beside real pictures: lower is better."""
    r1: float
    """Retrieval R@1, in [0, 1]."""


@dataclass(frozen=True)
class File:
    """One file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All of ``manifest.json``."""

    format: int
    pochade: str
    """The version that wrote it."""
    model: Model
    height: int
    """Of pictures, in pixels."""
    width: int
    latents: Latents
    text: Text | None
    sampling: Sampling
    defaults: Defaults
    tasks: tuple[str, ...]
    """What the bundle can do: ``generate``, and with an encoder ``edit``, ``inpaint`` and ``super_resolution``."""
    trained_tasks: tuple[str, ...]
    """Those with a source that the denoiser was trained for: it takes ``source``, ``source_mask`` and ``task``."""
    graphs: Mapping[str, Graph]
    """``text_encoder``, ``denoiser``, ``decoder``, ``encoder``, ``WITHOUT_SOURCE``, a denoiser for each further depth:
    those that there are."""
    depths: Mapping[str, str] = field(default_factory=dict[str, str])
    """Depth -> the name of the denoiser's graph with as many iterations; empty where the family has none."""
    files: Mapping[str, File] = field(default_factory=dict[str, File])
    """All files but the manifest."""
    quality: tuple[Quality, ...] = ()
    """Rows of the model's table of quality; empty where it has none."""
    picture_psnr: float | None = None
    """Decibels of pictures in this precision beside those in float32, as measured at export; None in float32, and where
    the graphs cannot run on the machine that exported them."""
    target: str = ONNX
    """What runs the graphs, by the name that ``pochade export --for`` has for it."""
    model_depth: int | None = None
    """Iterations as the model is configured: those of a picture whose recipe names none. None where the family has
    none, and in earlier bundles, of which those of ``defaults`` are taken."""
    decoder: Decoder | None = None
    """None for the model's own autoencoder."""

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        PochadeError: there is none, it is damaged, or of a newer format.
    """
    path = folder / MANIFEST
    try:
        given: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PochadeError(f"bundle: {str(folder)!r} holds no readable {MANIFEST} ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise PochadeError(f"{path}: damaged, not JSON ({error})") from None
    version = given.get("format") if isinstance(given, dict) else None
    if type(version) is not int or version < 1:
        raise PochadeError(f"{path}: no manifest of a bundle, its format is {version!r}")
    if version > FORMAT:
        raise PochadeError(f"{path}: format {version} given, this version reads up to {FORMAT}: a newer one is needed")
    try:
        manifest = _manifest(given)
        _check(manifest)
    except ValueError as error:
        raise PochadeError(f"{path}: damaged ({error})") from None
    except (TypeError, KeyError, AttributeError) as error:
        raise PochadeError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    return manifest


def _check(manifest: Manifest) -> None:
    """Raises ValueError where what a host relies on is not there, or does not go together."""
    _check_types("", manifest)
    latents, sampling, text = manifest.latents, manifest.sampling, manifest.text
    for name, side, cells in (("height", manifest.height, latents.height), ("width", manifest.width, latents.width)):
        _check_all(
            f"{name} and latents", (side, cells, latents.downsampling, latents.channels), lambda n: n > 0, "above 0"
        )
        if side != cells * latents.downsampling:
            raise ValueError(f"{name} {side} is not {cells} cells of {latents.downsampling}")
    for statistics in (latents.mean, latents.std):
        if len(statistics) != latents.channels:
            raise ValueError(f"latents: {len(statistics)} means or deviations given for {latents.channels} channels")
    _check_all("latents.std", latents.std, lambda deviation: deviation > 0, "above 0")
    if sampling.method not in METHODS:
        raise ValueError(f"sampling: {sampling.method!r} given, allowed are {' and '.join(METHODS)}")
    _check_all("sampling.shift", (sampling.shift,), lambda shift: shift > 0, "above 0")
    for steps, times in sampling.times.items():
        falling = all(a > b for a, b in pairwise((1 + 1e-6, *times, -1e-6)))
        if steps != str(len(times) - 1) or not falling:
            raise ValueError(
                f"sampling.times: {shown(times)} given for {steps} steps, must be one more, falling from 1 to 0"
            )
    for tasks in (manifest.tasks, manifest.trained_tasks):
        _check_all("tasks", tasks, TASKS.__contains__, f"of {', '.join(TASKS)}")
    _check_defaults(manifest)
    if text is not None and not text.classes:
        check_count("text.max_tokens", text.max_tokens)
        _check_all(
            "text.closing_tokens", (text.closing_tokens,), range(text.max_tokens + 1).__contains__, "in max_tokens"
        )
    files = [file for graph in manifest.graphs.values() for file in (graph.file, graph.data) if file is not None]
    tokenizer = () if text is None or text.classes else (text.tokenizer,)
    _check_all("files", (*manifest.files, *files, *tokenizer), _is_inside, "within the bundle")
    needed = {"denoiser", "decoder", *manifest.depths.values()}
    needed |= {"text_encoder"} if text is not None and not text.classes else set()
    needed |= {"encoder"} if set(manifest.tasks) - {"generate"} else set()
    for name in sorted(needed - manifest.graphs.keys()):
        raise ValueError(f"graphs: {name!r} is missing")
    _check_graphs(manifest)


def _check_types(name: str, part: Any) -> None:
    """Raises ValueError for a value that is not of the type of its field, of a dataclass and of those in it."""
    for one in fields(part):
        path, value = f"{name}{one.name}", getattr(part, one.name)
        if not fits(value, one.type):
            raise ValueError(f"{path}: {shown(value)} given, must be {described(one.type)}")
        inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, tuple) else ()
        for key, each in (("", value), *inner):
            if is_dataclass(each):
                _check_types(f"{path}.{key}." if key != "" else f"{path}.", each)


def _check_all(name: str, values: Iterable[Any], inside: Callable[[Any], bool], allowed: str) -> None:
    """Raises ValueError for the first value that is not ``inside``."""
    for value in values:
        if not inside(value):
            raise ValueError(f"{name}: {shown(value)} given, must be {allowed}")


def _is_inside(name: str | None) -> bool:
    """Whether a file lies in the folder of the bundle, by its name."""
    return bool(name) and not {"", ".", ".."} & set(str(name).split("/")) and not {"\\", "\0", ":"} & set(str(name))


def _check_defaults(manifest: Manifest) -> None:
    defaults = manifest.defaults
    check_count("defaults.steps", defaults.steps)
    check_guidance("defaults.guidance", defaults.guidance)
    check_guidance("defaults.instruction_guidance", defaults.instruction_guidance)
    check_guidance_interval(defaults.guidance_interval)
    for strength in defaults.strength.values():
        check_strength(strength)
    for task in set(manifest.tasks) - {"generate", *defaults.strength}:
        raise ValueError(f"defaults.strength: {task!r} is missing")
    for row in manifest.quality:
        check_count("quality.steps", row.steps)
    depths = (defaults.depth,) if manifest.depths else ()
    _check_all("defaults.depth", depths, lambda depth: str(depth) in manifest.depths, "one of depths")
    _check_all("depths", manifest.depths, _is_counted, "whole numbers above 0")
    if manifest.model_depth is not None:
        check_count("model_depth", manifest.model_depth)


def _is_counted(text: str) -> bool:
    """Whether a text is a whole number above 0, as Python writes it."""
    return text.isdecimal() and text == str(int(text)) and text != "0"


def _check_graphs(manifest: Manifest) -> None:
    """Raises ValueError where a graph does not take or give what a host hands on."""
    cells = (manifest.latents.channels, manifest.latents.height, manifest.latents.width)
    read = (0 if manifest.text is None else manifest.text.max_tokens,)
    # By name, without the batch: what one graph gives, another takes.
    shapes: dict[str, tuple[int | None, ...]] = {
        **{"latents": cells, "velocity": cells, "source": cells, "source_mask": (1, *cells[1:])},
        **{"images": (3, manifest.height, manifest.width), "ids": read, "mask": read},
        **{"t": (), "task": (), "class_label": ()},
    }
    kinds, batches = dict[str, str](), dict[str, int | None]()
    for name, graph in manifest.graphs.items():
        values = {value.name: value for value in (*graph.inputs, *graph.outputs)}
        for value in values.values():
            path, (batch, *sides) = f"graphs.{name}.{value.name}", value.shape or (0,)
            shape = shapes.setdefault(value.name.removeprefix("next_"), tuple(sides))
            rows = batches.setdefault(name, batch)
            if shape != tuple(sides) or None in sides or batch != rows or (batch is not None and batch < 1):
                raise ValueError(f"{path}.shape: {shown(value.shape)} given, must be {[rows, *shape]}")
            kind = kinds.setdefault(value.name.removeprefix("next_"), value.dtype)
            allowed = DTYPES if kind == value.dtype else (kind,)
            _check_all(f"{path}.dtype", (value.dtype,), allowed.__contains__, f"of {', '.join(allowed)}")
        needed = _ENDS.get(name, ("latents", "t", "velocity"))
        for one in needed:
            if one not in values:
                raise ValueError(f"graphs.{name}: {one!r} is missing")
        for value in () if name in _ENDS else graph.inputs:
            if value.absent is None and value.name not in needed:
                raise ValueError(f"graphs.{name}.{value.name}.absent: None given, must be a number")


_ENDS = {
    "text_encoder": ("ids", "mask", "tokens", "pooled"),
    "decoder": ("latents", "images"),
    "encoder": ("images", "latents"),
}
"""What a graph takes and gives at least; those that are not here are denoisers."""


def _manifest(given: dict[str, Any]) -> Manifest:
    values = _tuples({f.name: given[f.name] for f in fields(Manifest) if f.name in given or f.default is MISSING})
    return Manifest(
        **{
            **values,
            "model": Model(**_tuples(values["model"])),
            "latents": Latents(**_tuples(values["latents"])),
            "text": None if values["text"] is None else Text(**_tuples(values["text"])),
            "sampling": Sampling(**{**values["sampling"], "times": _tuples(values["sampling"]["times"])}),
            "defaults": Defaults(**_known(_tuples(values["defaults"]))),
            "graphs": {name: _graph(graph) for name, graph in values["graphs"].items()},
            "files": {name: File(**file) for name, file in values["files"].items()},
            "quality": tuple(Quality(**row) for row in values.get("quality", ())),
            "decoder": None if values.get("decoder") is None else Decoder(**values["decoder"]),
        }
    )


def _known(given: dict[str, Any]) -> dict[str, Any]:
    """The defaults without those that a later version may have added."""
    return {f.name: given[f.name] for f in fields(Defaults) if f.name in given}


def _graph(given: dict[str, Any]) -> Graph:
    ends = {end: tuple(Value(**_tuples(value)) for value in given[end]) for end in ("inputs", "outputs")}
    return Graph(**{**given, **ends})


def _tuples(given: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
