"""Every family and kind of denoiser as a bundle, run by its host beside the pipeline: new pictures, and edits."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import toy_components
from contracts.families import FAMILIES, make, stir
from pochade.errors import PochadeError
from pochade.export import npu
from pochade.export.bundle import export_bundle
from pochade.export.formats.base import Graphs, Options
from pochade.export.formats.onnx import Onnx
from pochade.export.networks import Network
from pochade.export.targets import FORMATS
from pochade.pipelines.image_to_image import ImageToImagePipeline
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.runtime import Bundle
from pochade.runtime.manifest import Model

TASKS = ("edit", "inpaint", "super_resolution")
CASES = [
    ("iris", "editor", {"tasks": TASKS}),
    ("lira", "scalar", {}),
    ("lrf", "linear", {}),
    ("microforge", "regions", {"tasks": TASKS}),
]


class Shared(Onnx):
    """ONNX, with the networks that all these pipelines have in common exported once."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._graphs: Graphs = {}

    def convert(self, networks: Sequence[Network], folder: Path, options: Options) -> Graphs:
        own = [network for network in networks if network.name.startswith("denoiser")]
        common = [network for network in networks if network not in own]
        if not self._graphs:
            self._graphs = super().convert(common, self._place, options)
        for network in common:
            shutil.copyfile(self._place / self._graphs[network.name].file, folder / self._graphs[network.name].file)
        return {**self._graphs, **super().convert(own, folder, options)}


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> Onnx:
    return Shared(tmp_path_factory.mktemp("shared"))


def pipeline(family: str, toy: str, **changes: Any) -> TextToImagePipeline:
    parts = toy_components()
    given = {"latent_channels": 4, "text_dim": 12, "pooled_dim": 12, "num_classes": 0, **FAMILIES[family].smaller}
    denoiser = stir(make(family, toy, **given, text_encoder=parts["text_encoder"].identity, **changes))
    pipe = TextToImagePipeline(**{**parts, "denoiser": denoiser})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def eager(pipe: Any, prompt: str | None = "a red apple", **given: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(5)]
    return pipe(prompt, num_inference_steps=2, generator=noise, output_type="np", **given).images[0] * 255


def same(got: Image.Image, want: np.ndarray) -> None:
    assert np.ptp(want) > 5
    np.testing.assert_allclose(np.asarray(got).astype(float), want, atol=2)


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.parametrize(("family", "toy", "changes"), CASES, ids=[case[0] for case in CASES])
def test_a_bundle_of_every_family_gives_the_pictures_of_its_pipeline(
    tmp_path: Path, form: Onnx, family: str, toy: str, changes: dict[str, Any]
) -> None:
    pipe = pipeline(family, toy, **changes)
    depth = pipe.denoiser.input_spec().depth
    depths = (depth, depth + 1) if family == "lrf" and depth is not None else ()
    standard = family == "microforge"
    options: dict[str, Any] = {"form": form, "depths": depths, "pictures": 0, "standard": standard}
    manifest = export_bundle(pipe, tmp_path / "b", Model("toy"), **options)
    if standard:  # Shape is of the free batch alone
        npu.prepare(tmp_path / "b" / manifest.graphs["denoiser"].file, tmp_path / "npu.onnx")
        assert set(npu.lacking(tmp_path / "npu.onnx")["QNN"]) <= {"Shape", "Softplus"}
    bundle = Bundle(tmp_path / "b")
    assert manifest.trained_tasks == pipe.denoiser.input_spec().tasks
    page = (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert ("`next_state` of a row" in page) == (family == "microforge")
    assert set(manifest.depths) == {str(d) for d in depths or ([] if depth is None else [depth])}
    for iterations in depths or (depth,):
        made = bundle.generate("a red apple", seed=5, steps=2, guidance=2.0, depth=iterations)
        same(made.image, eager(pipe, guidance_scale=2.0, depth=iterations))
    if "edit" in manifest.trained_tasks:  # a row of guidance has no source
        source = Image.effect_noise((32, 32), 90).convert("RGB")
        followed = bundle.edit("a red apple", source, seed=5, steps=2, guidance=2.0, image_guidance=1.5)
        kind = ImageToImagePipeline.from_pipe(pipe)
        given = {"instruction": "a red apple", "image_guidance_scale": 1.5, "guidance_scale": 2.0, "depth": depth}
        same(followed.image, eager(kind, None, image=source, **given))
    # A source of the bundle's size: other sizes are fitted in by the host in its own way.
    source = Image.effect_noise((32, 32), 90).convert("RGB")
    edited = bundle.edit("a red apple", source, seed=5, steps=2, guidance=2.0, strength=0.5, instruction=False)
    kind = ImageToImagePipeline.from_pipe(pipe)
    same(edited.image, eager(kind, image=source, strength=0.5, guidance_scale=2.0, depth=depth))


@pytest.mark.parametrize("target", ["openvino", "executorch", "litert"])
@pytest.mark.parametrize(("family", "toy", "changes"), CASES, ids=[case[0] for case in CASES])
def test_every_family_runs_in_8_bits_on_phones(
    tmp_path: Path, family: str, toy: str, changes: dict[str, Any], target: str
) -> None:
    try:
        FORMATS[target].check()
    except PochadeError as error:
        pytest.skip(str(error))
    pipe = pipeline(family, toy, **changes)
    manifest = export_bundle(
        pipe, tmp_path / "b", Model("toy"), form=FORMATS[target], precision="int8", size=64, pictures=0
    )
    denoiser = manifest.graphs["denoiser"]
    assert denoiser.largest_difference is not None
    assert denoiser.largest_difference < 1e-4
    assert denoiser.precision_error is not None
    assert denoiser.precision_error < 0.1


def test_adapters_go_into_the_graph(tmp_path: Path, form: Onnx) -> None:
    """Merged into the weights, as ``pochade merge`` does it."""
    from peft import LoraConfig

    pipe = pipeline("lrf", "softmax")
    before = eager(pipe, guidance_scale=1.0)
    torch.manual_seed(0)
    pipe.denoiser.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=pipe.denoiser.adaptable_layers()))
    for key, parameter in pipe.denoiser.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    want = eager(pipe, guidance_scale=1.0)
    assert np.abs(want - before).max() > 5
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    manifest = export_bundle(pipe, tmp_path / "merged", Model("toy"), form=form, pictures=0)
    assert manifest.graphs["denoiser"].parameters == sum(p.numel() for p in pipe.denoiser.parameters())
    same(Bundle(tmp_path / "merged").generate("a red apple", seed=5, steps=2, guidance=1.0).image, want)
