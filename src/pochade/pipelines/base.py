"""The base of all pipelines: components, their folder, device and precision, sampling, decoding."""

import inspect
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from pochade.allocator import KEPT, keep_freed_memory
from pochade.arguments import EVERYWHERE, check_count, check_guidance_interval, path_text, shown
from pochade.denoisers.base import DenoiserModel
from pochade.device import resolve_device, resolve_precision
from pochade.errors import FailureError, PochadeError
from pochade.files import check_here
from pochade.flow.guidance import Guidance, GuidedDenoiser
from pochade.flow.noise import seeded_normal
from pochade.flow.sampling import CastDenoiser, sample, steps_from
from pochade.pipelines import hub
from pochade.pipelines.call import CallArguments, check_call, check_sampling, encode_prompts
from pochade.pipelines.callbacks import (
    Callback,
    Runs,
    callback_tensors,
    calling_back,
    replace_text,
    returned_tensors,
    wanted_tensors,
)
from pochade.pipelines.checks import (
    CALLBACK_TENSORS,
    check_components,
    check_floats,
    check_scale,
    check_size,
    finite,
    picture_generators,
)
from pochade.pipelines.components import register_components
from pochade.pipelines.defaults import DefaultsMixin
from pochade.pipelines.loading import load_components
from pochade.pipelines.lora import LoRAMixin
from pochade.pipelines.saving import write_folder
from pochade.pipelines.schedulers import check_flow_scheduler
from pochade.pipelines.textual_inversion import TextualInversionMixin
from pochade.runtime.sampling import UNCONDITIONAL, GuidanceWarning
from pochade.types import Conditioning, Denoiser

# diffusers looks component classes up among the imported modules only.
register_components()


class _InterruptedSampling(Exception):  # noqa: N818 - no error: a signal from inside the sampler
    def __init__(self, latents: Tensor) -> None:
        self.latents = latents


