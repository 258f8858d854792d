"""From a prompt to what the denoiser takes of it."""

from difflib import get_close_matches
from typing import Any

import numpy as np

from ..errors import PochadeError
from .graphs import Graphs
from .manifest import Text
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

    def check(self, prompt: str) -> None:
        """Raises PochadeError for a prompt that no row can be made of; warns as ``warn_of`` does."""
        text = self._text
        if text is None and prompt.strip():
            raise PochadeError("prompt: a sentence given, but the model reads none: allowed is the empty one")
        if text is not None and text.classes:
            self._label(prompt, text)
        elif text is not None:
            words = self._words()
            tokens, unknown = len(token_ids(words, prompt)), unknown_share(words, prompt)
            warn_of(prompt, tokens, text.max_tokens, unknown, stacklevel=4)

    def encode(self, prompt: str) -> Arrays:
        """The row of a prompt; an empty one is no text, and has nothing in it."""
        text = self._text
        if text is None or not prompt.strip():
            return {}
        if text.classes:
            return {"class_label": np.array([self._label(prompt, text)], dtype=np.int64)}
        ids = cut(token_ids(self._words(), prompt), text.max_tokens, text.closing_tokens)
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

    @staticmethod
    def _label(prompt: str, text: Text) -> int:
        """The index of a class, -1 for an empty prompt. Raises PochadeError for one that is no class."""
        index = {" ".join(name.lower().split()): i for i, name in enumerate(text.classes)}
        key = " ".join(prompt.lower().split())
        if key and key not in index:
            near = "".join(f" (did you mean {name!r}?)" for name in get_close_matches(key, index, n=1))
            raise PochadeError(f"prompt: {prompt!r} is no class, allowed are {', '.join(text.classes)}{near}")
        return index.get(key, -1)
