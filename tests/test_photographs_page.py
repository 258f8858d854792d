"""docs/photographs.md, word for word: its commands run in order, in an empty folder, on three photographs.

Only sizes differ: each kind of command is given options that make it small, behind the words of the page.
"""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from pochade.cli import main
from pochade.pipelines.autoencoders import load_autoencoder
from test_docs import ROOT, pochade_arguments, shell_lines

FAST = ["steps=1", "batch_size=2", "warmup_steps=1", "save_every=1", "sample_every=0", "log_every=1", "data.size=32"]


def run(arguments: list[str], *allowed: int) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code in (0, None, *allowed), f"pochade {' '.join(arguments)} ended with {end.value.code}"


@pytest.mark.no_cover  # other tests cover what it runs
@pytest.mark.filterwarnings("default")
def test_the_page_runs_word_for_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photographs = tmp_path / "my-photographs"
    photographs.mkdir()
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        (photographs / name).write_bytes(files("skimage.data").joinpath(name).read_bytes())
    lines = [line for line in shell_lines(ROOT / "docs" / "photographs.md") if line.startswith("pochade ")]
    assert len(lines) == 7
    for line in lines:
        arguments = pochade_arguments(line)
        assert arguments is not None
        if arguments[1] == "denoiser":  # the only one that reads captions
            for name in ("chelsea", "coffee", "rocket"):
                (photographs / f"{name}.txt").write_text(name)
        run([*arguments, *(FAST if arguments[0] == "train" else [])], *([1] if arguments[1] == "check" else []))

    runs = {"photographs": 8, "f16": 16, "f32": 32}
    for name, pixels in runs.items():
        assert load_autoencoder(f"runs/{name}/1-autoencoder/model").downsampling == pixels
    before, after = (
        json.loads((Path(out) / "check.json").read_text())["reconstruction"] for out in ("data-check", "after")
    )
    assert [name for name, _ in sorted(before["psnr"])] == ["chelsea.png", "coffee.png", "rocket.jpg"]
    assert 20 < before["median"] < 30
    assert after["model"] == "runs/photographs/1-autoencoder/model"
    assert Path("runs/whole/1-flow/model/model_index.json").is_file()
