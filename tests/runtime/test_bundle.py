"""A bundle as a model, beside the pipelines that it was exported from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from pochade.errors import FailureError, PochadeError
from pochade.export.bundle import export_bundle, model_facts
from pochade.files import sha256
from pochade.pipelines.image_to_image import ImageToImagePipeline
from pochade.pipelines.inpaint import InpaintPipeline
from pochade.pipelines.metadata import read_metadata
from pochade.pipelines.requests import EditRequest, GenerationRequest
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.runtime import Bundle, Step
from pochade.runtime.graphs import open_onnx
from pochade.runtime.masks import EditingWarning
from pochade.runtime.pictures import read_recipe
from pochade.runtime.sampling import Guidance
from pochade.runtime.tokens import PromptTruncatedWarning, PromptUnknownWarning, cut, token_ids, unknown_share, warn_of
from pochade.text_encoders.bag import BagEncoder
from pochade.text_encoders.minilm import MiniLMEncoder

STEPS = 3


@pytest.fixture(scope="module")
def bundle(toy_bundle: Path) -> Bundle:
    return Bundle(toy_bundle)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Smooth, 32 x 32."""
    y, x = np.mgrid[0:32, 0:32] / 31
    return Image.fromarray((255 * np.stack((x, y, (x + y) / 2), -1)).astype(np.uint8))


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    marked = Image.new("L", (32, 32))
    marked.paste(255, (4, 4, 20, 28))
    return marked


def difference(picture: Any, image: Image.Image) -> int:
    """The largest, of 255."""
    return int(np.abs(np.asarray(picture.image, dtype=int) - np.asarray(image, dtype=int)).max())


def eager(kind: Any, folder: Path, **arguments: Any) -> Image.Image:
    pipe = kind.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe(**arguments, num_inference_steps=STEPS, generator=[torch.Generator().manual_seed(7)]).images[0]


@pytest.mark.parametrize(
    "more",
    [
        {"guidance": 1.0},
        {"guidance": 3.0},
        {"guidance": 2.0, "negative_prompt": "a sleeping cat"},
        {"guidance": 3.0, "guidance_interval": (0.3, 0.8)},
    ],
)
def test_pictures_are_those_of_eager(bundle: Bundle, toy_editor_folder: Path, more: dict[str, Any]) -> None:
    got = bundle.generate("a red apple", seed=7, steps=STEPS, **more)
    arguments = {"guidance_scale" if name == "guidance" else name: value for name, value in more.items()}
    assert difference(got, eager(TextToImagePipeline, toy_editor_folder, prompt="a red apple", **arguments)) <= 2


def test_a_time_at_the_end_of_the_interval_is_guided_as_in_eager(bundle: Bundle, toy_editor_folder: Path) -> None:
    options: dict[str, Any] = {"guidance_interval": (0.4, 0.8)}
    got = bundle.generate("a red apple", seed=7, steps=5, guidance=5.0, **options)
    pipe = TextToImagePipeline.from_pretrained(toy_editor_folder)
    pipe.set_progress_bar_config(disable=True)

    def made(interval: tuple[float, float]) -> Image.Image:
        generator = [torch.Generator().manual_seed(7)]
        return pipe("a red apple", None, 5, 5.0, generator=generator, guidance_interval=interval).images[0]

    assert difference(got, made((0.4, 0.8))) <= 2
    assert difference(got, made((0.41, 0.79))) > 2
    assert [Guidance(5.0, None, (0.4, 0.8)).rows(float(np.float32(n / 5))) for n in range(6)] == [1, 1, 2, 2, 2, 1]


