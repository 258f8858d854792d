"""Training a LoRA: what learns, which objective, what is refused, and the whole way at toy size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from PIL import Image, ImageDraw
from torch import nn

from cli.run import cli
from contracts.families import FAMILIES, make, stir
from pochade.data.dataset import is_held_out
from pochade.denoisers.lrf import LRFDenoiser
from pochade.errors import PochadeError
from pochade.nn.keyed_random import row_keys
from pochade.pipelines.lora_files import WEIGHTS, find_lora, weights_sha256
from pochade.pipelines.schedulers import make_scheduler
from pochade.pipelines.tensor_files import read_head
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from pochade.training.dry_run import dry_run
from pochade.training.executor import check
from pochade.training.overrides import override
from pochade.training.stage import with_rate
from pochade.training.stages.components import Components
from pochade.training.stages.lora import FewStepsLoRATask, LoRASettings, LoRATask, layers_of, phases_of
from pochade.training.stages.lora_layer import AdaptedLinear
from recipes.running import train

FAST = ("steps=3", "batch_size=4", "warmup_steps=1", "sample_every=3", "log_every=1", "save_every=3", "ema_decay=0")
SIZE = 32


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    for i in range(10):
        image = Image.new("RGB", (SIZE, SIZE), "white")
        ImageDraw.Draw(image).ellipse((2 + i, 4, 20 + i // 2, 24), fill=(20 * i, 90, 0))
        image.save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"picture number {i}")
    return path


def batch(denoiser: Any, count: int = 4) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    config = denoiser.config

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "latents": noise(count, config.latent_channels, 4, 4),
        "seed": torch.arange(count),
        "tokens": noise(count, 3, config.text_dim),
        "mask": torch.ones(count, 3, dtype=torch.bool),
        "pooled": noise(count, config.pooled_dim) if config.pooled_dim else None,
    }


def adapted(family: str, rank: int = 2) -> Any:
    denoiser = stir(make(family, next(iter(FAMILIES[family].toys))))
    denoiser.requires_grad_(False)
    denoiser.add_adapter(LoraConfig(r=rank, target_modules=denoiser.adaptable_layers()))
    return denoiser


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("few", [False, True])
def test_the_adapters_alone_learn(family: str, few: bool) -> None:
    denoiser = adapted(family)
    settings = LoRASettings(cfg_dropout=0.0)
    task: Any = FewStepsLoRATask(denoiser, settings, phases=4, time_shift=2.0) if few else LoRATask(denoiser, settings)
    kept = {name: p.clone() for name, p in denoiser.named_parameters() if ".lora_" not in name}
    trained = dict(task.trainable().named_parameters())
    assert {name.replace("/", ".") for name in trained} == {
        f"denoiser.{name}" for name, p in denoiser.named_parameters() if ".lora_" in name
    }
    optimizer = torch.optim.AdamW(task.parameter_groups(0.0, 1e-2))
    losses: list[float] = []
    for _ in range(12):
        torch.manual_seed(0)  # the depth that IRIS draws
        loss = task(batch(denoiser))["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, kept[name]) for name, p in denoiser.named_parameters() if name in kept)
    without = [name for name, p in trained.items() if "lora_B" in name and not bool(p.any())]
    assert not without


def test_a_consistent_network_has_no_loss_of_consistency() -> None:
    """The one picture z_0 is all the data: v = (z - z_0) / t leads from every point of a path to the same end."""

    class Exact(LRFDenoiser):
        def forward(self, latents: Any, t: Any, conditioning: Any, **_: Any) -> Any:
            z_0 = torch.full_like(latents, 0.3)
            out = super().forward(latents, t, conditioning)
            return replace(out, velocity=(latents - z_0) / t.view(-1, 1, 1, 1).clamp_min(1e-6) + 0 * out.velocity)

    toy = next(iter(FAMILIES["lrf"].toys.values()))
    for phases in (1, 4):
        task = FewStepsLoRATask(Exact(**toy), LoRASettings(), phases=phases, time_shift=2.0)
        given = {**batch(task.parts["denoiser"], 32), "seed": row_keys(torch.randn(32, 3))}
        given["latents"] = torch.full_like(given["latents"], 0.3)
        assert float(task(given)["loss"].detach()) < 1e-4


def test_the_folder_of_a_run_is_taken_for_its_lora_and_for_no_model(
    trained: Path, toy_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained.parents[1]
    assert find_lora(f"{run}:0.5").file == trained / WEIGHTS
    assert find_lora(str(trained.parent)).file == trained / WEIGHTS
    with pytest.raises(PochadeError, match=r"'.*' given, allowed is a folder that holds .*, that of a training which"):
        find_lora(str(tmp_path))
    spaced = tmp_path / "mine é"
    spaced.symlink_to(run)
    for folder, given in ((run, run), (trained, trained), (spaced, f"'{spaced}'")):
        base = str(toy_pipeline_folder)
        message = (
            f"model: '{folder}' holds a LoRA of '{base}': allowed is {base}, where it is taken with --lora {given}"
        )
        whole = f", or what pochade merge {base} --lora {given} -o FOLDER makes"
        assert message + whole in cli(capsys, "generate", "a fox", "--model", str(folder), code=2).error
        assert message + whole in cli(capsys, "evaluate", str(folder), str(tmp_path), code=2).error
        assert "of mine" in cli(capsys, "info", str(folder)).out


@pytest.fixture(scope="module")
def trained(pictures: Path, toy_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "lora"
    changes = [f"data.source={pictures}", f"task.base={toy_pipeline_folder}", "task.rank=3", "data.trigger=of mine"]
    changes += [*FAST, "learning_rate=0.05"]
    folder = train("lora", changes, out)
    assert folder == out / "1-lora" / "model"
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert train("lora", changes, out, resume=True) == folder
    with pytest.raises(PochadeError, match=r"rank 3 \(now 2\); a new run begins anew in another folder \(--out\)$"):
        train("lora", [*changes, "task.rank=2"], out, resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == stamps
    return folder


def test_a_recipe_leaves_a_lora(trained: Path, toy_pipeline_folder: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {WEIGHTS, "training.json"}
    tensors, metadata = read_head(trained / WEIGHTS)
    assert {entry["dtype"] for entry in tensors.values()} == {"F16"}
    assert metadata["base_model"] == str(toy_pipeline_folder)
    assert metadata["base_model_sha256"] == weights_sha256(toy_pipeline_folder)
    assert (metadata["rank"], metadata["alpha"], metadata["trigger_words"]) == ("3", "3", "of mine")
    record = json.loads((trained / "training.json").read_text())
    assert record["size"] == SIZE
    assert (trained.parent / "samples" / "step-000003.png").is_file()
    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np"}
    before = pipe("a red apple", generator=torch.Generator().manual_seed(0), **call).images
    pipe.load_lora_weights(trained, adapter_name="mine")
    after = pipe("a red apple", generator=torch.Generator().manual_seed(0), **call).images
    assert not np.array_equal(before, after)


def test_a_run_that_names_no_steps(
    pictures: Path, toy_pipeline_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Steps follow from the data, a sheet comes at once, held-out pictures are measured, and the best is kept."""
    source = tmp_path / "pictures"
    source.mkdir()
    for path in pictures.iterdir():
        if path.suffix in (".png", ".txt"):
            (source / path.name).write_bytes(path.read_bytes())
    held = next(name for name in (f"thing {i}" for i in range(100)) if is_held_out(name))
    (source / "0.txt").write_text(held)
    changes = [f"data.source={source}", f"task.base={toy_pipeline_folder}", "batch_size=2", "learning_rate=0.05"]
    changes += ["warmup_steps=1", "sample_every=1000", "save_every=50", "ema_decay=0"]
    count = sum(not is_held_out((source / f"{i}.txt").read_text()) for i in range(10))
    folder = train("lora", [*changes, "batch_size=16", "accumulate=1"], tmp_path / "run")
    printed = capfd.readouterr().err
    assert f"lora: 100 steps, from the number of samples, {count}; steps=... gives others" in printed
    stage = folder.parent
    assert [path.name for path in sorted((stage / "samples").iterdir())] == ["step-000001.png", "step-000100.png"]
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held_out_loss" in line] == list(range(10, 101, 10))
    record = json.loads((stage / "best" / "training.json").read_text())
    assert record["stage"]["steps"] == 100
    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    pipe.load_lora_weights(stage / "best")
    assert train("lora", [*changes, "batch_size=16", "accumulate=1"], tmp_path / "run", resume=True) == folder


