"""LoRAs in pipelines and requests: diffusers' methods, files, what is refused, merging."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pochade
from cli.run import cli
from contracts.families import FAMILIES, conditioning_for, inputs_for, make, stir
from pochade.errors import PochadeError
from pochade.evaluation.generation import fingerprint
from pochade.pipelines.lora import adapters_in_use
from pochade.pipelines.lora_files import (
    BASE,
    BASE_SHA256,
    WEIGHTS,
    find_lora,
    parse_lora,
    weights_sha256,
)
from pochade.pipelines.metadata import read_metadata
from pochade.pipelines.tensor_files import read_head
from pochade.pipelines.text_to_image import TextToImagePipeline

RANK = 2


def add(network: Any, layers: list[str], name: str = "default", *, dora: bool = False, seed: int = 0) -> None:
    """An adapter with random A and B."""
    from peft import LoraConfig

    torch.manual_seed(seed)
    network.add_adapter(LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=layers, use_dora=dora), name)
    for key, parameter in network.named_parameters():
        if f"lora_B.{name}" in key:
            torch.nn.init.normal_(parameter, std=0.3)


def write(pipe: Any, folder: Path, seed: int = 0, *, text: bool = False, base: Path | None = None, **how: Any) -> Path:
    """A LoRA with random weights for the model of ``pipe``, which stays as it is."""
    add(pipe.denoiser, pipe.denoiser.adaptable_layers(), seed=seed, **how)
    if text:
        add(pipe.text_encoder, ["expand", "contract"], seed=seed, **how)
    metadata = {} if base is None else {BASE: base.name, BASE_SHA256: weights_sha256(base)}
    pipe.save_lora_weights(folder, metadata=metadata, dtype=None)
    pipe.unload_lora_weights()
    return folder


def sample(pipe: Any) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    pipe.set_progress_bar_config(disable=True)
    return pipe("a red apple", num_inference_steps=2, generator=generator, output_type="latent").images


@pytest.fixture(scope="module")
def folders(toy_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model, and two LoRAs of it, the second with a side for the text encoder."""
    out = tmp_path_factory.mktemp("loras")
    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    first = write(pipe, out / "first", 1, base=toy_pipeline_folder)
    return toy_pipeline_folder, first, write(pipe, out / "second", 2, text=True, base=toy_pipeline_folder)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dora", [False, True])
def test_every_family_takes_adapters_and_gives_them_back(family: str, dora: bool) -> None:
    kept = FAMILIES[family]
    denoiser = stir(make(family, next(iter(kept.toys))))
    names, weights = list(denoiser.state_dict()), {k: v.clone() for k, v in denoiser.state_dict().items()}
    latents, t = inputs_for(denoiser, 2, (4, 4))
    conditioning = conditioning_for(denoiser, kept.parts, 2, (4, 4))
    with torch.no_grad():
        before = denoiser(latents, t, conditioning).velocity
        from peft import LoraConfig

        layers = denoiser.adaptable_layers()
        denoiser.add_adapter(LoraConfig(r=RANK, target_modules=layers, use_dora=dora), "a")
        denoiser.eval()
        untrained = denoiser(latents, t, conditioning).velocity
        if dora:  # the norm of a row, divided by itself
            torch.testing.assert_close(untrained, before)
        else:
            assert torch.equal(untrained, before)
        adapted = {k.partition(".lora_B")[0] for k, _ in denoiser.named_parameters() if "lora_B" in k}
        assert adapted == set(layers)
        assert layers
        assert not any("modulation" in name for name in layers)
        for key, parameter in denoiser.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.3)
        adapted = denoiser(latents, t, conditioning).velocity
        assert not torch.equal(adapted, before)
        denoiser.fuse_lora()
        torch.testing.assert_close(denoiser(latents, t, conditioning).velocity, adapted, rtol=1e-4, atol=1e-5)
        denoiser.unfuse_lora()
        denoiser.unload_lora()
    assert list(denoiser.state_dict()) == names
    for key, value in denoiser.state_dict().items():
        torch.testing.assert_close(value, weights[key])


