"""A small text encoder trained from scratch: its own byte-pair vocabulary, an embedding, an MLP, a mean.

The order of words is not seen, which names and keywords do without. It trains jointly with the denoiser.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Self

import torch
import torch.nn.functional as F
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pochade.configuration import register_to_config
from pochade.errors import PochadeError
from pochade.nn.linear import Linear
from pochade.text_encoders.base import PromptEncoder
from pochade.types import TextEncoding

MAX_VOCABULARY = 8192
_PAD = "<pad>"


class BagEncoder(PeftAdapterMixin, PromptEncoder, ModelMixin):
    """tokens_m = norm(e_m + MLP(e_m)) for the embedding e_m of token m; pooled = their mean over real tokens.

    ``tokenizer`` is the vocabulary as text, from ``BagEncoder.train_tokenizer``, and is stored in the
    configuration. An empty prompt has no token: all-False mask and zero vectors, exactly as dropped text. Adapters
    (LoRA) are added and removed as in diffusers' models.
    """

    _suffix = 0

    @register_to_config
    def __init__(self, tokenizer: str, dim: int = 192, hidden_dim: int = 384, max_tokens: int = 64) -> None:
        super().__init__()
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._width = dim
        self._length = max_tokens
        size = self._tokenizer.get_vocab_size()
        self._vocabulary = hashlib.sha256(json.dumps(self._tokenizer.get_vocab(), sort_keys=True).encode()).digest()
        self.embedding = nn.Embedding(size, dim)
        self.norm_in = nn.RMSNorm(dim, eps=1e-6)
        self.expand = Linear(dim, hidden_dim)
        self.contract = Linear(hidden_dim, dim)
        self.norm_out = nn.RMSNorm(dim, eps=1e-6)
        nn.init.normal_(self.embedding.weight)
        self._identity: str | None = None

    @staticmethod
    def train_tokenizer(captions: Iterable[str], size: int = MAX_VOCABULARY) -> str:
        """Byte-pair vocabulary (1508.07909) of at most ``size`` entries (257 to 8,192) learned from captions.

        Bytes are its letters, so that any text can be encoded. The same captions give the same vocabulary.
        Raises PochadeError for another size or where no caption has any text.
        """
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

        if not 257 <= size <= MAX_VOCABULARY:
            raise PochadeError(f"size: {size} given, allowed is 257 to {MAX_VOCABULARY}")
        texts = [caption for caption in captions if caption.strip()]
        if not texts:
            raise PochadeError("captions: none has any text, a vocabulary needs some")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            show_progress=False,
            special_tokens=[_PAD],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
        tokenizer.train_from_iterator(texts, trainer)
        return tokenizer.to_str()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Rounded weights are those of the same encoder.
        held = self.embedding.weight.dtype
        taken = fn(self.embedding.weight.new_empty(0)).dtype
        if torch.finfo(taken).bits < torch.finfo(held).bits:
            self._identity = self.identity
        return super()._apply(fn, recurse)

    @property
    def identity(self) -> str:
        """``bag:`` and 8 hexadecimal digits of its vocabulary and its weights as they are now, or were before they were
        rounded to another precision."""
        if self._identity is not None:
            return self._identity
        digest = hashlib.sha256(self._vocabulary)
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return f"bag:{digest.hexdigest()[:8]}"

    @property
    def dim(self) -> int:
        """As configured."""
        return self._width

    @property
    def max_tokens(self) -> int:
        """As configured: 64."""
        return self._length

    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Vectors of token ids [B, M] with mask [B, M]; gradients reach every parameter."""
        embedded = self.embedding(ids)
        hidden = self.contract(F.silu(self.expand(self.norm_in(embedded))))
        real = mask[..., None].to(embedded.dtype)
        tokens = self.norm_out(embedded + hidden) * real
        return TextEncoding(tokens=tokens, mask=mask, pooled=tokens.sum(1) / real.sum(1).clamp(min=1))
