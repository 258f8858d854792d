"""IRIS's recipes: five stages, from the autoencoder to few steps, each going on from the one before."""

from dataclasses import replace

from pochade.data.openmoji_groups import GROUPS
from pochade.recipes.stages import ImageData, autoencoder_stage, consistency_stage, flow_stage
from pochade.training.stage import Stage
from pochade.training.tasks.autoencoder import AutoencoderSettings
from pochade.training.tasks.consistency import ConsistencySettings
from pochade.training.tasks.flow import FlowSettings

MINILM = 384
"""Width of the text vectors, for which the network has a place while it still learns from classes."""
BEST = 0.3
"""Share of the pictures that the stage on chosen ones sees."""
DISTILLATION = 0.1
"""Weight with which the output at few iterations learns from that at many."""


def openmoji() -> list[Stage]:
    """IRIS nano on OpenMoji: wavelet autoencoder, groups as classes, text at 128 and 256 px, the best, few steps.

    One network throughout: it has inputs for classes and for text, and each stage tells it one of them. Tried at toy
    size only.
    """
    low, high = ImageData("openmoji", 128), ImageData("openmoji", 256)
    shape = AutoencoderSettings(kind="wavelet", kl=1e-6, wavelet=1.0)
    vae_low = autoencoder_stage(low, task=shape, name="vae_low", steps=1700, save_every=250)
    vae_high = replace(
        vae_low, name="vae_high", data=high, steps=2200, batch_size=2, learning_rate=1e-3, initialise_from="previous"
    )
    both = ("sample_size=16", f"distillation={DISTILLATION}")
    classes = flow_stage(
        ImageData("openmoji:groups", 128),
        FlowSettings(
            "iris",
            "nano",
            options=(*both, f"text_dim={MINILM}", f"pooled_dim={MINILM}"),
            text_encoder=None,
            time_shift=2.0,
        ),
        name="classes",
        steps=600,
    )
    text_low = replace(
        classes,
        name="text_low",
        data=low,
        task=FlowSettings("iris", "nano", options=(*both, f"num_classes={len(GROUPS)}"), time_shift=2.0),
        steps=1500,
        initialise_from="previous",
    )
    text_high = replace(
        text_low,
        name="text_high",
        data=high,
        task=replace(text_low.task, time_shift=3.0),
        steps=1200,
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
    return [vae_low, vae_high, classes, text_low, text_high, best, few]
