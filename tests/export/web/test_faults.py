"""What goes wrong on the way to a picture, and what the page says then: one sentence, and never half a model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from export.web.serving import Host, serve

READY = "body[data-threads]"
BROKEN = ".broken [role=alert] >> nth=0"


@pytest.fixture
def own_site(toy_site: Path, tmp_path: Path) -> Path:
    """A copy of the page that a test may change."""
    return shutil.copytree(toy_site, tmp_path / "site")


def visit(visitors: Any, host: Host, script: str = "") -> Any:
    page = visitors.context().new_page()
    if script:
        page.add_init_script(script)
    page.goto(f"{host.url}?backend=wasm")
    return page


@pytest.mark.parametrize(
    ("file", "fault", "message"),
    [
        ("denoiser.onnx", "missing", "model/denoiser.onnx is missing on the server."),
        ("denoiser.onnx", "altered", "model/denoiser.onnx on the server is altered or damaged: its hash is another."),
        ("tokenizer.json", "altered", "model/tokenizer.json on the server is altered or damaged: its hash is another."),
    ],
)
def test_a_file_of_the_model(toy_site: Path, visitors: Any, file: str, fault: str, message: str) -> None:
    with serve(toy_site) as host:
        host.faults = {f"{file}.gz": fault}
        page = visit(visitors, host)
        expect(page.locator(BROKEN)).to_contain_text(message)
        visitors.errors.clear()  # the browser tells of a 404 itself
        host.faults = {}
        page.click("text=Try again")
        page.wait_for_selector(READY)


@pytest.mark.parametrize(
    ("file", "fault", "message"),
    [
        ("editor.js", "missing", "a part of it did not load"),
        ("model/manifest.json", "missing", "model/manifest.json cannot be read"),
        ("files.json", "altered", "files.json is damaged: it is no JSON."),
        ("ort.wasm.bundle.min.mjs", "missing", "ort.wasm.bundle.min.mjs cannot be loaded"),
    ],
)
def test_a_file_of_the_page(toy_site: Path, visitors: Any, file: str, fault: str, message: str) -> None:
    with serve(toy_site) as host:
        host.faults = {file: fault}
        page = visit(visitors, host)
        page.get_by_text(message).wait_for()
        visitors.errors.clear()  # the browser tells of a 404 itself


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_is_cut_off_goes_on_or_begins_again(toy_site: Path, visitors: Any, ranges: bool) -> None:
    with serve(toy_site) as host:
        host.ranges = ranges
        host.faults = {"ort-wasm-simd-threaded.wasm.gz": "cut"}
        page = visit(visitors, host)
        page.wait_for_selector("#progress[value]:not([value='0'])")
        host.arrived.set()
        page.wait_for_selector(READY)
        visitors.errors.clear()  # the browser tells of a broken connection itself
        whole = (toy_site / "onnxruntime" / "ort-wasm-simd-threaded.wasm.gz").stat().st_size
        taken = [given for path, given in host.asked if path.endswith("threaded.wasm.gz")]
        assert taken[0] is None
        assert 0 < int(taken[1].removeprefix("bytes=").removesuffix("-")) <= whole // 2


def test_a_model_of_a_newer_format(own_site: Path, visitors: Any) -> None:
    change_manifest(own_site, lambda manifest: manifest.update(format=2))
    with serve(own_site) as host:
        page = visit(visitors, host)
        expect(page.locator(BROKEN)).to_contain_text("The model is of format 2, this page reads up to 1")


def test_a_model_without_guidance_offers_no_fast(own_site: Path, visitors: Any) -> None:
    change_manifest(own_site, lambda manifest: manifest["defaults"].update(guidance=1.0))
    with serve(own_site) as host:
        page = visit(visitors, host)
        page.wait_for_selector("[name=pace][value=time]", state="visible")
        expect(page.locator("[name=pace][value=fast]")).to_be_hidden()


def change_manifest(site: Path, change: Callable[[Any], Any]) -> None:
    """Changes the model's manifest, and the table of hashes with it, as another export would."""
    from pochade.files import sha256

    path, table = site / "model" / "manifest.json", site / "files.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    listed = json.loads(table.read_text())
    listed["files"]["model/manifest.json"].update(
        sha256=sha256(path), bytes=path.stat().st_size, size=path.stat().st_size
    )
    before = sha256(table)
    table.write_text(json.dumps(listed))
    worker = site / "sw.js"
    worker.write_text(worker.read_text().replace(before, sha256(table)))


def test_a_page_that_was_copied_in_part_works_but_is_not_kept(own_site: Path, visitors: Any) -> None:
    with (own_site / "style.css").open("a") as file:
        file.write("/* of another version */")
    with serve(own_site) as host:
        page = visit(visitors, host)
        page.get_by_text("The page could not be kept for use without a network").wait_for()
        page.wait_for_selector("body[data-threads='1']")


def test_a_browser_without_webassembly(host: Host, visitors: Any) -> None:
    page = visit(visitors, host, "delete window.WebAssembly")
    expect(page.locator(BROKEN)).to_contain_text("This browser has no WebAssembly with SIMD")


