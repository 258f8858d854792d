"""docs/training.md, word for word: its commands run in order, in an empty folder, on pictures made from OpenMoji.

Only sizes differ: each kind of command is given options that make it small, behind the words of the page. Depth is
learned from drawn shapes, of which there may be few, in place of OpenMoji.
"""

import json
import warnings
from pathlib import Path

import pytest
from PIL import Image

from pochade.cli import main
from test_docs import ROOT, pochade_arguments, shell_lines

FLOW = ["steps=2", "batch_size=4", "warmup_steps=1", "save_every=2", "log_every=2"]
SMALL = {
    "data prepare": ["--limit", "24"],
    "data pairs": ["--limit", "24"],
    "data check": [],
    "train": [*FLOW, "sample_every=0"],
    "train lrf-folder": [*FLOW, "sample_every=2"],
    "generate": ["--steps", "2"],
    "evaluate": ["--samples", "2", "--steps", "1"],
}
FEWER = {"task.kind=depth": ["data.source=synthetic:24"], "data.source=figures:1500": ["data.source=figures:24"]}
"""Words of a command -> what stands behind it, where its data would be encoded for a minute."""


def run(arguments: list[str]) -> None:
    """One command, small, with the process's warnings kept as they were."""
    fewer = [option for word in arguments for option in FEWER.get(word, ())]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(SystemExit) as end:
            main([*arguments, *fewer, *SMALL[" ".join(arguments[: 1 + (" ".join(arguments[:2]) in SMALL)])]])
    assert end.value.code in (0, None), f"pochade {' '.join(arguments)} ended with {end.value.code}"


@pytest.mark.no_cover  # other tests cover what it runs
@pytest.mark.parametrize("page", ["training.md"])
@pytest.mark.usefixtures("small")
def test_the_page_runs_word_for_word(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((128, 128)).save("depth.png")  # the reader's own
    lines = [line for line in shell_lines(ROOT / "docs" / page) if line.startswith("pochade ")]
    # An autoencoder from random weights takes minutes even when small; CIFAR-10 and full size have their own tests.
    without = ("lrf ", "lrf-cifar10 ", "iris ", "iris-curriculum ")
    chosen = [line for line in lines if not line.startswith(tuple(f"pochade train {recipe}" for recipe in without))]
    assert len(chosen) >= 6
    for line in chosen:
        arguments = pochade_arguments(line)
        assert arguments is not None
        run(arguments)

    flow = Path("runs/mine/1-flow")
    assert (flow / "model" / "model_index.json").is_file()
    assert (flow / "samples" / "step-000002.png").is_file()
    assert [json.loads(row)["step"] for row in (flow / "metrics.jsonl").read_text().splitlines()][-1] == 2
    assert any((flow / "tensorboard").iterdir())
    assert any(flow.glob("checkpoint-*"))
    assert len(list(Path("out").glob("*.png"))) == 2
    assert json.loads(Path("report/report.json").read_text())["train"]["pictures"] == 2
    assert Path("report/report.html").is_file()
