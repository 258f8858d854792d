"""A small decoder in place of a model's own autoencoder: in Python, at the command line, in an exported model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cli.run import cli
from conftest import save_toy_decoder as save_decoder
from pochade.autoencoders.tiny_decoder import TinyVAEDecoder
from pochade.errors import PochadeError
from pochade.export.parity import run, session
from pochade.pipelines import hub
from pochade.pipelines.decoders import decoder_sha256, find_decoder, use_decoder
from pochade.pipelines.metadata import read_metadata
from pochade.pipelines.text_to_image import TextToImagePipeline


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("decoders") / "small")


def test_a_pipeline_decodes_with_it(toy_pipeline_folder: Path, small: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    use_decoder(pipe, small)

    def sample(**options: Any) -> Any:
        return pipe("apple", num_inference_steps=1, generator=torch.Generator().manual_seed(0), **options).images

    decoder: Any = TinyVAEDecoder.from_pretrained(small)
    with torch.no_grad():
        expected = decoder.decode(sample(output_type="latent")) / 2 + 0.5
    torch.testing.assert_close(sample(output_type="pt"), expected, atol=1e-5, rtol=0)
    assert pipe.default_size == 32


def test_a_decoder_must_suit_the_latents(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    for number, changes in enumerate(({"latent_channels": 5}, {"downsampling": 16})):
        wrong = save_decoder(tmp_path / str(number), **changes)
        with pytest.raises(PochadeError, match=r"decoder: one for . channels and .* the model's latents have 4 and 8"):
            use_decoder(pipe, wrong)
    assert type(pipe.autoencoder).__name__ == "TinyAutoencoder"


def test_folders_without_a_decoder(toy_pipeline_folder: Path, small: Path, tmp_path: Path) -> None:
    assert find_decoder("model", toy_pipeline_folder) is None
    assert find_decoder(str(small), toy_pipeline_folder) == small
    for name, match in (
        ("tiny", "decoder: 'tiny' given, but the model ships none: pochade train tiny-decoder"),
        (str(tmp_path), "allowed are model, tiny, and the folder of a decoder"),
        (str(toy_pipeline_folder / "autoencoder"), "holds a TinyAutoencoder, allowed is a TinyVAEDecoder"),
    ):
        with pytest.raises(PochadeError, match=match):
            find_decoder(name, toy_pipeline_folder)


def test_a_model_may_ship_one(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(toy_pipeline_folder, tmp_path / "model"))
    shipped = save_decoder(model / "tiny_decoder")
    assert find_decoder("tiny", model) == shipped
    assert hub.model_sha256(model) == hub.model_sha256(toy_pipeline_folder)  # pictures of its own decoder stay


def test_at_the_command_line(
    toy_pipeline_folder: Path, small: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small, "decoder")

    def generate(*arguments: str, code: int = 0) -> Any:
        return cli(capsys, "generate", *arguments, "--steps", "1", code=code)

    generate("apple", "--seed", "1", "--model", str(toy_pipeline_folder), "-o", "own")
    generate("apple", "--seed", "1", "--model", str(toy_pipeline_folder), "--decoder", "decoder", "-o", "small")
    own, other = read_metadata("own/apple-1.png"), read_metadata("small/apple-1.png")
    assert "decoder" not in own.sha256
    assert len(other.sha256["decoder"]) == 64
    with Image.open("own/apple-1.png") as a, Image.open("small/apple-1.png") as b:
        assert a.size == b.size
        assert a.tobytes() != b.tobytes()
    generate("--like", "small/apple-1.png", "-o", "again")
    assert Path("again/apple-1.png").read_bytes() == Path("small/apple-1.png").read_bytes()
    generate("--like", "small/apple-1.png", "--decoder", "model", "-o", "back")
    assert Path("back/apple-1.png").read_bytes() == Path("own/apple-1.png").read_bytes()
    save_decoder(Path("decoder"), seed=1)
    result = generate("--like", "small/apple-1.png", code=2)
    assert "small/apple-1.png: made with other weights of its decoder" in result.error
    result = generate("apple", "--model", str(toy_pipeline_folder), "--decoder", "tiny", code=2)
    assert "the model ships none" in result.error


def test_an_exported_model_takes_it(toy_pipeline_folder: Path, small: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "graphs"
    exported = cli(capsys, "export", str(toy_pipeline_folder), str(folder), "--decoder", str(small), "--json")
    shown = json.loads(exported.out)
    assert shown["latents"]["downsampling"] == 8
    assert shown["decoder"] == {"name": str(small), "sha256": decoder_sha256(small)}
    assert shown == json.loads((folder / "manifest.json").read_text())
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    (images,) = run(session(folder / "decoder.onnx"), {"latents": latents})
    decoder: Any = TinyVAEDecoder.from_pretrained(small)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(images), decoder.decode(latents), atol=1e-5, rtol=0)
