"""docs/adapters.md, word for word: its commands run in order, in an empty folder, on a few pictures of OpenMoji.

Only sizes differ: each kind of command is given options that make it small, behind the words of the page.
"""

import json
from pathlib import Path

import pytest

from pochade.cli import main
from pochade.pipelines.metadata import read_metadata
from test_docs import ROOT, blocks, pochade_arguments, shell_lines

SMALL = {
    "train": ["steps=2", "batch_size=2", "warmup_steps=1", "save_every=2", "sample_every=0", "log_every=2"],
    "generate": ["--steps", "2"],
    "upscale": ["--steps", "5"],
    "merge": [],
}


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code in (0, None), f"pochade {' '.join(arguments)} ended with {end.value.code}"


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("small")
def test_the_page_runs_word_for_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare = ["--size", "64", "--format", "folder", "--split", "all", "--limit", "8", "my-pictures"]
    run("data", "prepare", "openmoji", *prepare)
    lines = [line for line in shell_lines(ROOT / "docs" / "adapters.md") if line.startswith("pochade ")]
    # The pairs of the whole of OpenMoji take a minute; the stage has a test of its own.
    chosen = [line for line in lines if not line.startswith("pochade train edit-lora")]
    assert len(chosen) >= 8
    for line in chosen:
        arguments = pochade_arguments(line)
        assert arguments is not None
        run(*arguments, *SMALL[arguments[0]])
    both, again = (Path(folder) / "a-fox-in-the-snow-7.png" for folder in ("both", "again"))
    assert both.read_bytes() == again.read_bytes()
    assert read_metadata(both).request.loras == ("runs/mine/1-lora/model:0.8", "runs/small/1-lora/model:0.5")
    assert both.read_bytes() != Path("out/a-fox-in-the-snow-7.png").read_bytes()
    assert json.loads(Path("my-model/training.json").read_text())["stage"]["name"] == "lora"
    (code,) = blocks(ROOT / "docs" / "adapters.md", "python")
    exec(code.replace('snow")', 'snow", num_inference_steps=2)'), {})
