"""Every component class is registered, and what is saved is loaded by a process that has imported nothing."""

import inspect
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin

from contracts.families import DIFFUSERS
from pochade import autoencoders, denoisers, features, nn, text_encoders
from pochade.autoencoders.pretrained import PretrainedAutoencoder
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.autoencoders.tiny_decoder import TinyVAEDecoder
from pochade.pipelines.components import COMPONENTS, find_autoencoder, present_path
from pochade.pipelines.decoders import use_decoder
from pochade.pipelines.text_to_image import TextToImagePipeline
from processes import python

PRINT = """import torch
generator = torch.Generator().manual_seed(0)
print(pipe("apple", num_inference_steps=1, generator=generator).images[0].getpixel((3, 3)))
"""
OURS = "from pochade import TextToImagePipeline; pipe = TextToImagePipeline.from_pretrained({!r})\n"
DIFFUSERS_OWN = (
    "from diffusers import DiffusionPipeline; "
    "pipe = DiffusionPipeline.from_pretrained({!r}, custom_pipeline='pipeline', trust_remote_code=True)\n"
)


def networks() -> Iterator[type]:
    """Classes with a configuration of their own: what ``save_pretrained`` of a pipeline can write."""
    for floor in (autoencoders, denoisers, text_encoders, features, nn):
        for found in walk_packages(floor.__path__, f"{floor.__name__}."):
            for _, cls in inspect.getmembers(import_module(found.name), inspect.isclass):
                if issubclass(cls, ModelMixin) and cls.__module__.startswith("pochade.") and "__init__" in vars(cls):
                    yield cls


def test_every_component_is_registered_under_the_path_that_is_saved() -> None:
    assert {f"{cls.__module__}:{cls.__name__}" for cls in networks()} == set(COMPONENTS)
    for path in COMPONENTS:
        module, _, name = path.partition(":")
        assert vars(import_module(module))["ModelMixin"] is ModelMixin, module  # diffusers looks for it there
        assert vars(import_module(module))[name].config_name == "config.json"


def generated(pipe: TextToImagePipeline) -> str:
    generator = torch.Generator().manual_seed(0)
    return str(pipe("apple", num_inference_steps=1, generator=generator).images[0].getpixel((3, 3)))


def save_with_a_small_decoder(pipe: TextToImagePipeline, folder: Path) -> str:
    TinyVAEDecoder(latent_channels=4, widths=(8, 6), blocks=(1, 1)).save_pretrained(folder / "decoder")
    use_decoder(pipe, folder / "decoder")
    pipe.save_pretrained(folder / "model")
    return generated(pipe)


def save_as_an_earlier_version(pipe: TextToImagePipeline, folder: Path) -> str:
    torch.manual_seed(0)
    theirs = AutoencoderKL(**{**DIFFUSERS["kl"], "latent_channels": 4, "block_out_channels": (32,) * 4})
    pipe.register_modules(autoencoder=PretrainedAutoencoder.from_network(theirs))
    pipe.save_pretrained(folder / "model")
    index, config = folder / "model" / "model_index.json", folder / "model" / "autoencoder" / "config.json"
    now = json.loads(index.read_text())
    assert now["autoencoder"] == ["pochade.autoencoders.pretrained", "PretrainedAutoencoder"]
    index.write_text(json.dumps(now | {"autoencoder": ["pochade.autoencoders.published", "PublishedAutoencoder"]}))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "PublishedAutoencoder"}))
    return generated(pipe)


@pytest.mark.parametrize("code", [OURS, DIFFUSERS_OWN])
def test_what_is_saved_is_loaded_elsewhere(toy_pipeline_folder: Path, tmp_path: Path, code: str) -> None:
    """One process loads both, which saves its start: neither needs a class that the other imports."""
    ways = {"earlier": save_as_an_earlier_version, "decoder": save_with_a_small_decoder}
    expected: list[str] = []
    for name, save in ways.items():
        pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
        pipe.set_progress_bar_config(disable=True)
        expected.append(save(pipe, tmp_path / name))
    program = "".join(code.format(str(tmp_path / name / "model")) + PRINT for name in ways)
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("(")] == expected


def test_classes_by_name() -> None:
    assert present_path("pochade.denoisers.lrf", "LRFDenoiser") == ("pochade.denoisers.lrf", "LRFDenoiser")
    assert find_autoencoder("TinyAutoencoder") is TinyAutoencoder
    assert find_autoencoder("PublishedAutoencoder") is PretrainedAutoencoder
    assert find_autoencoder("AutoencoderKL") is None
