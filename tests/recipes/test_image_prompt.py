"""A reference from the recipe to a picture: trained beside a frozen model, stored with it, and followed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from cli.run import cli
from pochade.denoisers.microforge import MicroForgeDenoiser
from pochade.errors import PochadeError
from pochade.features import style
from pochade.pipelines.metadata import read_metadata
from pochade.pipelines.requests import GenerationRequest
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from pochade.training.dry_run import dry_run
from pochade.training.overrides import override
from pochade.types import Conditioning
from recipes.running import train
from text_encoders.folders import clip_folder

FAST = ("steps=3", "batch_size=4", "warmup_steps=1", "sample_every=3", "log_every=3", "save_every=3", "ema_decay=0")
SIZE = 32
DIM = 160


def drawing(i: int, size: int = SIZE) -> Image.Image:
    image = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(image).ellipse((2 + i, 4, 20 + i // 2, 24), fill=(20 * i, 90, 0))
    return image


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    for i in range(10):
        drawing(i).save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"picture number {i}")
    return path


@pytest.fixture(scope="module")
def generator_folder(toy_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MicroForge with random weights in place of the toy's denoiser."""
    parts = TextToImagePipeline.from_pretrained(toy_pipeline_folder).components
    size = {"latent_channels": 4, "sample_size": 4, "dim": 16, "heads": 2, "blocks": 2, "inner": 16, "state_size": 3}
    size |= {"attention_every": 1, "modulation_groups": 4, "plan_tokens": 3, "plan_layers": 1, "plan_hidden": 16}
    torch.manual_seed(0)
    text = {"text_dim": 12, "pooled_dim": 12, "text_encoder": parts["text_encoder"].identity}
    denoiser: Any = MicroForgeDenoiser(**size, **text)
    for parameter in denoiser.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("models") / "microforge"
    pipe = TextToImagePipeline(**{**parts, "denoiser": denoiser.eval(), "default_steps": 2})
    pipe.save_pretrained(folder, dtype=torch.float16)
    return folder


@pytest.fixture(scope="module")
def changes(pictures: Path, generator_folder: Path) -> list[str]:
    usual = [f"data.source={pictures}", f"data.size={SIZE}", f"task.model={generator_folder}", "task.views=2"]
    return [*usual, *FAST]


@pytest.fixture(scope="module")
def trained(changes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "image-prompt"
    # A rate so large that three steps are seen.
    model = train("image-prompt", [*changes, "learning_rate=0.05"], out)
    assert model == out / "1-image_prompt" / "model"
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert train("image-prompt", [*changes, "learning_rate=0.05"], out, resume=True) == model
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == stamps
    return model


@pytest.fixture(scope="module")
def pipe(trained: Path) -> Any:
    pipe = TextToImagePipeline.from_pretrained(trained)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe: Any, *arguments: Any, **options: Any) -> torch.Tensor:
    options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(1), "output_type": "pt", **options}
    return pipe(*arguments, **options).images


def test_the_model_is_the_one_before_and_its_reference(pipe: Any, trained: Path, generator_folder: Path) -> None:
    before = TextToImagePipeline.from_pretrained(generator_folder)
    old, new = before.denoiser.state_dict(), pipe.denoiser.state_dict()
    assert all(torch.equal(new[name], value) for name, value in old.items())
    assert {name.partition(".")[0] for name in new.keys() - old.keys()} == {"image_prompt"}
    assert (pipe.denoiser.config.image_prompt_dim, pipe.denoiser.config.image_prompt_encoder) == (DIM, "lite0")
    assert (pipe.default_steps, pipe.default_guidance, pipe.default_size) == (2, 3.0, SIZE)
    before.set_progress_bar_config(disable=True)
    assert torch.equal(sample(pipe, "a cat"), sample(before, "a cat"))
    assert (trained.parent / "samples" / "step-000003.png").is_file()
    assert len(list((trained.parents[1] / "cache").glob("image-prompts-*"))) == 1
    # Mean and deviation are those of the training pictures.
    standard = (pipe.encode_image_prompt([drawing(i) for i in range(10)])[:, 0] - new["image_prompt.mean"]) * new[
        "image_prompt.rate"
    ]
    assert standard.mean().abs() < 0.5
    assert 0.5 < standard.std() < 1.5


