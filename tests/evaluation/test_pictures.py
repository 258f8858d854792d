"""Copying, contrast, reconstruction, and the figures whose weights the user brings."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.evaluation import contrast, copying
from pochade.evaluation.external import clip_score, inception_features, load_clip, load_inception
from pochade.evaluation.profile import model_size, peak_resident_mb, resident_mb, seconds_per_call
from pochade.evaluation.reconstruction import psnr, reconstruction, ssim
from pochade.features import style


def noise(n: int, seed: int, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


def test_copies_are_found_and_named() -> None:
    train, held_out = noise(300, 0), noise(40, 1)
    copies = train[[7, 299, 0]].clone()
    found = copying.nearest_in_pixels(copies, train)
    assert found.index.tolist() == [7, 299, 0]
    assert found.distance.tolist() == [0, 0, 0]
    summary = copying.summarise(found, copying.nearest_in_pixels(held_out, train))
    assert summary["nearer"] == 1.0
    assert summary["generated"]["median"] == 0 < summary["held_out"]["minimum"]
    fresh = copying.summarise(
        copying.nearest_in_pixels(noise(200, 2), train), copying.nearest_in_pixels(held_out, train)
    )
    assert fresh["nearer"] < 0.2


def test_pixel_distance_is_the_smallest_root_mean_square() -> None:
    a, b = noise(5, 0), noise(9, 1)
    every = torch.stack([(x.float() - b.float()).square().mean((1, 2, 3)).sqrt() / 255 for x in a])
    found = copying.nearest_in_pixels(a, b)
    torch.testing.assert_close(found.distance, every.min(1).values)
    assert found.index.tolist() == every.argmin(1).tolist()


def test_feature_distance_is_cosine_about_the_training_mean() -> None:
    train = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) + 5
    found = copying.nearest_in_features(torch.tensor([[8.0, 5.0], [5.0, 4.0], [6.0, 6.0]]), train)
    assert found.index.tolist()[:2] == [0, 3]
    torch.testing.assert_close(found.distance, torch.tensor([0.0, 0.0, 1 - 0.5**0.5]), atol=1e-6, rtol=0)


def test_flat_pictures_and_equal_pictures_have_a_low_contrast() -> None:
    real = noise(12, 0)
    groups = ["a", "b", "c"] * 4
    assert not contrast.check(noise(12, 1), real, groups)["low"]
    mean = real.float().mean((2, 3), keepdim=True).expand_as(real)
    assert contrast.check(mean.to(torch.uint8), real, groups)["low"]
    same = contrast.check(real[:1].expand(12, -1, -1, -1), real, groups)  # lively, but all alike
    assert same["low"]
    assert same["generated"]["variety"] == 0
    alone = contrast.check(real[:1].expand(12, -1, -1, -1), real, [str(i) for i in range(12)])
    assert alone["low"]


def test_contrast_figures_of_known_pictures() -> None:
    halves = torch.zeros(2, 3, 4, 4)
    halves[:, :, :2] = 1.0
    halves[1] = 1 - halves[1]
    figures = contrast.figures(halves, ["x", "x"])["x"]
    assert figures["std"] == pytest.approx(0.5 * (48 / 47) ** 0.5)
    assert figures["range"] == 1
    assert figures["colour"] == 0
    assert figures["variety"] == pytest.approx(0.5**0.5)
    assert "variety" not in contrast.figures(halves, ["x", "y"])["x"]


class Halving(nn.Module):
    """Gives every picture back with a known error."""

    def encode(self, images: Tensor) -> Tensor:
        return images / 2

    def decode(self, latents: Tensor) -> Tensor:
        return latents * 2 + 0.02


def test_reconstruction_of_a_known_error() -> None:
    images = torch.rand(5, 3, 16, 16) - 0.5
    found = reconstruction(Halving(), images.split(2))
    expected = 20 * np.log10(2 / 0.02)
    assert found["psnr"] == pytest.approx(expected, abs=1e-3)
    assert found["psnr_total"] == pytest.approx(expected, abs=1e-3)
    assert found["pictures"] == 5
    assert 0.99 < found["ssim"] < 1
    assert "perceptual" not in found
    torch.testing.assert_close(psnr(images, images + 0.02), torch.full((5,), expected, dtype=torch.float32))
    torch.testing.assert_close(ssim(images, images), torch.ones(5, dtype=torch.float64))
    assert ssim(images, -images).max() < 0


class Moments(nn.Module):
    """A TorchScript network with the arguments of the published Inception file."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        features = images.float().mean((2, 3))
        return features if return_features else features[:, :1]


@pytest.mark.filterwarnings("ignore:.*torch.jit.(script|save):DeprecationWarning")
def test_inception_features_are_those_of_the_file_not_its_classes(tmp_path: Path) -> None:
    torch.jit.script(Moments()).save(str(tmp_path / "net.pt"))
    images = noise(20, 0)
    found = inception_features(load_inception(tmp_path / "net.pt"), images, batch_size=7)
    torch.testing.assert_close(found, images.float().mean((2, 3)))
    with pytest.raises(PochadeError, match="is no file"):
        load_inception(tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_bytes(b"x" * 100)
    with pytest.raises(PochadeError, match="no TorchScript"):
        load_inception(tmp_path / "bad.pt")


def test_clip_score_of_a_tiny_clip(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<end>", "red", "blue", "square"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>").save_pretrained(tmp_path)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 5, "max_position_embeddings": 8, "eos_token_id": 1, "pad_token_id": 0}
    vision = {**small, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path)
    clip = load_clip(tmp_path)
    images, prompts = noise(5, 0, size=32), ["red square", "blue", "blue square", "red", "square " * 50]
    # 100 cos is what CLIP calls a logit, divided by its learned scale.
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (style.CLIP_MEAN, style.CLIP_STD))
    ids = clip.tokenizer(prompts, padding=True, truncation=True, max_length=8, return_tensors="pt")
    with torch.no_grad():
        out = clip.model(**ids, pixel_values=(images / 255 - mean) / std)
    cosines = (out.logits_per_image.diagonal() / clip.model.logit_scale.exp()).detach()
    assert cosines.min() < 0 < cosines.max()  # a negative cosine counts as zero
    expected = 100 * float(cosines.clamp(min=0).mean())
    assert clip_score(clip, images, prompts, batch_size=2) == pytest.approx(expected, abs=1e-3)
    with pytest.raises(PochadeError, match="is no folder"):
        load_clip(tmp_path / "none")


def test_model_size_counts_shared_parameters_once() -> None:
    layer = nn.Linear(9, 1, device="meta")
    tied = nn.ModuleList([layer, layer])
    assert model_size(tied).as_dict() == {"parameters": 10, "fp32_mb": 4e-5, "fp16_mb": 2e-5}


def test_seconds_per_call_is_the_fastest_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    durations, now = [0.5, 0.25, 4.0, 1.0, 2.0], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += durations.pop(0)

    assert seconds_per_call(call, repeats=3, warm_up=2) == 1.0
    assert not durations


def test_resident_memory_counts_what_is_allocated() -> None:
    before = resident_mb()
    block = torch.ones(20_000_000)  # 80 MB
    assert resident_mb() - before > 70
    del block
    assert peak_resident_mb() - before > 70
