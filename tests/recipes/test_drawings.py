"""The recipe of the default model, at a small size, on small icon sets beside OpenMoji."""

from pathlib import Path

import pytest
import torch

from data.sources.iconify_sets import disc, write_packed
from pochade.data.prepare.pictures import prepare
from pochade.data.prepare.target import Target
from pochade.data.sources import DrawingsSource
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from pochade.recipes.drawings import PHASES
from pochade.training.overrides import override
from recipes.running import build_denoiser, train

TINY = (
    *("steps=2", "batch_size=4", "warmup_steps=1", "sample_every=0", "log_every=2", "save_every=2", "precision=fp32"),
    *("data.size=32", "vae.task.perceptual=0", "vae.task.size=nano", "flow.task.text_encoder=bag"),
    "flow.task.options=dim=16,heads=2,hidden=32,blocks=1,sample_size=2,latent_channels=16",
)


def test_the_recipe_trains_a_model_of_four_steps(tmp_path: Path) -> None:
    write_packed(tmp_path / "sets", "noto", {"fox": disc("f80"), "red-apple": disc("f00"), "guitar": disc("840")})
    source = DrawingsSource(tmp_path / "sets", ("openmoji", "noto"))
    prepare(source, Target(out=tmp_path / "data", size=32, limit=40), progress=False)
    model = train("drawings", [f"data.source={tmp_path / 'data'}", *TINY], tmp_path / "run")
    assert model == tmp_path / "run" / "3-few_steps" / "model"
    pipe = TextToImagePipeline.from_pretrained(model)
    assert (pipe.default_steps, pipe.default_guidance, pipe.default_size) == (PHASES, 1.0, 32)
    assert pipe.scheduler.config.shift == 2.0
    pipe.set_progress_bar_config(disable=True)
    seeds = [torch.Generator().manual_seed(i) for i in range(2)]
    assert len(pipe(["a fox, noto style", "a guitar"], generator=seeds).images) == 2


def test_the_networks_are_those_of_the_shipped_model() -> None:
    shipped = TextToImagePipeline.from_pretrained("open-drawings")
    vae, flow, _ = override(stages_of("drawings"), [])
    network = build_denoiser(flow.task, text_dim=384, pooled_dim=384)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in shipped.denoiser.state_dict().items()} == shapes
    assert isinstance(flow.data.source, DrawingsSource)
    assert vae.task.size == "small"
    assert list(shipped.autoencoder.config.widths) == [32, 64, 128, 256]


def test_a_distilled_model_is_no_teacher(tmp_path: Path) -> None:
    from pochade.errors import PochadeError

    with pytest.raises(PochadeError, match="was distilled to few steps"):
        train("distil", ["task.teacher=open-drawings", "data.size=256", *TINY[:7]], tmp_path)
