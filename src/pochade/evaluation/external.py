"""Figures of networks that the user names: FID and KID (Inception) from a file, CLIP score from a folder or the hub."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.errors import PochadeError
from pochade.features.style import CLIP_MEAN, CLIP_STD
from pochade.load_transformers import load_transformers, loading
from pochade.pipelines.hub import HUB_NAME

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase

NOT_MEASURED = "not measured: weights not present"


def load_inception(path: Path | str) -> torch.jit.ScriptModule:
    """The Inception network as a TorchScript file: uint8 [B, 3, H, W] -> features [B, 2048].

    It resizes by itself, as ``inception-2015-12-05.pt`` of the StyleGAN authors does; the distances on the features of
    that file are those that papers call FID and KID.

    Raises:
        PochadeError: no such file, or it is no TorchScript.
    """
    if not Path(path).is_file():
        raise PochadeError(f"inception: {path} is no file; a TorchScript file with the network is needed")
    try:
        with warnings.catch_warnings():
            # The published file is TorchScript, which torch still reads.
            warnings.filterwarnings("ignore", message=".*torch.jit.load.*", category=DeprecationWarning)
            return torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise PochadeError(f"inception: {path} is no TorchScript file") from error


@torch.no_grad()
def inception_features(
    net: torch.jit.ScriptModule,
    images: Tensor,
    advance: Callable[[int], object] = lambda _: None,
    batch_size: int = 32,
) -> Tensor:
    """Features [n, 2048] float32 that ``net`` gives for uint8 images [n, 3, H, W]; ``advance`` hears how many are
    done."""
    # The published file gives class scores unless asked for features.
    scripted: Any = net.forward
    names = {argument.name for argument in scripted.schema.arguments}
    options = {"return_features": True} if "return_features" in names else {}
    features: list[Tensor] = []
    for part in images.split(batch_size):
        features.append(net(part, **options).float())
        advance(len(part))
    return torch.cat(features)


@dataclass(frozen=True)
class Clip:
    """A CLIP model with its tokenizer."""

    model: "CLIPModel"
    tokenizer: "PreTrainedTokenizerBase"


def load_clip(name: Path | str) -> Clip:
    """CLIP and its tokenizer by hub name, or from a folder as ``save_pretrained`` of transformers writes it.

    Raises:
        PochadeError: there is no such folder, its files do not fit, or the hub cannot be reached.
    """
    name = str(name)
    if not Path(name).is_dir() and not HUB_NAME.fullmatch(name):
        raise PochadeError(f"clip: {name!r} is neither a folder nor a hub name OWNER/NAME; a CLIP model is needed")
    from transformers import AutoTokenizer, CLIPModel

    model = load_transformers("clip", "CLIP model", name, CLIPModel, dtype=torch.float32)
    with loading("clip", "tokenizer", name):
        tokenizer = AutoTokenizer.from_pretrained(name)
    return Clip(model, tokenizer)


@torch.no_grad()
def clip_scores(
    clip: Clip,
    images: Tensor,
    prompts: list[str],
    advance: Callable[[int], object] = lambda _: None,
    batch_size: int = 32,
) -> Tensor:
    """100 max(cos, 0) [B] of picture and prompt, whose mean is the CLIP score (2104.08718, scaled as in torchmetrics).

    ``images`` uint8 [B, 3, H, W], resized to the model's square; B ``prompts``; ``advance`` hears how many are done.
    """
    config: Any = clip.model.config  # transformers leaves the types of its parts open
    side, length = int(config.vision_config.image_size), int(config.text_config.max_position_embeddings)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    scores: list[Tensor] = []
    for start in range(0, len(prompts), batch_size):
        pixels = images[start : start + batch_size].float() / 255
        pixels = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
        words = clip.tokenizer(
            prompts[start : start + batch_size],
            padding=True,
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        out = clip.model(
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            pixel_values=(pixels - mean) / std,
        )
        scores.append(F.cosine_similarity(out.image_embeds, out.text_embeds).clamp(min=0))
        advance(len(pixels))
    return 100 * torch.cat(scores)
