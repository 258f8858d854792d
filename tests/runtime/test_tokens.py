"""What of a prompt is read: emoji by the table of a bundle, and what is said of the rest."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from conftest import toy_components, toy_words
from pochade.errors import PochadeError
from pochade.export.bundle import export_bundle
from pochade.files import sha256
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.runtime import Bundle
from pochade.runtime.manifest import Model
from pochade.runtime.tokens import PromptTruncatedWarning, PromptUnknownWarning, emoji_names, token_ids
from pochade.text_encoders.minilm import MiniLMEncoder


@pytest.fixture(scope="module")
def words_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose tokenizer knows words, and no emoji. Read only."""
    folder = tmp_path_factory.mktemp("bundles") / "words"
    export_bundle(TextToImagePipeline(**toy_components(tokenizer=toy_words())), folder, Model("toy"))
    return folder


def made(bundle: Bundle, prompt: str, **more: Any) -> np.ndarray:
    return np.asarray(bundle.generate(prompt, seed=7, steps=2, guidance=3.0, **more).image)


def with_table(bundle: Path, folder: Path, text: str | None) -> Bundle:
    """A copy with another ``emoji.json``, or without one."""
    shutil.copytree(bundle, folder)
    manifest, path = json.loads((folder / "manifest.json").read_text()), folder / "emoji.json"
    if text is None:
        path.unlink()
        del manifest["files"]["emoji.json"]
    else:
        path.write_text(text, encoding="utf-8")
        manifest["files"]["emoji.json"] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Bundle(folder)


def test_emoji_are_read_by_the_table_of_the_bundle(words_folder: Path, tmp_path: Path) -> None:
    """Another Python, whose Unicode has other names, gives the same pictures; bundles of before go by its own."""
    bundle = Bundle(words_folder)
    assert "emoji.json" in (words_folder / "README.md").read_text()
    assert (made(bundle, "a 🐈") == made(bundle, "a cat")).all()
    assert (made(bundle, "a 🐈") != made(bundle, "a red apple")).any()
    other = with_table(words_folder, tmp_path / "other", '{"🐈": " red apple "}')
    assert (made(other, "a 🐈") == made(bundle, "a red apple")).all()
    before = with_table(words_folder, tmp_path / "before", None)
    assert (made(before, "a 🐈") == made(bundle, "a cat")).all()
    for i, text in enumerate(("[]", "{", "\x00")):
        with pytest.raises(PochadeError, match=r"emoji.json: no table of emoji \("):
            made(with_table(words_folder, tmp_path / str(i), text), "a 🐈")


def test_the_table_names_what_prompts_are_read_by() -> None:
    encoder = MiniLMEncoder()
    words, names = Tokenizer.from_str(encoder.tokenizer_json()), encoder.emoji_names()
    assert (names["🍎"], names["\u200d"], names["🏽"]) == (" red apple ", "", "")
    assert len(names) > 6000
    assert all(len(character) == 1 and not character.isascii() for character in names)
    for prompt in ("a 🍎 in the ❄️", "👍🏽", "25° ★", "👨\u200d👩\u200d👧", "", "a fox", *names):
        assert token_ids(words, prompt, names) == token_ids(words, prompt)


def test_a_vocabulary_of_bytes_needs_no_table(toy_bundle: Path) -> None:
    assert not (toy_bundle / "emoji.json").exists()
    assert "emoji.json" not in (toy_bundle / "README.md").read_text()
    assert emoji_names(Tokenizer.from_file(str(toy_bundle / "tokenizer.json")), "🍎") == {}


def test_the_host_of_the_documentation_reads_emoji(words_folder: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "on-device.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(text.partition("### In Python\n")[2].partition("```python\n")[2].partition("```")[0], names)
    got = names["sample"](str(words_folder), "a 🦊 and 🐈\u200d⬛", 7, 2, 3.0)
    assert (np.asarray(got) == made(Bundle(words_folder), "a 🦊 and 🐈\u200d⬛", guidance_interval=(0, 1))).all()


@pytest.mark.parametrize("kind", ["bundle", "pipeline"])
@pytest.mark.parametrize("argument", ["prompt", "negative_prompt"])
def test_a_warning_names_the_prompt_that_is_not_read(words_folder: Path, kind: str, argument: str) -> None:
    bundle, pipe = Bundle(words_folder), TextToImagePipeline(**toy_components(tokenizer=toy_words()))
    pipe.set_progress_bar_config(disable=True)
    calls: dict[str, tuple[Any, dict[str, Any]]] = {
        "bundle": (bundle.generate, {"steps": 1, "guidance": 3.0}),
        "pipeline": (pipe, {"num_inference_steps": 1, "guidance_scale": 3.0}),
    }
    call, more = calls[kind]
    long, unknown = "a red apple " * 20, "ꦲꦏ ꦱꦫ"
    said = {
        PromptTruncatedWarning: (long, f"{argument}: 60 tokens, the text encoder reads 32: the last 28 are cut"),
        PromptUnknownWarning: (unknown, f"{argument}: {unknown!r} is mostly unknown to the text encoder"),
    }
    for category, (given, sentence) in said.items():
        texts = {"prompt": "a cat", "negative_prompt": "a cat", argument: given}
        with pytest.warns(category, match=f"^{re.escape(sentence)}") as found:
            call(**texts, **more)
        assert (len(found), found[0].filename) == (1, __file__)


def test_an_error_names_the_prompt_that_is_no_class(tmp_path: Path) -> None:
    pipe = TextToImagePipeline(**toy_components(text=False))
    pipe.set_progress_bar_config(disable=True)
    export_bundle(pipe, tmp_path / "bundle", Model("toy"))
    bundle = Bundle(tmp_path / "bundle")
    for argument in ("prompt", "negative_prompt"):
        texts = {"prompt": "cat", "negative_prompt": "dog", argument: "cow"}
        with pytest.raises(PochadeError, match=f"^{argument}: 'cow' is no class, allowed are cat, dog"):
            bundle.generate(**texts, guidance=3.0)
        with pytest.raises(PochadeError, match=f"^{argument}: 'cow' is no class, allowed are cat, dog"):
            pipe(**texts, num_inference_steps=1, guidance_scale=3.0)
    pipe("cat", negative_prompt="dog", num_inference_steps=1, guidance_scale=3.0)


def test_a_negative_prompt_without_a_text_encoder() -> None:
    parts = toy_components()
    encoder = parts.pop("text_encoder")
    pipe, given = TextToImagePipeline(**parts, text_encoder=None), encoder.encode(["a cat"])
    with pytest.raises(PochadeError, match=r"^negative_prompt: goes with prompt, not with prompt_embeds"):
        pipe(prompt_embeds=given, negative_prompt="a dog", guidance_scale=3.0)
    with pytest.raises(PochadeError, match=r"^negative_prompt: this model has no text encoder, pass negative_prompt_e"):
        pipe("", negative_prompt="a dog", guidance_scale=3.0)
