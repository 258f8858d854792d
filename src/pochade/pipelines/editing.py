"""What the pipelines that start from a picture have in common."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from pochade.autoencoders.tiling import decode_tiled, encode_tiled
from pochade.data.sources.pairs.pair import HOLE
from pochade.errors import PochadeError
from pochade.images.canvas import Canvas
from pochade.pipelines import hub
from pochade.pipelines.base import Asked, Callback, PaintingPipeline
from pochade.pipelines.checks import (
    IMAGE_GUIDANCE,
    check_count,
    check_number,
    check_output,
    check_scale,
    check_size,
    check_strength,
)
from pochade.pipelines.pictures import EditingWarning
from pochade.pipelines.tiles import TiledDenoiser
from pochade.types import TASKS, Conditioning, Denoiser, TextEncoding

OUTPUT_TYPES = ("pil", "np", "pt")
"""Latents are not among them: they are those of a canvas, not of the picture."""


class EditingPipeline(PaintingPipeline):
    """A painting pipeline that starts from a picture. It needs no training: any model that paints can do it.

    A model whose denoiser names the task in its configuration was trained for it, and is shown the picture besides.
    """

    def _trained_for(self, task: str) -> bool:
        return task in getattr(self.denoiser.config, "tasks", ())

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
        hub.check_instruction(getattr(self.denoiser.config, "tasks", ()))
        check_number("image_guidance_scale", image_guidance_scale)
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

    def _repaint(
        self,
        pictures: Tensor,
        canvas: Canvas,
        asked: Asked,
        *,
        strength: float,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        callback: Callback | None,
        tensors: Sequence[str],
        depth: int | None,
        mask: Tensor | None = None,
        tile: int | None = None,
        task: str | None = None,
        image_scale: float | None = None,
    ) -> Tensor:
        """Pictures [n, 3, H, W] in [0, 1] -> as many as are asked for, [B, 3, H, W].

        ``mask`` [m, 1, H, W] is 1 where they are repainted; ``tile`` is the side in latent cells of the tiles in
        which a larger canvas is painted. A model that was trained for ``task`` is told it, and shown the pictures,
        to inpaint with grey in the mask as in training; ``image_scale`` is that of guidance towards them.
        """
        down = int(self.autoencoder.downsampling)
        shape = (int(self.denoiser.config.latent_channels), canvas.outer[0] // down, canvas.outer[1] // down)
        noise, seeds = self._noise(generator, None, asked.batch, shape)
        on = canvas.put(pictures).to(self._execution_device, self.autoencoder.dtype)
        latents = encode_tiled(self.autoencoder, on * 2 - 1)
        source = each(latents, asked)
        cells = None if mask is None else canvas.put_mask(mask, down)
        parts: dict[str, Tensor] = {}
        if task is not None and self._trained_for(task):
            shown = latents
            if mask is not None and task == "inpaint":
                grey = on.new_tensor(HOLE).view(3, 1, 1) / 255
                holes = torch.where(canvas.put_mask(mask, 1).to(on) > 0, grey, on)
                shown = encode_tiled(self.autoencoder, holes * 2 - 1)
            where = torch.zeros_like(shown[:, :1]) if cells is None else cells.to(shown)
            parts = {
                name: v.expand(asked.rows, *v.shape[1:]) for name, v in (("source", shown), ("source_mask", where))
            }
            parts["task"] = torch.full((asked.rows,), TASKS.index(task), device=shown.device)
        denoiser: Denoiser | None = None
        if tile is not None and max(shape[1:]) > tile:
            denoiser = TiledDenoiser(self._sampling_denoiser(), tile, tile // 2)
        painted = self._integrate(
            asked,
            noise,
            seeds,
            callback=callback,
            tensors=tensors,
            depth=depth,
            denoiser=denoiser,
            strength=strength,
            source=source,
            source_mask=None if cells is None else each(cells, asked),
            parts=parts,
            image_scale=image_scale if parts else None,
        )
        one_colour = (pictures.amax((2, 3)) == pictures.amin((2, 3))).all()
        return canvas.take(self._decoded(painted, may_be_flat=bool(one_colour)))

    def _finish(self, images: Tensor, output_type: str, return_dict: bool) -> Any:
        out = self._as_type(images, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=out) if return_dict else (out,)


def each(rows: Tensor, asked: Asked) -> Tensor:
    """One row for all prompts or one a prompt, [B, ...]."""
    return rows.expand(asked.rows, *rows.shape[1:]).repeat_interleave(asked.each, dim=0)


def warn_if_forgotten(strength: float) -> None:
    """Warns EditingWarning where a strength leaves nothing of the picture."""
    if strength == 1:
        warnings.warn(
            "strength: at 1 nothing of the picture is left but its size; below 1 its shapes and colours stay",
            EditingWarning,
            stacklevel=3,
        )
