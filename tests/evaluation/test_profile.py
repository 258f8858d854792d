"""What a picture costs: the figures agree with each other, and both runtimes generate the same picture."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pochade.allocator import release_memory
from pochade.errors import FailureError, PochadeError
from pochade.evaluation.profile import (
    COMPONENTS,
    costs,
    eager,
    graphs,
    measure,
    model_size,
    models,
    peak_resident_mb,
    resident_mb,
    seconds_per_call,
)
from pochade.evaluation.profile.costs import profile
from pochade.evaluation.profile.sampling import sample, seeded

MEASURED = {"libraries_mb", "loading_mb", "rest_mb", "peak_mb", "seconds"}


@pytest.fixture(scope="module")
def exported(toy_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The toy in ONNX Runtime, and its graphs."""
    folder = tmp_path_factory.mktemp("profile") / "graphs"
    logged: list[str] = []
    found = profile(
        str(toy_pipeline_folder), steps=2, threads=1, runtime="onnx", repeats=1, keep=folder, log=logged.append
    )
    assert logged[0] == "text_encoder, exporting"
    return found, folder


def check_rows(found: dict[str, Any]) -> None:
    for row in found["rows"]:
        assert set(row) == {"component", "runtime", "precision", "weights_mb", "device_mb", "error"} | MEASURED
        assert 10 < row["libraries_mb"] < 1000  # MB: Python with numpy and ONNX Runtime is neither less nor more
        assert abs(row["rest_mb"] - row["libraries_mb"]) < 200  # a toy adds little to it
    for part in found["components"].values():
        assert part["fp32_mb"] == 2 * part["fp16_mb"] == pytest.approx(4e-6 * part["parameters"])
    json.dumps(found)


def test_rows_in_onnx_runtime(exported: tuple[dict[str, Any], Path]) -> None:
    found, folder = exported
    check_rows(found)
    kinds = [(row["component"], row["precision"]) for row in found["rows"]]
    assert kinds == [
        *((name, "fp32") for name in (*COMPONENTS, "picture", "picture_in_turn")),
        *((name, "int8") for name in ("text_encoder", "denoiser", "picture", "picture_in_turn")),
    ]
    rows = dict(zip(kinds, found["rows"], strict=True))
    for name in COMPONENTS:
        files = (folder / f"{name}.onnx", folder / f"{name}.onnx.data")
        assert rows[name, "fp32"]["weights_mb"] == sum(file.stat().st_size for file in files) / 1e6
        assert rows[name, "fp32"]["weights_mb"] >= found["components"][name]["fp32_mb"]
        assert rows[name, "fp32"]["error"] is None
        assert found["exports"][name]["difference"] < 1e-4
    whole = sum(rows[name, "fp32"]["weights_mb"] for name in COMPONENTS)
    for form in ("picture", "picture_in_turn"):
        assert rows[form, "fp32"]["weights_mb"] == pytest.approx(whole)
    assert rows["picture", "int8"]["weights_mb"] < whole
    assert 0 < rows["denoiser", "int8"]["error"] < 0.2
    assert found["size"] == 32
    assert not any(part["random"] for part in found["components"].values())


def test_both_runtimes_generate_the_same_picture(
    exported: tuple[dict[str, Any], Path], toy_pipeline_folder: Path
) -> None:
    found, folder = exported
    files = {name: str(folder / f"{name}.onnx") for name in COMPONENTS}
    tokenizer = str(folder / "tokenizer.json")
    one = graphs.picture(files, tokenizer, 2, 1)()
    np.testing.assert_allclose(graphs.picture(files, tokenizer, 2, 1, in_turn=True)(), one, atol=1e-4)
    with torch.no_grad():
        other = eager.picture({**found, "component": "picture"})()
    np.testing.assert_allclose(one, other.cpu().numpy(), atol=1e-3)
    assert float(one.std()) > 0.01


