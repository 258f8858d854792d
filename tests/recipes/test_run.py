"""Recipes from end to end at toy size: a folder of pictures, CIFAR-10's format, and all that cannot work."""

import io
import json
import pickle
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.data.cache.latents import CachedLatents
from pochade.data.sources import FolderSource
from pochade.errors import PochadeError
from pochade.images.decode import to_tensor
from pochade.pipelines.autoencoders import load_autoencoder
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import RECIPES, stages_of
from pochade.recipes.stages import autoencoder_stage
from pochade.training.data import ImageData
from pochade.training.executor import run
from pochade.training.overrides import override
from pochade.training.stage import Stage
from pochade.training.stages.autoencoder import AutoencoderSettings
from pochade.training.stages.flow import FlowSettings
from recipes.running import train

COLOURS = ("red", "green", "blue", "yellow", "black", "grey", "pink", "brown", "orange", "purple")
SHAPES = ("apple", "house", "boat", "star")
FAST = ("steps=2", "batch_size=4", "warmup_steps=1", "sample_every=0", "log_every=1", "save_every=2")
TINY_AUTOENCODER = (
    "task.latent_channels=4",
    "task.width=8",
    "task.encoder_blocks=0,0,1,0",
    "task.decoder_blocks=0,1,0,0",
    "task.perceptual=0",
)
OPTIONS = "task.options=dim=16,heads=2,hidden=24,blocks=1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of 32 x 32 with captions, of which a few are held out."""
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i, colour in enumerate(COLOURS):
        for j, shape in enumerate(SHAPES):
            pixels = np.full((32, 32, 3), 25 * i, np.uint8)
            pixels[8 : 12 + 4 * j, 8:24] = rng.integers(0, 256, 3)
            Image.fromarray(pixels).save(path / f"{colour}-{shape}.png")
            (path / f"{colour}-{shape}.txt").write_text(f"a {colour} {shape}\n{shape}, {colour}\n")
    return path


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole recipe ``lrf``, with a text encoder that is trained along; the run's folder."""
    out = tmp_path_factory.mktemp("runs") / "lrf"
    overrides = [
        f"data.source={folder}",
        "data.size=32",
        *FAST,
        *TINY_AUTOENCODER,
        OPTIONS,
        "flow.task.text_encoder=bag",
    ]
    model = train("lrf", [*overrides, "autoencoder.sample_every=2"], out)
    assert model == out / "3-flow" / "model"
    return out


def sample(pipeline: Any, prompt: str, seed: int = 0) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    return pipeline(prompt, num_inference_steps=2, generator=generator, output_type="np").images[0]


def stamps(path: Path) -> dict[str, int]:
    return {str(p.relative_to(path)): p.stat().st_mtime_ns for p in sorted(path.rglob("*")) if p.is_file()}


# --- the recipe of the shipped checkpoint, on a folder


def test_every_stage_leaves_its_model(trained: Path):
    assert sorted(p.name for p in trained.iterdir()) == ["1-autoencoder", "2-decoder", "3-flow", "cache"]
    for name in ("1-autoencoder", "2-decoder"):
        assert (trained / name / "model" / "config.json").is_file()
        assert (trained / name / "final" / "model.safetensors").is_file()
    assert (trained / "1-autoencoder" / "samples" / "step-000002.png").is_file()
    kinds = Counter(p.name.partition("-")[0] for p in (trained / "cache").iterdir())
    assert kinds == {"captions": 2, "images": 2, "latents": 2}  # of what is trained on, and of what is held out
    assert not [p for p in trained.rglob("*") if ".tmp" in p.name or p.name.startswith(".model")]