def test_a_bundle_guides_at_the_times_of_its_model(
    toy_editor_folder: Path, tmp_path: Path, picture: Image.Image
) -> None:
    pipe = TextToImagePipeline.from_pretrained(toy_editor_folder, default_guidance_low=0.4, default_guidance_high=0.8)
    pipe.save_pretrained(tmp_path / "model")
    export_bundle(pipe, tmp_path / "bundle", model_facts("toy", tmp_path / "model"))
    own = Bundle(tmp_path / "bundle")
    assert own.manifest.defaults.guidance_interval == (0.4, 0.8)
    given: dict[str, Any] = {"seed": 7, "steps": 3, "guidance": 3.0}
    got = own.generate("a red apple", **given)
    assert got.recipe["guidance_interval"] == [0.4, 0.8]
    assert np.array_equal(got.image, own.generate("a red apple", **given, guidance_interval=(0.4, 0.8)).image)
    assert difference(got, own.generate("a red apple", **given, guidance_interval=(0, 1)).image) > 0
    assert own.edit("two pears", picture, **given).recipe["guidance_interval"] == [0, 1]
    one: dict[str, Any] = {"seed": 7, "steps": 1, "guidance": 3.0}
    for call in (own.generate, own.check):
        with pytest.raises(
            PochadeError, match=r"^negative_prompt: has no effect, since no step's time, 1, lies in the"
        ):
            call("a red apple", **one, negative_prompt="green")
        call("a red apple", **one)  # all that was given has an effect


def test_edits_are_those_of_eager(
    bundle: Bundle, toy_editor_folder: Path, picture: Image.Image, mask: Image.Image
) -> None:
    def same(got: Any, kind: Any, **arguments: Any) -> None:
        assert difference(got, eager(kind, toy_editor_folder, image=picture, **arguments)) <= 2

    given: dict[str, Any] = {"seed": 7, "steps": STEPS}
    same(bundle.edit("two pears", picture, **given), ImageToImagePipeline, instruction="two pears")
    got = bundle.edit("two pears", picture, **given, instruction=False, strength=0.7)
    same(got, ImageToImagePipeline, prompt="two pears", strength=0.7)
    got = bundle.edit("two pears", picture, **given, image_guidance=2.5, guidance=2.0)
    same(got, ImageToImagePipeline, instruction="two pears", image_guidance_scale=2.5, guidance_scale=2.0)
    same(bundle.inpaint("two pears", picture, mask, **given), InpaintPipeline, prompt="two pears", mask_image=mask)
    got = bundle.inpaint("two pears", picture, mask, **given, instruction=True)
    same(got, InpaintPipeline, instruction="two pears", mask_image=mask)
    large = picture.resize((90, 90))
    hole = Image.new("L", (90, 90))
    hole.paste(255, (50, 10, 80, 30))
    got = bundle.inpaint("two pears", large, hole, **given)
    want = eager(InpaintPipeline, toy_editor_folder, image=large, prompt="two pears", mask_image=hole)
    assert difference(got, want) <= 2
    got = bundle.inpaint("two pears", picture, mask, **given)
    assert (np.asarray(got.image)[:, 21:] == np.asarray(picture)[:, 21:]).all(), "outside the mask no pixel changes"


def test_a_picture_of_any_size_is_edited_and_enlarged(bundle: Bundle) -> None:
    wide = Image.linear_gradient("L").resize((50, 20)).convert("RGB")
    assert bundle.edit("a cat", wide, steps=1).image.size == (50, 20)
    assert bundle.upscale(wide, steps=1, factor=4).image.size == (200, 80)
    large = bundle.upscale(wide, steps=2, seed=7)
    assert large.image.size == (100, 40)
    smaller = np.asarray(large.image, dtype=float).reshape(20, 2, 50, 2, 3).mean((1, 3))
    assert np.abs(smaller - np.asarray(wide)).mean() < 2, "made smaller, it is the source"


def test_a_seed_gives_a_picture_to_the_bit(bundle: Bundle, toy_bundle: Path) -> None:
    first = bundle.generate("a red apple", seed=7, steps=2)
    again = Bundle(toy_bundle).generate("a red apple", seed=7, steps=2)
    in_turn = Bundle(toy_bundle, low_memory=True).generate("a red apple", seed=7, steps=2)
    assert first.image.tobytes() == again.image.tobytes() == in_turn.image.tobytes()
    assert first.image.tobytes() != bundle.generate("a red apple", seed=8, steps=2).image.tobytes()
    assert first.image.tobytes() != bundle.generate("a sleeping cat", seed=7, steps=2).image.tobytes()
    assert bundle.generate("", steps=1).recipe["seed"] != bundle.generate("", steps=1).recipe["seed"]


