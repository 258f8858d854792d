"""Several processes that fill one cache, some of them killed: ``share.py FOLDER``.

One process that has imported everything forks them, and does not compute itself. Prints one JSON line.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from data.cache.toys import Numbers
from pochade.data.cache import build
from pochade.data.cache.build import build_cache
from pochade.data.cache.part_cache import Values

NAMES = [f"row {number}" for number in range(40)]


class Slow(Numbers):
    """Kills its process, as a power cut does, when it has encoded ``killed_at`` rows."""

    killed_at: int | None = None

    def encode(self, names: list[str]) -> Values:
        values = super().encode(names)
        if self.killed_at is not None and len(self.encoded) >= self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        return values


def start(folder: Path, killed_at: int | None = None) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        numbers = Slow(NAMES, log=folder / f"log-{os.getpid()}")
        numbers.killed_at = killed_at
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
    report["shared"] = statuses([start(root / "shared") for _ in range(3)])
    # One of three dies in its second part; the others take it over and end.
    report["killed"] = statuses([start(root / "killed", killed_at) for killed_at in (7, None, None)])
    # The only one dies; another start goes on.
    report["resumed"] = statuses([start(root / "resumed", 18)]) + statuses([start(root / "resumed")])
    report["logs"] = {name: logs(root / name) for name in ("shared", "killed", "resumed")}
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
