"""Wrong use that typer finds while it reads the command line, as one line that says what is allowed."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from pochade.errors import PochadeError

_ALLOWED = {
    "int_parsing": "whole numbers",
    "int_from_float": "whole numbers",
    "float_parsing": "numbers",
    "greater_than_equal": "whole numbers from {ge} on",
}
"""By what pydantic, with which typer converts values, finds wrong."""


class Commands(TyperGroup):
    """Commands whose wrong use is a PochadeError."""

    def make_context(self, *given: Any, **options: Any) -> Any:
        """As of typer, but for its errors."""
        with _one_line():
            return super().make_context(*given, **options)

    def invoke(self, ctx: Any) -> Any:
        """As of typer, but for its errors: here commands read their arguments."""
        with _one_line():
            return super().invoke(ctx)


@contextmanager
def _one_line() -> Generator[None]:
    try:
        yield
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # no error: the help is shown
            raise
        raise PochadeError(_line(error)) from error


def _line(error: Any) -> str:
    from pydantic import ValidationError  # typer has imported it, where there is a value to convert

    if not isinstance(error, typer.BadParameter) or error.param is None:
        path = "pochade" if error.ctx is None else error.ctx.command_path
        return f"{error.format_message().rstrip('.')} ({path} --help shows what is allowed)"
    name = max(error.param.opts, key=len).lstrip("-").replace("-", "_")
    if isinstance(error.__cause__, ValidationError):
        found = error.__cause__.errors()[0]
        allowed = _ALLOWED.get(found["type"], found["msg"]).format(**found.get("ctx", {}))
        return f"{name}: {found['input']!r} given, allowed are {allowed}"
    if error.message or error.ctx is None:
        return f"{name}: {error.message}"
    return f"{name}: none given; {' '.join(error.ctx.get_usage().split())}"