def test_steps_are_told_and_previewed_and_a_call_can_be_cancelled(bundle: Bundle) -> None:
    seen: list[tuple[int, int]] = []
    last: list[Image.Image] = []

    def watch(step: Step) -> None:
        seen.append((step.number, step.total))
        last.append(step.preview())

    done = bundle.generate("a red apple", seed=7, steps=3, on_step=watch)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert last[-1].tobytes() == done.image.tobytes()
    assert last[0].tobytes() != done.image.tobytes()

    def stop(step: Step) -> None:
        if step.number == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        bundle.generate("a red apple", steps=3, on_step=stop)


def test_a_saved_picture_says_how_it_was_made(bundle: Bundle, picture: Image.Image, tmp_path: Path) -> None:
    made = bundle.generate("a red apple", seed=7, steps=2, guidance=2.0)
    path = made.save(tmp_path / "apple.png")
    assert made.save(tmp_path / "apple.png").name == "apple-2.png"
    assert read_recipe(path) == json.loads(json.dumps(made.recipe))
    known = read_metadata(path)
    assert known.request == GenerationRequest(
        "a red apple",
        **{"seed": 7, "steps": 2, "guidance": 2.0, "guidance_interval": (0.0, 1.0), "model": "toy-editor"},
        **{"height": 32, "width": 32, "depth": 2, "device": "cpu", "precision": "fp32"},
    )
    assert known.sha256["model"] == bundle.manifest.model.sha256
    picture.save(tmp_path / "source.png")
    edited = bundle.edit("a cat", tmp_path / "source.png", seed=1, steps=1).save(tmp_path / "edited.png")
    request = read_metadata(edited).request
    assert isinstance(request, EditRequest)
    assert (request.source, request.instruction, request.strength) == (str(tmp_path / "source.png"), True, 1.0)
    with pytest.raises(PochadeError, match=r"out: '.*apple.jpg' given, allowed is a name that ends in .png"):
        made.save(tmp_path / "apple.jpg")


def test_a_prompt_that_is_too_long_is_cut_with_a_word(bundle: Bundle, toy_editor_folder: Path) -> None:
    prompt = "a red apple and a sleeping cat " * 20
    with pytest.warns(PromptTruncatedWarning, match=r"prompt: \d+ tokens, the text encoder reads 32: the last \d+ are"):
        got = bundle.generate(prompt, seed=7, steps=STEPS)
    with pytest.warns(UserWarning, match="prompt: "):
        want = eager(TextToImagePipeline, toy_editor_folder, prompt=prompt)
    assert difference(got, want) <= 2


def test_prompts_are_read_as_by_the_text_encoder() -> None:
    """MiniLM names emoji that its vocabulary does not have; most of another script is unknown to it."""
    encoder = MiniLMEncoder()
    words = Tokenizer.from_str(encoder.tokenizer_json())
    for prompt in ("a 🍎 in the ❄️", "👍🏽", "25° ★", "ꦲꦏ ꦱꦫ", "a fox", "\udcff", "", "🐱" * 40):
        ids, _ = encoder.tokenize([prompt])
        assert cut(token_ids(words, prompt), encoder.max_tokens, encoder.closing_tokens) == ids[0].tolist()
        assert unknown_share(words, prompt) == encoder.unknown(prompt)
    with pytest.warns(PromptUnknownWarning, match="prompt: 'ꦲꦏ ꦱꦫ' is mostly unknown"):
        warn_of("prompt", "ꦲꦏ ꦱꦫ", 4, 64, unknown_share(words, "ꦲꦏ ꦱꦫ"), stacklevel=1)
    with pytest.warns(PromptUnknownWarning) as found:
        warn_of("prompt", "a" * 20_000, 3, 64, 1.0, stacklevel=1)
    assert len(str(found[0].message)) < 200


