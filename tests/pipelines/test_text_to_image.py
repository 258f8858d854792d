"""The pipeline as a caller sees it: seeds, batches, arguments, failures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pochade
from conftest import toy_components
from pipelines.sampling import APPLE, CAT, HOUSE, sample, seed
from pochade.denoisers.lrf.model import LRFDenoiser
from pochade.errors import FailureError, PochadeError
from pochade.pipelines import hub
from pochade.pipelines.image_to_image import ImageToImagePipeline
from pochade.pipelines.inpaint import InpaintPipeline
from pochade.pipelines.schedulers import SCHEDULERS, StepsWarning, make_scheduler
from pochade.pipelines.super_resolution import SuperResolutionPipeline
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.runtime.sampling import GuidanceWarning
from pochade.runtime.tokens import PromptTruncatedWarning, PromptUnknownWarning
from pochade.text_encoders.minilm import MiniLMEncoder


def test_call_as_in_the_readme(pipe: TextToImagePipeline) -> None:
    out = pipe(APPLE, num_inference_steps=2, guidance_scale=3.0, generator=seed(7))
    assert isinstance(out.images[0], Image.Image)
    assert out.images[0].size == (32, 32)
    assert pipe(APPLE, num_inference_steps=2, return_dict=False)[0][0].size == (32, 32)


def test_same_seed_same_bytes_and_prompt_matters(pipe: TextToImagePipeline) -> None:
    first = sample(pipe, APPLE, seed(7))
    assert torch.equal(first, sample(pipe, APPLE, seed(7)))
    assert not torch.allclose(first, sample(pipe, APPLE, seed(8)), atol=1e-3)
    assert not torch.allclose(first, sample(pipe, CAT, seed(7)), atol=1e-5)


def test_a_sample_of_a_batch_is_its_single_run(pipe: TextToImagePipeline) -> None:
    together = sample(pipe, [CAT, HOUSE, APPLE], [seed(3), seed(9), seed(7)])
    for i, (prompt, s) in enumerate(((CAT, 3), (HOUSE, 9), (APPLE, 7))):
        assert (together[i] - sample(pipe, prompt, seed(s))[0]).abs().max() < 1e-4


def test_one_generator_counts_seeds_up(pipe: TextToImagePipeline) -> None:
    generator = seed(7)
    together = sample(pipe, [APPLE, CAT, APPLE], generator)
    assert generator.initial_seed() == 10
    for i, (prompt, s) in enumerate(((APPLE, 7), (CAT, 8), (APPLE, 9))):
        assert (together[i] - sample(pipe, prompt, seed(s))[0]).abs().max() < 1e-4
    again = seed(7)
    singles = torch.cat([sample(pipe, p, again) for p in (APPLE, CAT, APPLE)])
    assert (together - singles).abs().max() < 1e-4


def test_without_a_generator_torch_decides(pipe: TextToImagePipeline) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first, second = sample(pipe, APPLE, None), sample(pipe, APPLE, None)
        torch.manual_seed(1)
        assert torch.equal(first, sample(pipe, APPLE, None))
    assert not torch.allclose(first, second, atol=1e-3)


def test_pictures_of_one_prompt_stand_side_by_side(pipe: TextToImagePipeline) -> None:
    four = sample(pipe, [APPLE, CAT], seed(5), num_images_per_prompt=2)
    assert (four[2] - sample(pipe, CAT, seed(7))[0]).abs().max() < 1e-4


def test_guidance_per_picture(pipe: TextToImagePipeline) -> None:
    images = sample(pipe, [APPLE, APPLE], [seed(1), seed(1)], guidance_scale=[1.0, 5.0])
    assert (images[0] - sample(pipe, APPLE, seed(1), guidance_scale=1.0)[0]).abs().max() < 1e-4
    assert (images[1] - sample(pipe, APPLE, seed(1), guidance_scale=5.0)[0]).abs().max() < 1e-4
    assert (images[0] - images[1]).abs().max() > 1e-3


def test_negative_prompt_and_empty_prompt(pipe: TextToImagePipeline) -> None:
    plain = sample(pipe, APPLE, seed(1))
    assert torch.equal(plain, sample(pipe, APPLE, seed(1), negative_prompt=""))
    assert (plain - sample(pipe, APPLE, seed(1), negative_prompt=CAT)).abs().max() > 1e-3
    # Led away from itself, guidance cancels out.
    away = sample(pipe, APPLE, seed(1), negative_prompt=APPLE)
    assert (away - sample(pipe, APPLE, seed(1), guidance_scale=1.0)).abs().max() < 1e-4
    # An empty prompt is the unconditional branch, so that guidance has nothing to push.
    nothing = sample(pipe, "", seed(1), guidance_scale=7.0)
    assert (nothing - sample(pipe, " ", seed(1), guidance_scale=1.0)).abs().max() < 1e-4


def test_prompt_embeds_and_latents(pipe: TextToImagePipeline) -> None:
    expected = sample(pipe, APPLE, seed(7))
    embeds = pipe.encode_prompt(APPLE)
    assert torch.equal(
        expected, pipe(prompt_embeds=embeds, generator=seed(7), num_inference_steps=3, output_type="pt").images
    )
    noise = torch.randn(4, 4, 4, generator=seed(7))[None]
    assert torch.equal(expected, sample(pipe, APPLE, None, latents=noise))
    encoding = pipe.text_encoder.encode([APPLE])
    assert torch.equal(expected, sample(pipe, None, seed(7), prompt_embeds=encoding))


def test_output_types_agree(pipe: TextToImagePipeline) -> None:
    pt = sample(pipe, APPLE, seed(7))
    array = sample(pipe, APPLE, seed(7), output_type="np")
    pil = sample(pipe, APPLE, seed(7), output_type="pil")[0]
    latent = sample(pipe, APPLE, seed(7), output_type="latent")
    assert array.shape == (1, 32, 32, 3)
    assert np.array_equal(array[0], pt[0].permute(1, 2, 0).numpy())
    assert np.array_equal(np.asarray(pil), (array[0] * 255).round().astype("uint8"))
    assert torch.equal(pipe.decode_latents(latent), pt)


def test_other_sizes(pipe: TextToImagePipeline) -> None:
    assert sample(pipe, APPLE, seed(7), height=48, width=16).shape == (1, 3, 48, 16)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_every_scheduler_keeps_a_seed_a_picture(pipe: TextToImagePipeline, name: str) -> None:
    pipe.scheduler = make_scheduler(name)
    both = sample(pipe, [CAT, APPLE], seed(6), num_inference_steps=4)
    assert (both[1] - sample(pipe, APPLE, seed(7), num_inference_steps=4)[0]).abs().max() < 1e-4
    assert torch.equal(both, sample(pipe, [CAT, APPLE], seed(6), num_inference_steps=4))


def test_negative_prompt_embeds(pipe: TextToImagePipeline) -> None:
    expected = sample(pipe, HOUSE, seed(1), negative_prompt=CAT)
    usual: dict[str, Any] = {"generator": seed(1), "num_inference_steps": 3, "output_type": "pt"}
    house, cat = pipe.encode_prompt(HOUSE), pipe.encode_prompt(CAT)
    given = pipe(prompt_embeds=house, negative_prompt_embeds=cat, **usual).images
    assert (given - expected).abs().max() < 1e-5
    with pytest.raises(PochadeError, match="negative_prompt_embeds: goes with prompt_embeds"):
        pipe(APPLE, negative_prompt_embeds=cat)


def test_the_defaults_of_a_model_go_with_its_components() -> None:
    pipe = TextToImagePipeline(**toy_components(), default_steps=4, default_guidance=1.0, default_size=48)
    for kind in (TextToImagePipeline, ImageToImagePipeline, InpaintPipeline, SuperResolutionPipeline):
        for other in (kind(**pipe.components), kind.from_pipe(pipe)):
            assert (other.default_steps, other.default_guidance, other.default_size) == (4, 1.0, 48)
            assert other.denoiser is pipe.denoiser
            back = TextToImagePipeline.from_pipe(other, default_steps=2)
            assert (back.default_steps, back.default_guidance) == (2, 1.0)
    with pytest.raises(PochadeError, match="step: given, allowed are autoencoder"):
        InpaintPipeline.from_pipe(pipe, step=2)
    with pytest.raises(PochadeError, match="pipeline: str given, allowed are those of pochade"):
        InpaintPipeline.from_pipe("iris-fast")  # pyright: ignore[reportArgumentType]


def test_schedulers_that_do_not_fit_are_refused_by_name(pipe: TextToImagePipeline) -> None:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    for scheduler, message in (
        (DDIMScheduler(), "scheduler: DDIMScheduler given, allowed are FlowMatchEulerDiscreteScheduler"),
        (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "given with use_dynamic_shifting"),
        (DPMSolverMultistepScheduler.from_config(pipe.scheduler.config), "given without prediction_type='flow_pred"),
        (UniPCMultistepScheduler(**flow), "UniPCMultistepScheduler given, allowed are"),
    ):
        pipe.scheduler = scheduler
        with pytest.raises(PochadeError, match=message):
            sample(pipe, APPLE, seed(7))
    pipe.scheduler = make_scheduler("heun")
    with pytest.warns(StepsWarning, match="FlowMatchHeunDiscreteScheduler needs at least 3 steps, 2 given"):
        sample(pipe, APPLE, seed(7), num_inference_steps=2)


def test_guidance_0(pipe: TextToImagePipeline) -> None:
    with pytest.warns(GuidanceWarning, match="guidance: at 0 the prompt has no effect"):
        nothing = sample(pipe, APPLE, seed(1), guidance_scale=0)
    assert (nothing - sample(pipe, "", seed(1), guidance_scale=1)).abs().max() < 1e-4
    # Where guidance was distilled into the model, 0 is off, as 1 is.
    distilled = TextToImagePipeline.from_pipe(pipe, default_guidance=1.0)
    assert torch.equal(sample(distilled, APPLE, seed(1), guidance_scale=0), sample(distilled, APPLE, seed(1)))
    with pytest.raises(PochadeError, match="negative_prompt: has no effect at guidance"):
        sample(distilled, APPLE, seed(1), negative_prompt=CAT)


def test_numbers_of_numpy(pipe: TextToImagePipeline) -> None:
    expected = sample(pipe, APPLE, seed(7), guidance_scale=2.0, height=48)
    given = {"num_inference_steps": np.int64(3), "guidance_scale": np.float32(2), "height": np.int32(48)}
    assert torch.equal(sample(pipe, np.array([APPLE]), seed(7), **given), expected)
    for changes, message in (
        ({"generator": 7}, "generator: 7 given, allowed is a torch.Generator on the CPU"),
        ({"depth": "x"}, "depth: 'x' given, allowed is a whole number"),
        ({"guidance_scale": True}, "guidance_scale: True given"),
    ):
        with pytest.raises(PochadeError, match=message):
            pipe(APPLE, **changes)


def test_class_names_as_prompts(toy_class_pipeline_folder: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained(toy_class_pipeline_folder)
    cat, dog = sample(pipe, ["cat", "Dog "], [seed(1), seed(1)])
    assert (cat - dog).abs().max() > 1e-3
    assert (sample(pipe, "dog", seed(1))[0] - dog).abs().max() < 1e-4
    with pytest.raises(PochadeError, match="did you mean 'dog'"):
        sample(pipe, "dg", seed(1))


def test_without_text_encoder(tmp_path: Path) -> None:
    components = toy_components() | {"text_encoder": None}
    TextToImagePipeline(**components).save_pretrained(tmp_path / "m")
    pipe = TextToImagePipeline.from_pretrained(tmp_path / "m")
    assert pipe.text_encoder is None
    assert sample(pipe, "", seed(1)).shape == (1, 3, 32, 32)
    with pytest.raises(PochadeError, match="no text encoder, pass prompt_embeds"):
        sample(pipe, APPLE, seed(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps: 0 given, allowed is a whole number from 1 to 10000"),
        ({"num_images_per_prompt": 1.5}, "num_images_per_prompt: 1.5 given"),
        ({"guidance_scale": float("nan")}, "guidance_scale: nan given, allowed are finite numbers"),
        ({"guidance_scale": [1.0, 2.0]}, "guidance_scale: 2 given for 1 pictures"),
        ({"num_inference_steps": 10**30}, "num_inference_steps: 1000000000000000000000000000000 given"),
        ({"guidance_scale": b"x"}, "guidance_scale: b'x' given, allowed are finite numbers"),
        ({"guidance_scale": torch.ones(1, device="meta")}, "guidance_scale: a tensor without data given"),
        ({"height": 16 * 10**30}, "height: 1.* given, allowed are multiples of 16, from 16 to 8192"),
        ({"latents": "noise"}, r"latents: str given, allowed is a tensor \[1, 4, 4, 4\]"),
        ({"latents": torch.zeros(1, 4, 4, 4, device="meta")}, "latents: a tensor without data given"),
        ({"prompt": np.array("a fox")}, r"prompt: array\('a fox'.*\) given, allowed are a sentence and a list"),
        ({"height": 40}, "height: 40 given, allowed are multiples of 16"),
        ({"width": 0}, "width: 0 given"),
        ({"output_type": "jpg"}, "output_type: 'jpg' given, allowed are pil, np, pt, latent"),
        (
            {"callback_on_step_end_tensor_inputs": ["noise"]},
            "'noise'. given, allowed are latents, predicted_data",
        ),
        ({"generator": [seed(1), seed(2)]}, "generator: 2 given for 1 pictures"),
        ({"generator": torch.Generator().manual_seed(2**63)}, r"seed: 9223372036854775808 given, .* \[0, 2\^63\)"),
        ({"latents": torch.zeros(1, 4, 8, 8)}, r"latents: shape \(1, 4, 8, 8\) given, needed is \(1, 4, 4, 4\)"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt: 2 given for 1 prompts"),
        ({"negative_prompt": "a", "guidance_scale": 1.0}, "negative_prompt: has no effect at guidance_scale 1"),
        ({"prompt": []}, r"prompt: \[\] given, allowed are a sentence and a list"),
        ({"prompt": 5}, "prompt: 5 given, allowed are a sentence and a list"),
        ({"negative_prompt": 5}, "negative_prompt: 5 given, allowed are a sentence and a list"),
        ({"callback_on_step_end": "x"}, "callback_on_step_end: 'x' given, allowed is a function"),
        ({"callback_on_step_end_tensor_inputs": None}, "tensor_inputs: None given, allowed is a list of names"),
        ({"prompt": None}, "prompt: one of prompt and prompt_embeds"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 2, 12)}, "prompt_embeds: Tensor given"),
    ],
)
def test_bad_arguments_before_any_work(pipe: TextToImagePipeline, changes: dict[str, Any], message: str) -> None:
    calls: list[int] = []
    with pytest.raises(PochadeError, match=message):
        pipe(**{"prompt": APPLE, "callback_on_step_end": lambda *_: calls.append(1)} | changes)
    assert not calls


def test_a_count_of_numpy(pipe: TextToImagePipeline) -> None:
    assert len(pipe(APPLE, num_inference_steps=1, num_images_per_prompt=np.int64(2)).images) == 2


def test_components_devices_and_precisions_of_other_kinds(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match="scheduler: 'euler' given, allowed is one of diffusers, such as Flow"):
        TextToImagePipeline.from_pretrained(toy_pipeline_folder, scheduler="euler")
    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    with pytest.raises(PochadeError, match="autoencoder: int given, allowed is a model of diffusers"):
        TextToImagePipeline(5, pipe.denoiser)  # pyright: ignore[reportArgumentType]
    with pytest.raises(PochadeError, match="to: 'gpu' given, allowed are a device, such as 'cuda', and a precision"):
        pipe.to("gpu")
    for dtype in ("fp16", torch.int8):
        with pytest.raises(PochadeError, match=r"dtype: .* given, allowed is a type of floats"):
            pipe.save_pretrained(tmp_path / "new", dtype=dtype)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "new").exists()
    assert pipe.to("cpu", torch.float32).dtype == torch.float32


@pytest.mark.parametrize("place", [None, 5, "", b"x", []])
def test_what_is_no_path_is_refused(pipe: TextToImagePipeline, place: Any) -> None:
    for call in (TextToImagePipeline.from_pretrained, pipe.save_pretrained, pochade.read_metadata, pochade.repeat):
        with pytest.raises(PochadeError, match=r"given, allowed is a (name or a )?path"):
            call(place)


def test_long_prompt_is_cut_with_a_warning(pipe: TextToImagePipeline) -> None:
    tokens = pipe.text_encoder.count_tokens("apple " * 2000)
    with pytest.warns(PromptTruncatedWarning, match=f"{tokens} tokens, .* reads 32: the last {tokens - 32} are cut"):
        sample(pipe, "apple " * 2000, seed(1))


def test_a_prompt_that_cannot_be_read_gives_a_warning() -> None:
    """By MiniLM, whose vocabulary lacks most characters of other scripts; the warning stands at the caller's line."""
    encoder = MiniLMEncoder()
    components = toy_components() | {"text_encoder": encoder}
    sizes = {"text_dim": encoder.dim, "pooled_dim": encoder.pooled_dim, "text_encoder": encoder.identity}
    small = {"latent_channels": 4, "sample_size": 4, "patch_size": 2, "dim": 16, "heads": 2, "hidden": 32, "blocks": 1}
    pipe = TextToImagePipeline(**components | {"denoiser": LRFDenoiser(**small, **sizes)})
    for prompt, negative in (("ꦲꦏ ꦱꦫ", None), ("an apple", "狐狸"), (["an apple", "狐狸"], None)):
        with pytest.warns(PromptUnknownWarning, match="is mostly unknown to the text encoder") as found:
            pipe(prompt, negative_prompt=negative, generator=seed(1), num_inference_steps=1)
        assert len(found) == 1
        assert found[0].filename == __file__
    for prompt in ("a 狐 in the forest", "🍎", "", "Ängström"):
        sample(pipe, prompt, seed(1), num_inference_steps=1)  # a warning is an error here


