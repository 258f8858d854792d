"""What every text encoder shares: tokenising, truncation, padding, and ``encode``."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pochade.configuration import ConfigMixin
from pochade.errors import PochadeError
from pochade.runtime.tokens import cut, emoji_names, token_ids, unknown_share, valid, whole
from pochade.text_encoders.learned import LearnedWords
from pochade.types import TextEncoding

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts as a list of valid Unicode. Raises PochadeError for no prompts or one that is no string."""
    if isinstance(prompts, str) or len(prompts) == 0:
        raise PochadeError("prompts: a list of at least one string is needed")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise PochadeError(f"prompts: {type(prompt).__name__} given, every prompt must be a string")
    return [valid(prompt) for prompt in prompts]


class PromptEncoder(ModelMixin, ConfigMixin):
    """Text to vectors: ``encode(prompts)`` for use, ``tokenize`` and ``forward`` for training.

    A subclass sets ``_tokenizer`` (without truncation or padding of its own) and ``_suffix`` (how many
    closing tokens survive truncation), and gives ``identity``, ``dim``, ``max_tokens`` and ``forward``.
    """

    _tokenizer: "Tokenizer"
    _suffix = 1
    _words: "tuple[tuple[str, int], ...]" = ()
    """The words that it was taught, each with the number of its vectors."""
    _untaught = ""
    """Its tokenizer before that."""

    @property
    def identity(self) -> str:
        """Names the encoder and its weights; stored with a denoiser, which works with no other."""
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """D_text, the width of ``tokens``."""
        raise NotImplementedError

    @property
    def pooled_dim(self) -> int:
        """D_pool, the width of ``pooled``."""
        return self.dim

    @property
    def max_tokens(self) -> int:
        """The most tokens of a prompt that are used, opening and closing tokens included."""
        raise NotImplementedError

    @property
    def closing_tokens(self) -> int:
        """The last tokens of a prompt, which stay where it is cut to ``max_tokens``."""
        return self._suffix

    @property
    def vocabulary_size(self) -> int:
        """One more than the greatest token id."""
        return self._tokenizer.get_vocab_size()

    def tokenizer_json(self) -> str:
        """The tokenizer in the format of the library ``tokenizers``, without truncation or padding."""
        return self._tokenizer.to_str()

    def emoji_names(self) -> dict[str, str]:
        """All characters that are read as something else, see ``pochade.runtime.tokens.emoji_names``."""
        return emoji_names(self._tokenizer, map(chr, range(sys.maxunicode + 1)))

    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Vectors of token ids [B, M] int64 with mask [B, M] bool, True where real, padded on the right."""
        raise NotImplementedError

    def unknown(self, prompt: str) -> float:
        """The share of the words of a prompt that are not in the vocabulary, which all read alike."""
        return unknown_share(self._tokenizer, self._spelled(prompt))

    def knows(self, word: str) -> bool:
        """Whether a word is one of its vocabulary, and read as one token."""
        return len(self._tokenizer.encode(word, add_special_tokens=False).ids) == 1 and not self.unknown(word)

    def count_tokens(self, prompt: str) -> int:
        """Tokens of ``prompt`` before truncation; above ``max_tokens`` its end is not used."""
        return len(self._ids(check_prompts([prompt])[0]))

    def _ids(self, prompt: str) -> list[int]:
        """The ids of a prompt; a word that was taught has one for each of its vectors."""
        ids = token_ids(self._tokenizer, self._spelled(prompt))
        if not self._words:
            return ids
        new = self._known().num_embeddings
        of_word: dict[int, range] = {}
        for word, count in self._words:
            found = self._tokenizer.token_to_id(word)
            assert found is not None
            of_word[found] = range(new, new + count)
            new += count
        return [one for id in ids for one in of_word.get(id, (id,))]

    def _spelled(self, prompt: str) -> str:
        """The prompt with the words that were taught in the letters in which the tokenizer has them."""
        for word in sorted((word for word, _ in self._words), key=len):
            prompt = whole(word).sub(lambda _, word=word: word, prompt)
        return prompt

    def _text_model(self) -> Any:
        """The network of transformers that can be taught words. Raises PochadeError where there is none."""
        raise PochadeError(f"text_encoder: {self.identity} cannot be taught words, allowed are those that stay frozen")

    def _known(self) -> nn.Embedding:
        embedding = self._text_model().get_input_embeddings()
        return embedding.known if isinstance(embedding, LearnedWords) else embedding

    def learned(self) -> dict[str, Tensor]:
        """The words that it was taught and the vectors [n, D] of each."""
        if not self._words:
            return {}
        parts = self.learned_vectors().split([count for _, count in self._words])
        return {word: part for (word, _), part in zip(self._words, parts, strict=True)}

    def learned_vectors(self) -> nn.Parameter:
        """The vectors [N, D] of all words that it was taught, one after the other."""
        return self._text_model().get_input_embeddings().vectors

    def teach(self, words: Mapping[str, Tensor]) -> None:
        """Have it read these words, and no others beside its vocabulary, each as its vectors [n, D]; {}: none.

        A word is read where it stands whole (``pochade.runtime.tokens.whole``), in letters of any case.

        Raises PochadeError for a word that it knows already or that has white space, and vectors of another width,
        more than leave room for other words, or with numbers that are not finite; then nothing has changed.
        """
        from tokenizers import AddedToken, Tokenizer

        model, known = self._text_model(), self._known()
        base = self._untaught or self._tokenizer.to_str()
        tokenizer = Tokenizer.from_str(base)
        for word, vectors in words.items():
            if not word or word.split() != [word]:
                raise PochadeError(f"token: {word!r} given, allowed is a word without white space")
            spelled = {word, word.lower(), *(other for other in words if whole(word).fullmatch(other))}
            if any(tokenizer.token_to_id(other) is not None for other in spelled):
                raise PochadeError(f"token: {word!r} is a word of {self.identity}, allowed is a new one, as <{word}>")
            if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != known.embedding_dim:
                given = f"shape {list(vectors.shape)} given for {word!r}"
                raise PochadeError(f"vectors: {given}, {self.identity} reads [n, {known.embedding_dim}]")
            if not vectors.isfinite().all():
                raise PochadeError(f"vectors: numbers that are not finite given for {word!r}, allowed are finite ones")
            most = self.max_tokens - self.count_tokens("") - 1
            if len(vectors) > most:
                raise PochadeError(
                    f"vectors: {len(vectors)} given for {word!r}, allowed are up to {most}: {self.identity} reads "
                    f"{self.max_tokens} tokens, and other words beside"
                )
            tokenizer.add_tokens([AddedToken(word, normalized=False, single_word=True)])
        self._tokenizer, self._untaught = tokenizer, base
        self._words = tuple((word, len(vectors)) for word, vectors in words.items())
        if words:
            joined = torch.cat([vectors.detach().to(known.weight.device, torch.float32) for vectors in words.values()])
            model.set_input_embeddings(LearnedWords(known, joined))
        else:
            model.set_input_embeddings(known)

    def vectors_of(self, text: str, count: int) -> Tensor:
        """``count`` equal vectors [count, D]: the mean of those of the tokens of ``text``, without the closing ones.

        Raises PochadeError for a text without a token.
        """
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not ids:
            raise PochadeError(f"initial: {text!r} given, allowed are words")
        return self._known().weight[torch.tensor(ids)].mean(0, keepdim=True).expand(count, -1).float().clone()

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids [B, M] int64 and mask [B, M] bool, M the longest of the batch (at least 1).

        What exceeds ``max_tokens`` is cut off. Raises PochadeError as ``check_prompts`` does.
        """
        rows = [cut(self._ids(prompt), self.max_tokens, self._suffix) for prompt in check_prompts(prompts)]
        length = max(1, *(len(row) for row in rows))
        ids = torch.zeros(len(rows), length, dtype=torch.int64)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[i, : len(row)] = True
        return ids, mask

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextEncoding:
        """Vectors of B prompts: float32, without gradient, as in evaluation whatever mode the module is in.

        Raises PochadeError for an empty list or a prompt that is no string.
        """
        ids, mask = self.tokenize(prompts)
        training = self.training
        self.eval()
        try:
            out = self(ids.to(self.device), mask.to(self.device))
        finally:
            self.train(training)
        return TextEncoding(tokens=out.tokens.float(), mask=out.mask, pooled=out.pooled.float())


class ConfigOnly(ModelMixin, ConfigMixin):
    """A component whose folder holds its configuration and no weights."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], *_: Any, **__: Any) -> None:
        """Writes ``config.json``; the weight options that diffusers passes have nothing to act on."""
        self.save_config(save_directory)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any) -> Self:
        """Builds the component from the configuration in a folder.

        Of diffusers' loading options ``subfolder`` and ``torch_dtype`` count, others concern weights.
        """
        folder = Path(pretrained_model_name_or_path or "") / (kwargs.get("subfolder") or "")
        if not (folder / cls.config_name).is_file():
            raise PochadeError(f"pretrained_model_name_or_path: no {cls.config_name} in {folder}")
        module = cast(Self, cls.from_config(cast(dict[str, Any], cls.load_config(folder))))
        dtype = kwargs.get("torch_dtype")
        return module if dtype is None else module.to(dtype)
