"""A page that ``pochade export --for web`` wrote, in Chromium: what it downloads, how long a picture takes, its memory.

    python benchmarks/browser.py SITE --threads 2

The time of a picture runs from the click to the last pixel, previews included; processor time is that of all threads of
the page. Memory is the proportional set of the page's process (``smaps_rollup``), so that this needs Linux.
"""

import argparse
import json
import os
import shutil
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

PROMPTS = ("a red apple", "a blue bird", "a green tree", "a yellow house", "a cat", "a dog")
FINISHED = "#pictures .tile:not([aria-busy])"


class Counting(SimpleHTTPRequestHandler):
    """Counts what it sends."""

    sent = 0

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        Counting.sent += os.fstat(source.fileno()).st_size
        super().copyfile(source, outputfile)


def renderers() -> dict[int, tuple[float, float]]:
    """Process of a page -> (seconds of processor time, MB)."""
    found: dict[int, tuple[float, float]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" not in (path / "cmdline").read_bytes():
                continue
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            lines = (path / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        pss = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        found[int(path.name)] = ((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), pss / 1000)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    given = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    Counting.extensions_map |= {".js": "text/javascript", ".mjs": "text/javascript"}
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Counting, directory=given.site)) as server,
        sync_playwright() as playwright,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        others = set(renderers())
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(600_000)
        start = time.perf_counter()
        page.goto(f"http://localhost:{server.server_port}/?backend=wasm&threads={given.threads}")
        page.wait_for_selector("body[data-warm]")
        result: dict[str, Any] = {"download_mb": Counting.sent / 1e6, "first_visit_s": time.perf_counter() - start}
        start = time.perf_counter()
        page.reload()
        page.wait_for_selector("body[data-threads]")
        result["reload_s"] = time.perf_counter() - start
        page.wait_for_selector("body[data-warm]")
        place = "fetch('model/manifest.json').then((r) => r.json()).then((m) => Object.keys(m.sampling.times))"
        choice = sorted(map(int, page.evaluate(place))).index(given.steps)
        page.locator("#steps").evaluate(f"(e) => {{ e.value = {choice}; e.dispatchEvent(new Event('input')); }}")
        seconds: list[float] = []
        processor: list[float] = []
        for prompt in PROMPTS:
            page.fill("#prompt", prompt)
            before, start = renderers(), time.perf_counter()
            page.click("#go")
            page.wait_for_selector(FINISHED)
            seconds.append(time.perf_counter() - start)
            processor.append(max(cpu - before.get(pid, (cpu, 0))[0] for pid, (cpu, _) in renderers().items()))
        result |= {
            "picture_s": seconds,
            "processor_s": processor,
            "memory_mb": max(mb for pid, (_, mb) in renderers().items() if pid not in others),
            "threads": given.threads,
            "steps": given.steps,
            "load": os.getloadavg()[0],
        }
        browser.close()
        server.shutdown()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
