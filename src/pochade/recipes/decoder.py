"""The recipe that distils a small decoder from any autoencoder."""

from pochade.recipes.stages import ImageData, decoder_stage
from pochade.training.stage import Stage
from pochade.training.stages.decoder import DecoderSettings


def tiny() -> list[Stage]:
    """A decoder of 0.24 M parameters (task.size=small: 1.2 M) for the latents of a model (set task.autoencoder)."""
    return [decoder_stage(ImageData("openmoji", 64), DecoderSettings(autoencoder="lrf-openmoji"))]