def test_pictures_follow_the_reference(pipe: Any) -> None:
    one, two = drawing(0), drawing(8, 50)
    plain, first, second = (sample(pipe, "a cat", image_prompt=r) for r in (None, one, two))
    assert (first - plain).abs().max() > 1e-3
    assert (first - second).abs().max() > 1e-3
    features = pipe.encode_image_prompt(one)
    assert features.shape == (1, 1, DIM)
    for same in (features, features[0], [one], one.convert("RGBA"), np.asarray(one)):
        assert torch.equal(sample(pipe, "a cat", image_prompt=same), first)
    weak = sample(pipe, "a cat", image_prompt=one, image_prompt_scale=0.1)
    assert 0 < (weak - plain).norm() < (first - plain).norm()
    torch.testing.assert_close(sample(pipe, "a cat", image_prompt=one, image_prompt_scale=0), plain, atol=1e-5, rtol=0)
    both = sample(pipe, ["a cat", "a cat"], image_prompt=[one, two], num_images_per_prompt=2, guidance_scale=1.0)
    shared = sample(pipe, ["a cat", "a cat"], image_prompt=one, num_images_per_prompt=2, guidance_scale=1.0)
    torch.testing.assert_close(both[:2], shared[:2], atol=1e-5, rtol=0)
    assert (both[2:] - shared[2:]).abs().amax((1, 2, 3)).min() > 1e-4
    result = pipe.encode_prompt("a cat")
    assert torch.equal(sample(pipe, prompt_embeds=result, image_prompt=one), first)
    assert sample(pipe, "a cat", image_prompt=one, width=2 * SIZE).shape == (1, 3, SIZE, 2 * SIZE)


def test_references_that_do_not_fit(pipe: Any, toy_pipeline_folder: Path) -> None:
    other = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    for attempt in (
        lambda: sample(other, "a cat", image_prompt=drawing(0)),
        lambda: other.encode_image_prompt(drawing(0)),
    ):
        with pytest.raises(
            PochadeError, match=r"image_prompt: given, but this model .* pochade train image-prompt makes"
        ):
            attempt()
    for wrong, message in (
        ("style.png", "image_prompt: str given, allowed are a picture"),
        ([], "image_prompt: an empty list given"),
        ([drawing(0)] * 3, r"image_prompt: shape \[3, 1, 160\] given, allowed are features \[1, R, 160\]"),
        (torch.ones(1, 1, 99), "image_prompt: 99 features given, the denoiser needs 160"),
        (np.zeros((6000, 5000, 3), np.uint8), "image_prompt: 5000 x 6000 pixels given, allowed are 1 to 25 megapixels"),
    ):
        with pytest.raises(PochadeError, match=message):
            sample(pipe, "a cat", image_prompt=wrong)
    for scale in (-1, float("nan"), "1", True):
        with pytest.raises(PochadeError, match=r"image_prompt_scale: .* given, allowed are finite numbers from 0 on"):
            sample(pipe, "a cat", image_prompt=drawing(0), image_prompt_scale=scale)
    with pytest.raises(PochadeError, match=r"image_prompt_scale: 0\.5 given without an image prompt"):
        sample(pipe, "a cat", image_prompt_scale=0.5)
    with pytest.raises(PochadeError, match="image_prompt: given beside prompt_embeds that hold one"):
        sample(pipe, prompt_embeds=Conditioning(image_prompt=torch.ones(1, 1, DIM)), image_prompt=drawing(0))


def test_a_reference_can_be_trained_further(trained: Path, changes: list[str], tmp_path: Path) -> None:
    further = [*changes, f"task.model={trained}", "steps=1", "sample_every=0"]
    model = train("image-prompt", further, tmp_path / "run")
    old, new = (TextToImagePipeline.from_pretrained(folder).denoiser.state_dict() for folder in (trained, model))
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert {name.partition(".")[0] for name in changed} == {"image_prompt"}
    assert not changed & {"image_prompt.mean", "image_prompt.rate"}
    with pytest.raises(PochadeError, match=r"task.encoder: 'lite0:5' given, but .* has an image prompt of 'lite0'"):
        train("image-prompt", [*further, "task.encoder=lite0:5"], tmp_path / "other")


