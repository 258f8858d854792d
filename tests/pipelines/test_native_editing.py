"""The pipelines with a model that was trained to edit: what it is shown, and how it is guided."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pochade
from conftest import toy_components
from pochade.errors import PochadeError
from pochade.pipelines import hub
from pochade.pipelines.tiles import TiledDenoiser
from pochade.runtime.masks import EditingWarning
from pochade.types import TASKS, Conditioning, DenoiserOutput

MAKE_IT_GREEN = "a green apple"
KINDS: dict[str, Any] = {
    "generate": pochade.TextToImagePipeline,
    "edit": pochade.ImageToImagePipeline,
    "inpaint": pochade.InpaintPipeline,
    "upscale": pochade.SuperResolutionPipeline,
}


def seed(value: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def picture(s: int = 0, side: int = 32) -> Image.Image:
    small = np.random.default_rng(s).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def half() -> Image.Image:
    mask = Image.new("L", (32, 32))
    mask.paste(255, (16, 0, 32, 32))
    return mask


def pipes_of(parts: dict[str, Any]) -> dict[str, Any]:
    made = {name: kind(**parts) for name, kind in KINDS.items()}
    for pipe in made.values():
        pipe.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def before() -> dict[str, Any]:
    """Pipelines of a text-to-image model."""
    return pipes_of(toy_components())


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    """Of the same model with an input for a source that is open."""
    parts = toy_components()
    denoiser = parts["denoiser"].with_source(TASKS[1:])
    generator = torch.Generator().manual_seed(5)
    # All tasks but the first, "generate".
    for parameter in (denoiser.embed_source.weight, denoiser.task_vectors.weight[1:]):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return pipes_of({**parts, "denoiser": denoiser})


def run(pipe: Any, *arguments: Any, **options: Any) -> Tensor:
    usual: dict[str, Any] = {"num_inference_steps": 3, "generator": seed(), "output_type": "pt"}
    return pipe(*arguments, **usual | options).images


def differ(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) > 1e-3


def test_without_a_picture_it_generates_as_before(pipes: dict[str, Any], before: dict[str, Any]) -> None:
    assert torch.equal(run(pipes["generate"], MAKE_IT_GREEN), run(before["generate"], MAKE_IT_GREEN))
    # A prompt is no instruction: the picture is noised and repainted as by any model.
    same = [run(each["edit"], MAKE_IT_GREEN, picture()) for each in (pipes, before)]
    assert torch.equal(*same)


def test_an_instruction_is_followed_from_noise(pipes: dict[str, Any]) -> None:
    def edit(image: Any = None, words: Any = MAKE_IT_GREEN, **options: Any) -> Tensor:
        return run(pipes["edit"], image=picture() if image is None else image, instruction=words, **options)

    usual = edit()
    assert usual.shape == (1, 3, 32, 32)
    assert differ(edit(picture(1)), usual)
    assert differ(edit(words="two red pears"), usual)
    assert differ(edit(image_guidance_scale=3.0), usual)
    assert torch.equal(edit(image_guidance_scale=1.5, strength=1.0), usual)
    # At an image scale of 1 the third branch adds nothing, and at 1 and 1 there is a single one.
    near, at = (edit(image_guidance_scale=scale) for scale in (1 + 1e-6, 1.0))
    torch.testing.assert_close(near, at, atol=1e-4, rtol=0)
    assert differ(edit(guidance_scale=1.0, image_guidance_scale=1.0), at)
    assert differ(edit(strength=0.3), usual)
    both = edit([picture(), picture(1)], num_images_per_prompt=2, generator=[seed(i) for i in (7, 8, 7, 8)])
    torch.testing.assert_close(both[:1], usual, atol=1e-4, rtol=0)
    torch.testing.assert_close(both[2:3], edit(picture(1)), atol=1e-4, rtol=0)


def test_a_hole_is_shown_as_one(pipes: dict[str, Any], before: dict[str, Any]) -> None:
    found, plain = (run(each["inpaint"], MAKE_IT_GREEN, picture(), half()) for each in (pipes, before))
    assert differ(found, plain)
    kept = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None].float() / 255
    assert torch.equal(found[..., :16], kept[..., :16])
    seen: list[Conditioning] = []
    pipe = pipes["inpaint"]
    handle = pipe.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    run(pipe, MAKE_IT_GREEN, picture(), half(), guidance_scale=1.0)
    handle.remove()
    hole = 2 * kept - 1
    hole[..., 16:] = 2 * 128 / 255 - 1
    for conditioning in seen:
        torch.testing.assert_close(conditioning.source, pipe.autoencoder.encode(hole), atol=1e-4, rtol=0)
        assert torch.equal(conditioning.source_mask, torch.tensor([0.0, 0, 1, 1]).expand(1, 1, 4, 4))
        assert conditioning.task is not None
        assert conditioning.task.tolist() == [TASKS.index("inpaint")]
    assert len(seen) == 3


def test_an_instruction_changes_what_a_mask_marks(pipes: dict[str, Any]) -> None:
    pipe = pipes["inpaint"]
    seen: list[Conditioning] = []
    handle = pipe.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    options: dict[str, Any] = {"image": picture(), "mask_image": half(), "instruction": MAKE_IT_GREEN}
    found = run(pipe, guidance_scale=1.0, image_guidance_scale=1.0, **options)
    handle.remove()
    kept = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None].float() / 255
    assert torch.equal(found[..., :16], kept[..., :16])
    for conditioning in seen:  # all of the picture, and which part is meant
        torch.testing.assert_close(conditioning.source, pipe.autoencoder.encode(2 * kept - 1), atol=1e-4, rtol=0)
        assert torch.equal(conditioning.source_mask, torch.tensor([0.0, 0, 1, 1]).expand(1, 1, 4, 4))
        assert conditioning.task is not None
        assert conditioning.task.tolist() == [TASKS.index("edit")]
    assert len(seen) == 3
    usual = run(pipe, **options)
    assert torch.equal(run(pipe, image_guidance_scale=1.5, **options), usual)
    assert differ(run(pipe, image_guidance_scale=3.0, **options), usual)
    assert differ(run(pipe, **options | {"instruction": "two red pears"}), usual)
    assert differ(run(pipe, MAKE_IT_GREEN, picture(), half()), usual)


@pytest.mark.parametrize("side", [16, 24])
def test_a_small_picture_is_shown_enlarged(pipes: dict[str, Any], before: dict[str, Any], side: int) -> None:
    small = picture(side=side)
    found = run(pipes["upscale"], image=small, strength=1.0)
    assert found.shape == (1, 3, 2 * side, 2 * side)
    for parts, shown in ((pipes, True), (before, False)):
        seen: list[Conditioning] = []
        hook = parts["upscale"].denoiser.register_forward_hook(lambda _, given, out, seen=seen: seen.append(given[2]))
        run(parts["upscale"], image=small, strength=1.0)
        hook.remove()
        assert seen
        assert all((one.source is not None) == shown for one in seen)
    for pipe, factor, usual in ((pipes, 2, 0.2), (pipes, 4, 1.0), (before, 2, 0.2), (before, 4, 0.2)):
        arguments = {"image": small, "factor": factor}
        assert torch.equal(run(pipe["upscale"], **arguments), run(pipe["upscale"], strength=usual, **arguments))


class Shown:
    """A denoiser without a view of its neighbours, whose output shows its source and the mask."""

    config: Any = None

    def __call__(
        self, latents: Tensor, t: Tensor, conditioning: Conditioning, *, state: Any = None, depth: Any = None
    ) -> DenoiserOutput:
        assert conditioning.source is not None
        assert conditioning.source_mask is not None
        assert conditioning.source.shape == latents.shape
        return DenoiserOutput(latents + conditioning.source * t[:, None, None, None] + conditioning.source_mask)


def test_tiles_are_shown_their_own_part() -> None:
    g = seed()
    z, source = torch.randn(2, 3, 9, 20, generator=g), torch.randn(2, 3, 9, 20, generator=g)
    conditioning = Conditioning(source=source, source_mask=(torch.rand(2, 1, 9, 20, generator=g) > 0.5).float())
    t = torch.tensor([0.2, 0.9])
    whole = Shown()(z, t, conditioning).velocity
    torch.testing.assert_close(TiledDenoiser(Shown(), 8, 4)(z, t, conditioning).velocity, whole, atol=1e-5, rtol=0)


def test_invalid_requests(pipes: dict[str, Any], before: dict[str, Any]) -> None:
    for pipe, options, message in (
        (before, {"instruction": "x"}, "instruction: given, but this model follows none, allowed are microforge-edit"),
        (pipes, {"instruction": "x", "prompt": "y"}, "instruction: given beside a prompt"),
        (pipes, {"prompt": "y", "image_guidance_scale": 2.0}, "image_guidance_scale: given without an instruction"),
        (pipes, {"instruction": "x", "image_guidance_scale": float("nan")}, "image_guidance_scale: nan given"),
    ):
        for kind, masked in (("edit", {}), ("inpaint", {"mask_image": half()})):
            with pytest.raises(PochadeError, match=message):
                run(pipe[kind], image=picture(), **masked, **options)


def test_shipped_models_by_task() -> None:
    found = {task: hub.trained_for(task) for task in TASKS[1:]}
    assert all(set(names) <= set(hub.shipped()) for names in found.values())


def test_full_strength_is_warned_of_for_prompts_alone(pipes: dict[str, Any]) -> None:
    with pytest.warns(EditingWarning, match="at 1 nothing of the picture is left"):
        run(pipes["edit"], MAKE_IT_GREEN, picture(), strength=1.0)
