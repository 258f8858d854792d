"""The three pipelines that start from a picture, with toys and with every shipped model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pochade
from conftest import toy_components
from contracts.families import AUTOENCODERS, FAMILIES, load_class, stir
from contracts.families import make as make_denoiser
from pipelines.sampling import APPLE, CAT, seed
from pochade.autoencoders.tiling import decode_tiled
from pochade.errors import PochadeError
from pochade.images.canvas import resample
from pochade.nn.resample import haar_dwt
from pochade.pipelines import hub
from pochade.pipelines.schedulers import SCHEDULERS, make_scheduler
from pochade.pipelines.super_resolution import agree
from pochade.pipelines.tiles import TiledDenoiser
from pochade.runtime.masks import EditingWarning
from pochade.types import Conditioning, DenoiserOutput

KINDS: dict[str, Any] = {
    "edit": pochade.ImageToImagePipeline,
    "inpaint": pochade.InpaintPipeline,
    "upscale": pochade.SuperResolutionPipeline,
}


def picture(width: int, height: int, s: int = 0) -> Image.Image:
    """Soft random colours."""
    small = np.random.default_rng(s).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def half(width: int, height: int) -> Image.Image:
    """A mask whose right half is white."""
    mask = Image.new("L", (width, height))
    mask.paste(255, (width // 2, 0, width, height))
    return mask


@pytest.fixture(scope="module")
def pipes(toy_pipeline_folder: Path) -> dict[str, Any]:
    found = {name: kind.from_pretrained(toy_pipeline_folder) for name, kind in KINDS.items()}
    for pipe in found.values():
        pipe.set_progress_bar_config(disable=True)
    return found


def make(pipes: dict[str, Any], kind: str, image: Any, prompt: Any = APPLE, **changes: Any) -> Any:
    """What comes out of a pipeline; for inpainting the right half is repainted."""
    size = image.size if isinstance(image, Image.Image) else image[0].size
    own = {"mask_image": half(*size)} if kind == "inpaint" else {}
    usual = {"num_inference_steps": 3, "strength": 0.7, "generator": seed(7), "output_type": "pt"}
    return pipes[kind](prompt, image, **own | usual | changes).images


@pytest.mark.parametrize("size", [(1, 1), (37, 23), (9, 100)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:mask. all of it is white")
def test_what_comes_out_has_the_size_of_the_input(pipes: dict[str, Any], kind: str, size: tuple[int, int]) -> None:
    factor = 2 if kind == "upscale" else 1
    out = make(pipes, kind, picture(*size), output_type="pil")
    assert [o.size for o in out] == [(factor * size[0], factor * size[1])]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_image_mode(pipes: dict[str, Any], mode: str) -> None:
    image = picture(20, 12).convert("L").convert(mode) if mode == "LA" else picture(20, 12).convert(mode)
    for kind in KINDS:
        assert make(pipes, kind, image, num_inference_steps=1, output_type="pil")[0].mode == "RGB"


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_a_picture_alone_and_in_a_batch(pipes: dict[str, Any], kind: str) -> None:
    both = [picture(20, 30), picture(20, 30, 1)]
    together = make(pipes, kind, both, [APPLE, CAT])
    assert torch.equal(together, make(pipes, kind, both, [APPLE, CAT]))
    for i, (image, prompt) in enumerate(zip(both, (APPLE, CAT), strict=True)):
        alone = make(pipes, kind, image, prompt, generator=[seed(7 + i)])
        assert (together[i] - alone[0]).abs().max() < 1e-4
    # One prompt for all pictures, one picture for all prompts, several pictures of a prompt.
    assert (make(pipes, kind, both)[0] - together[0]).abs().max() < 1e-4
    assert (make(pipes, kind, both[0], [APPLE, CAT])[0] - together[0]).abs().max() < 1e-4
    assert len(make(pipes, kind, both, num_images_per_prompt=2)) == 4
    seen: list[torch.Tensor] = []
    for value in (7, 8):
        make(
            pipes,
            kind,
            both[0],
            strength=0.9,
            num_inference_steps=4,
            generator=seed(value),
            callback_on_step_end=lambda pipe, i, t, given: seen.append(given["latents"]) or {},
        )
    assert (seen[0] - seen[len(seen) // 2]).abs().max() > 1e-3


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_strength_is_how_much_changes(toy_pipeline_folder: Path, name: str) -> None:
    pipe = pochade.ImageToImagePipeline.from_pretrained(toy_pipeline_folder, scheduler=make_scheduler(name))
    pipe.set_progress_bar_config(disable=True)
    image = picture(32, 32)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        plain = pipe.autoencoder.decode(pipe.autoencoder.encode(pixels * 2 - 1)) / 2 + 0.5

    def change(strength: float, **options: Any) -> float:
        out = pipe(APPLE, image, strength, generator=seed(1), num_inference_steps=8, output_type="pt", **options)
        return float((out.images - plain).abs().mean())

    assert change(1e-4) < 1e-3
    assert pipe.num_timesteps == 1
    assert change(0.3) < change(0.9)
    assert pipe.num_timesteps >= 8
    with pytest.warns(EditingWarning, match="strength: at 1 nothing of the picture is left"):
        change(1.0)


def test_at_full_strength_it_is_the_picture_of_the_prompt(pipes: dict[str, Any], toy_pipeline_folder: Path) -> None:
    pipe = pochade.TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(APPLE, generator=seed(7), num_inference_steps=3, output_type="pt").images
    with pytest.warns(EditingWarning, match="strength"):
        assert torch.equal(make(pipes, "edit", picture(32, 32), strength=1.0), expected)


def test_outside_the_mask_every_pixel_is_that_of_the_input(pipes: dict[str, Any]) -> None:
    for size in ((32, 32), (75, 41), (7, 90)):
        image, mask = picture(*size), half(*size)
        out = make(pipes, "inpaint", image, output_type="pil", strength=1.0)[0]
        before, after, marked = (np.asarray(i).astype(int) for i in (image, out, mask))
        assert np.array_equal(before[marked == 0], after[marked == 0])
        assert (before[marked > 0] != after[marked > 0]).any()


def test_a_soft_mask_shows_as_much_as_it_is_bright(pipes: dict[str, Any]) -> None:
    image, grey = picture(32, 32), np.zeros((32, 32), np.uint8)
    grey[:, 8:] = 102  # two fifths
    grey[:, 20:] = 255
    out = make(pipes, "inpaint", image, mask_image=grey, soft_mask=True)[0]
    # The same pixels are sampled where any of the mask is bright, so what is new is that of a mask white there.
    whole = make(pipes, "inpaint", image, mask_image=(grey > 0).astype(np.uint8) * 255, soft_mask=True)[0]
    before = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    assert torch.equal(out[:, :, :8], before[:, :, :8])
    assert torch.equal(out[:, :, 20:], whole[:, :, 20:])
    torch.testing.assert_close(out[:, :, 8:20], (0.6 * before + 0.4 * whole)[:, :, 8:20], atol=1e-5, rtol=0)
    # Black is generated anew in an inverted mask, and a blurred one fades.
    turned = make(pipes, "inpaint", image, mask_image=255 - grey, soft_mask=True, invert_mask=True)[0]
    assert torch.equal(turned, out)
    blurred = make(pipes, "inpaint", image, mask_blur=2.0)[0]
    assert torch.equal(blurred[:, :, :8], before[:, :, :8])
    with pytest.raises(PochadeError, match="mask_blur: -1 given, allowed are pixels from 0 to 10000"):
        make(pipes, "inpaint", image, mask_blur=-1)


def test_alpha_is_a_mask_on_request(pipes: dict[str, Any]) -> None:
    """What is new lies beneath the picture, and shows as far as that is transparent."""
    image, alpha = picture(32, 32).convert("RGBA"), np.full((32, 32), 255, dtype=np.uint8)
    alpha[:, 10:16], alpha[:, 16:] = 51, 0
    image.putalpha(Image.fromarray(alpha))
    out = make(pipes, "inpaint", image, mask_image="alpha", output_type="pil")[0]
    assert out.mode == "RGB"
    new, before = np.asarray(out).astype(float), np.asarray(picture(32, 32))
    assert np.array_equal(new[:, :10], before[:, :10])
    # A fifth of the picture is seen above the new one where its alpha is a fifth.
    assert (new[:, 10:16] >= 0.2 * before[:, 10:16] - 1).all()
    assert (new[:, 10:16] <= 0.2 * before[:, 10:16] + 0.8 * 255 + 1).all()
    assert np.abs(new[:, 16:] - before[:, 16:]).max() > 1


def test_what_is_transparent_stays_so_outside_the_mask(pipes: dict[str, Any]) -> None:
    image = picture(75, 41).convert("RGBA")
    alpha = np.random.default_rng(0).integers(0, 256, (41, 75), dtype=np.uint8)
    alpha[:20] = 0
    image.putalpha(Image.fromarray(alpha))
    mask = half(75, 41)
    for output in ("pil", "np"):
        out = make(pipes, "inpaint", image, mask_image=mask, output_type=output)[0]
        after = np.asarray(out) if output == "pil" else (out * 255).round().astype(np.uint8)
        kept = np.asarray(mask) == 0
        assert np.array_equal(after[kept], np.asarray(image)[kept])
        # Where all of the new picture is shown, nothing is transparent.
        assert (after[:, -20:, 3] == 255).all()


def test_a_small_hole_gets_the_pixels_that_the_model_has(pipes: dict[str, Any]) -> None:
    """A hole of 4 of 1000 pixels a side would be nothing on a canvas of 32."""
    image = Image.new("RGB", (1000, 700), "white")
    mask = Image.new("L", image.size)
    mask.paste(255, (100, 100, 104, 104))
    out = np.asarray(make(pipes, "inpaint", image, mask_image=mask, strength=1.0, output_type="pil")[0])
    changed = (out != 255).any(2)
    assert changed[101:103, 101:103].all()
    assert not changed[np.asarray(mask) == 0].any()
    # It is what inpainting the square alone gives.
    square = image.crop((86, 86, 118, 118)), mask.crop((86, 86, 118, 118))
    alone = make(pipes, "inpaint", square[0], mask_image=square[1], strength=1.0, output_type="pil")[0]
    assert np.array_equal(np.asarray(alone), out[86:118, 86:118])


def test_one_mask_for_each_picture(pipes: dict[str, Any]) -> None:
    image, masks = picture(32, 32), [half(32, 32), half(32, 32).transpose(Image.Transpose.ROTATE_90)]
    both = make(pipes, "inpaint", image, mask_image=masks)
    assert (both[1] - make(pipes, "inpaint", image, mask_image=masks[1], generator=seed(8))[0]).abs().max() < 1e-4


def test_masks_whose_crops_have_other_proportions_are_sampled_apart(pipes: dict[str, Any]) -> None:
    """Each as it is alone: a small hole in a square, one as wide as the picture in all of it."""
    image, masks = picture(300, 60), [Image.new("L", (300, 60)) for _ in range(3)]
    for mask, box in zip(masks, ((20, 20, 40, 40), (0, 0, 250, 60), (200, 5, 220, 25)), strict=True):
        mask.paste(255, box)
    prompts, scales = [APPLE, CAT, APPLE], [2.0, 3.0, 4.0]
    usual = {"num_images_per_prompt": 2, "generator": [seed(i) for i in range(6)]}
    together = make(pipes, "inpaint", image, prompts, mask_image=masks, guidance_scale=np.repeat(scales, 2), **usual)
    for i, (mask, prompt, scale) in enumerate(zip(masks, prompts, scales, strict=True)):
        usual["generator"] = [seed(2 * i), seed(2 * i + 1)]
        alone = make(pipes, "inpaint", image, prompt, mask_image=mask, guidance_scale=scale, **usual)
        assert (together[2 * i : 2 * i + 2] - alone).abs().max() < 1e-4


def test_an_interruption_ends_the_whole_call(pipes: dict[str, Any]) -> None:
    """Also where masks are sampled one after the other: those that follow are left at their first step."""
    image, masks = picture(300, 60), [Image.new("L", (300, 60)) for _ in range(2)]
    for mask, box in zip(masks, ((20, 20, 40, 40), (0, 0, 250, 60)), strict=True):
        mask.paste(255, box)
    seen: list[int] = []

    def stop(p: Any, i: int, t: Any, tensors: dict[str, Any]) -> None:
        seen.append(i)
        p._interrupt = i == 1

    out = make(pipes, "inpaint", image, [APPLE, CAT], mask_image=masks, callback_on_step_end=stop)
    assert seen == [0, 1]
    assert out.shape == (2, 3, 60, 300)


class Local:
    """A denoiser without a view of its neighbours; it remembers what it sees, and its state counts the calls."""

    config = None

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def __call__(
        self, z: Tensor, t: Tensor, conditioning: Conditioning, *, state: Tensor | None = None, depth: int | None = None
    ) -> DenoiserOutput:
        self.seen.append((tuple(z.shape), depth))
        assert conditioning.pooled is not None
        velocity = torch.tanh(z) * t.view(-1, 1, 1, 1) + conditioning.pooled.view(-1, 1, 1, 1)
        new_state = z[:, 0, 0, 0] if state is None else state + 1
        return DenoiserOutput(velocity, new_state, {"level": conditioning.pooled[:, 0], "count": torch.tensor(1)})


@pytest.mark.parametrize("size", [(8, 8), (11, 21), (4, 30), (40, 40)])
def test_tiles_leave_no_seams(size: tuple[int, int]) -> None:
    z, t = torch.randn(2, 3, *size, generator=seed(0)), torch.tensor([0.3, 0.3])
    conditioning = Conditioning(pooled=torch.tensor([[1.0], [2.0]]))
    whole = Local()(z, t, conditioning).velocity
    denoiser = Local()
    tiled = TiledDenoiser(denoiser, 8, 4)
    out = tiled(z, t, conditioning, depth=3)
    torch.testing.assert_close(out.velocity, whole)
    assert out.aux["level"].tolist() == [1, 2]
    assert {shape[2:] for shape, _ in denoiser.seen} == {(min(8, size[0]), min(8, size[1]))}
    assert {depth for _, depth in denoiser.seen} == {3}
    # Every tile gets back its own state.
    assert out.state is not None
    again = tiled(z, t, conditioning, state=out.state)
    assert again.state is not None
    assert torch.equal(again.state, out.state + 1)


def test_details_go_where_a_model_does_not_know_the_picture() -> None:
    """Two pixels out of four are raised, two lowered: they stay where the blocks are right, and go where they are off
    by more than half the range of the colours around."""
    small = torch.rand(1, 3, 6, 6, generator=seed(0)) * 0.4 + 0.3
    details = torch.kron(torch.ones(1, 1, 6, 6), torch.tensor([[0.05, -0.05], [-0.05, 0.05]]))
    right = resample(small, 12, 12)
    bare = agree(right, small)
    kept, gone = agree(bare + details, small) - bare, agree(bare + details + 0.3, small) - bare
    assert (kept[..., 3:-3, 3:-3] - details[..., 3:-3, 3:-3]).abs().max() < 0.02
    assert gone.abs().max() < 0.02


def test_a_small_picture_made_larger_agrees_with_it() -> None:
    small = torch.rand(2, 3, 12, 9, generator=seed(0)) * 0.6 + 0.2
    for factor in (2, 4):
        start = torch.rand(2, 3, 12 * factor, 9 * factor, generator=seed(1))
        out = agree(start, small)
        assert (torch.nn.functional.avg_pool2d(out, factor) - small).abs().mean() < 0.01
        torch.testing.assert_close(agree(out, torch.nn.functional.avg_pool2d(out, factor)), out, atol=0.02, rtol=0)


def test_a_large_picture_is_enlarged_in_tiles(pipes: dict[str, Any]) -> None:
    image = picture(70, 50)
    out = make(pipes, "upscale", image, factor=2, strength=1e-4)
    assert out.shape == (1, 3, 100, 140)
    # Hardly any noise: what is left is the autoencoder, in one piece.
    pipe = pipes["upscale"]
    pixels = resample(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255, 100, 140)
    small = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    plain = torch.nn.functional.pad(pixels, (10, 10, 14, 14), mode="replicate")
    with torch.no_grad():
        for _ in range(2):  # at the start, and after the step
            known = agree(plain[:, :, 14:-14, 10:-10], small)
            padded = torch.nn.functional.pad(known, (10, 10, 14, 14), mode="replicate")
            plain = decode_tiled(pipe.autoencoder, pipe.autoencoder.encode(padded * 2 - 1)) / 2 + 0.5
    expected = agree(plain[:, :, 14:-14, 10:-10], small)
    assert (out - expected).abs().max() < 0.02


@pytest.mark.parametrize("factor", [2, 4])
def test_the_input_is_the_ll_band_of_what_is_made_larger(pipes: dict[str, Any], factor: int) -> None:
    image = picture(12, 10)
    band = make(pipes, "upscale", image, factor=factor, strength=1.0)
    for _ in range(factor // 2):
        band = haar_dwt(band)[:, :3] / 2
    small = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    assert (band - small).abs().mean() * 255 < 1


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("name", hub.shipped())
def test_a_picture_of_one_colour_stays_so_when_enlarged(name: str, factor: int) -> None:
    """At its borders, and inside and between tiles: within 8 of 255."""
    pipe = pochade.SuperResolutionPipeline.from_pretrained(name)
    pipe.set_progress_bar_config(disable=True)
    side = pipe.default_size * 3 // (2 * factor)
    colour = torch.tensor([120, 160, 200]).view(3, 1, 1) / 255
    ramp = torch.linspace(0.46, 0.54, side).expand(3, side, side)
    for image in (colour.expand(3, side, side), ramp):
        out = pipe(image=image, factor=factor, num_inference_steps=2, generator=seed(1), output_type="pt").images[0]
        expected = torch.nn.functional.interpolate(image[None], scale_factor=factor, mode="bilinear")[0]
        assert (out - expected).abs().max() * 255 < 8


def test_without_a_prompt_there_is_no_guidance_in_super_resolution(pipes: dict[str, Any]) -> None:
    plain = make(pipes, "upscale", picture(10, 10), None)
    assert pipes["upscale"].guidance_scale == 1
    assert torch.equal(plain, make(pipes, "upscale", picture(10, 10), "", guidance_scale=1.0))
    assert make(pipes, "upscale", picture(10, 10), factor=4).shape == (1, 3, 40, 40)


def test_each_loads_what_another_saved(pipes: dict[str, Any], tmp_path: Path) -> None:
    pipes["inpaint"].save_pretrained(tmp_path / "m")
    pipe = pochade.TextToImagePipeline.from_pretrained(tmp_path / "m")
    assert pipe.default_size == 32
    assert "InpaintPipeline" in (tmp_path / "m" / "pipeline.py").read_text()


def test_a_picture_of_one_colour_may_stay_so() -> None:
    components = toy_components()
    components["autoencoder"].decoder.layers[-1].weight.data.zero_()
    pipe = pochade.ImageToImagePipeline(**components)
    pipe.set_progress_bar_config(disable=True)
    white = Image.new("RGB", (8, 8), "white")
    assert pipe(APPLE, white, 0.1, num_inference_steps=2, generator=seed(1)).images[0].size == (8, 8)
    with pytest.raises(pochade.FailureError, match="one flat colour"):
        pipe(APPLE, picture(8, 8), 0.1, num_inference_steps=2, generator=seed(1))
    nearly = white.copy()
    nearly.putpixel((3, 4), (250, 252, 255))
    with pytest.raises(pochade.FailureError, match="picture 1: one flat colour"):
        pipe([APPLE] * 2, [nearly, picture(8, 8)], 0.1, num_inference_steps=2, generator=[seed(1), seed(2)])
    assert pipe(APPLE, nearly, 0.1, num_inference_steps=2, generator=seed(1)).images[0].size == (8, 8)


def test_a_part_of_a_picture_may_become_of_one_colour() -> None:
    """As that of the paper: what stays around it makes it a picture."""
    components = toy_components()
    components["autoencoder"].decoder.layers[-1].weight.data.zero_()
    pipe = pochade.InpaintPipeline(**components)
    pipe.set_progress_bar_config(disable=True)
    given: dict[str, Any] = {"num_inference_steps": 2, "generator": seed(1)}
    assert pipe(APPLE, picture(32, 32), half(32, 32), **given).images[0].size == (32, 32)
    soft = Image.new("L", (32, 32), 128)
    assert pipe(APPLE, picture(32, 32), soft, soft_mask=True, **given).images[0].size == (32, 32)
    with pytest.warns(EditingWarning), pytest.raises(pochade.FailureError, match="one flat colour"):
        pipe(APPLE, picture(32, 32), Image.new("L", (32, 32), 255), **given)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("edit", {"strength": 0}, "strength: 0 given, allowed are numbers above 0, up to 1"),
    ("edit", {"strength": 1.1}, "strength: 1.1 given"),
    ("edit", {"strength": float("nan")}, "strength: nan given"),
    ("edit", {"size": 40}, "size: 40 given, allowed are multiples of 16"),
    ("edit", {"output_type": "latent"}, "output_type: 'latent' given, allowed are pil, np, pt"),
    ("edit", {"num_inference_steps": 0}, "num_inference_steps: 0 given"),
    ("edit", {"prompt": None}, "prompt: one of prompt and prompt_embeds"),
    ("edit", {"image": None}, "image: NoneType given"),
    ("edit", {"generator": [seed(1), seed(2)]}, "generator: 2 given for 1 pictures"),
    ("edit", {"prompt": [APPLE] * 3, "image": [picture(8, 8)] * 2}, "image: 2 given for 3 prompts"),
    ("edit", {"image": Image.new("1", (8000, 5000))}, "8000 x 5000 pixels given, allowed are 1 to 25 megapixels"),
    ("inpaint", {"mask_image": half(9, 8)}, "mask_image: 9 x 8 pixels given, allowed is the size of the picture"),
    ("inpaint", {"mask_image": Image.new("L", (8, 8))}, "mask_image: nothing is white"),
    ("inpaint", {"mask_image": [half(8, 8)] * 2, "image": [picture(8, 8)] * 3}, "mask_image: 2 given for 3 pictures"),
    ("upscale", {"factor": 3}, "factor: 3 given, allowed are 2 and 4"),
    ("upscale", {"image": Image.new("1", (2000, 1000)), "factor": 4}, "factor: 8000 x 4000 pixels given"),
]


@pytest.mark.parametrize(("kind", "changes", "message"), BAD)
def test_bad_arguments_before_any_work(pipes: dict[str, Any], kind: str, changes: Any, message: str) -> None:
    calls: list[int] = []
    usual: dict[str, Any] = {"prompt": APPLE, "image": picture(8, 8), "num_inference_steps": 1}
    usual |= {"mask_image": half(8, 8)} if kind == "inpaint" else {}
    with pytest.raises(PochadeError, match=message):
        pipes[kind](**usual | {"callback_on_step_end": lambda *_: calls.append(1)} | changes)
    assert not calls


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_edits(name: str) -> None:
    toy = next(iter(FAMILIES[name].toys))
    autoencoder = load_class(AUTOENCODERS["tiny"].path)(**AUTOENCODERS["tiny"].toy).eval()
    denoiser = stir(make_denoiser(name, toy))
    found = {kind: cls(autoencoder, denoiser) for kind, cls in KINDS.items()}
    for kind, pipe in found.items():
        pipe.set_progress_bar_config(disable=True)
        out = make(found, kind, picture(30, 40), "", num_inference_steps=2)
        assert out.shape[2:] == ((80, 60) if kind == "upscale" else (40, 30))


@pytest.mark.parametrize("name", hub.shipped())
def test_every_shipped_model_edits(name: str) -> None:
    parts = pochade.ImageToImagePipeline.from_pretrained(name)
    size = parts.default_size
    found = {kind: cls.from_pipe(parts) for kind, cls in KINDS.items()}
    for kind, pipe in found.items():
        pipe.set_progress_bar_config(disable=True)
        # Enlarged, it takes more than one tile.
        side = size * 5 // 8 if kind == "upscale" else size
        out = make(found, kind, picture(side, side), strength=0.5, num_inference_steps=2)
        assert out.shape[2:] == ((2 * side,) * 2 if kind == "upscale" else (side,) * 2)
        assert float(out.std()) > 0.01
