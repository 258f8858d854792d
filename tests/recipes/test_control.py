"""A control input from the recipe to a picture: trained beside a frozen model, stored with it, and followed."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from cli.run import cli
from data.sources.iconify_sets import write_folder
from pochade.data.sources import open_source
from pochade.denoisers.iris import IRISDenoiser
from pochade.errors import PochadeError
from pochade.images.controls import KINDS, control_image, encode_control
from pochade.images.decode import load_image
from pochade.images.edges import edges, edges_of
from pochade.pipelines.metadata import read_metadata
from pochade.pipelines.requests import model_facts
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from pochade.training.dry_run import dry_run
from pochade.training.overrides import override
from pochade.types import CONTROLS, Conditioning
from recipes.running import train

FAST = ("steps=3", "batch_size=4", "warmup_steps=1", "sample_every=3", "log_every=1", "save_every=3", "ema_decay=0")
SIZE = 32


def drawing(i: int) -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), "white")
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
    """An IRIS with random weights in place of the toy's denoiser."""
    parts = TextToImagePipeline.from_pretrained(toy_pipeline_folder).components
    size = {"latent_channels": 4, "sample_size": 4, "patch_size": 2, "dim": 16, "heads": 2, "hidden": 24, "blocks": 1}
    size |= {"iterations": 2, "depths": (2, 3), "text_dim": 12, "pooled_dim": 12}
    torch.manual_seed(0)
    denoiser: Any = IRISDenoiser(**size, text_encoder=parts["text_encoder"].identity)
    for parameter in denoiser.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("models") / "iris"
    pipe = TextToImagePipeline(**{**parts, "denoiser": denoiser.eval(), "default_steps": 2})
    pipe.save_pretrained(folder, dtype=torch.float16)
    return folder


@pytest.fixture(scope="module")
def changes(pictures: Path, generator_folder: Path) -> list[str]:
    return [f"data.source={pictures}", f"data.size={SIZE}", f"task.model={generator_folder}", *FAST]


