"""Metadata in pictures: the request, and what earlier versions wrote."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pochade.errors import PochadeError
from pochade.pipelines.metadata import KEY, PictureMetadata, read_metadata, slug, versions, write_png
from pochade.pipelines.requests import EditRequest, GenerationRequest

GENERATION = GenerationRequest(
    "a rëd apple \n\x00 🍎",
    seed=2**63 - 1,
    steps=50,
    guidance=3.0,
    guidance_interval=(0.2, 0.75),
    height=64,
    width=96,
    image_prompt="style.png",
    image_prompt_scale=0.0,
    device="cuda",
    precision="bf16",
)
EDIT = EditRequest(
    "make it green", source="in.png", seed=0, steps=4, guidance=2.0, strength=1.0, instruction=True, image_guidance=1.5
)
EARLIER: dict[str, Any] = {  # as all fields were written before there were requests
    "prompt": "a red apple",
    "seed": 7,
    "model": "lrf-openmoji",
    "model_sha256": "ab" * 32,
    "steps": 50,
    "guidance": 3.0,
    "height": 64,
    "width": 96,
    "scheduler": "model",
    "negative_prompt": "",
    "decoder": "model",
    "decoder_sha256": "",
    "control": "",
    "control_edges": False,
    "control_sha256": "",
    "reference": "",
    "reference_sha256": "",
    "reference_scale": 1.0,
    "depth": 0,
    "task": "generate",
    "source": "",
    "source_sha256": "",
    "mask": "",
    "mask_sha256": "",
    "strength": 1.0,
    "size": 0,
    "instruction": False,
    "image_guidance": 1.0,
    "versions": {"pochade": "0.0.1"},
}
FIRST = (  # and by the first version
    *("prompt", "seed", "model", "model_sha256", "steps", "guidance", "height", "width"),
    *("scheduler", "negative_prompt", "versions"),
)
SHA256 = {"model": "ab" * 32}


def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((96, 64)).convert("RGB")


@pytest.mark.parametrize("request_", [GENERATION, EDIT], ids=["generation", "edit"])
def test_a_request_survives_the_file(tmp_path: Path, request_: GenerationRequest | EditRequest) -> None:
    metadata = PictureMetadata(request_, 64, 96, {**SHA256, "source": "cd" * 32})
    path = write_png(picture(), tmp_path, "x", metadata)
    assert read_metadata(path) == metadata
    with Image.open(path) as image:
        assert image.tobytes() == picture().tobytes()
        assert image.text[KEY].isascii()  # pyright: ignore[reportAttributeAccessIssue]
    assert {"pochade", "torch", "diffusers", "transformers", "python"} == set(versions())


def test_names_are_never_taken_twice(tmp_path: Path) -> None:
    names = [write_png(picture(), tmp_path, "x").name for _ in range(3)]
    assert names == ["x.png", "x-2.png", "x-3.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x-2.png", "x-3.png", "x.png"]


def test_files_without_metadata(tmp_path: Path) -> None:
    path = write_png(picture(), tmp_path, "plain")
    with pytest.raises(PochadeError, match=r"plain\.png: holds no metadata"):
        read_metadata(path)
    with pytest.raises(PochadeError, match=r"nothing\.png: not a readable PNG \(No such file"):
        read_metadata(tmp_path / "nothing.png")
    picture().save(tmp_path / "photo.jpg")
    with pytest.raises(PochadeError, match="not a readable PNG"):
        read_metadata(tmp_path / "photo.jpg")


def read(values: dict[str, Any]) -> PictureMetadata:
    return PictureMetadata.from_json(json.dumps(values))


def test_generations_of_earlier_versions() -> None:
    request = GenerationRequest(
        "a red apple",
        model="lrf-openmoji",
        seed=7,
        steps=50,
        guidance=3.0,
        height=64,
        width=96,
        device="cpu",
        precision="fp32",
    )
    expected = PictureMetadata(request, 64, 96, SHA256, {"pochade": "0.0.1"})
    assert read(EARLIER) == expected
    assert read({key: EARLIER[key] for key in FIRST}) == expected
    styled = read(EARLIER | {"reference": "s.png", "reference_sha256": "cd" * 32, "reference_scale": 0.3, "depth": 2})
    assert styled.request == replace(request, image_prompt="s.png", image_prompt_scale=0.3, depth=2)
    assert styled.sha256 == {**SHA256, "image_prompt": "cd" * 32}


def test_edits_of_earlier_versions() -> None:
    source = {"source": "in.png", "source_sha256": "cd" * 32}
    request = EditRequest(
        "a red apple",
        source="in.png",
        model="lrf-openmoji",
        seed=7,
        steps=50,
        guidance=3.0,
        strength=0.6,
        instruction=False,
        device="cpu",
        precision="fp32",
    )
    described = read(EARLIER | source | {"task": "edit", "strength": 0.6})
    assert described.request == request
    assert (described.height, described.width, described.sha256["source"]) == (64, 96, "cd" * 32)
    metadata = read(EARLIER | source | {"task": "edit", "strength": 1, "instruction": True, "image_guidance": 1.5})
    assert metadata.request == replace(request, strength=1.0, instruction=True, image_guidance=1.5)
    filled = read(EARLIER | source | {"task": "inpaint", "mask": "alpha", "size": 64})
    assert filled.request == replace(request, task="inpaint", mask="alpha", size=64, strength=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "50"}, "metadata: steps is '50', a value of type int or NoneType is needed"),
        ({"seed": True}, "metadata: seed is True"),
        ({"colour": 1}, "metadata: colour unknown"),
        ({"versions": []}, "metadata: height, width and versions are"),
        ({"guidance_interval": [0.1, "1"]}, "metadata: guidance_interval is '1'"),
        ({"guidance_interval": [0.1]}, "guidance_interval: "),
        ({"task": "paint"}, "metadata: task is 'paint'"),
        ({"model_sha256": 5}, "metadata: digests are"),
        ({"device": "gpu"}, "device: 'gpu' given"),
    ],
)
def test_bad_metadata(change: dict[str, object], message: str) -> None:
    with pytest.raises(PochadeError, match=message):
        read(EARLIER | {"source": "in.png"} | change)


def test_what_is_no_metadata() -> None:
    with pytest.raises(PochadeError, match="not valid JSON"):
        PictureMetadata.from_json("{")
    with pytest.raises(PochadeError, match="metadata: a list given"):
        PictureMetadata.from_json("[]")
    with pytest.raises(PochadeError, match="metadata: seed, versions missing"):
        read({key: value for key, value in EARLIER.items() if key not in ("seed", "versions")})


def test_whole_numbers_are_fine_guidance() -> None:
    assert read(EARLIER | {"guidance": 3}) == read(EARLIER)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red apple!", "a-red-apple"),
        ("../../etc/passwd", "etc-passwd"),
        ("🍎", "picture"),
        ("word " * 100, "word-word-word-word-word-word-word-word-word-wor"),
    ],
)
def test_slug(prompt: str, name: str) -> None:
    assert slug(prompt) == name
