"""docs/your-pictures.md, word for word: its commands run in order, in an empty folder, on a small icon set.

Only sizes differ: each kind of command is given options that make it small, behind the words of the page. The page
that is exported at the end is opened in a browser, where there is one.
"""

import json
from pathlib import Path

import pytest

from data.sources.iconify_sets import disc, write_packed
from export.web.browsing import PATIENCE
from export.web.serving import serve
from pochade.cli import main
from pochade.data.dataset import is_held_out
from pochade.pipelines.metadata import read_metadata
from test_docs import ROOT, pochade_arguments, shell_lines

SET = "streamline-ultimate-color"
SMALL = {
    "data prepare": [],
    "data check": [],
    "train": ["steps=2", "batch_size=2", "warmup_steps=1", "save_every=2", "sample_every=0", "log_every=2"],
    "generate": ["--steps", "1"],
    "merge": [],
    "evaluate": ["--samples", "2", "--steps", "1"],
    "export": ["--size", "64"],
}


def run(arguments: list[str]) -> None:
    kind = arguments[0] if arguments[0] in SMALL else " ".join(arguments[:2])
    with pytest.raises(SystemExit) as end:
        main([*arguments, *SMALL[kind]])
    allowed = (0, None, 1) if kind == "data check" else (0, None)
    assert end.value.code in allowed, f"pochade {' '.join(arguments)} ended with {end.value.code}"


def write_set(folder: Path) -> None:
    """Discs of several colours and places, eight to learn from and two that are held out."""
    names = [f"disc-{word}" for word in ("red", "big", "far", "low", "old", "new", "wet", "dry", "hot", "odd", "sad")]
    names += [f"ring-{word}" for word in ("red", "big", "far", "low", "old", "new", "wet", "dry", "hot", "odd", "sad")]
    held_out = [name for name in names if is_held_out(name.replace("-", " "))]
    trained = [name for name in names if name not in held_out]
    chosen = [*trained[:8], *held_out[:2]]
    assert len(held_out) >= 2
    icons = {name: disc(f"{28 * i:02x}{255 - 28 * i:02x}80", x=5 + 0.6 * i) for i, name in enumerate(chosen)}
    write_packed(folder, SET, icons)


@pytest.mark.no_cover  # other tests cover what it runs
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("small")
def test_the_page_runs_word_for_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "npm")  # npm pack needs a network
    lines = [line for line in shell_lines(ROOT / "docs" / "your-pictures.md") if line.startswith("pochade ")]
    assert len(lines) >= 8
    for line in lines:
        arguments = pochade_arguments(line)
        assert arguments is not None
        run(arguments)

    assert read_metadata(next(Path("out").glob("a-lighthouse*.png"))).request.loras == ("runs/mine/1-lora/model",)
    report = json.loads(Path("report/report.json").read_text())
    assert (report["train"]["pictures"], report["held_out"]["pictures"]) == (2, 2)
    assert json.loads(Path("site/model/manifest.json").read_text())["defaults"]["steps"] == 4
    with serve(Path("site"), "/") as host:
        page = request.getfixturevalue("browser").new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(host.url)
        page.wait_for_selector("body[data-threads]")
        page.fill("#prompt", "a lighthouse, ultimate color icons style")
        page.click("#go")
        page.wait_for_selector("#pictures .tile:not([aria-busy])")
        page.close()
