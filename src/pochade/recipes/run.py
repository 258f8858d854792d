"""Running a recipe: builds what each stage needs, trains it, and hands its result to the next."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pochade import denoisers, text_encoders
from pochade.autoencoders.tiny_decoder import for_autoencoder
from pochade.errors import FailureError, PochadeError, nearest
from pochade.images.sheets import sheet
from pochade.pipelines import hub
from pochade.pipelines.loading import load_components
from pochade.pipelines.schedulers import make_scheduler, takes_few_steps
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import RECIPES
from pochade.recipes.adapters import controlled, referenced, run_control, run_reference
from pochade.recipes.autoencoders import check_size, load_autoencoder, run_autoencoder, run_decoder
from pochade.recipes.caches import cache_latents, cache_velocities
from pochade.recipes.editing import check_start, editor, pairs_of, pictures_of, run_edit
from pochade.recipes.results import Result, after, main_first, passed_over, say
from pochade.recipes.sources import as_pictures, open_images
from pochade.text_encoders.class_label import ClassLabelEncoder
from pochade.training.loop import train as train_stage
from pochade.training.stage import Stage, override, read_options
from pochade.training.stages.autoencoder import AutoencoderSettings, build_autoencoder
from pochade.training.stages.consistency import ConsistencySettings, ConsistencyTask
from pochade.training.stages.control import ControlSettings
from pochade.training.stages.decoder import DecoderSettings
from pochade.training.stages.distillation import TeacherSettings, TeacherTask
from pochade.training.stages.edit import EditSettings
from pochade.training.stages.flow import FlowSettings, FlowTask
from pochade.training.stages.image_prompt import ReferenceSettings

SHEET_PROMPTS = (
    "red apple", "cat face", "sailboat", "red heart", "house", "flag of Japan", "butterfly", "pizza",
    "rocket", "tree", "woman astronaut", "guitar", "snowman", "fish", "umbrella", "grinning face",
)  # fmt: skip
SHEET_STEPS = 20
FEW_STEPS = 4
"""What a distilled model samples with where nothing else is asked for."""
KINDS = (AutoencoderSettings, DecoderSettings, FlowSettings, ConsistencySettings, ControlSettings, EditSettings)
KINDS += (ReferenceSettings,)


def stages_of(recipe: str) -> list[Stage]:
    """The stages of a recipe by name. Raises PochadeError for an unknown one, naming the nearest."""
    if recipe not in RECIPES:
        raise PochadeError(f"recipe: {recipe!r} given, allowed are {', '.join(RECIPES)}{nearest(recipe, RECIPES)}")
    module, _, function = RECIPES[recipe].partition(":")
    return getattr(import_module(module), function)()


def train(recipe: str, overrides: Iterable[str], out: Path, resume: bool = False, only: str | None = None) -> Path:
    """Run a recipe by name with ``field=value`` overrides; returns the folder of the last stage's model."""
    return run(override(stages_of(recipe), overrides), out, resume=resume, only=only)


def run(stages: Sequence[Stage], out: Path, *, resume: bool = False, only: str | None = None) -> Path:
    """Train ``stages`` in order below ``out``; each leaves ``<number>-<name>/model``. Returns the last one's.

    With ``resume`` finished stages are passed over and an interrupted one goes on. With ``only`` the stage of that name
    is trained alone, on what those before it have left in ``out``; their data need not be there.

    Raises:
        PochadeError: a stage's data or settings are unusable (all stages are looked at before the first starts), or
            one before ``only`` is not finished.
        FailureError, TrainingInterrupted: see ``pochade.training.loop.train``.
    """
    out = Path(out)
    finished = 0 if only is None else _before(stages, only, out)
    stages = stages if only is None else stages[: finished + 1]
    with main_first():
        for i, stage in enumerate(stages):
            if i >= finished:
                _preflight(stage, stages[:i])
    previous: Result | None = None
    autoencoder: Path | None = None
    painter: Path | None = None
    for number, stage in enumerate(stages, 1):
        folder = out / f"{number}-{stage.name}"
        again = resume or number <= finished
        if isinstance(stage.task, AutoencoderSettings):
            previous = run_autoencoder(after(stage, previous), folder, again)
            autoencoder = previous.model
        elif isinstance(stage.task, DecoderSettings):
            previous = run_decoder(after(stage, previous), folder, again, autoencoder)
        elif isinstance(stage.task, ConsistencySettings):
            previous = _run_consistency(stage, folder, again, previous, out)
        elif isinstance(stage.task, ControlSettings):
            previous = run_control(stage, folder, again, out)
        elif isinstance(stage.task, ReferenceSettings):
            previous = run_reference(stage, folder, again, out)
        elif isinstance(stage.task, EditSettings):
            previous = run_edit(stage, folder, again, out, painter)
        else:
            previous = _run_flow(stage, folder, again, autoencoder, previous, out)
            painter = previous.model
    assert previous is not None
    return previous.model


