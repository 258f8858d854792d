"""A picture made larger, with details that a model invents."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.arguments import EVERYWHERE, check_factor
from pochade.images.canvas import Canvas, as_floats, resample
from pochade.images.decode import check_megapixels
from pochade.pipelines.callbacks import Callback
from pochade.pipelines.checks import UPSCALE_GUIDANCE, usual_strength
from pochade.pipelines.editing import EditingPipeline
from pochade.pipelines.pictures import NewPictures, read_pictures
from pochade.types import Conditioning, TextEncoding

ROUNDS = 8
"""Of ``agree``."""


def agree(images: Tensor, small: Tensor, rounds: int = ROUNDS) -> Tensor:
    """The pictures changed so that, made smaller, they are ``small``: back-projection (Irani and Peleg, 1991).

    x <- x + up(y - down(x)), where down is the mean of a block of pixels and up is bicubic; then, in as many rounds,
    up repeats a block's value, so that y is the LL band of x in Haar's transform (of one level, two at factor 4).

    A pixel stays within twice the range of the colours around it in y: lines may be darker than their blocks, but
    nothing comes to be where all is of one colour. In the first round details x - up(down(x)) fade by 1 - (2 e / r)^2,
    where e is the error y - down(x) of a block and r the range around it, both as root mean squares over the channels:
    what is invented where a model does not know a picture is not shown.

    Args:
        images: [B, 3, f H, f W] in [0, 1].
        small: y [B, 3, H, W] in [0, 1].
        rounds: how often, of either kind.
    """
    factor = images.shape[2] // small.shape[2]
    high, low = F.max_pool2d(small, 3, stride=1, padding=1), -F.max_pool2d(-small, 3, stride=1, padding=1)
    shrunk = F.avg_pool2d(images, factor)
    error, span = ((a - b).square().mean(1, keepdim=True) for a, b in ((small, shrunk), (high, low)))
    kept = F.interpolate((1 - 4 * error / span.clamp(min=1e-8)).clamp(min=0), images.shape[2:], mode="bilinear")
    images = _enlarged(small, factor) + kept * (images - _enlarged(shrunk, factor))
    high, low = (2 * high - low).clamp(max=1), (2 * low - high).clamp(min=0)
    high, low = (F.interpolate(bound, scale_factor=float(factor)) for bound in (high, low))
    for number in range(2 * rounds):
        error = small - F.avg_pool2d(images, factor)
        images = images + (
            _enlarged(error, factor) if number < rounds else F.interpolate(error, scale_factor=float(factor))
        )
        images = torch.minimum(torch.maximum(images, low), high)
    return images


def _enlarged(images: Tensor, factor: int) -> Tensor:
    height, width = (factor * side for side in images.shape[2:])
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True)


class SuperResolutionPipeline(EditingPipeline):
    """A picture is enlarged bicubically and edited at a low strength (2108.01073), which sharpens its edges.

    The input is the LL band of the result in Haar's transform, which IRIS's autoencoder begins with, and is kept: what
    each step predicts is decoded, made to agree with the input (``agree``), and encoded again, as is the start, and the
    result agrees with it in the end. Any autoencoder can do that, at a decoding and an encoding a step.

    What is finer than the input is made up: a model that was not trained for the task never saw a small picture beside
    its large one. One that was starts from noise, conditioned on the small picture enlarged. A result larger than the
    model's own size is sampled in overlapping tiles of that size, see ``TiledDenoiser``.
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        factor: int = 2,
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
        guidance_interval: tuple[float, float] = EVERYWHERE,
        negative_prompt_embeds: TextEncoding | Conditioning | None = None,
    ) -> Any:
        """Enlarge B = prompts x ``num_images_per_prompt`` pictures; other arguments are those of image to image.

        Args:
            prompt: a description; None for none. It conditions every tile, so that a large picture is better without.
            image: a picture, or one a prompt.
            factor: 2 or 4: how many times the rows and columns of the result are.
            strength: in (0, 1]; the higher it is, the sharper and the less like the input is the result. None for 0.2,
                or 1 at factor 4 where the model was trained to enlarge.
            guidance_scale: None for 1, no guidance.
            size: rows and columns of a tile; None for ``default_size``.

        Raises:
            PochadeError: an argument is not allowed, or the result would be too large; before any work.
            FailureError: pictures came out as NaN or in one flat colour.
        """
        if prompt is None and prompt_embeds is None:
            prompt = ""
        num_inference_steps = self.default_steps if num_inference_steps is None else num_inference_steps
        guidance_scale = UPSCALE_GUIDANCE if guidance_scale is None else guidance_scale
        if strength is None:
            strength = usual_strength("super_resolution", self._trained_for("super_resolution"), factor)
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
        H, W = (factor * side for side in pictures.size)
        check_megapixels("factor", W, H)
        call = self._call(
            prompt,
            prompt_embeds,
            negative_prompt,
            num_inference_steps,
            guidance_scale,
            num_images_per_prompt,
            len(pictures),
            guidance_interval,
            negative_prompt_embeds=negative_prompt_embeds,
        )
        side = size or self.default_size
        small = as_floats(pictures.shown())
        # A network draws what it has learned of the borders of pictures: they lie beyond this one, and are cut.
        canvas = Canvas.fit(H, W, side, self.size_multiple, shrink=False, margin=side // 4)
        known = call.per_picture(small)

        def constrain(images: Tensor) -> Tensor:
            return canvas.put(agree(canvas.take(images), known.to(images)))

        edited = self._edit(
            canvas.put(agree(resample(small, H, W), small)),
            call,
            strength=strength,
            generator=generator,
            callback=callback_on_step_end,
            tensors=callback_on_step_end_tensor_inputs,
            depth=depth,
            tile=side // int(self.autoencoder.downsampling),
            task="super_resolution",
            constrain=constrain,
        )
        new = NewPictures(call.batch, 3, (H, W), output_type)
        for i, part in enumerate(agree(canvas.take(edited), known)):
            new.put(i, part)
        return self._finish(new, return_dict)
