"""A page of a toy model, a browser without a window, and pages in it that complain of nothing."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import save_toy_decoder, toy_components, toy_words
from export.web.browsing import PATIENCE, PLAIN
from export.web.serving import Host, serve, unpacked
from once import made_once
from pochade.runtime.manifest import Quality

QUALITY = (Quality(1, None, 0.3, 0.1), Quality(3, None, 0.1, 0.3), Quality(4, None, 0.2, 0.2))
"""The toy's table: three steps are the best, a number that the page offers in no other way."""


@pytest.fixture(scope="session")
def toy_site(toy_editor_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a toy model that edits, 32 px, its weights in 8 bits as those of pages are, with 3 iterations in
    place of the model's 2. Read only. One process makes it for all."""
    from pochade.export.bundle import model_facts
    from pochade.export.site import export_site
    from pochade.pipelines.text_to_image import TextToImagePipeline

    def make(place: Path) -> None:
        pipe = TextToImagePipeline.from_pretrained(toy_editor_folder)
        export_site(pipe, place, model_facts("toy-editor", toy_editor_folder), size=32, quality=QUALITY, depth=3)

    return made_once(tmp_path_factory, "toy-site", make)


@pytest.fixture(scope="session")
def toy_site_with_a_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a toy model with a small decoder, in float32, that reads words, emoji by their names. Read only."""
    from pochade.export.bundle import model_facts
    from pochade.export.site import export_site
    from pochade.pipelines.text_to_image import TextToImagePipeline

    def make(place: Path) -> None:
        pipe, folder = TextToImagePipeline(**toy_components(tokenizer=toy_words())), place.with_name("toy-words")
        pipe.save_pretrained(folder)
        decoder = save_toy_decoder(tmp_path_factory.mktemp("decoders") / "tiny")
        export_site(pipe, place, model_facts("toy", folder), precision="fp32", size=32, decoder=decoder)

    return made_once(tmp_path_factory, "toy-site-with-a-decoder", make)


@pytest.fixture(scope="session")
def toy_bundle(toy_site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that the page holds, unpacked."""
    return unpacked(toy_site, tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture(scope="session")
def host(toy_site: Path) -> Iterator[Host]:
    """The toy page, served without faults, below a path."""
    with serve(toy_site, "/some/where/") as served:
        yield served


class Watched:
    """Contexts of the browser, whose pages are watched: errors in the console, and requests to other hosts."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.contexts: list[Any] = []

    def context(self, **options: Any) -> Any:
        """A new visitor of the page."""
        context = self._browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        context.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", lambda request: self._request(request.url))
        self.contexts.append(context)
        return context

    def _request(self, url: str) -> None:
        if not re.match(rf"(blob:)?http://(localhost|{PLAIN}):", url):
            self.foreign.append(url)

    def close(self) -> None:
        """Ends the visits."""
        for context in self.contexts:
            context.close()


@pytest.fixture
def visitors(browser: Any) -> Iterator[Watched]:
    """New visitors; requests to other hosts fail the test, errors of the console where the test does not clear them."""
    watched = Watched(browser)
    yield watched
    watched.close()
    assert not watched.foreign
    assert not watched.errors


@pytest.fixture(scope="module")
def visitor(browser: Any, host: Host) -> Iterator[Callable[..., Any]]:
    """Opens the toy page for a visitor who has been there before; ``view`` and ``query`` follow the address."""
    watched = Watched(browser)
    context = watched.context(accept_downloads=True)

    def opened(view: str = "generate", query: str = "?backend=wasm&threads=2") -> Any:
        for old in context.pages:
            old.close()
        page = context.new_page()
        page.goto(f"{host.url}{query}#{view}")
        page.wait_for_selector("body[data-threads]")
        return page

    yield opened
    watched.close()
    assert not watched.foreign
    assert not watched.errors
