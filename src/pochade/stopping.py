"""Ctrl-C and SIGTERM: one line and exit code 130, wherever in the work they come."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_CODE = 130
_REASONS = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}
_HAS_TIMER = hasattr(signal, "setitimer")
"""Not on Windows."""
_AGAIN = 0.05
"""Seconds until it is looked again whether a module is still being imported."""
_STILL_HERE = 2.0
"""Seconds after which an interruption that nothing answers is taken to be lost, as in a callback of a library, and is
raised again."""


class Stop:
    """Whether the process was told to stop, and by what."""

    reason: str | None = None

    def arrived(self) -> None:
        """Called where the interruption is answered: it is not raised again."""
        if _HAS_TIMER and self.reason is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within it Ctrl-C and SIGTERM raise KeyboardInterrupt in the main thread, so that all is cleaned up.

    Not in the midst of an import: libraries answer an exception there with one of their own, or with none, and leave
    modules behind that are imported by half. It is raised when the import is done; a second Ctrl-C ends the process at
    once.
    """
    stop, before = Stop(), dict[int, Any]()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.reason is not None and _is_importing(frame):
            os._exit(EXIT_CODE)
        stop.reason = _REASONS[signal.Signals(number)]
        interrupt(frame, again=False)

    def interrupt(frame: FrameType | None, again: bool) -> None:
        importing = _is_importing(frame)
        if _HAS_TIMER:
            replaced = signal.signal(signal.SIGALRM, lambda _, frame: interrupt(frame, again=True))
            before.setdefault(signal.SIGALRM, replaced)
            # Time after time: an alarm that comes just before a call that waits is answered only when the call returns.
            wait = _AGAIN if importing else _STILL_HERE
            signal.setitimer(signal.ITIMER_REAL, wait, wait)
        if not (importing and _HAS_TIMER) and not (again and _is_answered()):
            raise KeyboardInterrupt(stop.reason)

    try:
        for number in _REASONS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, on_signal)
        yield stop
    finally:
        if _HAS_TIMER and signal.SIGALRM in before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def run_stoppable(work: Callable[[Stop], object]) -> None:
    """A command, which itself imports what takes a while: Ctrl-C and SIGTERM end the process with one line."""
    with stoppable() as stop:
        try:
            work(stop)
        except KeyboardInterrupt:
            stop.arrived()
            print(f"interrupted: {stop.reason or _REASONS[signal.SIGINT]}", file=sys.stderr)
            sys.exit(EXIT_CODE)


def _is_answered() -> bool:
    """Whether what is running cleans up after an interruption, such as the removal of a large folder."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
