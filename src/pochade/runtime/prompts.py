"""From a prompt to what the denoiser takes of it."""

import json
from difflib import get_close_matches
from typing import Any

import numpy as np

from ..errors import PochadeError
from .graphs import Graphs
from .manifest import EMOJI, Text
from .tokens import cut, token_ids, unknown_share, warn_of

Arrays = dict[str, np.ndarray]


class Prompts:
    """Prompts as rows of the denoiser's inputs, [1, ...] each; what is not in a row is absent.

    Args:
        graphs: of the bundle.
        text: of the manifest.
    """

    def __init__(self, graphs: Graphs, text: Text | None) -> None:
        self._graphs = graphs
        self._text = text
        self._tokenizer: Any = None
        self._names: dict[str, str] | None = None

    def check(self, name: str, prompt: str) -> None:
        """Raises PochadeError for a prompt, the argument ``name``, that no row can be made of; warns as ``warn_of``."""
        text = self._text
        if text is None and prompt.strip():
            raise PochadeError(f"{name}: a sentence given, but the model reads none: allowed is the empty one")
        if text is not None and text.classes:
            self._label(prompt, text, name)
        elif text is not None:
            words, emoji = self._words(), self._emoji(prompt)
            tokens, unknown = len(token_ids(words, prompt, emoji)), unknown_share(words, prompt, emoji)
            warn_of(name, prompt, tokens, text.max_tokens, unknown, stacklevel=4)

    def encode(self, prompt: str) -> Arrays:
        """The row of a prompt; an empty one is no text, and has nothing in it."""
        text = self._text
        if text is None or not prompt.strip():
            return {}
        if text.classes:
            return {"class_label": np.array([self._label(prompt, text)], dtype=np.int64)}
        ids = cut(token_ids(self._words(), prompt, self._emoji(prompt)), text.max_tokens, text.closing_tokens)
        padded = np.zeros((1, text.max_tokens), dtype=np.int64)
        padded[0, : len(ids)] = ids
        mask = np.arange(text.max_tokens)[None] < len(ids)
        tokens, pooled = self._graphs.run("text_encoder", {"ids": padded, "mask": mask})
        return {"tokens": tokens, "mask": mask, "pooled": pooled}

    def _words(self) -> Any:
        if self._tokenizer is None:
            from tokenizers import Tokenizer

            assert self._text is not None
            assert self._text.tokenizer is not None
            path = self._graphs.check_file(self._text.tokenizer)
            try:
                self._tokenizer = Tokenizer.from_file(str(path))
            except Exception as error:  # the library raises that type itself
                raise PochadeError(f"{path}: no tokenizer ({error})") from None
        return self._tokenizer

    def _emoji(self, prompt: str) -> dict[str, str] | None:
        """The table of the bundle; None where it has none. A prompt in ASCII needs none."""
        if prompt.isascii() or not self._graphs.has(EMOJI):
            return None
        if self._names is None:
            path = self._graphs.check_file(EMOJI)
            try:
                self._names = {str(c): str(name) for c, name in json.loads(path.read_text(encoding="utf-8")).items()}
            except (ValueError, AttributeError, RecursionError) as error:
                raise PochadeError(f"{path}: no table of emoji ({error})") from None
        return self._names

    @staticmethod
    def _label(prompt: str, text: Text, name: str = "prompt") -> int:
        """The index of a class, -1 for an empty prompt. Raises PochadeError for one that is no class."""
        index = {" ".join(name.lower().split()): i for i, name in enumerate(text.classes)}
        key = " ".join(prompt.lower().split())
        if key and key not in index:
            near = "".join(f" (did you mean {name!r}?)" for name in get_close_matches(key, index, n=1))
            raise PochadeError(f"{name}: {prompt!r} is no class, allowed are {', '.join(text.classes)}{near}")
        return index.get(key, -1)
