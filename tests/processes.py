"""Processes that tests start: however a test ends, they and all that they started are ended, and their pipes closed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

TESTS = Path(__file__).parent
LONGEST = 600
"""Seconds after which processes that wait for each other are ended; a machine that is busy takes minutes."""


@contextmanager
def started(
    *arguments: str | Path, cwd: Path | None = None, **environment: str | None
) -> "Iterator[subprocess.Popen[str]]":
    """Python with these arguments and one thread, which imports what tests import; it has ended where the block ends.

    Variables of the environment that are None are absent.
    """
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    merged = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    # A suite that was started in the background may have been told to ignore Ctrl-C, and would pass that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in merged.items() if value is not None},
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            kill(process)


def kill(process: "subprocess.Popen[str]") -> None:
    """The process and its descendants, which those of torchrun outlive otherwise."""
    if process.poll() is not None:
        return
    with suppress(psutil.NoSuchProcess):
        for descendant in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                descendant.kill()
    process.kill()


def python(
    *arguments: str | Path, cwd: Path | None = None, **environment: str | None
) -> "subprocess.CompletedProcess[str]":
    """``started`` to its end."""
    with started(*arguments, cwd=cwd, **environment) as process:
        try:
            out, error = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            kill(process)
            pytest.fail(f"not ended after {LONGEST} s: {process.communicate()[1]}")
    return subprocess.CompletedProcess(arguments, process.returncode, out, error)
