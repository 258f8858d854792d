"""The prompts of a call, and the requests that come of them."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

from pochade.arguments import check_seed
from pochade.errors import PochadeError
from pochade.pipelines.metadata import PictureMetadata
from pochade.pipelines.prepare import PreparedRequest

STDIN = "-"

COMMANDS = {"generate": "generate", "edit": "edit", "inpaint": "inpaint", "super_resolution": "upscale"}
"""Task of a request -> the command that makes it."""


def read_prompts(given: Sequence[str]) -> list[str]:
    """The prompts of arguments: sentences, ``@FILE`` for the lines of a file, ``-`` for those of the standard input.

    Empty lines are passed over; a line is a prompt as it stands.

    Raises:
        PochadeError: a file cannot be read, is no text in UTF-8, or holds no line.
    """
    found: list[str] = []
    for argument in given:
        if argument == STDIN:
            found += _lines(sys.stdin.buffer.read(), "the standard input")
        elif argument.startswith("@"):
            path = Path(argument[1:])
            try:
                found += _lines(path.read_bytes(), repr(str(path)))
            except OSError as error:
                raise PochadeError(
                    f"prompt: {argument!r} given, {str(path)!r} cannot be read ({error.strerror})"
                ) from error
        else:
            found.append(argument)
    return found


def _lines(content: bytes, name: str) -> list[str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PochadeError(
            f"prompt: {name} is no text in UTF-8 (byte {error.start}), a prompt a line is allowed"
        ) from error
    lines = [line.strip() for line in StringIO(text, newline=None) if line.strip()]
    if not lines:
        raise PochadeError(f"prompt: {name} is empty, allowed is a prompt a line")
    return lines


def numbered(first: PreparedRequest, prompts: Sequence[str], per_prompt: int) -> list[PreparedRequest]:
    """``first`` and those like it: ``per_prompt`` for each of ``prompts`` in turn, of which picture i has the seed of
    the first plus i. Raises PochadeError where a seed would be too large."""
    seed = first.request.seed
    assert seed is not None
    each = [prompt for prompt in prompts for _ in range(per_prompt)]
    check_seed(seed, len(each))
    return [replace(first, request=replace(first.request, prompt=text, seed=seed + i)) for i, text in enumerate(each)]


def check_made_by(task: str, metadata: PictureMetadata) -> None:
    """Raises PochadeError where a picture to repeat was made by the command of another task."""
    made = str(metadata.to_dict()["task"])
    if made != task:
        raise PochadeError(
            f"like: the picture was made by pochade {COMMANDS[made]}, which repeats it; allowed are those of "
            f"pochade {COMMANDS[task]}"
        )
