"""Work on many items, with progress: a bar on a terminal, else lines."""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

T = TypeVar("T")
R = TypeVar("R")
SAID_EVERY = 30.0
"""Seconds between two lines about progress, where there is no terminal for a bar."""


def each(function: Callable[[T], R], items: Sequence[T], title: str, progress: bool) -> Iterator[tuple[T, R]]:
    """``(item, function(item))`` in order, from a few threads, with progress on the error stream."""
    with progress_bar(progress) as bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        task = bar.add_task(title, total=len(items))
        for start in range(0, len(items), 256):
            # In portions: an error ends the work soon, and results do not pile up.
            portion = items[start : start + 256]
            for item, result in zip(portion, pool.map(function, portion), strict=True):
                bar.advance(task)
                yield item, result


def ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """``(item, function(item))`` in order, from a thread a core; a few items are taken in advance.

    Ctrl-C does not wait for items under way, which may take hours: they must leave nothing that is half written.
    """
    workers, wait = os.cpu_count() or 1, True
    pool = ThreadPoolExecutor(workers)
    pending: deque[tuple[T, Future[R]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) > 4 * workers:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    except (KeyboardInterrupt, GeneratorExit):
        wait = False
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)


def progress_bar(shown: bool) -> Progress:
    """A bar on the error stream; where that is no terminal, a line every half minute. Silent unless ``shown``."""
    console = Console(stderr=True)
    shape = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    kind = _Lines if shown and not console.is_terminal else Progress
    return kind(*shape, console=console, transient=True, disable=not (shown and console.is_terminal))


@contextmanager
def said_meanwhile(state: Callable[[], str]) -> Generator[None]:
    """Within it says every half minute how far other processes are, as ``state`` has it then."""
    ended = threading.Event()

    def say() -> None:
        while not ended.wait(SAID_EVERY):
            print(state(), file=sys.stderr, flush=True)

    thread = threading.Thread(target=say, name="pochade-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Lines(Progress):
    """Says how far a task is now and then, in place of a bar."""

    said = 0.0
    """When, by ``time.monotonic``."""

    def add_task(self, *arguments: Any, **options: Any) -> TaskID:
        self.said = time.monotonic()
        return super().add_task(*arguments, **options)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self.say(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self.say(task_id)

    def say(self, task_id: TaskID) -> None:
        if time.monotonic() - self.said < SAID_EVERY:
            return
        self.said = time.monotonic()
        task = self._tasks[task_id]
        of = "" if task.total is None else f" of {task.total:,.0f}"
        print(f"{task.description}: {task.completed:,.0f}{of}", file=sys.stderr, flush=True)
