"""The text tower of a CLIP (2103.00020) or TinyCLIP (2309.12314), by hub name or from a folder.

That of CLIP-L/14 is 768 wide and has 123.06 M parameters, that of TinyCLIP-ViT-8M-16-Text-3M is 256 wide and has
15.04 M.
"""

from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from pochade.configuration import register_to_config
from pochade.text_encoders.base import PromptEncoder
from pochade.text_encoders.pretrained import load_pretrained, plain
from pochade.types import TextEncoding


class ClipEncoder(PromptEncoder, ModelMixin):
    """Frozen; tokens are the last hidden states, pooled is the one at the closing token.

    ``architecture`` is the CLIPTextConfig as a dictionary and ``tokenizer`` the vocabulary as text: both are
    kept in the configuration, so that a saved encoder needs nothing but its folder. ``from_transformers``
    makes one.
    """

    @register_to_config
    def __init__(self, name: str, architecture: dict[str, Any], tokenizer: str) -> None:
        super().__init__()
        from transformers.models.clip.configuration_clip import CLIPTextConfig
        from transformers.models.clip.modeling_clip import CLIPTextModel

        self._name = name
        self.clip = CLIPTextModel(CLIPTextConfig(**architecture))
        self.requires_grad_(False)
        self.eval()
        self._tokenizer = plain(tokenizer)

    @classmethod
    def from_transformers(cls, name: str) -> "ClipEncoder":
        """The text tower and tokenizer of a CLIP in transformers' format: a hub name or a folder.

        Raises PochadeError where it cannot be had (no such folder, no network), holds no safetensors or lacks
        tensors.
        """
        from transformers.models.clip.modeling_clip import CLIPTextModel
        from transformers.models.clip.tokenization_clip import CLIPTokenizer

        clip, words = load_pretrained("CLIP", name, CLIPTextModel, CLIPTokenizer)
        encoder = cls(name, clip.config.to_dict(), words.to_str())
        encoder.clip.load_state_dict(clip.state_dict())
        return encoder

    @property
    def identity(self) -> str:
        """``clip:`` and the name or folder that it came from."""
        return f"clip:{self._name}"

    @property
    def dim(self) -> int:
        """768 for CLIP-L/14."""
        return int(self.clip.config.hidden_size)

    @property
    def max_tokens(self) -> int:
        """The positions that the tower has: 77."""
        return int(self.clip.config.max_position_embeddings)

    def _text_model(self) -> Any:
        return self.clip

    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Vectors of token ids [B, M] with mask [B, M]."""
        hidden = self.clip(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        tokens = hidden * mask[..., None]
        last = mask.sum(1, keepdim=True)[..., None] - 1
        return TextEncoding(
            tokens=tokens, mask=mask, pooled=tokens.gather(1, last.expand(-1, -1, tokens.shape[-1]))[:, 0]
        )
