"""Progress of sampling: a bar, and with ``--preview`` the picture itself."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from pochade.files import atomic_file

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from pochade.pipelines.callbacks import Callback
    from pochade.runtime import Step

SHARE = 0.1
"""Previews may add this share to the time of the sampling."""

_WIDTH = 32
"""Columns of a preview in the terminal; two rows of pixels fill one line."""


class Budget:
    """Decides when the next preview is made, so that all together take at most ``share`` of the time of sampling.

    What a preview costs is known after the first; until then three sampling steps are assumed, which is more
    than a decoder takes where it would fit into the budget at all.
    """

    def __init__(self, share: float = SHARE, clock: Callable[[], float] = time.perf_counter) -> None:
        self.share = share
        self.clock = clock
        self.spent = 0.0
        self.cost = 0.0
        self.begun = clock()
        self.steps = 0

    def affordable(self) -> bool:
        """Count a sampling step; whether a preview fits now."""
        self.steps += 1
        sampling = self.clock() - self.begun - self.spent
        cost = self.cost or 3 * sampling / self.steps
        return self.spent + cost <= self.share * sampling

    def charge(self, seconds: float) -> None:
        """A preview was made and took this long."""
        self.spent += seconds
        self.cost = max(self.cost, seconds)


class Watch:
    """A context in which ``pictures`` pictures are sampled, each of which calls ``step`` after its steps.

    Args:
        previews: whether pictures are shown as they form, and not the bar alone.
        folder: where ``preview.png`` is kept up to date where the error stream is no terminal; it is deleted at the
            end, when the pictures themselves are there.
    """

    def __init__(self, previews: bool, pictures: int, folder: Path, console: Console) -> None:
        self.previews = previews
        self.console = console
        self.terminal = console.is_terminal
        self.file = None if not previews or self.terminal else _free(folder / "preview.png")
        self.shown = 0
        self.budget = Budget()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
        )
        self.all = self.bar.add_task("pictures", total=pictures, visible=pictures > 1)
        self.one = self.bar.add_task("", total=None)
        self.live = Live(self.bar, console=console, transient=True, refresh_per_second=8)

    def __enter__(self) -> Self:
        if self.terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.terminal:
            self.live.stop()
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    def begin(self, name: str) -> None:
        """A new picture."""
        if self.shown:
            self.bar.advance(self.all)
        self.shown += 1
        short = name if len(name) <= 40 else name[:39] + "…"
        self.bar.reset(self.one, description=Text(short).markup)
        self.budget = Budget()

    def print(self, line: str) -> None:
        """A line on the output, above the bar."""
        if self.terminal:
            self.live.stop()
        print(line, flush=True)
        if self.terminal:
            self.live.start()

    def step(self, step: "Step") -> None:
        """After a sampling step."""
        self.bar.update(self.one, completed=step.number, total=step.total)
        if not self.previews or step.number == step.total or not self.budget.affordable():
            return
        start = self.budget.clock()
        self._show(step.preview())
        self.budget.charge(self.budget.clock() - start)

    def _show(self, image: "Image.Image") -> None:
        if self.file is None:
            self.live.update(Group(half_blocks(image), self.bar))
            return
        with atomic_file(self.file) as file:
            image.save(file, format="PNG")


def pipeline_steps(watch: Watch, decode: "Callable[[Tensor], Tensor]") -> "Callback":
    """The callback of a pipeline whose steps are watched; ``decode`` makes pictures in [0, 1] of its latents."""
    from pochade.runtime import Step

    def on_step(pipe: Any, index: int, _: Any, tensors: dict[str, Any]) -> None:
        shown = tensors["predicted_data"][:1]
        watch.step(Step(index + 1, pipe.num_timesteps, lambda: _to_pil(decode(shown))))

    return on_step


def half_blocks(image: "Image.Image", width: int = _WIDTH) -> Text:
    """A picture as coloured characters, two pixels in each."""
    height = max(2, round(width * image.height / image.width) // 2 * 2)
    small = image.resize((width, height))
    text = Text()
    for y in range(0, height, 2):
        for x in range(width):
            upper, lower = (_hex(small.getpixel((x, row))) for row in (y, y + 1))
            text.append("▀", f"{upper} on {lower}")
        text.append("\n")
    return text


def _hex(pixel: Any) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pixel)


def _to_pil(images: "Tensor") -> "Image.Image":
    from PIL import Image

    return Image.fromarray((images[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy())


def _free(path: Path) -> Path:
    number = 2
    free = path
    while free.exists():
        free = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return free
