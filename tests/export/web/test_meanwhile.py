"""What a visitor does while a picture is in the making changes nothing of it, and loses nothing."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from export.web.test_page import FINISHED, a_picture, create, near, pixels, saved
from pochade.files import sha256
from pochade.pipelines.metadata import read_metadata
from pochade.runtime import Bundle

Open = Callable[..., Any]


def masked_edit(page: Any, picture: Path) -> None:
    """Begins an inpainting that takes a while."""
    page.set_input_files("#file", picture)
    page.wait_for_selector("#workspace:not([hidden])")
    page.focus("#mask")
    page.keyboard.press("Space")
    page.check("[name=mode][value=description]", force=True)
    create(page, "a blue house with a door", 3, "50")
    page.wait_for_selector("#cancel:not([hidden])")


def drop(page: Any, path: Path) -> None:
    """A picture on the workspace, as from another window."""
    content = "[" + ",".join(map(str, path.read_bytes())) + "]"
    page.evaluate(f"""() => {{
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array({content})], "{path.name}", {{ type: "image/png" }}));
      document.getElementById("editor").dispatchEvent(new DragEvent("drop", {{ dataTransfer: data, bubbles: true }}));
    }}""")


@pytest.mark.parametrize("meanwhile", ["brush", "clear", "other", "drop", "leave"])
def test_an_inpainting_is_of_what_was_there_when_it_began(
    visitor: Open, toy_bundle: Path, tmp_path: Path, meanwhile: str
) -> None:
    page = visitor("edit")
    mine = a_picture(tmp_path / "mine.png", 40, 40)
    before = page.locator("#shelf li").count()
    masked_edit(page, mine)
    if meanwhile == "brush":
        page.focus("#mask")
        for key in (*["ArrowLeft"] * 5, "Space"):
            page.keyboard.press(key)
    elif meanwhile == "drop":
        drop(page, a_picture(tmp_path / "another.png", 20, 30))
        expect(page.locator("#mask")).to_have_attribute("height", "30")
    elif meanwhile == "leave":
        page.click("nav a[href='#generate']")
    else:
        page.click(f"#{meanwhile}")
    page.fill("#prompt", "a cat")
    expect(page.locator("#cancel")).to_be_hidden()
    expect(page.locator("#shelf li")).to_have_count(before + 1)
    if meanwhile in ("other", "drop"):  # it is of a picture that is gone
        expect(page.locator("#compare")).to_be_hidden()
        expect(page.locator("#notices")).to_contain_text("The edit is finished.")
        page.click("#notices >> text=Open")
    else:
        if meanwhile == "leave":
            expect(page.locator("#compare")).to_be_hidden()
            page.click("nav a[href='#edit']")
        expect(page.locator("#compare")).to_be_visible()
        page.click("#open-result")
    path, source, mask = (saved(page, tmp_path / "kept", button) for button in ("#save", "#save-source", "#save-mask"))
    request, digests = read_metadata(path).request, read_metadata(path).sha256
    assert (request.prompt, request.source, request.mask) == ("a blue house with a door", "mine.png", "mine-mask.png")
    assert (digests["source"], digests["mask"]) == (sha256(source), sha256(mask))
    assert (pixels(source) == pixels(mine)).all()
    marked = np.asarray(Image.open(mask)) > 0
    assert marked[20, 20]
    assert not marked[:, :8].any()
    assert (pixels(path) == pixels(source))[~marked].all()
    made = Bundle(toy_bundle).inpaint("a blue house with a door", source, mask, seed=3, steps=50)
    near(path, made.image)


def test_a_picture_that_is_dropped_on_a_result_takes_its_place(visitor: Open, tmp_path: Path) -> None:
    page = visitor("edit")
    page.set_input_files("#file", a_picture(tmp_path / "mine.png"))
    create(page, "a cat", 1, "1")
    page.wait_for_selector("#compare:not([hidden])")
    drop(page, a_picture(tmp_path / "another.png", 20, 30))
    expect(page.locator("#compare")).to_be_hidden()
    expect(page.locator("#workspace")).to_be_visible()
    expect(page.locator("#source")).to_have_attribute("height", "30")


def test_a_cancelled_edit_leaves_the_picture_as_it_was(visitor: Open, tmp_path: Path) -> None:
    page = visitor("edit")
    page.wait_for_selector("body[data-warm]")
    page.set_input_files("#file", a_picture(tmp_path / "mine.png"))
    shown = "document.getElementById('source').toDataURL()"
    page.wait_for_selector("#workspace:not([hidden])")
    before = page.evaluate(shown)
    page.evaluate("""() => {
      const own = document.getElementById("source").getContext("2d"), put = own.putImageData.bind(own);
      let shown = 0;
      own.putImageData = (...given) => {
        put(...given);
        if (++shown === 2) document.getElementById("cancel").click(); // the first is the picture, then comes a preview
      };
    }""")
    create(page, "a cat", 1, "50")
    page.get_by_text("Cancelled.").wait_for()
    assert page.evaluate(shown) == before


def test_the_gallery_says_which_pictures_another_model_made(visitor: Open) -> None:
    page = visitor()
    create(page, "a red apple", 5, "1")
    page.wait_for_selector(FINISHED)
    page.evaluate("""async () => {
      const { Gallery } = await import("./gallery.js");
      const gallery = await Gallery.open(() => {}, () => {}), [{ id, created, ...rest }] = await gallery.all();
      await gallery.add({ ...rest, recipe: { ...rest.recipe, steps: 7, bundle_sha256: "0" } });
    }""")
    page.click("nav a[href='#gallery']")
    page.reload()
    page.wait_for_selector("body[data-threads]")
    for place, said in ((1, ""), (0, "Another model, or another export of it, made that picture")):
        page.click("nav a[href='#gallery']")
        page.locator("#shelf button").nth(place).click()
        expect(page.locator("#viewer-recipe")).to_contain_text("another model or export" if said else "Seed")
        page.click("#reuse")
        expect(page.locator("#steps-value")).to_have_text(re.compile("^7" if said else "^1"))
        expect(page.locator("#prompt-note")).to_contain_text(said)


def test_the_page_says_what_it_changes_of_a_picture(visitor: Open, tmp_path: Path) -> None:
    page = visitor("edit")
    a_picture(tmp_path / "large.png", 3000, 2000)
    page.set_input_files("#file", tmp_path / "large.png")
    notices = page.locator("#notices")
    expect(notices).to_contain_text("large.png has 3000 × 2000 pixels. It is made smaller, 1024 × 683")
    page.click("#notices button")
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    clear.putpixel((3, 4), (0, 255, 0, 0))
    clear.save(tmp_path / "clear.png")
    page.set_input_files("#file", tmp_path / "clear.png")
    expect(notices).to_contain_text("What is transparent in clear.png is taken as white.")
    page.click("#notices button")
    at = "[...document.getElementById('source').getContext('2d').getImageData(3, 4, 1, 1).data]"
    assert page.evaluate(at) == [255, 255, 255, 255]
    page.set_input_files("#file", a_picture(tmp_path / "mine.png", 1024, 20))
    expect(page.locator("#mask")).to_have_attribute("height", "20")
    expect(notices).to_be_empty()
