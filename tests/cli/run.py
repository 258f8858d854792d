"""Running the command line inside the test's process."""

from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Outcome:
    """What a command printed."""

    out: str
    error: str


def cli(capsys: Any, *arguments: str, code: int = 0) -> Outcome:
    """Run ``pochade arguments``; the exit code must be ``code``."""
    from pochade.cli import main

    capsys.readouterr()
    with pytest.raises(SystemExit) as leave:
        main(list(arguments))
    printed = capsys.readouterr()
    assert leave.value.code == code, printed.err
    return Outcome(printed.out, printed.err.strip())
