"""Gemma-2 (2408.00118), a language model of decoder layers alone, as SANA (2410.10629) reads its prompts by.

Gemma-2-2B is 2304 wide and has 2.61 G parameters.
"""

from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from pochade.configuration import register_to_config
from pochade.text_encoders.base import ConfigOnly, PromptEncoder
from pochade.text_encoders.pretrained import load_pretrained
from pochade.types import TextEncoding


class GemmaEncoder(ConfigOnly, PromptEncoder, ModelMixin):
    """Frozen; tokens are the last hidden states behind the final norm, pooled is their mean over real tokens.

    The folder of a saved encoder holds only its configuration: the weights, gigabytes, are loaded by name wherever the
    model is used, and keep the precision of their files until they are cast. So a hub name serves others too, a folder
    (kept as an absolute path) this machine alone.

    Attention is causal, so that padding on the right changes nothing. An empty prompt is the opening token alone.

    Args:
        name: hub name, or folder in transformers' format.
        max_tokens: the opening token included; SANA reads 300.

    Raises:
        PochadeError: it cannot be had (no such folder, no network), holds no safetensors or lacks tensors.
    """

    _suffix = 0

    @register_to_config
    def __init__(self, name: str, max_tokens: int = 300) -> None:
        super().__init__()
        from transformers.models.gemma.tokenization_gemma import GemmaTokenizer
        from transformers.models.gemma2.modeling_gemma2 import Gemma2Model

        folder = Path(name).expanduser()
        self._name = str(folder.resolve()) if name and folder.is_dir() else name
        self.register_to_config(name=self._name)
        # Gemma was trained with an opening token, which not every tokenizer file adds, and without a closing one.
        ends = {"add_bos_token": True, "add_eos_token": False}
        model, self._tokenizer = load_pretrained("Gemma-2", self._name, Gemma2Model, GemmaTokenizer, **ends)
        self.gemma: Any = model
        self._length = max_tokens

    @property
    def identity(self) -> str:
        """``gemma:`` and the name or folder that it came from."""
        return f"gemma:{self._name}"

    @property
    def dim(self) -> int:
        """2304 for Gemma-2-2B."""
        return int(self.gemma.config.hidden_size)

    @property
    def max_tokens(self) -> int:
        """As configured: 300."""
        return self._length

    def _text_model(self) -> Any:
        return self.gemma

    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Vectors of token ids [B, M] with mask [B, M], float32 whatever the weights are."""
        hidden = self.gemma(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state.float()
        tokens = hidden * mask[..., None]
        return TextEncoding(tokens=tokens, mask=mask, pooled=tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))
