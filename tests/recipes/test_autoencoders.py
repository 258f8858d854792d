"""Every kind of autoencoder in a recipe, published ones, and a decoder that is distilled."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

from contracts.families import DIFFUSERS
from pochade.autoencoders.deep_compression import DeepCompressionVAE
from pochade.autoencoders.pretrained import PretrainedAutoencoder
from pochade.autoencoders.tiny_decoder import TinyVAEDecoder
from pochade.autoencoders.wavelet import WaveletVAE
from pochade.data.cache.latents import CachedLatents
from pochade.data.sources import FolderSource, SyntheticSource
from pochade.errors import PochadeError
from pochade.pipelines.autoencoders import load_autoencoder
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from pochade.recipes.stages import autoencoder_stage, decoder_stage, flow_stage
from pochade.training.data import ImageData
from pochade.training.executor import run
from pochade.training.overrides import override
from pochade.training.stage import differences
from pochade.training.stages.autoencoder import AutoencoderSettings, build_autoencoder, with_model
from pochade.training.stages.components import Components
from pochade.training.stages.decoder import DecoderSettings
from pochade.training.stages.flow import FlowSettings
from recipes.running import train

FAST = ("steps=2", "batch_size=4", "warmup_steps=1", "sample_every=0", "log_every=2", "save_every=2")
FLOW = FlowSettings(options=("dim=16", "heads=2", "hidden=24", "blocks=1", "patch_size=1"), text_encoder="bag")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"picture number {i}")
    return path


def sample(folder: Path) -> Any:
    pipe = TextToImagePipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe("picture", num_inference_steps=1, generator=generator, output_type="np").images


# --- the start is the autoencoder of a model


def test_an_autoencoder_starts_from_that_of_a_model() -> None:
    stage = autoencoder_stage(ImageData(SyntheticSource(4), 32), initialise_from="lrf-openmoji")
    network = build_autoencoder(stage.task)
    assert with_model(stage, network, Components()).initialise_from is None
    weights = load_autoencoder("lrf-openmoji").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    with pytest.raises(PochadeError, match="initialise_from: the autoencoder of 'iris-nano': its tensors do not fit"):
        with_model(replace(stage, initialise_from="iris-nano"), network, Components())


# --- every kind is trained, and a denoiser behind it


@pytest.mark.parametrize(
    ("kind", "cls", "f", "kl"), [("wavelet", WaveletVAE, 16, 1e-6), ("deep_compression", DeepCompressionVAE, 32, 0.0)]
)
def test_each_kind_from_end_to_end(kind: Any, cls: Any, f: int, kl: float, pictures: Path, tmp_path: Path) -> None:
    data = ImageData(FolderSource(pictures), 64)
    first = autoencoder_stage(data, task=AutoencoderSettings(kind=kind, kl=kl, perceptual=0))
    stages = override([first, flow_stage(data, FLOW)], FAST)
    model = run(stages, tmp_path / "run")
    trained = load_autoencoder(str(tmp_path / "run" / "1-autoencoder" / "model"))
    assert type(trained) is cls
    assert trained.config.variational == bool(kl)
    assert not trained.training
    inside = load_autoencoder(str(model))
    assert type(inside) is cls
    assert inside.config.latents_std == trained.config.latents_std
    caches = [CachedLatents(path) for path in (tmp_path / "run" / "cache").glob("latents-*")]
    assert sorted(cache.pictures for cache in caches) == [1, 23]  # held out, and trained on
    assert {cache.latent_shape for cache in caches} == {(16, 64 // f, 64 // f)}
    assert sample(model).shape == (1, 64, 64, 3)
    assert run(stages, tmp_path / "run", resume=True) == model


def test_a_size_and_changes_of_it(pictures: Path, tmp_path: Path) -> None:
    task = AutoencoderSettings(kind="deep_compression", changes=("downsampling=16", "latent_channels=8"), perceptual=0)
    [stage] = override([autoencoder_stage(ImageData(FolderSource(pictures), 32), task=task)], FAST)
    trained = load_autoencoder(str(run([stage], tmp_path / "run")))
    assert (trained.downsampling, trained.config.latent_channels) == (16, 8)


def test_a_run_from_before_there_were_kinds_goes_on() -> None:
    now = autoencoder_stage(ImageData()).settings()
    before = json.loads(json.dumps(now))
    for name in ("kind", "size", "changes"):
        del before["task"][name]
    assert differences(before, json.loads(json.dumps(now))) == {}
    other = autoencoder_stage(ImageData(), task=AutoencoderSettings(kind="wavelet")).settings()
    assert differences(before, other) == {"task.kind": (None, "wavelet")}


def test_what_cannot_be_trained_is_said_before_any_work(pictures: Path, tmp_path: Path) -> None:
    data, out = ImageData(FolderSource(pictures), 64), tmp_path / "run"
    for match, settings, size in (
        (
            "task.size: 'bse' given, wavelet comes as nano, small, base .did you mean 'base'",
            {"kind": "wavelet", "size": "bse"},
            64,
        ),
        ("task.size: 'base' given, allowed with a kind alone", {"size": "base"}, 64),
        ("task.width: given, but the shape of a wavelet autoencoder is its size", {"kind": "wavelet", "width": 8}, 64),
        ("task.changes: 'widht=8' given, wavelet takes", {"kind": "wavelet", "changes": ("widht=8",)}, 64),
        ("downsampling: 12 given", {"kind": "wavelet", "changes": ("downsampling=12",)}, 64),
        (
            "downsampling: 'wide' given, must be a whole number",
            {"kind": "wavelet", "changes": ("downsampling=wide",)},
            64,
        ),
        ("data.size: 48 given, allowed are multiples of 32", {"kind": "deep_compression"}, 48),
    ):
        stage = autoencoder_stage(ImageData(FolderSource(pictures), size), task=AutoencoderSettings(**settings))
        with pytest.raises(PochadeError, match=match):
            run([stage], out)
    first = autoencoder_stage(data, task=AutoencoderSettings(kind="deep_compression"))
    with pytest.raises(PochadeError, match=r"sample_size: .*2"):  # patches of 3 on two cells
        run([first, flow_stage(data, FlowSettings(options=("patch_size=3",), text_encoder="bag"))], out)
    assert not out.exists()


@pytest.mark.usefixtures("silent_hub")
def test_a_ready_one_out_of_reach_names_the_other_way(pictures: Path, tmp_path: Path) -> None:
    stage = autoencoder_stage(
        ImageData(FolderSource(pictures), 64), task=AutoencoderSettings(ready="madebyollin/taesd")
    )
    message = (
        "^task.ready: 'madebyollin/taesd' is neither a folder .* cannot be reached; task.ready=none trains one here$"
    )
    with pytest.raises(PochadeError, match=message):
        run([stage], tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- published ones


@pytest.fixture(scope="module", params=DIFFUSERS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny AutoencoderDC, or a tiny AutoencoderKL, as diffusers saves it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("published") / request.param
    cls: Any = {"dc": AutoencoderDC, "kl": AutoencoderKL}[request.param]
    cls(**DIFFUSERS[request.param], scaling_factor=0.5).save_pretrained(folder)
    return folder


def test_a_denoiser_on_a_published_autoencoder(published: Path, pictures: Path, tmp_path: Path) -> None:
    settings = FlowSettings(options=FLOW.options, text_encoder="bag", autoencoder=str(published))
    model = run(override([flow_stage(ImageData(FolderSource(pictures), 64), settings)], FAST), tmp_path / "run")
    index = json.loads((model / "model_index.json").read_text())
    assert index["autoencoder"] == ["pochade.autoencoders.pretrained", "PretrainedAutoencoder"]
    inside, direct = load_autoencoder(str(model)), load_autoencoder(str(published))
    assert isinstance(inside, PretrainedAutoencoder)
    for name, value in direct.state_dict().items():
        assert torch.equal(value.half().float(), inside.state_dict()[name]), name
    assert sample(model).shape == (1, 64, 64, 3)


def test_folders_that_hold_no_autoencoder(tmp_path: Path) -> None:
    TinyVAEDecoder(4, (4,), (0,)).save_pretrained(tmp_path / "decoder")
    with pytest.raises(PochadeError, match="holds a decoder alone, which cannot encode"):
        load_autoencoder(str(tmp_path / "decoder"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(PochadeError, match="holds a VQModel, allowed is an AutoencoderTiny or an AutoencoderDC or"):
        load_autoencoder(str(tmp_path / "other"))
    for text in ("{", "[]"):
        (tmp_path / "other" / "config.json").write_text(text)
        with pytest.raises(PochadeError, match=r"config\.json: "):
            load_autoencoder(str(tmp_path / "other"))


# --- a small decoder


@pytest.fixture(scope="module")
def distilled(pictures: Path, toy_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "decoder"
    changes = [f"data.source={pictures}", "data.size=32", f"task.autoencoder={toy_pipeline_folder}", *FAST]
    changes += ["task.adversarial_from=0.5", "sample_every=2"]
    model = train("tiny-decoder", changes, out)
    assert model == out / "1-decoder" / "model"
    before = (model / "config.json").stat().st_mtime_ns
    assert train("tiny-decoder", changes, out, resume=True) == model
    assert (model / "config.json").stat().st_mtime_ns == before
    return model


def test_a_decoder_is_distilled_from_a_model(distilled: Path, toy_pipeline_folder: Path) -> None:
    decoder: Any = TinyVAEDecoder.from_pretrained(distilled)
    assert (decoder.downsampling, decoder.config.latent_channels) == (8, 4)
    assert (distilled.parent / "samples" / "step-000002.png").is_file()
    # The averaged weights of the decoder alone, without teacher and adversary.
    final = load_file(distilled.parent / "final" / "model.safetensors")
    saved = load_file(distilled / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, final[f"decoder.{name}"]) for name, value in saved.items())
    assert {name.split(".")[0] for name in final} == {"decoder", "discriminator"}


def test_a_decoder_after_the_autoencoder_of_the_same_recipe(pictures: Path, tmp_path: Path) -> None:
    data = ImageData(FolderSource(pictures), 32)
    first = autoencoder_stage(data, task=AutoencoderSettings(kind="wavelet", perceptual=0))
    second = decoder_stage(data, DecoderSettings(perceptual=0, adversarial=0))
    task = DecoderSettings(perceptual=0, adversarial_from=0.5)
    third = decoder_stage(data, task, name="further", initialise_from="previous")
    model = run(override([first, second, third], [*FAST, "further.learning_rate=1e-12"]), tmp_path / "run")
    decoder: Any = TinyVAEDecoder.from_pretrained(model)
    assert (decoder.downsampling, decoder.config.latent_channels) == (16, 16)
    before = load_file(tmp_path / "run" / "2-decoder" / "model" / "diffusion_pytorch_model.safetensors")
    after = load_file(model / "diffusion_pytorch_model.safetensors")
    assert all(torch.allclose(before[name], value, atol=1e-9) for name, value in after.items())


def test_decoders_that_cannot_be_distilled(pictures: Path, toy_pipeline_folder: Path, tmp_path: Path) -> None:
    data = [f"data.source={pictures}", "data.size=32"]
    for match, change in (
        ("task.autoencoder: none given, and no stage before trains one", "task.autoencoder=none"),
        ("'lrf-openmojo' is no folder and no hub name", "task.autoencoder=lrf-openmojo"),
        ("task.size: 'large' given, must be tiny or small", "task.size=large"),
        ("initialise_from: 'previous' given for decoder", "initialise_from=previous"),
        ("initialise_from: lrf-openmoji is neither a safetensors file nor a folder", "initialise_from=lrf-openmoji"),
        ("its tensors do not fit the network: missing: ", f"initialise_from={toy_pipeline_folder / 'denoiser'}"),
    ):
        with pytest.raises(PochadeError, match=match):
            train("tiny-decoder", [*data, f"task.autoencoder={toy_pipeline_folder}", change], tmp_path / "run")
    assert not (tmp_path / "run").exists()
    [stage] = stages_of("tiny-decoder")
    assert stage.task == DecoderSettings(autoencoder="lrf-openmoji")
