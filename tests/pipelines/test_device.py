"""Where a pipeline computes, in which precision, and at which times it is guided."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipelines.sampling import seed
from pochade.errors import PochadeError
from pochade.pipelines.image_to_image import ImageToImagePipeline
from pochade.pipelines.schedulers import make_scheduler
from pochade.pipelines.super_resolution import SuperResolutionPipeline
from pochade.pipelines.text_to_image import TextToImagePipeline


def loaded(folder: Path, kind: type[Any] = TextToImagePipeline, **options: Any) -> Any:
    pipe = kind.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: Any, **changes: Any) -> Any:
    options = {"num_inference_steps": 3, "generator": seed(7), "output_type": "pt", **changes}
    return pipe("a red apple", **options).images


def test_half_precision_is_of_the_networks_alone(toy_pipeline_folder: Path) -> None:
    exact = generate(loaded(toy_pipeline_folder))
    for precision, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        pipe = loaded(toy_pipeline_folder, device="cpu", precision=precision)
        assert (pipe.denoiser.dtype, pipe.autoencoder.dtype) == (dtype, dtype)
        assert pipe.text_encoder.dtype == torch.float32
        assert generate(pipe, output_type="latent").dtype == torch.float32
        difference = (generate(pipe) - exact).abs()
        assert 0 < float(difference.mean()) < 0.02


def test_many_small_steps_are_not_lost_in_half_precision(toy_pipeline_folder: Path) -> None:
    """64 steps of less than a rounding error of bfloat16 each: the sampler adds them up in float32."""
    exact = generate(loaded(toy_pipeline_folder), num_inference_steps=64, output_type="latent")
    half = generate(
        loaded(toy_pipeline_folder, device="cpu", precision="bf16"), num_inference_steps=64, output_type="latent"
    )
    assert float((half - exact).std() / exact.std()) < 0.02


def test_on_the_cpu_the_default_is_float32(toy_pipeline_folder: Path) -> None:
    usual = loaded(toy_pipeline_folder)
    placed = loaded(toy_pipeline_folder, device="cpu")
    moved = loaded(toy_pipeline_folder).to("cpu")
    pictures = [generate(pipe) for pipe in (usual, placed, moved)]
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[0], pictures[2])
    assert placed.denoiser.dtype == torch.float32


def test_torch_dtype_is_of_all_components(toy_pipeline_folder: Path) -> None:
    pipe = loaded(toy_pipeline_folder, device="cpu", torch_dtype=torch.float64)
    assert {part.dtype for part in (pipe.denoiser, pipe.autoencoder, pipe.text_encoder)} == {torch.float64}


@pytest.mark.parametrize("name", ["torch_dtype", "dtype"])
def test_torch_dtype_as_diffusers_documents_it(
    toy_pipeline_folder: Path, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a word: every component in bfloat16 samples nearly the same picture."""
    given: dict[str, Any] = {name: torch.bfloat16}
    pipe = loaded(toy_pipeline_folder, **given)
    assert {part.dtype for part in (pipe.denoiser, pipe.autoencoder, pipe.text_encoder)} == {torch.bfloat16}
    half, exact = generate(pipe), generate(loaded(toy_pipeline_folder))
    other = ImageToImagePipeline.from_pipe(loaded(toy_pipeline_folder).to(torch.bfloat16))
    assert other.text_encoder.identity == loaded(toy_pipeline_folder).text_encoder.identity
    assert 0 < float((half - exact).abs().mean()) < 0.03
    assert not caplog.records
    assert capfd.readouterr().err == ""
    with pytest.raises(PochadeError, match=r"torch_dtype: torch\.int8 given, allowed is a type of floats"):
        TextToImagePipeline.from_pretrained(toy_pipeline_folder, torch_dtype=torch.int8)
    with pytest.raises(PochadeError, match="torch_dtype: 'auto' given, allowed is a type of floats, such as"):
        loaded(toy_pipeline_folder, **{name: "auto"})


def test_unknown_places(toy_pipeline_folder: Path) -> None:
    with pytest.raises(PochadeError, match="device: 'gpu' given, allowed are auto, cpu, cuda, mps"):
        loaded(toy_pipeline_folder, device="gpu")
    with pytest.raises(PochadeError, match="precision: 'int8' given, allowed are auto, fp32, bf16, fp16"):
        loaded(toy_pipeline_folder, device="cpu", precision="int8")


