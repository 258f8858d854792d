"""Fixtures that several layers use: toy models, built once a session."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported. Toys gain nothing from threads, and threads that wait in a loop take the processor from the
# other workers. Tests of threads set their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Torch and the tests are a million objects that stay: looking for garbage among them took a tenth of the time.
gc.set_threshold(20_000, 20, 100)

# The same examples in every run, however long they take: a machine that is busy fails no test.
settings.register_profile(
    "suite", derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

LONG = ("_page.py", "test_notebooks.py", "test_two_processes.py")
"""How the names of files end whose tests take a minute."""

CAPTIONS = ("a red apple", "a sleeping cat", "a blue house with a door", "two green pears")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: no process of the run is still at one when the others have ended."""
    items.sort(key=lambda item: not item.path.name.endswith(LONG))


def toy_components(seed: int = 0, text: bool = True, tokenizer: str = "") -> dict[str, Any]:
    """Components of a pipeline with random weights for 32 x 32 pictures; text from a bag of tokens, or two classes."""
    import torch

    from pochade.autoencoders.tiny import TinyAutoencoder
    from pochade.denoisers.lrf import LRFDenoiser
    from pochade.text_encoders.bag import BagEncoder
    from pochade.text_encoders.class_label import ClassLabelEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = TinyAutoencoder(4, width=8, encoder_blocks=(1, 1, 1, 1), decoder_blocks=(1, 1, 1, 1))
        size = {
            "latent_channels": 4,
            "sample_size": 4,
            "patch_size": 2,
            "dim": 16,
            "heads": 2,
            "hidden": 32,
            "blocks": 1,
        }
        if text:
            tokenizer = tokenizer or BagEncoder.train_tokenizer(CAPTIONS, 300)
            encoder: Any = BagEncoder(tokenizer, dim=12, hidden_dim=16, max_tokens=32)
            size |= {"text_dim": 12, "pooled_dim": 12, "text_encoder": encoder.identity}
        else:
            encoder = ClassLabelEncoder(["cat", "dog"])
            size |= {"num_classes": 2, "text_encoder": encoder.identity}
        denoiser = LRFDenoiser(**size)
        # What starts at zero would hide the prompt and the time.
        for parameter in denoiser.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    components = {"autoencoder": autoencoder, "denoiser": denoiser, "text_encoder": encoder}
    return {name: module.eval() for name, module in components.items()}


def toy_words() -> str:
    """A tokenizer of the kind of MiniLM's: it knows the words of ``CAPTIONS`` and letters, and no emoji."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = dict.fromkeys(["[UNK]", *" ".join(CAPTIONS).split(), *letters, *(f"##{letter}" for letter in letters)])
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer.to_str()


def save_toy_decoder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A small decoder with random weights for the latents of ``toy_components``; its folder."""
    import torch

    from pochade.autoencoders.tiny_decoder import TinyVAEDecoder

    torch.manual_seed(seed)
    decoder = TinyVAEDecoder(**{"latent_channels": 4, "widths": (8, 6), "blocks": (1, 1), **changes})
    for parameter in decoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    decoder.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """See ``small.small_trainings``."""
    from small import small_trainings

    with small_trainings():
        yield


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, one for all tests of a process, which can drive one only."""
    from export.web.browsing import FLAGS, PATIENCE, find_browser

    found = find_browser()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def toy_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved text-to-image pipeline, 32 px, multiples of 16. Read only."""
    from pochade.pipelines.text_to_image import TextToImagePipeline

    folder = tmp_path_factory.mktemp("models") / "toy"
    TextToImagePipeline(**toy_components()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_editor_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``toy_pipeline_folder``, of a model that names the tasks edit and super_resolution. Read only."""
    import torch

    from pochade.pipelines.text_to_image import TextToImagePipeline

    folder = tmp_path_factory.mktemp("models") / "toy-editor"
    parts = toy_components()
    denoiser = parts["denoiser"].with_source(("edit", "super_resolution"))
    generator = torch.Generator().manual_seed(5)
    for parameter in (denoiser.embed_source.weight, denoiser.task_vectors.weight):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    TextToImagePipeline(**{**parts, "denoiser": denoiser}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_class_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``toy_pipeline_folder``, for the classes ``cat`` and ``dog`` in place of sentences."""
    from pochade.pipelines.text_to_image import TextToImagePipeline

    folder = tmp_path_factory.mktemp("models") / "toy-classes"
    TextToImagePipeline(**toy_components(text=False)).save_pretrained(folder)
    return folder


@pytest.fixture
def silent_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that ends every connection without an answer, of which nothing is on this machine; yields the requests."""
    from socketserver import BaseRequestHandler, ThreadingTCPServer
    from threading import Thread

    from huggingface_hub import constants

    seen: list[str] = []

    class Silent(BaseRequestHandler):
        def handle(self) -> None:
            seen.append(self.request.recv(4096).decode(errors="replace").partition("\r\n")[0])

    with ThreadingTCPServer(("127.0.0.1", 0), Silent) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield seen
        server.shutdown()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within it the user's cache is an empty one, and transfers that fail are repeated at once."""
    from pochade import storage

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.0)


@pytest.fixture(scope="session")
def toy_bundle(toy_editor_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``toy_editor_folder`` in float32. Read only."""
    from pochade.export.bundle import export_bundle, model_facts
    from pochade.pipelines.text_to_image import TextToImagePipeline

    folder = tmp_path_factory.mktemp("bundles") / "toy"
    pipe = TextToImagePipeline.from_pretrained(toy_editor_folder)
    export_bundle(pipe, folder, model_facts("toy-editor", toy_editor_folder))
    return folder
