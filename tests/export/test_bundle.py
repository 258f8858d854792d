"""What ``export_bundle`` writes: files, their hashes, and a manifest that a host can go by."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import toy_components
from pochade.errors import PochadeError
from pochade.export.bundle import export_bundle, model_facts
from pochade.export.parity import session
from pochade.export.precision import parse_precision
from pochade.files import sha256
from pochade.pipelines.schedulers import make_scheduler
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.runtime import Bundle
from pochade.runtime.manifest import Manifest, Model, read_manifest


@pytest.fixture(scope="module")
def editor(toy_editor_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """The bundle of an editing model, 48 x 32 px, weights of 8 bits."""
    pipe = TextToImagePipeline.from_pretrained(toy_editor_folder)
    place = tmp_path_factory.mktemp("bundles") / "editor"
    facts = model_facts("toy-editor", toy_editor_folder)
    return place, export_bundle(pipe, place, facts, precision="int8", size=(32, 48))


def test_the_manifest_on_the_disk_is_the_one_that_is_returned(editor: tuple[Path, Manifest]) -> None:
    folder, manifest = editor
    assert read_manifest(folder) == manifest
    files = {path.name: (path.stat().st_size, sha256(path)) for path in folder.iterdir() if path.suffix != ".json"}
    assert {name: (file.bytes, file.sha256) for name, file in manifest.files.items() if name in files} == files
    assert set(manifest.files) == {*files, "tokenizer.json"}


def test_graphs_have_the_inputs_that_the_manifest_says(editor: tuple[Path, Manifest]) -> None:
    folder, manifest = editor
    assert list(manifest.graphs) == ["text_encoder", "denoiser", "decoder", "encoder"]
    names = {"float32": "tensor(float)", "int64": "tensor(int64)", "bool": "tensor(bool)"}
    for graph in manifest.graphs.values():
        runs = session(folder / graph.file)
        for said, found in ((graph.inputs, runs.get_inputs()), (graph.outputs, runs.get_outputs())):
            assert [v.name for v in said] == [v.name for v in found]
            assert [list(v.shape[1:]) for v in said] == [v.shape[1:] for v in found]
            assert [names[v.dtype] for v in said] == [v.type for v in found]
        assert [g.precision for g in manifest.graphs.values()] == ["int8", "int8", "fp16", "fp16"]


def test_the_precision_is_measured_on_pictures(editor: tuple[Path, Manifest]) -> None:
    _, manifest = editor
    assert manifest.picture_psnr is not None
    assert 10 < manifest.picture_psnr < 99
    assert manifest.graphs["denoiser"].precision_error > 0
    assert parse_precision("int8,decoder=int8,text_encoder=fp32") == {
        **{"text_encoder": "fp32", "denoiser": "int8"},
        **{"decoder": "int8", "encoder": "fp16"},
    }


def test_what_a_host_goes_by(editor: tuple[Path, Manifest], toy_editor_folder: Path) -> None:
    _, manifest = editor
    assert (manifest.height, manifest.width) == (32, 48)
    assert (manifest.latents.channels, manifest.latents.height, manifest.latents.width) == (4, 4, 6)
    assert manifest.trained_tasks == ("edit", "super_resolution")
    assert manifest.tasks == ("generate", "edit", "inpaint", "super_resolution")
    absent = {v.name: v.absent for v in manifest.graphs["denoiser"].inputs}
    assert absent == {
        **{"latents": None, "t": None, "tokens": 0, "mask": 0, "pooled": 0},
        **{"source": 0, "source_mask": 0, "task": -1},
    }
    assert manifest.sampling.times["4"] == (1, 0.75, 0.5, 0.25, 0)
    assert len(manifest.sampling.times[str(manifest.defaults.steps)]) == manifest.defaults.steps + 1
    assert manifest.defaults.strength == {"edit": 0.6, "inpaint": 1, "super_resolution": 0.2}
    assert manifest.depths == {str(manifest.defaults.depth): "denoiser"}
    assert manifest.text is not None
    assert (manifest.text.max_tokens, manifest.text.closing_tokens) == (32, 0)


def test_a_model_of_classes_that_was_distilled(tmp_path: Path) -> None:
    parts: Any = {**toy_components(text=False), "scheduler": make_scheduler("lcm")}
    pipe = TextToImagePipeline(**parts)
    manifest = export_bundle(pipe, tmp_path / "b", Model("toy"))
    assert manifest.text is not None
    assert (manifest.text.classes, manifest.text.tokenizer) == (("cat", "dog"), None)
    assert list(manifest.graphs) == ["denoiser", "decoder", "encoder"]
    assert manifest.sampling.method == "lcm"
    bundle = Bundle(tmp_path / "b")
    for prompt, guidance in (("cat", 1.0), ("Dog", 2.0), ("", 1.0)):
        got = bundle.generate(prompt, seed=5, steps=3, guidance=guidance).image
        noise = [torch.Generator().manual_seed(5)]
        want = pipe(prompt, num_inference_steps=3, guidance_scale=guidance, generator=noise, output_type="np").images[0]
        np.testing.assert_allclose(np.asarray(got) / 255, want, atol=2 / 255)
    with pytest.raises(PochadeError, match=r"prompt: 'cow' is no class, allowed are cat, dog"):
        bundle.generate("cow")


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_gives_the_same_picture(
    toy_bundle: Path, toy_editor_folder: Path, tmp_path: Path, batch: int
) -> None:
    """With guidance the denoiser is called for two rows, whatever its batch is."""
    pipe = TextToImagePipeline.from_pretrained(toy_editor_folder)
    manifest = export_bundle(pipe, tmp_path / "b", Model("toy"), batch=batch, external_data=True)
    assert {value.shape[0] for graph in manifest.graphs.values() for value in graph.inputs} == {batch}
    assert (tmp_path / "b" / "denoiser.onnx.data").is_file()
    want = Bundle(toy_bundle).generate("a red apple", seed=7, steps=3, guidance=3.0).image
    for low_memory in (False, True):
        got = Bundle(tmp_path / "b", low_memory=low_memory).generate("a red apple", seed=7, steps=3, guidance=3.0).image
        assert np.abs(np.asarray(got, dtype=int) - np.asarray(want, dtype=int)).max() <= 1


def test_what_a_card_says(tmp_path: Path, toy_pipeline_folder: Path) -> None:
    for path in toy_pipeline_folder.rglob("*"):
        if path.is_file():
            place = tmp_path / path.relative_to(toy_pipeline_folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    assert model_facts("toy", tmp_path).license is None
    card = "---\nlicense: mit\nattribution: by us\nstyles: [noto]\nwidget:\n- text: a cat\n---\n# toy\n"
    (tmp_path / "README.md").write_text(card)
    facts = model_facts("toy", tmp_path)
    assert (facts.license, facts.attribution, facts.prompts, facts.styles) == ("mit", "by us", ("a cat",), ("noto",))


def test_what_cannot_be_a_bundle_is_refused_before_any_work(tmp_path: Path) -> None:
    pipe = TextToImagePipeline(**toy_components())
    for given, message in (
        ({"precision": "int4"}, r"precision: 'int4' given, allowed are fp32, fp16, int8"),
        ({"precision": "int8,encode=int8"}, r"precision: 'encode=int8' given, allowed are changes GRAPH=NAME with"),
        ({"precision": "int8,encoder"}, r"precision: 'encoder' given, allowed are changes"),
        ({"size": 24}, r"height: 24 given, allowed are multiples of 16"),
    ):
        with pytest.raises(PochadeError, match=message):
            export_bundle(pipe, tmp_path / "b", Model("toy"), **given)
    pipe.scheduler = make_scheduler("heun")
    with pytest.raises(PochadeError, match=r"scheduler: FlowMatchHeunDiscreteScheduler is the model's, a bundle has"):
        export_bundle(pipe, tmp_path / "b", Model("toy"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").touch()
    pipe.scheduler = make_scheduler("euler")
    with pytest.raises(PochadeError, match="b: exists already"):
        export_bundle(pipe, tmp_path / "b", Model("toy"))
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["mine.txt"]


def _input(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """Of the denoiser."""
    return next(value for value in manifest["graphs"]["denoiser"]["inputs"] if value["name"] == name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "format 2 given, this version reads up to 1: a newer one is needed"),
        (lambda m: m.pop("format"), "no manifest of a bundle, its format is None"),
        (lambda m: m.pop("sampling"), "damaged"),
        (lambda m: m["latents"].pop("mean"), "damaged"),
        (lambda m: m["graphs"].pop("decoder"), "damaged .*graphs: 'decoder' is missing"),
        (lambda m: m["graphs"].pop("text_encoder"), "damaged .*graphs: 'text_encoder' is missing"),
        (lambda m: m["graphs"].pop("encoder"), "damaged .*graphs: 'encoder' is missing"),
        (lambda m: m.update(depths={"2": "denoiser_7"}), "damaged .*graphs: 'denoiser_7' is missing"),
        (lambda m: m["sampling"].update(method="heun"), "damaged .*sampling: 'heun' given, allowed are euler and lcm"),
        (lambda m: m["latents"].update(height="8"), "damaged .latents.height: '8' given, must be a whole number"),
        (lambda m: m["latents"].update(height=0), "damaged .height and latents: 0 given, must be above 0"),
        (lambda m: m.update(width=2 * m["width"]), "damaged .*width [0-9]+ is not [0-9]+ cells of [0-9]+"),
        (lambda m: m["sampling"]["times"].update({"8": [1, 0]}), "damaged .sampling.times: .1, 0. given for 8 steps"),
        (lambda m: m["sampling"]["times"].update({"2": [1, 1, 0]}), "damaged .sampling.times: .1, 1, 0. given for 2 s"),
        (lambda m: m["sampling"]["times"].update({"2": [2, 1, 0]}), "damaged .sampling.times: .2, 1, 0. given for 2 s"),
        (lambda m: m["sampling"]["times"].update({"2": [1, None, 0]}), "damaged .sampling.times: "),
        (lambda m: m["sampling"].update(shift=0), "damaged .sampling.shift: 0 given, must be above 0"),
        (lambda m: m.update(tasks="generate"), "damaged .tasks: 'generate' given, must be a list, each a text"),
        (lambda m: m.update(tasks=["colour"]), "damaged .tasks: 'colour' given, must be of generate, edit, "),
        (lambda m: m["text"].update(closing_tokens=None), "damaged .text.closing_tokens: None given, must be a whole"),
        (
            lambda m: m["text"].update(closing_tokens=33),
            "damaged .text.closing_tokens: 33 given, must be in max_tokens",
        ),
        (lambda m: m["text"].update(max_tokens="64"), "damaged .text.max_tokens: '64' given, must be a whole number"),
        (lambda m: m["text"].update(max_tokens=7), r"damaged .graphs.text_encoder.ids.shape: .* must be \[None, 7\]"),
        (lambda m: m["graphs"]["denoiser"].update(inputs=[]), "damaged .graphs.denoiser: 'latents' is missing"),
        (lambda m: _input(m, "pooled").update(absent="x"), "damaged .graphs.denoiser.inputs.4.absent: 'x' given, must"),
        (lambda m: _input(m, "pooled").update(absent=None), "damaged .graphs.denoiser.pooled.absent: None given, must"),
        (lambda m: _input(m, "tokens").update(shape=[None, 3, 3]), "damaged .graphs.denoiser.tokens.shape: .*32, 12"),
        (lambda m: _input(m, "tokens").update(dtype="text"), "damaged .graphs.denoiser.tokens.dtype: 'text' given"),
        (lambda m: m["defaults"].update(guidance=None), "damaged .defaults.guidance: None given, must be a number"),
        (lambda m: m["defaults"].update(steps="8"), "damaged .defaults.steps: '8' given, must be a whole number"),
        (lambda m: m["defaults"].update(steps=0), "damaged .defaults.steps: 0 given, allowed is a whole number from 1"),
        (lambda m: m["defaults"].update(depth=7), "damaged .defaults.depth: 7 given, must be one of depths"),
        (lambda m: m["defaults"]["strength"].pop("edit"), "damaged .defaults.strength: 'edit' is missing"),
        (lambda m: m.update(decoder={"name": "tiny"}), "damaged .*sha256"),
        (lambda m: m.update(model_depth="2"), "damaged .model_depth: '2' given, must be a whole number or none"),
        (lambda m: m["text"].update(tokenizer=None), "damaged .files: None given, must be within the bundle"),
        (
            lambda m: m["text"].update(tokenizer="../b/tokenizer.json"),
            "damaged .files: '../b/tokenizer.json' given, mu",
        ),
        (
            lambda m: m["graphs"]["decoder"].update(file="/b/decoder.onnx"),
            "damaged .files: '/b/decoder.onnx' given, mu",
        ),
        (
            lambda m: m["graphs"]["decoder"].update(data="a/../../w"),
            "damaged .files: 'a/../../w' given, must be within",
        ),
        (lambda m: _input(m, "tokens")["shape"].__setitem__(0, -1), "damaged .graphs.denoiser.tokens.shape: .-1, "),
        (lambda m: _input(m, "tokens")["shape"].__setitem__(0, 4), "damaged .graphs.denoiser.tokens.shape: .4, "),
        (lambda m: _input(m, "mask").update(dtype="float32"), "damaged .graphs.denoiser.mask.dtype: 'float32' given"),
        (lambda m: m.update(picture_psnr=10**400), "damaged .picture_psnr: 1000.* given, must be a number or none"),
        (lambda m: m["latents"]["mean"].pop(), "damaged .latents: 3 means or deviations given for 4 channels"),
        (lambda m: m["latents"].update(std=[0, 1, 1, 1]), "damaged .latents.std: 0 given, must be above 0"),
        (lambda m: m.update(model_depth=-1), "damaged .model_depth: -1 given"),
        (lambda m: m["depths"].update({"02": "denoiser"}), "damaged .depths: '02' given, must be whole numbers"),
        (lambda m: m["files"].update({"..": {"bytes": 1, "sha256": ""}}), "damaged .files: '..' given, must be within"),
    ],
)
def test_a_manifest_that_is_damaged_or_newer(
    editor: tuple[Path, Manifest], tmp_path: Path, change: Any, message: str
) -> None:
    values = json.loads(editor[1].to_json())
    change(values)
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(PochadeError, match=message):
        read_manifest(tmp_path)


def test_files_of_a_bundle_that_are_something_else(editor: tuple[Path, Manifest], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(PochadeError, match=r"manifest.json: damaged, not JSON"):
        read_manifest(tmp_path)
    values = json.loads(editor[1].to_json())
    values["text"]["tokenizer"] = "decoder.onnx"
    for name in values["files"]:
        (tmp_path / name).write_bytes((editor[0] / name).read_bytes())
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(PochadeError, match=r"decoder.onnx: no tokenizer \(stream did not contain valid UTF-8\)"):
        Bundle(tmp_path).generate("a red apple", steps=1)
