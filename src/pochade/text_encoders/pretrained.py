"""Text models in transformers' format, by hub name or from a folder."""

from typing import TYPE_CHECKING, Any

from pochade.load_transformers import load_transformers, loading

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_pretrained(
    kind: str, name: str, model: type[Any], tokenizer: type[Any], **options: Any
) -> "tuple[Any, Tokenizer]":
    """A text model with its weights, and its tokenizer without truncation or padding of its own.

    Args:
        kind: of model, in words, for the errors.
        name: hub name or folder.
        model: class of transformers; the weights keep the precision of the files.
        tokenizer: class of transformers.
        options: of the tokenizer.

    Raises:
        PochadeError: it cannot be had (no such folder, no network), holds no safetensors, or its tensors do not fit.
    """
    network = load_transformers("text_encoder", kind, name, model)
    with loading("text_encoder", kind, name):
        words = tokenizer.from_pretrained(name, **options)
    return network, plain(words.backend_tokenizer.to_str())


def plain(tokenizer: str) -> "Tokenizer":
    """The tokenizer of that text, without truncation or padding of its own."""
    from tokenizers import Tokenizer

    words = Tokenizer.from_str(tokenizer)
    words.no_truncation()
    words.no_padding()
    return words
