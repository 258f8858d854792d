"""From a picture and a sentence to another picture."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pochade.arguments import EVERYWHERE
from pochade.images.canvas import Canvas
from pochade.pipelines.callbacks import Callback
from pochade.pipelines.checks import usual_strength
from pochade.pipelines.editing import EditingPipeline, warn_if_nothing_is_kept
from pochade.pipelines.pictures import NewPictures, read_pictures
from pochade.types import Conditioning, TextEncoding


class ImageToImagePipeline(EditingPipeline):
    """Noise is added to a picture and removed again, conditioned on a prompt (SDEdit, 2108.01073).

    The prompt describes the new picture. An instruction says what to do: a model that was trained for it starts from
    noise, conditioned on the picture and the instruction, and is guided by both (2211.09800).
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        strength: float | None = None,
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
        negative_prompt_embeds: TextEncoding | Conditioning | None = None,
    ) -> Any:
        """Edit B = prompts x ``num_images_per_prompt`` pictures; other arguments are those of text to image.

        Args:
            prompt: a description of the new picture, one for all pictures or one each.
            image: a picture, or one a prompt, all of one size; see ``read_pictures``. What comes out has that size.
            strength: in (0, 1], how much noise is added: of n steps the last ``strength`` n, rounded up, are taken.
                At 0.2 details change, at 0.8 little more than the arrangement of light and dark is left. None for 0.6;
                with an instruction for 1, which begins at noise alone.
            output_type: ``pil``; ``np`` [B, H, W, 3] or ``pt`` [B, 3, H, W] in [0, 1].
            size: the picture is resampled to about ``size`` x ``size`` pixels in its own proportions for sampling;
                None for ``default_size``.
            instruction: what to do, such as "make it green", in place of a prompt, by a model that was trained to edit.
            image_guidance_scale: with an instruction, s_I in v_0 + s_I (v_I - v_0) + s (v_c - v_I), v_I being
                conditioned on the picture alone: above 1 more of it stays. 1 saves a third of the work. None for 1.5.

        Raises:
            PochadeError: an argument is not allowed, or an instruction is given to a model that follows none; before
                any work.
            FailureError: pictures came out as NaN or in one flat colour.

        Warns:
            EditingWarning: the strength is 1, so that nothing of the picture is left.
        """
        image_scale = self._check_instruction(prompt, prompt_embeds, instruction, image_guidance_scale)
        if strength is None:
            strength = usual_strength("edit", trained=instruction is not None)
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
        call = self._call(
            prompt if instruction is None else instruction,
            prompt_embeds,
            negative_prompt,
            num_inference_steps,
            guidance_scale,
            num_images_per_prompt,
            len(pictures),
            guidance_interval,
            negative_prompt_embeds=negative_prompt_embeds,
        )
        if instruction is None:
            warn_if_nothing_is_kept(strength)
        canvas = Canvas.fit(*pictures.size, size or self.default_size, self.size_multiple)
        edited = self._edit(
            canvas.put_bands(pictures.shown),
            call,
            strength=strength,
            generator=generator,
            callback=callback_on_step_end,
            tensors=callback_on_step_end_tensor_inputs,
            depth=depth,
            task=None if instruction is None else "edit",
            image_scale=image_scale,
        )
        new = NewPictures(call.batch, 3, pictures.size, output_type)
        for rows, band in canvas.bands(edited):
            for i, part in enumerate(band):
                new.put(i, part, rows.start)
        return self._finish(new, return_dict)