def test_loras_are_added_with_their_weights_as_in_diffusers(folders: tuple[Path, Path, Path]) -> None:
    model, first, second = folders
    pipe = TextToImagePipeline.from_pretrained(model)
    base = sample(pipe)
    pipe.load_lora_weights(first, adapter_name="a")
    pipe.load_lora_weights(str(second / WEIGHTS), adapter_name="b")
    assert pipe.get_list_adapters() == {"denoiser": ["a", "b"], "text_encoder": ["b"]}
    pipe.set_adapters(["a"], [0.0])
    assert torch.equal(sample(pipe), base)
    pipe.set_adapters(["a", "b"], [0.8, 0.5])
    both = sample(pipe)
    pipe.fuse_lora()
    torch.testing.assert_close(sample(pipe), both, rtol=1e-3, atol=1e-4)
    pipe.unfuse_lora()
    torch.testing.assert_close(sample(pipe), both, rtol=1e-3, atol=1e-4)
    pipe.set_adapters(["b"])
    alone = sample(pipe)
    assert not torch.allclose(alone, base)
    assert not torch.allclose(alone, both)
    pipe.unload_lora_weights()
    torch.testing.assert_close(sample(pipe), base, rtol=1e-3, atol=1e-4)


def test_adapters_that_are_not_there_are_one_line(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, first, _ = folders
    pipe = TextToImagePipeline.from_pretrained(model)
    with pytest.raises(PochadeError, match="fuse_lora: no adapter is loaded; load_lora_weights loads one"):
        pipe.fuse_lora()
    with pytest.raises(PochadeError, match="adapter_name: 'mine' given, allowed are none"):
        pipe.set_adapters("mine")
    pipe.load_lora_weights(first, adapter_name="drawn")
    for call in (
        lambda: pipe.set_adapters(["drawn", "draw"]),
        lambda: pipe.delete_adapters("draw"),
        lambda: pipe.save_lora_weights(tmp_path, adapter_name="draw"),
    ):
        with pytest.raises(PochadeError, match=r"'draw' given, allowed are drawn \(did you mean 'drawn'\?\)"):
            call()
    pipe.delete_adapters("drawn")
    assert not pipe.get_list_adapters()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], "2 given for 1 adapters, allowed is one, or one each"),
        ((1.0, 2.0), "2 given for 1 adapters, allowed is one, or one each"),
        ([], "0 given for 1 adapters, allowed is one, or one each"),
        ({"unet": 0.5}, "'unet' given, allowed are denoiser, text_encoder"),
        ([{"denoiser": float("nan")}], "nan given, allowed are finite numbers"),
        ({"denoiser": {"up": 1.0}}, "{'up': 1.0} given, allowed are finite numbers"),
    ],
)
def test_weights_that_fit_no_adapters_are_one_line(
    folders: tuple[Path, Path, Path], weights: Any, message: str
) -> None:
    model, first, _ = folders
    pipe = TextToImagePipeline.from_pretrained(model)
    pipe.load_lora_weights(first, adapter_name="drawn")
    pipe.set_adapters("drawn", (0.3,))  # pyright: ignore[reportArgumentType]
    before = adapters_in_use(pipe.denoiser)
    with pytest.raises(PochadeError) as error:
        pipe.set_adapters(["drawn"], weights)
    assert str(error.value) == f"adapter_weights: {message}"
    assert adapters_in_use(pipe.denoiser) == before


