"""The shipped default model: drawings in several styles at 256 px, from the autoencoder to four steps."""

from dataclasses import replace

from pochade.data.sources import DrawingsSource
from pochade.recipes.lrf import TEXT_SHIFT
from pochade.recipes.stages import autoencoder_stage, consistency_stage, flow_stage
from pochade.training.data import ImageData
from pochade.training.stage import AnyStage
from pochade.training.stages.autoencoder import AutoencoderSettings
from pochade.training.stages.consistency import ConsistencySettings
from pochade.training.stages.flow import FlowSettings

COPIES = 2
"""Smaller, shifted copies of each drawing for the denoiser."""
PHASES = 4
"""Steps of the distilled model."""


def drawings() -> list[AnyStage]:
    """Drawings in several styles at 256 px, for a GPU: an f16 autoencoder, LRF tiny (20 M), four steps."""
    data = ImageData(DrawingsSource(), 256)
    vae = autoencoder_stage(
        data,
        task=AutoencoderSettings(kind="wavelet", size="small", latent_noise=0.1),
        name="vae",
        steps=3000,
        batch_size=64,
        precision="bf16",
    )
    shifted = replace(data, shifts=COPIES)
    flow = flow_stage(
        shifted,
        FlowSettings("lrf", "tiny", time_shift=TEXT_SHIFT),
        steps=8000,
        batch_size=512,
        precision="bf16",
        ema_decay=0.9995,
    )
    few = consistency_stage(
        data,
        ConsistencySettings(phases=PHASES, last_intervals=2 * PHASES, time_shift=TEXT_SHIFT),
        name="few_steps",
        steps=500,
        batch_size=256,
        learning_rate=1e-4,
        warmup_steps=20,
        precision="bf16",
        ema_decay=0.99,
    )
    return [vae, flow, few]
