"""Figures whose weights the user brings: Frechet Inception distance and CLIP score. Nothing is downloaded."""

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.errors import PochadeError
from pochade.evaluation.frechet import frechet_distance
from pochade.features.style import CLIP_MEAN, CLIP_STD

NOT_MEASURED = "not measured: weights not present"


def load_inception(path: Path | str) -> torch.nn.Module:
    """The Inception network as a TorchScript file: uint8 [B, 3, H, W] -> features [B, 2048].

    It resizes by itself, as ``inception-2015-12-05.pt`` of the StyleGAN authors does; that file makes the
    distance the one that papers call FID.

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
def inception_distance(net: torch.nn.Module, real: Tensor, fake: Tensor, batch_size: int = 32) -> float:
    """Frechet distance of the features that ``net`` gives for uint8 images [n, 3, H, W] and [m, 3, H, W]."""
    # The published file gives class scores unless asked for features.
    scripted: Any = net
    names = {argument.name for argument in scripted.forward.schema.arguments}
    options = {"return_features": True} if "return_features" in names else {}
    sides = [torch.cat([net(part, **options).float() for part in x.split(batch_size)]) for x in (real, fake)]
    return frechet_distance(*sides)


def load_clip(folder: Path | str) -> tuple[Any, Any]:
    """CLIP and its tokenizer from a folder as ``save_pretrained`` of transformers writes it.

    Raises:
        PochadeError: no such folder, or its files do not fit.
    """
    if not Path(folder).is_dir():
        raise PochadeError(f"clip: {folder} is no folder; one with a CLIP model of transformers is needed")
    from transformers import AutoTokenizer, CLIPModel

    try:
        model = CLIPModel.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise PochadeError(f"clip: {folder} holds no CLIP model with its tokenizer: {error}") from error
    return model.eval(), tokenizer


@torch.no_grad()
def clip_score(clip: tuple[Any, Any], images: Tensor, prompts: list[str], batch_size: int = 32) -> float:
    """100 max(cos, 0) of picture and prompt, mean over pictures (2104.08718, scaled as in torchmetrics).

    ``images`` uint8 [B, 3, H, W], square; B ``prompts``.
    """
    model, tokenizer = clip
    side = model.config.vision_config.image_size
    length = model.config.text_config.max_position_embeddings
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    scores: list[Tensor] = []
    for start in range(0, len(prompts), batch_size):
        pixels = images[start : start + batch_size].float() / 255
        pixels = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
        words = tokenizer(
            prompts[start : start + batch_size],
            padding=True,
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        out = model(
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            pixel_values=(pixels - mean) / std,
        )
        scores.append(F.cosine_similarity(out.image_embeds, out.text_embeds).clamp(min=0))
    return 100 * float(torch.cat(scores).mean())