@pytest.mark.parametrize(
    "model, settings, words",
    [
        ("lira:smal", {}, r"^model: 'lira:smal' given, allowed are lira:nano, .*\(did you mean 'small'"),
        ("lyra:small", {}, r"^model: 'lyra' is no family, allowed are iris, .* \(did you mean 'lira'"),
        ("nothing", {}, "model: 'nothing' is neither a shipped model"),
        ("iris:nano", {"size": 100}, "size: 100 given, allowed are multiples of 32 pixels"),
        ("iris:nano", {"steps": 0}, "steps: 0 given, allowed is a whole number from 1 to 10000"),
        ("iris:nano", {"batch": 0}, "batch: 0 given"),
        ("lrf:nano", {"depth": 0}, "depth: 0 given, allowed is a whole number from 1"),
        ("lira:nano", {"depth": 1}, "depth: 1 given, allowed are 2 to 64 iterations"),
        ("microforge:nano", {"depth": 2}, "depth: 2 given, but MicroForge does not iterate: allowed is none"),
        ("iris:nano", {"device": "gpu"}, "device: 'gpu' given, allowed are auto, cpu"),
        ("iris:nano", {"precision": "int4"}, "precision: 'int4' given, allowed are auto, fp32"),
        ("iris:nano", {"threads": 0}, "threads: 0 given"),
        ("iris:nano", {"runtime": "onxx"}, r"runtime: 'onxx' given, .*did you mean 'onnx'"),
        ("iris:nano", {"text_encoder": "clip"}, r"text_encoder: 'clip' given, allowed are minilm, tinyclip, clip-l"),
        ("lrf:cifar", {"text_encoder": "minilm"}, "lrf:cifar reads class labels"),
    ],
)
def test_errors(model: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(PochadeError, match=words):
        profile(model, **settings)


def test_a_saved_model_keeps_its_text_encoder(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match="has its own: only FAMILY:VARIANT takes another"):
        profile(str(toy_pipeline_folder), text_encoder="minilm")
    (tmp_path / "file").touch()
    with pytest.raises(PochadeError, match=r"keep: .* exists and is not an empty folder"):
        profile(str(toy_pipeline_folder), keep=tmp_path)


def test_a_measuring_process_that_fails_gives_its_reason() -> None:
    with pytest.raises(
        FailureError, match=r"denoiser: the measuring process ended with exit code 1: KeyError: 'files'"
    ):
        costs._run("graphs", "denoiser", {"component": "denoiser"})


def test_every_variant_has_a_decoder_for_its_latents() -> None:
    from pochade import denoisers

    for family in denoisers.FAMILIES:
        for variant in denoisers.variants(family):
            parts = {name: models.load_skeleton(f"{family}:{variant}", name) for name in ("denoiser", "decoder")}
            assert parts["decoder"].config.latent_channels == parts["denoiser"].config.latent_channels
            assert not hasattr(parts["decoder"], "encoder")
            # A few numbers for all: where transformers was the first to enter a device context, linspace stays outside.
            parameters = [p for module in parts.values() for p in module.parameters()]
            allocated = sum(p.numel() for p in parameters if not p.is_meta)
            assert allocated < 1e-3 * sum(p.numel() for p in parameters)


@pytest.mark.parametrize("name, width, parameters", [("tinyclip", 256, 15_037_952), ("clip-l", 768, 123_060_480)])
def test_clip_as_text_encoder(name: str, width: int, parameters: int) -> None:
    encoder = models.load_skeleton("lira:nano", "text_encoder", name)
    assert encoder.dim == width
    assert encoder.max_tokens == 77
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert models.load_skeleton("lira:nano", "denoiser", name).config.text_dim == width


def test_random_weights_are_those_of_a_seed_and_open() -> None:
    state = torch.get_rng_state()
    first, second = (models.load("lrf:cifar", "denoiser") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(p.any() for p in first.parameters() if p.ndim >= 2)


def test_measure_sees_what_is_loaded_and_what_a_call_takes() -> None:
    def load() -> Any:
        weights = np.ones(12_000_000)  # 96 MB
        return partial(np.add, weights, 1.0)

    release_memory()  # what tests before this one have left would be handed out
    found = measure(load, repeats=1)
    assert set(found) == MEASURED
    assert found["rest_mb"] - found["libraries_mb"] > 80
    assert found["peak_mb"] - found["rest_mb"] > 80


def test_latents_of_a_known_velocity() -> None:
    """A constant velocity v takes z_1 to z_1 - v, whatever the steps; the state counts them."""
    given = {"latents": seeded("latents", (1, 2, 3, 3), "float32"), "t": seeded("t", (1,), "float32")}
    given["state"] = seeded("state", (1,), "float32")
    seen: list[float] = []

    def denoise(values: Any) -> Any:
        seen.append(float(values["t"][0]))
        return np.full((1, 2, 3, 3), 0.25), values["state"] + 1

    out = sample(denoise, given, 4)
    np.testing.assert_allclose(out, given["latents"] - 0.25, atol=1e-6)
    assert seen == [1.0, 0.75, 0.5, 0.25]


def test_model_size_counts_shared_parameters_once() -> None:
    layer = nn.Linear(9, 1, device="meta")
    tied = nn.ModuleList([layer, layer])
    assert model_size(tied).as_dict() == {"parameters": 10, "fp32_mb": 4e-5, "fp16_mb": 2e-5}


def test_seconds_per_call_is_the_fastest_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    durations, now = [0.5, 0.25, 4.0, 1.0, 2.0], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += durations.pop(0)

    assert seconds_per_call(call, repeats=3, warm_up=2) == 1.0
    assert not durations


def test_resident_memory_counts_what_is_allocated() -> None:
    release_memory()
    before = resident_mb()
    block = torch.ones(20_000_000)  # 80 MB
    assert resident_mb() - before > 70
    del block
    assert peak_resident_mb() - before > 70
