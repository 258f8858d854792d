"""What cannot be trained is said before any work."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pochade.data.sources import FolderSource
from pochade.errors import PochadeError
from pochade.recipes import stages_of
from pochade.training.data import ImageData
from pochade.training.executor import check, run
from pochade.training.overrides import override
from pochade.training.stages.components import Components
from recipes.running import refused


def test_unknown_recipes_and_fields_name_the_nearest(tmp_path: Path):
    out = tmp_path / "run"
    refused(r"recipe: 'lrf-cifar' given, .*did you mean 'lrf-cifar10'", out, "lrf-cifar")
    refused(r"no field 'stesp' \(did you mean 'steps'", out, "lrf", "stesp=3")
    refused(r"no field 'flow.task.weightnig' \(did you mean 'task.weighting'", out, "lrf", "flow.task.weightnig=ratio")
    refused(
        "task.weighting: 'rato' given, must be constant or centre or ratio or min_snr",
        out,
        "lrf",
        "task.weighting=rato",
    )


def test_an_unset_source_says_what_to_add(tmp_path: Path):
    for recipe, stage in (("lrf-folder", "flow"), ("lrf-curriculum", "autoencoder")):
        said = rf"data.source: not set; add data.source=FOLDER to the command \(or {stage}.data.source=FOLDER"
        refused(said, tmp_path / "run", recipe, "initialise_from=none")


def test_unusable_data_is_named(tmp_path: Path, folder: Path):
    out = tmp_path / "run"
    refused("source: '/nowhere' given, but /nowhere is not there; allowed are", out, "lrf", "data.source=/nowhere")
    for size in (33, 0, -64):
        message = rf"data.size: {size} given, allowed are multiples of \d+.*, from \d+ on"
        refused(message, out, "lrf", f"data.source={folder}", f"data.size={size}")
    (tmp_path / "bare").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "bare" / "a.png")
    refused("1 pictures but no captions", out, "lrf", f"data.source={tmp_path / 'bare'}")
    refused("path: .*none.tar.gz does not exist", out, "lrf-cifar10", "data.source=cifar10:none.tar.gz")


@pytest.fixture(scope="module")
def components() -> Components:
    return Components()


@pytest.mark.parametrize(
    ("recipe", "change"),
    [
        ("lora", "data.keep_tags=-1"),
        ("lora", "data.word_dropout=2"),
        ("lora", "data.wordings=0"),
        ("lora", "data.template=a drawing"),
        ("lora", "data.ratios=9"),
        ("lora", "data.max_skipped=2"),
        ("lora", "data.max_megapixels=0"),
        ("lora", "data.source=/nowhere"),
        ("lora", "task.rank=0"),
        ("lora", "task.alpha=-1"),
        ("autoencoder", "task.size=huge"),
        ("autoencoder", "task.kl=-1"),
        ("autoencoder", "task.latent_channels=32"),
        ("autoencoder", "task.changes=latent_channel=32"),
    ],
)
def test_a_field_is_named_as_it_was_given(recipe: str, change: str, folder: Path, components: Components):
    field = change.partition("=")[0]
    task = ["task.base=lrf-openmoji"] if recipe == "lora" else ["task.kind=deep_compression"]
    beside = ["data.word_dropout=0.1"] if field == "data.wordings" else []
    changes = [f"data.source={folder}", *task, *beside, change]
    with pytest.raises(PochadeError) as refusal:
        check(override(stages_of(recipe), changes), components)
    assert str(refusal.value).startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["data.trigger", "data.template"])
def test_blank_words_are_refused(field: str, folder: Path, tmp_path: Path):
    for text in ("   ", ""):
        refused(
            f"{field}: '' given, ",
            tmp_path / "run",
            "lora",
            f"data.source={folder}",
            "task.base=lrf-openmoji",
            f"{field}={text}",
        )
    with pytest.raises(PochadeError, match="trigger: '   ' given, allowed are words, and none"):
        ImageData(FolderSource(folder), 64, trigger="   ").open()


def test_another_size_than_that_of_the_start_is_named(folder: Path, tmp_path: Path):
    settings = [f"data.source={folder}", "data.size=128", "steps=1", "batch_size=2", "warmup_steps=0"]
    refused(
        "data.size: 128 given, but initialise_from=lrf-openmoji was trained on 64: allowed are data.size=64, or "
        "task.options=sample_size=8 besides",
        tmp_path / "run",
        "lrf-folder",
        *settings,
    )


def test_another_network_than_that_of_the_start_is_named_with_the_settings_that_fit(folder: Path, tmp_path: Path):
    data = (f"data.source={folder}", "initialise_from=open-drawings")
    for given in ((), ("data.size=128",), ("data.size=256",)):
        refused(
            "initialise_from: 'open-drawings' is another network; it differs in .*; allowed with it are data.size=256 "
            "task.autoencoder=open-drawings task.family=lrf task.variant=tiny",
            tmp_path / "run",
            "lrf-folder",
            *data,
            *given,
        )
    for model in ("open-drawings", "iris-nano", "microforge-nano"):
        changes = [f"data.source={folder}", f"initialise_from={model}", "task.variant=cifar", "task.options=dim=64"]
        with pytest.raises(PochadeError) as refusal:
            check(override(stages_of("lrf-folder"), changes), Components())
        fitting = str(refusal.value).partition("; allowed with it are ")[2].split()
        assert check(override(stages_of("lrf-folder"), [*changes[:2], *fitting]), Components())


def test_unusable_networks_are_named(tmp_path: Path, folder: Path):
    out, data = tmp_path / "run", (f"data.source={folder}", "data.size=32", "task.text_encoder=bag")
    refused(r"options: 'recursion=3' given, .*did you mean 'recursions'", out, "lrf", *data, "task.options=recursion=3")
    refused("options: 'heads' given", out, "lrf", *data, "task.options=heads")
    refused("dim, sample_size: 17", out, "lrf", *data, "task.options=dim=17,heads=2")
    refused("dim: .wide. given, must be a whole number from 1 to", out, "lrf", *data, "task.options=dim=wide")
    refused(r"mixer: 'conv' given", out, "lrf", *data, "task.options=mixer=conv")
    refused(r"variant: 'nanno' given, .*did you mean 'nano'", out, "lrf", *data, "task.variant=nanno")
    refused(r"family: 'lrv' given, .*did you mean 'lrf'", out, "lrf", *data, "task.family=lrv")
    refused("must divide by 7 and 2", out, "lrf", *data, "data.size=24")


def test_text_encoders_must_suit_the_data(tmp_path: Path, folder: Path, archive: Path, taesd: Path):
    out, cifar = tmp_path / "run", (f"data.source=cifar10:{archive}", f"task.autoencoder={taesd}")
    refused(
        "task.text_encoder: none given, but .* holds captions",
        out,
        "lrf",
        f"data.source={folder}",
        "task.text_encoder=none",
    )
    refused(
        "text_encoder: minilm-l6-v2 given, but .* holds classes",
        out,
        "lrf-cifar10",
        *cifar,
        "task.text_encoder=minilm-l6-v2",
    )
    refused(
        r"text_encoder: 'minilm' is unknown, .*did you mean 'minilm-l6-v2'",
        out,
        "lrf",
        f"data.source={folder}",
        "task.text_encoder=minilm",
    )


def test_unusable_autoencoders_are_named(tmp_path: Path, folder: Path):
    out, data = (
        tmp_path / "run",
        (f"data.source={folder}", "data.size=32", "initialise_from=none", "task.text_encoder=bag"),
    )
    refused(
        "task.autoencoder: none given, and no stage before trains one",
        out,
        "lrf-folder",
        *data,
        "task.autoencoder=none",
    )
    refused("'tasd' is no folder", out, "lrf-folder", *data, "task.autoencoder=tasd")
    refused("neither a folder with an AutoencoderTiny", out, "lrf-folder", *data, f"task.autoencoder={folder}")


def test_unusable_starts_are_named(tmp_path: Path, folder: Path, taesd: Path):
    out = tmp_path / "run"
    data = (f"data.source={folder}", "data.size=32", f"task.autoencoder={taesd}", "task.text_encoder=bag")
    refused("initialise_from: '/nowhere' is neither", out, "lrf-folder", *data, "initialise_from=/nowhere")
    refused("initialise_from: 'previous' given for flow", out, "lrf-folder", *data, "initialise_from=previous")
    refused(
        "initialise_from: 'previous' given for flow",
        out,
        "lrf",
        f"data.source={folder}",
        "flow.initialise_from=previous",
    )


def test_a_start_that_does_not_fit_is_found_before_the_first_stage(tmp_path: Path, trained: Path, folder: Path):
    """Whichever stage it is of: the stages before it would have run for hours."""
    out = tmp_path / "run"
    data = f"data.source={folder}", "data.size=32"
    file = trained / "1-autoencoder" / "model" / "diffusion_pytorch_model.safetensors"
    for stage, start, said in (
        ("flow", file, f"initialise_from: {file}: its tensors do not fit the network: missing: denoiser."),
        ("flow", folder, f"initialise_from: {folder} is neither a safetensors file nor a folder with one of"),
        ("flow", "lrf-openmoji", "data.size: 32 given, but initialise_from=lrf-openmoji was trained on 64"),
        ("autoencoder", folder, f"initialise_from: {folder} is neither a safetensors file nor a folder with one of"),
        ("autoencoder", "iris-nano", "initialise_from: the autoencoder of 'iris-nano': its tensors do not fit"),
        ("decoder", folder, f"initialise_from: {folder} is neither a safetensors file nor a folder with one of"),
    ):
        refused(said, out, "lrf", *data, f"{stage}.initialise_from={start}")
    first = stages_of("lrf")[-1]
    first = replace(first, task=replace(first.task, autoencoder="lrf-openmoji"), data=ImageData(FolderSource(folder)))
    other = replace(first, name="second", task=replace(first.task, variant="tiny"), initialise_from="previous")
    with pytest.raises(PochadeError, match="initialise_from: 'previous' given for second: the network before"):
        run([first, other], out)
    assert not out.exists()


def test_a_stage_of_an_unknown_kind_is_refused(tmp_path: Path):
    stage = replace(stages_of("lrf")[0], task=ImageData())
    with pytest.raises(PochadeError, match="task: ImageData given"):
        run([stage], tmp_path / "run")
