"""A request to stop: Ctrl-C or SIGTERM, which a loop answers when its step is done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: the step was finished and saved. Exit code 130 at the command line."""


class StopRequest:
    """``made`` is set by a signal to this process, at any moment within ``heeded``."""

    def __init__(self) -> None:
        self.made = False

    @contextmanager
    def heeded(self, alone: bool) -> Iterator[None]:
        """Within it Ctrl-C and SIGTERM ask for a stop; where a process is ``alone``, a second Ctrl-C stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(number: int, _: Any) -> None:
            if self.made and number == signal.SIGINT and alone:
                raise KeyboardInterrupt
            self.made = True

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
