"""What callbacks see and change after each step, and calls that run side by side."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest
import torch

from pipelines.sampling import APPLE, CAT, sample, seed
from pochade.errors import PochadeError
from pochade.pipelines.schedulers import SCHEDULERS, make_scheduler
from pochade.pipelines.text_to_image import TextToImagePipeline


def test_callback_sees_replaces_and_interrupts(pipe: TextToImagePipeline) -> None:
    seen: list[tuple[int, float]] = []

    def callback(p: Any, i: int, t: Any, tensors: dict[str, Any]) -> None:
        assert set(tensors) == {"latents", "predicted_data", "aux"}
        assert tensors["aux"] == {}
        seen.append((i, float(t)))

    sample(
        pipe,
        APPLE,
        seed(7),
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "predicted_data", "aux"],
    )
    assert [i for i, _ in seen] == [0, 1, 2]
    assert seen[0][1] == 1000
    assert pipe.num_timesteps == 3

    last = torch.randn(1, 4, 4, 4, generator=seed(0))
    replaced = sample(
        pipe, APPLE, seed(7), output_type="latent", callback_on_step_end=lambda p, i, t, k: {"latents": last}
    )
    assert torch.equal(replaced, last)

    predictions: list[torch.Tensor] = []

    def stop(p: Any, i: int, t: Any, tensors: dict[str, Any]) -> None:
        predictions.append(tensors["predicted_data"])
        p._interrupt = i == 1

    result = sample(
        pipe,
        APPLE,
        seed(7),
        output_type="latent",
        callback_on_step_end=stop,
        callback_on_step_end_tensor_inputs=["predicted_data"],
    )
    assert pipe.interrupt
    assert len(predictions) == 2
    assert torch.equal(result, predictions[-1])
    sample(pipe, APPLE, seed(7))
    assert not pipe.interrupt


def test_a_callback_sets_guidance_for_the_steps_that_follow(pipe: TextToImagePipeline) -> None:
    def off(p: Any, i: int, t: Any, tensors: dict[str, Any]) -> None:
        p._guidance_scale = 0.0 if i == 0 else p._guidance_scale

    def stays(p: Any, i: int, t: Any, tensors: dict[str, Any]) -> None:
        assert p.guidance_scale == 3
        assert p.num_timesteps == 3

    expected = sample(pipe, APPLE, seed(7), guidance_interval=(0.9, 1.0))
    assert torch.equal(sample(pipe, APPLE, seed(7), callback_on_step_end=off), expected)
    plain = sample(pipe, APPLE, seed(7), callback_on_step_end=stays)
    assert torch.equal(plain, sample(pipe, APPLE, seed(7)))
    assert (plain - expected).abs().max() > 1e-3


def test_callbacks_of_diffusers(pipe: TextToImagePipeline, toy_class_pipeline_folder: Path) -> None:
    from diffusers.callbacks import MultiPipelineCallbacks, SD3CFGCutoffCallback, SDCFGCutoffCallback

    expected = sample(pipe, APPLE, seed(7), guidance_interval=(0.5, 1.0))
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    both = MultiPipelineCallbacks([SD3CFGCutoffCallback(cutoff_step_ratio=0.5)])
    for callback in (cutoff, both):
        assert torch.equal(sample(pipe, APPLE, seed(7), callback_on_step_end=callback), expected)
    with pytest.raises(PochadeError, match=r"prompt_embeds: \[1, .* returned by a callback, allowed are \[2, "):
        sample(pipe, [APPLE, CAT], seed(7), callback_on_step_end=cutoff)
    classes = TextToImagePipeline.from_pretrained(toy_class_pipeline_folder)
    with pytest.raises(PochadeError, match=r"'prompt_embeds'. given, allowed are latents, predicted_data, aux$"):
        sample(classes, "cat", seed(7), callback_on_step_end=cutoff)


def test_a_callback_replaces_the_text(pipe: TextToImagePipeline) -> None:
    cat = pipe.encode_prompt(CAT)
    both = pipe.encode_prompt([APPLE, CAT])

    def other(p: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        shapes = {name: len(tensors[name]) for name in tensors}
        assert shapes == {"prompt_embeds": 2, "pooled_prompt_embeds": 2, "negative_prompt_embeds": 1}
        assert not tensors["negative_prompt_embeds"].any() or i
        return {"prompt_embeds": both.tokens[1:], "pooled_prompt_embeds": both.pooled[1:]}

    names = ["prompt_embeds", "pooled_prompt_embeds", "negative_prompt_embeds"]
    embeds = both.map(lambda v: v[:1])
    changed = pipe(
        prompt_embeds=embeds,
        generator=seed(7),
        num_inference_steps=3,
        output_type="pt",
        callback_on_step_end=other,
        callback_on_step_end_tensor_inputs=names,
    ).images
    plain = sample(pipe, APPLE, seed(7))
    assert (changed - plain).abs().max() > 1e-4
    assert (changed - sample(pipe, CAT, seed(7))).abs().max() > 1e-4
    assert cat.tokens is not None

    def negative(p: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        # Led away from itself, guidance cancels out.
        return {"negative_prompt_embeds": tensors["prompt_embeds"][1:]} if i == 0 else {}

    names = ["prompt_embeds", "negative_prompt_embeds"]
    options: dict[str, Any] = {"callback_on_step_end": negative, "callback_on_step_end_tensor_inputs": names}
    assert (sample(pipe, APPLE, seed(7), **options) - plain).abs().max() > 1e-4


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_one_pipeline_in_several_threads(pipe: TextToImagePipeline, name: str) -> None:
    pipe.scheduler = make_scheduler(name)

    def cut(p: Any, i: int, t: Any, tensors: dict[str, Any]) -> None:
        p._guidance_scale = 1.0

    def made(i: int) -> torch.Tensor:
        callback = {"callback_on_step_end": cut} if i == 1 else {}
        return sample(pipe, APPLE, seed(i), num_inference_steps=4 + i, **callback)

    expected = [made(i) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(expected, pool.map(made, range(4)), strict=True):
            assert torch.equal(one, other)


def test_callbacks_of_two_threads_do_not_meet(pipe: TextToImagePipeline) -> None:
    """Each call has its own flag and guidance; callbacks may wait for each other."""
    together = Barrier(2, timeout=60)

    def made(stop_at: int, scale: float, alone: bool) -> torch.Tensor:
        def callback(p: Any, i: int, t: Any, tensors: dict[str, Any]) -> None:
            p._interrupt, p._guidance_scale = i == stop_at, scale
            if not alone and i <= 1:
                together.wait()
            assert (p.interrupt, p.guidance_scale, p.num_timesteps) == (i == stop_at, scale, 5)

        latents = {"output_type": "latent", "callback_on_step_end": callback}
        return sample(pipe, APPLE, seed(7), num_inference_steps=5, **latents)

    expected = made(1, 2.0, True), made(3, 5.0, True)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(made, (1, 3), (2.0, 5.0), (False, False)))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_a_button_stops_all_calls_that_run(pipe: TextToImagePipeline) -> None:
    """``_interrupt`` set outside of callbacks; what starts later is not stopped."""
    begun = Barrier(3, timeout=60)
    pressed = Event()
    seen: list[int] = []

    def callback(p: Any, i: int, t: Any, tensors: dict[str, Any]) -> None:
        seen.append(i)
        begun.wait()
        assert pressed.wait(60)

    def made() -> torch.Tensor:
        return sample(pipe, APPLE, seed(7), num_inference_steps=5, callback_on_step_end=callback)

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(made) for _ in range(2)]
        begun.wait()
        pipe._interrupt = True
        pressed.set()
        assert torch.equal(runs[0].result(), runs[1].result())
    assert seen == [0, 0]
    steps: list[int] = []
    sample(pipe, APPLE, seed(7), callback_on_step_end=lambda p, i, t, k: steps.append(i))
    assert steps == [0, 1, 2]


@pytest.mark.parametrize("returned", [5, {"latents": "x"}])
def test_what_a_callback_returns_is_checked(pipe: TextToImagePipeline, returned: Any) -> None:
    message = f"callback_on_step_end: {returned} returned, allowed are None and a dictionary of tensors"
    with pytest.raises(PochadeError, match=re.escape(message)):
        pipe(APPLE, num_inference_steps=1, callback_on_step_end=lambda *_: returned)
