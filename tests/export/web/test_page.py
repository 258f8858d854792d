"""The page in a real browser: pictures and edits equal to the Python host's, offline, by keyboard, on a phone."""

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from cli.run import cli
from export.web.browsing import FLAGS, PATIENCE, PLAIN, find_browser
from export.web.serving import Host, serve, unpacked
from pochade.arguments import MIDDLE
from pochade.export.onnxruntime_web import VERSION
from pochade.pipelines.metadata import read_metadata
from pochade.pipelines.requests import GenerationRequest
from pochade.runtime import Bundle
from pochade.runtime.options import FAST_STEPS

Open = Callable[..., Any]
FINISHED = "#pictures .tile:not([aria-busy])"


def set_range(page: Any, name: str, value: float) -> None:
    """Moves a slider."""
    page.locator(f"#{name}").evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def create(page: Any, prompt: str, seed: int, steps: str = "2") -> None:
    page.fill("#prompt", prompt)
    page.fill("#seed", str(seed))
    set_range(page, "steps", ["1", "2", "4", "8", "20", "50"].index(steps))
    page.click("#go")


def saved(page: Any, folder: Path, button: str = "#save") -> Path:
    """What a button of the open viewer saves."""
    with page.expect_download() as download:
        page.click(button)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def a_picture(path: Path, width: int = 32, height: int = 32) -> Path:
    y, x = np.mgrid[:height, :width]
    shown = np.stack([255 * x // width, 255 * y // height, 90 + 0 * x], -1).astype(np.uint8)
    Image.fromarray(shown).save(path)
    return path


def near(path: Path, expected: Any) -> None:
    assert np.abs(pixels(path) - np.asarray(expected).astype(int)).max() <= 3


def test_a_picture_is_that_of_the_python_host(visitor: Open, toy_bundle: Path, tmp_path: Path) -> None:
    page = visitor()
    assert page.evaluate("crossOriginIsolated")
    expect(page.locator("body")).to_have_attribute("data-threads", "2")
    create(page, "A red Apple!", 2**31 + 5, "4")
    page.click(FINISHED)
    path = saved(page, tmp_path)
    assert path.name == "a-red-apple-2147483653.png"
    near(path, Bundle(toy_bundle).generate("A red Apple!", seed=2**31 + 5, steps=4).image)
    metadata = read_metadata(path)
    assert metadata.versions["onnxruntime-web"] == VERSION
    assert "decoder" not in metadata.sha256
    assert isinstance(metadata.request, GenerationRequest)
    assert (metadata.request.depth, metadata.request.decoder) == (3, "model")
    request = metadata.request
    assert (request.prompt, request.seed, request.steps, request.model) == ("A red Apple!", 2**31 + 5, 4, "toy-editor")


def test_emoji_are_read_as_by_the_python_host(toy_site_with_a_decoder: Path, visitors: Any, tmp_path: Path) -> None:
    bundle = Bundle(unpacked(toy_site_with_a_decoder, tmp_path / "bundle"))
    with serve(toy_site_with_a_decoder) as host:
        page = visitors.context().new_page()
        page.goto(f"{host.url}?backend=wasm")
        page.wait_for_selector("body[data-threads]")
        for i, prompt in enumerate(("🦊", "a 🍎 on a table", "👨\u200d👩\u200d👧 and 👍🏽", "25° ★")):
            create(page, prompt, 5, "4")
            page.click(FINISHED)
            (tmp_path / str(i)).mkdir()
            path = saved(page, tmp_path / str(i))
            page.click("#viewer .close")
            request = read_metadata(path).request
            assert isinstance(request, GenerationRequest)
            assert request.prompt == prompt
            made = bundle.generate(prompt, seed=5, steps=4)
            near(path, made.image)
            assert np.ptp(np.asarray(made.image)) > 20


def test_a_grid_of_variations_that_stay(visitor: Open) -> None:
    page = visitor()
    page.check("[name=count][value='4']", force=True)
    create(page, "a sleeping cat", 7, "1")
    page.locator(FINISHED).nth(3).wait_for()
    expect(page.locator(FINISHED)).to_have_count(4)
    page.reload()
    page.click("nav a[href='#gallery']")
    page.locator("#shelf li").nth(3).wait_for()
    page.locator("#shelf button").first.click()
    expect(page.locator("#viewer-recipe")).to_contain_text("10")  # the seed of the last one
    before = page.locator("#shelf li").count()
    page.click("#delete")
    page.click("text=Undo")
    expect(page.locator("#shelf li")).to_have_count(before)


@pytest.mark.parametrize(("mode", "width", "height"), [("instruction", 48, 40), ("description", 90, 110)])
def test_what_is_outside_the_mask_stays(
    visitor: Open, toy_bundle: Path, tmp_path: Path, mode: str, width: int, height: int
) -> None:
    page = visitor("edit")
    page.set_input_files("#file", a_picture(tmp_path / "mine.png", width, height))
    page.wait_for_selector("#workspace:not([hidden])")
    box = page.locator("#mask").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.5, steps=3)
    page.mouse.up()
    page.check(f"[name=mode][value={mode}]", force=True)
    create(page, "a blue house with a door", 3)
    page.wait_for_selector("#compare:not([hidden])")
    set_range(page, "split", 20)
    page.click("#open-result")
    path, source, mask = (saved(page, tmp_path, button) for button in ("#save", "#save-source", "#save-mask"))
    marked = np.asarray(Image.open(mask)) > 0
    assert 0 < marked.mean() < 0.6
    assert (pixels(path) == pixels(source))[~marked].all()
    assert (pixels(path) != pixels(source))[marked].any()
    bundle = Bundle(toy_bundle)
    instruction = mode == "instruction"
    expected = bundle.inpaint("a blue house with a door", source, mask, seed=3, steps=2, instruction=instruction)
    near(path, expected.image)
    request = read_metadata(path).request
    assert (request.task, request.mask, request.source) == ("inpaint", "mine-mask.png", "mine.png")


@pytest.mark.parametrize("masked", [True, False])
def test_an_edit_is_repeated_by_its_recipe(
    visitor: Open, toy_bundle: Path, tmp_path: Path, masked: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """By ``pochade run --like`` from the three files that the page saves, and by the page from its gallery."""
    page = visitor("edit")
    page.set_input_files("#file", a_picture(tmp_path / "mine.jpg", 48, 40))
    page.wait_for_selector("#workspace:not([hidden])")
    if masked:
        page.focus("#mask")
        page.keyboard.press("Space")
    page.check("[name=mode][value=description]", force=True)
    set_range(page, "strength", 0.7)
    create(page, "a blue house with a door", 3)
    page.wait_for_selector("#compare:not([hidden])")
    page.click("#open-result")
    path = saved(page, tmp_path)
    for button in ("#save-source", "#save-mask")[: 1 + masked]:
        saved(page, tmp_path, button)
    monkeypatch.chdir(tmp_path)
    cli(capsys, "run", str(toy_bundle), "--like", path.name, "-o", "again.png")
    near(path, pixels(tmp_path / "again.png"))
    page.click("#viewer .close")
    page.click("#back")
    page.click("#other")  # the workspace is empty, the form says something else
    page.check("[name=mode][value=instruction]", force=True)
    page.fill("#prompt", "a cat")
    page.click("nav a[href='#gallery']")
    page.locator("#shelf button").first.click()
    page.click("#reuse")
    page.wait_for_selector(f"#clear:{'enabled' if masked else 'disabled'}")
    page.wait_for_selector("#go:enabled")
    page.click("#go")
    page.wait_for_selector("#compare:not([hidden])")
    page.click("#open-result")
    assert (pixels(saved(page, tmp_path / "page")) == pixels(path)).all()


def test_a_time_in_place_of_steps(visitor: Open, tmp_path: Path) -> None:
    page = visitor()
    page.wait_for_selector("body[data-warm]")
    page.check("[name=pace][value=time]", force=True)
    set_range(page, "time", 14)
    expect(page.locator("#time-note")).to_contain_text("3 steps, about ")
    expect(page.locator("#steps")).to_be_hidden()
    page.fill("#prompt", "a red apple")
    page.click("#go")
    page.click(FINISHED)
    path = saved(page, tmp_path)
    assert read_metadata(path).request.steps == 3
    page.click("#reuse")
    expect(page.locator("[name=pace][value=steps]")).to_be_checked()
    expect(page.locator("#steps-value")).to_have_text(re.compile("^3"))
    page.click("#go")
    page.click(FINISHED)
    assert (pixels(saved(page, tmp_path / "again")) == pixels(path)).all()
    page.click("#viewer .close")
    page.click("nav a[href='#edit']")
    expect(page.locator("#steps")).to_be_visible()  # the table is of new pictures
    expect(page.locator("#time")).to_be_hidden()


def test_fast_is_that_of_pochade_run(visitor: Open, toy_bundle: Path, tmp_path: Path, capsys: Any) -> None:
    page = visitor()
    page.check("[name=pace][value=fast]", force=True)
    expect(page.locator("#fast-note")).to_have_text(re.compile("^Steps: 4"))
    page.fill("#prompt", "a red apple")
    page.fill("#seed", "5")
    page.click("#go")
    page.click(FINISHED)
    path = saved(page, tmp_path)
    request = read_metadata(path).request
    assert (request.steps, request.guidance_interval) == (FAST_STEPS, MIDDLE)
    cli(capsys, "run", str(toy_bundle), "a red apple", "--seed", "5", "--fast", "-o", f"{tmp_path}/run.png")
    near(path, pixels(tmp_path / "run.png"))
    cli(capsys, "run", str(toy_bundle), "--like", str(path), "-o", f"{tmp_path}/again.png")
    assert (pixels(tmp_path / "again.png") == pixels(tmp_path / "run.png")).all()
    page.click("#viewer .close")
    page.check("[name=pace][value=steps]", force=True)
    page.click(FINISHED)
    page.click("#reuse")
    expect(page.locator("[name=pace][value=fast]")).to_be_checked()
    page.click("nav a[href='#edit']")
    expect(page.locator("#steps")).to_be_visible()  # as in the command, it is of new pictures


@pytest.mark.parametrize("mode", ["instruction", "description"])
def test_an_edit_is_that_of_the_python_host(visitor: Open, toy_bundle: Path, tmp_path: Path, mode: str) -> None:
    page = visitor("edit")
    page.set_input_files("#file", a_picture(tmp_path / "mine.png", 40, 30))
    page.check(f"[name=mode][value={mode}]", force=True)
    create(page, "two green pears", 11, "4")
    page.wait_for_selector("#compare:not([hidden])")
    page.click("#open-result")
    bundle = Bundle(toy_bundle)
    instruction = mode == "instruction"
    expected = bundle.edit("two green pears", tmp_path / "mine.png", seed=11, steps=4, instruction=instruction)
    near(saved(page, tmp_path), expected.image)


def test_the_keyboard_alone_creates_and_edits(visitor: Open) -> None:
    page = visitor()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "prompt":
            break
    page.keyboard.type("a sleeping cat")
    set_range(page, "steps", 0)
    page.keyboard.press("Enter")
    page.wait_for_selector(FINISHED)
    page.focus(FINISHED)
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open]")
    page.focus("#edit-this")
    page.keyboard.press("Enter")
    page.wait_for_selector("#workspace:not([hidden])")
    page.focus("#mask")
    for key in ("ArrowLeft", "ArrowUp", " "):
        page.keyboard.press(key)
    expect(page.locator("#clear")).to_be_enabled()
    page.keyboard.press("Delete")
    expect(page.locator("#clear")).to_be_disabled()
    page.keyboard.press("Space")
    page.fill("#prompt", "a red apple")
    page.keyboard.press("Enter")
    page.wait_for_selector("#compare:not([hidden])")
    page.focus("#split")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#split")).to_have_value("51")


def test_cancel(visitor: Open) -> None:
    page = visitor()
    page.check("[name=count][value='4']", force=True)  # however slowly the click comes, some are still to be made
    create(page, "a red apple", 1, "50")
    page.click("#cancel")
    page.get_by_text("Cancelled.").wait_for()
    expect(page.locator("#pictures .tile[aria-busy]")).to_have_count(0)
    create(page, "a red apple", 1, "50")
    page.keyboard.press("Escape")
    page.get_by_text("Cancelled.").wait_for()
    create(page, "a red apple", 1, "1")
    page.wait_for_selector(FINISHED)


def test_offline_after_the_first_visit(toy_site: Path, visitors: Any) -> None:
    context = visitors.context()
    with serve(toy_site) as host:
        page = context.new_page()
        page.goto(host.url)
        page.wait_for_selector("body[data-threads]")
    for _ in range(2):
        page.reload()
        page.wait_for_selector("body[data-threads]")
        create(page, "a red apple", 1, "1")
        page.wait_for_selector(FINISHED)


def test_one_thread_where_a_page_cannot_be_isolated(host: Host, visitors: Any) -> None:
    page = visitors.context().new_page()
    page.goto(host.url.replace("localhost", PLAIN))
    page.wait_for_selector("body[data-threads='1']")
    assert not page.evaluate("crossOriginIsolated || isSecureContext")
    create(page, "a red apple", 1, "1")
    page.wait_for_selector(FINISHED)
    page.get_by_text("This browser keeps no files for this page").wait_for()


@pytest.mark.parametrize("view", ["generate", "edit", "gallery"])
@pytest.mark.parametrize(("width", "height"), [(320, 640), (640, 320)])
def test_a_small_phone(visitor: Open, view: str, width: int, height: int) -> None:
    """Upright and on its side, with a picture where there are pictures."""
    page = visitor(view)
    page.set_viewport_size({"width": width, "height": height})
    name = page.locator("#name")
    name.evaluate("(e) => { e.textContent = 'my-own-drawings-of-birds'; }")
    assert name.evaluate("(e) => e.scrollWidth <= e.clientWidth")  # it is not cut
    if view == "generate":
        create(page, "a red apple", 1, "1")
        box = page.locator(FINISHED).bounding_box()
        assert box["height"] <= height
    assert page.evaluate("document.documentElement.scrollWidth") == width
    if view == "gallery":
        return
    for name in ("#go", "#reroll"):
        box = page.locator(name).bounding_box()
        assert box["height"] >= 44
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height


@pytest.mark.parametrize("site", ["toy_site", "toy_site_with_a_decoder"])
def test_a_gpu_gives_the_same_picture(site: str, browser: Any, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(site)
    flags = (*FLAGS, "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--use-vulkan=swiftshader")
    launched = browser.browser_type.launch(
        executable_path=find_browser(), args=[*flags, "--enable-features=Vulkan"], timeout=PATIENCE
    )
    with serve(folder) as host, closing(launched) as chromium:
        page = chromium.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{host.url}?backend=webgpu")
        if not page.evaluate("navigator.gpu?.requestAdapter().then((adapter) => !!adapter)"):
            pytest.skip("this browser has no WebGPU in software")
        page.wait_for_selector("body[data-threads]")
        expect(page.locator("body")).to_have_attribute("data-backend", "webgpu")
        create(page, "a red apple", 9)
        page.click(FINISHED)
        bundle = Bundle(unpacked(folder, tmp_path / "bundle"))
        near(saved(page, tmp_path), bundle.generate("a red apple", seed=9, steps=2).image)
