"""What the commands share: messages on the error stream, tables and JSON on the output."""

import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pochade.errors import PochadeError, nearest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status


def debug_requested(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without ``--debug``, and whether it was there (before a ``--``)."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, rest = arguments[:end], arguments[end:]
    return [a for a in options if a != "--debug"] + rest, "--debug" in options


def complain(kind: str, message: object) -> None:
    """One line on the error stream: ``kind: message``."""
    text = " ".join(str(message).split())
    print(f"{kind}: {text}", file=sys.stderr)


def figure(value: float, decimals: int = 0) -> str:
    """A number with so many decimals, or two significant digits where these take more."""
    if not value:
        return "0"
    return f"{value:,.{max(decimals, 1 - math.floor(math.log10(abs(value))))}f}"


def gigabytes(count: float, decimals: int = 0) -> str:
    """Bytes in GB, as ``figure`` writes them, or in MB where they are fewer."""
    return f"{figure(count / 1e9, decimals)} GB" if count >= 1e9 else f"{figure(count / 1e6)} MB"


def console(stderr: bool = False) -> "Console":
    """A console on the output or the error stream."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


@contextmanager
def listed(as_json: bool) -> Iterator[list[dict[str, Any]]]:
    """A list that is printed as JSON where that is wanted, also where the work ends before its time."""
    made: list[dict[str, Any]] = []
    try:
        yield made
    finally:
        if as_json and (made or sys.exc_info()[0] is None):
            print_json(made)


def print_json(value: Any) -> None:
    """Indented JSON on the output."""
    print(json.dumps(value, indent=2))


def megabytes(count: int, bytes_each: int) -> str:
    """The size of ``count`` numbers in MB (10^6 bytes)."""
    return f"{count * bytes_each / 1e6:,.1f}"


def check_no_options(given: Sequence[str], context: typer.Context) -> None:
    """Raises PochadeError for the first of ``given`` that is an option which the command of ``context`` does not have.

    For commands that ignore unknown options, since their fields are given as FIELD=VALUE: whoever types ``--steps 100``
    is told of ``steps=100``.
    """
    from pochade.recipes import RECIPES, stages_of
    from pochade.training.overrides import fields_of

    recipes = [recipe for recipe in given if recipe in RECIPES] or ["lora"]
    fields = [path for stage in stages_of(recipes[0]) for path, _ in fields_of(stage)]
    for place, argument in enumerate(given):
        if not argument.startswith("-"):
            continue
        name, _, value = argument.partition("=")
        field = name.lstrip("-").replace("-", "_")
        rest = [text for text in given[place + 1 : place + 2] if not text.startswith("-") and "=" not in text]
        known = [option for parameter in context.command.params for option in parameter.opts]
        own = [path for path in fields if path in (field, f"task.{field}", f"data.{field}")]
        near = "" if own or "." in field else nearest(name, known)
        field = own[0] if own else field
        hint = near or f"; a field is set as {field}={value or next(iter(rest), 'VALUE')}, without dashes"
        raise PochadeError(f"{name}: there is no such option{hint}")


def loading(name: str) -> "Status":
    """A context that says on the error stream that a model is being loaded."""
    from rich.markup import escape

    return console(stderr=True).status(f"loading {escape(name)}")


def processes() -> tuple[int, int]:
    """Which of how many processes, as ``torchrun`` starts them, this is."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_of_others(error: Exception) -> bool:
    """Whether an error of this process comes of another one that it waited for. Gloo has no kind of its own for it."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return processes()[1] > 1 and ("DistError" in kinds or "/gloo/transport/" in str(error))


def is_main() -> bool:
    """Whether this process is the one, of those that ``torchrun`` started, that prints."""
    return processes()[0] == 0


def make_folder(place: Path) -> None:
    """Create a folder and those above it. Raises PochadeError where nothing can be written to it."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise PochadeError(f"out: {str(place)!r} cannot be written to ({error.strerror})") from error


def quiet_libraries() -> None:
    """diffusers and transformers speak up for errors only: what matters is said by pochade."""
    import logging

    for name in ("diffusers", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