def test_masks_are_those_of_eager(
    bundle: Bundle, toy_editor_folder: Path, picture: Image.Image, mask: Image.Image, tmp_path: Path
) -> None:
    """Soft, blurred, inverted, and a source that is transparent, which stays so outside the mask."""
    soft, clear = Image.new("L", (32, 32)), picture.convert("RGBA")
    soft.paste(Image.linear_gradient("L").resize((16, 20)), (8, 6))
    clear.putalpha(Image.linear_gradient("L").resize((32, 32)))
    for source, marked, more in (
        (picture, soft, {"soft_mask": True}),
        (picture, mask, {"mask_blur": np.float32(2)}),
        (picture, mask, {"invert_mask": True}),
        (clear, mask, {}),
        (clear, soft, {"soft_mask": True, "mask_blur": 1.5}),
        (clear, "alpha", {}),
    ):
        before = source.tobytes()
        got = bundle.inpaint("two pears", source, marked, seed=7, steps=np.int64(STEPS), **more)
        arguments = {"prompt": "two pears", "image": source, "mask_image": marked, **more}
        want = eager(InpaintPipeline, toy_editor_folder, **arguments)
        assert got.image.mode == want.mode == ("RGBA" if source is clear and marked != "alpha" else "RGB")
        assert difference(got, want) <= 2
        assert source.tobytes() == before, "what was given is not changed"
        recipe = read_recipe(got.save(tmp_path / "a.png"))
        assert {name: recipe[name] for name in more} == more
    outside = np.asarray(mask) == 0
    got = bundle.inpaint("two pears", clear, mask, seed=7, steps=1)
    assert (np.asarray(got.image)[outside] == np.asarray(clear)[outside]).all()
    with pytest.raises(PochadeError, match="mask: 'alpha' given, but the picture has no transparent part"):
        bundle.inpaint("two pears", picture, "alpha")
    opaque = np.full((*picture.size[::-1], 1), 255, dtype=np.uint8)
    with pytest.raises(PochadeError, match="mask: 'alpha' given, but the picture has no transparent part"):
        bundle.inpaint("two pears", Image.fromarray(np.concatenate((np.asarray(picture), opaque), -1)), "alpha")
    grey = mask.copy()
    grey.paste(100, (0, 0, 32, 1))
    with pytest.warns(EditingWarning, match="mask: 32 of 1024 pixels are grey"):
        bundle.inpaint("two pears", picture, grey, steps=1)
    with pytest.warns(EditingWarning, match="image: picture: what is transparent is taken as white"):
        bundle.edit("two pears", clear, steps=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b, p: b.generate("a", seed=-1), r"seed: -1 given, allowed are whole numbers in \[0, "),
        (lambda b, p: b.generate("a", steps=0), "steps: 0 given, allowed is a whole number from 1 to 10000"),
        (lambda b, p: b.generate("a", guidance=float("nan")), "guidance: nan given"),
        (lambda b, p: b.generate("a", guidance_interval=(0.5, 0.5)), "guidance_interval: "),
        (lambda b, p: b.generate("a", guidance=1, negative_prompt="b"), "negative_prompt: has no effect"),
        (
            lambda b, p: b.generate("a", guidance=9, guidance_interval=(0.9, 0.91), negative_prompt="b", steps=2),
            "guidance_interval: 0.9,0.91 given, in which no step's time lies: allowed is one with any of 1, 0.5$",
        ),
        (
            lambda b, p: b.edit("a", p, guidance=9, guidance_interval=(0.9, 1), steps=2, strength=0.5),
            "guidance_interval: 0.9,1 given, in which no step's time lies: allowed is one with any of 0.5$",
        ),
        (lambda b, p: b.generate("a", depth=9), "depth: 9 given, the bundle has 2"),
        (lambda b, p: b.edit("a", p, strength=0), "strength: 0 given"),
        (lambda b, p: b.edit("a", p, instruction=False, image_guidance=2), "image_guidance: given without"),
        (lambda b, p: b.inpaint("a", p, Image.new("L", (8, 8), 255)), "mask: 8 x 8 pixels given, allowed is"),
        (lambda b, p: b.inpaint("a", p, Image.new("L", (32, 32))), "mask: nothing is white"),
        (lambda b, p: b.upscale(p, factor=3), "factor: 3 given, allowed are 2 and 4"),
        (lambda b, p: b.edit("a", "none.png"), "image: none.png: unreadable"),
        (lambda b, p: b.generate(None), "prompt: None given, allowed is a sentence"),
        (lambda b, p: b.generate("a", negative_prompt=b"b"), "negative_prompt: b'b' given, allowed is a sentence"),
        (lambda b, p: b.generate("a", on_step=5), "on_step: 5 given, allowed is a function"),
        (lambda b, p: b.edit("a", 5), "image: 5 given, allowed is a picture of Pillow or the path of a file"),
        (lambda b, p: b.inpaint("a", p, np.ones((32, 32))), "mask: array.* given, allowed is a picture of Pillow"),
        (lambda b, p: b.inpaint("a", p, p, soft_mask="no"), "soft_mask: 'no' given, allowed are True and False"),
        (lambda b, p: Bundle(None), "bundle: None given, allowed is the path of a folder"),
        (lambda b, p: Bundle(b.folder, threads="2"), "threads: '2' given, allowed is a whole number"),
        (lambda b, p: Bundle(b.folder, threads=9999), "threads: 9999 given, allowed is a whole number from 1 to 256"),
        (
            lambda b, p: b.generate("a", step=1),
            r"step: no such option; what every .*did you mean .steps.",
        ),
        (lambda b, p: b.edit("a", p, sed=1), r"sed: no such option; .*did you mean 'seed'"),
        (lambda b, p: Bundle("bun\0dle"), r"bundle: 'bun\\x00dle' given, allowed is the path of a folder"),
        (lambda b, p: b.generate("a", depth="2"), "depth: '2' given, the bundle has 2"),
        (lambda b, p: b.edit("a", Image.new("RGB", (0, 3))), "image: 0 x 3 pixels given, allowed are 1 to 25 megapix"),
        (lambda b, p: b.edit("a", Image.new("F", (8, 8))), "image: unsupported format .its pixels are fractions"),
        (lambda b, p: b.inpaint("a", p, Image.new("F", (32, 32), 1)), "mask: unsupported format .its pixels are frac"),
        (lambda b, p: b.upscale(p.resize((2000, 2000)), factor=4), "factor: 8000 x 8000 pixels given, allowed are 1 t"),
    ],
)
def test_wrong_use_is_an_error_before_any_work(
    bundle: Bundle, picture: Image.Image, call: Callable[[Bundle, Image.Image], object], message: str
) -> None:
    with pytest.raises(PochadeError, match=message):
        call(bundle, picture)


