"""LiRA's recipes: one network carried through growing pictures."""

from dataclasses import replace

from pochade.data.sources import OpenMojiSource
from pochade.recipes.stages import flow_stage
from pochade.training.data import ImageData
from pochade.training.stage import AnyStage
from pochade.training.stages.flow import FlowSettings

DC_AE = "mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers"


def openmoji() -> list[AnyStage]:
    """LiRA nano on OpenMoji with the shipped f8 autoencoder, at 64, 128 and 256 px one after the other."""
    task = FlowSettings(
        "lira",
        "nano",
        options=("sample_size=16", "ponder_weight=0.001"),
        autoencoder="lrf-openmoji",
        density="laplace",
        time_shift=2.0,
        curriculum=0.2,
    )
    low = flow_stage(ImageData(OpenMojiSource(), 64), task, name="low", steps=2400)
    middle = replace(
        low,
        name="middle",
        data=ImageData(OpenMojiSource(), 128),
        task=replace(task, time_shift=3.0, curriculum=0.0),
        steps=1200,
        batch_size=32,
        learning_rate=6e-4,
        warmup_steps=100,
        initialise_from="previous",
    )
    high = replace(
        middle,
        name="high",
        data=ImageData(OpenMojiSource(), 256),
        task=replace(middle.task, time_shift=4.0),
        steps=800,
        batch_size=16,
        learning_rate=3e-4,
    )
    return [low, middle, high]


def curriculum() -> list[AnyStage]:
    """The published curriculum at full size, for a GPU and shards: LiRA small on DC-AE at 256, 512 and 1024 px.

    ``data.source`` names a folder of shards. Sizes, steps, warm-up, clipping and averaging are the published ones
    (docs/published.md); a learning rate is not published, and taken from networks of this size.
    """
    task = FlowSettings(
        "lira", "small", options=("sample_size=32",), autoencoder=DC_AE, density="laplace", curriculum=0.2
    )
    low = flow_stage(
        ImageData(None, 256),
        task,
        name="low",
        steps=50_000,
        batch_size=256,
        learning_rate=2e-4,
        warmup_steps=1000,
        precision="bf16",
        ema_decay=0.9999,
        save_every=1000,
    )
    middle = replace(
        low,
        name="middle",
        data=ImageData(None, 512),
        task=replace(task, time_shift=2.0, curriculum=0.0),
        steps=30_000,
        batch_size=128,
        learning_rate=1e-4,
        initialise_from="previous",
    )
    high = replace(
        middle,
        name="high",
        data=ImageData(None, 1024),
        task=replace(middle.task, time_shift=4.0),
        steps=20_000,
        batch_size=64,
        learning_rate=5e-5,
    )
    return [low, middle, high]
