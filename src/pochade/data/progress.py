"""Work on many items, with a progress bar on a terminal."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], items: Sequence[T], title: str, progress: bool) -> Iterator[tuple[T, R]]:
    """``(item, function(item))`` in order, from a few threads, with a progress bar on a terminal."""
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
    """A bar on the error stream, silent where that is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
