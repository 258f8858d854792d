"""pochade generate."""

import json
import re
import shutil
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cli.run import Outcome, cli
from pochade.pipelines.metadata import KEY, read_metadata
from pochade.pipelines.requests import GenerationRequest


@pytest.fixture
def generate(toy_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, model: Path | str | None = toy_pipeline_folder, code: int = 0) -> Outcome:
        chosen = () if model is None else ("--model", str(model))
        return cli(capsys, "generate", *arguments, *chosen, code=code)

    return run


def test_pictures_with_their_requests(generate: Any, toy_pipeline_folder: Path) -> None:
    done = generate("a red apple", "a sleeping cat", "-o", "out", "--seed", "7", "--steps", "2", "--guidance", "4")
    assert done.out.split() == ["out/a-red-apple-7.png", "out/a-sleeping-cat-8.png"]
    metadata = read_metadata("out/a-sleeping-cat-8.png")
    assert metadata.request == GenerationRequest(
        "a sleeping cat",
        seed=8,
        steps=2,
        guidance=4.0,
        guidance_interval=(0.0, 1.0),
        model=str(toy_pipeline_folder),
        width=32,
        height=32,
        device="cpu",
        precision="fp32",
    )
    assert re.fullmatch("[0-9a-f]{64}", metadata.sha256["model"])
    assert metadata.versions["pochade"]


def test_repeats_bit_for_bit_and_never_overwrites(generate: Any) -> None:
    generate(
        "a red apple",
        "a sleeping cat",
        "--seed",
        "7",
        "--steps",
        "2",
        "--scheduler",
        "heun",
        "--negative-prompt",
        "dog",
    )
    first = Path("out/a-sleeping-cat-8.png").read_bytes()
    done = generate("--like", "out/a-sleeping-cat-8.png", model=None)
    assert done.out.split() == ["out/a-sleeping-cat-8-2.png"]
    assert Path("out/a-sleeping-cat-8-2.png").read_bytes() == first
    assert Path("out/a-sleeping-cat-8.png").read_bytes() == first
    generate("a sleeping cat", "--like", "out/a-red-apple-7.png", "--seed", "8", "-o", "alone", model=None)
    assert Path("alone/a-sleeping-cat-8.png").read_bytes() == first


def test_a_drawn_seed_is_printed(generate: Any) -> None:
    done = generate("apple", "--steps", "1", "--json")
    (made,) = json.loads(done.out)
    assert made["file"] == f"out/apple-{made['seed']}.png"
    assert 0 <= made["seed"] < 2**31


def test_prompts_from_a_file_and_the_standard_input(generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("prompts.txt").write_bytes("\ufeffa red apple\r\n\r\n  @home -n 3\r\n".encode())
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO("a fox\nune poire dorée".encode())))
    done = generate("@prompts.txt", "cat", "-", "--seed", "7", "--steps", "1", "--json")
    made = [(m["prompt"], m["seed"]) for m in json.loads(done.out)]
    assert made == [("a red apple", 7), ("@home -n 3", 8), ("cat", 9), ("a fox", 10), ("une poire dorée", 11)]


def test_several_pictures_of_a_prompt(generate: Any) -> None:
    done = generate("apple", "cat", "-n", "2", "--seed", "7", "--steps", "1")
    assert done.out.split() == ["out/apple-7.png", "out/apple-8.png", "out/cat-9.png", "out/cat-10.png"]
    generate("apple", "--seed", "8", "--steps", "1", "-o", "alone")
    assert Path("alone/apple-8.png").read_bytes() == Path("out/apple-8.png").read_bytes()
    done = generate("--like", "out/apple-7.png", "-n", "2", "-o", "more", model=None)
    assert done.out.split() == ["more/apple-7.png", "more/apple-8.png"]
    assert "2^63 - 1 for 2 pictures" in generate("apple", "-n", "2", "--seed", str(2**63 - 1), code=2).error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "prompt: '@p.txt' given, 'p.txt' cannot be read (No such file or directory)"),
        (b"\n \n", "prompt: 'p.txt' is empty, allowed is a prompt a line"),
        (b"a \xff\n", "prompt: 'p.txt' is no text in UTF-8 (byte 2), a prompt a line is allowed"),
    ],
)
def test_files_that_hold_no_prompts(generate: Any, content: bytes | None, message: str) -> None:
    if content is not None:
        Path("p.txt").write_bytes(content)
    assert generate("@p.txt", code=2).error == f"error: {message}"
    assert not Path("out").exists()


