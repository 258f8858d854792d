"""MicroForge's recipes: an f32 autoencoder, one network carried through growing pictures, few steps, editing."""

from dataclasses import replace

from pochade.recipes.stages import (
    ImageData,
    PairData,
    autoencoder_stage,
    consistency_stage,
    edit_stage,
    flow_stage,
    student_stage,
)
from pochade.training.stage import Stage
from pochade.training.stages.autoencoder import AutoencoderSettings
from pochade.training.stages.consistency import ConsistencySettings
from pochade.training.stages.distillation import TeacherSettings
from pochade.training.stages.edit import EditSettings
from pochade.training.stages.flow import FlowSettings

SCAN_RATE = 0.5
CLIP = 2.0


def openmoji() -> list[Stage]:
    """MicroForge nano on OpenMoji at 128 and 256 px, on an f32 autoencoder of its own; then few steps, and editing.

    The autoencoder learns at 128 and 256 px; then its decoder goes on alone, at last against an adversary, which
    leaves the latents as they are. The network that paints at 256 px is distilled to 4 steps, and apart from that
    taught to edit.
    """
    low, high = ImageData("openmoji", 128), ImageData("openmoji", 256)
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


def study() -> list[Stage]:
    """What the ablations share: an f32 autoencoder after its first stage, and a short run at 128 px on it."""
    vae_low, _, _, low, *_ = openmoji()
    flow = replace(low, name="flow", steps=1200, batch_size=16, warmup_steps=100)
    return [replace(vae_low, name="vae"), flow]


def curriculum() -> list[Stage]:
    """The published curriculum at full size, for a GPU and shards: base teaches small, which learns few steps, and
    apart from that to edit.

    ``data.source`` names a folder of shards, ``edit.data.pairs`` one of pairs. Steps, sizes, learning rates and
    clipping as published. No teacher is named there: it must speak of the same latents, so it is ``base``, trained
    here. The last two stages are promised there without figures.
    """
    source = "SET data.source=SHARDS"
    shape = AutoencoderSettings(kind="deep_compression", size="small", kl=1e-6, adversarial=0.1, adversarial_from=0.5)
    vae = autoencoder_stage(
        ImageData(source, 256),
        task=shape,
        name="vae",
        steps=50_000,
        batch_size=32,
        learning_rate=1e-4,
        precision="bf16",
        clip=CLIP,
    )
    task = FlowSettings("microforge", "base", options=("sample_size=16",), weighting="centre", scan_rate=SCAN_RATE)
    low = flow_stage(
        ImageData(source, 256),
        task,
        name="low",
        steps=100_000,
        batch_size=128,
        learning_rate=1e-4,
        warmup_steps=1000,
        precision="bf16",
        ema_decay=0.9999,
        clip=CLIP,
        save_every=1000,
    )
    high = replace(
        low,
        name="high",
        data=ImageData(source, 512),
        task=replace(task, time_shift=2.0),
        steps=50_000,
        batch_size=64,
        learning_rate=5e-5,
        initialise_from="previous",
    )
    student = student_stage(
        high.data,
        TeacherSettings(
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
        learning_rate=1e-4,
        precision="bf16",
        ema_decay=0.9999,
        clip=CLIP,
    )
    few = consistency_stage(
        high.data,
        ConsistencySettings(time_shift=2.0),
        name="few_steps",
        steps=20_000,
        batch_size=64,
        learning_rate=1e-5,
        precision="bf16",
        ema_decay=0.9999,
        clip=CLIP,
    )
    edit = edit_stage(
        PairData("SET edit.data.pairs=PAIRS", source, draws=1),
        EditSettings(time_shift=2.0, scan_rate=SCAN_RATE),
        steps=20_000,
        learning_rate=5e-5,
        precision="bf16",
        ema_decay=0.9999,
        clip=CLIP,
        save_every=1000,
    )
    return [vae, low, high, student, few, edit]
