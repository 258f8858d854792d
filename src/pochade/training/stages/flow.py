"""Training a denoiser of any family: the velocity of the straight path (``pochade.flow``)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade import denoisers, text_encoders
from pochade.arguments import MIDDLE
from pochade.data.dataset import Dataset
from pochade.data.samples import Samples
from pochade.errors import PochadeError, naming
from pochade.flow.path import interpolate, velocity
from pochade.flow.timesteps import Density, curriculum, quantile, shift
from pochade.flow.weighting import Weighting, weight
from pochade.nn.four_direction_scan import Selection
from pochade.nn.keyed_random import keyed_normal, keyed_uniform
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.text_encoders.bag import BagEncoder
from pochade.text_encoders.class_label import ClassLabelEncoder
from pochade.training.data import ImageData
from pochade.training.overrides import read_options
from pochade.training.stage import PREVIOUS, AnyStage, Settings, Stage
from pochade.training.stages.components import Components
from pochade.training.stages.kind import (
    SYNTHETIC_CLASSES,
    Data,
    Inputs,
    Kind,
    Work,
    check_size,
    with_synthetic_pictures,
)
from pochade.training.stages.models import (
    ModelWork,
    build_denoiser,
    check_start,
    held_out_of,
    latents_of,
    latest_autoencoder,
    shown_of,
    text_of,
    with_start,
)
from pochade.training.task import Batch, Stream, Task
from pochade.types import Conditioning, DenoiserOutput, InputSpec

JOINT = "bag"
"""The text encoder that is trained along."""
SAMPLING_STEPS = 20
"""Of a model that is trained here, guided at times of ``MIDDLE``: of the ``nano`` of all families 8 to 50 gave figures
alike."""


@dataclass(frozen=True)
class FlowSettings(Settings):
    """Which denoiser, on which latents, conditioned by what, and the weights of its error.

    Raises PochadeError for a value outside its range.
    """

    stage_kind = "flow"
    can_shard = True

    family: str = "lrf"
    """iris, lira, lrf or microforge."""
    variant: str = "nano"
    """The size, a name of the family's ``VARIANTS``."""
    options: tuple[str, ...] = ()
    """Changes of the variant's arguments, such as recursions=3 or gradient=last, separated by commas."""
    autoencoder: str | None = None
    """Name of a model or a folder; None: the autoencoder of the stage before."""
    text_encoder: str | None = "minilm-l6-v2"
    """Identity of a frozen encoder, "bag" for a small one trained along, None for class labels."""
    density: Density = "logit_normal"
    """Of the times t at which the network is trained."""
    density_scale: float | None = None
    """Width of the density; None: as published."""
    time_shift: float = 1.0
    """s in t' = s t / (1 + (s - 1) t); above 1 for large pictures."""
    curriculum: float = 0.0
    """Share of the steps, in [0, 1], over which the training opens from the noisier half of the path to all of it."""
    weighting: Weighting = "constant"
    """Weight of the error by t, of mean 1 under the density."""
    cfg_dropout: float = 0.1
    """Probability that a sample loses its conditioning, for classifier-free guidance."""
    self_conditioning_prob: float = 0.9
    """Probability that a sample is given a state, where the denoiser has one (2212.11972)."""
    scan_rate: float = 1.0
    """Learning rate of the scans' own parameters (A, D and the bias of dt), over the stage's."""


def encoded_conditioning(batch: Batch) -> Conditioning:
    """The classes or the text vectors of a batch."""
    if "class_label" in batch:
        return Conditioning(class_label=batch["class_label"])
    tokens, mask = batch["tokens"], batch["mask"]
    if tokens.is_cuda:
        tokens, mask = lengthened(tokens, mask)
    return Conditioning(tokens, mask, batch["pooled"])


def lengthened(tokens: Tensor, mask: Tensor, multiple: int = 8) -> tuple[Tensor, Tensor]:
    """Text [B, M, D] and its mask [B, M] with padding, so that M + 1, with a network's own first token, is a multiple.

    Attention on GPUs wants masks of such a length.
    """
    missing = -(tokens.shape[1] + 1) % multiple
    return F.pad(tokens, (0, 0, 0, missing)), F.pad(mask, (0, missing))


@dataclass(frozen=True)
class FlowDraw:
    """The random numbers of a batch in flow matching."""

    eps: Tensor
    """[B, C, H, W] standard normal noise."""
    t: Tensor
    """[B] in [0, 1], after the density and the shift."""
    dropped: Tensor
    """[B] bool, the samples that lose their conditioning."""
    state_given: Tensor
    """[B] bool, the samples that are given a state, where the denoiser hands one on."""


