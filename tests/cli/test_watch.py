"""Previews within their budget."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from pochade.cli.watch import SHARE, Budget, Watch, half_blocks, pipeline_steps
from pochade.pipelines.callbacks import Callback


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("cost", [0.0, 0.01, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("steps", [10, 50, 200])
def test_previews_stay_within_their_share(cost: float, steps: int) -> None:
    """Steps of one second each; a preview costs up to three of them, as is assumed before the first is seen."""
    clock = Clock()
    budget = Budget(clock=clock)
    made = 0
    for _ in range(steps):
        clock.now += 1
        if budget.affordable():
            clock.now += cost
            budget.charge(cost)
            made += 1
    assert budget.spent <= SHARE * steps
    # And the budget is used: what is left over does not pay for two more.
    if steps >= 50 and cost >= 0.5:
        assert made * cost > SHARE * steps - 2 * max(cost, 1)


def watch(console: Console, folder: Path) -> tuple[Watch, Callback, list[int]]:
    import torch

    calls: list[int] = []

    def decode(latents: Any) -> Any:
        calls.append(1)
        return torch.linspace(0, 1, 3 * 64).reshape(1, 3, 8, 8)

    w = Watch(True, 2, folder, console)
    return w, pipeline_steps(w, decode), calls


def run(w: Watch, step: Callback, steps: int) -> None:
    import torch

    pipe = SimpleNamespace(num_timesteps=steps)
    w.begin("an apple [bold]")
    for i in range(steps):
        w.budget.begun -= 10
        step(pipe, i, None, {"predicted_data": torch.zeros(1)})


def test_preview_file_is_a_picture_and_goes(tmp_path: Path) -> None:
    (tmp_path / "preview.png").write_text("mine")
    w, step, calls = watch(Console(file=io.StringIO()), tmp_path)
    with w:
        run(w, step, 60)
        with Image.open(tmp_path / "preview-2.png") as image:
            assert image.size == (8, 8)
    assert calls
    assert [p.name for p in tmp_path.iterdir()] == ["preview.png"]
    assert (tmp_path / "preview.png").read_text() == "mine"


def test_preview_in_a_terminal(tmp_path: Path, capsys: Any) -> None:
    stream = io.StringIO()
    w, step, calls = watch(Console(file=stream, force_terminal=True, color_system="truecolor", width=80), tmp_path)
    with w:
        run(w, step, 60)
        w.print("out/apple.png")
    assert calls
    assert "▀" in stream.getvalue()
    assert "an apple [bold]" in stream.getvalue()
    assert capsys.readouterr().out == "out/apple.png\n"
    assert list(tmp_path.iterdir()) == []


def test_half_blocks_hold_two_pixels_each() -> None:
    image = Image.new("RGB", (2, 2))
    for i, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]):
        image.putpixel((i % 2, i // 2), colour)
    text = half_blocks(image, width=2)
    assert text.plain == "▀▀\n"
    assert [str(span.style) for span in text.spans] == ["#ff0000 on #0000ff", "#00ff00 on #ffffff"]
