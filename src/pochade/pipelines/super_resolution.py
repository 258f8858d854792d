"""A picture made larger, with details that a model invents."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pochade.pipelines.base import Callback
from pochade.pipelines.canvas import Canvas, resample
from pochade.pipelines.checks import UPSCALE_STRENGTH, check_factor
from pochade.pipelines.editing import EditingPipeline, warn_if_forgotten
from pochade.pipelines.pictures import check_megapixels, read_pictures
from pochade.types import Conditioning, TextEncoding


class SuperResolutionPipeline(EditingPipeline):
    """A picture is enlarged bicubically, and then repainted at a low strength (2108.01073), which sharpens its edges.

    What it adds is made up: the model was never shown a small picture beside its large one. A result larger than the
    model's own size is painted in overlapping tiles of that size, see ``TiledDenoiser``.
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        factor: int = 2,
        strength: float = UPSCALE_STRENGTH,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | Tensor | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        prompt_embeds: TextEncoding | Conditioning | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        depth: int | None = None,
        size: int | None = None,
    ) -> Any:
        """Enlarge B = prompts x ``num_images_per_prompt`` pictures; what is not said here is as in image to image.

        Args:
            prompt: what is to be seen in the whole picture; None for nothing said, and then no guidance either.
            image: a picture, or one a prompt.
            factor: 2 or 4; what comes out has so many times the rows and columns.
            strength: in (0, 1]; the higher it is, the sharper and the less like the input is the result.
            size: rows and columns of a tile; None for ``default_size``.

        Raises:
            PochadeError: an argument is not allowed, or the result would be too large; before any work.
            FailureError: pictures came out as NaN or in one flat colour.

        Warns:
            EditingWarning: the strength is 1, so that nothing of the picture is left.
        """
        if prompt is None and prompt_embeds is None:
            prompt = ""
        if isinstance(prompt, str) and not prompt.strip() and guidance_scale is None:
            guidance_scale = 1.0
        num_inference_steps = self.default_steps if num_inference_steps is None else num_inference_steps
        guidance_scale = self.default_guidance if guidance_scale is None else guidance_scale
        self.check_inputs(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            strength=strength,
            size=size,
            num_images_per_prompt=num_images_per_prompt,
            output_type=output_type,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        check_factor(factor)
        pictures = read_pictures(image)
        H, W = (factor * int(side) for side in pictures.shape[2:])
        check_megapixels("factor", W, H)
        asked = self._asked(
            prompt,
            prompt_embeds,
            negative_prompt,
            num_inference_steps,
            guidance_scale,
            num_images_per_prompt,
            len(pictures),
        )
        warn_if_forgotten(strength)
        side = size or self.default_size
        images = self._repaint(
            resample(pictures, H, W),
            Canvas.fit(H, W, side, self.size_multiple, shrink=False),
            asked,
            strength=strength,
            generator=generator,
            callback=callback_on_step_end,
            tensors=callback_on_step_end_tensor_inputs,
            depth=depth,
            tile=side // int(self.autoencoder.downsampling),
        )
        return self._finish(images, output_type, return_dict)