def _before(stages: Sequence[Stage], only: str, out: Path) -> int:
    """How many stages come before the one called ``only``. Raises PochadeError where one of them is not finished."""
    names = [stage.name for stage in stages]
    if only not in names:
        raise PochadeError(f"only: {only!r} given, allowed are {', '.join(names)}{nearest(only, names)}")
    count = names.index(only)
    for number, name in enumerate(names[:count], 1):
        model = out / f"{number}-{name}" / "model"
        if not any((model / file).is_file() for file in ("config.json", hub.INDEX)):
            raise PochadeError(f"only: {only!r} given, but {name} comes before it and is not finished in {out}")
    return count


def _preflight(stage: Stage, before: Sequence[Stage]) -> None:
    """Whatever can be known to fail is found here, not after the hours of the stages before."""
    if not isinstance(stage.task, KINDS):
        kind = type(stage.task).__name__
        raise PochadeError(
            f"task: {kind} given, allowed are autoencoder, decoder, flow, teacher, consistency, control, reference "
            "and edit settings"
        )
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
    if isinstance(stage.task, EditSettings):
        _preflight_edit(stage, before)
        return
    dataset = open_images(stage.data)
    if isinstance(stage.task, FlowSettings):
        _preflight_flow(stage, dataset, before)
    elif isinstance(stage.task, ConsistencySettings):
        stage.task.intervals_at(0.0)
        _preflight_teacher(stage.task.teacher, dataset, before)
    elif isinstance(stage.task, ControlSettings):
        _check_labels(controlled(stage), dataset, "task.model")
    elif isinstance(stage.task, ReferenceSettings):
        _check_labels(referenced(stage)[0], dataset, "task.model")
    elif isinstance(stage.task, DecoderSettings):
        autoencoder = _autoencoder_for(stage, before)
        with torch.device("meta"):
            for_autoencoder(stage.task.size, autoencoder.config.latent_channels, autoencoder.downsampling)
    else:
        check_size(stage.data.size, _untrained(stage.task).downsampling)


def _untrained(settings: AutoencoderSettings) -> Any:
    with torch.device("meta"):
        return build_autoencoder(settings)


def _autoencoder_for(stage: Stage, before: Sequence[Stage]) -> Any:
    """The autoencoder that a stage names, or one such as the stages ``before`` train, without weights."""
    if isinstance(stage.task, TeacherSettings | ConsistencySettings):
        if stage.task.teacher is None:
            return _autoencoder_for(replace(before[-1], data=stage.data), before[:-1])
        autoencoder = load_autoencoder(str(hub.resolve(stage.task.teacher)))
        check_size(stage.data.size, autoencoder.downsampling)
        return autoencoder
    trained = [s.task for s in before if isinstance(s.task, AutoencoderSettings)]
    if stage.task.autoencoder is None and not trained:
        raise PochadeError("task.autoencoder: none given, and no stage before trains one: name a model or a folder")
    named = stage.task.autoencoder
    autoencoder = _untrained(trained[-1]) if named is None else load_autoencoder(named)
    check_size(stage.data.size, autoencoder.downsampling)
    return autoencoder