def test_latents_are_normalised_over_the_training_pictures(trained: Path, folder: Path):
    cache = CachedLatents(next((trained / "cache").glob("latents-*")))
    cached = cache.of_pictures(torch.arange(cache.pictures), torch.arange(cache.pictures))["latents"]
    assert 20 < len(cached) < 40
    torch.testing.assert_close(cached.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(cached.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    autoencoder = load_autoencoder(str(trained / "2-decoder" / "model"))
    pictures = torch.stack([to_tensor(Image.open(path)) for path in sorted(folder.glob("*.png"))])
    with torch.no_grad():
        gaps = (autoencoder.encode(pictures)[:, None] - cached).abs().amax((2, 3, 4))
    assert int((gaps.amin(1) < 1e-5).sum()) == len(cached)  # those that are not held out
    assert gaps.amin(0).max() < 1e-5


def test_the_second_stage_changes_the_decoder_alone(trained: Path):
    before, after = (
        load_file(trained / name / "model" / "diffusion_pytorch_model.safetensors")
        for name in ("1-autoencoder", "2-decoder")
    )
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}
    configs = [json.loads((trained / n / "model" / "config.json").read_text()) for n in ("1-autoencoder", "2-decoder")]
    assert configs[0]["latents_mean"] == pytest.approx(configs[1]["latents_mean"])


def test_the_model_loads_and_paints(trained: Path):
    pipeline = TextToImagePipeline.from_pretrained(trained / "3-flow" / "model")
    picture = sample(pipeline, "a red apple")
    assert picture.shape == (32, 32, 3)
    assert np.isfinite(picture).all()
    assert pipeline.denoiser.config.sample_size == 4
    assert pipeline.denoiser.config.latent_channels == 4


def test_a_text_encoder_that_was_trained_along_goes_with_the_model(trained: Path, tmp_path: Path):
    model = trained / "3-flow" / "model"
    pipeline = TextToImagePipeline.from_pretrained(model)
    encoder = pipeline.text_encoder
    assert encoder.identity == pipeline.denoiser.config.text_encoder
    assert encoder.count_tokens("a red apple") == 3  # its vocabulary was learned from the captions
    # The averaged weights of the run, at full precision, or the identity would not be theirs.
    averaged = load_file(trained / "3-flow" / "final" / "model.safetensors")
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, averaged[f"text_encoder.{name}"])
    for name, value in pipeline.denoiser.state_dict().items():
        assert torch.equal(value, averaged[f"denoiser.{name}"].half().float())
    pipeline.save_pretrained(tmp_path / "copy")
    again = TextToImagePipeline.from_pretrained(tmp_path / "copy")
    assert np.array_equal(sample(again, "a red apple"), sample(pipeline, "a red apple"))


def test_resume_passes_over_finished_stages(trained: Path, folder: Path):
    before = stamps(trained)
    overrides = [
        f"data.source={folder}",
        "data.size=32",
        *FAST,
        *TINY_AUTOENCODER,
        OPTIONS,
        "flow.task.text_encoder=bag",
    ]
    assert train("lrf", overrides, trained, resume=True) == trained / "3-flow" / "model"
    assert stamps(trained) == before
    with pytest.raises(PochadeError, match=r"resume: .*3-flow was trained with other settings: seed 0 \(now 1\)"):
        train("lrf", [*overrides, "flow.seed=1"], trained, resume=True)
    with pytest.raises(PochadeError, match=r"steps: 999 given for decoder, .* after 2, and flow has begun"):
        train("lrf", [*overrides, "decoder.steps=999"], trained, resume=True)
    assert stamps(trained) == before


def test_without_resume_a_run_is_not_overwritten(trained: Path, folder: Path):
    before = stamps(trained)
    with pytest.raises(PochadeError, match=r"1-autoencoder already holds a run; continue it with --resume"):
        train("lrf", [f"data.source={folder}", "data.size=32", *FAST, *TINY_AUTOENCODER, OPTIONS], trained)
    assert stamps(trained) == before


def test_a_run_does_not_lie_in_its_data(folder: Path):
    """Its sample sheets would be pictures to train on."""
    out = folder / "run"
    with pytest.raises(PochadeError, match=r"^out: .*run lies in the data, .* allowed is a folder outside of it$"):
        train("lrf", [f"data.source={folder}", "data.size=32", *FAST, *TINY_AUTOENCODER, OPTIONS], out)
    assert not out.exists()


# --- captions by a frozen encoder; starting from another model