def test_a_clip_gives_the_features(changes: list[str], tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip", whole=True)
    few = [*changes, f"task.encoder=clip:{folder}", "steps=1", "sample_every=0", "learning_rate=0.05"]
    pipe = TextToImagePipeline.from_pretrained(train("image-prompt", few, tmp_path / "run"))
    pipe.set_progress_bar_config(disable=True)
    assert pipe.denoiser.config.image_prompt_encoder == f"clip:{folder}"
    assert not torch.equal(sample(pipe, "a cat", image_prompt=drawing(0)), sample(pipe, "a cat"))
    style.load.cache_clear()
    folder.rename(tmp_path / "gone")
    with pytest.raises(PochadeError, match="no CLIP could be loaded"):
        sample(pipe, "a cat", image_prompt=drawing(0))


def test_dry_run(changes: list[str]) -> None:
    (tried,) = dry_run(override(stages_of("image-prompt"), changes))
    assert tried.shape == (4, 4, 4)
    assert 0 < tried.parameters < 20_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "task.model=none",
            "allowed is the name or the folder of a trained model of microforge",
        ),
        (
            "task.model=lrf-openmoji",
            "'lrf-openmoji' holds a LRFDenoiser, .* families microforge",
        ),
        ("initialise_from=lrf-openmoji", "initialise_from: 'lrf-openmoji' given, but the start is task.model"),
        ("task.encoder=lite", "encoder: 'lite' is unknown, allowed are lite0, lite0:MAPS, clip:NAME_OR_FOLDER"),
    ],
)
def test_what_cannot_be_trained(changes: list[str], change: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match=message):
        train("image-prompt", [*changes, change], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def request_in(path: str) -> GenerationRequest:
    request = read_metadata(path).request
    assert isinstance(request, GenerationRequest)
    return request


def test_the_command_line(
    trained: Path,
    toy_pipeline_folder: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    usual = ("--model", str(trained), "--seed", "1")
    source = pictures / "3.png"
    (made,) = cli(capsys, "generate", "a cat", "--image-prompt", str(source), "-o", "out", *usual).out.split()
    first = request_in(made)
    assert (first.image_prompt, first.image_prompt_scale) == (str(source), 1.0)

    def pixels(*arguments: str) -> np.ndarray:
        (path,) = cli(capsys, "generate", *arguments, "-o", "more").out.split()
        with Image.open(path) as image:
            return np.asarray(image)

    with Image.open(made) as image:
        generated = np.asarray(image)
    assert np.array_equal(pixels("--like", made), generated)
    assert not np.array_equal(pixels("a cat", *usual), generated)
    assert not np.array_equal(pixels("--like", made, "--image-prompt-scale", "0.2"), generated)
    assert request_in("more/a-cat-1-3.png").image_prompt_scale == 0.2
    assert request_in("more/a-cat-1-2.png").image_prompt is None

    def refused(*arguments: str) -> str:
        return cli(capsys, "generate", *arguments, "-o", "none", code=2).error

    assert "image_prompt: 'x.png' cannot be read" in refused("a cat", "--image-prompt", "x.png", *usual)
    assert "unsupported format" in refused("a cat", "--image-prompt", str(pictures / "3.txt"), *usual)
    assert "image_prompt_scale: 2.0 given without an image prompt" in refused(
        "a cat", "--image-prompt-scale", "2", *usual
    )
    low = refused("a cat", "--image-prompt", str(source), "--image-prompt-scale", "-1", *usual)
    assert "image_prompt_scale: -1.0 given, allowed are finite numbers from 0 on" in low
    elsewhere = refused("a cat", "--image-prompt", str(source), "--model", str(toy_pipeline_folder))
    assert "this model has no input for it" in elsewhere
    drawing(9).save("mine.png")
    cli(capsys, "generate", "a cat", "--image-prompt", "mine.png", "-o", "mine", *usual)
    drawing(1).save("mine.png")
    assert "which is another file now" in refused("--like", "mine/a-cat-1.png")
    assert not Path("none").exists()