@pytest.mark.filterwarnings("ignore::UserWarning:peft")  # each layer that has nothing to do says so
def test_what_is_fused_is_given_back_with_its_weights(folders: tuple[Path, Path, Path]) -> None:
    model, first, second = folders
    pipe = TextToImagePipeline.from_pretrained(model)
    pipe.load_lora_weights(first, adapter_name="a")
    pipe.load_lora_weights(second, adapter_name="b")
    pipe.set_adapters(["a", "b"], [0.8, 0.5])
    before = {name: adapters_in_use(getattr(pipe, name)) for name in ("denoiser", "text_encoder")}
    weights = {name: value.clone() for name, value in pipe.denoiser.state_dict().items()}
    both = sample(pipe)
    pipe.set_adapters(["a", "b"], [0.4, 0.25])
    halved = sample(pipe)
    pipe.set_adapters(["a", "b"], [0.8, 0.5])

    def check_given_back() -> None:
        assert {name: adapters_in_use(getattr(pipe, name)) for name in before} == before
        for name, value in pipe.denoiser.state_dict().items():
            torch.testing.assert_close(value, weights[name])
        torch.testing.assert_close(sample(pipe), both, rtol=1e-3, atol=1e-4)

    for _ in range(2):
        pipe.fuse_lora(lora_scale=0.5)
        pipe.fuse_lora(lora_scale=0.5)  # fused already
        torch.testing.assert_close(sample(pipe), halved, rtol=1e-3, atol=1e-4)
        with pytest.raises(PochadeError, match="adapter_names: given while adapters are fused, allowed after unfuse"):
            pipe.set_adapters("a")
        pipe.unfuse_lora()
        check_given_back()
    pipe.fuse_lora(lora_scale=0.5, adapter_names=["a"])
    pipe.fuse_lora(["denoiser"], 0.25, adapter_names="b")
    pipe.unfuse_lora()
    check_given_back()
    pipe.fuse_lora(lora_scale=0.5)
    pipe.disable_lora()
    sample(pipe)
    pipe.enable_lora()
    check_given_back()
    for call in (pipe.fuse_lora, pipe.unfuse_lora):
        with pytest.raises(PochadeError, match="components: 'unet' given, allowed are denoiser, text_encoder"):
            call(["unet"])
    check_given_back()


def test_a_fingerprint_is_of_the_adapters_in_use(folders: tuple[Path, Path, Path]) -> None:
    model, first, second = folders
    pipe = TextToImagePipeline.from_pretrained(model)
    plain = fingerprint(pipe)
    pipe.load_lora_weights(first, adapter_name="a")
    pipe.load_lora_weights(second, adapter_name="b")

    def of(*arguments: Any) -> str:
        pipe.set_adapters(*arguments)
        return fingerprint(pipe)

    both = [["a", "b"], [0.8, 0.5]]
    found = [plain, of("a"), of("b"), of("a", 0.5), of(*both), of("a", {"denoiser": 0.8})]
    pipe.disable_lora()
    found.append(fingerprint(pipe))
    pipe.enable_lora()
    assert len({*found}) == len(found)
    assert of(*both) == found[4]
    pipe.unload_lora_weights()
    assert fingerprint(pipe) == plain


