"""The common parts of stages on latents: networks by settings, encoders, starts, sheets, and saving a model."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from pochade import denoisers
from pochade.data.buckets import Bucketed, nearest_shape, shapes
from pochade.data.cache.latents import LatentEncoders
from pochade.data.cache.on_the_fly import encode_on_the_fly
from pochade.data.dataset import Dataset, Shape
from pochade.data.samples import Samples
from pochade.errors import PochadeError, naming
from pochade.images.sheets import sheet
from pochade.pipelines import hub
from pochade.pipelines.loading import load_components
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.text_encoders.base import PromptEncoder
from pochade.text_encoders.class_label import ClassLabelEncoder
from pochade.training.checkpoint import check_tensors, check_weights, first_names
from pochade.training.data import ImageData
from pochade.training.held_out import DRAWS
from pochade.training.overrides import read_options
from pochade.training.stage import PREVIOUS, AnyStage, Settings, Stage
from pochade.training.stages import kind_of
from pochade.training.stages.components import Components
from pochade.training.stages.kind import Inputs, Work, check_size, tensor_shapes

SHOWN = 16
"""Prompts of a sample sheet, at most."""
SHEET_STEPS = 20
"""Of the sampling for the sheets, at most."""
MOST_FEW_STEPS = 8
"""A model that has guidance built in and samples in no more by default is one that was distilled to few steps."""
NAMED = 10
"""Classes or pictures that a line names, at most."""
ADDED = 8
"""Tokens that a text encoder puts around a prompt, at most."""


@dataclass(frozen=True)
class Shown:
    """A picture of the sample sheets.

    Attributes:
        shape: width and height; None: the model's own size.
        held_out: whether its caption is kept out of training.
    """

    prompt: str
    shape: Shape | None = None
    held_out: bool = False

    @property
    def label(self) -> str:
        return f"held out: {self.prompt}" if self.held_out else self.prompt


@dataclass(kw_only=True)
class ModelWork(Work):
    """A denoiser that is trained inside a whole model, which is what is saved."""

    pipeline: TextToImagePipeline
    shown: Sequence[Shown]
    """On the sample sheets."""
    usable = True

    def notes(self) -> list[str]:
        encoder = self.pipeline.text_encoder
        cut: list[str] = []
        if isinstance(encoder, PromptEncoder):
            cut = [line for dataset in self.datasets if (line := cut_captions(dataset, encoder))]
        return [*super().notes(), *cut]

    def preview(self) -> Image.Image:
        """A picture for each prompt, by the network as it is, of the shape of the picture that the prompt is of."""
        pictures: dict[int, Image.Image] = {}
        for shape in dict.fromkeys(one.shape for one in self.shown):
            rows = [i for i, one in enumerate(self.shown) if one.shape == shape]
            size = {} if shape is None else {"width": shape[0], "height": shape[1]}
            made = self.generate([self.shown[i].prompt for i in rows], seeds=rows, **size)
            pictures |= dict(zip(rows, made, strict=True))
        return sheet([pictures[i] for i in range(len(self.shown))], [one.label for one in self.shown])

    def generate(
        self, prompts: Sequence[str] | None = None, seeds: Sequence[int] | None = None, **arguments: Any
    ) -> Any:
        """Pictures by the network as it is, picture i from seed i or that of ``seeds``; further arguments are the
        pipeline's.

        Raises:
            FailureError: the network gives no pictures yet.
        """
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.to(self.pipeline.denoiser.device)  # the loop moves the denoiser alone
        steps = min(SHEET_STEPS, self.pipeline.default_steps)
        count = arguments["prompt_embeds"].batch_size if prompts is None else len(prompts)
        drawn = [torch.Generator().manual_seed(seed) for seed in (range(count) if seeds is None else seeds)]
        if prompts is not None:
            arguments["prompt"] = list(prompts)
        return self.pipeline(num_inference_steps=steps, generator=drawn, **arguments).images

    def save(self, folder: Path) -> None:
        encoder: Any = self.pipeline.text_encoder
        if encoder is not None:  # the name of one that was trained along holds a hash of its weights
            self.pipeline.denoiser.register_to_config(text_encoder=encoder.identity)
        self.pipeline.save_pretrained(folder, dtype=torch.float16)


# --- networks


def build_denoiser(family: str, variant: str, options: Sequence[str], **changes: Any) -> Any:
    """A network with random weights: the variant with ``changes``, and ``options`` (name=value) on top.

    Raises PochadeError where there can be none.
    """
    with naming("task.family", "family"), naming("task.options", "options"):
        read = read_options(options, denoisers.parameters(family), family)
    try:
        with naming("task.variant", "variant"):
            return denoisers.build(family, variant, **{**changes, **read})
    except PochadeError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise PochadeError(
            f"task.options: {', '.join(options)} given, of which no network can be made ({error})"
        ) from error


def latest_autoencoder(earlier: Sequence[AnyStage], components: Components) -> Any:
    """The autoencoder that the last stage of its kind trains, without weights. Raises PochadeError without one."""
    for at in range(len(earlier) - 1, -1, -1):
        kind = kind_of(earlier[at])
        if kind.produces == "autoencoder":
            return kind.autoencoder(earlier[at], earlier[:at], components)
    raise PochadeError("task.autoencoder: none given, and no stage before trains one: name a model or a folder")


def with_start(stage: Stage[Settings, ImageData], denoiser: Any) -> Stage[Settings, ImageData]:
    """The stage with its start weights settled: those of a whole model are loaded here, files by the loop.

    Raises PochadeError as ``weights_of_model``.
    """
    weights = weights_of_model(stage, denoiser)
    if weights is None:
        return stage
    denoiser.load_state_dict(weights)
    return replace(stage, initialise_from=None)


def weights_of_model(stage: Stage[Settings, ImageData], denoiser: Any) -> Mapping[str, Tensor] | None:
    """The weights of a whole model's denoiser, where that is the start of a stage.

    Raises PochadeError where the model holds another network than ``denoiser``.
    """
    start = stage.initialise_from
    if start is None or not is_model(start):
        return None
    folder = hub.resolve(start)
    theirs = load_components(folder, {"text_encoder": None, "autoencoder": None})["denoiser"]
    ours, weights = denoiser.state_dict(), theirs.state_dict()
    wrong = sorted(
        k for k in {*ours, *weights} if k not in ours or k not in weights or ours[k].shape != weights[k].shape
    )
    if wrong:
        sides: list[int] = [network.config.sample_size for network in (denoiser, theirs)]
        ours_is, theirs_is = (
            (*denoisers.named(network), *(network.config.get(name) for name in denoisers.INTERFACE[1:]))
            for network in (denoiser, theirs)
        )
        if ours_is == theirs_is and sides[0] != sides[1]:
            own = stage.data.size * sides[1] // sides[0]
            raise PochadeError(
                f"data.size: {stage.data.size} given, but initialise_from={start} was trained on {own}: allowed are "
                f"data.size={own}, or task.options=sample_size={sides[1]} besides, which interpolates the positions"
            )
        raise PochadeError(
            f"initialise_from: {start!r} is another network; it differs in {first_names(wrong)}; allowed with it are "
            f"{' '.join(_settings_of(folder, start, theirs))}"
        )
    return weights


def _settings_of(folder: Path, start: str, denoiser: Any) -> list[str]:
    """The settings of a stage that trains the network of a whole model."""
    family, variant, changed = denoisers.named(denoiser)
    autoencoder = load_components(folder, {"text_encoder": None, "denoiser": None})["autoencoder"]
    text = denoiser.config.text_encoder
    options = [
        f"{name}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for name, value in changed.items()
    ]
    return [
        f"data.size={denoiser.config.sample_size * int(autoencoder.downsampling)}",
        f"task.autoencoder={quote(start)}",
        f"task.family={family}",
        f"task.variant={variant}",
        *([f"task.options={','.join(options)}"] if options else []),
        *([f"task.text_encoder={text}"] if text else []),
    ]


def check_start(stage: Stage[Settings, ImageData], denoiser: Any, before: Any = None, *, name: str = "") -> None:
    """Raises PochadeError where the start of a stage does not fit its ``denoiser``, which needs no weights itself.

    ``before`` is that of the stage before, where this is the start; ``name`` precedes the names of its tensors in a
    file, beside which there may be those of a text encoder.
    """
    start, wanted = stage.initialise_from, tensor_shapes(denoiser)
    if before is not None:
        source = f"initialise_from: {start!r} given for {stage.name}: the network before"
        check_tensors(source, tensor_shapes(before), wanted)
    elif start not in (None, PREVIOUS) and weights_of_model(stage, denoiser) is None:
        check_weights({name + key: shape for key, shape in wanted.items()}, str(start), but="text_encoder.")


def is_model(name: str) -> bool:
    """Whether a start is a whole model, by the name of a shipped one or the folder of any."""
    return name in hub.shipped() or (Path(name) / hub.INDEX).is_file()


def check_earlier_denoiser(earlier: Sequence[AnyStage]) -> None:
    """Raises PochadeError where the stage directly before trains no denoiser that could teach."""
    if not earlier or kind_of(earlier[-1]).produces in ("autoencoder", "decoder"):
        raise PochadeError("task.teacher: none given, and no stage before trains a denoiser: name a model or a folder")


def teachers_autoencoder(
    stage: AnyStage, teacher: str | None, earlier: Sequence[AnyStage], components: Components
) -> Any:
    """The autoencoder of the teacher that a stage names, or of the stage before."""
    if teacher is None:
        check_earlier_denoiser(earlier)
        before = replace(earlier[-1], data=stage.data)
        return kind_of(before).autoencoder(before, earlier[:-1], components)
    with naming("task.teacher", "model"):
        folder = hub.resolve(teacher)
    found = components.autoencoder(str(folder), field="task.teacher")
    check_size(stage.data.size, found.downsampling)  # pyright: ignore[reportAttributeAccessIssue]
    return found


def teacher_folder(teacher: str | None, inputs: Inputs) -> Path:
    """The folder of the teacher that a stage names, or else of the model of the stage before."""
    if teacher is not None:
        with naming("task.teacher", "model"):
            return hub.resolve(teacher)
    assert inputs.previous is not None  # as ``check`` has found
    return inputs.previous.model


# --- data and encoders


def latent_encoders(autoencoder: Any, text_encoder: PromptEncoder | None, device: torch.device) -> LatentEncoders:
    """The frozen networks as a cache calls them, moved to ``device``; without a text encoder captions stay words."""
    identity = images_identity(autoencoder)
    autoencoder.to(device)

    @torch.no_grad()
    def encode_images(images: Tensor) -> Tensor:
        return autoencoder.encode(images.to(device)).float().cpu()

    if text_encoder is None:
        return LatentEncoders(encode_images, identity, None, None)
    name = text_encoder.identity
    cast(nn.Module, text_encoder).to(device)
    return LatentEncoders(encode_images, identity, text_encoder.encode, name)


@contextmanager
def encoding_on(device: torch.device, autoencoder: Any, text_encoder: PromptEncoder | None) -> Iterator[LatentEncoders]:
    """``latent_encoders`` for as long as data are encoded; then their memory on the device is free for the training."""
    try:
        yield latent_encoders(autoencoder, text_encoder, device)
    finally:
        for network in cast(tuple[nn.Module | None, ...], (autoencoder, text_encoder)):
            if network is not None:
                network.to("cpu")


@torch.no_grad()
def images_identity(autoencoder: Any) -> str:
    """The latents of one picture, rounded: they differ between encoders, and the decoder has no part in them."""
    side = max(32, 2 * int(autoencoder.downsampling))
    probe = autoencoder.cpu().encode(torch.linspace(-1, 1, 3 * side * side).view(1, 3, side, side))
    return str([round(value, 3) for value in probe.flatten().tolist()])


def cut_captions(dataset: Dataset, encoder: PromptEncoder) -> str:
    """How many captions are longer than a text encoder reads, with the names of the first; "" for none, and of a data
    set with ``windows``, of which little is here."""
    if dataset.windows is not None:
        return ""
    items = (dataset.item(index) for index in range(len(dataset)))
    return cut_texts("caption", ((item.name, text) for item in items for text in item.captions), encoder)


def cut_texts(kind: str, texts: Iterable[tuple[str, str]], encoder: PromptEncoder) -> str:
    """How many texts, each with the name of what it belongs to, are longer than a text encoder reads; "" for none."""
    limit = encoder.max_tokens
    count, names = 0, dict[str, None]()
    for name, text in texts:
        # A token is a byte at least, but for symbols that are read by their names, of at most four words a byte, and
        # few are added around a prompt: most texts need not be counted.
        most = len(text) if text.isascii() else 4 * len(text.encode("utf-8", "replace"))
        if most + ADDED > limit and encoder.count_tokens(text) > limit:
            count += 1
            names |= {name: None} if len(names) < NAMED else {}
    if not count:
        return ""
    more = " ..." if count > len(names) else ""
    return f"{count} {kind}{'s' * (count > 1)} cut at {limit} tokens ({', '.join(names)}{more})"


def text_of(pipeline: TextToImagePipeline) -> PromptEncoder | None:
    """The text encoder of a model; None for one that knows classes."""
    encoder = pipeline.text_encoder
    return encoder if isinstance(encoder, PromptEncoder) else None


def shown_of(data: ImageData, dataset: Dataset, pipeline: TextToImagePipeline) -> list[Shown]:
    """What sample sheets show: classes; or captions from all over the data, in the shapes that their pictures have in
    training, half of them held out where some are."""
    if dataset.classes:
        return [Shown(name) for name in dataset.classes[:: -(-len(dataset.classes) // SHOWN)]]
    held_out = data.open_held_out()
    if held_out is None:
        return _shown(data, dataset, pipeline, SHOWN)
    kept = [replace(one, held_out=True) for one in _shown(data, held_out, pipeline, SHOWN // 2)]
    return [*_shown(data, dataset, pipeline, SHOWN - len(kept)), *kept]


def _shown(data: ImageData, dataset: Dataset, pipeline: TextToImagePipeline, count: int) -> list[Shown]:
    chosen = dataset.evenly_spaced(count)
    prompts = [dataset.item(i).captions[0] for i in chosen]
    if data.ratios is None:
        return [Shown(prompt) for prompt in prompts]
    allowed = shapes(data.size, pipeline.size_multiple, data.ratios)
    near = [allowed[nearest_shape(dataset.dimensions(i), allowed)] for i in chosen]
    return [Shown(prompt, shape) for prompt, shape in zip(prompts, near, strict=True)]


def takes_few_steps(pipeline: TextToImagePipeline) -> bool:
    """Whether a model was distilled to few steps."""
    return pipeline.default_guidance == 1 and pipeline.default_steps <= MOST_FEW_STEPS


def check_teacher(name: str, pipeline: TextToImagePipeline, field: str) -> None:
    """Raises PochadeError where a model was distilled to few steps, so that it is no start and no teacher."""
    if takes_few_steps(pipeline):
        raise PochadeError(f"{field}: {name!r} was distilled to few steps: allowed is the model that it was made of")


def classes_of(pipeline: TextToImagePipeline) -> tuple[str, ...]:
    """The names of the classes that a model knows, () where it reads captions."""
    encoder = pipeline.text_encoder
    return tuple(encoder.names) if isinstance(encoder, ClassLabelEncoder) else ()


def check_conditioning(pipeline: TextToImagePipeline, dataset: Dataset, field: str) -> None:
    """Raises PochadeError where a model, given as ``field``, and a data set differ in captions or classes."""
    known = classes_of(pipeline)
    if pipeline.text_encoder is None or known != tuple(dataset.classes):
        reads = (
            "has no text encoder" if pipeline.text_encoder is None else "knows classes" if known else "reads captions"
        )
        names = dataset.classes[:NAMED]
        holds = f"the classes {', '.join(names)}{' ...' * (len(dataset.classes) > NAMED)}" if names else "captions"
        raise PochadeError(f"{field}: a model that {reads} is given, but the data holds {holds}")


def check_cached(stage: Stage[Settings, ImageData]) -> None:
    """Raises PochadeError where a stage whose samples are always cached is to train without a cache."""
    if not stage.data.cached:
        raise PochadeError(f"data.cached: false given, allowed is true: what {stage.name} learns from is always cached")


def latents_of(
    data: ImageData, dataset: Dataset, pipeline: TextToImagePipeline, text_encoder: PromptEncoder | None, inputs: Inputs
) -> Samples:
    """The latents of a data set with their text, cached below the run or, where the data say so, encoded as drawn.

    Where the data keep the ratios of pictures, in buckets of one shape each.
    """
    autoencoder = pipeline.autoencoder

    def encoded(encoders: LatentEncoders) -> Samples:
        def at(part: Dataset, size: int | Shape) -> Samples:
            if not data.cached:
                return encode_on_the_fly(part, size, encoders)
            return inputs.cache_latents(part, size, encoders)

        if data.ratios is None:
            return at(dataset, data.size)
        return Bucketed(dataset, shapes(data.size, pipeline.size_multiple, data.ratios), at)

    if not data.cached:
        return encoded(latent_encoders(autoencoder, text_encoder, inputs.device))
    with encoding_on(inputs.device, autoencoder, text_encoder) as encoders:
        return encoded(encoders)


def held_out_of(
    data: ImageData, pipeline: TextToImagePipeline, text_encoder: PromptEncoder | None, inputs: Inputs
) -> Samples | None:
    """Latents of some pictures that are kept out of training, spread evenly; None where none are."""
    dataset = data.open_held_out()
    if dataset is None:
        return None
    some = dataset.subset(dataset.evenly_spaced(DRAWS))
    return latents_of(data, some, pipeline, text_encoder, inputs)