def test_a_file_that_is_missing_altered_or_cut_off_is_named(toy_bundle: Path, tmp_path: Path) -> None:
    of_another_model = BagEncoder.train_tokenizer(["other words", "of another model"], 260)
    for name, break_it, message in (
        ("denoiser.onnx", lambda path: path.unlink(), "denoiser.onnx: missing from the bundle"),
        (
            "decoder.onnx",
            lambda path: path.write_bytes(path.read_bytes()[:-9]),
            r"decoder.onnx: altered or cut off: [\d,]+ b",
        ),
        ("text_encoder.onnx", flip, "text_encoder.onnx: altered or cut off: SHA-256 "),
        (
            "tokenizer.json",
            lambda path: path.write_text(of_another_model),
            r"tokenizer.json: altered or cut off: [\d,]+ b",
        ),
    ):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        shutil.copytree(toy_bundle, tmp_path / "b")
        break_it(tmp_path / "b" / name)
        with pytest.raises(PochadeError, match=message):
            Bundle(tmp_path / "b").generate("a cat", steps=1)
    with pytest.raises(PochadeError, match=r"bundle: '.*nothing' holds no readable manifest.json"):
        Bundle(tmp_path / "nothing")


def test_a_graph_that_does_not_take_its_inputs_is_named(toy_bundle: Path, tmp_path: Path) -> None:
    """The tokens of a tokenizer of another model, of which the manifest has the hash."""
    shutil.copytree(toy_bundle, tmp_path / "b")
    tokenizer, manifest = tmp_path / "b" / "tokenizer.json", tmp_path / "b" / "manifest.json"
    words = json.loads(tokenizer.read_text())
    words["model"]["vocab"] = {word: i + 5000 for word, i in words["model"]["vocab"].items()}
    tokenizer.write_text(json.dumps(words))
    said = json.loads(manifest.read_text())
    said["files"]["tokenizer.json"] = {"bytes": tokenizer.stat().st_size, "sha256": sha256(tokenizer)}
    manifest.write_text(json.dumps(said))
    with pytest.raises(
        FailureError, match=r"text_encoder.onnx: the runtime refuses the graph: .*indices element out of"
    ):
        Bundle(tmp_path / "b").generate("a cat", steps=1)


