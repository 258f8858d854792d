"""From sentences to pictures."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from PIL import Image
from torch import Tensor

from pochade.arguments import check_count
from pochade.autoencoders.tiling import encode_tiled
from pochade.errors import PochadeError
from pochade.features import style
from pochade.images.canvas import as_floats
from pochade.images.controls import encode_control
from pochade.pipelines.base import GenerationPipeline
from pochade.pipelines.callbacks import Callback
from pochade.pipelines.checks import (
    check_image_prompt,
    check_image_prompt_scale,
    check_output,
    check_scale,
    check_size,
    finite,
    read_control,
)
from pochade.pipelines.pictures import read_pictures
from pochade.types import Conditioning, TextEncoding


class TextToImagePipeline(GenerationPipeline):
    """Pictures from noise and a sentence."""

    def check_inputs(
        self,
        *,
        num_inference_steps: int,
        guidance_scale: float | Sequence[float] | Tensor,
        height: int | None,
        width: int | None,
        num_images_per_prompt: int = 1,
        output_type: str = "pil",
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> None:
        """Raises PochadeError for the first of these arguments that is not allowed; does no work."""
        check_count("num_inference_steps", num_inference_steps)
        check_count("num_images_per_prompt", num_images_per_prompt)
        check_scale(guidance_scale)
        check_size("height", height, self.size_multiple)
        check_size("width", width, self.size_multiple)
        check_output(output_type, callback_on_step_end_tensor_inputs)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | Tensor | None = None,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: TextEncoding | Conditioning | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        depth: int | None = None,
        control: Image.Image | Sequence[Image.Image] | Tensor | None = None,
        image_prompt: Any = None,
        image_prompt_scale: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        negative_prompt_embeds: TextEncoding | Conditioning | None = None,
    ) -> Any:
        """Generate B = prompts x ``num_images_per_prompt`` pictures, those of one prompt side by side.

        Noise is drawn on the CPU, picture by picture. A list of generators gives each picture its own. A single
        generator stands for its seed s: picture i gets the noise of seed s + i, and the generator is left
        with the seed s + B, so that one call for k pictures and k calls for one give the same. Without a
        generator the seed is drawn from torch's.

        Args:
            prompt: a sentence, or one each. An empty one is no prompt: the picture is unconditional.
            negative_prompt: what guidance leads away from, one for all or one a prompt; needs a guidance
                scale other than 1.
            num_inference_steps: at least 1; None for ``default_steps``.
            guidance_scale: s in v_0 + s (v_c - v_0), one for all or one a picture; 1 is no guidance, at half
                the cost; None for ``default_guidance``.
            num_images_per_prompt: at least 1.
            height: rows of pixels, a multiple of ``size_multiple``; None for ``default_size``.
            width: columns of pixels, likewise.
            generator: on the CPU, as said above.
            latents: standard normal noise [B, C, H, W] to start from, instead of a generator.
            prompt_embeds: what ``encode_prompt`` gave, or any conditioning, instead of ``prompt``.
            output_type: ``pil``; ``np`` [B, H, W, 3] or ``pt`` [B, 3, H, W] in [0, 1]; ``latent`` [B, C, H,
                W].
            return_dict: False gives a tuple of one.
            callback_on_step_end: called as (pipe, step, timestep, tensors) after each step; may return a mapping with
                replaced ``latents``, ``prompt_embeds``, ``pooled_prompt_embeds`` and ``negative_prompt_embeds``, and
                may set ``pipe._guidance_scale`` (0 and 1 are no guidance) and ``pipe._interrupt``. Those of
                ``diffusers.callbacks`` name the tensors that they need.
            callback_on_step_end_tensor_inputs: which of ``latents``, ``predicted_data``, ``aux``, ``prompt_embeds``,
                ``pooled_prompt_embeds`` (with guidance [2 B, ...], the unconditional ones first) and
                ``negative_prompt_embeds`` it gets; ``aux`` is a mapping of what the family reports, such as
                ``reasoning_steps`` [B].
            depth: iterations inside the denoiser, where the family has them.
            control: what the picture follows, for a denoiser with an input for it: a picture of ``height`` x ``width``
                of the kind that it was trained with: white edges on black, a depth map of any brightness, near being
                bright, or a stick figure on black; or a tensor [C, height, width] in [0, 1], C being 1, of a pose 3;
                one for all, or one a prompt. Guidance drops it together with the prompt, so that it leads towards both.
            image_prompt: a picture of any size whose style is followed, for a denoiser with an input for it: one for
                all, or a list with one a prompt; or what ``encode_image_prompt`` gave. Guidance drops it together with
                the prompt.
            image_prompt_scale: how strongly, from 0 (not at all) on.
            guidance_interval: the times [low, high] in [0, 1], 1 being noise, at which guidance applies (2404.07724);
                outside it the scale is 1, at half the cost; None for ``default_guidance_interval``.
            negative_prompt_embeds: with ``prompt_embeds``, what ``encode_prompt`` gave of a negative prompt.

        Raises:
            PochadeError: an argument is not allowed; before any work.
            FailureError: pictures came out as NaN or in one flat colour.

        Warns:
            PromptTruncatedWarning: a prompt is longer than the text encoder reads.
        """
        num_inference_steps = self.default_steps if num_inference_steps is None else num_inference_steps
        guidance_scale = self.default_guidance if guidance_scale is None else guidance_scale
        self.check_inputs(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            height=height,
            width=width,
            num_images_per_prompt=num_images_per_prompt,
            output_type=output_type,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        call = self._call(
            prompt,
            prompt_embeds,
            negative_prompt,
            num_inference_steps,
            guidance_scale,
            num_images_per_prompt,
            guidance_interval=guidance_interval,
            usual_interval=self.default_guidance_interval,
            negative_prompt_embeds=negative_prompt_embeds,
        )
        down = int(self.autoencoder.downsampling)
        height, width = height or self.default_size, width or self.default_size
        given: Tensor | None = None
        if control is not None:
            if call.embeds.control is not None:
                raise PochadeError("control: given beside prompt_embeds that hold one, allowed is one of both")
            given = read_control(control, self.denoiser.input_spec().control, call.count, (height, width))
        parts: dict[str, Tensor] = {}
        if image_prompt is not None:
            if call.embeds.image_prompt is not None:
                raise PochadeError("image_prompt: given beside prompt_embeds that hold one, allowed is one of both")
            parts |= self._image_prompt(image_prompt, image_prompt_scale, call.count)
        elif image_prompt_scale != 1:
            raise PochadeError(f"image_prompt_scale: {image_prompt_scale} given without an image prompt")
        shape = (self.denoiser.input_spec().latent_channels, height // down, width // down)
        noise, generators = self._noise(generator, latents, call.batch, shape)
        if given is not None:
            given = given.to(self._execution_device, self.autoencoder.dtype)
            parts |= {"control": encode_control(given, partial(encode_tiled, self.autoencoder))}
        result = self._sample(
            call,
            noise,
            generators,
            callback=callback_on_step_end,
            tensors=callback_on_step_end_tensor_inputs,
            depth=depth,
            parts=parts,
        )
        if output_type == "latent":
            images: Any = finite(result)
        else:
            images = self._as_type(self._decoded(result), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def encode_image_prompt(self, image_prompt: Any) -> Tensor:
        """The features [n, R, D_ref] of n pictures whose style is to be followed, by the encoder that the denoiser was
        trained with.

        Args:
            image_prompt: a picture as ``ImageToImagePipeline`` takes it, or a list of them, of any sizes.

        Raises:
            PochadeError: the denoiser has no input for an image prompt, its encoder cannot be had, or there is no
                picture.
        """
        spec = self.denoiser.input_spec()
        check_image_prompt(spec.image_prompt_dim)
        if spec.image_prompt_encoder is None:
            raise PochadeError("image_prompt: pictures given, but the model names no encoder, allowed are its features")
        listed = image_prompt if isinstance(image_prompt, list | tuple) else [image_prompt]
        if not listed:
            raise PochadeError("image_prompt: an empty list given, allowed is one picture or more")
        try:
            pictures = [picture[None] for one in listed for picture in as_floats(read_pictures(one).shown())]
        except PochadeError as error:
            raise PochadeError(f"image_prompt: {str(error).removeprefix('image: ')}") from error
        encoder = style.load(spec.image_prompt_encoder)
        return torch.cat([encoder(2 * picture - 1) for picture in pictures])

    def _image_prompt(self, image_prompt: Any, scale: float, prompts: int) -> dict[str, Tensor]:
        """The parts of the conditioning for an image prompt, one a prompt. Raises PochadeError."""
        dim = self.denoiser.input_spec().image_prompt_dim
        check_image_prompt(dim)
        check_image_prompt_scale(scale)
        features = image_prompt if isinstance(image_prompt, Tensor) else self.encode_image_prompt(image_prompt)
        features = features[None] if features.ndim == 2 else features
        if features.ndim != 3 or features.shape[0] not in (1, prompts) or not features.shape[1]:
            allowed = f"[{prompts}, R, {dim}], or one for all"
            raise PochadeError(f"image_prompt: shape {list(features.shape)} given, allowed are features {allowed}")
        if features.shape[2] != dim:
            raise PochadeError(f"image_prompt: {features.shape[2]} features given, the denoiser needs {dim}")
        return {
            "image_prompt": features.expand(prompts, -1, -1),
            "image_prompt_scale": torch.full((prompts,), float(scale)),
        }