def test_the_rate_follows_from_the_rank() -> None:
    stage = override(stages_of("lora"), ["task.rank=64"])[0]
    assert stage.learning_rate == 0
    assert with_rate(stage).learning_rate == 5e-4
    assert with_rate(override([stage], ["task.rank=16"])[0]).learning_rate == 1e-3
    assert with_rate(override([stage], ["learning_rate=1e-4"])[0]).learning_rate == 1e-4
    with pytest.raises(PochadeError, match=r"learning_rate: 0\.0 given, must be above 0"):
        override(stages_of("lrf"), ["learning_rate=0"])


def test_a_text_encoder_of_its_own_is_adapted_too(pictures: Path, toy_pipeline_folder: Path, tmp_path: Path) -> None:
    changes = [f"data.source={pictures}", f"task.base={toy_pipeline_folder}", "task.text=true", "task.layers=qkv"]
    folder = train("lora", [*changes, *FAST], tmp_path / "run")
    names = {name.partition(".lora_")[0] for name in read_head(folder / WEIGHTS)[0]}
    assert names == {"denoiser.core.0.mixer.qkv", "text_encoder.expand", "text_encoder.contract"}
    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    pipe.load_lora_weights(folder)
    assert set(pipe.get_list_adapters()) == {"denoiser", "text_encoder"}


