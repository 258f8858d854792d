"""Pages that ``pochade export --for web`` wrote, in Chromium: what they download, how long a picture takes, memory.

    pochade export lrf-openmoji build/sites/lrf-openmoji --for web
    python benchmarks/browser.py build/sites/* [--threads 1 2]

The time of a picture runs from the click to the last pixel, previews included; processor time is that of all threads of
the page. Memory is the proportional set of the page's process (``smaps_rollup``), so that this needs Linux. Rows that
docs/benchmarks/browser.json has are not measured again without ``--force``, so that an interrupted run goes on.
"""

import argparse
import json
import os
import shutil
import threading
import time
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserType, Page, sync_playwright

from pochade.files import write_json
from runtimes import ROOT, STEPS, processor

PROMPTS = ("a red apple", "a blue bird", "a green tree", "a yellow house", "a cat", "a dog")
WATCH = """
window.seen = {};
const note = () => ["threads", "warm"].forEach((name) => document.body?.dataset[name] && (seen[name] ??= Date.now()));
new MutationObserver(note).observe(document, { subtree: true, attributeFilter: ["data-threads", "data-warm"] });
"""
"""Notes in a page when it is ready, and when its graphs were warmed up, which polling sees up to 0.5 s late."""
SAMPLE = """() => new Promise((done) => {
  const start = performance.now();
  new MutationObserver((_, observer) => {
    if (!document.querySelector("#pictures .tile:not([aria-busy])")) return;
    observer.disconnect();
    requestAnimationFrame(() => done((performance.now() - start) / 1000));
  }).observe(document.getElementById("pictures"), { subtree: true, childList: true, attributes: true });
  document.getElementById("go").click();
})"""
"""Seconds from a click to the picture."""


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


def measure(site: Path, threads: int, chromium: BrowserType) -> dict[str, Any]:
    """The figures of one page, in a browser of its own that was never there before."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    load, others, Counting.sent = os.getloadavg()[0], set(renderers()), 0
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Counting, directory=site)) as server,
        closing(chromium.launch(executable_path=program, args=["--no-sandbox"])) as browser,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.add_init_script(WATCH)
        start = time.time()
        page.goto(f"http://localhost:{server.server_port}/?backend=wasm&threads={threads}")
        page.wait_for_selector("body[data-warm]")
        found: dict[str, Any] = {"download_mb": Counting.sent / 1e6}
        found["first_visit_s"] = page.evaluate("seen.warm") / 1000 - start
        start = time.time()
        page.reload()
        page.wait_for_selector("body[data-warm]")
        found["reload_s"] = page.evaluate("seen.threads") / 1000 - start
        found |= pictures(page)
        found["memory_mb"] = max(mb for pid, (_, mb) in renderers().items() if pid not in others)
        server.shutdown()
    return found | {"load": load}


def pictures(page: Page) -> dict[str, list[float]]:
    """Seconds from click to picture, and of processor time, of each of ``PROMPTS``."""
    numbers = "fetch('model/manifest.json').then((r) => r.json()).then((m) => Object.keys(m.sampling.times))"
    choice = sorted(map(int, page.evaluate(numbers))).index(STEPS)
    page.locator("#steps").evaluate(f"(e) => {{ e.value = {choice}; e.dispatchEvent(new Event('input')); }}")
    seconds: list[float] = []
    cpu: list[float] = []
    for prompt in PROMPTS:
        page.fill("#prompt", prompt)
        before = renderers()
        seconds.append(page.evaluate(SAMPLE))
        cpu.append(max(taken - before.get(pid, (taken, 0))[0] for pid, (taken, _) in renderers().items()))
    return {"picture_s": seconds, "processor_s": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sites", nargs="+", type=Path, metavar="SITE")
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "browser.json")
    parser.add_argument("--force", action="store_true", help="measure again what is there")
    options = parser.parse_args()
    record: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    Counting.extensions_map |= {".js": "text/javascript", ".mjs": "text/javascript"}
    with sync_playwright() as playwright:
        for site in options.sites:
            manifest = json.loads((site / "model" / "manifest.json").read_text())
            rows = record.setdefault("models", {}).setdefault(manifest["model"]["name"], {})
            for threads in map(str, options.threads):
                if threads in rows and not options.force:
                    continue
                rows[threads] = measure(site, int(threads), playwright.chromium)
                print(f"{site}, {threads} threads: {rows[threads]}", flush=True)
                write_json(options.out, record | {"steps": STEPS, "processor": processor()})


if __name__ == "__main__":
    main()
