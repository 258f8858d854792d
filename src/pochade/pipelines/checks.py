"""Checks of arguments, before any work; none imports torch unless it is given a tensor."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pochade.arguments import MAX_SEED, check_guidance, check_seed, is_number, is_whole, shown
from pochade.errors import FailureError, PochadeError

# The command line checks its arguments before it spends seconds on importing torch.
if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
CALLBACK_TENSORS = (
    "latents",
    "predicted_data",
    "aux",
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
)
EDIT_STRENGTH, INPAINT_STRENGTH, UPSCALE_STRENGTH = 0.6, 1.0, 0.2
"""The default strength of each task, by a model that was not trained for it."""
UPSCALE_GUIDANCE = 1.0
"""The default guidance scale of super-resolution: details follow from the picture, guidance would add the prompt's."""
MAX_SIDE = 8192
"""Pixels of a side of what is sampled at once."""
IMAGE_GUIDANCE = 1.5
"""The default scale of guidance towards the source where there is an instruction, as published (2211.09800)."""


def check_components(autoencoder: Any, denoiser: Any, scheduler: Any, text_encoder: Any) -> None:
    """Raises PochadeError where the components do not belong together."""
    from diffusers import ModelMixin, SchedulerMixin

    from pochade.denoisers.base import DenoiserModel

    if not isinstance(denoiser, DenoiserModel):
        raise PochadeError(f"denoiser: {type(denoiser).__name__} given, allowed is the network of a family")
    if not isinstance(autoencoder, ModelMixin):
        raise PochadeError(f"autoencoder: {type(autoencoder).__name__} given, allowed is a model of diffusers")
    if not isinstance(scheduler, SchedulerMixin | None):
        example = "FlowMatchEulerDiscreteScheduler()"
        raise PochadeError(f"scheduler: {shown(scheduler)} given, allowed is one of diffusers, such as {example}")
    spec = denoiser.input_spec()
    channels, expected = autoencoder.config.latent_channels, spec.latent_channels
    if channels != expected:
        raise PochadeError(f"autoencoder: {channels} latent channels given, the denoiser needs {expected}")
    if text_encoder is None:
        return
    from pochade.text_encoders.base import PromptEncoder
    from pochade.text_encoders.class_label import ClassLabelEncoder

    if not isinstance(text_encoder, PromptEncoder | ClassLabelEncoder):
        kind = type(text_encoder).__name__
        raise PochadeError(f"text_encoder: {kind} given, allowed are PromptEncoder and ClassLabelEncoder")
    trained, given = spec.text_encoder, text_encoder.identity
    if trained is not None and trained != given:
        raise PochadeError(f"text_encoder: {given!r} given, the denoiser was trained with {trained!r}")
    if isinstance(text_encoder, ClassLabelEncoder):
        n, classes = len(text_encoder.names), spec.num_classes
        if n != classes:
            raise PochadeError(f"text_encoder: {n} classes given, the denoiser has {classes}")
    elif spec.text_dim != text_encoder.dim:
        raise PochadeError(f"text_encoder: {text_encoder.dim} wide, the denoiser needs {spec.text_dim}")


def check_floats(name: str, dtype: Any) -> None:
    """Raises PochadeError where ``dtype`` is neither None nor a type of floats."""
    import torch

    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise PochadeError(f"{name}: {shown(dtype)} given, allowed is a type of floats, such as torch.float32")


def check_scale(guidance_scale: "float | Sequence[float] | Tensor") -> None:
    """Raises PochadeError where a guidance scale is none of ``check_guidance``."""
    scales: Any = guidance_scale
    if hasattr(scales, "tolist"):
        try:
            scales = scales.tolist()
        except NotImplementedError:
            raise PochadeError("guidance_scale: a tensor without data given, allowed are finite numbers") from None
    listed = scales if isinstance(scales, Sequence) and not isinstance(scales, str | bytes) else [scales]
    if not listed or not all(is_number(s) for s in listed):
        raise PochadeError(f"guidance_scale: {shown(guidance_scale)} given, allowed are finite numbers")
    for scale in listed:
        check_guidance("guidance_scale", scale)


def without_guidance(scale: float, default: float) -> float:
    """0 is "off" where guidance was distilled into the model (its default is 1), as 1 is; else the scale itself."""
    return 1.0 if default == 1 and scale == 0 else scale


def check_size(name: str, value: Any, multiple: int | None) -> None:
    """Raises PochadeError where ``value`` is neither None nor a multiple, of 1 where that is None, up to
    ``MAX_SIDE``."""
    multiple = multiple or 1
    if value is not None and (not is_whole(value) or not multiple <= value <= MAX_SIDE or value % multiple):
        allowed = f"multiples of {multiple}, from {multiple} to {MAX_SIDE}"
        raise PochadeError(f"{name}: {shown(value)} given, allowed are {allowed}")


def usual_strength(task: str, trained: bool, factor: int | None = None) -> float:
    """The default strength of a task; ``trained``: by a model whose denoiser takes the source as an input.

    A picture that is made twice as large holds nearly all of the larger one: more strength only takes of it.
    """
    usual = {"edit": EDIT_STRENGTH, "inpaint": INPAINT_STRENGTH, "super_resolution": UPSCALE_STRENGTH}
    return 1.0 if trained and factor != 2 else usual[task]


