"""Running a recipe: builds what each stage needs, trains it, and hands its result to the next."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pochade import denoisers, text_encoders
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.data.images import sheet, to_image, to_tensor
from pochade.data.latents import CachedLatents, build_cache, fingerprint
from pochade.errors import FailureError, PochadeError, nearest
from pochade.pipelines import hub
from pochade.pipelines.loading import load_components
from pochade.pipelines.schedulers import make_scheduler
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import RECIPES
from pochade.recipes.sources import as_pictures, open_images
from pochade.text_encoders.class_label import ClassLabelEncoder
from pochade.training.checkpoint import load_weights
from pochade.training.loop import train as train_stage
from pochade.training.stage import Stage, override
from pochade.training.tasks.autoencoder import AutoencoderSettings, AutoencoderTask, build_autoencoder
from pochade.training.tasks.consistency import ConsistencySettings, ConsistencyTask
from pochade.training.tasks.flow import FlowSettings, FlowTask

SHEET_PROMPTS = (
    "red apple", "cat face", "sailboat", "red heart", "house", "flag of Japan", "butterfly", "pizza",
    "rocket", "tree", "woman astronaut", "guitar", "snowman", "fish", "umbrella", "grinning face",
)  # fmt: skip
SHEET_STEPS = 20
FEW_STEPS = 4
"""What a distilled model samples with where nothing else is asked for."""


@dataclass(frozen=True)
class Result:
    """What a stage leaves: the folder of its model, and the weights that the next stage may start from."""

    model: Path
    weights: Path


def stages_of(recipe: str) -> list[Stage]:
    """The stages of a recipe by name. Raises PochadeError for an unknown one, naming the nearest."""
    if recipe not in RECIPES:
        raise PochadeError(f"recipe: {recipe!r} given, allowed are {', '.join(RECIPES)}{nearest(recipe, RECIPES)}")
    module, _, function = RECIPES[recipe].partition(":")
    return getattr(import_module(module), function)()


def train(recipe: str, overrides: Iterable[str], out: Path, resume: bool = False) -> Path:
    """Run a recipe by name with ``field=value`` overrides; returns the folder of the last stage's model."""
    return run(override(stages_of(recipe), overrides), out, resume=resume)


def run(stages: Sequence[Stage], out: Path, *, resume: bool = False) -> Path:
    """Train ``stages`` in order below ``out``; each leaves ``<number>-<name>/model``. Returns the last one's.

    With ``resume`` finished stages are passed over and an interrupted one goes on.

    Raises:
        PochadeError: a stage's data or settings are unusable (all stages are looked at before the first starts).
        FailureError, TrainingInterrupted: see ``pochade.training.loop.train``.
    """
    out = Path(out)
    with _main_first():
        for i, stage in enumerate(stages):
            _preflight(stage, stages[:i])
    previous: Result | None = None
    autoencoder: Path | None = None
    for number, stage in enumerate(stages, 1):
        folder = out / f"{number}-{stage.name}"
        if isinstance(stage.task, AutoencoderSettings):
            previous = _run_autoencoder(_after(stage, previous), folder, resume)
            autoencoder = previous.model
        elif isinstance(stage.task, ConsistencySettings):
            previous = _run_consistency(stage, folder, resume, previous, out)
        else:
            previous = _run_flow(stage, folder, resume, autoencoder, previous, out)
    assert previous is not None
    return previous.model


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _passed_over(stage: Stage, result: Result) -> Result:
    _say(f"{stage.name}: finished before, used as it is in {result.model}")
    return result


def _preflight(stage: Stage, before: Sequence[Stage]) -> None:
    """Whatever can be known to fail is found here, not after the hours of the stages before."""
    if not isinstance(stage.task, AutoencoderSettings | FlowSettings | ConsistencySettings):
        kind = type(stage.task).__name__
        raise PochadeError(f"task: {kind} given, allowed are autoencoder, flow and consistency settings")
    start = stage.initialise_from
    if start == "previous" and not (before and type(before[-1].task) is type(stage.task)):
        raise PochadeError(
            f"initialise_from: 'previous' given for {stage.name}, but no stage of its kind comes before it"
        )
    if start not in (None, "previous") and start not in hub.shipped() and not Path(start).exists():
        raise PochadeError(
            f"initialise_from: {start!r} is neither a shipped model ({', '.join(hub.shipped()) or 'none'}) nor a path"
            f"{nearest(start, hub.shipped())}"
        )
    dataset = open_images(stage.data)
    if isinstance(stage.task, FlowSettings):
        _preflight_flow(stage, dataset, any(isinstance(s.task, AutoencoderSettings) for s in before))
    elif isinstance(stage.task, ConsistencySettings):
        _preflight_consistency(stage.task, dataset, before)


