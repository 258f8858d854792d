"""Pictures generated for an evaluation, stored so that an interrupted evaluation can be continued."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.configuration_utils import ConfigMixin
from PIL import Image
from torch import Tensor, nn

from pochade.arguments import EVERYWHERE
from pochade.errors import PochadeError
from pochade.evaluation.pictures import empty_pictures, to_pil, to_uint8
from pochade.evaluation.ranks import Ranks
from pochade.files import atomic_file, write_json
from pochade.pipelines.lora import adapters_in_use
from pochade.text_encoders.base import PromptEncoder

ALONE = Ranks()


class TextToImage(Protocol):
    """What an evaluation needs of a pipeline; `pochade.TextToImagePipeline` has it."""

    @property
    def components(self) -> dict[str, Any]:
        """Networks and scheduler by name; ``autoencoder`` is one of them."""
        ...

    @property
    def default_size(self) -> int:
        """Rows and columns in pixels where none are given."""
        ...

    @property
    def default_guidance_interval(self) -> tuple[float, float]:
        """Times at which guidance applies where none are given."""
        ...

    @property
    def name_or_path(self) -> str | None:
        """The folder that it was loaded from; None where it was not."""
        ...

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of the bar of a call; ``disable`` is one of them."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``images`` [B, 3, H, W] in [0, 1] for B prompts where ``output_type`` is "pt"."""
        ...


def modules_of(pipeline: TextToImage) -> dict[str, nn.Module]:
    """The networks of a pipeline by name."""
    return {name: part for name, part in sorted(pipeline.components.items()) if isinstance(part, nn.Module)}


def fingerprint(pipeline: TextToImage) -> str:
    """SHA-256 over weights, adapters, learned words, scheduler and guidance interval of a pipeline, in hexadecimal
    digits: equal ones give equal pictures."""
    digest = hashlib.sha256()
    for name, module in modules_of(pipeline).items():
        for key, value in sorted(module.state_dict().items()):
            digest.update(f"{name}.{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        words = list(module.learned()) if isinstance(module, PromptEncoder) else []
        if changes := [*adapters_in_use(module), *words]:
            digest.update(repr(changes).encode())
    scheduler = pipeline.components.get("scheduler")
    digest.update(repr(scheduler.config if isinstance(scheduler, ConfigMixin) else None).encode())
    if pipeline.default_guidance_interval != EVERYWHERE:
        digest.update(repr(pipeline.default_guidance_interval).encode())
    return digest.hexdigest()


class PictureStore:
    """A folder with a PNG for each picture made so far; ``key`` holds all that determines them."""

    def __init__(self, out: Path, key: dict[str, Any]) -> None:
        text = json.dumps(key, sort_keys=True)
        self.folder = out / "pictures" / hashlib.sha256(text.encode()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "settings.json", key)

    def path(self, prompt: str, seed: int) -> Path:
        """Where the picture for a prompt and a seed lies."""
        return self.folder / f"{hashlib.sha256(prompt.encode()).hexdigest()[:12]}-{seed}.png"

    def read(self, prompt: str, seed: int) -> Tensor:
        """A picture that was made, uint8 [3, H, W]."""
        with Image.open(self.path(prompt, seed)) as image:
            return to_uint8(image)

    def write(self, prompt: str, seed: int, image: Tensor) -> None:
        """Keep a picture, uint8 [3, H, W]."""
        with atomic_file(self.path(prompt, seed)) as file:
            to_pil(image).save(file, format="PNG")


def generate(
    pipeline: TextToImage,
    prompts: Sequence[str],
    store: PictureStore,
    *,
    steps: int,
    guidance: float,
    seed: int,
    batch_size: int = 32,
    options: Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Fills ``store`` with one picture for each prompt; picture i has the seed ``seed + i``.

    Pictures that it holds stay, the others are made in batches and kept at once. ``ranks`` take turns with the batches,
    which are the same whoever makes them, and return when all are made. ``options`` are further arguments of the
    pipeline.

    Raises:
        PochadeError: the pipeline gives other than one picture [3, H, W] in [0, 1] for each prompt.
    """
    done = 0
    for number, start in enumerate(range(0, len(prompts), batch_size)):
        if not ranks.owns(number):
            continue
        batch = range(start, min(start + batch_size, len(prompts)))
        rows = [i for i in batch if not store.path(prompts[i], seed + i).is_file()]
        if rows:
            images = pipeline(
                [prompts[i] for i in rows],
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(seed + i) for i in rows],
                output_type="pt",
                **(options or {}),
            ).images
            if images.ndim != 4 or images.shape[:2] != (len(rows), 3) or not bool(torch.isfinite(images).all()):
                raise PochadeError(f"pipeline: gave {tuple(images.shape)}, finite [{len(rows)}, 3, H, W] is needed")
            bytes_ = (images.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
            for i, image in zip(rows, bytes_, strict=True):
                store.write(prompts[i], seed + i, image)
        done += len(batch)
        advance(len(batch))
    ranks.wait()
    advance(len(prompts) - done)


def read(store: PictureStore, prompts: Sequence[str], seed: int) -> Tensor:
    """The pictures that ``generate`` has made, uint8 [B, 3, H, W]; many lie in a file, see ``empty_pictures``."""
    first = store.read(prompts[0], seed)
    images = empty_pictures(len(prompts), (first.shape[2], first.shape[1]), store.folder)
    for i, prompt in enumerate(prompts):
        images[i] = store.read(prompt, seed + i)
    return images
