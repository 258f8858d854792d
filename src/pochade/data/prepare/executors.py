"""Where pieces of work are done: on this machine, or on a cluster by Ray Data."""

import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import uuid4

from pochade.arguments import check_number
from pochade.data.progress import ahead
from pochade.errors import FailureError, PochadeError, missing_extra, nearest
from pochade.files import write_if_absent
from pochade.storage import url_of

Place = Literal["local", "ray"]
OURS = "pochade"
"""The namespace of connections to Ray that are made here."""
Piece = Callable[[int], int]
"""Does the piece of work of that number and returns the samples in it; doing it twice is doing it once."""
ADDRESS = "RAY_ADDRESS"
ANSWER = 10.0
"""Seconds in which a cluster takes a connection; Ray itself tries for many minutes."""
MARK = ".seen-"
"""Begins the name of a file by which machines know a folder."""
_AT = re.compile(r"(?:ray://)?\[?([^/\[\]]+?)\]?:(\d{1,5})")


def check_place(on: str, gpus: float = 0) -> None:
    """Raises PochadeError for a place that is none, or that needs what is not installed, and for GPUs of none;
    FailureError where no cluster answers at ``RAY_ADDRESS``."""
    if on not in get_args(Place):
        raise PochadeError(f"on: {on!r} given, allowed are {', '.join(get_args(Place))}{nearest(on, get_args(Place))}")
    check_number("gpus", gpus)
    if gpus < 0 or (gpus and on != "ray"):
        raise PochadeError(f"gpus: {gpus:g} given, allowed are 0, and with --on ray more")
    if on == "ray" and not _ray().is_initialized():
        _check_address(os.environ.get(ADDRESS, ""))


def _check_address(address: str) -> None:
    if not address or address in ("auto", "local"):
        return
    at = _AT.fullmatch(address)
    if at is None or not 0 < int(at[2]) < 1 << 16:
        raise PochadeError(f"{ADDRESS}: {address!r} given, allowed are HOST:PORT, ray://HOST:PORT, auto and local")
    try:
        socket.create_connection((at[1], int(at[2])), ANSWER).close()
    except OSError as error:
        raise FailureError(f"{ADDRESS}: {address!r} given, but no cluster answers there ({error})") from error


def check_seen(on: str, folders: Mapping[str, str | Path]) -> None:
    """Raises PochadeError, with the argument, for a URL where a cluster of several machines may work: its copy lies on
    one of them."""
    if on != "ray" or os.environ.get(ADDRESS, "") in ("", "local"):
        return
    for name, folder in folders.items():
        if (url := url_of(name, folder)) is not None:
            allowed = "a folder that all machines of the cluster see under one path"
            raise PochadeError(f"{name}: {url} given with --on ray and {ADDRESS}, allowed is {allowed}")


def each_piece(piece: Piece, count: int, on: Place, folder: Path, *, gpus: float = 0) -> Iterator[int]:
    """Does all of ``count`` pieces, in any order; yields the samples in each when it is done.

    On a cluster a piece whose worker dies is done again by another one. Workers see the folders of this machine under
    the same paths, also that which this process works in. The cluster is that of ``RAY_ADDRESS``; without it one of
    this machine's cores is started.

    Args:
        piece: pickled for the workers.
        folder: in which they leave what they make.
        gpus: of the cluster, for each piece that is under way.

    Raises:
        PochadeError, FailureError: as ``piece`` raises them.
        PochadeError: the cluster has fewer GPUs than a piece is to have.
        FailureError: a machine of the cluster does not see the folder.
    """
    if on == "local":
        for _, samples in ahead(piece, range(count)):
            yield samples
        return
    if not count:
        return
    ray = _ray()
    try:
        if not ray.is_initialized():
            ends = signal.getsignal(signal.SIGTERM)
            try:
                ray.init(log_to_driver=False, logging_level="error", include_dashboard=False, namespace=OURS)
            except (OSError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise FailureError(f"on: ray given, but Ray could not be started or reached ({reason})") from error
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, ends)  # Ray's own answer is a dump of where it was
        check_gpus(ray, gpus)
        with _seen(folder) as mark:
            yield from _on_cluster(ray, piece, count, gpus, mark)
    except (KeyboardInterrupt, GeneratorExit):
        if ray.is_initialized() and ray.get_runtime_context().namespace == OURS:
            ray.shutdown()  # what was started here would outlive this process, which is left at once
        raise


@contextmanager
def _seen(folder: Path) -> Generator[Path]:
    """An empty file in the folder, by which a machine tells that folder from one of its own of the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder.absolute() / f"{MARK}{uuid4().hex}"
    write_if_absent(mark, "")
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def check_mark(mark: Path) -> None:
    """Raises FailureError where this machine does not see what the one that handed out the work has put there."""
    if not mark.exists():
        place = f"{mark.parent} is not the folder of that name on {socket.gethostname()}"
        raise FailureError(f"on: {place}; all machines of a cluster need it under one path, as a network drive")


def check_gpus(ray: Any, gpus: float) -> None:
    """Raises PochadeError where each piece is to have more GPUs than this machine has: Ray would wait for them.

    A cluster elsewhere may get more machines, and a warning says what it lacks now.
    """
    there = ray.cluster_resources().get("GPU", 0) if gpus else 0
    if gpus <= there:
        return
    found = f"gpus: {gpus:g} given for each piece, the cluster has {there:g}"
    if os.environ.get(ADDRESS, "") in ("", "local"):
        raise PochadeError(f"{found}, allowed is {f'at most {there:g}' if there else '0'}")
    print(f"warning: {found}; the work begins when it has them", file=sys.stderr, flush=True)


def _on_cluster(ray: Any, piece: Piece, count: int, gpus: float, mark: Path) -> Iterator[int]:
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)

    here = Path.cwd()

    def done(row: dict[str, Any]) -> dict[str, Any]:
        try:
            check_mark(mark)
            os.chdir(here)  # whatever the folder is that the cluster was started in
            return {"samples": piece(int(row["id"])), "error": "", "wrong_use": False}
        except PochadeError as error:  # of which Ray would make one of many lines
            return {"samples": 0, "error": str(error), "wrong_use": not isinstance(error, FailureError)}

    pieces = ray.data.range(count, override_num_blocks=count)
    for row in pieces.map(done, **({"num_gpus": gpus} if gpus else {})).iter_rows():
        if row["error"]:
            raise (PochadeError if row["wrong_use"] else FailureError)(row["error"])
        yield int(row["samples"])


def _ray() -> Any:
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise missing_extra("ray", "scale") from None
    return ray
