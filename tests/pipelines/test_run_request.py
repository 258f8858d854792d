"""Requests to pictures in Python, and the same pictures again from their files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import pochade
from pochade.device import present_devices
from pochade.errors import PochadeError, RepeatWarning
from pochade.pipelines.metadata import KEY, read_metadata
from pochade.pipelines.prepare import prepare
from pochade.pipelines.requests import EditRequest, FileForm, GenerationRequest
from pochade.pipelines.run_request import (
    load_pipeline,
    open_pipeline,
    pipeline_arguments,
    read_files,
    read_picture,
    run,
)
from pochade.pipelines.schedulers import SCHEDULERS, make_scheduler, shift_of
from pochade.runtime.masks import EditingWarning


@pytest.fixture
def model(toy_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of a model, in a folder with a picture and its mask."""
    monkeypatch.chdir(tmp_path)
    image = Image.radial_gradient("L").resize((40, 24)).convert("RGB")
    image.save("in.png")
    mask = Image.new("L", image.size)
    mask.paste(255, (20, 0, 40, 24))
    mask.save("m.png")
    return str(toy_pipeline_folder)


def apple(model: str, **fields: Any) -> GenerationRequest:
    return GenerationRequest(**{"prompt": "a red apple", "seed": 7, "steps": 2, "model": model, **fields})


def test_a_request_is_what_its_pipeline_is_called_with(model: str) -> None:
    picture = pochade.generate(apple(model, guidance=4.0, width=48, guidance_interval=(0.2, 1.0)))
    pipe = pochade.TextToImagePipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        "a red apple",
        num_inference_steps=2,
        guidance_scale=4.0,
        guidance_interval=(0.2, 1.0),
        width=48,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    assert picture.image.tobytes() == expected.tobytes()
    assert picture.metadata.request == apple(
        model,
        guidance=4.0,
        width=48,
        height=32,
        guidance_interval=(0.2, 1.0),
        device="cpu",
        precision="fp32",
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"task": "inpaint", "mask": "m.png", "guidance": 2.0},
        {"task": "super_resolution", "factor": 4, "prompt": ""},
        {"strength": 0.4, "size": 48, "precision": "bf16"},
    ],
)
def test_edits_are_repeated(model: str, fields: dict[str, Any]) -> None:
    request = EditRequest(**{"prompt": "a lemon", "source": "in.png", "model": model, "steps": 4, "seed": 1, **fields})
    first = pochade.generate(request)
    path = first.save("out", "edited")
    again = pochade.repeat(path)
    assert again.metadata == first.metadata
    assert again.image.tobytes() == first.image.tobytes()
    other = pochade.repeat(path, seed=2)
    assert other.image.tobytes() != first.image.tobytes()


def test_a_picture_is_repeated_and_changed(model: str) -> None:
    first = pochade.generate(apple(model))
    path = first.save("out")
    assert path == Path("out/a-red-apple-7.png")
    assert first.save("out") == Path("out/a-red-apple-7-2.png")
    assert read_metadata(path) == first.metadata
    assert pochade.repeat(path).image.tobytes() == first.image.tobytes()
    changed = pochade.repeat(path, steps=3, prompt="a cat")
    assert changed.metadata.request == first.metadata.request.changed(steps=3, prompt="a cat")
    assert changed.save("out", metadata=False).name == "a-cat-7.png"
    with pytest.raises(PochadeError, match="holds no metadata"):
        pochade.repeat("out/a-cat-7.png")
    with pytest.raises(PochadeError, match="sed: given, allowed are"):
        pochade.repeat(path, sed=8)


def test_one_model_runs_many_requests(model: str) -> None:
    prepared = prepare(apple(model))
    pipe = load_pipeline(prepared)
    arguments = pipeline_arguments(prepared.request, pipe, read_files(prepared))
    steps: list[int] = []

    def on_step(_: Any, i: int, *__: Any) -> None:
        steps.append(i)

    together = [run(pipe, prepared, arguments, on_step) for _ in range(2)]
    assert steps == [0, 1, 0, 1]
    assert together[0].image.tobytes() == together[1].image.tobytes()
    assert together[0].image.tobytes() == pochade.generate(apple(model)).image.tobytes()


def test_files_of_a_request_may_lie_beside_the_picture(model: str) -> None:
    """As those that a browser saved, or those of a folder that was moved."""
    request = EditRequest("a lemon", source="in.png", model=model, steps=1, task="inpaint", mask="m.png")
    made = pochade.generate(request)
    path = made.save("out", "edited")
    for name in ("in.png", "m.png"):
        Path(name).rename(path.parent / name)
    assert pochade.repeat(path).image.tobytes() == made.image.tobytes()
    Image.new("RGB", (8, 8)).save("in.png")  # another file in the place where it was
    assert pochade.repeat(path).image.tobytes() == made.image.tobytes()


def test_a_file_that_has_changed_is_another_request(model: str) -> None:
    request = EditRequest("a lemon", source="in.png", model=model, steps=1, task="inpaint", mask="m.png")
    path = pochade.generate(request).save("out", "edited")
    Image.open("in.png").rotate(180).save("in.png")
    with pytest.raises(PochadeError, match=r"edited\.png: its source is 'in\.png', which is another file now"):
        pochade.repeat(path)
    pochade.repeat(path, source="in.png")
    Path("in.png").unlink()
    with pytest.raises(PochadeError, match=r"source: 'in\.png' cannot be read"):
        pochade.repeat(path)


