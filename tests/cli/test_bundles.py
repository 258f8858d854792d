"""``pochade generate --model BUNDLE``, in a process without torch."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pochade
from cli.run import cli
from pochade.cli import bundles, main
from pochade.errors import PochadeError, RepeatWarning
from pochade.files import sha256
from pochade.pipelines import hub, linked
from pochade.pipelines.prepare import PreparedRequest, prepare
from pochade.pipelines.requests import EditRequest, GenerationRequest
from pochade.runtime.pictures import read_recipe
from processes import python

PROCESS = """
import sys
sys.modules.update(dict.fromkeys(("torch", "diffusers", "transformers")))
from pochade.cli import main
main(sys.argv[1:])
"""


def without_torch(*arguments: str) -> str:
    done = python("-c", PROCESS, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pictures_of_a_bundle_are_those_of_pochade_run(toy_bundle: Path, tmp_path: Path, capsys: object) -> None:
    given = ("--model", str(toy_bundle), "--steps", "2", "-o", str(tmp_path))
    out = without_torch("generate", "a red apple", "a sleeping cat", *given, "--seed", "7")
    made = [tmp_path / "a-red-apple-7.png", tmp_path / "a-sleeping-cat-8.png"]
    assert out.split() == [str(path) for path in made]
    run = cli(
        capsys, "run", str(toy_bundle), "a sleeping cat", "--seed", "8", "--steps", "2", "-o", f"{tmp_path}/r.png"
    )
    assert made[1].read_bytes() == Path(run.out.strip()).read_bytes()


def test_fast_is_the_same_by_both_commands(toy_bundle: Path, tmp_path: Path, capsys: object) -> None:
    cli(capsys, "generate", "a cat", "--model", str(toy_bundle), "--seed", "3", "--fast", "-o", str(tmp_path))
    cli(capsys, "run", str(toy_bundle), "a cat", "--seed", "3", "--fast", "-o", f"{tmp_path}/run.png")
    recipe = read_recipe(tmp_path / "a-cat-3.png")
    assert (recipe["steps"], recipe["guidance_interval"]) == (4, [0.4, 0.8])
    assert (tmp_path / "run.png").read_bytes() == (tmp_path / "a-cat-3.png").read_bytes()


def test_a_picture_is_repeated_and_told_of(toy_bundle: Path, tmp_path: Path, capsys: object) -> None:
    given = ("--model", str(toy_bundle), "-o", str(tmp_path))
    cli(capsys, "generate", "a red apple", *given, "--steps", "2", "--seed", "3", "--guidance-interval", "0.2,0.9")
    first = tmp_path / "a-red-apple-3.png"
    sheet = tmp_path / "sheet.png"
    made = json.loads(cli(capsys, "generate", "--like", str(first), *given, "--sheet", str(sheet), "--json").out)
    assert (tmp_path / "a-red-apple-3-2.png").read_bytes() == first.read_bytes()
    assert made[0] == {"file": str(tmp_path / "a-red-apple-3-2.png"), **read_recipe(first)}
    assert made[1] == {"file": str(sheet), "pictures": [read_recipe(first)]}
    again = cli(capsys, "generate", "two green pears", "--like", str(first), *given, "--no-metadata", "--preview")
    with Image.open(again.out.strip()) as image:
        assert not image.info
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a-red-apple-3-2.png",
        "a-red-apple-3.png",
        "sheet.png",
        "two-green-pears-3.png",
    ]


@pytest.fixture(scope="module")
def graphs(toy_editor_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Those of the toy model, kept by ``pochade export``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with pytest.raises(SystemExit, match="0"):
            main(["export", str(toy_editor_folder)])
        yield linked.kept(hub.model_sha256(toy_editor_folder))


def test_graphs_of_a_model_stand_in_for_it(
    graphs: Path,
    toy_editor_folder: Path,
    toy_bundle: Path,
    tmp_path: Path,
    capsys: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = str(toy_editor_folder)
    assert cli(capsys, "export", model).out.strip() == str(graphs)
    assert json.loads(cli(capsys, "export", model, "--json").out)["model"]["name"] == "toy-editor"
    for changed, name in (("--precision", "precision='int8'"), ("--for", "for='int8'")):
        error = cli(capsys, "export", model, changed, "int8", code=2).error
        assert error == f"error: out: none given beside {name}, allowed is a folder"
    assert sum(file.stat().st_size for file in graphs.glob("*.onnx")) < sum(
        file.stat().st_size for file in toy_bundle.glob("*.onnx")
    )
    given = ("a cat", "--seed", "3", "--steps", "2", "-o", str(tmp_path))
    made = Path(without_torch("generate", *given, "--model", model).strip())
    named = Path(cli(capsys, "generate", *given, "--model", str(toy_bundle)).out.strip())
    with Image.open(made) as one, Image.open(named) as other:
        assert one.tobytes() == other.tobytes()
    assert read_recipe(made)["model"] == model

    again = Path(without_torch("generate", "--like", str(made), "-o", str(tmp_path / "again")).strip())
    assert again.read_bytes() == made.read_bytes()
    with pytest.warns(RepeatWarning, match="was made by graphs, PyTorch makes it now"):
        by_torch = np.asarray(pochade.repeat(made).image, dtype=np.int16)
    with Image.open(made) as image:
        assert np.abs(by_torch - np.asarray(image)).max() <= 2


@pytest.mark.parametrize(
    ("command", "run", "shown"),
    [
        (("edit", "in.png", "two pears"), ("two pears", "--edit", "in.png"), 2),
        (("edit", "in.png", "two pears", "--as", "description"), ("two pears", "--edit", "in.png", "--describe"), 2),
        (
            ("inpaint", "in.png", "a hat", "--mask", "mask.png", "--soft-mask", "--mask-blur", "1.5"),
            ("a hat", "--inpaint", "in.png", "--mask", "mask.png", "--soft-mask", "--mask-blur", "1.5"),
            3,
        ),
        (
            ("inpaint", "clear.png", "a hat", "--mask", "alpha"),
            ("a hat", "--inpaint", "clear.png", "--mask", "alpha"),
            3,
        ),
    ],
)
def test_edits_by_graphs_are_those_of_pochade_run(
    graphs: Path,
    toy_editor_folder: Path,
    toy_bundle: Path,
    tmp_path: Path,
    capsys: object,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    run: tuple[str, ...],
    shown: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((24, 24)).convert("RGB").save("in.png")
    mask = Image.new("L", (24, 24))
    mask.paste(255, (8, 4, 20, 16))
    mask.save("mask.png")
    clear = Image.open("in.png")
    clear.putalpha(mask)
    clear.save("clear.png")
    given = ("--seed", "3", "--steps", "2")
    (made,) = json.loads(
        without_torch(*command, *given, "--model", str(toy_editor_folder), "-o", "made.png", "--compare", "--json")
    )
    cli(capsys, "run", str(toy_bundle), *run, *given, "-o", "run.png")
    with Image.open("made.png") as one, Image.open("run.png") as other, Image.open(made["compare"]) as compared:
        assert one.tobytes() == other.tobytes()
        assert compared.width == (shown - 1) * (one.width + 8) + one.width
        assert compared.crop((compared.width - one.width, 0, compared.width, one.height)).tobytes() == (
            one.convert("RGB").tobytes()
        )
    recipe = read_recipe("made.png")
    assert recipe == {name: value for name, value in made.items() if name not in ("file", "compare")}
    assert (recipe["model"], recipe["source"], recipe["device"]) == (str(toy_editor_folder), command[1], "cpu")
    assert recipe["bundle_sha256"] == sha256(graphs / "manifest.json")
    without_torch(command[0], "--like", "made.png", "-o", "again.png")
    assert Path("again.png").read_bytes() == Path("made.png").read_bytes()


@pytest.mark.parametrize(
    ("picture", "marked", "alike"),
    [
        ((24, 24), None, True),
        ((1000, 999), None, True),
        ((24, 40), None, False),
        ((1000, 970), None, False),
        ((128, 1024), None, False),
        ((24, 40), (slice(8, 16), slice(0, 8)), False),
        ((40, 90), (slice(8, 16), slice(40, 60)), True),
        ((40, 90), (slice(8, 16), slice(0, 90)), False),
    ],
)
def test_graphs_edit_what_pytorch_samples_at_their_size(
    graphs: Path,
    toy_editor_folder: Path,
    picture: tuple[int, int],
    marked: tuple[slice, slice] | None,
    alike: bool,
) -> None:
    source = bundles.of_model([prepare(GenerationRequest("a cat", model=str(toy_editor_folder)))])
    assert source is not None
    mask = None
    if marked is not None:
        mask = np.zeros(picture, dtype=bool)
        mask[marked] = True
    assert bundles.sample_alike(source, picture, mask) == alike


def test_pictures_that_are_no_squares_are_edited_by_pytorch(
    graphs: Path, toy_editor_folder: Path, tmp_path: Path, capsys: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").resize((90, 40)).convert("RGB").save("in.png")
    for name, box in (("long", (0, 8, 90, 16)), ("small", (40, 8, 60, 16))):
        mask = Image.new("L", (90, 40))
        mask.paste(255, box)
        mask.save(f"{name}.png")
    given = ("two pears", "--model", str(toy_editor_folder), "--seed", "3", "--steps", "2")
    for arguments, by_graphs in (
        (("edit", "in.png"), False),
        (("inpaint", "in.png", "--mask", "long.png"), False),
        (("inpaint", "in.png", "--mask", "small.png"), True),
    ):
        made = Path(cli(capsys, *arguments, *given, "-o", "made.png").out.strip())
        want = Path(cli(capsys, *arguments, *given, "-o", "want.png", "--precision", "fp32").out.strip())
        assert ("bundle_sha256" in read_recipe(made)) == by_graphs
        with Image.open(made) as one, Image.open(want) as other:
            assert np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other)).max() <= (2 if by_graphs else 0)


def test_what_graphs_cannot_is_for_pytorch(
    graphs: Path, toy_editor_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wanted(**given: object) -> PreparedRequest:
        fields: dict[str, Any] = {"seed": 1, "model": str(toy_editor_folder), "device": "cpu", **given}
        return prepare(GenerationRequest("a cat", **fields))

    def found(*requests: PreparedRequest) -> Path | None:
        source = bundles.of_model(requests)
        return None if source is None else source.graphs

    first = wanted()
    assert found(first) == graphs
    assert found(wanted(depth=2, width=32, height=32, precision="fp32", negative_prompt="dog")) == graphs
    for given in ({"height": 48}, {"scheduler": "heun"}, {"depth": 3}, {"precision": "bf16"}):
        assert found(wanted(**given)) is None, given
    for given in ({"decoder": "tiny"}, {"loras": ("a",)}, {"embeddings": ("a",)}, {"control": "a"}, {"device": "cuda"}):
        assert found(replace(first, request=replace(first.request, **given))) is None, given
    edit = EditRequest("a cat", source="in.png", model=str(toy_editor_folder)).for_model(first.model)
    assert found(replace(first, request=edit)) == graphs
    for given in ({"size": 48}, {"scheduler": "heun"}, {"task": "super_resolution", "instruction": None}):
        assert found(replace(first, request=replace(edit, **given))) is None, given
    weights = {"model": first.sha256["model"]}
    own = weights | {"bundle": sha256(graphs / "manifest.json")}
    assert found(replace(first, repeats=weights)) is None, "PyTorch made it"
    assert found(replace(first, repeats=own)) == graphs
    assert found(replace(first, repeats={"model": "0" * 64})) == graphs, "another model made it"
    assert found(replace(first, sha256={"model": "0" * 64})) is None
    monkeypatch.setattr(bundles, "may_have_accelerator", lambda: True)
    anywhere = wanted(device="auto")
    assert found(*[first] * 17) == graphs
    assert found(*[anywhere] * 17) is None
    assert found(*[replace(anywhere, repeats=own)] * 17) == graphs
    assert found(*[anywhere] * 16) == graphs
    table, kept = graphs / "denoiser.weights.json", (graphs / "denoiser.weights.json").read_bytes()
    table.write_bytes(kept[::-1])
    assert found(first) is None, "damaged"
    table.write_bytes(kept)
    monkeypatch.setattr(bundles, "find_spec", lambda _: None)  # no ONNX Runtime
    assert found(first) is None


def test_another_model_samples_as_the_picture_to_repeat_was(
    graphs: Path,
    toy_editor_folder: Path,
    toy_pipeline_folder: Path,
    tmp_path: Path,
    capsys: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = {"size": "48", "scheduler": "heun", "depth": "3"}
    given = ("a cat", "--model", str(toy_pipeline_folder), "--seed", "3", "--steps", "2")
    for option, value in kept.items():
        made = Path(cli(capsys, "generate", *given, f"--{option}", value).out.strip())
        done = cli(capsys, "generate", "--like", str(made), "--model", str(toy_editor_folder), "--json")
        (other,) = json.loads(done.out)
        assert "bundle_sha256" not in other
        assert {name: other[name] for name in ("width", "height", "scheduler", "depth")} == {
            name: read_recipe(made)[name] for name in ("width", "height", "scheduler", "depth")
        }
        warning = f"made by {str(toy_pipeline_folder)!r}, {str(toy_editor_folder)!r} makes it now"
        assert warning in done.error
    made = cli(capsys, "generate", *given).out.strip()
    assert "bundle_sha256" in read_recipe(
        cli(capsys, "generate", "--like", made, "--model", str(toy_editor_folder)).out.strip()
    )


def test_a_wrong_target_is_named_before_a_model_is_fetched(tmp_path: Path, capsys: object) -> None:
    done = cli(capsys, "export", "someone/model", str(tmp_path / "out"), "--for", "phone", code=2)
    assert done.error.startswith("error: for: 'phone' given, allowed are ")


def test_damaged_graphs_are_made_again(graphs: Path, toy_editor_folder: Path, capsys: object) -> None:
    manifest = (graphs / "manifest.json").read_bytes()
    (graphs / "decoder.onnx").unlink()
    assert cli(capsys, "export", str(toy_editor_folder)).out.strip() == str(graphs)
    assert (graphs / "manifest.json").read_bytes() == manifest, "the same to the bit"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "prompt: none given, allowed is one sentence or more"),
        (("a cat", ""), "prompt: empty, allowed is a sentence such as 'a red apple'"),
        (("a cat", "--size", "64"), "size: '64' given, but "),
        (("a cat", "--lora", "style"), "lora: ['style'] given, but "),
        (("a cat", "--device", "cuda"), "is a bundle: allowed is auto and cpu"),
        (("a cat", "--precision", "bf16"), "is a bundle: allowed is auto"),
        (("a cat", "--allow-pickle"), "allow_pickle: True given, but "),
        (("a cat", "--steps", "0"), "steps: 0 given, allowed is a whole number from 1 to 10000"),
        (("a cat", "--depth", "4"), "depth: 4 given, the bundle has 2"),
        (("a cat", "--seed", "-1"), "seed: -1 given, allowed are"),
        (("a cat", "--budget", "300ms"), "budget: the bundle has no table of quality"),
        (("--like", "upscaled.png"), "like: the picture was made by pochade upscale, which repeats it"),
    ],
)
def test_what_a_bundle_cannot_is_one_line_and_nothing_is_written(
    toy_bundle: Path,
    tmp_path: Path,
    capsys: object,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--like" in arguments:
        Image.new("RGB", (8, 8), "red").save("source.png")
        cli(capsys, "run", str(toy_bundle), "--upscale", "source.png", "--steps", "1", "-o", "upscaled.png")
    done = cli(capsys, "generate", *arguments, "--model", str(toy_bundle), "-o", "out", code=2)
    assert message in done.error
    assert "\n" not in done.error
    assert not Path("out").exists()


def test_other_commands_name_those_that_take_a_bundle(toy_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(
        PochadeError, match="is a bundle of pochade export, which pochade generate and pochade run take"
    ):
        hub.resolve(toy_bundle)
    assert not hub.is_bundle("open-drawings")
    assert not hub.is_bundle(str(tmp_path))
