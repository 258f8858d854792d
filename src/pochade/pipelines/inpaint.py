"""A part of a picture generated anew."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pochade.arguments import EVERYWHERE, check_blur
from pochade.errors import PochadeError
from pochade.images.canvas import Canvas, as_floats, bands
from pochade.pipelines.callbacks import Callback
from pochade.pipelines.checks import INPAINT_STRENGTH, picture_generators
from pochade.pipelines.editing import EditingPipeline
from pochade.pipelines.pictures import NewPictures, Pictures, read_masks, read_pictures
from pochade.runtime.masks import Box, crop_around, greatest, lay_over, shown_of
from pochade.types import Conditioning, TextEncoding


class InpaintPipeline(EditingPipeline):
    """What a mask marks is generated anew, to fit the rest.

    Only a square around the mask is sampled (``crop_around``), so that a small hole in a large picture gets the pixels
    that the model has. At every step the latents outside the mask are those of the picture at the noise of that step
    (2201.09865, 2206.02779). A model that was trained to inpaint is also conditioned on the picture with its hole. With
    an instruction a model that was trained to edit is conditioned on the whole square, and changes what the mask marks.
    In the end the result is laid over the picture inside the mask, with a seam as wide as one sampled pixel, or as much
    as a soft mask is bright, so that outside it every pixel is that of the input, what is transparent included. With
    ``ALPHA`` it is laid beneath the picture, and shows as far as that is transparent.
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
        soft_mask: bool = False,
        mask_blur: float = 0.0,
        invert_mask: bool = False,
        negative_prompt_embeds: TextEncoding | Conditioning | None = None,
    ) -> Any:
        """Inpaint B = prompts x ``num_images_per_prompt`` pictures; other arguments are those of image to image.

        Args:
            prompt: a description of what the square around the mask shows, not of the hole alone.
            image: a picture, or one a prompt.
            mask_image: white where the picture is generated anew, of its size, one for all or one a picture; see
                ``read_masks``.
            strength: in (0, 1]; at 1 what the mask marks is forgotten, below it is only changed.
            instruction: what to do with what the mask marks, such as "make it green", in place of a prompt.

            soft_mask: grey shows as much of the new picture as it is bright, in place of the seam; else it counts as
                white from the middle on.
            mask_blur: standard deviation in pixels of a Gaussian that the mask is convolved with, from 0 on; what it
                leaves of the mask is shown as a soft one is.
            invert_mask: black is generated anew, not white.

        Raises:
            PochadeError: an argument is not allowed, a mask has another size or nothing white, or an instruction is
                given to a model that follows none; before any work.
            FailureError: pictures came out as NaN or in one flat colour.

        Warns:
            EditingWarning: a mask that is not soft has grey pixels, or one marks all of the picture.
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
        check_blur(mask_blur)
        pictures = read_pictures(image)
        masks = read_masks(mask_image, pictures, soft=soft_mask, blur=mask_blur, invert=invert_mask)
        call = self._call(
            prompt if instruction is None else instruction,
            prompt_embeds,
            negative_prompt,
            num_inference_steps,
            guidance_scale,
            num_images_per_prompt,
            max(len(pictures), len(masks)),
            guidance_interval,
            negative_prompt_embeds=negative_prompt_embeds,
        )
        if {len(pictures), len(masks)} - {1, call.count}:
            raise PochadeError(
                f"mask_image: {len(masks)} given for {len(pictures)} pictures, allowed is one, or one each"
            )
        generators = picture_generators(generator, call.batch)
        side = size or self.default_size
        holes = [_Hole.of(mask, side, self.size_multiple) for mask in masks]
        del masks  # what the holes hold is enough of a large mask
        old = pictures
        if isinstance(mask_image, str):
            assert pictures.alpha is not None
            holes = [hole.beneath(alpha[0].numpy()) for hole, alpha in zip(holes, pictures.alpha, strict=True)]
            old = pictures.opaque()
        out = NewPictures(call.batch, 3 if old.alpha is None else 4, pictures.size, output_type)
        # Squares are sampled together; crops of a picture that is no square may have several proportions.
        for outer in dict.fromkeys(hole.canvas.outer for hole in holes):
            prompts = [i for i in range(call.count) if holes[i % len(holes)].canvas.outer == outer]
            cut = [(holes[i % len(holes)], i % len(pictures)) for i in prompts]
            places = call.pictures_of(prompts)
            edited = self._edit(
                torch.cat([hole.put(pictures.of(i)) for hole, i in cut]),
                call.of(prompts),
                strength=strength,
                generator=[generators[place] for place in places],
                callback=callback_on_step_end,
                tensors=callback_on_step_end_tensor_inputs,
                depth=depth,
                is_part=[bool((hole.shown < hole.most).any()) for hole, _ in cut],
                mask=torch.cat([hole.marked for hole, _ in cut]),
                task="inpaint" if instruction is None else "edit",
                image_scale=image_scale,
            )
            for i, (place, new) in enumerate(zip(places, edited, strict=True)):
                hole, which = cut[i // call.per_prompt]
                picture = old.of(which)
                for rows in bands(*pictures.size):
                    out.put(place, picture.channels(rows)[0], rows.start)
                for part, top in hole.filled(picture, new):
                    out.put(place, part, top, hole.box.left)
        return self._finish(out, return_dict)


@dataclass(frozen=True)
class _Hole:
    """What a mask marks, and where it is sampled.

    Attributes:
        box: the part of the picture that is sampled.
        canvas: on which it is.
        marked: [1, 1, *outer] in {0, 1}, on the canvas.
        shown: [h, w], how much of the new picture is shown, of ``most``.
        most: what is all of it.
    """

    box: Box
    canvas: Canvas
    marked: Tensor
    shown: np.ndarray
    most: int

    @classmethod
    def of(cls, mask: np.ndarray, side: int, multiple: int) -> "_Hole":
        """That of a mask as ``read_masks`` gives it, for a model that samples ``side`` x ``side`` pixels in
        multiples."""
        box = crop_around(mask, side)
        canvas = Canvas.fit(box.height, box.width, side, multiple)
        inside = mask[box.place]
        marked = canvas.put_mask(torch.from_numpy(inside > 0)[None, None])
        shown, most = shown_of(inside, math.ceil(canvas.magnification))
        return cls(box, canvas, marked, shown.astype(np.uint8, copy=False) if most < 256 else shown, most)

    def beneath(self, alpha: np.ndarray) -> "_Hole":
        """The same, but what is new lies beneath a picture whose transparency is ``alpha`` [H, W]."""
        return replace(self, shown=greatest(alpha) - alpha[self.box.place], most=greatest(alpha))

    def put(self, picture: Pictures) -> Tensor:
        """The box of one picture on the canvas, [1, 3, *outer] in [0, 1]."""
        top, (_, columns) = self.box.top, self.box.sides
        return self.canvas.put_bands(lambda rows: picture.shown(slice(top + rows.start, top + rows.stop), columns))

    def filled(self, picture: Pictures, new: Tensor) -> Iterator[tuple[Tensor, int]]:
        """The box, what is new, [3, *outer] on the canvas, lying over one picture: parts [3 or 4, h, w] in [0, 1] and
        their first rows."""
        for rows, band in self.canvas.bands(new[None]):
            inside = slice(self.box.top + rows.start, self.box.top + rows.stop)
            old = as_floats(picture.channels(inside)[0, :, :, self.box.left : self.box.left + self.box.width])
            weight = self.shown[rows] / np.float32(self.most)
            yield torch.from_numpy(lay_over(old.numpy(), band[0].numpy(), weight)), inside.start
