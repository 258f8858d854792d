"""LRF's recipes: functions that return the stages of a run. A variant calls one and replaces fields."""

from dataclasses import replace
from pathlib import Path

from pochade.data.sources import CIFAR10Source, OpenMojiSource
from pochade.recipes.stages import (
    autoencoder_stage,
    consistency_stage,
    edit_stage,
    flow_stage,
)
from pochade.training.data import ImageData, PairData
from pochade.training.stage import AnyStage
from pochade.training.stages.autoencoder import AutoencoderSettings
from pochade.training.stages.consistency import ConsistencySettings
from pochade.training.stages.edit import EditSettings
from pochade.training.stages.flow import FlowSettings

TEXT_SHIFT = 2.0
"""More of the training at high noise, where the picture's content is decided and only the text can tell it."""


def openmoji() -> list[AnyStage]:
    """The shipped checkpoint, on OpenMoji at 64 px: an f8 autoencoder, its decoder alone, then the nano denoiser."""
    data = ImageData(OpenMojiSource(), 64)
    first = autoencoder_stage(data)
    decoder = replace(
        first,
        name="decoder",
        task=replace(first.task, part="decoder"),
        steps=8000,
        learning_rate=1e-3,
        initialise_from="previous",
    )
    return [first, decoder, flow_stage(data, FlowSettings("lrf", "nano", time_shift=TEXT_SHIFT))]


def folder() -> list[AnyStage]:
    """Your own captioned pictures (set data.source) on the shipped autoencoder, starting from the shipped denoiser."""
    task = FlowSettings("lrf", "nano", autoencoder="lrf-openmoji", time_shift=TEXT_SHIFT)
    return [
        flow_stage(
            ImageData(None, 64),
            task,
            steps=2000,
            learning_rate=5e-4,
            initialise_from="lrf-openmoji",
        )
    ]


def cifar10() -> list[AnyStage]:
    """CIFAR-10 as published: 10 classes, 30 epochs of batch 128; on an f8 autoencoder of its own, or on TAESD.

    Published are the latents of TAESD, which ``autoencoder.task.ready=madebyollin/taesd`` takes in place of the first
    stage. An autoencoder of the same shape that is trained on the pictures themselves needs no download.
    """
    data = ImageData(CIFAR10Source(Path("cifar-10-python.tar.gz")), 32, held_out=False)
    first = autoencoder_stage(data, task=AutoencoderSettings(latent_channels=4), steps=4000, batch_size=16)
    task = FlowSettings("lrf", "cifar", text_encoder=None, weighting="min_snr", density="uniform")
    return [first, flow_stage(data, task, steps=30 * 50_000 // 128, batch_size=128, warmup_steps=500)]


def curriculum() -> list[AnyStage]:
    """The published curriculum at full size, for a GPU and shards: up to few steps, and editing beside them.

    ``data.source`` names a folder of shards, ``data.pairs`` one of pairs. Steps, sizes and learning rates are the
    published ones (docs/published.md). ``autoencoder.task.ready=NAME`` is the published shortcut: a ready autoencoder,
    such as madebyollin/taesd, in place of the first stage. The editing starts from the network before its distillation,
    which samples in many steps.
    """
    low = flow_stage(
        ImageData(None, 64),
        FlowSettings("lrf", "small", options=("sample_size=64", "mixer=linear")),
        name="flow_low",
        steps=100_000,
        batch_size=128,
        learning_rate=1e-4,
        precision="bf16",
        ema_decay=0.9999,
    )
    middle = replace(
        low,
        name="flow_middle",
        data=ImageData(None, 256),
        steps=200_000,
        learning_rate=5e-5,
        initialise_from="previous",
    )
    high = replace(
        middle, name="flow_high", data=ImageData(None, 512), steps=100_000, learning_rate=2e-5, batch_size=64
    )
    distilled = consistency_stage(
        high.data, ConsistencySettings(), steps=50_000, learning_rate=1e-5, precision="bf16", ema_decay=0.9999
    )
    first = autoencoder_stage(ImageData(None, 256), steps=50_000, learning_rate=1e-4, precision="bf16", batch_size=32)
    editing = edit_stage(
        PairData(None, None, draws=1, size=512),
        EditSettings(),
        steps=50_000,
        learning_rate=1e-5,
        precision="bf16",
        ema_decay=0.9999,
        save_every=1000,
    )
    return [first, low, middle, high, distilled, editing]