def test_a_graph_that_is_a_folder_is_checked_file_by_file(toy_bundle: Path, tmp_path: Path) -> None:
    """As those of Core ML are."""
    folder = tmp_path / "b"
    shutil.copytree(toy_bundle, folder)
    (folder / "decoder.mlpackage" / "Data").mkdir(parents=True)
    inside = (folder / "decoder.onnx").rename(folder / "decoder.mlpackage" / "Data" / "model.onnx")
    said = json.loads((folder / "manifest.json").read_text())
    said["graphs"]["decoder"]["file"] = "decoder.mlpackage"
    said["files"]["decoder.mlpackage/Data/model.onnx"] = said["files"].pop("decoder.onnx")
    (folder / "manifest.json").write_text(json.dumps(said))

    def opens(path: Path, *rest: Any) -> Any:
        return open_onnx(path / "Data" / "model.onnx" if path.is_dir() else path, *rest)

    picture = Bundle(folder, openers={"onnx": opens}).generate("a cat", seed=7, steps=1)
    assert picture.image.tobytes() == Bundle(toy_bundle).generate("a cat", seed=7, steps=1).image.tobytes()
    flip(inside)
    with pytest.raises(PochadeError, match=r"decoder.mlpackage/Data/model.onnx: altered or cut off: SHA-256 "):
        Bundle(folder, openers={"onnx": opens}).generate("a cat", steps=1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_is_no_picture_is_a_failure(
    bundle: Bundle, picture: Image.Image, mask: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bundle._graphs.run
    monkeypatch.setattr(
        bundle._graphs,
        "run",
        lambda name, values: [0 * part for part in run(name, values)] if name == "decoder" else run(name, values),
    )
    white, most = Image.new("RGB", (32, 32), "white"), Image.new("L", (32, 32), 255)
    nearly = white.copy()
    nearly.putpixel((3, 4), (250, 250, 250))
    for call in (
        lambda: bundle.generate("a cat", steps=1),
        lambda: bundle.edit("a cat", picture, steps=1),
        lambda: bundle.upscale(picture, steps=1),
    ):
        with pytest.raises(FailureError, match="picture: one flat colour came out"):
            call()
    with pytest.warns(EditingWarning), pytest.raises(FailureError, match="picture: one flat colour came out"):
        bundle.inpaint("a cat", picture, most, steps=1)
    for source in (white, nearly):
        assert bundle.edit("a cat", source, steps=1).image.size == (32, 32)
        assert bundle.upscale(source, steps=1).image.size == (64, 64)
    for source in (picture, nearly):  # what is new may have the colour of the paper around it
        assert bundle.inpaint("a cat", source, mask, steps=1).image.size == (32, 32)
    monkeypatch.setattr(
        bundle._graphs,
        "run",
        lambda name, values: [part * np.nan for part in run(name, values)] if name == "decoder" else run(name, values),
    )
    with pytest.raises(FailureError, match="picture: NaN came out"):
        bundle.edit("a cat", white, steps=1)


@pytest.mark.parametrize("interval", [None, [0.4, 0.8]])
def test_the_host_of_the_documentation_gives_the_same_picture(
    toy_bundle: Path, tmp_path: Path, interval: list[float] | None
) -> None:
    folder = shutil.copytree(toy_bundle, tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["defaults"].pop("guidance_interval")
    manifest["defaults"] |= {} if interval is None else {"guidance_interval": interval}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    text = (Path(__file__).parents[2] / "docs" / "on-device.md").read_text(encoding="utf-8")
    code = text.partition("### In Python\n")[2].partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    got = names["sample"](str(folder), "a red apple", 7, 4, 3.0)
    assert difference(Bundle(folder).generate("a red apple", seed=7, steps=4, guidance=3.0), got) == 0
