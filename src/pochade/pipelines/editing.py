"""What the pipelines that start from a picture have in common."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from pochade.arguments import check_count, check_guidance, check_strength
from pochade.autoencoders.tiling import decode_tiled, encode_tiled
from pochade.data.sources.pairs.pair import HOLE
from pochade.errors import PochadeError
from pochade.pipelines import hub
from pochade.pipelines.base import GenerationPipeline
from pochade.pipelines.call import CallArguments
from pochade.pipelines.callbacks import Callback
from pochade.pipelines.checks import IMAGE_GUIDANCE, check_output, check_scale, check_size
from pochade.pipelines.pictures import NewPictures
from pochade.pipelines.tiles import TiledDenoiser
from pochade.runtime.masks import EditingWarning
from pochade.runtime.pictures import is_nearly_flat
from pochade.types import TASKS, Conditioning, Denoiser, TextEncoding

OUTPUT_TYPES = ("pil", "np", "pt")
"""Latents are not among them: they are those of a canvas, not of the picture."""


class EditingPipeline(GenerationPipeline):
    """A pipeline that starts from a picture. Any model can do that without further training.

    A denoiser that names the task in its configuration was trained for it, and takes the picture as an input.
    """

    def _trained_for(self, task: str) -> bool:
        return task in self.denoiser.input_spec().tasks

    def _check_instruction(
        self,
        prompt: str | Sequence[str] | None,
        prompt_embeds: TextEncoding | Conditioning | None,
        instruction: str | Sequence[str] | None,
        image_guidance_scale: float | None,
    ) -> float | None:
        """The scale of guidance towards the picture, None where there is none.

        Raises PochadeError where an instruction stands beside a prompt or the model follows none.
        """
        if instruction is None:
            if image_guidance_scale is not None:
                raise PochadeError("image_guidance_scale: given without an instruction, allowed is none")
            return None
        if prompt is not None or prompt_embeds is not None:
            raise PochadeError("instruction: given beside a prompt, allowed is one of both")
        hub.check_instruction(self.denoiser.input_spec().tasks)
        check_guidance("image_guidance_scale", image_guidance_scale)
        scale = IMAGE_GUIDANCE if image_guidance_scale is None else float(image_guidance_scale)
        return None if scale == 1 else scale

    def check_inputs(
        self,
        *,
        num_inference_steps: int,
        guidance_scale: float | Sequence[float] | Tensor,
        strength: float,
        size: int | None = None,
        num_images_per_prompt: int = 1,
        output_type: str = "pil",
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> None:
        """Raises PochadeError for the first of these arguments that is not allowed; does no work."""
        check_count("num_inference_steps", num_inference_steps)
        check_count("num_images_per_prompt", num_images_per_prompt)
        check_scale(guidance_scale)
        check_strength(strength)
        check_size("size", size, self.size_multiple)
        check_output(output_type, callback_on_step_end_tensor_inputs, OUTPUT_TYPES)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """As of every pipeline, in tiles where they are large."""
        images = decode_tiled(self.autoencoder, latents.to(self.autoencoder.dtype))
        return (images.float().cpu() / 2 + 0.5).clamp(0, 1)

    def _edit(
        self,
        canvas: Tensor,
        call: CallArguments,
        *,
        strength: float,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        callback: Callback | None,
        tensors: Sequence[str],
        depth: int | None,
        is_part: Sequence[bool] = (False,),
        mask: Tensor | None = None,
        tile: int | None = None,
        task: str | None = None,
        image_scale: float | None = None,
        constrain: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Source pictures on a canvas [n, 3, H, W] in [0, 1] -> B edited ones [B, 3, H, W].

        ``mask`` [m, 1, H, W] is 1 where they are generated anew; ``tile`` is the side in latent cells of the tiles in
        which a larger canvas is sampled. A model that was trained for ``task`` is conditioned on it and on the
        pictures, to inpaint with grey in the mask as in training; ``image_scale`` is that of guidance towards them.
        What ``is_part`` of a picture, one a prompt, may have one colour, such as that of the paper around it; so may
        what is made of a picture that is nearly so. ``constrain`` is that of ``sample`` for pictures on the canvas
        [B, 3, H, W] in [0, 1].
        """
        down = int(self.autoencoder.downsampling)
        shape = (self.denoiser.input_spec().latent_channels, canvas.shape[2] // down, canvas.shape[3] // down)
        noise, generators = self._noise(generator, None, call.batch, shape)
        flat = torch.tensor([is_nearly_flat(one.permute(1, 2, 0).numpy()) for one in canvas.cpu()])
        flat = flat | torch.tensor(is_part)
        canvas = canvas.to(self._execution_device, self.autoencoder.dtype)
        latents = encode_tiled(self.autoencoder, canvas * 2 - 1)
        cells = None if mask is None else F.max_pool2d(mask, down)
        parts: dict[str, Tensor] = {}
        if task is not None and self._trained_for(task):
            source = latents
            if mask is not None and task == "inpaint":
                grey = canvas.new_tensor(HOLE).view(3, 1, 1) / 255
                source = encode_tiled(self.autoencoder, torch.where(mask.to(canvas) > 0, grey, canvas) * 2 - 1)
            marked = torch.zeros_like(source[:, :1]) if cells is None else cells.to(source)
            parts = {
                name: v.expand(call.count, *v.shape[1:]) for name, v in (("source", source), ("source_mask", marked))
            }
            parts["task"] = torch.full((call.count,), TASKS.index(task), device=source.device)

        def constrained(z: Tensor) -> Tensor:
            assert constrain is not None
            images = decode_tiled(self.autoencoder, z.to(self.autoencoder.dtype)).float() / 2 + 0.5
            return encode_tiled(self.autoencoder, constrain(images).to(self.autoencoder.dtype) * 2 - 1).to(z)

        denoiser: Denoiser | None = None
        if tile is not None and max(shape[1:]) > tile:
            denoiser = TiledDenoiser(self._sampling_denoiser(), tile, tile // 2)
        sampled = self._sample(
            call,
            noise,
            generators,
            callback=callback,
            tensors=tensors,
            depth=depth,
            denoiser=denoiser,
            strength=strength,
            source=call.per_picture(latents),
            source_mask=None if cells is None else call.per_picture(cells),
            parts=parts,
            image_scale=image_scale if parts else None,
            constrain=None if constrain is None else constrained,
        )
        return self._decoded(sampled, may_be_flat=call.per_picture(flat))

    def _finish(self, new: NewPictures, return_dict: bool) -> Any:
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=new.images) if return_dict else (new.images,)


def warn_if_nothing_is_kept(strength: float) -> None:
    """Warns EditingWarning where a strength leaves nothing of the picture."""
    if strength == 1:
        warnings.warn(
            "strength: at 1 nothing of the picture is left but its size; below 1 its shapes and colours stay",
            EditingWarning,
            stacklevel=3,
        )
