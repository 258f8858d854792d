"""How a prompt becomes tokens, in pipelines and hosts alike: emoji by name, what is unknown, what is cut."""

import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

MOSTLY = 0.5
"""Share of the words of a prompt that are unknown, from which on there is a warning."""
SHOWN = 60
"""Characters of a prompt that a warning shows."""
SILENT = dict.fromkeys(map(chr, (*range(0xFE00, 0xFE10), 0x200D, *range(0x1F3FB, 0x1F400))), "")
"""What joins emoji and chooses their style and skin."""


class PromptTruncatedWarning(UserWarning):
    """A prompt is longer than the text encoder reads."""


class PromptUnknownWarning(UserWarning):
    """The text encoder knows hardly anything of a prompt."""


def valid(prompt: str) -> str:
    """The prompt without lone surrogates, as undecodable bytes from a command line arrive, which no tokenizer takes."""
    return prompt.encode("utf-8", "replace").decode("utf-8")


def whole(words: str) -> re.Pattern[str]:
    """Finds words in a text: not within a longer word, and in letters of any case. A trigger and a learned word are
    found in captions and prompts, and are read, by this rule alone."""
    return re.compile(rf"(?<!\w){re.escape(words)}(?!\w)", re.IGNORECASE)


def token_ids(tokenizer: Any, prompt: str, emoji: Mapping[str, str] | None = None) -> list[int]:
    """The ids of a prompt, opening and closing ones included, before anything is cut.

    Args:
        tokenizer: of the library ``tokenizers``, without truncation or padding of its own.
        prompt: any text; emoji that the vocabulary does not have are read by their names in Unicode.
        emoji: what ``emoji_names`` gave when a bundle was exported; None for the Unicode of this Python.
    """
    return tokenizer.encode(_readable(tokenizer, prompt, emoji)).ids


def cut(ids: list[int], max_tokens: int, closing_tokens: int) -> list[int]:
    """At most ``max_tokens`` ids: the last ``closing_tokens`` stay, those before them go."""
    if len(ids) <= max_tokens:
        return ids
    return ids[: max_tokens - closing_tokens] + ids[len(ids) - closing_tokens :]


def unknown_share(tokenizer: Any, prompt: str, emoji: Mapping[str, str] | None = None) -> float:
    """The share of the words of a prompt that are not in the vocabulary, which all read alike; as ``token_ids``."""
    words = _words(tokenizer, _readable(tokenizer, prompt, emoji))
    return words.count(tokenizer.model.unk_token) / len(words) if words else 0.0


def warn_of(name: str, prompt: str, tokens: int, max_tokens: int, unknown: float, *, stacklevel: int) -> None:
    """Warn of what a text encoder does not read.

    Args:
        name: of the argument that ``prompt`` was given for.
        prompt: as it was given.
        tokens: that it has.
        max_tokens: that are read.
        unknown: share of its words that are not in the vocabulary.
        stacklevel: of ``warnings.warn``, seen from the caller.

    Warns:
        PromptTruncatedWarning: some are cut.
        PromptUnknownWarning: half of it or more is unknown.
    """
    if tokens > max_tokens:
        warnings.warn(
            f"{name}: {tokens} tokens, the text encoder reads {max_tokens}: the last {tokens - max_tokens} are cut",
            PromptTruncatedWarning,
            stacklevel=stacklevel + 1,
        )
    if unknown >= MOSTLY:
        shown = prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]} ..."
        warnings.warn(
            f"{name}: {shown!r} is mostly unknown to the text encoder, so that others like it give the same picture",
            PromptUnknownWarning,
            stacklevel=stacklevel + 1,
        )


def emoji_names(tokenizer: Any, characters: Iterable[str]) -> dict[str, str]:
    """What is read in place of those of some characters that are symbols (Unicode's category So, which has emoji) and
    not in the vocabulary, and of all that join emoji; {} where the vocabulary has everything."""
    unknown = tokenizer.model.unk_token
    if unknown is None:
        return {}
    symbols = [c for c in characters if unicodedata.category(c) == "So" and unknown in _words(tokenizer, c)]
    return SILENT | {c: f" {unicodedata.name(c, c).lower()} " for c in symbols}


def _words(tokenizer: Any, text: str) -> list[str]:
    return tokenizer.encode(text, add_special_tokens=False).tokens


def _readable(tokenizer: Any, prompt: str, emoji: Mapping[str, str] | None) -> str:
    text = valid(prompt)
    names = emoji_names(tokenizer, set(text)) if emoji is None else emoji
    return "".join(names.get(c, c) for c in text)