def test_a_file_is_not_overwritten(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, first, _ = folders
    pipe = TextToImagePipeline.from_pretrained(model)
    pipe.load_lora_weights(first, adapter_name="a")
    pipe.save_lora_weights(tmp_path, "a")
    before = (tmp_path / WEIGHTS).read_bytes()
    pipe.set_adapters("a", 0.5)
    with pytest.raises(PochadeError, match=f"^save_directory: {tmp_path} holds {WEIGHTS} already"):
        pipe.save_lora_weights(tmp_path, "a", dtype=None)
    assert (tmp_path / WEIGHTS).read_bytes() == before


def test_the_sum_that_is_added_is_the_one_of_the_paper(folders: tuple[Path, Path, Path]) -> None:
    """W + weight alpha / r B A (2106.09685, section 4.1)."""
    model, first, _ = folders
    pipe = TextToImagePipeline.from_pretrained(model)
    layer = pipe.denoiser.adaptable_layers()[0]
    before = pipe.denoiser.get_submodule(layer).weight.clone()
    pipe.load_lora_weights(first, adapter_name="a")
    pipe.set_adapters("a", 0.8)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    from pochade.tensors import read_tensors

    tensors = read_tensors(first / WEIGHTS)
    product = tensors[f"denoiser.{layer}.lora_B.weight"] @ tensors[f"denoiser.{layer}.lora_A.weight"]
    torch.testing.assert_close(pipe.denoiser.get_submodule(layer).weight, before + 0.8 * 2 * product)


def test_a_dora_survives_its_file(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    add(pipe.denoiser, pipe.denoiser.adaptable_layers(), dora=True)
    for name, parameter in pipe.denoiser.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1.3
    expected = sample(pipe)
    pipe.save_lora_weights(tmp_path, dtype=None)
    pipe.unload_lora_weights()
    pipe.load_lora_weights(tmp_path)
    assert torch.equal(sample(pipe), expected)


def test_a_file_is_in_the_layout_of_diffusers(folders: tuple[Path, Path, Path]) -> None:
    model, _, second = folders
    tensors, metadata = read_head(second / WEIGHTS)
    assert metadata[BASE] == "toy"
    assert metadata[BASE_SHA256] == weights_sha256(model)
    config = json.loads(metadata["lora_adapter_metadata"])
    assert config["denoiser.r"] == RANK
    assert config["denoiser.lora_alpha"] == 2 * RANK
    layers = {name.partition(".lora_")[0] for name in tensors}
    assert layers == {
        f"{part}.{layer}" for part in ("denoiser", "text_encoder") for layer in config[f"{part}.target_modules"]
    }


def test_a_digest_outlives_a_new_version(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    """Only the tensors count, not what else stands in the head of the file."""
    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    pipe.save_pretrained(tmp_path / "same")
    again = tmp_path / "same" / "denoiser" / "diffusion_pytorch_model.safetensors"
    from pochade.tensors import read_tensors, write_tensors

    write_tensors(again, read_tensors(again), {"pochade": "another"})
    assert weights_sha256(tmp_path / "same") == weights_sha256(toy_pipeline_folder)
    pipe.denoiser.out.bias.data[0] += 1
    pipe.save_pretrained(tmp_path / "other")
    assert weights_sha256(tmp_path / "other") != weights_sha256(toy_pipeline_folder)


def test_a_lora_of_another_model_is_refused_by_name(
    folders: tuple[Path, Path, Path], toy_editor_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = folders[1]
    message = r"lora: '.*first' was trained on 'toy' \(weights [0-9a-f]{12}\), and '.*toy-editor' is another model"
    with pytest.raises(PochadeError, match=message):
        TextToImagePipeline.from_pretrained(toy_editor_folder).load_lora_weights(first)
    options = ["--model", str(toy_editor_folder), "--lora", str(first), "-o", str(tmp_path / "out")]
    outcome = cli(capsys, "generate", "a red apple", *options, code=2)
    assert outcome.out == ""
    assert "\n" not in outcome.error
    assert "was trained on 'toy'" in outcome.error
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_named_in_one_line(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, first, _ = folders
    from pochade.tensors import read_tensors

    tensors = read_tensors(first / WEIGHTS)
    pipe = TextToImagePipeline.from_pretrained(model)
    name = next(iter(tensors))
    layer = name.partition(".lora_")[0]
    for changed, message in (
        ({name: torch.zeros(RANK, 5)}, rf"{name} is \[2, 5\] instead of \[2, \d+\]$"),
        ({"denoiser.nowhere.lora_A.weight": torch.zeros(2, 2)}, r"denoiser.nowhere.lora_A.weight has no layer$"),
        ({f"{layer}.lora_C.weight": torch.zeros(2)}, r"lora_C.weight is unknown$"),
        ({name: tensors[name]}, rf"{layer}.lora_B.weight is missing beside {name}$"),
        ({name: 5}, rf"{name} is 5, no tensor$"),
        ({}, "it holds no tensors$"),
        ({**tensors, name: tensors[name] * torch.nan}, rf"{name} holds numbers that are not finite$"),
    ):
        with pytest.raises(PochadeError, match=message):
            pipe.load_lora_weights(changed)
    with pytest.raises(PochadeError, match=r"adapter_name: 'a\.b' given, allowed is a name without a dot$"):
        pipe.load_lora_weights(tensors, adapter_name="a.b")
    assert not pipe.has_adapters()
    pipe.load_lora_weights(tensors, adapter_name="a")
    with pytest.raises(PochadeError, match="adapter_name: 'a' is taken"):
        pipe.load_lora_weights(first, adapter_name="a")
    for weight in (float("nan"), "0.5", [[1.0, True]], {"denoiser": float("inf")}):
        with pytest.raises(PochadeError, match=r"adapter_weights: .* given, allowed are finite numbers$"):
            pipe.set_adapters("a", weight)  # pyright: ignore[reportArgumentType]
    with pytest.raises(PochadeError, match=r"lora_scale: nan given, allowed are finite numbers$"):
        pipe.fuse_lora(lora_scale=float("nan"))
    with pytest.raises(PochadeError, match=r"adapter_name: 'b' given, allowed are a$"):
        pipe.save_lora_weights(tmp_path, "b")
    with pytest.raises(PochadeError, match="save_directory: a model with adapters given"):
        pipe.save_pretrained(tmp_path / "model")
    (tmp_path / WEIGHTS).write_bytes(b"no tensors")
    for place, message in (
        (tmp_path / "none", "holds pytorch_lora_weights.safetensors"),
        (tmp_path, "not a readable safetensors file"),
    ):
        with pytest.raises(PochadeError, match=message):
            pipe.load_lora_weights(place)


def test_a_place_has_a_weight_or_one(tmp_path: Path) -> None:
    odd = tmp_path / "a:2"
    odd.mkdir()
    assert parse_lora("a/b:0.8") == (Path("a/b"), 0.8)
    assert parse_lora("a/b:-1") == (Path("a/b"), -1.0)
    assert parse_lora("a/b") == (Path("a/b"), 1.0)
    assert parse_lora("C:\\loras") == (Path("C:\\loras"), 1.0)
    assert parse_lora(str(odd)) == (odd, 1.0)
    assert parse_lora(f"{odd}:0.5") == (odd, 0.5)
    for wrong in ("a:nan", "a:inf", ":0.5", f"{tmp_path}:half"):
        with pytest.raises(PochadeError, match=r"allowed is a folder, or FOLDER:WEIGHT"):
            parse_lora(wrong)
    with pytest.raises(PochadeError, match="loras: 'a' given, allowed is a list"):
        pochade.GenerationRequest("a", loras="a")  # pyright: ignore[reportArgumentType]


def test_a_request_keeps_its_loras(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, first, second = folders
    request = pochade.GenerationRequest(
        "a red apple", model=str(model), seed=3, steps=2, device="cpu", loras=(f"{first}:0.8", str(second))
    )
    with pytest.raises(PochadeError, match=r"lora: .* given twice, allowed is once, with the sum of the weights"):
        pochade.generate(request.changed(loras=(f"{first}:0.8", str(first / WEIGHTS))))
    picture = pochade.generate(request)
    plain = pochade.generate(request.changed(loras=()))
    assert not np.array_equal(np.asarray(picture.image), np.asarray(plain.image))
    path = picture.save(tmp_path)
    metadata = read_metadata(path)
    assert metadata.request.loras == (f"{first}:0.8", str(second))
    assert {"lora_1", "lora_2"} < set(metadata.sha256)
    again = pochade.repeat(path)
    assert np.array_equal(np.asarray(again.image), np.asarray(picture.image))
    other = pochade.repeat(path, loras=(f"{first}:0.1",))
    assert not np.array_equal(np.asarray(other.image), np.asarray(picture.image))


def test_a_repeat_misses_another_lora(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, first, _ = folders
    place = tmp_path / "lora"
    place.mkdir()
    (place / WEIGHTS).write_bytes((first / WEIGHTS).read_bytes())
    request = pochade.GenerationRequest(
        "a red apple", model=str(model), seed=3, steps=2, device="cpu", loras=[str(place)]
    )  # pyright: ignore[reportArgumentType]
    path = pochade.generate(request).save(tmp_path)
    (place / WEIGHTS).unlink()
    write(TextToImagePipeline.from_pretrained(model), place, 9, base=model)
    with pytest.raises(PochadeError, match="made with another LoRA than"):
        pochade.repeat(path)


@pytest.mark.parametrize("command", ["edit", "inpaint", "upscale"])
def test_edits_take_loras(
    command: str, folders: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from PIL import Image

    model, first, _ = folders
    source, mask = tmp_path / "source.png", tmp_path / "mask.png"
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(source)
    Image.fromarray(np.repeat(np.uint8([[255], [0]]), 16, 0).repeat(32, 1)).save(mask)
    prompt = [] if command == "upscale" else ["a green apple"]
    extra = ["--mask", str(mask)] if command == "inpaint" else []
    pictures: list[Any] = []
    for number, lora in enumerate(([], ["--lora", f"{first}:0.8"])):
        target = tmp_path / f"{number}.png"
        options = ["--model", str(model), "--seed", "1", "--steps", "4", "--strength", "0.9", "--device", "cpu"]
        assert cli(capsys, command, str(source), *prompt, *extra, *options, *lora, "-o", str(target)).error == ""
        pictures.append(np.asarray(Image.open(target)))
    assert not np.array_equal(*pictures)
    assert read_metadata(target).request.loras == (f"{first}:0.8",)
    again = cli(capsys, command, "--like", str(target), "-o", str(tmp_path / "again.png")).out.strip()
    assert np.array_equal(np.asarray(Image.open(again)), pictures[1])


def test_a_merged_model_is_a_plain_one(
    folders: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, first, second = folders
    out = tmp_path / "merged"
    loras = ["--lora", f"{first}:0.8", "--lora", str(second)]
    assert cli(capsys, "merge", str(model), *loras, "-o", str(out)).out.strip() == str(out)
    pipe = TextToImagePipeline.from_pretrained(out)
    assert not pipe.has_adapters()
    expected = TextToImagePipeline.from_pretrained(model)
    expected.load_lora_weights(first, adapter_name="a")
    expected.load_lora_weights(second, adapter_name="b")
    expected.set_adapters(["a", "b"], [0.8, 1.0])
    torch.testing.assert_close(sample(pipe), sample(expected), rtol=1e-3, atol=1e-4)
    assert find_lora(str(first)).metadata[BASE_SHA256] != weights_sha256(out)
    for arguments, message in (
        (["merge", model, "-o", tmp_path / "x"], "lora: none given"),
        (["merge", model, "--lora", first], "out: none given"),
        (["merge", model, "--lora", first, "-o", out], "exists already"),
        (["merge", model, "--lora", tmp_path / "none", "-o", tmp_path / "x"], "allowed is a folder that holds"),
    ):
        outcome = cli(capsys, *map(str, arguments), code=2)
        assert outcome.out == ""
        assert message in outcome.error
        assert "\n" not in outcome.error
    assert not (tmp_path / "x").exists()


def test_what_a_lora_is_can_be_seen(folders: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    model, first, _ = folders
    found = json.loads(cli(capsys, "info", str(first), "--json").out)
    assert found[BASE] == "toy"
    assert found[BASE_SHA256] == weights_sha256(model)
    assert len(found["layers"]) == len(TextToImagePipeline.from_pretrained(model).denoiser.adaptable_layers())
    assert "base_model         toy" in cli(capsys, "info", str(first)).out


def test_a_model_without_peft_says_what_to_install(
    folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pochade.pipelines.lora.USE_PEFT_BACKEND", False)
    pipe = TextToImagePipeline.from_pretrained(folders[0])
    with pytest.raises(PochadeError, match=r"peft is not installed: pip install 'pochade\[lora\]'"):
        pipe.load_lora_weights(folders[1])
