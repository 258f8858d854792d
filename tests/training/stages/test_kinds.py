"""What every kind of stage promises: a place in the registry, settings that name it, a trial without its data."""

import json
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pochade.errors import PochadeError
from pochade.recipes import RECIPES, stages_of
from pochade.training.costs import activation_bytes, fixed_memory
from pochade.training.data import ImageData
from pochade.training.dry_run import dry_run
from pochade.training.executor import check
from pochade.training.overrides import override
from pochade.training.stage import Settings, Stage
from pochade.training.stages import KINDS, kind_of
from pochade.training.stages.components import Components
from pochade.training.stages.kind import Kind
from pochade.training.task import Batch, Task

TINY = (
    *("steps=1", "batch_size=2", "precision=fp32", "data.size=32"),
    *("autoencoder.task.width=8", "autoencoder.task.encoder_blocks=0,0,1,0", "autoencoder.task.decoder_blocks=0,1,0,0"),
    *("autoencoder.task.latent_channels=4", "autoencoder.task.perceptual=0", "task.variant=nano"),
    *("task.options=sample_size=8,dim=16,heads=2,hidden=24,blocks=1", "edit.task.options="),
)


def test_every_kind_has_settings_of_its_own() -> None:
    seen: set[type[Any]] = set()
    for name, place in KINDS.items():
        module = import_module(place.partition(":")[0])
        own = [c for c in vars(module).values() if isinstance(c, type) and getattr(c, "stage_kind", None) == name]
        assert len(own) == 1
        [settings] = own
        assert issubclass(settings, Settings)
        assert is_dataclass(settings)
        assert not {f.name for f in fields(settings)} & {"stage_kind"}
        seen.add(settings)
    assert len(seen) == len(KINDS)


def test_every_kind_is_in_a_recipe() -> None:
    used = {stage.task.stage_kind for name in RECIPES for stage in stages_of(name)}
    assert used == set(KINDS)
    for name in RECIPES:
        assert all(isinstance(kind_of(stage), Kind) for stage in stages_of(name))


def test_settings_of_no_kind_are_refused() -> None:
    stage = Stage(name="odd", task=ImageData(), data=ImageData(), steps=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(PochadeError, match="task: ImageData given, allowed are the settings of autoencoder, decoder"):
        kind_of(stage)


@pytest.mark.parametrize("recipe", ["student", "control", "image-prompt"])
def test_what_is_always_cached_is_not_trained_without_a_cache(recipe: str) -> None:
    stages = override(stages_of(recipe), ["data.cached=false"])
    with pytest.raises(PochadeError, match=r"data.cached: false given, allowed is true"):
        check(stages, Components())


def test_a_trial_needs_no_data_and_says_what_a_run_costs() -> None:
    stages = override(stages_of("lrf-curriculum"), [*TINY, "flow_low.steps=3600", "consistency.task.last_intervals=8"])
    trials = {trial.stage: trial for trial in dry_run(stages, 1)}
    assert list(trials) == [stage.name for stage in stages]
    low = trials["flow_low"]
    assert low.hours == pytest.approx(low.seconds_per_step)
    assert low.memory.keys() == {"weights", "gradients", "optimiser", "average", "frozen", "activations"}
    assert low.memory["gradients"] == 4 * low.parameters
    assert low.memory["optimiser"] == 2 * low.memory["gradients"]
    assert trials["consistency"].memory["frozen"] >= 2 * low.memory["weights"]  # teacher and target
    assert all(torch.tensor(t.losses).isfinite().all() for t in trials.values())
    json.dumps([trial.memory for trial in trials.values()])


def test_a_batch_that_does_not_fit_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    from pochade import device
    from pochade.training import dry_run as module

    stages = override(stages_of("lrf-curriculum"), [*TINY, "flow_low.batch_size=1024"])[:2]
    *_, fits = dry_run(stages, 1)
    assert fits.fits
    assert fits.accumulate == 1
    # As much memory as half of the batch takes.
    half = fits.needed - fits.memory["activations"] // 2
    monkeypatch.setattr(module, "device_memory", lambda _: device.Memory(half, half))
    *_, trial = dry_run(stages, 1)
    assert not trial.fits
    assert trial.accumulate == 2
    monkeypatch.setattr(module, "device_memory", lambda _: device.Memory(1, 1))
    *_, trial = dry_run(stages, 1)
    assert trial.accumulate is None


class Squares(Task):
    """x -> (W x)^2: the square keeps W x, the product keeps x and W, which were there before."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 16, bias=False)
        self.frozen = nn.Linear(4, 4, bias=False).requires_grad_(False)

    def trainable(self) -> nn.Module:
        return self.net

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": self.net(batch["x"]).square().sum()}


def test_memory_is_counted_by_part() -> None:
    task = Squares()
    memory, trained = fixed_memory(task)
    weights = 4 * 8 * 16
    assert trained == 8 * 16
    assert memory == {
        "weights": weights,
        "gradients": weights,
        "optimiser": 2 * weights,
        "average": weights,
        "frozen": 4 * 16,
    }
    assert activation_bytes(task, {"x": torch.randn(3, 8)}, "fp32") == 3 * 16 * 4
    assert activation_bytes(task, {"x": torch.randn(6, 8)}, "fp32") == 2 * activation_bytes(
        task, {"x": torch.randn(3, 8)}, "fp32"
    )


def test_a_trial_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    list(dry_run(override(stages_of("lrf-curriculum"), TINY)[:2], 1))
    assert not list(tmp_path.iterdir())
