"""The arguments of one call of a pipeline, and the conditioning that its prompts give."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.arguments import EVERYWHERE, check_count, check_guidance_interval, shown
from pochade.errors import PochadeError
from pochade.flow.guidance import Guidance
from pochade.flow.sampling import step_times
from pochade.pipelines.callbacks import Run
from pochade.runtime.sampling import check_guided
from pochade.runtime.tokens import warn_of
from pochade.text_encoders.base import PromptEncoder
from pochade.text_encoders.class_label import ClassLabelEncoder
from pochade.types import Conditioning, TextEncoding


@dataclass(frozen=True)
class CallArguments:
    """What the calls of all pipelines have in common, checked.

    Attributes:
        prompts: one for each of the ``count`` prompts of the call; None where ``embeds`` are given.
        embeds: conditioning that is given in place of prompts.
        negatives: one for each prompt; None for none.
        negative_embeds: conditioning in place of negative prompts; None for none.
        count: number of prompts, or samples of ``embeds``.
        per_prompt: pictures of each prompt.
        steps: of the scheduler.
        scale: of guidance; a number, or [B].
        interval: times at which guidance applies.
        usual_interval: those where none are given.
        run: what callbacks see and set of the call.
    """

    prompts: list[str] | None
    embeds: Conditioning
    negatives: list[str] | None
    negative_embeds: Conditioning | None
    count: int
    per_prompt: int
    steps: int
    scale: float | Tensor
    interval: tuple[float, float]
    usual_interval: tuple[float, float] = EVERYWHERE
    run: Run = field(default_factory=lambda: Run(1.0))

    @property
    def batch(self) -> int:
        """B, the number of pictures."""
        return self.count * self.per_prompt

    def per_picture(self, values: Tensor) -> Tensor:
        """[1, ...] for all prompts or [count, ...] one a prompt -> [B, ...]."""
        return values.expand(self.count, *values.shape[1:]).repeat_interleave(self.per_prompt, dim=0)

    def pictures_of(self, prompts: Sequence[int]) -> list[int]:
        """The pictures of some of the prompts, by their places."""
        return [i * self.per_prompt + j for i in prompts for j in range(self.per_prompt)]

    def of(self, prompts: Sequence[int]) -> "CallArguments":
        """The call of some of its prompts alone."""
        rows = list(prompts)
        return replace(
            self,
            prompts=None if self.prompts is None else [self.prompts[i] for i in rows],
            embeds=self.embeds.map(lambda v: v[rows]),
            negatives=None if self.negatives is None else [self.negatives[i] for i in rows],
            negative_embeds=None if self.negative_embeds is None else self.negative_embeds.map(lambda v: v[rows]),
            count=len(rows),
            scale=self.scale[self.pictures_of(rows)] if isinstance(self.scale, Tensor) else self.scale,
        )


def check_call(
    prompt: str | Sequence[str] | None,
    prompt_embeds: TextEncoding | Conditioning | None,
    negative_prompt: str | Sequence[str] | None,
    num_inference_steps: int,
    guidance_scale: float | Sequence[float] | Tensor,
    num_images_per_prompt: int,
    pictures: int = 1,
    guidance_interval: tuple[float, float] | None = None,
    *,
    usual_interval: tuple[float, float] = EVERYWHERE,
    negative_prompt_embeds: TextEncoding | Conditioning | None = None,
    reads_text: bool,
) -> CallArguments:
    """The arguments of a call, with one prompt for each of its source ``pictures``.

    ``reads_text`` says whether the pipeline has a text encoder; the other arguments are those of the pipelines.

    Raises:
        PochadeError: arguments do not belong together.
    """
    interval = usual_interval if guidance_interval is None else guidance_interval
    check_guidance_interval(interval)
    prompts, embeds = _prompts(prompt, prompt_embeds, reads_text)
    count = len(prompts) if prompts is not None else embeds.batch_size or 1
    if count == 1 and pictures > 1:
        prompts, count = None if prompts is None else prompts * pictures, pictures
        embeds = embeds.map(lambda v: v.repeat_interleave(pictures, dim=0))
    if pictures not in (1, count):
        raise PochadeError(f"image: {pictures} given for {count} prompts, allowed is one, or one each")
    B = count * num_images_per_prompt
    scale = torch.as_tensor(guidance_scale, dtype=torch.float32)
    if scale.ndim and scale.shape[0] != B:
        raise PochadeError(f"guidance_scale: {scale.shape[0]} given for {B} pictures, allowed is one, or one each")
    scales = scale if scale.ndim else float(scale)
    negatives = _negatives(negative_prompt, prompts, scales, reads_text)
    negative_embeds: Conditioning | None = None
    if negative_prompt_embeds is not None:
        if prompts is not None:
            raise PochadeError("negative_prompt_embeds: goes with prompt_embeds, not with prompt")
        embeds, negative_embeds = _of_one_length(
            embeds, _as_conditioning("negative_prompt_embeds", negative_prompt_embeds), count
        )
    return CallArguments(
        prompts=prompts,
        embeds=embeds,
        negatives=negatives,
        negative_embeds=negative_embeds,
        count=count,
        per_prompt=num_images_per_prompt,
        steps=num_inference_steps,
        scale=scales,
        interval=interval,
        usual_interval=usual_interval,
    )


def check_sampling(
    call: CallArguments, scheduler: Any, depth: int | None, start: float, image_scale: float | None
) -> None:
    """Whether a call can be sampled from t = ``start`` on, at a ``depth`` and with guidance of an ``image_scale``.

    Raises:
        PochadeError: ``depth`` is out of range, or guidance applies in no step, and the interval or a negative
            prompt was given.
    """
    if depth is not None:
        check_count("depth", depth)
    if Guidance(call.scale, image_scale).branches > 1:
        negative = call.negatives is not None or call.negative_embeds is not None
        check_guided(
            call.interval,
            step_times(scheduler, call.steps, start),
            usual=call.usual_interval,
            negative=negative,
        )


def _as_conditioning(name: str, embeds: TextEncoding | Conditioning) -> Conditioning:
    if isinstance(embeds, TextEncoding):
        return Conditioning(tokens=embeds.tokens, mask=embeds.mask, pooled=embeds.pooled)
    if not isinstance(embeds, Conditioning):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PochadeError(f"{name}: {type(embeds).__name__} given, allowed are Conditioning and TextEncoding")
    return embeds


def _of_one_length(embeds: Conditioning, negative: Conditioning, count: int) -> tuple[Conditioning, Conditioning]:
    """Both with as many tokens as the longer one, and the negative one for each of the prompts."""
    if (embeds.tokens is None) != (negative.tokens is None) or (negative.batch_size or 1) not in (1, count):
        raise PochadeError(f"negative_prompt_embeds: allowed is what goes with prompt_embeds, for 1 or {count} prompts")
    if embeds.tokens is not None and negative.tokens is not None:
        M = max(embeds.tokens.shape[1], negative.tokens.shape[1])
        embeds, negative = (_padded(each, M) for each in (embeds, negative))
    return embeds, negative.map(lambda v: v.expand(count, *v.shape[1:]))


def _padded(conditioning: Conditioning, M: int) -> Conditioning:
    assert conditioning.tokens is not None
    assert conditioning.mask is not None
    more = M - conditioning.tokens.shape[1]
    tokens, mask = F.pad(conditioning.tokens, (0, 0, 0, more)), F.pad(conditioning.mask, (0, more))
    return replace(conditioning, tokens=tokens, mask=mask)


def _prompts(
    prompt: str | Sequence[str] | None, embeds: TextEncoding | Conditioning | None, reads_text: bool
) -> tuple[list[str] | None, Conditioning]:
    if (prompt is None) == (embeds is None):
        raise PochadeError("prompt: one of prompt and prompt_embeds is needed, and only one")
    if embeds is not None:
        return None, _as_conditioning("prompt_embeds", embeds)
    prompts = _sentences("prompt", prompt)
    if not reads_text and any(p.strip() for p in prompts):
        raise PochadeError("prompt: this model has no text encoder, pass prompt_embeds")
    return prompts, Conditioning()


def _sentences(name: str, given: Any) -> list[str]:
    try:
        sentences = [given] if isinstance(given, str) else list(given)
    except TypeError:  # no sequence, or an array that holds one value
        sentences = []
    if not sentences or not all(isinstance(sentence, str) for sentence in sentences):
        raise PochadeError(f"{name}: {shown(given)} given, allowed are a sentence and a list of sentences")
    return sentences


def _negatives(
    negative: str | Sequence[str] | None, prompts: list[str] | None, scale: float | Tensor, reads_text: bool
) -> list[str] | None:
    if negative is None or (isinstance(negative, str) and not negative.strip()):
        return None
    if prompts is None:
        raise PochadeError("negative_prompt: goes with prompt, not with prompt_embeds")
    if not reads_text:
        raise PochadeError("negative_prompt: this model has no text encoder, pass negative_prompt_embeds")
    if not isinstance(scale, Tensor) and scale == 1:
        raise PochadeError("negative_prompt: has no effect at guidance_scale 1, allowed is any other scale")
    negatives = [negative] * len(prompts) if isinstance(negative, str) else _sentences("negative_prompt", negative)
    if len(negatives) != len(prompts):
        raise PochadeError(f"negative_prompt: {len(negatives)} given for {len(prompts)} prompts")
    return negatives


def encode_prompts(
    encoder: PromptEncoder | ClassLabelEncoder | None, prompts: list[str], negatives: list[str] | None = None
) -> tuple[Conditioning, Conditioning | None]:
    """The conditioning of prompts, one sample each, and of their negative prompts; an empty prompt is dropped text.

    Warns:
        PromptTruncatedWarning: a prompt is longer than the text encoder reads.
        PromptUnknownWarning: it knows less than half of the words of a prompt.
    """
    n, texts = len(prompts), prompts + (negatives or [])
    if encoder is None:
        return Conditioning(), None
    if isinstance(encoder, ClassLabelEncoder):
        labels = encoder.encode_labels(prompts), encoder.encode_labels(negatives or [""], "negative_prompt")
        both = Conditioning(class_label=torch.cat(labels))
    else:
        for name, given in (("prompt", prompts), ("negative_prompt", negatives or [])):
            for text in dict.fromkeys(given):
                tokens, unknown = encoder.count_tokens(text), encoder.unknown(text)
                warn_of(name, text, tokens, encoder.max_tokens, unknown, stacklevel=6)
        out = encoder.encode(texts)
        both = Conditioning(tokens=out.tokens, mask=out.mask, pooled=out.pooled)
        blank = torch.tensor([not text.strip() for text in texts], device=out.mask.device)
        both = both.drop("text", rows=blank)
    return both.map(lambda v: v[:n]), both.map(lambda v: v[n:]) if negatives else None