def check_control(kind: str, edges: bool = False) -> None:
    """Raises PochadeError where a denoiser has no input for a control (``kind`` is empty), or, where ``edges`` of a
    picture are to be followed, one of another kind."""
    if not kind:
        raise PochadeError(
            "control: given, but this model has no input for it, allowed is none: pochade train control makes a model "
            "that has one"
        )
    if edges and kind != "edges":
        raise PochadeError(f"edges_of: given, but this model follows {kind}, allowed is control")


def check_image_prompt(dim: int) -> None:
    """Raises PochadeError where a denoiser has no input for an image prompt (``dim`` is 0)."""
    if not dim:
        raise PochadeError(
            "image_prompt: given, but this model has no input for it, allowed is none: pochade train image-prompt "
            "makes a model that has one"
        )


def check_image_prompt_scale(scale: Any) -> None:
    """Raises PochadeError where the scale of an image prompt is no finite number from 0 on."""
    if not is_number(scale) or scale < 0:
        raise PochadeError(f"image_prompt_scale: {scale!r} given, allowed are finite numbers from 0 on")


def read_control(
    control: "Image.Image | Sequence[Image.Image] | Tensor", kind: str, prompts: int, size: tuple[int, int]
) -> "Tensor":
    """The control of each prompt, [prompts, C, H, W] in [0, 1].

    Args:
        control: a picture of that size, as ``pochade.images.controls`` reads its kind, one for each prompt, or a tensor
            [C, H, W] or [B, C, H, W], which is taken as it is.
        kind: of control that the denoiser has an input for; empty for none.
        size: H and W in pixels.

    Raises:
        PochadeError: the denoiser has no such input, or the control does not fit.
    """
    import torch
    from PIL import Image

    from pochade.images.controls import KINDS

    check_control(kind)
    if isinstance(control, torch.Tensor):
        controls = control if control.ndim == 4 else control[None]
    else:
        pictures = [control] if isinstance(control, Image.Image) else list(control)
        if not pictures or not all(isinstance(p, Image.Image) for p in pictures):
            raise PochadeError(f"control: {control!r} given, allowed are pictures or a tensor [C, height, width]")
        if len({p.size for p in pictures}) > 1:
            raise PochadeError(f"control: pictures of several sizes given, allowed is {size[1]} x {size[0]}")
        controls = torch.stack([KINDS[kind].read(p, "control") for p in pictures])
    channels = KINDS[kind].channels
    if tuple(controls.shape[1:]) != (channels, *size) or controls.shape[0] not in (1, prompts):
        allowed = f"[{prompts}, {channels}, {size[0]}, {size[1]}], or one for all"
        raise PochadeError(f"control: shape {list(controls.shape)} given, allowed is {allowed}")
    return controls.expand(prompts, -1, -1, -1)


def check_output(output_type: str, tensors: Sequence[str], types: Sequence[str] = OUTPUT_TYPES) -> None:
    """Raises PochadeError for an unknown output type or callback tensor."""
    if output_type not in types:
        raise PochadeError(f"output_type: {output_type!r} given, allowed are {', '.join(types)}")
    if not isinstance(tensors, Sequence):
        raise PochadeError(f"callback_on_step_end_tensor_inputs: {tensors!r} given, allowed is a list of names")
    unknown = sorted(set(tensors) - set(CALLBACK_TENSORS))
    if unknown:
        allowed = ", ".join(CALLBACK_TENSORS)
        raise PochadeError(f"callback_on_step_end_tensor_inputs: {unknown} given, allowed are {allowed}")


def picture_generators(
    generator: "torch.Generator | Sequence[torch.Generator] | None", B: int
) -> "list[torch.Generator]":
    """One CPU generator for each of B pictures.

    A single generator stands for its seed s: picture i gets s + i, and the generator is left with the seed s
    + B. None draws s from torch's own random state.

    Raises:
        PochadeError: not on the CPU, not as many as pictures, or a seed outside [0, 2^63).
    """
    import torch

    B = int(B)
    if generator is None:
        generator = torch.Generator().manual_seed(int(torch.randint(MAX_SEED - B, (1,))))
    single = not isinstance(generator, Sequence)
    generators: list[Any] = [generator] if single else list(generator)
    if not single and len(generators) != B:
        raise PochadeError(f"generator: {len(generators)} given for {B} pictures, allowed is one, or one each")
    if not all(isinstance(g, torch.Generator) and g.device.type == "cpu" for g in generators):
        raise PochadeError(
            f"generator: {generator!r} given, allowed is a torch.Generator on the CPU, where a seed means one picture, "
            "such as torch.Generator().manual_seed(7)"
        )
    if not single:
        return generators
    seed = generators[0].initial_seed()
    check_seed(seed, B)
    generators[0].manual_seed(seed + B)
    return [torch.Generator().manual_seed(seed + i) for i in range(B)]


def finite(latents: "Tensor") -> "Tensor":
    """The same latents [B, C, H, W]. Raises FailureError where they are not finite."""
    bad = (~latents.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise FailureError(f"latents: not finite in picture {', '.join(map(str, bad))}: the model diverged")
    return latents
