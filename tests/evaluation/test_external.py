"""Features of networks whose weights the user brings."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from evaluation.test_copying import noise
from pochade.errors import PochadeError
from pochade.evaluation.external import clip_scores, inception_features, load_clip, load_inception
from pochade.features import style


class Moments(nn.Module):
    """A TorchScript network with the arguments of the Inception file of StyleGAN."""

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
    torch.testing.assert_close(
        clip_scores(clip, images, prompts, batch_size=2), 100 * cosines.clamp(min=0), atol=1e-3, rtol=0
    )


def test_a_clip_that_cannot_be_had_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PochadeError, match=r"^clip: '.*none' is neither a folder nor a hub name OWNER/NAME"):
        load_clip(tmp_path / "none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PochadeError, match=r"^clip: no CLIP model could be loaded from 'nobody/nothing'") as found:
        load_clip("nobody/nothing")
    assert "\n" not in str(found.value)
