"""Pictures of a page that ``pochade export --for web`` wrote, in a browser that is installed.

    python scripts/web_page.py SITE OUT.png [PROMPT ...]

Three windows beside each other: a new picture on a computer, a mask on a phone, the gallery on a phone at night. With
prompts two: the first on a computer, and all in the gallery. The pictures are made by the page while this runs.
"""

import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from pochade.files import atomic_path

PROMPTS = (
    *("red heart", "house", "guitar", "snowman", "butterfly", "rocket", "pizza", "umbrella", "bicycle"),
    *("hatching chick", "deciduous tree", "cat face"),
)
COMPUTER, PHONE, SCALE, GAP = (1100, 780), (390, 780), 1.25, 24
FINISHED = "#pictures .tile:not([aria-busy])"


class Quiet(SimpleHTTPRequestHandler):
    """Without a line for every file."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def create(page: Any, prompt: str, seed: int = 7) -> None:
    page.fill("#prompt", prompt)
    page.fill("#seed", str(seed))
    page.click("#go")
    page.wait_for_selector(FINISHED)


def mask(phone: Any, folder: Path) -> None:
    """A picture with a mask over a part of it."""
    phone.emulate_media(color_scheme="light")
    phone.click("nav a[href='#generate']")
    create(phone, "a red apple")
    phone.click(FINISHED)
    phone.click("#edit-this")
    phone.wait_for_selector("#workspace:not([hidden])")
    box = phone.locator("#mask").bounding_box()
    phone.mouse.move(box["x"] + 0.52 * box["width"], box["y"] + 0.2 * box["height"])
    phone.mouse.down()
    phone.mouse.move(box["x"] + 0.78 * box["width"], box["y"] + 0.3 * box["height"], steps=8)
    phone.mouse.up()
    phone.fill("#prompt", "a red apple with two leaves")
    phone.locator("#brush").focus()
    phone.screenshot(path=folder / "edit.png")


def windows(url: str, browser: Any, folder: Path, prompts: Sequence[str]) -> list[Path]:
    context = browser.new_context(
        viewport={"width": PHONE[0], "height": PHONE[1]}, device_scale_factor=SCALE, color_scheme="dark"
    )
    context.set_default_timeout(300_000)
    phone = context.new_page()
    phone.goto(url)
    phone.wait_for_selector("body[data-threads]")
    for i, prompt in enumerate(prompts or PROMPTS):
        create(phone, prompt, 7 + i)
    phone.click("nav a[href='#gallery']")
    phone.wait_for_timeout(500)
    phone.screenshot(path=folder / "gallery.png")

    if not prompts:
        mask(phone, folder)
    computer = context.new_page()
    computer.emulate_media(color_scheme="light")
    computer.set_viewport_size({"width": COMPUTER[0], "height": COMPUTER[1]})
    computer.goto(url)
    computer.wait_for_selector("body[data-threads]")
    create(computer, prompts[0] if prompts else "a sailboat")
    computer.locator("#go").focus()
    computer.screenshot(path=folder / "create.png")
    shown = ("create.png", "gallery.png") if prompts else ("create.png", "edit.png", "gallery.png")
    return [folder / name for name in shown]


def main() -> None:
    site, out = map(Path, sys.argv[1:3])
    Quiet.extensions_map |= {".js": "text/javascript", ".mjs": "text/javascript"}
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as playwright, tempfile.TemporaryDirectory() as temporary:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            url = f"http://localhost:{server.server_port}/"
            shots = [Image.open(path).convert("RGB") for path in windows(url, browser, Path(temporary), sys.argv[3:])]
            browser.close()
        server.shutdown()
    gap = round(GAP * SCALE)
    sheet = Image.new(
        "RGB", (sum(s.width for s in shots) + gap * (len(shots) + 1), shots[0].height + 2 * gap), "#cfc6b8"
    )
    left = gap
    for shot in shots:
        sheet.paste(shot, (left, gap))
        left += shot.width + gap
    with atomic_path(out) as temporary_file:
        sheet.quantize(256, dither=Image.Dither.NONE).save(temporary_file, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