def test_a_half_precision_pipeline_edits_and_enlarges_in_tiles(toy_pipeline_folder: Path) -> None:
    image = torch.rand(1, 3, 40, 56, generator=seed(0))
    for kind, options in ((ImageToImagePipeline, {"strength": 0.5}), (SuperResolutionPipeline, {"factor": 2})):
        exact = generate(loaded(toy_pipeline_folder, kind), image=image, **options)
        half = generate(loaded(toy_pipeline_folder, kind, device="cpu", precision="bf16"), image=image, **options)
        assert half.dtype == torch.float32
        assert 0 < float((half - exact).abs().mean()) < 0.05


def test_guidance_over_an_interval(toy_pipeline_folder: Path) -> None:
    pipe = loaded(toy_pipeline_folder)
    batch_sizes: list[int] = []
    pipe.denoiser.register_forward_hook(lambda _, inputs, __: batch_sizes.append(len(inputs[0])))
    options = {"num_inference_steps": 4, "guidance_scale": 6.0}  # t is 1, 0.75, 0.5, 0.25
    everywhere = generate(pipe, **options)
    assert torch.equal(generate(pipe, **options, guidance_interval=(0.0, 1.0)), everywhere)
    assert batch_sizes == [2] * 8
    batch_sizes.clear()
    within = generate(pipe, **options, guidance_interval=(0.4, 0.8))
    assert batch_sizes == [1, 2, 2, 1]
    assert not torch.allclose(within, everywhere, atol=1e-3)
    assert torch.equal(
        generate(pipe, num_inference_steps=4, guidance_scale=1.0, guidance_interval=(0.8, 0.9)),
        generate(pipe, num_inference_steps=4, guidance_scale=1.0),
    )
    own = TextToImagePipeline.from_pipe(pipe, default_guidance_low=0.4, default_guidance_high=0.8)
    assert own.default_guidance_interval == (0.4, 0.8)
    assert torch.equal(generate(own, **options), within)
    assert torch.equal(generate(own, **options, guidance_interval=(0.0, 1.0)), everywhere)
    with pytest.raises(PochadeError, match=r"guidance_interval: \(0.9, 0.8\) given"):
        TextToImagePipeline.from_pipe(own, default_guidance_low=0.9)


def test_an_interval_without_the_time_of_a_step_is_refused_before_sampling(toy_pipeline_folder: Path) -> None:
    pipe = loaded(toy_pipeline_folder)
    calls: list[int] = []
    pipe.denoiser.register_forward_hook(lambda *_: calls.append(1))
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 6.0, "guidance_interval": (0.8, 0.9)}

    def refused(times: str, **more: Any) -> None:
        message = f"guidance_interval: 0.8,0.9 given, in which no step's time lies: allowed is one with any of {times}$"
        with pytest.raises(PochadeError, match=message):
            generate(pipe, **{**options, **more})

    refused("1, 0.75, 0.5, 0.25")
    refused("1, 0.75, 0.5, 0.25", negative_prompt="green")
    pipe.scheduler = make_scheduler("euler", 3.0)
    refused("1, 0.75", num_inference_steps=2)
    pipe.scheduler = make_scheduler("heun")
    refused("1, 0.501, 0.001", num_inference_steps=3)
    pipe.scheduler = make_scheduler("euler")
    edit = ImageToImagePipeline.from_pipe(pipe)
    with pytest.raises(PochadeError, match=r"^guidance_interval: 0.8,0.9 given, .* any of 0.5, 0.25$"):
        edit("a red apple", Image.new("RGB", (32, 32), "red"), strength=0.5, **options)
    assert not calls
    own = TextToImagePipeline.from_pipe(pipe, default_guidance_low=0.4, default_guidance_high=0.8)
    one = {"num_inference_steps": 1, "guidance_scale": 6.0}
    with pytest.raises(PochadeError, match=r"^negative_prompt: has no effect, since no step's time, 1, lies in"):
        generate(own, **one, negative_prompt="green")
    assert not calls
    generate(own, **one)  # all that was given has an effect
    assert calls == [1]


@pytest.mark.parametrize("interval", [(0.5, 0.5), (0.8, 0.2), (-0.1, 1), (0, 1.1), (0.5,), 0.5, (float("nan"), 1)])
def test_intervals_that_are_none(toy_pipeline_folder: Path, interval: Any) -> None:
    with pytest.raises(
        PochadeError, match=r"guidance_interval: .* given, allowed are two times LOW < HIGH in \[0, 1\]"
    ):
        generate(loaded(toy_pipeline_folder), guidance_interval=interval)