def test_without_metadata(generate: Any) -> None:
    generate("apple", "--seed", "1", "--steps", "1", "--no-metadata")
    with Image.open("out/apple-1.png") as image:
        assert KEY not in image.info
    done = generate("--like", "out/apple-1.png", code=2)
    assert "holds no metadata" in done.error


def test_sheet_alone_and_beside(generate: Any) -> None:
    arguments = ("apple", "cat", "house", "pear", "--seed", "1", "--steps", "1")
    assert generate(*arguments, "--sheet", "demo.png").out.split() == ["demo.png"]
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["demo.png"]
    with Image.open("demo.png") as sheet:
        assert sheet.width > 3 * 128
    done = generate(*arguments, "--sheet", "sheets/demo.png", "-o", "out", "--json")
    files = [m["file"] for m in json.loads(done.out)]
    assert files == ["out/apple-1.png", "out/cat-2.png", "out/house-3.png", "out/pear-4.png", "sheets/demo.png"]
    assert all(Path(f).is_file() for f in files)


def test_preview_goes_and_changes_nothing(generate: Any) -> None:
    generate("apple", "--seed", "1", "--steps", "40", "-o", "plain")
    generate("apple", "--seed", "1", "--steps", "40", "-o", "seen", "--preview")
    assert [p.name for p in Path("seen").iterdir()] == ["apple-1.png"]
    assert Path("seen/apple-1.png").read_bytes() == Path("plain/apple-1.png").read_bytes()


def test_size(generate: Any) -> None:
    generate("apple", "--seed", "1", "--steps", "1", "--size", "48x32")
    with Image.open("out/apple-1.png") as image:
        assert image.size == (48, 32)


def test_depth_is_kept(generate: Any) -> None:
    generate("apple", "--seed", "1", "--steps", "1")
    generate("apple", "--seed", "1", "--steps", "1", "--depth", "1", "-o", "shallow")
    shallow = Path("shallow/apple-1.png").read_bytes()
    assert read_metadata("shallow/apple-1.png").request.depth == 1
    assert read_metadata("out/apple-1.png").request.depth is None
    generate("--like", "shallow/apple-1.png", "-o", "again", model=None)
    assert Path("again/apple-1.png").read_bytes() == shallow
    assert "depth: 0 given" in generate("apple", "--depth", "0", code=2).error


def test_precision_and_interval_of_guidance_are_kept(generate: Any) -> None:
    usual = ("apple", "--seed", "1", "--steps", "4")
    generate(*usual)
    generate(*usual, "--precision", "bf16", "--guidance-interval", "0.2,0.8", "-o", "other")
    request = read_metadata("other/apple-1.png").request
    assert (request.device, request.precision, request.guidance_interval) == ("cpu", "bf16", (0.2, 0.8))
    other = Path("other/apple-1.png").read_bytes()
    generate("--like", "other/apple-1.png", "-o", "again", model=None)
    assert Path("again/apple-1.png").read_bytes() == other
    generate(
        "--like", "other/apple-1.png", "--precision", "fp32", "--guidance-interval", "0,1", "-o", "back", model=None
    )
    with Image.open("back/apple-1.png") as back, Image.open("out/apple-1.png") as first:
        assert back.tobytes() == first.tobytes()