def _preflight_flow(stage: Stage, dataset: Any, autoencoder_before: bool) -> None:
    settings: FlowSettings = stage.task
    if settings.autoencoder is not None:
        load_autoencoder(settings.autoencoder)
    elif not autoencoder_before:
        raise PochadeError("task.autoencoder: none given, and no stage before trains one: name a model or a folder")
    labelled = hasattr(dataset, "class_names")
    if labelled != (settings.text_encoder is None):
        holds, allowed = ("classes", "none") if labelled else ("captions", "minilm-l6-v2, clip:NAME and bag")
        raise PochadeError(
            f"task.text_encoder: {settings.text_encoder or 'none'} given, but {stage.data.source} holds {holds}: "
            f"allowed is {allowed}"
        )
    if settings.text_encoder not in (None, "bag"):
        text_encoders.load(settings.text_encoder)
    changes = {"sample_size": stage.data.size // TinyAutoencoder.downsampling, **_options(settings)}
    try:
        with torch.device("meta"):
            denoisers.build(settings.family, settings.variant, **changes)
    except PochadeError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise PochadeError(
            f"options: {', '.join(settings.options)} given, of which no network can be made ({error})"
        ) from error


def _preflight_consistency(settings: ConsistencySettings, dataset: Any, before: Sequence[Stage]) -> None:
    settings.intervals_at(0.0)
    if settings.teacher is None:
        if not before or isinstance(before[-1].task, AutoencoderSettings):
            raise PochadeError(
                "task.teacher: none given, and no stage before trains a denoiser: name a model or a folder"
            )
        return
    _check_labels(TextToImagePipeline.from_pretrained(settings.teacher), dataset)


def _check_labels(teacher: TextToImagePipeline, dataset: Any) -> None:
    """Raises PochadeError where a teacher and a data set do not speak of the same things."""
    encoder = teacher.text_encoder
    names = list(encoder.names) if isinstance(encoder, ClassLabelEncoder) else None
    classes = list(dataset.class_names) if hasattr(dataset, "class_names") else None
    if encoder is None or names != classes:
        knows = "has no text encoder" if encoder is None else "knows classes" if names else "knows captions"
        holds = f"the classes {', '.join(classes)}" if classes else "captions"
        raise PochadeError(f"task.teacher: a model that {knows} is given, but the data holds {holds}")


def _options(task: FlowSettings) -> dict[str, Any]:
    """The changes of the variant's arguments, from ``name=value`` with JSON values or bare words."""
    known = denoisers.parameters(task.family)
    options: dict[str, Any] = {}
    for option in task.options:
        name, equals, text = option.partition("=")
        if not equals or name not in known:
            raise PochadeError(
                f"options: {option!r} given, {task.family} takes {', '.join(known)}{nearest(name, known)}"
            )
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def _write_folder(folder: Path, save: Callable[[Path], Any]) -> None:
    """``save`` into a temporary folder beside ``folder``, then put it in its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        save(temporary)
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _main_first() -> Iterator[bool]:
    """Rank 0 goes through the block before the others; yields whether this is rank 0."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    from accelerate import PartialState

    processes = PartialState(cpu=not torch.accelerator.is_available())
    with processes.main_process_first():
        yield processes.is_main_process


def _run_autoencoder(stage: Stage, folder: Path, resume: bool) -> Result:
    from pochade.features.lite0 import load_lite0
    from pochade.features.perceptual import PerceptualLoss

    result = Result(folder / "model", folder / "model")
    if resume and (result.model / "config.json").is_file():
        return _passed_over(stage, result)
    settings: AutoencoderSettings = stage.task
    dataset = open_images(stage.data)
    torch.manual_seed(stage.seed)
    autoencoder = build_autoencoder(settings)
    if settings.adversarial and stage.initialise_from is not None:  # the adversary itself starts anew
        load_weights(autoencoder, stage.initialise_from)
        stage = replace(stage, initialise_from=None)
    perceptual = PerceptualLoss(load_lite0()) if settings.perceptual else None
    task = AutoencoderTask(autoencoder, settings, perceptual)
    shown = as_pictures(_held_out(stage.data) or dataset)
    images = torch.stack([to_tensor(shown.image(i)) for i in range(0, len(shown), -(-len(shown) // 24))])

    def pictures() -> Any:
        decoded = autoencoder(images).clamp(-1, 1)
        pairs = [to_image(x) for pair in zip(images, decoded, strict=True) for x in pair]
        return sheet(pairs, ["original", "decoded"] * len(images))

    train_stage(stage, task, dataset, folder, resume=resume, sample_sheet=pictures)
    with _main_first() as main:
        if main:
            _measure_statistics(autoencoder, as_pictures(dataset))
            _write_folder(result.model, autoencoder.save_pretrained)
    return result


def _held_out(data: Any) -> Any:
    """The held-out pictures, or None where there are so few pictures that none is held out."""
    try:
        return open_images(data, "held_out")
    except PochadeError:  # the training split was opened before, so this one is empty
        return None


@torch.no_grad()
def _measure_statistics(autoencoder: TinyAutoencoder, pictures: Any) -> None:
    """Mean and deviation of the raw latents over (at most 4,096 of) the training pictures."""
    chosen = range(0, len(pictures), -(-len(pictures) // 4096))
    raw: list[Tensor] = []
    for start in range(0, len(chosen), 64):
        images = torch.stack([to_tensor(pictures.image(i)) for i in chosen[start : start + 64]])
        raw.append(autoencoder.encode_raw(images))
    values = torch.cat(raw)
    autoencoder.set_statistics(values.mean((0, 2, 3)), values.std((0, 2, 3)))


def load_autoencoder(name_or_folder: str) -> TinyAutoencoder:
    """An autoencoder of its own folder, of a model's, or TAESD's weights from a folder or the hub."""
    folder = Path(name_or_folder).expanduser()
    if name_or_folder in hub.shipped() or (folder / hub.INDEX).is_file():
        return load_components(hub.resolve(name_or_folder), {"text_encoder": None, "denoiser": None})["autoencoder"]
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text())
        if config.get("_class_name") == "TinyAutoencoder":
            autoencoder: Any = TinyAutoencoder.from_pretrained(folder)
            autoencoder.register_to_config(_name_or_path="")  # no folder of this machine in a saved model
            return autoencoder.eval()
    return TinyAutoencoder.from_taesd(name_or_folder)


def _cache(
    size: int, out: Path, autoencoder: TinyAutoencoder, encoder: Any, encoder_name: str | None, dataset: Any
) -> CachedLatents:
    pictures = as_pictures(dataset)
    # What the encoder makes of one picture tells encoders apart; the decoder does not matter here.
    with torch.no_grad():
        probe = autoencoder.encode(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32))
    identity = [round(value, 3) for value in probe.flatten().tolist()]
    name = fingerprint(pictures, str(identity), str(encoder_name), str(size))
    encode_text = None if encoder is None else encoder.encode
    return build_cache(pictures, autoencoder.encode, encode_text, out / "cache" / name)


def _run_flow(
    stage: Stage, folder: Path, resume: bool, trained: Path | None, previous: Result | None, out: Path
) -> Result:
    result = Result(folder / "model", folder / "final" / "model.safetensors")
    if resume and (result.model / hub.INDEX).is_file():
        return _passed_over(stage, result)
    settings: FlowSettings = stage.task
    autoencoder = load_autoencoder(settings.autoencoder or str(trained))
    dataset = open_images(stage.data)
    joint = settings.text_encoder == "bag"
    frozen = text_encoders.load(settings.text_encoder) if settings.text_encoder and not joint else None
    torch.manual_seed(stage.seed)
    encoder: Any = frozen
    channels, down = autoencoder.config.latent_channels, autoencoder.downsampling
    changes: dict[str, Any] = {"latent_channels": channels, "sample_size": stage.data.size // down}
    if hasattr(dataset, "class_names"):
        encoder = ClassLabelEncoder(dataset.class_names)
        changes |= {"num_classes": len(dataset.class_names), "text_dim": 0, "pooled_dim": 0}
    elif joint:
        encoder = _new_bag(dataset)
    if settings.text_encoder:
        changes |= {"text_dim": encoder.dim, "pooled_dim": encoder.pooled_dim}
    changes["text_encoder"] = None if joint else encoder.identity
    denoiser = denoisers.build(settings.family, settings.variant, **{**changes, **_options(settings)})
    stage = _initialise(_after(stage, previous), denoiser)
    with _main_first():
        data = _cache(stage.data.size, out, autoencoder, frozen, settings.text_encoder, dataset)

    task = FlowTask(denoiser, settings, encoder if joint else None)
    pipeline = TextToImagePipeline(autoencoder, denoiser, text_encoder=encoder) if not joint else None

    pictures = None if pipeline is None else partial(_paint_sheet, stage.name, pipeline, dataset, SHEET_STEPS)
    train_stage(stage, task, data, folder, resume=resume, sample_sheet=pictures)
    with _main_first() as main:
        if main:
            _save(result.model, autoencoder, denoiser, encoder, joint)
    return result


def _run_consistency(stage: Stage, folder: Path, resume: bool, previous: Result | None, out: Path) -> Result:
    result = Result(folder / "model", folder / "final" / "model.safetensors")
    if resume and (result.model / hub.INDEX).is_file():
        return _passed_over(stage, result)
    settings: ConsistencySettings = stage.task
    source = settings.teacher if settings.teacher is not None or previous is None else str(previous.model)
    assert source is not None
    pipeline = TextToImagePipeline.from_pretrained(source)
    dataset = open_images(stage.data)
    _check_labels(pipeline, dataset)
    encoder: Any = pipeline.text_encoder
    labelled = isinstance(encoder, ClassLabelEncoder)
    with _main_first():
        name = None if labelled else encoder.identity
        data = _cache(stage.data.size, out, pipeline.autoencoder, None if labelled else encoder, name, dataset)
    torch.manual_seed(stage.seed)
    task = ConsistencyTask(pipeline.denoiser, settings)
    stage = _initialise(_after(stage, previous), task.student)
    distilled = TextToImagePipeline(
        pipeline.autoencoder,
        task.student,
        make_scheduler("lcm"),
        encoder,
        default_steps=FEW_STEPS,
        default_guidance=1.0,
    )
    pictures = partial(_paint_sheet, stage.name, distilled, dataset, FEW_STEPS)
    train_stage(stage, task, data, folder, resume=resume, sample_sheet=pictures)
    with _main_first() as main:
        if main:
            distilled.save_pretrained(result.model, dtype=torch.float16)
    return result


def _paint_sheet(name: str, pipeline: TextToImagePipeline, dataset: Any, steps: int) -> Any:
    """Pictures of fixed prompts by the network as it is; None where it paints nothing."""
    pipeline.set_progress_bar_config(disable=True)
    prompts = _sheet_prompts(dataset)
    seeds = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    try:
        images = pipeline(prompts, num_inference_steps=steps, generator=seeds).images
    except FailureError as error:  # a network that paints nothing yet is no reason to stop its training
        _say(f"{name}: no sample sheet: {error}")
        return None
    return sheet(images, prompts)


def _sheet_prompts(dataset: Any) -> list[str]:
    """What the sample sheets show: the classes, OpenMoji's usual subjects, or captions from all over the data."""
    if hasattr(dataset, "class_names"):
        return list(dataset.class_names)
    if hasattr(dataset, "concepts"):
        return list(SHEET_PROMPTS)
    return [dataset.caption(i) for i in range(0, len(dataset), -(-len(dataset) // len(SHEET_PROMPTS)))]


def _new_bag(dataset: Any) -> Any:
    from pochade.text_encoders.bag import BagEncoder

    pictures = as_pictures(dataset)
    captions = [caption for index in range(len(pictures)) for caption in pictures.captions(index)]
    return BagEncoder(BagEncoder.train_tokenizer(captions))


def _after(stage: Stage, previous: Result | None) -> Stage:
    """The stage with "previous" replaced by the weights of the stage before."""
    if stage.initialise_from != "previous" or previous is None:
        return stage
    return replace(stage, initialise_from=str(previous.weights))


def _initialise(stage: Stage, denoiser: Any) -> Stage:
    """The stage with its start weights settled: those of a whole model are loaded here, files by the loop."""
    start = stage.initialise_from
    if start is None or not (start in hub.shipped() or (Path(start) / hub.INDEX).is_file()):
        return stage
    theirs = load_components(hub.resolve(start), {"text_encoder": None, "autoencoder": None})["denoiser"]
    ours, weights = denoiser.state_dict(), theirs.state_dict()
    wrong = sorted(
        k for k in {*ours, *weights} if k not in ours or k not in weights or ours[k].shape != weights[k].shape
    )
    if wrong:
        raise PochadeError(f"initialise_from: {start!r} is another network; it differs in {', '.join(wrong)}")
    denoiser.load_state_dict(weights)
    return replace(stage, initialise_from=None)


def _save(folder: Path, autoencoder: Any, denoiser: Any, encoder: Any, joint: bool) -> None:
    """The whole model as a pipeline's folder, weights in float16 (read back as float32)."""
    if joint:  # its name holds a hash of its weights, which are known only now
        denoiser.register_to_config(text_encoder=encoder.identity)
    pipeline = TextToImagePipeline(autoencoder, denoiser, text_encoder=encoder)
    pipeline.save_pretrained(folder, dtype=torch.float16)
