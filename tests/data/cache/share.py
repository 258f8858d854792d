"""Several processes that fill one cache, some of them killed: ``share.py FOLDER``.

One process that has imported everything forks them, and does not compute itself. Prints one JSON line.
"""

import json
import multiprocessing
import os
import signal
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

from data.cache.toys import Numbers
from pochade.data.cache import build
from pochade.data.cache.build import build_cache
from pochade.data.cache.part_cache import Values

FORK = multiprocessing.get_context("fork")
NAMES = [f"row {number}" for number in range(40)]


class Together(Numbers):
    """Begins its first part, and its second one, when all processes have begun theirs.

    Kills its process, as a power cut does, when it has encoded ``killed_at`` rows.
    """

    def __init__(self, log: Path, meeting: Barrier, killed_at: int | None) -> None:
        super().__init__(NAMES, log=log)
        self.meeting, self.killed_at = meeting, killed_at

    def encode(self, names: list[str]) -> Values:
        if len(self.encoded) in (0, 4):
            self.meeting.wait()
        values = super().encode(names)
        if self.killed_at is not None and len(self.encoded) >= self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return values


def start(folder: Path, meeting: Barrier, killed_at: int | None = None) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        numbers = Together(folder / f"log-{os.getpid()}", meeting, killed_at)
        build_cache(numbers.contents(), folder, progress=False)
        os._exit(0)
    finally:
        os._exit(1)


def statuses(pids: list[int]) -> list[int]:
    return [os.WTERMSIG(status) if os.WIFSIGNALED(status) else status for status in (os.waitpid(p, 0)[1] for p in pids)]


def logs(folder: Path) -> list[list[str]]:
    return [path.read_text().splitlines() for path in sorted(folder.glob("log-*"))]


def main(root: Path) -> None:
    build.POLL = 0.01
    report = {}
    for name in ("shared", "killed", "resumed"):
        (root / name).mkdir(parents=True)
    three, one = FORK.Barrier(3), FORK.Barrier(1)
    report["shared"] = statuses([start(root / "shared", three) for _ in range(3)])
    # One of three dies in its second part; the others take it over and end.
    report["killed"] = statuses([start(root / "killed", three, killed_at) for killed_at in (7, None, None)])
    # The only one dies; another start goes on.
    report["resumed"] = statuses([start(root / "resumed", one, 18)]) + statuses([start(root / "resumed", one)])
    report["logs"] = {name: logs(root / name) for name in ("shared", "killed", "resumed")}
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