@pytest.fixture(scope="module")
def trained(changes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "control"
    # A rate so large that three steps are seen.
    model = train("control", [*changes, "learning_rate=0.05"], out)
    assert model == out / "1-control" / "model"
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert train("control", [*changes, "learning_rate=0.05"], out, resume=True) == model
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


def test_the_model_is_the_one_before_and_its_control(pipe: Any, trained: Path, generator_folder: Path) -> None:
    before = TextToImagePipeline.from_pretrained(generator_folder)
    old, new = before.denoiser.state_dict(), pipe.denoiser.state_dict()
    assert all(torch.equal(new[name], value) for name, value in old.items())
    assert {name.partition(".")[0] for name in new.keys() - old.keys()} == {"control"}
    assert pipe.denoiser.config.controlled
    assert (pipe.default_steps, pipe.default_guidance, pipe.default_size) == (2, 3.0, SIZE)
    before.set_progress_bar_config(disable=True)
    assert torch.equal(sample(pipe, "a cat"), sample(before, "a cat"))
    assert (trained.parent / "samples" / "step-000003.png").is_file()
    lines = [json.loads(line) for line in (trained.parent / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert len(list((trained.parents[1] / "cache").glob("edges-*"))) == 1


def test_pictures_follow_the_control(pipe: Any) -> None:
    one, two = (control_image(edges(drawing(i))) for i in (0, 8))
    plain, first, second = sample(pipe, "a cat"), sample(pipe, "a cat", control=one), sample(pipe, "a cat", control=two)
    assert (first - plain).abs().max() > 1e-3
    assert (first - second).abs().max() > 1e-3
    tensor = edges(drawing(0))
    assert torch.equal(sample(pipe, "a cat", control=tensor), first)
    assert torch.equal(sample(pipe, "a cat", control=torch.zeros_like(tensor)), plain)
    both = sample(pipe, ["a cat", "a cat"], control=[one, two], num_images_per_prompt=2, guidance_scale=1.0)
    shared = sample(pipe, ["a cat", "a cat"], control=one, num_images_per_prompt=2, guidance_scale=1.0)
    torch.testing.assert_close(both[:2], shared[:2], atol=1e-5, rtol=0)
    assert (both[2:] - shared[2:]).abs().amax((1, 2, 3)).min() > 1e-3
    result = pipe.encode_prompt("a cat")
    assert torch.equal(sample(pipe, prompt_embeds=result, control=one), first)
    with torch.no_grad():
        latents = encode_control(tensor[None], pipe.autoencoder.encode)
    assert torch.equal(sample(pipe, prompt_embeds=replace(result, control=latents)), first)
    wide = sample(pipe, "a cat", control=tensor.repeat(1, 1, 2), width=2 * SIZE)
    assert wide.shape == (1, 3, SIZE, 2 * SIZE)


def test_controls_that_do_not_fit(pipe: Any, toy_pipeline_folder: Path) -> None:
    lines = edges(drawing(0))
    other = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    with pytest.raises(PochadeError, match="control: given, but this model has no input for it"):
        sample(other, "a cat", control=lines)
    for wrong in (lines[:, :16], torch.cat((lines, lines)), torch.stack((lines, lines)), control_image(lines[:, :16])):
        with pytest.raises(PochadeError, match=r"control: shape .* allowed is \[1, 1, 32, 32\], or one for all"):
            sample(pipe, "a cat", control=wrong)
    for wrong in ("edges.png", [], [drawing(0).tobytes()]):
        with pytest.raises(PochadeError, match="allowed are pictures or a tensor"):
            sample(pipe, "a cat", control=wrong)
    with pytest.raises(PochadeError, match="control: pictures of several sizes given"):
        sample(pipe, ["a cat"] * 2, control=[drawing(0), drawing(0).resize((16, 16))])
    with pytest.raises(PochadeError, match="control: given beside prompt_embeds that hold one"):
        sample(pipe, prompt_embeds=Conditioning(control=lines[None]), control=lines)


def test_a_control_can_be_trained_further(trained: Path, changes: list[str], tmp_path: Path) -> None:
    model = train("control", [*changes, f"task.model={trained}", "steps=1", "sample_every=0"], tmp_path / "run")
    old, new = (TextToImagePipeline.from_pretrained(folder).denoiser.state_dict() for folder in (trained, model))
    assert old.keys() == new.keys()
    changed = {name.partition(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"control"}
    advice = re.escape(f"seed 0 (now 1); a new run goes on from its model with task.model={model}")
    with pytest.raises(PochadeError, match=f"{advice}$"):
        train("control", [*changes, f"task.model={trained}", "seed=1"], tmp_path / "run", resume=True)


@pytest.fixture(scope="module")
def follows_depth(changes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on layered drawings, of which one has lines alone."""
    folder = tmp_path_factory.mktemp("drawings")
    bodies = [f'<rect x="{i}" width="9" height="16" fill="#a00"/><circle cx="8" cy="{i}" r="4"/>' for i in range(9)]
    bodies.append('<path d="M0 0L16 16" fill="none" stroke="#000"/>')
    write_folder(folder, "layers", {f"thing-{chr(97 + i)}": {"body": body} for i, body in enumerate(bodies)})
    own = [f"data.source=drawings:{folder}:sets=layers", "data.held_out=false", "task.kind=depth", "learning_rate=0.05"]
    return train("control", [*changes, *own], tmp_path_factory.mktemp("runs") / "depth")


def test_depth_is_followed_whatever_its_brightness(
    follows_depth: Path, changes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pipe: Any = TextToImagePipeline.from_pretrained(follows_depth)
    assert pipe.denoiser.input_spec().control == "depth"
    assert len(list((follows_depth.parents[1] / "cache").glob("depth-*"))) == 1
    pipe.set_progress_bar_config(disable=True)
    ramp = np.linspace(0, 1, SIZE**2).reshape(SIZE, SIZE)
    bright, dark = (Image.fromarray((low + high * ramp).round().astype(np.uint8)) for low, high in ((0, 255), (10, 51)))
    whole = torch.from_numpy((ramp * 51).round() / 51)[None].float()
    assert torch.equal(sample(pipe, "a cat", control=dark), sample(pipe, "a cat", control=whole))
    turned = bright.transpose(Image.Transpose.ROTATE_180)
    assert (sample(pipe, "a cat", control=bright) - sample(pipe, "a cat", control=turned)).abs().max() > 1e-3

    monkeypatch.chdir(tmp_path)
    dark.save("dark.png")
    Image.new("L", (SIZE, SIZE), 90).save("flat.png")
    usual = ("--model", str(follows_depth), "--seed", "1", "-o", "out")
    (made,) = cli(capsys, "generate", "a cat", "--control", "dark.png", *usual).out.split()
    with Image.open(made) as image:
        generated = np.asarray(image).transpose(2, 0, 1) / 255
    assert np.abs(generated - sample(pipe, "a cat", control=dark)[0].numpy()).max() < 0.01
    flat = cli(capsys, "generate", "a cat", "--control", "flat.png", *usual, code=2).error
    assert "control: its brightness goes from 90 to 90 of 255, which shows no depth" in flat
    edged = cli(capsys, "generate", "a cat", "--edges-of", "dark.png", *usual, code=2).error
    assert "edges_of: given, but this model follows depth, allowed is control" in edged
    with pytest.raises(PochadeError, match=r"task.kind: edges given, but .* follows depth already"):
        train("control", [*changes, f"task.model={follows_depth}"], tmp_path / "run")
    with pytest.raises(PochadeError, match=r"task.kind: depth given, but '0.png' comes without"):
        train("control", [*changes, "task.kind=depth"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:prompt")  # the toy encoder reads letters
def test_a_pose_is_followed(changes: list[str], tmp_path: Path) -> None:
    own = ["data.source=figures:20", "task.kind=pose", "learning_rate=0.05"]
    pipe: Any = TextToImagePipeline.from_pretrained(train("control", [*changes, *own], tmp_path / "run"))
    pipe.set_progress_bar_config(disable=True)
    one, two = (open_source("figures:20", "all").control(i, SIZE, "pose") for i in (0, 4))
    tensor = KINDS["pose"].read(one, "control")
    assert torch.equal(sample(pipe, "a cat", control=one), sample(pipe, "a cat", control=tensor))
    assert (sample(pipe, "a cat", control=two) - sample(pipe, "a cat", control=tensor)).abs().max() > 1e-3
    assert torch.equal(sample(pipe, "a cat", control=torch.zeros_like(tensor)), sample(pipe, "a cat"))
    with pytest.raises(PochadeError, match=r"control: shape .* allowed is \[1, 3, 32, 32\], or one for all"):
        sample(pipe, "a cat", control=tensor[:1])


def test_a_model_from_before_kinds_follows_edges(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "model")
    place = folder / "denoiser" / "config.json"
    config = json.loads(place.read_text())
    assert config.pop("control_kind") == "edges"
    place.write_text(json.dumps(config))
    assert TextToImagePipeline.from_pretrained(folder).denoiser.input_spec().control == "edges"
    assert model_facts(str(folder)).control == "edges"


@pytest.mark.parametrize("kind", CONTROLS)
def test_dry_run(changes: list[str], kind: str) -> None:
    (tried,) = dry_run(override(stages_of("control"), [*changes, f"task.kind={kind}"]))
    assert tried.shape == (4, 4, 4)
    whole = sum(
        p.numel() for p in IRISDenoiser(latent_channels=4, sample_size=4, dim=16, heads=2, hidden=24).parameters()
    )
    assert 0 < tried.parameters < whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("task.model=none", "allowed is the name or the folder of a trained model of iris"),
        (
            "task.model=lrf-openmoji",
            "task.model: 'lrf-openmoji' holds a LRFDenoiser, .* families iris",
        ),
        ("initialise_from=lrf-openmoji", "initialise_from: 'lrf-openmoji' given, but the start is task.model"),
        ("data.size=40", "data.size: 40 given, allowed are multiples of 16"),
    ],
)
def test_what_cannot_be_trained(changes: list[str], change: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match=message):
        train("control", [*changes, change], tmp_path / "run")
    assert not (tmp_path / "run").exists()


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
    done = cli(capsys, "generate", "a cat", "--edges-of", str(source), "-o", "out", *usual)
    assert done.out.split() == ["out/a-cat-1.png", "out/3-edges.png"]
    made = json.loads(read_metadata("out/a-cat-1.png").to_json())
    assert (made["control"], made["control_edges"]) == (str(source), True)
    with Image.open("out/3-edges.png") as image:
        assert np.array_equal(np.asarray(image) == 255, edges_of(load_image(source)[0], SIZE, SIZE)[0].bool().numpy())
    with Image.open("out/a-cat-1.png") as image:
        generated = np.asarray(image)

    # The edges alone, and the recipe, sample the same; without them it is another picture.
    for arguments in (("a cat", "--control", "out/3-edges.png", *usual), ("--like", "out/a-cat-1.png")):
        made = cli(capsys, "generate", *arguments, "-o", "again").out.split()
        with Image.open(made[0]) as image:
            assert np.array_equal(np.asarray(image), generated)
    assert len(list(Path("again").iterdir())) == 2
    (plain,) = cli(capsys, "generate", "a cat", "-o", "plain", *usual).out.split()
    assert json.loads(read_metadata(plain).to_json())["control"] is None
    with Image.open(plain) as image:
        assert not np.array_equal(np.asarray(image), generated)

    def refused(*arguments: str) -> str:
        return cli(capsys, "generate", *arguments, "-o", "none", code=2).error

    assert "allowed is one of them" in refused("a cat", "--control", "x.png", "--edges-of", "x.png", *usual)
    assert "control: 'x.png' cannot be read" in refused("a cat", "--control", "x.png", *usual)
    assert "control: 'x.png' cannot be read" in refused("a cat", "--edges-of", "x.png", *usual)
    assert "white lines on black" in refused("a cat", "--control", str(source), *usual)
    small = refused("a cat", "--control", "out/3-edges.png", "--size", "48x32", *usual)
    assert "control: 32 x 32 pixels given, allowed is the picture's size, 48x32" in small
    elsewhere = refused("a cat", "--edges-of", str(source), "--model", str(toy_pipeline_folder))
    assert "this model has no input for it" in elsewhere
    drawing(9).save("mine.png")
    cli(capsys, "generate", "a cat", "--edges-of", "mine.png", "-o", "mine", *usual)
    drawing(1).save("mine.png")
    assert "which is another file now" in refused("--like", "mine/a-cat-1.png")
    assert not Path("none").exists()
