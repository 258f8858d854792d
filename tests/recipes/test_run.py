"""Recipes from end to end at toy size, on a folder of pictures."""

import json
import shutil
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
from recipes.running import FAST, OPTIONS, TINY_AUTOENCODER, refused, sample, train


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


def test_training_starts_from_the_folder_of_a_run(from_folder: tuple[Path, list[str]], tmp_path: Path):
    out, overrides = from_folder
    still = ["steps=1", "warmup_steps=0", "learning_rate=1e-12", f"initialise_from={out}"]
    model = train("lrf-folder", [*overrides, *still], tmp_path / "run")
    places = (out / "1-flow" / "model", model)
    weights = [load_file(m / "denoiser" / "diffusion_pytorch_model.safetensors") for m in places]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    records = [json.loads((place / "training.json").read_text()) for place in places]
    assert records[1]["before"] == records[0]


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


def test_autoencoders_load_from_a_folder_a_model_and_taesd(trained: Path, taesd: Path):
    own = load_autoencoder(str(trained / "2-decoder" / "model"))
    inside = load_autoencoder(str(trained / "3-flow" / "model"))
    assert own.config.latents_mean == inside.config.latents_mean
    for name, value in own.state_dict().items():
        assert torch.equal(value.half().float(), inside.state_dict()[name])
    published = load_autoencoder(str(taesd))
    assert isinstance(published, TinyAutoencoder)
    assert not any(autoencoder.training for autoencoder in (own, inside, published))
