"""The record of a request, and what its model adds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pochade.denoisers.base import MAX_DEPTH
from pochade.denoisers.lira.reasoning import LEAST_STEPS
from pochade.errors import PochadeError
from pochade.pipelines import hub
from pochade.pipelines.requests import ITERATIONS, EditRequest, GenerationRequest, ModelFacts, model_facts
from pochade.pipelines.text_to_image import TextToImagePipeline
from processes import python

PLAIN = ModelFacts(
    Path("model"), 50, 3.0, (0.4, 0.8), (), control="", image_prompt_dim=0, size_multiple=16, depths=None
)
EDITOR = ModelFacts(
    Path("model"),
    20,
    2.0,
    (0.4, 0.8),
    ("edit", "super_resolution"),
    control="edges",
    image_prompt_dim=8,
    size_multiple=None,
    depths=(2, 64),
)


def generation(**fields: Any) -> GenerationRequest:
    return GenerationRequest(**{"prompt": "a red apple", **fields})


def edit(**fields: Any) -> EditRequest:
    return EditRequest(**{"prompt": "a lemon", "source": "in.png", **fields})


def test_a_generation_is_guided_at_the_times_of_the_model_and_an_edit_at_all() -> None:
    assert GenerationRequest("a fox").for_model(PLAIN).guidance_interval == (0.4, 0.8)
    given = GenerationRequest("a fox", guidance_interval=(0, 1)).for_model(PLAIN)
    assert given.guidance_interval == (0.0, 1.0)
    assert edit().for_model(EDITOR).guidance_interval == (0.0, 1.0)


def test_a_generation_takes_the_models_own_values() -> None:
    request = generation().for_model(PLAIN)
    assert (request.steps, request.guidance) == (50, 3.0)
    assert request.seed is not None
    assert 0 <= request.seed < 2**31
    given = generation(seed=2**62, steps=3, guidance=2).for_model(EDITOR)
    assert (given.seed, given.steps, given.guidance) == (2**62, 3, 2.0)
    assert generation(image_prompt="s.png").for_model(EDITOR).image_prompt_scale == 1.0
    assert request.for_model(PLAIN) == request


def test_paths_are_kept_as_given(tmp_path: Path) -> None:
    request = generation(control=tmp_path / "lines.png", model=tmp_path)
    assert (request.control, request.model) == (str(tmp_path / "lines.png"), str(tmp_path))
    assert request.files() == {"control": tmp_path / "lines.png"}
    assert edit(task="inpaint", mask="alpha").files() == {"source": Path("in.png")}
    assert set(edit(task="inpaint", mask="m.png").files()) == {"source", "mask"}


@pytest.mark.parametrize(
    ("fields", "model", "expected"),
    [
        ({}, PLAIN, {"instruction": False, "strength": 0.6, "image_guidance": None, "guidance": 3.0}),
        ({}, EDITOR, {"instruction": True, "strength": 1.0, "image_guidance": 1.5}),
        ({"instruction": False}, EDITOR, {"instruction": False, "strength": 0.6}),
        ({"strength": 0.3, "image_guidance": 2}, EDITOR, {"strength": 0.3, "image_guidance": 2.0}),
        ({"task": "inpaint", "mask": "m.png"}, EDITOR, {"instruction": False, "strength": 1.0}),
        ({"task": "inpaint", "mask": "m.png", "instruction": True}, EDITOR, {"image_guidance": 1.5}),
        ({"task": "super_resolution"}, PLAIN, {"factor": 2, "strength": 0.2, "guidance": 1.0}),
        ({"task": "super_resolution", "factor": 4}, EDITOR, {"factor": 4, "strength": 1.0}),
        ({"task": "super_resolution", "guidance": 2.0, "prompt": ""}, PLAIN, {"guidance": 2.0}),
    ],
)
def test_an_edit_takes_what_is_usual_for_its_task(
    fields: dict[str, Any], model: ModelFacts, expected: dict[str, Any]
) -> None:
    request = edit(**fields).for_model(model)
    assert {name: getattr(request, name) for name in expected} == expected
    assert request.for_model(model).changed(seed=3) == request.changed(seed=3)


def test_names_of_pipelines_and_of_the_prompt() -> None:
    assert generation().pipeline == "TextToImagePipeline"
    assert edit().pipeline == "ImageToImagePipeline"
    assert edit(task="inpaint", mask="alpha").pipeline == "InpaintPipeline"
    assert edit(task="super_resolution").pipeline == "SuperResolutionPipeline"
    assert (edit().prompt_argument, edit(instruction=True).prompt_argument) == ("prompt", "instruction")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": " "}, "prompt: empty, allowed is a sentence"),
        ({"model": None}, "model: None given, allowed is a name or the path"),
        ({"negative_prompt": None}, "negative_prompt: None given, allowed is a sentence"),
        ({"device": 5}, "device: 5 given, allowed is a name"),
        ({"loras": None}, "loras: None given, allowed is a list of folders"),
        ({"loras": [5]}, "loras: 5 given, allowed is a list of folders"),
        ({"embeddings": 5}, "embeddings: 5 given, allowed is a list of files"),
        ({"embeddings": "word"}, "embeddings: 'word' given, allowed is a list of files"),
        ({"decoder": 5}, "decoder: 5 given, allowed is a name or the path of a folder"),
        ({"control_edges": 1}, "control_edges: 1 given, allowed are True and False"),
        ({"steps": 10**30}, "steps: 1000000000000000000000000000000 given, allowed is a whole number from 1 to 10000"),
        ({"control": 5}, "control: 5 given, allowed is the path of a file"),
        ({"prompt": ["a red apple"]}, r"prompt: \['a red apple'\] given, allowed is a sentence"),
        ({"seed": -1}, "seed: -1 given"),
        ({"steps": 0}, "steps: 0 given, allowed is a whole number from 1 to 10000"),
        ({"depth": True}, "depth: True given"),
        ({"width": 0}, "width: 0 given"),
        ({"guidance": float("inf")}, "guidance: inf given, allowed are finite numbers"),
        ({"guidance_interval": (0.9, 0.1)}, "guidance_interval: "),
        ({"scheduler": "oiler"}, "scheduler: 'oiler' given"),
        ({"device": "gpu"}, "device: 'gpu' given"),
        ({"precision": "int8"}, "precision: 'int8' given"),
        ({"guidance": 1, "negative_prompt": "dog"}, "negative_prompt: has no effect at guidance 1"),
        ({"image_prompt_scale": 0.5}, "image_prompt_scale: 0.5 given without an image prompt"),
        ({"image_prompt": "s.png", "image_prompt_scale": -1}, "image_prompt_scale: -1 given, allowed are finite"),
    ],
)
def test_generations_that_are_not_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PochadeError, match=message):
        generation(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": ""}, "prompt: empty"),
        ({"source": ""}, "source: none given"),
        ({"mask": "m.png", "task": "inpaint", "soft_mask": "no"}, "soft_mask: 'no' given, allowed are True and False"),
        ({"mask": "m.png", "task": "inpaint", "mask_blur": 1e9}, "mask_blur: 1000000000.0 given, allowed are pixels"),
        ({"instruction": "no"}, "instruction: 'no' given, allowed are True and False"),
        ({"task": "generate"}, "task: 'generate' given, allowed are edit, inpaint, super_resolution"),
        ({"mask": "m.png"}, "mask: 'm.png' given for edit"),
        ({"task": "inpaint"}, "mask: None given for inpaint"),
        ({"factor": 2}, "factor: 2 given for edit"),
        ({"task": "super_resolution", "factor": 3}, "factor: 3 given, allowed are 2 and 4"),
        ({"strength": 0}, "strength: 0 given"),
        ({"size": 0}, "size: 0 given"),
        ({"image_guidance": float("nan")}, "image_guidance: nan given"),
        ({"image_guidance": 2, "instruction": False}, "image_guidance: given without an instruction"),
        ({"task": "super_resolution", "instruction": True}, "instruction: given for super_resolution"),
    ],
)
def test_edits_that_are_not_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PochadeError, match=message):
        edit(**fields)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (generation(control="c.png"), "control: given, but this model has no input for it"),
        (generation(image_prompt="s.png"), "image_prompt: given, but this model has no input for it"),
        (generation(negative_prompt="dog", guidance=None), None),
        (edit(instruction=True), "instruction: given, but this model follows none, allowed are "),
        (edit(image_guidance=2.0), "image_guidance: given without an instruction"),
        (generation(depth=4), "depth: 4 given, but this model does not iterate: allowed is none"),
        (generation(width=40, height=32), "size: 40 given, allowed are multiples of 16, from 16 to 8192"),
        (edit(size=8), "size: 8 given, allowed are multiples of 16, from 16 to 8192"),
    ],
)
def test_what_a_model_cannot_do(request_: GenerationRequest | EditRequest, message: str | None) -> None:
    if message is None:
        request_.for_model(PLAIN)
        distilled = replace(PLAIN, guidance=1.0)
        with pytest.raises(PochadeError, match="negative_prompt: has no effect at guidance 1"):
            request_.for_model(distilled)
        return
    with pytest.raises(PochadeError, match=message):
        request_.for_model(PLAIN)


def test_an_edit_without_a_source() -> None:
    with pytest.raises(PochadeError, match="source: none given, allowed is the file of a picture"):
        EditRequest("a green apple")


def test_changes_name_fields() -> None:
    assert generation(seed=3).changed(seed=4, steps=2) == generation(seed=4, steps=2)
    with pytest.raises(PochadeError, match=r"sed: given, allowed are control, .*\(did you mean 'seed'"):
        generation().changed(sed=4)


def test_a_model_has_iterations_within_limits() -> None:
    assert generation(depth=2, width=40).for_model(EDITOR).depth == 2
    with pytest.raises(PochadeError, match="depth: 1 given, allowed are 2 to 64"):
        edit(depth=1).for_model(EDITOR)
    assert ITERATIONS == {
        "iterations": (1, MAX_DEPTH),
        "recursions": (1, MAX_DEPTH),
        "reasoning_steps": (LEAST_STEPS, MAX_DEPTH),
    }


def test_facts_of_a_model(toy_editor_folder: Path) -> None:
    facts = model_facts(str(toy_editor_folder))
    assert facts == ModelFacts(
        toy_editor_folder, 50, 3.0, (0.0, 1.0), ("edit", "super_resolution"), "", 0, 16, (1, MAX_DEPTH)
    )


@pytest.mark.parametrize("name", hub.shipped())
def test_sizes_and_iterations_of_a_model_are_those_of_its_pipeline(name: str) -> None:
    facts, pipe = model_facts(name), TextToImagePipeline.from_pretrained(name)
    assert facts.size_multiple == pipe.size_multiple
    assert (facts.depths is None) == (pipe.denoiser.input_spec().depth is None)


def test_cells_of_an_autoencoder_of_diffusers(tmp_path: Path) -> None:
    for kind, settings in (
        ("AutoencoderKL", {"latent_channels": 4, "block_out_channels": [32, 32, 32], "norm_num_groups": 8}),
        (
            "AutoencoderDC",
            {"latent_channels": 4, "encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8]},
        ),
    ):
        config = {"_class_name": "PretrainedAutoencoder", "kind": kind, "settings": settings}
        (tmp_path / "autoencoder").mkdir(exist_ok=True)
        (tmp_path / "autoencoder" / "config.json").write_text(json.dumps(config))
        assert hub.downsampling(tmp_path) == 2 ** (len(next(v for v in settings.values() if isinstance(v, list))) - 1)
    (tmp_path / "autoencoder" / "config.json").write_text('{"_class_name": "Other"}')
    assert hub.downsampling(tmp_path) is None


def test_a_wrong_request_costs_no_torch() -> None:
    code = (
        "import sys\n"
        "from pochade.errors import PochadeError\n"
        "from pochade.pipelines.prepare import prepare\n"
        "from pochade.pipelines.requests import EditRequest\n"
        "try: prepare(EditRequest('a lemon', source='none.png'))\n"
        "except PochadeError as error: print(error)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("source: 'none.png' cannot be read")
