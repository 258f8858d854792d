"""pochade edit, inpaint and upscale."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli.run import Outcome, cli
from pochade.pipelines.metadata import KEY, read_metadata
from pochade.pipelines.requests import EditRequest


@pytest.fixture
def run(toy_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """A command in a folder with a picture, its mask, and one with a transparent part."""
    monkeypatch.chdir(tmp_path)
    image = Image.radial_gradient("L").resize((40, 24))
    image = Image.merge("RGB", (image, image.transpose(Image.Transpose.ROTATE_180), image.point(lambda v: 255 - v)))
    image.save("in.png")
    mask = Image.new("L", image.size)
    mask.paste(255, (20, 0, 40, 24))
    mask.save("m.png")
    image.putalpha(Image.fromarray(255 - np.asarray(mask)))
    image.save("clear.png")

    def call(*arguments: str, code: int = 0, model: Path = toy_pipeline_folder) -> Outcome:
        return cli(capsys, *arguments, "--model", str(model), "--steps", "2", code=code)

    return call


def pixels(path: str) -> Any:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_edit_with_its_request(run: Any, toy_pipeline_folder: Path) -> None:
    done = run("edit", "in.png", "a red apple", "-o", "new/out.png", "--seed", "3", "--strength", "0.5", "--size", "48")
    assert done.out == "new/out.png\n"
    metadata = read_metadata("new/out.png")
    assert metadata.request == EditRequest(
        "a red apple",
        source="in.png",
        strength=0.5,
        seed=3,
        size=48,
        steps=2,
        guidance=3.0,
        guidance_interval=(0.0, 1.0),
        instruction=False,
        model=str(toy_pipeline_folder),
        device="cpu",
        precision="fp32",
    )
    assert metadata.sha256["source"] == hashlib.sha256(Path("in.png").read_bytes()).hexdigest()
    assert (metadata.width, metadata.height) == (40, 24)
    assert pixels("new/out.png").shape == (24, 40, 3)
    message = run("generate", "--like", "new/out.png", code=2).error
    assert message == (
        "error: like: the picture was made by pochade edit, which repeats it; allowed are those of pochade generate"
    )


def test_beside_the_input_and_never_over_a_file(run: Any) -> None:
    before = Path("in.png").read_bytes()
    arguments = ("edit", "in.png", "apple", "--seed", "3")
    assert run(*arguments).out == "in-edited.png\n"
    assert run(*arguments).out == "in-edited-2.png\n"
    assert Path("in-edited.png").read_bytes() == Path("in-edited-2.png").read_bytes()
    assert run(*arguments, "-o", "in.png", "--no-metadata").out == "in-2.png\n"
    assert Path("in.png").read_bytes() == before
    with Image.open("in-2.png") as image:
        assert KEY not in image.info
    assert (pixels("in-2.png") == pixels("in-edited.png")).all()


def test_inpaint_keeps_what_is_outside_the_mask(run: Any) -> None:
    run("inpaint", "in.png", "a red apple", "--mask", "m.png", "-o", "out.png", "--seed", "3")
    before, after, marked = pixels("in.png"), pixels("out.png"), pixels("m.png") > 0
    assert (before[~marked] == after[~marked]).all()
    assert (before[marked] != after[marked]).any()
    metadata = read_metadata("out.png")
    assert isinstance(metadata.request, EditRequest)
    assert (metadata.request.task, metadata.request.mask) == ("inpaint", "m.png")
    assert metadata.sha256["mask"] == hashlib.sha256(Path("m.png").read_bytes()).hexdigest()


def test_the_transparent_part_as_mask(run: Any) -> None:
    done = run("inpaint", "clear.png", "apple", "--mask", "alpha", "-o", "out.png", "--seed", "3", "--compare")
    assert done.error == ""
    kept = pixels("m.png") == 0
    assert (pixels("out.png")[kept] == pixels("in.png")[kept]).all()
    assert json.loads(read_metadata("out.png").to_json())["mask"] == "alpha"
    page = pixels("out-compare.png")
    assert page.shape == (24, 3 * 48 - 8, 3)
    assert (page[:, 48:88] == pixels("m.png")).all()
    assert run("edit", "clear.png", "apple").error == "warning: clear.png: what is transparent is taken as white"


def test_upscale_and_compare(run: Any) -> None:
    done = run("upscale", "in.png", "--factor", "4", "--compare", "--json")
    (made,) = json.loads(done.out)
    assert (made["file"], made["compare"]) == ("in-4x.png", "in-4x-compare.png")
    assert (made["task"], made["guidance"], made["prompt"], made["width"]) == ("super_resolution", 1.0, "", 160)
    assert pixels("in-4x.png").shape == (96, 160, 3)
    page = pixels("in-4x-compare.png")
    assert page.shape == (96, 328, 3)
    assert (page[:, 168:] == pixels("in-4x.png")).all()
    assert run("upscale", "in.png", "a red apple").out == "in-2x.png\n"


def test_changes_to_a_mask_or_a_picture_give_warnings(run: Any) -> None:
    grey = Image.open("m.png")
    grey.putpixel((0, 0), 200)
    grey.save("grey.png")
    message = run("inpaint", "in.png", "apple", "--mask", "grey.png", "--compare").error
    assert message == (
        "warning: mask: 1 of 960 pixels are grey, those from the middle on are taken as white (soft_mask=True, "
        "--soft-mask, takes them as they are)"
    )
    Image.new("L", (40, 24), 255).save("full.png")
    assert "mask: all of it is white" in run("inpaint", "in.png", "apple", "--mask", "full.png").error
    assert "strength: at 1 nothing of the picture" in run("edit", "in.png", "apple", "--strength", "1").error
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save("moving.webp", save_all=True, append_images=frames[1:])
    assert run("edit", "moving.webp", "apple").error == "warning: moving.webp: animated, the first picture is taken"


def test_a_sentence_is_an_instruction_where_the_model_was_trained_to_edit(run: Any, toy_editor_folder: Path) -> None:
    def made(*arguments: str) -> Any:
        (row,) = json.loads(run("edit", "in.png", "a red apple", "--seed", "3", "--json", *arguments, **able).out)
        return row

    able = {"model": toy_editor_folder}
    usual = made()
    assert (usual["task"], usual["instruction"], usual["image_guidance"], usual["strength"]) == ("edit", True, 1.5, 1.0)
    assert json.loads(read_metadata(usual["file"]).to_json())["instruction"] is True
    explicit, nearer = made("--as", "instruction", "--image-guidance", "1.5"), made("--image-guidance", "4")
    assert Path(explicit["file"]).read_bytes() == Path(usual["file"]).read_bytes()
    assert (nearer["image_guidance"], (pixels(nearer["file"]) != pixels(usual["file"])).any()) == (4.0, True)
    shown = made("--as", "description")
    assert (shown["instruction"], shown["image_guidance"], shown["strength"]) == (False, None, 0.6)
    assert (pixels(shown["file"]) != pixels(usual["file"])).any()
    plain = json.loads(read_metadata(run("edit", "in.png", "a red apple").out.strip()).to_json())
    assert (plain["instruction"], plain["strength"]) == (False, 0.6)


def test_inpaint_by_an_instruction(run: Any, toy_editor_folder: Path) -> None:
    arguments = ("inpaint", "in.png", "make it green", "--mask", "m.png", "--seed", "3", "--json")
    rows = [
        json.loads(run(*arguments, *more, model=toy_editor_folder).out)[0]
        for more in ((), ("--as", "description"), ("--as", "instruction"), ("--as", "instruction", "--compare"))
    ]
    assert [(row["instruction"], row["image_guidance"]) for row in rows] == [(False, None)] * 2 + [(True, 1.5)] * 2
    assert {row["task"] for row in rows} == {"inpaint"}
    first, again, edited, _ = (pixels(row["file"]) for row in rows)
    assert (first == again).all()
    marked = pixels("m.png") > 0
    assert (edited[~marked] == pixels("in.png")[~marked]).all()
    assert (edited[marked] != first[marked]).any()


def test_a_model_that_was_trained_to_enlarge_starts_from_noise(run: Any, toy_editor_folder: Path) -> None:
    strengths = [
        json.loads(run("upscale", "in.png", "--json", *more, **model).out)[0]["strength"]
        for more, model in (
            ((), {}),
            ((), {"model": toy_editor_folder}),
            (("--factor", "4"), {"model": toy_editor_folder}),
            (("--strength", "0.5"), {}),
        )
    ]
    assert strengths == [0.2, 0.2, 1.0, 0.5]


BAD = {
    "no file": (["edit", "none.png", "a"], "source: 'none.png' cannot be read (No such file or directory)"),
    "no picture": (["edit", "taken", "a"], "taken: unsupported format (it starts with b'mine'; PNG, JPEG, WebP"),
    "40 megapixels": (["edit", "huge.png", "a"], "huge.png: too large (8000 x 5000 pixels, 25 megapixels allowed)"),
    "what to do with them": (["edit", "huge.png", "a"], ": make it smaller first"),
    "wording": (["edit", "in.png", "a", "--as", "order"], "as: 'order' given, allowed are instruction and description"),
    "no follower": (
        ["edit", "in.png", "a", "--as", "instruction"],
        "instruction: given, but this model follows none, allowed are ",
    ),
    "no follower, mask": (
        ["inpaint", "in.png", "a", "--mask", "m.png", "--as", "instruction"],
        "instruction: given, but this model follows none, allowed are ",
    ),
    "image guidance": (
        ["edit", "in.png", "a", "--image-guidance", "2"],
        "image_guidance: given without an instruction",
    ),
    "no image guidance": (["edit", "in.png", "a", "--image-guidance", "nan"], "image_guidance: nan given"),
    "device": (["edit", "in.png", "a", "--device", "gpu"], "device: 'gpu' given, allowed are auto, cpu, cuda, mps"),
    "interval": (["upscale", "in.png", "--guidance-interval", "1,2"], "guidance_interval: (1.0, 2.0) given"),
    "enlarged by": (["upscale", "in.png", "--strength", "1.5"], "strength: 1.5 given, allowed are numbers above 0, up"),
    "empty prompt": (["edit", "in.png", " "], "prompt: empty, allowed is a sentence"),
    "strength": (["edit", "in.png", "a", "--strength", "0"], "strength: 0.0 given, allowed are numbers above 0, up to"),
    "out": (["edit", "in.png", "a", "-o", "out.jpg"], "out: 'out.jpg' given, allowed is a file that ends in .png"),
    "way": (["edit", "in.png", "a", "-o", "taken/o.png"], "taken' is a file, so 'taken' cannot be a folder"),
    "seed": (["edit", "in.png", "a", "--seed", "-1"], "seed: -1 given"),
    "size": (["edit", "in.png", "a", "--size", "40"], "size: 40 given, allowed are multiples of 16"),
    "scheduler": (["edit", "in.png", "a", "--scheduler", "oiler"], "scheduler: 'oiler' given"),
    "negative": (
        ["edit", "in.png", "a", "--negative-prompt", "b", "--guidance", "1"],
        "negative_prompt: has no effect",
    ),
    "no mask file": (["inpaint", "in.png", "a", "--mask", "none.png"], "mask: 'none.png' cannot be read"),
    "mask size": (
        ["inpaint", "in.png", "a", "--mask", "small.png", "-o", "new/o.png"],
        "mask: 8 x 8 pixels given, allowed is the size of the picture, 40 x 24",
    ),
    "empty mask": (["inpaint", "in.png", "a", "--mask", "black.png", "-o", "new/o.png"], "mask: nothing is white"),
    "blurred away": (
        ["inpaint", "in.png", "a", "--mask", "dot.png", "--mask-blur", "50", "-o", "new/o.png"],
        "mask_blur: 50 pixels given, which leave nothing of the mask",
    ),
    "nothing clear": (
        ["inpaint", "in.png", "a", "--mask", "alpha", "-o", "new/o.png"],
        "mask: 'alpha' given, but the picture has no transparent part",
    ),
    "all opaque": (
        ["inpaint", "opaque.png", "a", "--mask", "alpha", "-o", "new/o.png"],
        "mask: 'alpha' given, but the picture has no transparent part",
    ),
    "depth": (["edit", "in.png", "a", "--depth", "65", "-o", "new/o.png"], "depth: 65 given, allowed are 1 to 64"),
    "guidance": (
        ["edit", "in.png", "a", "--guidance", "1e30"],
        "guidance: 1e+30 given, allowed are numbers from -1000",
    ),
    "factor": (["upscale", "in.png", "--factor", "3"], "factor: 3 given, allowed are 2 and 4"),
    "large result": (
        ["upscale", "wide.png", "--factor", "4"],
        "factor: 40000 x 4000 pixels given, allowed are 1 to 25",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(run: Any, case: str) -> None:
    Path("taken").write_text("mine")
    Image.new("1", (8000, 5000)).save("huge.png")
    Image.new("1", (10000, 1000)).save("wide.png")
    Image.new("L", (8, 8), 255).save("small.png")
    Image.new("L", (40, 24)).save("black.png")
    Image.new("RGBA", (40, 24), "red").save("opaque.png")
    dot = Image.new("L", (40, 24))
    dot.putpixel((9, 9), 255)
    dot.save("dot.png")
    files = {p.name for p in Path.cwd().iterdir()}
    arguments, message = BAD[case]
    done = run(*arguments, code=2)
    assert done.error.startswith("error: ")
    assert message in done.error
    assert "\n" not in done.error
    assert done.out == ""
    assert {p.name for p in Path.cwd().iterdir()} == files


def test_edits_are_repeated_and_changed(run: Any, capsys: Any) -> None:
    def again(*arguments: str, code: int = 0) -> Outcome:
        return cli(capsys, *arguments, code=code)

    run(
        "edit",
        "in.png",
        "a red apple",
        "-o",
        "made/a.png",
        "--seed",
        "3",
        "--strength",
        "0.4",
        "--negative-prompt",
        "cat",
    )
    assert again("edit", "--like", "made/a.png").out == "in-edited.png\n"
    assert Path("in-edited.png").read_bytes() == Path("made/a.png").read_bytes()
    again("edit", "clear.png", "pear", "--like", "made/a.png", "--seed", "4", "-o", "b.png", "--strength", "0.5")
    changed = read_metadata("b.png").request
    assert changed == read_metadata("made/a.png").request.changed(
        source="clear.png", prompt="pear", seed=4, strength=0.5
    )

    run("inpaint", "in.png", "a hat", "--mask", "m.png", "-o", "made/i.png", "--strength", "0.7")
    again("inpaint", "--like", "made/i.png", "-o", "i2.png")
    assert Path("i2.png").read_bytes() == Path("made/i.png").read_bytes()
    run("upscale", "in.png", "-o", "made/u.png", "--factor", "4", "--guidance", "2")
    assert again("upscale", "--like", "made/u.png").out == "in-4x.png\n"
    assert Path("in-4x.png").read_bytes() == Path("made/u.png").read_bytes()

    message = again("upscale", "--like", "made/i.png", code=2).error
    assert message == (
        "error: like: the picture was made by pochade inpaint, which repeats it; allowed are those of pochade upscale"
    )
    Path("in.png").write_bytes(Path("m.png").read_bytes())
    assert again("edit", "--like", "made/a.png", code=2).error.endswith(
        "its source is 'in.png', which is another file now"
    )


def test_several_pictures_of_an_edit(run: Any) -> None:
    done = run("edit", "in.png", "apple", "-n", "2", "--seed", "3", "--json")
    assert [(made["file"], made["seed"]) for made in json.loads(done.out)] == [
        ("in-edited.png", 3),
        ("in-edited-2.png", 4),
    ]
    run("edit", "in.png", "apple", "--seed", "4", "-o", "alone.png")
    assert (pixels("alone.png") == pixels("in-edited-2.png")).all()
    Path("edits.txt").write_text("a red apple\na pear\n")
    run("edit", "in.png", "@edits.txt", "--seed", "3", "-o", "both.png", "--compare")
    assert [read_metadata(name).request.prompt for name in ("both.png", "both-2.png")] == ["a red apple", "a pear"]
    assert Path("both-2-compare.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("edit",), "source: none given, allowed is the file of a picture, or --like FILE.png"),
        (("edit", "in.png"), "prompt: none given, allowed is a sentence such as 'a green apple', or --like FILE.png"),
        (("inpaint", "in.png", "x"), "mask: none given, allowed is the file of a mask, or alpha, or --like FILE.png"),
        (("upscale",), "source: none given, allowed is the file of a picture, or --like FILE.png"),
    ],
)
def test_what_an_edit_needs(run: Any, arguments: tuple[str, ...], message: str) -> None:
    assert run(*arguments, code=2).error == f"error: {message}"


def test_soft_blurred_and_inverted_masks_are_repeated(run: Any, capsys: Any) -> None:
    arguments = ("inpaint", "in.png", "a hat", "--mask", "m.png", "--seed", "3")
    run(*arguments, "--soft-mask", "--mask-blur", "1.5", "--invert-mask", "-o", "soft.png", "--compare")
    request = read_metadata("soft.png").request
    assert isinstance(request, EditRequest)
    assert (request.soft_mask, request.mask_blur, request.invert_mask) == (True, 1.5, True)
    assert (pixels("soft.png") != pixels("in.png"))[:, :10].any()
    assert (pixels("soft.png") == pixels("in.png"))[:, 30:].all()
    assert (pixels("soft-compare.png")[:, 40:60].min(2) > 250).any()
    cli(capsys, "inpaint", "--like", "soft.png", "-o", "again.png")
    assert Path("again.png").read_bytes() == Path("soft.png").read_bytes()
    cli(capsys, "inpaint", "--like", "soft.png", "-o", "hard.png", "--hard-mask", "--mask-blur", "0")
    assert read_metadata("hard.png").request == request.changed(soft_mask=False, mask_blur=0.0)
    refused = "error: mask_blur: given for the mask 'alpha', allowed is the file of a mask"
    assert run("inpaint", "clear.png", "a hat", "--mask", "alpha", "--mask-blur", "2", code=2).error == refused
