"""The small text encoder, trained from random weights along with denoisers of other families than LRF."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.text_encoders.bag import BagEncoder
from recipes.running import train

FAST = ("steps=4", "batch_size=4", "warmup_steps=1", "sample_every=0", "log_every=4", "save_every=4")
OPTIONS = {
    "microforge": "dim=16,heads=2,blocks=2,attention_every=2,inner=24,state_size=2,modulation_groups=4,"
    "plan_tokens=2,plan_layers=1,plan_hidden=16",
    "lira": "dim=16,heads=2,blocks=2,hidden=24,state_size=2,fusion_every=2,reasoning_steps=2,reasoning_width=8,"
    "patch_size=1",
    "iris": "dim=24,heads=2,hidden=24,patch_size=1",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i, colour in enumerate(("red", "green", "blue", "yellow")):
        for shape in ("apple", "house", "boat", "star"):
            Image.fromarray(rng.integers(0, 64 * i + 1, (32, 32, 3), np.uint8)).save(path / f"{colour}-{shape}.png")
            (path / f"{colour}-{shape}.txt").write_text(f"a {colour} {shape}")
    return path


def encoder_after(family: str, pictures: Path, folder: Path, *changes: str) -> tuple[TextToImagePipeline, BagEncoder]:
    """The model of a few steps on those pictures, and its text encoder."""
    torch.manual_seed(0)
    autoencoder = TinyAutoencoder(4, width=8, encoder_blocks=(0, 0, 1, 0), decoder_blocks=(0, 1, 0, 0))
    autoencoder.save_pretrained(folder / "autoencoder")
    data = (
        f"data.source={pictures}",
        "data.size=32",
        "initialise_from=none",
        f"task.autoencoder={folder / 'autoencoder'}",
    )
    network = (f"task.family={family}", f"task.options={OPTIONS[family]}", "task.text_encoder=bag")
    model = train("lrf-folder", [*data, *network, *FAST, *changes], folder / "run")
    pipeline = TextToImagePipeline.from_pretrained(model)
    assert isinstance(pipeline.text_encoder, BagEncoder)
    return pipeline, pipeline.text_encoder


@pytest.mark.parametrize("family", OPTIONS)
def test_any_family_trains_a_text_encoder_along(family: str, pictures: Path, tmp_path: Path) -> None:
    pipeline, encoder = encoder_after(family, pictures, tmp_path / "trained")
    assert pipeline.denoiser.config.text_encoder == encoder.identity
    _, still = encoder_after(family, pictures, tmp_path / "still", "learning_rate=1e-30", "weight_decay=0")
    start = still.state_dict()
    assert all((value - start[name]).abs().max() > 1e-6 for name, value in encoder.state_dict().items())
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red apple", num_inference_steps=1, output_type="np").images[0]
    assert image.shape == (32, 32, 3)