class GenerationPipeline(DefaultsMixin, TextualInversionMixin, LoRAMixin, DiffusionPipeline):
    """A denoiser between a text encoder and an autoencoder; what the pipelines of single tasks have in common.

    They hold the same components, so that each loads the folder of any other.

    Args:
        autoencoder: with ``decode``, ``downsampling`` and ``config.latent_channels``.
        denoiser: the network of any family; see ``pochade.types.Denoiser``.
        scheduler: a diffusers scheduler over flow sigmas; None for flow-match Euler.
        text_encoder: a ``PromptEncoder``, a ``ClassLabelEncoder`` (prompts are then names of classes), or
            None, where only ``prompt_embeds`` conditions.
        default_steps: steps of a call that names none; a setting of the model, stored with it.
        default_guidance: guidance scale of a call that names none, likewise.
        default_guidance_low: the first of the times at which guidance applies in a call of ``TextToImagePipeline`` that
            names none, likewise;
        default_guidance_high: and the last.
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
        denoiser: DenoiserModel,
        scheduler: Any = None,
        text_encoder: ModelMixin | None = None,
        default_steps: int = hub.DEFAULT_STEPS,
        default_guidance: float = hub.DEFAULT_GUIDANCE,
        default_guidance_low: float = EVERYWHERE[0],
        default_guidance_high: float = EVERYWHERE[1],
        default_size: int | None = None,
    ) -> None:
        super().__init__()
        check_components(autoencoder, denoiser, scheduler, text_encoder)
        check_count("default_steps", default_steps)
        check_scale(default_guidance)
        check_guidance_interval((default_guidance_low, default_guidance_high))
        self.register_modules(
            autoencoder=autoencoder,
            denoiser=denoiser,
            scheduler=FlowMatchEulerDiscreteScheduler() if scheduler is None else scheduler,
            text_encoder=text_encoder,
        )
        check_size("default_size", default_size, self.size_multiple)
        self.register_to_config(
            default_steps=default_steps,
            default_guidance=default_guidance,
            default_guidance_low=default_guidance_low,
            default_guidance_high=default_guidance_high,
            default_size=default_size,
        )
        self._runs = Runs()

    @property
    def components(self) -> dict[str, Any]:
        """The components and the defaults of the model, which go with them: ``Other(**pipe.components)``."""
        return {**super().components, **{name: self.config[name] for name in hub.DEFAULTS}}

    @classmethod
    def from_pipe(cls, pipeline: "GenerationPipeline", **changes: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A pipeline of the same model for another task; nothing is copied.

        Args:
            pipeline: any of pochade's.
            changes: other components or defaults.

        Raises:
            PochadeError: another pipeline or an unknown argument is given, or the components do not belong together.
        """
        if not isinstance(pipeline, GenerationPipeline):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PochadeError(f"pipeline: {type(pipeline).__name__} given, allowed are those of pochade")
        unknown = sorted(set(changes) - set(pipeline.components))
        if unknown:
            raise PochadeError(f"{unknown[0]}: given, allowed are {', '.join(pipeline.components)}")
        return cls(**{**pipeline.components, **changes})

    # A callback sets these two, by the names that diffusers' pipelines have for them.

    @property
    def _interrupt(self) -> bool:
        return self._runs.current.interrupted

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        self._runs.set_interrupted(value)

    @property
    def _guidance_scale(self) -> float | Tensor:
        return self._runs.current.scale

    @_guidance_scale.setter
    def _guidance_scale(self, value: float | Tensor) -> None:
        self._runs.current.scale = value

    @property
    def interrupt(self) -> bool:
        """Set ``pipe._interrupt = True`` in a callback to stop its call, outside callbacks to stop all that run; the
        picture as predicted so far is returned."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Calls of the denoiser in a run (a second-order scheduler makes more than its steps)."""
        return self._runs.current.steps

    @property
    def guidance_scale(self) -> float | Tensor:
        """Of the call of a callback, else of the last one. A callback may set ``pipe._guidance_scale`` for the steps
        that follow; 0 is then no guidance, as 1 is: diffusers' own callbacks mean that by it."""
        return self._guidance_scale

    @property
    def size_multiple(self) -> int:
        """Height and width of a picture, in pixels, are multiples of this."""
        return int(self.autoencoder.downsampling) * self.denoiser.input_spec().size_multiple

    @property
    def default_size(self) -> int:
        """Rows and columns of a picture of a call that names none: the resolution of the training."""
        own = self.denoiser.input_spec().sample_size * int(self.autoencoder.downsampling)
        return int(self.config["default_size"] or own)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] = hub.DEFAULT_MODEL,
        *,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        allow_pickle: bool = False,
        device: str | torch.device | None = None,
        precision: str = "auto",
        **kwargs: Any,
    ) -> Self:
        """A pipeline by the name of a shipped model, from a folder, or from the hub (``owner/name``).

        Args:
            pretrained_model_name_or_path: see ``pochade.pipelines.hub.resolve``.
            torch_dtype: of the parameters of all components; float32 by default, whatever precision the files hold.
            variant: as in ``diffusion_pytorch_model.<variant>.safetensors``.
            allow_pickle: read pickled weights where there is no safetensors file. A pickle can run code when
                it is loaded: only for files that you trust.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``: where to put the pipeline, as ``place`` does; None for the
                CPU in float32.
            precision: with a device and without ``torch_dtype``: that of ``place``.
            kwargs: components to use instead of the stored ones, and options of the hub (``revision``,
                ``token``, ``cache_dir``, ``local_files_only``).

        Raises:
            PochadeError: unknown model or device; damaged, missing, extra or wrongly shaped weights (all are named).
            FailureError: the hub cannot be reached.
        """
        keep_freed_memory(KEPT)
        place = None if device is None else resolve_device(device)
        dtype: torch.dtype | None = kwargs.pop("dtype", None) or torch_dtype
        check_floats("torch_dtype", dtype)
        settings = {name: kwargs.pop(name) for name in hub.DEFAULTS if name in kwargs}
        names = set(inspect.signature(cls.__init__).parameters) - {"self", *hub.DEFAULTS}
        given = {name: kwargs.pop(name) for name in names & set(kwargs)}
        options = {k: kwargs.pop(k) for k in ("revision", "token", "cache_dir", "local_files_only") if k in kwargs}
        if kwargs:
            raise PochadeError(f"from_pretrained: {', '.join(sorted(kwargs))} given, which it does not have")
        folder = hub.resolve(pretrained_model_name_or_path, **options)
        components = load_components(
            folder, given, dtype=dtype or torch.float32, variant=variant, allow_pickle=allow_pickle
        )
        wrong = sorted(set(components) - names) + sorted({"autoencoder", "denoiser"} - set(components))
        if wrong:
            raise PochadeError(f"{folder}: components {', '.join(wrong)} are missing or not of {cls.__name__}")
        pipe = cls(**components, **hub.defaults(folder) | settings)
        pipe.register_to_config(_name_or_path=str(folder))
        if place is None:
            return pipe
        return pipe.place(place, precision) if dtype is None else pipe.to(place)

    def place(self, device: str | torch.device = "auto", precision: str = "auto") -> Self:
        """Move all components to a device, denoiser and autoencoder in a precision; the pipeline itself.

        The text encoder stays in float32, and so does the integration: what is rounded are the networks alone.

        Args:
            device: ``auto`` (cuda, else mps, else cpu), ``cpu``, ``cuda`` or ``mps``.
            precision: ``fp32``, ``bf16``, ``fp16``, or ``auto``: bf16 on a GPU that computes in it, else fp32.

        Raises:
            PochadeError: the device or the precision is unknown, or the device is not here.
        """
        place = resolve_device(device)
        dtype = resolve_precision(precision, place)
        self.to(place)
        for network in (self.denoiser, self.autoencoder):
            nn.Module.to(
                network, dtype=dtype
            )  # diffusers' own ``to`` warns of modules to keep in float32: there are none
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move all components to a device or cast them to a precision, as in diffusers.

        Raises:
            PochadeError: an argument is neither.
        """
        for given in (*args, *(kwargs.get(name) for name in ("device", "torch_device"))):
            if given is None or isinstance(given, torch.dtype):
                continue
            try:
                torch.device(given)
            except (RuntimeError, TypeError, ValueError):
                allowed = "a device, such as 'cuda', and a precision, such as torch.bfloat16"
                raise PochadeError(f"to: {shown(given)} given, allowed are {allowed}") from None
        logger = logging.getLogger("diffusers.models.modeling_utils")
        logger.addFilter(_keeps_something)
        try:
            return super().to(*args, **kwargs)
        finally:
            logger.removeFilter(_keeps_something)

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

        Raises:
            PochadeError: ``safe_serialization`` is False, ``dtype`` holds no floats, or adapters or learned words are
                loaded.
            FailureError: the folder cannot be written.
        """
        if not safe_serialization:
            raise PochadeError("safe_serialization: False given, allowed is True: pickles are not written")
        if self.has_adapters():
            raise PochadeError(
                "save_directory: a model with adapters given, allowed is one without: fuse_lora and then "
                "unload_lora_weights make them part of it, save_lora_weights writes them alone"
            )
        if self.has_learned_words():
            raise PochadeError(
                "save_directory: a model with learned words given, allowed is one without: unload_textual_inversion "
                "takes them away, save_textual_inversion writes them alone"
            )
        check_floats("dtype", dtype)
        folder = Path(path_text("save_directory", save_directory))
        check_here("save_directory", folder)
        write_folder(folder, type(self).__name__, super().save_pretrained, dtype)

    def encode_prompt(self, prompt: str | Sequence[str]) -> Conditioning:
        """The conditioning of prompts, one sample each, on the text encoder's device, float32; for
        ``prompt_embeds``."""
        return encode_prompts(self.text_encoder, [prompt] if isinstance(prompt, str) else list(prompt))[0]

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents [B, C, H, W] -> pictures [B, 3, H, W] in [0, 1], float32 on the CPU."""
        images = self.autoencoder.decode(latents.to(self.autoencoder.dtype))
        return (images.float().cpu() / 2 + 0.5).clamp(0, 1)

    def _call(self, *arguments: Any, **options: Any) -> CallArguments:
        """``check_call`` with this pipeline's text encoder."""
        call = check_call(*arguments, **options, reads_text=self.text_encoder is not None)
        scales = torch.as_tensor(call.scale, dtype=torch.float32)
        if bool((scales == 0).any()):
            if self.default_guidance == 1:
                scales = torch.where(scales == 0, 1.0, scales)
                call = replace(call, scale=scales if scales.ndim else float(scales))
            else:
                warnings.warn(UNCONDITIONAL, GuidanceWarning, stacklevel=4)
        check_flow_scheduler(self.scheduler, call.steps)
        return call

    def _sampling_denoiser(self) -> Denoiser:
        """The denoiser, taking latents in float32 where its own precision is half of that."""
        dtype = self.denoiser.dtype
        return self.denoiser if dtype == _at_least_float32(dtype) else CastDenoiser(self.denoiser, dtype)

    def _conditioning(
        self, call: CallArguments, parts: Mapping[str, Tensor]
    ) -> tuple[Conditioning, Conditioning | None]:
        """The conditioning of B pictures, and that of the unconditional branch where there are negative prompts.

        ``parts`` join it, one a prompt.
        """
        if call.prompts is None:
            conditioning, negative = call.embeds, call.negative_embeds
        else:
            conditioning, negative = encode_prompts(self.text_encoder, call.prompts, call.negatives)
        device, dtype = self._execution_device, self.denoiser.dtype
        conditioning = replace(conditioning, **parts).map(call.per_picture).to(device, dtype)
        return conditioning, None if negative is None else negative.map(call.per_picture).to(device, dtype)

    def _sample(
        self,
        call: CallArguments,
        noise: Tensor,
        generators: list[torch.Generator],
        *,
        callback: Callback | None,
        tensors: Sequence[str],
        depth: int | None,
        denoiser: Denoiser | None = None,
        strength: float = 1.0,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
        parts: Mapping[str, Tensor] | None = None,
        image_scale: float | None = None,
        constrain: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Latents [B, C, H, W] from noise of that shape; what has a name of ``sample``'s is the same.

        ``denoiser`` stands in place of the pipeline's own; ``parts`` join the conditioning, one a prompt;
        ``image_scale`` is that of ``Guidance``.
        """
        check_sampling(call, self.scheduler, depth, strength, image_scale)
        conditioning, negative = self._conditioning(call, parts or {})
        wanted = wanted_tensors(callback, tensors, conditioning)
        guidance = Guidance(call.scale, image_scale, call.interval)
        guided = GuidedDenoiser(denoiser or self._sampling_denoiser(), guidance, negative)
        # One for each call, so that a pipeline can run in several threads: a scheduler counts its steps.
        scheduler = deepcopy(self.scheduler)
        run, total = call.run, steps_from(strength, call.steps)
        run.scale = call.scale
        with self._runs.active(run), self.progress_bar(total=total) as bar:  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]

            def on_step(i: int, _: Tensor, z: Tensor, predicted: Tensor, aux: Mapping[str, Tensor]) -> Tensor | None:
                timesteps = scheduler.timesteps
                bar.total = run.steps = len(timesteps)
                bar.update()
                replaced = None
                if callback is not None and not run.interrupted:
                    given = callback_tensors(wanted, guided, {"latents": z, "predicted_data": predicted, "aux": aux})
                    with calling_back(run):
                        returned = returned_tensors(callback(self, i, timesteps[i], dict(given)))
                    replaced = returned.get("latents")
                    replace_text(guided, given, returned)
                    if run.scale is not guided.guidance.scale:
                        check_scale(run.scale)
                        off = not isinstance(run.scale, Tensor) and run.scale == 0
                        guided.guidance = replace(guided.guidance, scale=1.0 if off else run.scale)
                if run.interrupted:
                    raise _InterruptedSampling(predicted)
                return replaced

            place: dict[str, Any] = {"device": self._execution_device, "dtype": _at_least_float32(self.denoiser.dtype)}
            guided.conditioning = conditioning
            try:
                return sample(
                    guided,
                    scheduler,
                    noise.to(**place),
                    conditioning,
                    num_inference_steps=call.steps,
                    depth=depth,
                    before_step=guided.begin,
                    on_step=on_step,
                    generator=generators,
                    source=None if source is None else source.to(**place),
                    source_mask=None if source_mask is None else source_mask.to(**place),
                    strength=strength,
                    constrain=constrain,
                )
            except _InterruptedSampling as stop:
                return stop.latents

    def _noise(
        self,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        latents: Tensor | None,
        B: int,
        shape: tuple[int, int, int],
    ) -> tuple[Tensor, list[torch.Generator]]:
        """Noise [B, *shape], and the generators that drew it, one a picture."""
        generators = picture_generators(generator, B)
        if latents is None:
            return seeded_normal(generators, shape), generators
        if not isinstance(latents, Tensor) or latents.is_meta:  # pyright: ignore[reportUnnecessaryIsInstance]
            kind = "a tensor without data" if isinstance(latents, Tensor) else type(latents).__name__
            raise PochadeError(f"latents: {kind} given, allowed is a tensor {[B, *shape]}")
        if tuple(latents.shape) != (B, *shape):
            raise PochadeError(f"latents: shape {tuple(latents.shape)} given, needed is {(B, *shape)}")
        return latents, generators

    def _decoded(self, latents: Tensor, *, may_be_flat: Tensor | None = None) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1].

        Raises:
            FailureError: one is not finite, or of one colour, which is an error unless it ``may_be_flat``, [B] bool.
        """
        images = self.decode_latents(finite(latents))
        good = torch.isfinite(images).flatten(1).all(1)
        bytes_ = (images * 255).round().flatten(2)
        # Flat as the file would show it: every pixel of one colour after rounding to 8 bits.
        flat = (bytes_.amax(-1) == bytes_.amin(-1)).all(1)
        if may_be_flat is not None:
            flat &= ~may_be_flat
        bad = (flat | ~good).nonzero().flatten().tolist()
        if bad:
            kind = "NaN" if not bool(good.all()) else "one flat colour"
            raise FailureError(f"picture {', '.join(map(str, bad))}: {kind} came out, which is no picture")
        return images

    def _as_type(self, images: Tensor, output_type: str) -> Any:
        if output_type == "pt":
            return images
        arrays = images.permute(0, 2, 3, 1).numpy()
        return arrays if output_type == "np" else self.numpy_to_pil(np.ascontiguousarray(arrays))


def _keeps_something(record: logging.LogRecord) -> bool:
    """diffusers warns of modules to keep in float32, also where there are none."""
    return "kept in float32: []" not in record.getMessage()


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
