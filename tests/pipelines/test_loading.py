"""A model's folder: written whole, read strictly."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import toy_components
from pochade.denoisers.microforge import MicroForgeDenoiser
from pochade.errors import FailureError, PochadeError
from pochade.pipelines import hub
from pochade.pipelines.requests import model_facts
from pochade.pipelines.text_to_image import TextToImagePipeline

WEIGHTS = "denoiser/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(toy_pipeline_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_pipeline_folder, tmp_path / "copy"))


def load(folder: Path, **options: Any) -> TextToImagePipeline:
    return TextToImagePipeline.from_pretrained(folder, **options)


def states(pipe: TextToImagePipeline) -> dict[str, torch.Tensor]:
    parts = ("autoencoder", "denoiser", "text_encoder")
    return {f"{p}.{k}": v for p in parts for k, v in getattr(pipe, p).state_dict().items()}


def sample(pipe: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    return pipe("a red apple", num_inference_steps=2, generator=generator, output_type="pt").images


def test_save_and_load_keep_every_bit(tmp_path: Path) -> None:
    first = TextToImagePipeline(**toy_components())
    first.save_pretrained(tmp_path / "one")
    second = load(tmp_path / "one")
    second.save_pretrained(tmp_path / "two")
    assert not second.denoiser.training
    for key, value in states(first).items():
        assert torch.equal(value, states(second)[key]), key
    assert torch.equal(sample(first), sample(second))
    assert hub.model_sha256(tmp_path / "one") == hub.model_sha256(tmp_path / "two")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_model_index_is_a_format(toy_pipeline_folder: Path, toy_class_pipeline_folder: Path) -> None:
    """These paths stand in files that users keep: they may be added to, never changed."""
    index = json.loads((toy_pipeline_folder / "model_index.json").read_text())
    del index["_diffusers_version"]
    assert index == {
        "_class_name": "TextToImagePipeline",
        "autoencoder": ["pochade.autoencoders.tiny", "TinyAutoencoder"],
        "denoiser": ["pochade.denoisers.lrf", "LRFDenoiser"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["pochade.text_encoders.bag", "BagEncoder"],
        "default_steps": 50,
        "default_guidance": 3.0,
        "default_guidance_low": 0.0,
        "default_guidance_high": 1.0,
        "default_size": None,
    }
    index = json.loads((toy_class_pipeline_folder / "model_index.json").read_text())
    assert index["text_encoder"] == ["pochade.text_encoders.class_label", "ClassLabelEncoder"]


def test_other_component_paths_are_known() -> None:
    from pochade.pipelines.loading import _component_class

    for module, cls in (("minilm", "MiniLMEncoder"), ("clip", "ClipEncoder")):
        assert _component_class("text_encoder", f"pochade.text_encoders.{module}", cls).__name__ == cls


def test_diffusers_loads_the_folder(toy_pipeline_folder: Path) -> None:
    pipe = DiffusionPipeline.from_pretrained(
        str(toy_pipeline_folder), custom_pipeline="pipeline", trust_remote_code=True, low_cpu_mem_usage=False
    )
    assert type(pipe) is TextToImagePipeline
    assert torch.equal(sample(pipe), sample(load(toy_pipeline_folder)))


def test_loading_leaves_the_random_state(toy_pipeline_folder: Path) -> None:
    before = torch.get_rng_state()
    load(toy_pipeline_folder)
    assert torch.equal(before, torch.get_rng_state())


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    first = TextToImagePipeline(**toy_components())
    first.save_pretrained(tmp_path / "half", dtype=torch.float16)
    with safe_open(tmp_path / "half" / WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt", "component": "denoiser", "pochade": "0.1.0"}
        assert {file.get_tensor(k).dtype for k in file.keys()} == {torch.float16}  # noqa: SIM118
    second = load(tmp_path / "half")
    assert second.denoiser.dtype == second.autoencoder.dtype == torch.float32
    for key, value in states(first).items():
        rounded = value if key.startswith("text_encoder") else value.half().float()
        assert torch.equal(rounded, states(second)[key]), key
    assert load(tmp_path / "half", torch_dtype=torch.float64).denoiser.dtype == torch.float64


def test_saving_refuses_what_it_could_not_read_back(tmp_path: Path) -> None:
    components = toy_components()
    pipe = TextToImagePipeline(**components)
    with pytest.raises(PochadeError, match="pickles are not written"):
        pipe.save_pretrained(tmp_path / "m", safe_serialization=False)
    (tmp_path / "file").touch()
    with pytest.raises(PochadeError, match="is a file, a folder is needed"):
        pipe.save_pretrained(tmp_path / "file")
    components["denoiser"].out.weight.data[0, 0] = 1e6
    with pytest.raises(FailureError, match=r"denoiser: not saved, not finite are the weights out\.weight"):
        pipe.save_pretrained(tmp_path / "m", dtype=torch.float16)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_saving_over_a_model_keeps_other_files(copy: Path) -> None:
    (copy / "README.md").write_text("card")
    TextToImagePipeline(**toy_components(seed=1)).save_pretrained(copy)
    assert (copy / "README.md").read_text() == "card"
    assert torch.equal(load(copy).denoiser.out.weight, toy_components(seed=1)["denoiser"].out.weight)


def test_wrong_tensors_are_all_named_in_one_line(copy: Path) -> None:
    weights = load_file(copy / WEIGHTS)
    names = sorted(weights)
    del weights[names[0]], weights[names[1]]
    weights[names[2]] = weights[names[2]][None].clone()
    weights["stranger"] = torch.zeros(1)
    save_file(weights, copy / WEIGHTS)
    other = copy / "autoencoder/diffusion_pytorch_model.safetensors"
    save_file({**load_file(other), "guest": torch.zeros(1)}, other)
    with pytest.raises(PochadeError) as error:
        load(copy)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        f"denoiser: missing {names[0]}",
        f"denoiser: missing {names[1]}",
        "denoiser: unexpected stranger",
        f"denoiser: {names[2]} is [1, ",
        "autoencoder: unexpected guest",
    ):
        assert part in message


def test_damaged_and_missing_files(copy: Path) -> None:
    data = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(PochadeError, match="not a readable safetensors file"):
        load(copy)
    (copy / WEIGHTS).unlink()
    with pytest.raises(PochadeError, match=r"diffusion_pytorch_model\.safetensors: missing"):
        load(copy)
    with pytest.raises(PochadeError, match=r"diffusion_pytorch_model\.fp16\.safetensors: missing"):
        load(copy, variant="fp16")
    (copy / "denoiser/config.json").write_text("{")
    with pytest.raises(PochadeError, match=r"config\.json: not valid JSON"):
        load(copy)
    (copy / "denoiser/config.json").unlink()
    with pytest.raises(PochadeError, match=r"config\.json: cannot be read"):
        load(copy)


def test_pickles_need_allow_pickle(copy: Path, tmp_path: Path) -> None:
    expected = sample(load(copy))
    weights = load_file(copy / WEIGHTS)
    (copy / WEIGHTS).unlink()
    pickle = copy / "denoiser/diffusion_pytorch_model.bin"
    torch.save(weights, pickle)
    with pytest.raises(PochadeError, match=r"\.bin: a pickle where safetensors is expected; a pickle can run code"):
        load(copy)
    assert torch.equal(expected, sample(load(copy, allow_pickle=True)))

    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"a": Payload()}, pickle)
    with pytest.raises(PochadeError, match="cannot be read with weights_only=True"):
        load(copy, allow_pickle=True)
    assert not (tmp_path / "executed").exists()
    torch.save([1], pickle)
    with pytest.raises(PochadeError, match="a table of name and tensor is needed"):
        load(copy, allow_pickle=True)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_configurations_are_strict(copy: Path) -> None:
    change_json(copy / "denoiser/config.json", patch_sise=2)
    with pytest.raises(PochadeError, match=r"patch_sise given, which LRFDenoiser does not have.*'patch_size'"):
        load(copy)


def test_index_names_only_what_is_imported(copy: Path) -> None:
    change_json(copy / "model_index.json", denoiser=["antigravity", "LRFDenoiser"])
    with pytest.raises(PochadeError, match="denoiser: module 'antigravity' is not known here"):
        load(copy)
    change_json(copy / "model_index.json", denoiser=["subprocess", "Popen"])
    with pytest.raises(PochadeError, match="'Popen' in 'subprocess' is no model and no scheduler"):
        load(copy)
    change_json(
        copy / "model_index.json",
        denoiser=["pochade.denoisers.lrf", "LRFDenoiser"],
        extra=["diffusers", "DDIMScheduler"],
    )
    (copy / "extra").mkdir()
    (copy / "extra/scheduler_config.json").write_text("{}")
    with pytest.raises(PochadeError, match="components extra are missing or not of TextToImagePipeline"):
        load(copy)


def test_text_encoder_of_another_training(copy: Path) -> None:
    change_json(copy / "denoiser/config.json", text_encoder="minilm-l6-v2")
    with pytest.raises(
        PochadeError, match=r"text_encoder: 'bag:\w+' given, the denoiser was trained with 'minilm-l6-v2'"
    ):
        load(copy)


def test_components_can_be_given(toy_pipeline_folder: Path) -> None:
    denoiser = toy_components()["denoiser"]
    assert load(toy_pipeline_folder, denoiser=denoiser).denoiser is denoiser
    with pytest.raises(PochadeError, match="from_pretrained: device_map given"):
        load(toy_pipeline_folder, device_map="auto")


def test_keys_of_earlier_versions(tmp_path: Path) -> None:
    """An image prompt was called a reference."""
    parts = toy_components()
    size = {"latent_channels": 4, "sample_size": 4, "dim": 24, "heads": 2, "blocks": 2, "inner": 32, "state_size": 4}
    size |= {"attention_every": 2, "modulation_groups": 4, "plan_tokens": 0, "text_dim": 12, "pooled_dim": 12}
    encoder = parts["text_encoder"].identity
    denoiser = MicroForgeDenoiser(**size, text_encoder=encoder, image_prompt_dim=5, image_prompt_encoder="x")
    first = TextToImagePipeline(**{**parts, "denoiser": denoiser.eval()})
    first.save_pretrained(tmp_path)
    config, weights = tmp_path / "denoiser" / "config.json", tmp_path / WEIGHTS
    config.write_text(config.read_text().replace('"image_prompt_', '"reference_'))
    save_file({k.replace("image_prompt.", "reference."): v for k, v in load_file(weights).items()}, weights)
    assert json.loads(config.read_text())["reference_dim"] == 5
    again = TextToImagePipeline.from_pretrained(tmp_path)
    assert again.denoiser.input_spec() == first.denoiser.input_spec()
    assert model_facts(str(tmp_path)).image_prompt_dim == 5
    for name, value in first.denoiser.state_dict().items():
        assert torch.equal(again.denoiser.state_dict()[name], value)
