"""Learned words in a pipeline: diffusers' methods for textual inversion (2208.01618), and the files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

import pochade
from pochade.arguments import path_text
from pochade.errors import PochadeError
from pochade.files import check_absent
from pochade.pipelines.embedding_files import WEIGHTS, EmbeddingFile, check_encoder, find_embedding
from pochade.runtime.tokens import whole
from pochade.tensors import read_tensors, write_tensors
from pochade.text_encoders.base import PromptEncoder


class TextualInversionMixin:
    """Learned words in a pipeline whose ``text_encoder`` is frozen."""

    text_encoder: Any

    def load_textual_inversion(
        self,
        pretrained_model_name_or_path: str | os.PathLike[str] | Mapping[str, Tensor],
        token: str | None = None,
    ) -> None:
        """Have the text encoder read learned words, beside those that were loaded before.

        Args:
            pretrained_model_name_or_path: the folder of a ``learned_embeds.safetensors``, such a file, or its tensors:
                of each word its vectors [n, D], or one vector [D].
            token: what the word is called from now on, where there is one; None: as in the file.

        Raises:
            PochadeError: there is no such file, or it holds no word, it is for another text encoder, a word is known
                already, its vectors are not finite, or the text encoder was trained along with the denoiser; nothing is
                loaded then.
        """
        given = pretrained_model_name_or_path
        encoder = _prompt_encoder(self.text_encoder)
        if isinstance(given, Mapping):
            tensors = dict(given)
            if not tensors:
                raise PochadeError("pretrained_model_name_or_path: {} given, allowed is at least one word")
        else:
            found = find_embedding(given)
            check_encoder(found, encoder.identity, "the pipeline")
            tensors = read_tensors(found.file)
        if token is not None:
            if len(tensors) != 1:
                raise PochadeError(f"token: {token!r} given for {len(tensors)} words, allowed is none")
            tensors = {token: next(iter(tensors.values()))}
        loaded = encoder.learned()
        taken = [word for word in tensors if any(map(whole(word).fullmatch, loaded))]
        if taken:
            raise PochadeError(f"token: {taken[0]!r} is loaded, allowed is another name")
        encoder.teach({**loaded, **{word: v[None] if v.ndim == 1 else v for word, v in tensors.items()}})

    def unload_textual_inversion(self, tokens: str | Sequence[str] | None = None) -> None:
        """Forget learned words; None: all. Raises PochadeError for one that is not loaded."""
        encoder = _prompt_encoder(self.text_encoder)
        loaded = encoder.learned()
        gone = list(loaded) if tokens is None else [tokens] if isinstance(tokens, str) else list(tokens)
        for word in gone:
            if word not in loaded:
                raise PochadeError(f"tokens: {word!r} given, allowed are {', '.join(loaded) or 'none'}")
        encoder.teach({word: vectors for word, vectors in loaded.items() if word not in gone})

    def save_textual_inversion(
        self, save_directory: str | os.PathLike[str], token: str, *, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write a learned word as ``learned_embeds.safetensors`` into a folder, with words about it in its head.

        Raises PochadeError where it is not loaded, or the folder is a URL or has such a file.
        """
        loaded = _prompt_encoder(self.text_encoder).learned()
        if token not in loaded:
            raise PochadeError(f"token: {token!r} given, allowed are {', '.join(loaded) or 'none'}")
        folder = Path(path_text("save_directory", save_directory))
        check_absent("save_directory", folder, [WEIGHTS])
        head = {"pochade": pochade.__version__, **(metadata or {})}
        write_tensors(folder / WEIGHTS, {token: loaded[token].detach().float().contiguous()}, head)

    def has_learned_words(self) -> bool:
        """Whether any are loaded."""
        return isinstance(self.text_encoder, PromptEncoder) and bool(self.text_encoder.learned())


def _prompt_encoder(encoder: Any) -> PromptEncoder:
    if not isinstance(encoder, PromptEncoder):
        raise PochadeError("embedding: given for a model that reads no sentences, allowed is none")
    return encoder


def load_embeddings(pipe: Any, embeddings: Sequence[EmbeddingFile]) -> None:
    """Load those that a request names. Raises as ``load_textual_inversion``."""
    for embedding in embeddings:
        pipe.load_textual_inversion(embedding.file)