def _preflight_flow(stage: Stage, dataset: Any, before: Sequence[Stage]) -> None:
    settings: FlowSettings = stage.task
    if isinstance(settings, TeacherSettings):
        _preflight_teacher(settings.teacher, dataset, before)
    autoencoder = _autoencoder_for(stage, before)
    labelled = hasattr(dataset, "class_names")
    if labelled != (settings.text_encoder is None):
        known = ", ".join((*text_encoders.KNOWN, "bag"))
        holds, allowed = ("classes", "none") if labelled else ("captions", known)
        raise PochadeError(
            f"task.text_encoder: {settings.text_encoder or 'none'} given, but {stage.data.source} holds {holds}: "
            f"allowed is {allowed}"
        )
    if settings.text_encoder not in (None, "bag"):
        text_encoders.load(settings.text_encoder)
    channels = int(autoencoder.config.latent_channels)
    with torch.device("meta"):
        denoiser = build_denoiser(
            settings, latent_channels=channels, sample_size=stage.data.size // autoencoder.downsampling
        )
    if denoiser.config.latent_channels != channels:
        given = denoiser.config.latent_channels
        raise PochadeError(f"options: latent_channels={given} given, the autoencoder's latents have {channels}")
    given = options_of(settings).get("num_classes")
    if labelled and given not in (None, len(dataset.class_names)):
        there = len(dataset.class_names)
        raise PochadeError(f"options: num_classes={given} given, but {stage.data.source} has {there} classes")


def _preflight_edit(stage: Stage, before: Sequence[Stage]) -> None:
    settings: EditSettings = stage.task
    painters = [s for s in before if isinstance(s.task, FlowSettings)]
    if settings.model is None and painters:
        check_start(stage)
        family, able = painters[-1].task.family, denoisers.with_source()
        if family not in able:
            raise PochadeError(f"task.family: {family} given, but {stage.name} needs one of {', '.join(able)}")
        size = stage.data.size or painters[-1].data.size
        open_images(pictures_of(stage.data, size))
    else:
        pipeline = editor(stage)
        size = pipeline.default_size
        if settings.generate:
            _check_labels(pipeline, open_images(pictures_of(stage.data, size)), "task.model")
    pairs_of(stage.data, settings.tasks, size)


def _preflight_teacher(teacher: str | None, dataset: Any, before: Sequence[Stage]) -> None:
    if teacher is None:
        if not before or isinstance(before[-1].task, AutoencoderSettings | DecoderSettings):
            raise PochadeError(
                "task.teacher: none given, and no stage before trains a denoiser: name a model or a folder"
            )
        return
    model = TextToImagePipeline.from_pretrained(teacher)
    if takes_few_steps(model.scheduler):
        raise PochadeError(
            f"task.teacher: {teacher!r} was distilled to few steps: allowed is the model that it was made of"
        )
    _check_labels(model, dataset)


def _check_labels(model: TextToImagePipeline, dataset: Any, name: str = "task.teacher") -> None:
    """Raises PochadeError where a model, given as ``name``, and a data set do not speak of the same things."""
    encoder = model.text_encoder
    names = list(encoder.names) if isinstance(encoder, ClassLabelEncoder) else None
    classes = list(dataset.class_names) if hasattr(dataset, "class_names") else None
    if encoder is None or names != classes:
        knows = "has no text encoder" if encoder is None else "knows classes" if names else "knows captions"
        holds = f"the classes {', '.join(classes[:10])}{' ...' * (len(classes) > 10)}" if classes else "captions"
        raise PochadeError(f"{name}: a model that {knows} is given, but the data holds {holds}")


def build_denoiser(settings: FlowSettings, **changes: Any) -> Any:
    """A network with random weights: the variant with ``changes``, and the settings' own options on top.

    Raises PochadeError where there can be none.
    """
    try:
        return denoisers.build(settings.family, settings.variant, **{**changes, **options_of(settings)})
    except PochadeError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise PochadeError(
            f"options: {', '.join(settings.options)} given, of which no network can be made ({error})"
        ) from error


def options_of(task: FlowSettings) -> dict[str, Any]:
    """The changes of the variant's arguments."""
    return read_options(task.options, denoisers.parameters(task.family), task.family)


