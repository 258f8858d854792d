"""IRIS's recipes: five stages, from the autoencoder to few steps, each going on from the one before."""

from dataclasses import replace

from pochade.data.sources import OpenMojiSource
from pochade.data.sources.openmoji_groups import GROUPS
from pochade.recipes.stages import autoencoder_stage, consistency_stage, flow_stage
from pochade.training.data import ImageData
from pochade.training.stage import AnyStage
from pochade.training.stages.autoencoder import AutoencoderSettings
from pochade.training.stages.consistency import ConsistencySettings
from pochade.training.stages.flow import FlowSettings

MINILM = 384
"""Width of the text vectors, for which the network has a place while it still learns from classes."""
BEST = 0.3
"""Share of the pictures that the stage on chosen ones sees."""
DISTILLATION = 0.1
"""Weight with which the output at few iterations learns from that at many."""
CLIP_L = "clip:openai/clip-vit-large-patch14"
CLIP_L_WIDTH = 768
IMAGENET = 1000
"""Classes."""


def openmoji() -> list[AnyStage]:
    """IRIS nano on OpenMoji: wavelet autoencoder, groups as classes, text at 128 and 256 px, the best, few steps.

    One network throughout: it has inputs for classes and for text, and each stage gives it one of them. Between text
    at 128 and at 256 px its output at few iterations learns from that at many. The shipped checkpoint ends there, since
    256 px wants more steps than it was given.
    """
    low, high = ImageData(OpenMojiSource(), 128), ImageData(OpenMojiSource(), 256)
    shape = AutoencoderSettings(kind="wavelet", kl=1e-6, wavelet=1.0)
    vae_low = autoencoder_stage(low, task=shape, name="vae_low", steps=1700, save_every=250)
    vae_high = replace(
        vae_low,
        name="vae_high",
        data=high,
        steps=1300,
        learning_rate=1.2e-3,
        warmup_steps=100,
        initialise_from="previous",
    )
    text = FlowSettings("iris", "nano", options=("sample_size=16", f"num_classes={len(GROUPS)}"), time_shift=2.0)
    classes = flow_stage(
        ImageData(OpenMojiSource(groups=True), 128),
        replace(
            text,
            options=("sample_size=16", f"text_dim={MINILM}", f"pooled_dim={MINILM}"),
            text_encoder=None,
        ),
        name="classes",
        steps=300,
    )
    text_low = replace(classes, name="text_low", data=low, task=text, steps=3900, initialise_from="previous")
    distilled = replace(text, options=(*text.options, f"distillation={DISTILLATION}"))
    depths = replace(text_low, name="depths", task=distilled, steps=800, learning_rate=5e-4, warmup_steps=50)
    text_high = replace(
        text_low,
        name="text_high",
        data=high,
        task=replace(text, time_shift=3.0),
        steps=2600,
        batch_size=32,
        learning_rate=6e-4,
        warmup_steps=100,
    )
    best = replace(
        text_high, name="best", data=replace(high, best=BEST), steps=300, learning_rate=1e-4, warmup_steps=20
    )
    few = consistency_stage(
        high, ConsistencySettings(time_shift=3.0), name="few_steps", steps=300, learning_rate=1e-4, warmup_steps=20
    )
    return [vae_low, vae_high, classes, text_low, depths, text_high, best, few]


def study() -> list[AnyStage]:
    """What the ablation shares: an autoencoder after its first stage, and a short run on text at 128 px on it."""
    vae_low, _, _, text, *_ = openmoji()
    flow = replace(text, name="flow", steps=1200, batch_size=16, warmup_steps=100, initialise_from=None)
    return [replace(vae_low, name="vae"), flow]


def curriculum() -> list[AnyStage]:
    """The published five stages at full size, for a GPU and shards: IRIS base with CLIP-L from classes to few steps.

    ``data.source`` names captioned shards, ``classes.data.source`` shards with ImageNet's classes. Sizes, batches,
    learning rates, the classes' warm-up and the schedules that are named are the published ones (docs/published.md), as
    is the weight t / (1 - t), here bounded; of the last stage only the teacher is published. Steps are published as
    hours of a GPU; here they are passes over the published data: one of the autoencoder over 4.2 M pictures, 80 over
    ImageNet, two over 15 M captions, two over the 1 M best. ``data.best`` picks these by a computed score, which stands
    in for a stored one or a predictor (``data.score``); with pictures that were chosen by such a one set it to 1.

    One network throughout: it has inputs for classes and for text, and each stage gives it one of them.
    """
    vae = autoencoder_stage(
        ImageData(None, 256),
        task=AutoencoderSettings(kind="wavelet", size="base", kl=1e-6, wavelet=1.0),
        name="vae",
        steps=130_000,
        batch_size=32,
        learning_rate=1e-4,
        precision="bf16",
        clip=1.0,
        save_every=1000,
    )
    inputs = (f"num_classes={IMAGENET}", f"text_dim={CLIP_L_WIDTH}", f"pooled_dim={CLIP_L_WIDTH}")
    task = FlowSettings(
        "iris",
        "base",
        options=("sample_size=32", f"distillation={DISTILLATION}", *inputs),
        text_encoder=None,
        weighting="ratio",
    )
    classes = flow_stage(
        ImageData(None, 256),
        task,
        name="classes",
        steps=400_000,
        batch_size=256,
        learning_rate=1e-4,
        warmup_steps=5000,
        precision="bf16",
        ema_decay=0.9999,
        save_every=1000,
    )
    text_low = replace(
        classes,
        name="text_low",
        data=ImageData(None, 256),
        task=replace(task, text_encoder=CLIP_L),
        steps=160_000,
        batch_size=128,
        learning_rate=2e-5,
        schedule="constant",
        warmup_steps=1000,
        initialise_from="previous",
    )
    text_high = replace(
        text_low,
        name="text_high",
        data=ImageData(None, 512),
        task=replace(text_low.task, time_shift=2.0),
        steps=80_000,
    )
    best = replace(
        text_high,
        name="best",
        data=replace(text_high.data, best=BEST),
        steps=30_000,
        batch_size=64,
        learning_rate=5e-6,
    )
    few = consistency_stage(
        text_high.data,
        ConsistencySettings(time_shift=2.0),
        name="few_steps",
        steps=20_000,
        batch_size=64,
        learning_rate=1e-5,
        precision="bf16",
        ema_decay=0.9999,
        save_every=1000,
    )
    return [vae, classes, text_low, text_high, best, few]