def test_storage_that_is_refused_or_full(host: Host, visitors: Any) -> None:
    refused = "IDBFactory.prototype.open = () => { throw new DOMException('full', 'QuotaExceededError'); };"
    page = visit(visitors, host, refused)
    page.get_by_text("This browser keeps no pictures for this page").wait_for()
    page.wait_for_selector(READY)
    page.fill("#prompt", "a red apple")
    page.locator("#steps").evaluate("e => { e.value = 0; e.dispatchEvent(new Event('input', {bubbles: true})); }")
    page.click("#go")
    page.wait_for_selector("#pictures .tile:not([aria-busy])")
    page.get_by_text("this picture stays until the page is closed").wait_for()
    page.click("nav a[href='#gallery']")
    expect(page.locator("#shelf li")).to_have_count(1)


def test_a_disk_without_room_for_the_model(host: Host, visitors: Any) -> None:
    page = visitors.context().new_page()
    origin = "/".join(host.url.split("/")[:3])
    room = {"origin": origin, "quotaSize": 3_000_000}
    page.context.new_cdp_session(page).send("Storage.overrideQuotaForOrigin", room)
    page.goto(f"{host.url}?backend=wasm")
    page.wait_for_selector(READY)
    page.get_by_text("the model is downloaded again at the next visit").wait_for()


def test_two_tabs_at_once_download_once(toy_site: Path, visitors: Any) -> None:
    with serve(toy_site) as host:
        context = visitors.context()
        pages = [context.new_page() for _ in range(2)]
        for page in pages:
            page.goto(f"{host.url}?backend=wasm")
        for page in pages:
            page.wait_for_selector(READY)
        taken = [path for path, _ in host.asked if path.endswith(".gz")]
        assert len(taken) == len(set(taken)) == 5
        pages[0].fill("#prompt", "a red apple")
        pages[0].locator("#steps").evaluate(
            "e => { e.value = 0; e.dispatchEvent(new Event('input', {bubbles: true})); }"
        )
        pages[0].click("#go")
        pages[1].click("nav a[href='#gallery']")
        pages[1].wait_for_selector("#shelf li")


def test_a_new_version_takes_only_what_changed(own_site: Path, visitors: Any) -> None:
    with serve(own_site) as host:
        page = visit(visitors, host)
        page.wait_for_selector(READY)
        change_manifest(own_site, lambda manifest: manifest["model"].update(name="renamed"))
        host.asked.clear()
        page.reload()
        page.wait_for_selector(READY)
        page.click("text=Load it")
        page.wait_for_selector("#name:text('renamed')")
        page.wait_for_selector(READY)
        assert not [path for path, _ in host.asked if path.endswith(".gz")]
        kept = page.evaluate(
            "caches.open('pochade:/').then((c) => c.keys()).then((k) => k.map((r) => new URL(r.url).pathname))"
        )
        assert len(kept) == len(set(kept))


def test_the_page_says_what_a_prompt_lacks(host: Host, visitors: Any) -> None:
    page = visit(visitors, host)
    page.wait_for_selector(READY)
    page.click("#go")
    expect(page.locator("#prompt-note")).to_have_text("Write what the picture should show.")
    page.locator("#steps").evaluate("e => { e.value = 0; e.dispatchEvent(new Event('input', {bubbles: true})); }")
    page.fill("#prompt", "a red apple " * 30)
    page.click("#go")
    page.wait_for_selector("#pictures .tile:not([aria-busy])")
    expect(page.locator("#prompt-note")).to_contain_text("The prompt is longer than the model reads: its last")
    page.locator("#prompt").fill("")
    page.locator("#prompt").focus()
    page.keyboard.insert_text("a fox " * 400)
    expect(page.locator("#prompt")).to_have_value("a fox " * 400)
    page.fill("#seed", "9" * 20)
    page.click("#go")
    expect(page.locator("#prompt-note")).to_have_text(
        f"The seed is too large: the page takes whole numbers up to {2**53 - 1}."
    )


def test_the_page_says_what_a_model_does_not_know(toy_site_with_a_decoder: Path, visitors: Any) -> None:
    """As ``pochade run`` warns, of both prompts."""
    with serve(toy_site_with_a_decoder) as host:
        page = visit(visitors, host)
        page.wait_for_selector(READY)
        page.click("#more summary")
        page.locator("#guidance").evaluate(
            "e => { e.value = 3; e.dispatchEvent(new Event('input', {bubbles: true})); }"
        )
        unknown, long = (
            "is mostly unknown to the model: others like it",
            "is longer than the model reads: its last 28 tokens",
        )
        left_out = "What is to be left out"
        for prompt, negative, said in (
            ("ꦲꦏ ꦱꦫ", "", f"The prompt {unknown}"),
            ("a cat", "", ""),
            ("a cat", "ꦲꦏ ꦱꦫ", f"{left_out} {unknown}"),
            ("a red apple " * 20, "a red apple " * 20, f"The prompt {long} are left out. {left_out} {long}"),
            ("a 狐 in the 🏡", "", ""),
        ):
            page.fill("#prompt", prompt)
            page.fill("#negative", negative)
            page.click("#go")
            page.wait_for_selector("#go:enabled")
            expect(page.locator("#prompt-note")).to_contain_text(said)
            assert page.locator("#prompt-note").is_visible() == bool(said)


def test_a_file_that_is_no_picture(host: Host, visitors: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("no picture")
    page = visit(visitors, host)
    page.wait_for_selector(READY)
    page.click("nav a[href='#edit']")
    page.set_input_files("#file", path)
    page.get_by_text("notes.png is no picture that this browser reads").wait_for()