def _run_flow(
    stage: Stage, folder: Path, resume: bool, trained: Path | None, previous: Result | None, out: Path
) -> Result:
    result = Result(folder / "model", folder / "final" / "model.safetensors")
    if resume and (result.model / hub.INDEX).is_file():
        return passed_over(stage, result)
    settings: FlowSettings = stage.task
    source = hub.resolve(_teacher(settings, previous)) if isinstance(settings, TeacherSettings) else None
    autoencoder = load_autoencoder(settings.autoencoder or str(source or trained))
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
    denoiser = build_denoiser(settings, **changes)
    stage = _initialise(after(stage, previous), denoiser)
    with main_first():
        data = cache_latents(stage.data.size, out, autoencoder, frozen, settings.text_encoder, dataset)
        if isinstance(settings, TeacherSettings) and source is not None:
            teacher = TextToImagePipeline.from_pretrained(source)
            _check_labels(teacher, dataset)
            data = cache_velocities(settings, teacher, source, data, dataset, out)
            del teacher  # what it said is cached

    defaults: dict[str, Any] = {"default_size": stage.data.size}
    if isinstance(settings, TeacherSettings):
        task: FlowTask = TeacherTask(denoiser, settings, encoder if joint else None)
        if settings.guidance != 1:
            defaults["default_guidance"] = 1.0
    else:
        task = FlowTask(denoiser, settings, encoder if joint else None)
    pipeline = None if joint else TextToImagePipeline(autoencoder, denoiser, text_encoder=encoder, **defaults)
    pictures = None if pipeline is None else partial(_paint_sheet, stage.name, pipeline, dataset, SHEET_STEPS)
    train_stage(stage, task, data, folder, resume=resume, sample_sheet=pictures)
    with main_first() as main:
        if main:
            if joint:  # its name holds a hash of its weights, which are known only now
                denoiser.register_to_config(text_encoder=encoder.identity)
            pipeline = TextToImagePipeline(autoencoder, denoiser, text_encoder=encoder, **defaults)
            pipeline.save_pretrained(result.model, dtype=torch.float16)
    return result


def _teacher(settings: TeacherSettings | ConsistencySettings, previous: Result | None) -> str:
    """The name or folder of a stage's teacher: the one that it names, or the model of the stage before."""
    if settings.teacher is None:
        assert previous is not None
        return str(previous.model)
    return settings.teacher


def _run_consistency(stage: Stage, folder: Path, resume: bool, previous: Result | None, out: Path) -> Result:
    result = Result(folder / "model", folder / "final" / "model.safetensors")
    if resume and (result.model / hub.INDEX).is_file():
        return passed_over(stage, result)
    settings: ConsistencySettings = stage.task
    pipeline = TextToImagePipeline.from_pretrained(_teacher(settings, previous))
    dataset = open_images(stage.data)
    _check_labels(pipeline, dataset)
    encoder: Any = pipeline.text_encoder
    labelled = isinstance(encoder, ClassLabelEncoder)
    with main_first():
        name = None if labelled else encoder.identity
        data = cache_latents(stage.data.size, out, pipeline.autoencoder, None if labelled else encoder, name, dataset)
    torch.manual_seed(stage.seed)
    task = ConsistencyTask(pipeline.denoiser, settings)
    stage = _initialise(after(stage, previous), task.student)
    distilled = TextToImagePipeline(
        pipeline.autoencoder,
        task.student,
        make_scheduler("lcm"),
        encoder,
        default_steps=FEW_STEPS,
        default_guidance=1.0,
        default_size=stage.data.size,
    )
    pictures = partial(_paint_sheet, stage.name, distilled, dataset, FEW_STEPS)
    train_stage(stage, task, data, folder, resume=resume, sample_sheet=pictures)
    with main_first() as main:
        if main:
            distilled.save_pretrained(result.model, dtype=torch.float16)
    return result


def _paint_sheet(name: str, pipeline: TextToImagePipeline, dataset: Any, steps: int) -> Any:
    """Pictures of fixed prompts by the network as it is; None where it paints nothing."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(pipeline.denoiser.device)  # the loop moves the denoiser alone
    prompts = _sheet_prompts(dataset)
    seeds = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    try:
        images = pipeline(prompts, num_inference_steps=steps, generator=seeds).images
    except FailureError as error:  # a network that paints nothing yet is no reason to stop its training
        say(f"{name}: no sample sheet: {error}")
        return None
    return sheet(images, prompts)


def _sheet_prompts(dataset: Any) -> list[str]:
    """What the sample sheets show: the classes, OpenMoji's usual subjects, or captions from all over the data."""
    if hasattr(dataset, "class_names"):
        return list(dataset.class_names[:: -(-len(dataset.class_names) // len(SHEET_PROMPTS))])
    if hasattr(dataset, "concepts"):
        return list(SHEET_PROMPTS)
    return [dataset.caption(i) for i in range(0, len(dataset), -(-len(dataset) // len(SHEET_PROMPTS)))]


def _new_bag(dataset: Any) -> Any:
    from pochade.text_encoders.bag import BagEncoder

    pictures = as_pictures(dataset)
    captions = [caption for index in range(len(pictures)) for caption in pictures.captions(index)]
    return BagEncoder(BagEncoder.train_tokenizer(captions))


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
