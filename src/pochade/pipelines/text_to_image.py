"""From sentences to pictures."""

import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from pochade.errors import FailureError, PochadeError
from pochade.flow.guidance import Guidance, GuidedDenoiser
from pochade.flow.noise import rows_normal
from pochade.flow.sampling import sample
from pochade.pipelines import hub, register_components
from pochade.pipelines.checks import (
    CALLBACK_TENSORS,
    check_components,
    check_count,
    check_output,
    check_scale,
    check_size,
    control_rows,
    row_generators,
)
from pochade.pipelines.loading import load_components
from pochade.pipelines.saving import write_folder
from pochade.text_encoders.class_label import ClassLabelEncoder
from pochade.types import Conditioning, TextEncoding

# diffusers looks component classes up among the imported modules only.
register_components()


class PromptTruncatedWarning(UserWarning):
    """A prompt is longer than the text encoder reads."""


class _InterruptedSampling(Exception):  # noqa: N818 - no error: a signal from inside the sampler
    def __init__(self, latents: Tensor) -> None:
        self.latents = latents


class TextToImagePipeline(DiffusionPipeline):
    """A denoiser between a text encoder and an autoencoder.

    Args:
        autoencoder: with ``decode``, ``downsampling`` and ``config.latent_channels``.
        denoiser: any family's; see ``pochade.types.Denoiser``.
        scheduler: a diffusers scheduler over flow sigmas; None for flow-match Euler.
        text_encoder: a ``PromptEncoder``, a ``ClassLabelEncoder`` (prompts are then names of classes), or
            None, where only ``prompt_embeds`` conditions.
        default_steps: steps of a call that names none; a setting of the model, stored with it.
        default_guidance: guidance scale of a call that names none, likewise.
        default_size: rows and columns in pixels of a call that names none; None for the grid of the denoiser's own
            positions. A network that was trained on smaller pictures than it has positions for names them here.

    Raises:
        PochadeError: the components do not belong together, or a default is out of its range.
    """

    model_cpu_offload_seq = "text_encoder->denoiser->autoencoder"
    # Whatever has a default must be named here, or diffusers takes it for a setting and does not save it.
    _optional_components: ClassVar[list[str]] = ["scheduler", "text_encoder"]
    _callback_tensor_inputs: ClassVar[list[str]] = list(CALLBACK_TENSORS)

    def __init__(
        self,
        autoencoder: ModelMixin,
        denoiser: ModelMixin,
        scheduler: Any = None,
        text_encoder: ModelMixin | None = None,
        default_steps: int = hub.DEFAULT_STEPS,
        default_guidance: float = hub.DEFAULT_GUIDANCE,
        default_size: int | None = None,
    ) -> None:
        super().__init__()
        check_components(autoencoder, denoiser, text_encoder)
        check_count("default_steps", default_steps)
        check_scale(default_guidance)
        self.register_modules(
            autoencoder=autoencoder,
            denoiser=denoiser,
            scheduler=FlowMatchEulerDiscreteScheduler() if scheduler is None else scheduler,
            text_encoder=text_encoder,
        )
        check_size("default_size", default_size, self.size_multiple)
        self.register_to_config(
            default_steps=default_steps, default_guidance=default_guidance, default_size=default_size
        )
        self._interrupt = False
        self._num_timesteps = 0
        self._guidance_scale: float | Tensor = 1.0

    @property
    def interrupt(self) -> bool:
        """Set ``pipe._interrupt = True`` in a callback to stop; the picture as predicted so far is
        returned."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Calls of the denoiser in the last run (a second-order scheduler makes more than its steps)."""
        return self._num_timesteps

    @property
    def guidance_scale(self) -> float | Tensor:
        """Of the last run."""
        return self._guidance_scale

    @property
    def default_steps(self) -> int:
        """Steps of a call that names none: few where the model was distilled."""
        return int(self.config["default_steps"])

    @property
    def default_guidance(self) -> float:
        """Guidance scale of a call that names none: 1 where guidance was distilled into the model."""
        return float(self.config["default_guidance"])

    @property
    def size_multiple(self) -> int:
        """Height and width of a picture, in pixels, are multiples of this."""
        return int(self.autoencoder.downsampling) * int(getattr(self.denoiser, "size_multiple", 1))

    @property
    def default_size(self) -> int:
        """Rows and columns of a picture where none are asked for: the resolution of the training."""
        own = int(self.denoiser.config.sample_size) * int(self.autoencoder.downsampling)
        return int(self.config["default_size"] or own)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] = hub.DEFAULT_MODEL,
        *,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        allow_pickle: bool = False,
        **kwargs: Any,
    ) -> Self:
        """A pipeline by the name of a shipped model, from a folder, or from the hub (``owner/name``).

        Args:
            pretrained_model_name_or_path: see ``pochade.pipelines.hub.resolve``.
            torch_dtype: of the parameters; float32 by default, whatever precision the files hold.
            variant: as in ``diffusion_pytorch_model.<variant>.safetensors``.
            allow_pickle: read pickled weights where there is no safetensors file. A pickle can run code when
                it is loaded: only for files that you trust.
            kwargs: components to use instead of the stored ones, and options of the hub (``revision``,
                ``token``, ``cache_dir``, ``local_files_only``).

        Raises:
            PochadeError: unknown model; damaged, missing, extra or wrongly shaped weights (all are named).
            FailureError: the hub cannot be reached.
        """
        dtype = kwargs.pop("dtype", None) or torch_dtype or torch.float32
        settings = {name: kwargs.pop(name) for name in hub.DEFAULTS if name in kwargs}
        names = set(inspect.signature(cls.__init__).parameters) - {"self", *hub.DEFAULTS}
        given = {name: kwargs.pop(name) for name in names & set(kwargs)}
        options = {k: kwargs.pop(k) for k in ("revision", "token", "cache_dir", "local_files_only") if k in kwargs}
        if kwargs:
            raise PochadeError(f"from_pretrained: {', '.join(sorted(kwargs))} given, which it does not have")
        folder = hub.resolve(pretrained_model_name_or_path, **options)
        components = load_components(folder, given, dtype=dtype, variant=variant, allow_pickle=allow_pickle)
        wrong = sorted(set(components) - names) + sorted({"autoencoder", "denoiser"} - set(components))
        if wrong:
            raise PochadeError(f"{folder}: components {', '.join(wrong)} are missing or not of {cls.__name__}")
        pipe = cls(**components, **hub.defaults(folder) | settings)
        pipe.register_to_config(_name_or_path=str(folder))
        return pipe

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Write the model: every component's configuration and safetensors weights, ``model_index.json`` and
        ``pipeline.py``, with which ``diffusers.DiffusionPipeline.from_pretrained(folder,
        custom_pipeline="pipeline", trust_remote_code=True)`` loads it too. The folder is complete or not
        there at all; files of an earlier model are replaced, others stay.

        Args:
            save_directory: the folder.
            safe_serialization: only True: pickles are not written.
            dtype: floating precision of the files, for instance float16; None keeps every bit. The text
                encoder keeps its own, since its identity is taken from its weights.
        """
        if not safe_serialization:
            raise PochadeError("safe_serialization: False given, allowed is True: pickles are not written")
        write_folder(Path(save_directory), type(self).__name__, super().save_pretrained, dtype)

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
        callback_on_step_end: "Callable[[Any, int, Any, dict[str, Any]], Mapping[str, Any] | None] | None" = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        depth: int | None = None,
        control: Image.Image | Sequence[Image.Image] | Tensor | None = None,
    ) -> Any:
        """Paint B = prompts x ``num_images_per_prompt`` pictures, those of one prompt side by side.

        Noise is drawn on the CPU, row by row. A list of generators gives each picture its own. A single
        generator stands for its seed s: picture i gets the noise of seed s + i, and the generator is left
        with the seed s + B, so that one call for k pictures and k calls for one paint the same. Without a
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
            callback_on_step_end: called as (pipe, step, timestep, tensors) after each step; may return a
                mapping with replaced ``latents``, and may set ``pipe._interrupt``.
            callback_on_step_end_tensor_inputs: which of ``latents``, ``predicted_data`` and ``aux`` it gets; the last
                is a mapping of what the family tells of itself, such as ``reasoning_steps`` [B].
            depth: iterations inside the denoiser, where the family has them.
            control: what the picture shall follow, for a denoiser with an input for it: a picture of ``height`` x
                ``width`` such as white edges on black, or a tensor [C_control, height, width] in [0, 1]; one for all,
                or one a prompt. Guidance leaves it in both branches.

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
        prompts, embeds = self._prompts(prompt, prompt_embeds)
        asked = len(prompts) if prompts is not None else embeds.batch_size or 1
        B = asked * num_images_per_prompt
        scale = torch.as_tensor(guidance_scale, dtype=torch.float32)
        if scale.ndim and scale.shape[0] != B:
            raise PochadeError(f"guidance_scale: {scale.shape[0]} given for {B} pictures, allowed is one, or one each")
        self._guidance_scale = float(scale) if not scale.ndim else scale
        negatives = self._negatives(negative_prompt, prompts)
        device, dtype = self._execution_device, self.denoiser.dtype
        down = int(self.autoencoder.downsampling)
        height, width = height or self.default_size, width or self.default_size
        if control is not None:
            if embeds.control is not None:
                raise PochadeError("control: given beside prompt_embeds that hold one, allowed is one of both")
            channels = int(getattr(self.denoiser.config, "control_channels", 0))
            control = control_rows(control, channels, asked, (height, width))
        shape = (int(self.denoiser.config.latent_channels), height // down, width // down)
        noise, seeds = self._noise(generator, latents, B, shape)
        noise = noise.to(device=device, dtype=dtype)

        conditioning, negative = self._encode(prompts, negatives) if prompts is not None else (embeds, None)
        if control is not None:
            conditioning = replace(conditioning, control=control)
        repeat = lambda v: v.repeat_interleave(num_images_per_prompt, dim=0)  # noqa: E731
        conditioning = conditioning.map(repeat).to(device, dtype)
        negative = None if negative is None else negative.map(repeat).to(device, dtype)
        guided = GuidedDenoiser(self.denoiser, Guidance(self._guidance_scale), negative)

        self._interrupt = False
        self._num_timesteps = 0
        with self.progress_bar(total=num_inference_steps) as bar:  # pyright: ignore[reportCallIssue]

            def on_step(i: int, _: Tensor, z: Tensor, predicted: Tensor, aux: Mapping[str, Tensor]) -> Tensor | None:
                timesteps = self.scheduler.timesteps
                self._num_timesteps = i + 1
                bar.total = len(timesteps)
                bar.update()
                replaced = None
                if callback_on_step_end is not None:
                    tensors = {"latents": z, "predicted_data": predicted, "aux": aux}
                    chosen = {k: tensors[k] for k in callback_on_step_end_tensor_inputs}
                    back = callback_on_step_end(self, i, timesteps[i], chosen)
                    replaced = back.get("latents") if back else None
                if self._interrupt:
                    raise _InterruptedSampling(predicted)
                return replaced

            try:
                result = sample(
                    guided,
                    self.scheduler,
                    noise,
                    conditioning,
                    num_inference_steps=num_inference_steps,
                    depth=depth,
                    on_step=on_step,
                    generator=seeds,
                )
            except _InterruptedSampling as stop:
                result = stop.latents
        images = self._output(result, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def encode_prompt(self, prompt: str | Sequence[str]) -> Conditioning:
        """What the denoiser is told for these prompts, on the text encoder's device, float32; for
        ``prompt_embeds``."""
        return self._encode([prompt] if isinstance(prompt, str) else list(prompt), None)[0]

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents [B, C, H, W] -> pictures [B, 3, H, W] in [0, 1], float32 on the CPU."""
        images = self.autoencoder.decode(latents.to(self.autoencoder.dtype))
        return (images.float().cpu() / 2 + 0.5).clamp(0, 1)

    def _prompts(
        self, prompt: str | Sequence[str] | None, embeds: TextEncoding | Conditioning | None
    ) -> tuple[list[str] | None, Conditioning]:
        if (prompt is None) == (embeds is None):
            raise PochadeError("prompt: one of prompt and prompt_embeds is needed, and only one")
        if isinstance(embeds, TextEncoding):
            embeds = Conditioning(tokens=embeds.tokens, mask=embeds.mask, pooled=embeds.pooled)
        if embeds is not None:
            if not isinstance(embeds, Conditioning):
                raise PochadeError(
                    f"prompt_embeds: {type(embeds).__name__} given, allowed are Conditioning and TextEncoding"
                )
            return None, embeds
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or [])
        if not prompts or not all(isinstance(p, str) for p in prompts):
            raise PochadeError("prompt: a sentence or a list of sentences is needed")
        if self.text_encoder is None and any(p.strip() for p in prompts):
            raise PochadeError("prompt: this model has no text encoder, pass prompt_embeds")
        return prompts, Conditioning()

    def _negatives(self, negative: str | Sequence[str] | None, prompts: list[str] | None) -> list[str] | None:
        if negative is None or (isinstance(negative, str) and not negative.strip()):
            return None
        if prompts is None:
            raise PochadeError("negative_prompt: goes with prompt, not with prompt_embeds")
        if not isinstance(self._guidance_scale, Tensor) and self._guidance_scale == 1:
            raise PochadeError("negative_prompt: has no effect at guidance_scale 1, allowed is any other scale")
        negatives = [negative] * len(prompts) if isinstance(negative, str) else list(negative)
        if len(negatives) != len(prompts):
            raise PochadeError(f"negative_prompt: {len(negatives)} given for {len(prompts)} prompts")
        return negatives

    def _encode(self, prompts: list[str], negatives: list[str] | None) -> tuple[Conditioning, Conditioning | None]:
        n = len(prompts)
        texts = prompts + (negatives or [])
        encoder = self.text_encoder
        if encoder is None:
            return Conditioning(), None
        if isinstance(encoder, ClassLabelEncoder):
            both = Conditioning(class_label=encoder.encode_labels(texts))
        else:
            for text in dict.fromkeys(texts):
                count = encoder.count_tokens(text)
                if count > encoder.max_tokens:
                    warnings.warn(
                        f"prompt: {count} tokens, the text encoder reads {encoder.max_tokens}: "
                        f"the last {count - encoder.max_tokens} are cut",
                        PromptTruncatedWarning,
                        stacklevel=4,
                    )
            out = encoder.encode(texts)
            both = Conditioning(tokens=out.tokens, mask=out.mask, pooled=out.pooled)
            blank = torch.tensor([not text.strip() for text in texts], device=out.mask.device)
            both = both.drop("text", rows=blank)
        return both.map(lambda v: v[:n]), both.map(lambda v: v[n:]) if negatives else None

    def _noise(
        self,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        latents: Tensor | None,
        B: int,
        shape: tuple[int, int, int],
    ) -> tuple[Tensor, list[torch.Generator]]:
        rows = row_generators(generator, B)
        if latents is None:
            return rows_normal(rows, shape), rows
        if tuple(latents.shape) != (B, *shape):
            raise PochadeError(f"latents: shape {tuple(latents.shape)} given, needed is {(B, *shape)}")
        return latents, rows

    def _output(self, latents: Tensor, output_type: str) -> Any:
        bad = (~torch.isfinite(latents)).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            raise FailureError(f"latents: not finite in picture {', '.join(map(str, bad))}: the model diverged")
        if output_type == "latent":
            return latents
        images = self.decode_latents(latents)
        finite = torch.isfinite(images).flatten(1).all(1)
        bytes_ = (images * 255).round().flatten(2)
        # Flat as the file would show it: every pixel of one colour after rounding to 8 bits.
        flat = (bytes_.amax(-1) == bytes_.amin(-1)).all(1)
        bad = (flat | ~finite).nonzero().flatten().tolist()
        if bad:
            kind = "NaN" if not bool(finite.all()) else "one flat colour"
            raise FailureError(f"picture {', '.join(map(str, bad))}: {kind} came out, which is no picture")
        if output_type == "pt":
            return images
        arrays = images.permute(0, 2, 3, 1).numpy()
        return arrays if output_type == "np" else self.numpy_to_pil(np.ascontiguousarray(arrays))
