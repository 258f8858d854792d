"""``--like`` from engine to engine: a recipe says what made its picture, and what would give another one refuses it or
warns."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli.run import cli
from conftest import save_toy_decoder
from pochade.export.bundle import export_bundle, model_facts
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.runtime import Bundle
from pochade.runtime.pictures import read_recipe

Made = Callable[..., Path]


@pytest.fixture(scope="module")
def model(toy_editor_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 2 iterations, with a decoder of its own."""
    folder = Path(shutil.copytree(toy_editor_folder, tmp_path_factory.mktemp("models") / "toy"))
    save_toy_decoder(folder / "tiny_decoder")
    return folder


@pytest.fixture(scope="module")
def bundles(model: Path, toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``usual`` and ``rounded`` of 2 iterations, ``deep`` of 3, ``both`` of 3 and 2, ``small`` with its decoder."""
    place = tmp_path_factory.mktemp("bundles")
    pipe, facts = TextToImagePipeline.from_pretrained(model), model_facts("toy", model)
    export_bundle(pipe, place / "deep", facts, depths=(3,))
    export_bundle(pipe, place / "both", facts, depths=(3, 2))
    export_bundle(pipe, place / "small", facts, decoder=model / "tiny_decoder")
    export_bundle(pipe, place / "rounded", facts, precision="fp16", pictures=0)
    return {"usual": toy_bundle, **{path.name: path for path in place.iterdir()}}


@pytest.fixture
def by_bundle(bundles: dict[str, Path], tmp_path: Path, capsys: object) -> Made:
    """Makes a picture with one of ``bundles``; the path."""

    def make(name: str, *arguments: str) -> Path:
        given = arguments if "--like" in arguments else ("a red apple", "--seed", "7", "--steps", "2", *arguments)
        return Path(cli(capsys, "run", str(bundles[name]), *given, "-o", str(tmp_path / f"{name}.png")).out.strip())

    return make


@pytest.fixture
def by_pytorch(model: Path, tmp_path: Path, capsys: object) -> Made:
    """Makes a picture with the model itself; the path."""

    def make(*arguments: str) -> Path:
        given = ("a red apple", "--model", str(model), "--seed", "7", "--steps", "2")
        given = arguments if "--like" in arguments else (*given, *arguments)
        return Path(cli(capsys, "generate", *given, "-o", str(tmp_path / "out")).out.strip())

    return make


def near(one: Path, other: Path) -> bool:
    with Image.open(one) as a, Image.open(other) as b:
        return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max()) <= 2


@pytest.mark.parametrize(
    ("name", "depth", "decoder"),
    [("usual", 2, "model"), ("deep", 3, "model"), ("both", 3, "model"), ("small", 2, "tiny")],
)
def test_a_recipe_has_what_its_bundle_is(
    by_bundle: Made, bundles: dict[str, Path], name: str, depth: int, decoder: str
) -> None:
    made = by_bundle(name)
    recipe = read_recipe(made)
    assert (recipe["depth"], recipe["decoder"], len(recipe.get("decoder_sha256", ""))) == (
        *(depth, decoder),
        64 * (decoder == "tiny"),
    )
    assert Bundle(bundles[name]).manifest.model_depth == 2
    assert by_bundle(name, "--like", str(made)).read_bytes() == made.read_bytes()


def test_pytorch_repeats_a_bundle_as_the_bundle_samples(by_bundle: Made, by_pytorch: Made, model: Path) -> None:
    for name in ("deep", "both", "small"):
        made = by_bundle(name)
        assert near(by_pytorch("--like", str(made), "--model", str(model)), made), name


def test_a_bundle_repeats_what_pytorch_made_of_the_depth_of_the_model(
    by_bundle: Made, by_pytorch: Made, bundles: dict[str, Path], capsys: object
) -> None:
    made = by_pytorch("--precision", "fp32")
    assert read_recipe(made)["depth"] is None
    assert near(by_bundle("both", "--like", str(made)), made)  # of both its depths the second
    done = cli(capsys, "run", str(bundles["deep"]), "--like", str(made), code=2)
    assert f"like: {str(made)!r} was made with depth 2, the bundle has 3: allowed is depth=3 beside it" in done.error
    assert read_recipe(by_bundle("deep", "--like", str(made), "--depth", "3"))["depth"] == 3


def test_a_bundle_of_an_earlier_version_has_the_depth_of_its_model(
    bundles: dict[str, Path], by_pytorch: Made, tmp_path: Path, capsys: object
) -> None:
    earlier = Path(shutil.copytree(bundles["usual"], tmp_path / "earlier"))
    manifest: dict[str, Any] = json.loads((earlier / "manifest.json").read_text())
    del manifest["model_depth"], manifest["decoder"]
    (earlier / "manifest.json").write_text(json.dumps(manifest))
    made = by_pytorch("--precision", "fp32")
    again = cli(capsys, "run", str(earlier), "--like", str(made), "-o", str(tmp_path / "again.png")).out.strip()
    assert near(Path(again), made)
    assert read_recipe(again)["depth"] == 2


def test_another_decoder_is_refused(
    by_bundle: Made, by_pytorch: Made, bundles: dict[str, Path], capsys: object
) -> None:
    own, small = by_bundle("usual"), by_bundle("small")
    for name, made, has, had in (
        ("small", own, "decoder 'tiny' (", "the model's own decoder"),
        ("usual", small, "the model's own decoder", "decoder 'tiny' ("),
    ):
        done = cli(capsys, "run", str(bundles[name]), "--like", str(made), code=2)
        assert f"like: {str(made)!r} was made with {had}" in done.error
        assert f"the bundle has {has}" in done.error
    made = by_pytorch("--decoder", "tiny")
    assert near(by_bundle("small", "--like", str(made)), made)


def test_an_edit_by_another_decoder_is_not_repeated_by_pytorch(
    bundles: dict[str, Path], model: Path, tmp_path: Path, capsys: object
) -> None:
    source, made = tmp_path / "in.png", str(tmp_path / "edited.png")
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(source)
    cli(capsys, "run", str(bundles["small"]), "a cat", "--edit", str(source), "--steps", "1", "-o", made)
    done = cli(capsys, "edit", "--like", made, "--model", str(model), code=2)
    assert "made with a decoder of a bundle, which an edit by PyTorch lacks" in done.error


def test_who_else_made_a_picture_is_said(
    by_bundle: Made, by_pytorch: Made, bundles: dict[str, Path], tmp_path: Path, capsys: object
) -> None:
    for made, maker in (
        (by_bundle("rounded"), "another bundle of the model"),
        (by_pytorch("--precision", "fp32"), "PyTorch"),
    ):
        warning = f"warning: {made}: made by {maker}, this one makes it now: it may differ"
        for command in (("run", str(bundles["usual"])), ("generate", "--model", str(bundles["usual"]))):
            out = ("-o", str(tmp_path / "a.png" if command[0] == "run" else tmp_path))
            assert warning in cli(capsys, *command, "--like", str(made), *out).error
    made = by_bundle("usual")
    assert cli(capsys, "run", str(bundles["usual"]), "--like", str(made), "-o", str(tmp_path / "a.png")).error == ""


def test_a_budget_chooses_the_depth_of_what_is_repeated(
    bundles: dict[str, Path], by_pytorch: Made, tmp_path: Path, capsys: object
) -> None:
    folder = Path(shutil.copytree(bundles["deep"], tmp_path / "b"))
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    manifest["quality"] = [{"steps": 1, "depth": 3, "kid": 0.5, "r1": 0.1}]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    given = ("--like", str(by_pytorch("--precision", "fp32")), "--budget", "100s", "-o")
    for command, out in ((("run", str(folder)), "a.png"), (("generate", "--model", str(folder)), "out2")):
        made = cli(capsys, *command, *given, str(tmp_path / out)).out.strip()
        assert (read_recipe(made)["steps"], read_recipe(made)["depth"]) == (1, 3)


@pytest.mark.parametrize("by", ["bundle", "model"])
def test_what_a_change_leaves_without_effect_goes(
    by: str, bundles: dict[str, Path], model: Path, tmp_path: Path, capsys: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error would name an option that was not given."""
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save("in.png")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 4, 20, 16))
    mask.save("mask.png")
    clear = Image.open("in.png")
    clear.putalpha(mask)
    clear.save("clear.png")
    of_bundle, given = ("run", str(bundles["usual"])), ("--seed", "7", "--steps", "2")
    inpaint = ("--mask", "mask.png", "--soft-mask", "--mask-blur", "1")
    if by == "bundle":
        first = (*of_bundle, "a cat", "--guidance", "2", "--negative-prompt", "a dog", *given, "-o", "a.png")
        second = (*of_bundle, "a cat", "--inpaint", "clear.png", *inpaint, *given, "-o", "b.png")
        again: tuple[str, ...] = of_bundle
        other: tuple[str, ...] = of_bundle
    else:
        of_model = ("--model", str(model), "--precision", "fp32")
        first = (
            "edit",
            "in.png",
            "a cat",
            "--guidance",
            "2",
            "--negative-prompt",
            "a dog",
            *of_model,
            *given,
            "-o",
            "a.png",
        )
        second = ("inpaint", "clear.png", "a cat", *inpaint, *of_model, *given, "-o", "b.png")
        again, other = ("edit",), ("inpaint",)
    cli(capsys, *first)
    cli(capsys, *again, "--like", "a.png", "--guidance", "1", "-o", "c.png")
    recipe = read_recipe("c.png")
    assert (recipe["guidance"], recipe["negative_prompt"]) == (1, "")
    done = cli(capsys, *again, "--like", "a.png", "--guidance", "1", "--negative-prompt", "b", "-o", "d.png", code=2)
    assert "negative_prompt: has no effect at guidance 1" in done.error
    cli(capsys, *second)
    cli(capsys, *other, "--like", "b.png", "--mask", "alpha", "-o", "e.png")
    assert read_recipe("e.png")["mask"] == "alpha"
    if by == "model":
        cli(capsys, "edit", "--like", "a.png", "--as", "description", "--strength", "0.5", "-o", "f.png")
        assert (read_recipe("f.png")["instruction"], read_recipe("f.png")["image_guidance"]) == (False, None)


def test_a_mask_that_is_replaced_need_not_be_there(bundles: dict[str, Path], tmp_path: Path, capsys: object) -> None:
    source, old, new = (tmp_path / name for name in ("in.png", "old.png", "new.png"))
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(source)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 4, 20, 16))
    mask.save(old)
    run = ("run", str(bundles["usual"]))
    made = str(tmp_path / "a.png")
    cli(capsys, *run, "a cat", "--inpaint", str(source), "--mask", str(old), "--steps", "1", "-o", made)
    old.rename(new)
    cli(capsys, *run, "--like", made, "--mask", str(new), "-o", str(tmp_path / "b.png"))
    assert Image.open(tmp_path / "b.png").tobytes() == Image.open(made).tobytes()
