"""Text models in transformers' format, by hub name or from a folder."""

from typing import TYPE_CHECKING, Any

from pochade.errors import PochadeError
from pochade.quiet import quiet_transformers

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAMED = 4
"""So many missing tensors are named in an error, the others counted."""


def load_pretrained(
    kind: str, name: str, model: type[Any], tokenizer: type[Any], **options: Any
) -> "tuple[Any, Tokenizer]":
    """A text model with its weights, and its tokenizer without truncation or padding of its own.

    Args:
        kind: what is looked for, in words, for the errors.
        name: hub name or folder.
        model: class of transformers; the weights keep the precision of the files.
        tokenizer: class of transformers.
        options: of the tokenizer.

    Raises:
        PochadeError: it cannot be had (no such folder, no network), holds no safetensors, or its tensors do not fit.
    """
    try:
        with quiet_transformers():
            network, report = model.from_pretrained(name, use_safetensors=True, output_loading_info=True)
            words = tokenizer.from_pretrained(name, **options)
    except Exception as error:  # transformers raises a dozen kinds here, of its own, of safetensors and of the hub
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PochadeError(
            f"text_encoder: no {kind} could be loaded from {name!r} (a folder or a hub name): {reason}"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise PochadeError(f"text_encoder: {name!r} lacks the tensors {', '.join(missing[:NAMED])}{more}")
    network.requires_grad_(False)
    return network.eval(), plain(words.backend_tokenizer.to_str())


def plain(tokenizer: str) -> "Tokenizer":
    """The tokenizer of that text, without truncation or padding of its own."""
    from tokenizers import Tokenizer

    words = Tokenizer.from_str(tokenizer)
    words.no_truncation()
    words.no_padding()
    return words