def draw_flow(z_0: Tensor, keys: Tensor, settings: FlowSettings) -> FlowDraw:
    """The draws for latents [B, C, H, W], each sample's from its own key [B] int64: the same alone and in any batch."""
    keys = keys.to(z_0.device)
    u = keyed_uniform(keys, 1, Stream.TIME)[:, 0].to(z_0)
    return FlowDraw(
        eps=keyed_normal(keys, z_0.shape[1:], Stream.NOISE).to(z_0),
        t=shift(quantile(u, settings.density, scale=settings.density_scale), settings.time_shift),
        dropped=keyed_uniform(keys, 1, Stream.DROPPED)[:, 0] < settings.cfg_dropout,
        state_given=keyed_uniform(keys, 1, Stream.STATE_GIVEN)[:, 0] < settings.self_conditioning_prob,
    )


def keep_state(state: Tensor, given: Tensor) -> Tensor:
    """``state`` [B, ...] of the samples of ``given`` [B] bool, and zeros for the others."""
    return torch.where(given.view(-1, *[1] * (state.ndim - 1)), state, 0)


class FlowTask(Task):
    """One step of flow matching on {"latents" [B, C, H, W], "seed" [B]} with text, words or classes.

    loss = mean of w(t) |v - (eps - z_0)|^2 (2210.02747 eq. 23 on the straight path). Noise, time and the samples that
    lose their conditioning come from each sample's own key, its "seed". What a family leaves in ``aux`` under a name
    that begins with ``loss_`` is a further term, already weighted, a number for each sample ([B], or a scalar mean),
    and is added. All of ``aux`` is logged, each entry by its mean.

    A denoiser with a ``state_shape`` carries a state from one sampling step to the next, and learns from its own: a
    first pass without gradient on the same z_t supplies the state of some samples, the others start from zeros
    (latent self-conditioning, 2212.11972).

    Args:
        denoiser: of any family.
        settings: density, weighting, probabilities.
        text_encoder: trained along with the denoiser on "caption"; None where the batch holds vectors or classes.
    """

    def __init__(self, denoiser: Any, settings: FlowSettings, text_encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.spec: InputSpec = denoiser.input_spec()
        # A batch has text or classes, and no picture for what an editing model, which knows tasks, or an adapter reads
        # beside them. (LRF, which takes a source in any case, trains that path with zeros.)
        both = bool(self.spec.text_dim and self.spec.num_classes)
        self.has_unused = both or self.spec.task or bool(self.spec.control) or bool(self.spec.image_prompt_dim)
        parts = {"denoiser": denoiser} | ({} if text_encoder is None else {"text_encoder": text_encoder})
        self.parts = nn.ModuleDict(parts)
        self.settings = settings
        self.progress = 0.0

    def trainable(self) -> nn.Module:
        return self.parts

    def parameter_groups(self, weight_decay: float, learning_rate: float) -> list[dict[str, Any]]:
        """As usual, with the scans' own parameters in a group of ``scan_rate`` times the learning rate."""
        groups = super().parameter_groups(weight_decay, learning_rate)
        rate = self.settings.scan_rate
        if rate == 1:
            return groups
        scans = [m for m in self.parts.modules() if isinstance(m, Selection)]
        own = {id(p) for scan in scans for p in (scan.A_log, scan.D, scan.dt_bias)}
        split: list[dict[str, Any]] = []
        for group in groups:
            rest = [p for p in group["params"] if id(p) not in own]
            slow = [p for p in group["params"] if id(p) in own]
            split += [{**group, "params": rest}, {**group, "params": slow, "lr": rate * learning_rate}]
        return [group for group in split if group["params"]]

    def begin_step(self, progress: float) -> None:
        self.progress = progress

    def compilable(self) -> list[nn.Module]:
        return list(self.parts.values())

    def conditioning(self, batch: Batch) -> Conditioning:
        """The conditioning of a batch, before any is dropped."""
        if "caption" in batch:
            encoder: Any = self.parts["text_encoder"]
            ids, mask = encoder.tokenize(batch["caption"])
            device = batch["latents"].device
            text = encoder(ids.to(device), mask.to(device))
            return Conditioning(tokens=text.tokens, mask=text.mask, pooled=text.pooled)
        return encoded_conditioning(batch)

    def predict(self, batch: Batch, draw: FlowDraw) -> DenoiserOutput:
        """The denoiser's output at z_t, its conditioning dropped and its state given as drawn."""
        denoiser = self.parts["denoiser"]
        conditioning = self.conditioning(batch).drop("text", "class_label", rows=draw.dropped)
        inputs = interpolate(batch["latents"], draw.eps, draw.t), draw.t, conditioning
        if self.spec.state_shape is None:
            return denoiser(*inputs)
        with torch.no_grad():
            state: Tensor = denoiser(*inputs).state
        return denoiser(*inputs, state=keep_state(state, draw.state_given))

    def objective(self, batch: Batch, draw: FlowDraw, v: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a velocity [B, C, H, W], a mean over the samples, and its metrics."""
        settings = self.settings
        error = (v.float() - velocity(batch["latents"], draw.eps)).square().mean((1, 2, 3))
        weights = weight(
            draw.t, settings.weighting, settings.density, scale=settings.density_scale, time_shift=settings.time_shift
        )
        return (weights * error).mean(), {"per_sample": error.detach()}

    def validate(self, batch: Batch) -> Tensor:
        """The error of the velocity, without curriculum and further terms."""
        draw = draw_flow(batch["latents"], batch["seed"], self.settings)
        return self.objective(batch, draw, self.predict(batch, draw).velocity)[0]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.settings
        draw = draw_flow(batch["latents"], batch["seed"], settings)
        if settings.curriculum:
            draw = replace(draw, t=curriculum(draw.t, min(1.0, self.progress / settings.curriculum)))
        out = self.predict(batch, draw)
        loss, metrics = self.objective(batch, draw, out.velocity)
        extras = {name: value.float().mean() for name, value in out.aux.items()}
        loss = loss + sum(value for name, value in extras.items() if name.startswith("loss_"))
        logged = {name: value.detach() for name, value in extras.items()}
        return {**logged, **metrics, "loss": loss, "t": draw.t}


FlowStage = Stage[FlowSettings, ImageData]
FlowS = TypeVar("FlowS", bound=FlowSettings)


class FlowKind(Kind[FlowS, ImageData], Generic[FlowS]):
    """Training a denoiser on latents by flow matching."""

    produces = "denoiser"

    def check(self, stage: Stage[FlowS, ImageData], earlier: Sequence[AnyStage], components: Components) -> Data:
        dataset = stage.data.open(stage=stage.name)
        autoencoder = self.autoencoder(stage, earlier, components)
        encoder = self.check_text(stage, dataset, components)
        channels = int(autoencoder.config.latent_channels)
        shape = shape_for(stage, dataset, autoencoder, encoder)
        with torch.device("meta"):
            denoiser = self.network(stage, **shape)
        if denoiser.config.latent_channels != channels:
            given = denoiser.config.latent_channels
            raise PochadeError(
                f"task.options: latent_channels={given} given, the autoencoder's latents have {channels}"
            )
        given = options_of(stage.task).get("num_classes")
        if dataset.classes and given not in (None, len(dataset.classes)):
            there = len(dataset.classes)
            raise PochadeError(f"task.options: num_classes={given} given, but {stage.data.source} has {there} classes")
        before = None
        if stage.initialise_from == PREVIOUS:
            one: Any = earlier[-1]  # of this kind
            with torch.device("meta"):
                before = self.network(one, **shape)
        check_start(stage, denoiser, before, name="denoiser.")
        return {"data.source": dataset}

    def check_text(self, stage: Stage[FlowS, ImageData], dataset: Dataset, components: Components) -> Any:
        """The text encoder; of one that is trained along, one of its width.

        Raises PochadeError where text encoder and data do not go together, or there is no such encoder.
        """
        settings = stage.task
        if bool(dataset.classes) != (settings.text_encoder is None):
            known = ", ".join((*text_encoders.KNOWN, JOINT))
            holds, allowed = ("classes", "none") if dataset.classes else ("captions", known)
            raise PochadeError(
                f"task.text_encoder: {settings.text_encoder or 'none'} given, but {stage.data.source} holds {holds}: "
                f"allowed is {allowed}"
            )
        if settings.text_encoder is None:
            return ClassLabelEncoder(dataset.classes)
        if settings.text_encoder == JOINT:
            if dataset.windows is not None:
                raise PochadeError(
                    f"task.text_encoder: {JOINT} given with data.cache_limit, but its vocabulary is of all captions: "
                    f"allowed are {', '.join(text_encoders.KNOWN)}"
                )
            return BagEncoder(BagEncoder.train_tokenizer(["a picture"], 257))
        return components.text_encoder(settings.text_encoder, options_of(settings).get("text_dim"))

    def autoencoder(self, stage: Stage[FlowS, ImageData], earlier: Sequence[AnyStage], components: Components) -> Any:
        name = stage.task.autoencoder
        if name is None:
            found = latest_autoencoder(earlier, components)
        else:
            found = components.autoencoder(name, self.expected_channels(stage))
        check_size(stage.data.size, found.downsampling)
        return found

    def expected_channels(self, stage: Stage[FlowS, ImageData]) -> int:
        """The latent channels of the network, by its settings alone."""
        with torch.device("meta"):
            return int(self.network(stage).config.latent_channels)

    def network(self, stage: Stage[FlowS, ImageData], **changes: Any) -> Any:
        """The denoiser of the settings with random weights."""
        return build_denoiser(stage.task.family, stage.task.variant, stage.task.options, **changes)

    def build(self, stage: Stage[FlowS, ImageData], inputs: Inputs) -> Work:
        settings = stage.task
        name = inputs.model(settings.autoencoder, "autoencoder")
        autoencoder = inputs.components.autoencoder(name, self.expected_channels(stage))
        dataset = stage.data.open(stage=stage.name)
        pipeline = self.pipeline(stage, dataset, autoencoder, inputs)
        started = with_start(stage, pipeline.denoiser)  # a start that does not fit is found before the data are encoded
        frozen = None if settings.text_encoder in (None, JOINT) else text_of(pipeline)
        samples = latents_of(stage.data, dataset, pipeline, frozen, inputs)
        work = self.work(stage, started, pipeline, samples, dataset, inputs.components.folder(name), FlowTask)
        return replace(work, held_out=held_out_of(stage.data, pipeline, frozen, inputs))

    def pipeline(
        self, stage: Stage[FlowS, ImageData], dataset: Dataset, autoencoder: Any, inputs: Inputs, **defaults: Any
    ) -> TextToImagePipeline:
        """The whole model around a network with random weights, as the data want it."""
        settings = stage.task
        encoder: Any = None
        if settings.text_encoder is None:
            encoder = ClassLabelEncoder(dataset.classes)
        elif settings.text_encoder == JOINT:
            encoder = new_bag(dataset, stage.seed)
        else:
            encoder = inputs.components.text_encoder(settings.text_encoder, options_of(settings).get("text_dim"))
        changes = shape_for(stage, dataset, autoencoder, encoder)
        # The identity of one that is trained along is known at the end only.
        changes["text_encoder"] = None if settings.text_encoder == JOINT else encoder.identity
        torch.manual_seed(stage.seed)
        denoiser = self.network(stage, **changes)
        with naming("task.text_encoder", "text_encoder"), naming("task.autoencoder", "autoencoder"):
            return TextToImagePipeline(
                autoencoder,
                denoiser,
                text_encoder=encoder,
                default_steps=SAMPLING_STEPS,
                default_guidance_low=MIDDLE[0],
                default_guidance_high=MIDDLE[1],
                default_size=stage.data.size,
                **defaults,
            )

    def work(
        self,
        stage: Stage[FlowS, ImageData],
        started: AnyStage,
        pipeline: TextToImagePipeline,
        samples: Samples,
        dataset: Dataset,
        autoencoder: Path | None,
        task: type[FlowTask],
    ) -> Work:
        """The stage made ready around a task of that class; ``started`` is it with its start weights settled.

        ``autoencoder`` is the folder of the autoencoder, or of a model with it.
        """
        joint = pipeline.text_encoder if stage.task.text_encoder == JOINT else None
        return ModelWork(
            stage=started,
            task=task(pipeline.denoiser, stage.task, joint),
            samples=samples,
            data={"data.source": dataset},
            autoencoder=autoencoder,
            pipeline=pipeline,
            shown=shown_of(stage.data, dataset, pipeline),
        )

    def synthetic(
        self, stage: Stage[FlowS, ImageData], earlier: Sequence[AnyStage], components: Components
    ) -> Stage[FlowS, ImageData]:
        if stage.task.text_encoder is not None:
            return with_synthetic_pictures(stage)
        count = int(options_of(stage.task).get("num_classes", SYNTHETIC_CLASSES))
        return with_synthetic_pictures(stage, [f"class {i}" for i in range(count)])


def shape_for(stage: Stage[FlowS, ImageData], dataset: Dataset, autoencoder: Any, encoder: Any) -> dict[str, Any]:
    """What latents and conditioning make of a network's arguments."""
    shape: dict[str, Any] = {
        "latent_channels": int(autoencoder.config.latent_channels),
        "sample_size": stage.data.size // int(autoencoder.downsampling),
    }
    if stage.task.text_encoder is None:
        return {**shape, "num_classes": len(dataset.classes), "text_dim": 0, "pooled_dim": 0}
    return {**shape, "text_dim": encoder.dim, "pooled_dim": encoder.pooled_dim}


def options_of(settings: FlowSettings) -> dict[str, Any]:
    """The changes of the variant's arguments."""
    with naming("task.family", "family"), naming("task.options", "options"):
        return read_options(settings.options, denoisers.parameters(settings.family), settings.family)


def new_bag(dataset: Dataset, seed: int) -> BagEncoder:
    """A small text encoder with random weights, and a vocabulary of the captions of the data."""
    captions = (caption for index in range(len(dataset)) for caption in dataset.item(index).captions)
    torch.manual_seed(seed)
    return BagEncoder(BagEncoder.train_tokenizer(captions))