def rewritten(path: Path, **changes: Any) -> Path:
    """A copy with other values in its metadata, without those that are None."""
    values = json.loads(read_metadata(path).to_json()) | changes
    info = PngInfo()
    info.add_text(KEY, json.dumps({name: value for name, value in values.items() if value is not None}))
    with Image.open(path) as image:
        image.save("rewritten.png", pnginfo=info)
    return Path("rewritten.png")


def test_a_device_that_is_not_here_is_replaced(model: str) -> None:
    absent = next((name for name in ("mps", "cuda") if name not in present_devices()), None)
    if absent is None:
        pytest.skip("this machine has every device")
    path = pochade.generate(apple(model)).save("out")
    with pytest.warns(RepeatWarning, match=f"made on {absent}, which is not here: it may differ"):
        picture = pochade.repeat(rewritten(path, device=absent, precision="bf16"))
    assert picture.metadata.request.device == present_devices()[0]


def test_the_factor_of_an_earlier_version_is_that_of_the_sizes(model: str) -> None:
    request = EditRequest("", source="in.png", task="super_resolution", factor=4, model=model, steps=10, seed=3)
    first = pochade.generate(request)
    earlier = rewritten(first.save("out", "large"), factor=None)
    assert pochade.repeat(earlier).image.tobytes() == first.image.tobytes()


def test_changes_to_a_source_give_warnings(model: str) -> None:
    clear = Image.open("in.png")
    clear.putalpha(Image.fromarray(np.full((24, 40), 255, np.uint8)))
    clear.putpixel((0, 0), (0, 0, 0, 0))
    clear.save("clear.png")
    request = EditRequest("a lemon", source="clear.png", model=model, steps=2)
    with pytest.warns(UserWarning, match=r"clear\.png: what is transparent is taken as white"):
        read_files(prepare(request))
    inpaint = EditRequest("a lemon", source="clear.png", model=model, steps=2, task="inpaint", mask="alpha")
    assert read_files(prepare(inpaint))["source"].alpha is not None


def test_only_what_is_transparent_is_said_to_be(model: str, recwarn: pytest.WarningsRecorder) -> None:
    with Image.open("in.png") as image:
        image.convert("RGBA").save("opaque.png")
        clear = image.convert("RGBA")
    clear.putpixel((3, 4), (10, 20, 30, 0))
    clear.save("clear.png")
    read_files(prepare(EditRequest("an apple", source="opaque.png", model=model)))
    inpaint = {"mask": "m.png", "task": "inpaint", "model": model, "steps": 2, "seed": 1}
    picture = pochade.generate(EditRequest("an apple", source="clear.png", **inpaint)).image
    assert picture.getpixel((3, 4)) == (10, 20, 30, 0)
    assert pochade.generate(EditRequest("an apple", source="opaque.png", **inpaint)).image.mode == "RGB"
    assert not [str(w.message) for w in recwarn if w.category is EditingWarning]
    with pytest.warns(EditingWarning, match="what is transparent is taken as white"):
        read_files(prepare(EditRequest("an apple", source="clear.png", model=model)))


def test_a_control_keeps_its_16_bits_and_is_black_where_it_is_transparent(model: str) -> None:
    depth = np.linspace(1000, 1600, 24 * 40).reshape(24, 40).astype(np.uint16)
    Image.fromarray(depth).save("depth.png")
    form = GenerationRequest("an apple", control="depth.png").form("control")
    assert np.array_equal(np.asarray(read_picture(Path("depth.png"), "control", form)), depth)
    Image.new("RGBA", (40, 24), (255, 255, 255, 0)).save("nothing.png")
    assert not np.asarray(read_picture(Path("nothing.png"), "control", form)).any()


def test_a_request_says_how_its_files_are_read() -> None:
    edges = GenerationRequest("an apple", control="in.png", control_edges=True, image_prompt="in.png")
    assert edges.form("control") == edges.form("image_prompt") == FileForm("white")
    inpaint = EditRequest("an apple", source="in.png", mask="m.png", task="inpaint")
    assert [inpaint.form(name) for name in inpaint.files()] == [
        FileForm(None, edited=True),
        FileForm("black", grey=True),
    ]
    assert EditRequest("an apple", source="in.png").form("source") == FileForm("white", edited=True)


def test_a_profile_that_cannot_be_used_is_said_to_be(model: str) -> None:
    with Image.open("in.png") as image:
        image.save("profile.png", icc_profile=b"none")
    with pytest.warns(EditingWarning, match="its colour profile cannot be used, its colours are taken as sRGB"):
        read_files(prepare(EditRequest("an apple", source="profile.png", model=model)))


def test_another_scheduler_keeps_the_shift_of_the_model(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    pipe = pochade.TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    pipe.scheduler = make_scheduler("euler", 2.0)
    pipe.save_pretrained(tmp_path / "shifted")
    for name in SCHEDULERS:
        loaded = open_pipeline("TextToImagePipeline", tmp_path / "shifted", scheduler=name, device="cpu")
        assert shift_of(loaded.scheduler) == 2


def test_what_another_model_cannot_take_of_a_file_names_the_file(model: str, tmp_path: Path) -> None:
    path = pochade.generate(apple(model, depth=2)).save(tmp_path)
    refused = "depth: {} given, but this model does not iterate: allowed is none"
    with pytest.raises(PochadeError) as error:
        pochade.repeat(path, model="microforge-edit")
    assert str(error.value) == f"{refused.format(2)}; {path} has it, and was made by {model!r}"
    with pytest.raises(PochadeError) as error:
        pochade.repeat(path, model="microforge-edit", depth=3)
    assert str(error.value) == refused.format(3)