@pytest.mark.parametrize("scheduler", ["lcm", "euler"])
def test_a_model_of_few_steps_is_trained_by_consistency(
    scheduler: str, pictures: Path, toy_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = TextToImagePipeline.from_pretrained(toy_pipeline_folder).components
    changes = {"scheduler": make_scheduler(scheduler), "default_steps": 4, "default_guidance": 1.0}
    distilled = TextToImagePipeline(**{**parts, **changes})
    assert phases_of(distilled, LoRASettings())["phases"] == (1 if scheduler == "lcm" else 4)
    distilled.save_pretrained(tmp_path / "base")
    folder = train("lora", [f"data.source={pictures}", f"task.base={tmp_path / 'base'}", *FAST], tmp_path / "run")
    assert (folder / WEIGHTS).is_file()
    assert "consistency training, which keeps its few steps" in capsys.readouterr().err


@pytest.mark.parametrize(("trigger", "known"), [("cat", True), ("a cat of mine", False), ("zxqv", False)])
def test_a_trigger_that_the_base_knows_is_warned_of(
    trigger: str, known: bool, pictures: Path, toy_pipeline_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    changes = [f"data.source={pictures}", f"task.base={toy_pipeline_folder}", f"data.trigger={trigger}", *FAST]
    train("lora", [*changes, "steps=1", "sample_every=0"], tmp_path / "run")
    assert (f"data.trigger: '{trigger}' is a word that" in capsys.readouterr().err) is known


def test_classes_are_learned_too(toy_class_pipeline_folder: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for i in range(4):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (SIZE, SIZE), (40 * i, 90, 0)).save(tmp_path / "data" / name / f"{i}.png")
    changes = [f"data.source=classes:{tmp_path / 'data'}", f"task.base={toy_class_pipeline_folder}", *FAST]
    assert (train("lora", changes, tmp_path / "run") / WEIGHTS).is_file()


@pytest.mark.parametrize(
    ("held_out", "names", "said"),
    [
        (True, "0", "lora: 1 sample to train on; "),
        (False, "012", "lora: 3 samples to train on, in 1 group of one caption or concept, an epoch shows one of each"),
        (False, "000", "lora: 3 samples to train on, of 1 different picture, in 1 group of one caption or concept, an"),
    ],
)
def test_one_picture_is_enough_and_one_caption(
    held_out: bool,
    names: str,
    said: str,
    pictures: Path,
    toy_pipeline_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = tmp_path / "one"
    one.mkdir()
    caption = next(name for name in (f"thing {i}" for i in range(100)) if not is_held_out(name))
    for i, name in enumerate(names):
        (one / f"{i}.png").write_bytes((pictures / f"{name}.png").read_bytes())
        (one / f"{i}.txt").write_text(caption)
    changes = [f"data.source={one}", f"task.base={toy_pipeline_folder}", f"data.held_out={held_out}", *FAST]
    assert (train("lora", changes, tmp_path / "run") / WEIGHTS).is_file()
    printed = capsys.readouterr().err
    assert said in printed
    assert ("lora: nothing is held out, all samples are on the training side" in printed) is held_out


@pytest.mark.parametrize(
    "changes, message",
    [
        (["task.rank=0"], r"rank: 0 given, must be at least 1"),
        (["task.rank=100000"], r"task.rank: 100000 given, must be at most \d+: no adapted matrix of .* above that"),
        (["task.alpha=0"], r"alpha: 0.0 given, must be above 0"),
        (["task.cfg_dropout=2"], r"cfg_dropout: 2.0 given, must be in \[0, 1\]"),
        (["task.base=none"], r"task.base: none given, allowed is the name or the folder of a trained model"),
        (["task.base=nowhere"], r"task.base: 'nowhere' is neither"),
        (["task.layers=kqv"], r"task.layers: 'kqv' given, allowed are .*did you mean 'qkv'"),
        (["initialise_from=lrf-openmoji"], r"initialise_from: 'lrf-openmoji' given, but the start is task.base"),
        (["data.size=40"], r"data.size: 40 given, allowed are multiples of 16"),
        (["data.source=none"], r"data.source: not set"),
        (
            ["data.wordings=4"],
            r"data.wordings: 4 given, but nothing in a caption is random: allowed with data.keep_tags",
        ),
        (["data.wordings=4", "data.word_dropout=0"], r"data.wordings: 4 given, but nothing in a caption is random"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    changes: list[str], message: str, pictures: Path, toy_pipeline_folder: Path
) -> None:
    given = [f"data.source={pictures}", f"task.base={toy_pipeline_folder}", *changes]
    with pytest.raises(PochadeError, match=message) as error:
        check(override(stages_of("lora"), given), Components())
    assert "\n" not in str(error.value)


def test_a_frozen_text_encoder_has_no_adapters() -> None:
    pipe = TextToImagePipeline.from_pretrained()
    with pytest.raises(PochadeError, match=r"task.text: true given, allowed is false: the text encoder of 'x'"):
        layers_of(pipe, LoRASettings(base="x"), text=True)


def test_a_model_that_edits_learns_from_pairs(pictures: Path, toy_editor_folder: Path, tmp_path: Path) -> None:
    changes = [f"data.source={pictures}", "data.pairs=pictures", f"task.base={toy_editor_folder}", "data.draws=1"]
    changes += ["task.tasks=super_resolution", f"data.size={SIZE}", *FAST]
    folder = train("edit-lora", changes, tmp_path / "run")
    tensors, metadata = read_head(folder / WEIGHTS)
    assert metadata["base_model"] == str(toy_editor_folder)
    pipe = TextToImagePipeline.from_pretrained(toy_editor_folder)
    pipe.load_lora_weights(folder)
    assert {name.partition(".lora_")[0] for name in tensors} == {
        f"denoiser.{name}"
        for name in TextToImagePipeline.from_pretrained(toy_editor_folder).denoiser.adaptable_layers()
    }
    for wrong, message in (
        ("task.tasks=inpaint", r"task.tasks: 'inpaint' given, but .* allowed is some of edit, super_resolution"),
        ("task.base=none", r"task.base: none given, allowed is .* a model that edits"),
        ("task.base=lrf-openmoji", r"'super_resolution' given, but 'lrf-openmoji' .* pochade train edit makes one"),
        ("task.rank=0", r"rank: 0 given"),
        ("task.generate=2", r"generate: 2.0 given, must be in \[0, 1\)"),
    ):
        with pytest.raises(PochadeError, match=message):
            check(override(stages_of("edit-lora"), [*changes, wrong]), Components())


def test_a_dry_run_counts_the_adapters_alone(pictures: Path, toy_pipeline_folder: Path) -> None:
    stages = override(stages_of("lora"), [f"data.source={pictures}", f"task.base={toy_pipeline_folder}"])
    (trial,) = dry_run(stages, 1)
    base = TextToImagePipeline.from_pretrained(toy_pipeline_folder).denoiser
    assert 0 < trial.parameters < sum(p.numel() for p in base.parameters())
    assert trial.memory["frozen"] >= sum(p.nbytes for p in base.parameters())
    assert trial.memory["average"] == trial.memory["gradients"] == 4 * trial.parameters


@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_that_is_trained_is_pefts(bias: bool) -> None:
    """Values and gradients of the layer with fewer products are those of peft's own, also while several are active."""
    torch.manual_seed(0)
    base = nn.Linear(5, 7, bias=bias).double().requires_grad_(False)
    config = LoraConfig(r=3, lora_alpha=6)
    own, theirs = (kind(base, "default", config, r=3, lora_alpha=6) for kind in (AdaptedLinear, Linear))
    for layer in (own, theirs):
        layer.double()
    nn.init.normal_(own.lora_B["default"].weight)
    theirs.load_state_dict(own.state_dict())
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    dy = torch.randn(2, 4, 7, dtype=torch.float64)
    found: list[list[torch.Tensor]] = []
    for layer in (own, theirs):
        given = x.clone().requires_grad_()
        out = layer(given)
        out.backward(dy)
        gradients = [layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad]
        found.append([out.detach(), given.grad, *gradients])  # pyright: ignore[reportArgumentType]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(own(x), theirs(x), rtol=0, atol=0)
