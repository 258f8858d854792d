"""Recipes in pictures."""

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from pochade.errors import PochadeError
from pochade.pipelines.recipe_metadata import KEY, PictureRecipe, read_recipe, save_png, slug, versions

RECIPE = PictureRecipe("a rëd apple \n\x00 🍎", 2**63 - 1, "lrf-openmoji", "ab" * 32, 50, 3.0, 64, 96)


def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((96, 64)).convert("RGB")


def test_recipe_survives_the_file(tmp_path: Path) -> None:
    path = save_png(picture(), tmp_path, "x", RECIPE)
    assert read_recipe(path) == RECIPE
    with Image.open(path) as image:
        assert image.tobytes() == picture().tobytes()
        assert image.text[KEY].isascii()  # pyright: ignore[reportAttributeAccessIssue]
    assert {"pochade", "torch", "diffusers", "transformers", "python"} == set(versions())


def test_names_are_never_taken_twice(tmp_path: Path) -> None:
    names = [save_png(picture(), tmp_path, "x", None).name for _ in range(3)]
    assert names == ["x.png", "x-2.png", "x-3.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x-2.png", "x-3.png", "x.png"]


def test_no_recipe_no_picture(tmp_path: Path) -> None:
    path = save_png(picture(), tmp_path, "plain", None)
    with pytest.raises(PochadeError, match="holds no recipe"):
        read_recipe(path)
    with pytest.raises(PochadeError, match=r"nothing\.png: not a readable PNG \(No such file"):
        read_recipe(tmp_path / "nothing.png")
    picture().save(tmp_path / "photo.jpg")
    with pytest.raises(PochadeError, match="not a readable PNG"):
        read_recipe(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "50"}, "recipe: steps is '50', a value of type int is needed"),
        ({"seed": True}, "recipe: seed is True"),
        ({"colour": 1}, r"fields are missing or unknown \(\['colour'\]\)"),
    ],
)
def test_bad_recipes(change: dict[str, object], message: str) -> None:
    with pytest.raises(PochadeError, match=message):
        PictureRecipe.from_json(json.dumps(dataclasses.asdict(RECIPE) | change))
    with pytest.raises(PochadeError, match="not valid JSON"):
        PictureRecipe.from_json("{")


def test_whole_numbers_are_fine_guidance() -> None:
    text = json.dumps(dataclasses.asdict(RECIPE) | {"guidance": 3})
    assert PictureRecipe.from_json(text) == RECIPE


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