def test_nan_and_flat_pictures_are_failures() -> None:
    components = toy_components()
    pipe = TextToImagePipeline(**components)
    components["autoencoder"].decoder.layers[-1].weight.data.zero_()
    with pytest.raises(FailureError, match="picture 0, 1: one flat colour"):
        sample(pipe, [APPLE, CAT], seed(1))
    components["autoencoder"].decoder.layers[-1].weight.data.fill_(float("nan"))
    with pytest.raises(FailureError, match="picture 0: NaN"):
        sample(pipe, APPLE, seed(1))
    components["denoiser"].out.weight.data.fill_(float("nan"))
    with pytest.raises(FailureError, match="latents: not finite in picture 0"):
        sample(pipe, APPLE, seed(1), output_type="latent")


def test_components_must_belong_together() -> None:
    from pochade.text_encoders.bag import BagEncoder

    components, others = toy_components(), toy_components(seed=1)
    with pytest.raises(PochadeError, match=r"text_encoder: 'bag:\w+' given, the denoiser was trained with 'bag:\w+'"):
        TextToImagePipeline(**components | {"text_encoder": others["text_encoder"]})
    with pytest.raises(PochadeError, match="autoencoder: 8 latent channels given, the denoiser needs 4"):
        TextToImagePipeline(**components | {"autoencoder": type(components["autoencoder"])(8, width=8)})
    with pytest.raises(PochadeError, match="denoiser: TinyAutoencoder given"):
        TextToImagePipeline(**components | {"denoiser": components["autoencoder"]})
    with pytest.raises(PochadeError, match="text_encoder: TinyAutoencoder given"):
        TextToImagePipeline(**components | {"text_encoder": components["autoencoder"]})
    components["denoiser"].register_to_config(text_encoder=None)
    wide = BagEncoder(BagEncoder.train_tokenizer([APPLE], 300), dim=20)
    with pytest.raises(PochadeError, match="text_encoder: 20 wide, the denoiser needs 12"):
        TextToImagePipeline(**components | {"text_encoder": wide})


@pytest.mark.parametrize("name", hub.shipped())
def test_every_shipped_model_generates_at_the_size_of_its_training(name: str) -> None:
    pipe = TextToImagePipeline.from_pretrained(name)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a red apple", num_inference_steps=4, generator=seed(7)).images[0]
    metrics = json.loads((hub.shipped()[name] / "metrics.json").read_text())
    assert picture.size == (metrics["settings"]["size"],) * 2
    assert metrics["model"] == name
    middle = slice(picture.width * 3 // 8, picture.width * 5 // 8)
    red, _, blue = np.asarray(picture, dtype=float)[middle, middle].mean((0, 1))
    assert red > blue + 60
