"""Services that show runs: what is refused, and, where their libraries are installed, what arrives there."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pochade.errors import PochadeError
from pochade.training.loop import train
from pochade.training.trackers import SERVICES, check_trackers
from training.toy import ToyDataset, ToyTask, toy_stage


def test_a_service_is_known_named_once_and_installed() -> None:
    check_trackers(())
    with pytest.raises(PochadeError, match=r"trackers: 'wandbb' given, allowed are wandb, aim \(did you mean 'wandb'"):
        check_trackers(["wandbb"])
    for name in SERVICES:
        if find_spec(name) is None:
            with pytest.raises(PochadeError, match=rf"{name} is not installed: pip install 'pochade\[{name}\]'"):
                check_trackers([name])
        else:
            check_trackers([name])
            with pytest.raises(PochadeError, match=f"trackers: '{name}' given twice"):
                check_trackers([name, name])


def run(folder: Path, *trackers: str) -> None:
    def sheet() -> Image.Image:
        return Image.new("RGB", (4, 4))

    stage = toy_stage(steps=4, log_every=2, sample_every=4, save_every=4, trackers=trackers)
    train(stage, ToyTask(), ToyDataset(), folder, sample_sheet=sheet, console=False)


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_gets_numbers_settings_and_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb: Any = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(tmp_path / "run" / "1-toy", "wandb")
    (made,) = (tmp_path / "run" / "1-toy" / "wandb").glob("offline-run-*")
    (log,) = made.glob("*.wandb")
    assert wandb.run is None  # it was finished
    stored = log.read_bytes()
    assert all(word in stored for word in (b"gradient_norm", b"learning_rate", b"batch_size", b"run/1-toy"))
    assert len(list((made / "files" / "media" / "images").glob("samples_*.png"))) == 2


@pytest.mark.filterwarnings("ignore")
def test_aim_gets_numbers_settings_and_sheets(tmp_path: Path) -> None:
    pytest.importorskip("aim")
    run(tmp_path / "run" / "1-toy", "aim")
    kept = tmp_path / "run" / "1-toy" / ".aim"
    stored = b"".join(path.read_bytes() for path in kept.rglob("*.sst"))  # a run is listed once Aim has indexed it
    assert all(word in stored for word in (b"gradient_norm", b"learning_rate", b"batch_size", b"samples"))
    assert b"run/1-toy" in (kept / "run_metadata.sqlite").read_bytes()