def test_fast_takes_few_steps_and_guides_the_middle(generate: Any) -> None:
    generate("apple", "--seed", "1", "--fast")
    generate("apple", "--seed", "1", "--steps", "4", "--guidance-interval", "0.4,0.8", "-o", "named")
    request = read_metadata("out/apple-1.png").request
    assert (request.steps, request.guidance_interval) == (4, (0.4, 0.8))
    assert Path("out/apple-1.png").read_bytes() == Path("named/apple-1.png").read_bytes()
    generate("--like", "out/apple-1.png", "--guidance", "1", "--fast", "-o", "like", model=None)
    assert read_metadata("like/apple-1.png").request.guidance_interval == (0.4, 0.8)  # the first one's, without effect


def test_other_weights_under_the_same_name(generate: Any, toy_pipeline_folder: Path) -> None:
    shutil.copytree(toy_pipeline_folder, "model")
    generate("apple", "--seed", "1", "--steps", "1", model="model")
    config = Path("model/autoencoder/config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"latents_mean": [1.0] * 4}))
    done = generate("--like", "out/apple-1.png", model=None, code=2)
    assert "out/apple-1.png: made by other weights of 'model'" in done.error
    assert "(--model model) uses those that are here" in done.error
    done = generate("--like", "out/apple-1.png", model="model")
    assert done.error.startswith("warning: out/apple-1.png: made by other weights")


def test_other_versions_give_a_warning(generate: Any) -> None:
    from PIL.PngImagePlugin import PngInfo

    generate("apple", "--seed", "1", "--steps", "1")
    info = PngInfo()
    text = read_metadata("out/apple-1.png").to_json().replace('"pochade": "', '"pochade": "0.0.')
    info.add_text(KEY, text)
    Image.open("out/apple-1.png").save("old.png", pnginfo=info)
    done = generate("--like", "old.png", model=None)
    assert "made with pochade 0.0.0.1.0 (here 0.1.0): it may differ in the last bits" in done.error


def test_long_prompt_is_cut_with_one_warning(generate: Any) -> None:
    prompt = ("apple " * 2000)[:10_000]
    done = generate(prompt, "--seed", "1", "--steps", "1")
    assert re.fullmatch(r"warning: prompt: \d+ tokens, the text encoder reads 32: the last \d+ are cut", done.error)
    assert read_metadata(done.out.strip()).request.prompt == prompt


BAD = {
    "no prompt": ([], "prompt: none given"),
    "empty prompt": (["apple", " "], "prompt: empty, allowed is a sentence"),
    "seed too large": (["a", "--seed", str(2**63)], "seed: 9223372036854775808 given, allowed are"),
    "last seed too large": (["a", "b", "--seed", str(2**63 - 1)], "in [0, 2^63 - 1 for 2 pictures)"),
    "negative seed": (["a", "--seed", "-1"], "seed: -1 given"),
    "no steps": (["a", "--steps", "0"], "steps: 0 given, allowed is a whole number from 1 to 10000"),
    "guidance": (["a", "--guidance", "nan"], "guidance: nan given, allowed are finite numbers"),
    "negative without guidance": (
        ["a", "--guidance", "1", "--negative-prompt", "b"],
        "negative_prompt: has no effect at guidance",
    ),
    "size": (["a", "--size", "40"], "size: 40 given, allowed are multiples of 16"),
    "no size": (["a", "--size", "big"], "size: 'big' given"),
    "scheduler": (["a", "--scheduler", "euller"], "allowed are euler, heun, dpm, lcm (did you mean 'euler'?)"),
    "folder as picture": (["a", "-o", "x.png"], "out: 'x.png' given, allowed is a folder"),
    "sheet": (["a", "--sheet", "x.jpg"], "sheet: 'x.jpg' given, allowed is a file that ends in .png"),
    "file in the way": (["a", "-o", "taken/out"], "taken' is a file, so 'taken/out' cannot be a folder"),
    "unwritable": (["a", "-o", "/proc/pochade"], "out: '/proc/pochade' cannot be written to"),
    "device": (["a", "--device", "gpu"], "device: 'gpu' given, allowed are auto, cpu, cuda, mps"),
    "precision": (["a", "--precision", "int8"], "precision: 'int8' given, allowed are auto, fp32, bf16, fp16"),
    "no interval": (["a", "--guidance-interval", "0.5"], "guidance_interval: '0.5' given, allowed are two times"),
    "interval": (["a", "--guidance-interval", "0.5,0.2"], "guidance_interval: (0.5, 0.2) given, allowed are two times"),
    "fast and steps": (["a", "--fast", "--steps", "2"], "steps: 2 given beside fast, which chooses it"),
    "fast and a budget": (["a", "--fast", "--budget", "1s"], "budget: '1s' given beside fast, which chooses it"),
    "depth": (["a", "--depth", "65"], "depth: 65 given, allowed are 1 to 64"),
    "scale alone": (["a", "--image-prompt-scale", "2"], "image_prompt_scale: 2.0 given without an image prompt"),
    "like": (["--like", "taken"], "taken: not a readable PNG"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(generate: Any, case: str) -> None:
    Path("taken").write_text("mine")
    arguments, message = BAD[case]
    done = generate(*arguments, code=2)
    assert done.error.startswith("error: ")
    assert message in done.error
    assert "\n" not in done.error
    assert done.out == ""
    assert [p.name for p in Path.cwd().iterdir()] == ["taken"]
    assert Path("taken").read_text() == "mine"


def test_bad_models(generate: Any, toy_pipeline_folder: Path) -> None:
    done = generate("a", model="lrf-openmojy", code=2)
    assert done.error.startswith("error: model: 'lrf-openmojy' is neither a shipped model")
    done = generate("a", "--depth", "4", model="microforge-edit", code=2)
    assert done.error == "error: depth: 4 given, but this model does not iterate: allowed is none"
    shutil.copytree(toy_pipeline_folder, "pickled")
    weights = Path("pickled/denoiser/diffusion_pytorch_model.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    done = generate("a", model="pickled", code=2)
    assert "a pickle can run code when it is loaded: allow_pickle=True (--allow-pickle)" in done.error
    # Requested, it is read, and it is none.
    done = generate("a", "--allow-pickle", model="pickled", code=2)
    assert "cannot be read with weights_only=True" in done.error
    assert not Path("out").exists()


def test_a_diverged_model_is_a_failure(generate: Any, toy_pipeline_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(toy_pipeline_folder, "diverged")
    path = Path("diverged/denoiser/diffusion_pytorch_model.safetensors")
    save_file({k: v * float("nan") for k, v in load_file(path).items()}, path)
    done = generate("a", model="diverged", code=1)
    assert "latents: not finite in picture 0" in done.error
    assert list(Path("out").iterdir()) == []


def test_processes_share_the_pictures(
    capsys: Any, toy_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes as torchrun starts them: together the files of one, bit for bit."""
    common = ("generate", "a", "b", "c", "--model", str(toy_pipeline_folder), "--steps", "1", "--device", "cpu")
    cli(capsys, *common, "--seed", "5", "-o", str(tmp_path / "one"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares: list[list[str]] = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        printed = cli(capsys, *common, "--seed", "5", "-o", str(tmp_path / "two")).out
        shares.append([Path(line).name for line in printed.splitlines()])
    assert shares == [["a-5.png", "c-7.png"], ["b-6.png"]]
    made = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert made[0] == made[1]
    assert "seed: none given to several processes" in cli(capsys, *common, "-o", str(tmp_path / "x"), code=2).error
    error = cli(capsys, *common, "--seed", "5", "--sheet", str(tmp_path / "sheet.png"), code=2).error
    assert "sheet: " in error
    assert "several processes" in error
