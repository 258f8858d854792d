"""MicroForge's recipes: an f32 autoencoder, one network carried through growing pictures, few steps, editing."""

from dataclasses import replace

from pochade.data.sources import OpenMojiSource
from pochade.recipes.stages import (
    autoencoder_stage,
    consistency_stage,
    distillation_stage,
    edit_stage,
    flow_stage,
)
from pochade.training.data import ImageData, PairData
from pochade.training.stage import AnyStage
from pochade.training.stages.autoencoder import AutoencoderSettings
from pochade.training.stages.consistency import ConsistencySettings
from pochade.training.stages.distillation import DistillationSettings
from pochade.training.stages.edit import EditSettings
from pochade.training.stages.flow import FlowSettings

SCAN_RATE = 0.5
CLIP = 2.0


def openmoji() -> list[AnyStage]:
    """MicroForge nano on OpenMoji at 128 and 256 px, on an f32 autoencoder of its own; then few steps, and editing.

    The autoencoder learns at 128 and 256 px; then its decoder goes on alone, at last against an adversary, which
    leaves the latents as they are. The network that samples at 256 px is distilled to 4 steps, and apart from that
    trained to edit.
    """
    low, high = ImageData(OpenMojiSource(), 128), ImageData(OpenMojiSource(), 256)
    shape = AutoencoderSettings(kind="deep_compression", changes=("latent_channels=32",), kl=1e-6)
    vae_low = autoencoder_stage(low, task=shape, name="vae_low", steps=1700, save_every=250)
    vae_high = replace(
        vae_low,
        name="vae_high",
        data=high,
        steps=2200,
        batch_size=2,
        learning_rate=1e-3,
        initialise_from="previous",
    )
    vae_sharp = replace(
        vae_high,
        name="vae_sharp",
        task=replace(shape, part="decoder", adversarial=0.02, adversarial_from=0.6),
        steps=1400,
        learning_rate=5e-4,
    )
    task = FlowSettings(
        "microforge", "nano", options=("sample_size=8",), weighting="centre", time_shift=2.0, scan_rate=SCAN_RATE
    )
    flow_low = flow_stage(low, task, name="low", steps=5000, clip=CLIP)
    flow_high = replace(
        flow_low,
        name="high",
        data=high,
        task=replace(task, time_shift=3.0),
        steps=1200,
        batch_size=32,
        learning_rate=6e-4,
        warmup_steps=100,
        initialise_from="previous",
    )
    few = consistency_stage(high, ConsistencySettings(time_shift=3.0), name="few_steps", steps=300, clip=CLIP)
    edit = edit_stage(
        PairData(), EditSettings(time_shift=3.0, scan_rate=SCAN_RATE), steps=2000, batch_size=32, clip=CLIP
    )
    return [vae_low, vae_high, vae_sharp, flow_low, flow_high, few, edit]


def study() -> list[AnyStage]:
    """What the ablations share: an f32 autoencoder after its first stage, and a short run at 128 px on it."""
    vae_low, _, _, low, *_ = openmoji()
    flow = replace(low, name="flow", steps=1200, batch_size=16, warmup_steps=100)
    return [replace(vae_low, name="vae"), flow]


def study_editing() -> AnyStage:
    """Editing, taught to the network of the ablations in a run of the same length."""
    *_, edit = openmoji()
    return replace(edit, steps=1200, batch_size=16, warmup_steps=100)


def curriculum() -> list[AnyStage]:
    """The published curriculum at full size, for a GPU and shards: small is distilled from base, then to few steps, and
    apart from that to edit.

    ``data.source`` names a folder of shards, ``data.pairs`` one of pairs. Steps, sizes, learning rates and clipping are
    the published ones (docs/published.md); where a stage goes from one size to the next, each has half of its steps.
    No teacher is named there: it must work on the same latents, so it is ``base``, trained here. Few steps are promised
    there without figures.
    """
    shape = AutoencoderSettings(kind="deep_compression", size="small", kl=1e-6, adversarial=0.1, adversarial_from=0.5)
    vae_128 = autoencoder_stage(
        ImageData(None, 128),
        task=replace(shape, adversarial_from=0.0, adversarial=0.0),
        name="vae_128",
        steps=25_000,
        batch_size=32,
        learning_rate=1e-4,
        precision="bf16",
        clip=CLIP,
    )
    vae_256 = replace(vae_128, name="vae_256", data=ImageData(None, 256), task=shape, initialise_from="previous")
    task = FlowSettings("microforge", "base", options=("sample_size=16",), weighting="centre", scan_rate=SCAN_RATE)
    low_128 = flow_stage(
        ImageData(None, 128),
        task,
        name="low_128",
        steps=50_000,
        batch_size=128,
        learning_rate=1e-4,
        warmup_steps=1000,
        precision="bf16",
        ema_decay=0.9999,
        clip=CLIP,
        save_every=1000,
    )
    low_256 = replace(low_128, name="low_256", data=ImageData(None, 256), initialise_from="previous")
    high_256 = replace(low_256, name="high_256", steps=25_000, batch_size=64, learning_rate=5e-5)
    high_512 = replace(high_256, name="high_512", data=ImageData(None, 512), task=replace(task, time_shift=2.0))
    student = distillation_stage(
        high_512.data,
        DistillationSettings(
            "microforge",
            "small",
            options=task.options,
            weighting="centre",
            time_shift=2.0,
            scan_rate=SCAN_RATE,
            guidance=1.0,
        ),
        steps=30_000,
        batch_size=64,
        learning_rate=2e-5,
        precision="bf16",
        ema_decay=0.9999,
        clip=CLIP,
    )
    few = consistency_stage(
        high_512.data,
        ConsistencySettings(time_shift=2.0),
        name="few_steps",
        steps=20_000,
        batch_size=64,
        learning_rate=1e-5,
        precision="bf16",
        ema_decay=0.9999,
        clip=CLIP,
    )
    edit_256 = edit_stage(
        PairData(None, None, draws=1, size=256),
        EditSettings(time_shift=2.0, scan_rate=SCAN_RATE),
        name="edit_256",
        steps=10_000,
        learning_rate=1e-5,
        precision="bf16",
        ema_decay=0.9999,
        clip=CLIP,
        save_every=1000,
    )
    edit_512 = replace(edit_256, name="edit_512", data=replace(edit_256.data, size=512))
    return [vae_128, vae_256, low_128, low_256, high_256, high_512, student, few, edit_256, edit_512]