@pytest.fixture(scope="module")
def from_folder(trained: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("runs") / "folder"
    overrides = [
        *(f"data.source={folder}", "data.size=32", *FAST, OPTIONS, "initialise_from=none"),
        f"task.autoencoder={trained / '2-decoder' / 'model'}",
    ]
    train("lrf-folder", [*overrides, "sample_every=2"], out)
    return out, overrides


def test_own_pictures_with_the_default_text_encoder(from_folder: tuple[Path, list[str]]):
    out, _ = from_folder
    assert (out / "1-flow" / "samples" / "step-000002.png").is_file()
    pipeline = TextToImagePipeline.from_pretrained(out / "1-flow" / "model")
    assert pipeline.text_encoder.identity == pipeline.denoiser.config.text_encoder == "minilm-l6-v2"
    assert np.isfinite(sample(pipeline, "a red apple")).all()


def test_a_model_that_was_not_written_is_made_from_the_checkpoint(from_folder: tuple[Path, list[str]], tmp_path: Path):
    """As after a power cut between the last step and the model's folder."""
    out, overrides = from_folder
    model = out / "1-flow" / "model"
    files = {p.relative_to(model): p.read_bytes() for p in model.rglob("*") if p.is_file()}
    kept = tmp_path / "kept"
    model.rename(kept)
    try:
        train("lrf-folder", [*overrides, "sample_every=2"], out, resume=True)
        again = {p.relative_to(model): p.read_bytes() for p in model.rglob("*") if p.is_file()}
    finally:
        if not model.exists():
            kept.rename(model)
    assert again == files


def test_training_starts_from_a_whole_model(
    from_folder: tuple[Path, list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    out, overrides = from_folder
    start = out / "1-flow" / "model"
    still = ["steps=1", "warmup_steps=2", "learning_rate=1e-12", f"initialise_from={start}"]
    model = train("lrf-folder", [*overrides, *still], tmp_path / "run")
    assert "flow: warning: steps: 1 given, fewer than warmup_steps=2" in capfd.readouterr().err
    weights = [load_file(m / "denoiser" / "diffusion_pytorch_model.safetensors") for m in (start, model)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_network_is_no_start(trained: Path, from_folder: tuple[Path, list[str]], tmp_path: Path):
    _, overrides = from_folder
    other = trained / "3-flow" / "model"
    with pytest.raises(PochadeError, match=r"initialise_from: .* is another network; it differs in .*text_in\.weight"):
        train("lrf-folder", [*overrides, f"initialise_from={other}"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- the adversary


def test_an_adversary_is_trained_saved_and_resumed(folder: Path, tmp_path: Path):
    settings = AutoencoderSettings(
        latent_channels=4,
        width=8,
        encoder_blocks=(0, 0, 1, 0),
        decoder_blocks=(0, 1, 0, 0),
        perceptual=0,
        adversarial=0.1,
    )
    fast: dict[str, Any] = {
        "steps": 2,
        "batch_size": 4,
        "sample_every": 0,
        "save_every": 1,
        "warmup_steps": 1,
        "log_every": 1,
    }
    first = autoencoder_stage(ImageData(FolderSource(folder), 32), task=settings, **fast)
    decoder = replace(first, name="decoder", task=replace(settings, part="decoder"), initialise_from="previous")
    run([first, decoder], tmp_path / "run")
    encoders = [
        load_autoencoder(str(tmp_path / "run" / n / "model")).encoder.state_dict()
        for n in ("1-autoencoder", "2-decoder")
    ]
    assert all(torch.equal(encoders[0][name], encoders[1][name]) for name in encoders[0])
    saved = load_file(tmp_path / "run" / "1-autoencoder" / "checkpoint-00000002" / "model.safetensors")
    assert {name.split(".")[0] for name in saved} == {"autoencoder", "discriminator"}
    # Stopped after the first step and taken up again: the same weights.
    run([replace(first, steps=2, schedule="constant", name="whole")], tmp_path / "whole")
    run([replace(first, steps=1, schedule="constant", name="whole")], tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "1-whole" / "model")
    run([replace(first, steps=2, schedule="constant", name="whole")], tmp_path / "parts", resume=True)
    finals = [load_file(tmp_path / name / "1-whole" / "final" / "model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])


def test_a_folder_too_small_to_hold_any_out(tmp_path: Path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, name in enumerate(("red", "green", "blue")):
        Image.new("RGB", (16, 16), (80 * i, 0, 0)).save(pictures / f"{name}.png")
        (pictures / f"{name}.txt").write_text(name)
    overrides = [f"data.source={pictures}", "data.size=16", *FAST, *TINY_AUTOENCODER, "batch_size=2"]
    [stage] = override([stages_of("lrf")[0]], overrides)
    model = run([stage], tmp_path / "run")
    assert (model / "config.json").is_file()


# --- CIFAR-10


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cifar-10-python.tar.gz with 8 pictures in each batch."""
    path = tmp_path_factory.mktemp("cifar") / "cifar-10-python.tar.gz"
    rng = np.random.default_rng(0)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    files = {"batches.meta": {b"label_names": [name.encode() for name in names]}}
    for batch in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
        labels = rng.integers(0, 10, 8).tolist()
        files[batch] = {b"data": rng.integers(0, 256, (8, 3072), dtype=np.uint8), b"labels": labels}
    with tarfile.open(path, "w:gz") as tar:
        for name, value in files.items():
            data = pickle.dumps(value, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def taesd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("taesd")
    blocks = {"num_encoder_blocks": (1, 1, 1, 1), "num_decoder_blocks": (1, 1, 1, 1)}
    AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, **blocks).save_pretrained(
        path
    )
    return path


def test_cifar10_from_its_archive(archive: Path, taesd: Path, tmp_path: Path):
    overrides = [f"data.source=cifar10:{archive}", f"task.autoencoder={taesd}", *FAST, "sample_every=2"]
    model = train("lrf-cifar10", overrides, tmp_path / "run")
    assert (tmp_path / "run" / "1-flow" / "samples" / "step-000002.png").is_file()
    pipeline = TextToImagePipeline.from_pretrained(model)
    assert sum(p.numel() for p in pipeline.denoiser.parameters()) == pytest.approx(1.47e6, rel=0.02)
    assert pipeline.denoiser.config.num_classes == 10
    assert pipeline.text_encoder.names[3] == "cat"
    assert sample(pipeline, "cat").shape == (32, 32, 3)
    assert np.isfinite(sample(pipeline, "")).all()
    with pytest.raises(PochadeError, match="did you mean 'truck'"):
        sample(pipeline, "truk")


def test_cifar10_as_published():
    [stage] = stages_of("lrf-cifar10")
    assert stage.batch_size == 128
    assert stage.steps == pytest.approx(30 * 50_000 / 128, abs=1)
    assert stage.task.variant == "cifar"


# --- what cannot work is said before any work


def test_every_recipe_makes_stages():
    for name in RECIPES:
        stages = stages_of(name)
        assert all(isinstance(stage, Stage) for stage in stages)
        assert len({stage.name for stage in stages}) == len(stages)


def test_the_curriculum_goes_up_in_resolution():
    stages = stages_of("lrf-curriculum")
    flows = [s for s in stages if isinstance(s.task, FlowSettings)]
    assert [s.data.size for s in flows] == [64, 256, 512]
    assert [s.initialise_from for s in flows] == [None, "previous", "previous"]
    assert len({s.task for s in flows}) == 1  # one network all the way


def refused(match: str, out: Path, recipe: str, *overrides: str) -> None:
    with pytest.raises(PochadeError, match=match) as caught:
        train(recipe, overrides, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_unknown_recipes_and_fields_name_the_nearest(tmp_path: Path):
    out = tmp_path / "run"
    refused(r"recipe: 'lrf-cifar' given, .*did you mean 'lrf-cifar10'", out, "lrf-cifar")
    refused(r"no field 'stesp' \(did you mean 'steps'", out, "lrf", "stesp=3")
    refused(r"no field 'flow.task.weightnig' \(did you mean 'task.weighting'", out, "lrf", "flow.task.weightnig=ratio")
    refused(
        "task.weighting: 'rato' given, must be constant or centre or ratio or min_snr",
        out,
        "lrf",
        "task.weighting=rato",
    )


def test_an_unset_source_says_what_to_add(tmp_path: Path):
    for recipe, stage in (("lrf-folder", "flow"), ("lrf-curriculum", "autoencoder")):
        said = rf"data.source: not set; add data.source=FOLDER to the command \(or {stage}.data.source=FOLDER"
        refused(said, tmp_path / "run", recipe, "initialise_from=none")


def test_unusable_data_is_named(tmp_path: Path, folder: Path):
    out = tmp_path / "run"
    refused("source: '/nowhere' given, but /nowhere is not there; allowed are", out, "lrf", "data.source=/nowhere")
    refused("data.size: 33 given, allowed are multiples of 8", out, "lrf", f"data.source={folder}", "data.size=33")
    (tmp_path / "bare").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "bare" / "a.png")
    refused("1 pictures but no captions", out, "lrf", f"data.source={tmp_path / 'bare'}")
    refused("path: .*none.tar.gz does not exist", out, "lrf-cifar10", "data.source=cifar10:none.tar.gz")


def test_too_many_unusable_files_are_counted_to_the_end_and_the_limit_can_be_set(
    from_folder: tuple[Path, list[str]], tmp_path: Path
):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(26):
        Image.new("RGB", (32, 32), (i, 255 - i, 90)).save(pictures / f"p{i:03d}.png")
        (pictures / f"p{i:03d}.txt").write_text(f"plate {i}")
    for i in range(6):
        (pictures / f"p{i:03d}.png").write_bytes(b"broken")
    Image.new("RGB", (64, 32)).save(pictures / "p010.png")
    files = ", ".join(f"p{i:03d}.png" for i in range(6))
    _, overrides = from_folder
    settings = [*overrides, f"data.source={pictures}", "steps=1"]
    refused(
        rf"6 of 26 .* data.max_skipped .*: 6 unsupported format \({files}: ", tmp_path / "run", "lrf-folder", *settings
    )
    few = [*settings, "data.max_skipped=0.5", "data.max_megapixels=0.0011"]
    model = train("lrf-folder", few, tmp_path / "run")
    report = json.loads((pictures / ".pochade" / "report.json").read_text())
    assert report["skipped_by_reason"] == {"too large": 1, "unsupported format": 6}
    assert json.loads((model / "training.json").read_text())["max_megapixels"] == 0.0011
    refused("max_skipped: 5.0 given, a fraction from 0 to 1", tmp_path / "no", "lrf-folder", *few, "data.max_skipped=5")


def test_a_training_says_what_it_uses(
    from_folder: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(60):
        Image.new("RGB", (32, 32), (i, 255 - i, 90)).save(pictures / f"p{i:03d}.png")
        (pictures / f"p{i:03d}.txt").write_text(f"plate {i}")
    (pictures / "p001.txt").write_text("word " * 1000)
    (pictures / "p002.txt").write_bytes("café rouge".encode("latin-1"))
    (pictures / "p003.txt").unlink()
    (pictures / "p004.png").write_bytes(b"")
    _, overrides = from_folder
    train("lrf-folder", [*overrides, f"data.source={pictures}", "steps=1"], tmp_path / "run")
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first == (
        f"flow: 54 samples to train on; {pictures}: 58 used, 2 skipped (1 empty file (p004.png), 1 no caption "
        "(p003.png: no p003.txt)), captions from .txt files (58), 1 caption in Latin-1, not UTF-8 (p002.txt); all "
        f"named in {pictures}/.pochade/report.json"
    )
    assert second == "flow: 1 caption cut at 64 tokens (p001.png)"


def test_another_size_than_that_of_the_start_is_named(folder: Path, tmp_path: Path):
    settings = [f"data.source={folder}", "data.size=128", "steps=1", "batch_size=2", "warmup_steps=0"]
    refused(
        "data.size: 128 given, but initialise_from=lrf-openmoji was trained on 64: allowed are data.size=64, or "
        "task.options=sample_size=8 besides",
        tmp_path / "run",
        "lrf-folder",
        *settings,
    )


def test_unusable_networks_are_named(tmp_path: Path, folder: Path):
    out, data = tmp_path / "run", (f"data.source={folder}", "data.size=32", "task.text_encoder=bag")
    refused(r"options: 'recursion=3' given, .*did you mean 'recursions'", out, "lrf", *data, "task.options=recursion=3")
    refused("options: 'heads' given", out, "lrf", *data, "task.options=heads")
    refused("dim, sample_size: 17", out, "lrf", *data, "task.options=dim=17,heads=2")
    refused("options: dim=wide given, of which no network can be made", out, "lrf", *data, "task.options=dim=wide")
    refused(r"mixer: 'conv' given", out, "lrf", *data, "task.options=mixer=conv")
    refused(r"variant: 'nanno' given, .*did you mean 'nano'", out, "lrf", *data, "task.variant=nanno")
    refused(r"family: 'lrv' given, .*did you mean 'lrf'", out, "lrf", *data, "task.family=lrv")
    refused("must divide by 7 and 2", out, "lrf", *data, "data.size=24")


def test_text_encoders_must_suit_the_data(tmp_path: Path, folder: Path, archive: Path, taesd: Path):
    out, cifar = tmp_path / "run", (f"data.source=cifar10:{archive}", f"task.autoencoder={taesd}")
    refused(
        "task.text_encoder: none given, but .* holds captions",
        out,
        "lrf",
        f"data.source={folder}",
        "task.text_encoder=none",
    )
    refused(
        "text_encoder: minilm-l6-v2 given, but .* holds classes",
        out,
        "lrf-cifar10",
        *cifar,
        "task.text_encoder=minilm-l6-v2",
    )
    refused(
        r"text_encoder: 'minilm' is unknown, .*did you mean 'minilm-l6-v2'",
        out,
        "lrf",
        f"data.source={folder}",
        "task.text_encoder=minilm",
    )


def test_unusable_autoencoders_are_named(tmp_path: Path, folder: Path):
    out, data = (
        tmp_path / "run",
        (f"data.source={folder}", "data.size=32", "initialise_from=none", "task.text_encoder=bag"),
    )
    refused(
        "task.autoencoder: none given, and no stage before trains one",
        out,
        "lrf-folder",
        *data,
        "task.autoencoder=none",
    )
    refused("'tasd' is no folder", out, "lrf-folder", *data, "task.autoencoder=tasd")
    refused("neither a folder with an AutoencoderTiny", out, "lrf-folder", *data, f"task.autoencoder={folder}")


def test_unusable_starts_are_named(tmp_path: Path, folder: Path, taesd: Path):
    out = tmp_path / "run"
    data = (f"data.source={folder}", "data.size=32", f"task.autoencoder={taesd}", "task.text_encoder=bag")
    refused("initialise_from: '/nowhere' is neither", out, "lrf-folder", *data, "initialise_from=/nowhere")
    refused("initialise_from: 'previous' given for flow", out, "lrf-folder", *data, "initialise_from=previous")
    refused(
        "initialise_from: 'previous' given for flow",
        out,
        "lrf",
        f"data.source={folder}",
        "flow.initialise_from=previous",
    )


def test_a_start_that_does_not_fit_is_found_before_the_first_stage(tmp_path: Path, trained: Path, folder: Path):
    """Whichever stage it is of: the stages before it would have run for hours."""
    out = tmp_path / "run"
    data = f"data.source={folder}", "data.size=32"
    file = trained / "1-autoencoder" / "model" / "diffusion_pytorch_model.safetensors"
    for stage, start, said in (
        ("flow", file, f"initialise_from: {file}: its tensors do not fit the network: missing: denoiser."),
        ("flow", folder, f"initialise_from: {folder} is neither a safetensors file nor a folder with one of"),
        ("flow", "lrf-openmoji", "data.size: 32 given, but initialise_from=lrf-openmoji was trained on 64"),
        ("autoencoder", folder, f"initialise_from: {folder} is neither a safetensors file nor a folder with one of"),
        ("autoencoder", "iris-nano", "initialise_from: the autoencoder of 'iris-nano': its tensors do not fit"),
        ("decoder", folder, f"initialise_from: {folder} is neither a safetensors file nor a folder with one of"),
    ):
        refused(said, out, "lrf", *data, f"{stage}.initialise_from={start}")
    first = stages_of("lrf")[-1]
    first = replace(first, task=replace(first.task, autoencoder="lrf-openmoji"), data=ImageData(FolderSource(folder)))
    other = replace(first, name="second", task=replace(first.task, variant="tiny"), initialise_from="previous")
    with pytest.raises(PochadeError, match="initialise_from: 'previous' given for second: the network before"):
        run([first, other], out)
    assert not out.exists()


def test_a_stage_of_an_unknown_kind_is_refused(tmp_path: Path):
    stage = replace(stages_of("lrf")[0], task=ImageData())
    with pytest.raises(PochadeError, match="task: ImageData given"):
        run([stage], tmp_path / "run")


def test_autoencoders_load_from_a_folder_a_model_and_taesd(trained: Path, taesd: Path):
    own = load_autoencoder(str(trained / "2-decoder" / "model"))
    inside = load_autoencoder(str(trained / "3-flow" / "model"))
    assert own.config.latents_mean == inside.config.latents_mean
    for name, value in own.state_dict().items():
        assert torch.equal(value.half().float(), inside.state_dict()[name])
    published = load_autoencoder(str(taesd))
    assert isinstance(published, TinyAutoencoder)
    assert not any(autoencoder.training for autoencoder in (own, inside, published))
