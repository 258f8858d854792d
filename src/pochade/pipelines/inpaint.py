"""A part of a picture generated anew."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pochade.errors import PochadeError
from pochade.flow.guidance import EVERYWHERE
from pochade.images.canvas import Canvas
from pochade.images.masks import inside_seam
from pochade.pipelines.base import Callback
from pochade.pipelines.checks import INPAINT_STRENGTH
from pochade.pipelines.editing import EditingPipeline
from pochade.pipelines.pictures import read_masks, read_pictures
from pochade.types import Conditioning, TextEncoding


class InpaintPipeline(EditingPipeline):
    """What a mask marks is generated anew, to fit the rest.

    At every step the latents outside the mask are those of the picture at the noise of that step (2201.09865,
    2206.02779). A model that was trained to inpaint is also conditioned on the picture with its hole. With an
    instruction a model that was trained to edit is conditioned on the whole picture, and changes what the mask marks.
    In the end the result is laid over the picture inside the mask, with a soft seam as wide as one sampled pixel, so
    that outside it every pixel is that of the input.
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float = INPAINT_STRENGTH,
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
        instruction: str | Sequence[str] | None = None,
        image_guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = EVERYWHERE,
    ) -> Any:
        """Inpaint B = prompts x ``num_images_per_prompt`` pictures; other arguments are those of image to image.

        Args:
            prompt: a description of the whole picture, not of the hole alone.
            image: a picture, or one a prompt.
            mask_image: white where the picture is generated anew, of its size, one for all or one a picture; see
                ``read_masks``.
            strength: in (0, 1]; at 1 what the mask marks is forgotten, below it is only changed.
            instruction: what to do with what the mask marks, such as "make it green", in place of a prompt.

        Raises:
            PochadeError: an argument is not allowed, a mask has another size or nothing white, or an instruction is
                given to a model that follows none; before any work.
            FailureError: pictures came out as NaN or in one flat colour.

        Warns:
            EditingWarning: a mask has grey pixels, or marks all of the picture.
        """
        image_scale = self._check_instruction(prompt, prompt_embeds, instruction, image_guidance_scale)
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
        pictures = read_pictures(image)
        H, W = pictures.shape[2:]
        masks = read_masks(mask_image, image, (H, W))
        given = max(len(pictures), len(masks))
        call = self._call(
            prompt if instruction is None else instruction,
            prompt_embeds,
            negative_prompt,
            num_inference_steps,
            guidance_scale,
            num_images_per_prompt,
            given,
            guidance_interval,
        )
        if {len(pictures), len(masks)} - {1, call.count}:
            raise PochadeError(
                f"mask_image: {len(masks)} given for {len(pictures)} pictures, allowed is one, or one each"
            )
        canvas = Canvas.fit(H, W, size or self.default_size, self.size_multiple)
        edited = self._edit(
            pictures,
            canvas,
            call,
            strength=strength,
            generator=generator,
            callback=callback_on_step_end,
            tensors=callback_on_step_end_tensor_inputs,
            depth=depth,
            mask=masks,
            task="inpaint" if instruction is None else "edit",
            image_scale=image_scale,
        )
        weight = call.per_picture(inside_seam(masks, math.ceil(canvas.magnification)))
        source = call.per_picture(pictures)
        return self._finish(source + weight * (edited - source), output_type, return_dict)
