"""Files of learned words (textual inversion) before torch is imported: where they are, and for which text encoder."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pochade.errors import PochadeError
from pochade.pipelines.lora_files import adapter_file
from pochade.pipelines.tensor_files import read_head
from pochade.runtime.tokens import whole

WEIGHTS = "learned_embeds.safetensors"
"""The file in a folder, as diffusers names it: of each word its vectors [n, D]."""
ENCODER = "text_encoder"
"""Key of its metadata: the identity of the text encoder whose embedding was learned for."""


@dataclass(frozen=True)
class EmbeddingFile:
    """Learned words as a request names them."""

    file: Path
    words: tuple[str, ...]
    metadata: Mapping[str, str]


def find_embedding(place: str | os.PathLike[str]) -> EmbeddingFile:
    """The file of that name, in that folder, or of the training in it (``pochade.pipelines.lora_files.adapter_file``).

    Raises PochadeError where there is none, or it is damaged or empty.
    """
    file = adapter_file(place, "embedding", WEIGHTS)
    tensors, metadata = read_head(file)
    if not tensors:
        raise PochadeError(f"embedding: {os.fspath(place)!r} given, which holds no word")
    return EmbeddingFile(file, tuple(tensors), metadata)


def check_encoder(embedding: EmbeddingFile, encoder: str, model: str) -> None:
    """Raises PochadeError where words were learned for another text encoder than that of a model."""
    learned = embedding.metadata.get(ENCODER)
    if learned is not None and learned != encoder:
        raise PochadeError(
            f"embedding: {str(embedding.file)!r} was learned for the text encoder {learned!r}, and {model!r} has "
            f"{encoder or 'none'!r}: allowed is a model that has the same"
        )


def find_embeddings(given: Sequence[str], encoder: str, model: str, prompt: str) -> tuple[EmbeddingFile, ...]:
    """The files that a request names for a model with that text encoder.

    Raises PochadeError where there is no such file, a word is given twice, it is for another encoder, or the prompt has
    none of its words.
    """
    found = tuple(map(find_embedding, given))
    words = [word for embedding in found for word in embedding.words]
    again = [word for number, word in enumerate(words) if any(map(whole(word).fullmatch, words[:number]))]
    if again:
        raise PochadeError(f"embedding: the word {again[0]!r} given twice, allowed is once")
    for embedding in found:
        check_encoder(embedding, encoder, model)
        if not any(whole(word).search(prompt) for word in embedding.words):
            raise PochadeError(
                f"prompt: {prompt!r} given, allowed with {str(embedding.file)!r} is one that has its word, "
                f"{' or '.join(embedding.words)}"
            )
    return found
