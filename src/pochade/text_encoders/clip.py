"""The text tower of a CLIP (2103.00020), by hub name or from a folder.

That of CLIP-L/14 is 768 wide and has 123.65 M parameters.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from pochade.errors import PochadeError
from pochade.text_encoders.base import PromptEncoder
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
        from tokenizers import Tokenizer
        from transformers.models.clip.configuration_clip import CLIPTextConfig
        from transformers.models.clip.modeling_clip import CLIPTextModel

        self._name = name
        self.clip = CLIPTextModel(CLIPTextConfig(**architecture))
        self.requires_grad_(False)
        self.eval()
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @classmethod
    def from_transformers(cls, name: str) -> "ClipEncoder":
        """The text tower and tokenizer of a CLIP in transformers' format: a hub name or a folder.

        Raises PochadeError where it cannot be had (no such folder, no network), holds no safetensors or lacks
        tensors.
        """
        from transformers.models.clip.modeling_clip import CLIPTextModel
        from transformers.models.clip.tokenization_clip import CLIPTokenizer

        try:
            with _quiet():
                clip, report = cast(
                    tuple[CLIPTextModel, dict[str, Any]],
                    CLIPTextModel.from_pretrained(name, use_safetensors=True, output_loading_info=True),
                )
                tokenizer = CLIPTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise PochadeError(
                f"text_encoder: no CLIP could be loaded from {name!r} (a folder or a hub name): {reason}"
            ) from error
        missing = sorted(report["missing_keys"])
        if missing:
            raise PochadeError(f"text_encoder: {name!r} lacks the tensors {', '.join(missing)}")
        encoder = cls(name, clip.config.to_dict(), tokenizer.backend_tokenizer.to_str())
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

    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Vectors of token ids [B, M] with mask [B, M]."""
        hidden = self.clip(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        tokens = hidden * mask[..., None]
        last = mask.sum(1, keepdim=True)[..., None] - 1
        return TextEncoding(
            tokens=tokens, mask=mask, pooled=tokens.gather(1, last.expand(-1, -1, tokens.shape[-1]))[:, 0]
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers lists the image tower, which is left out on purpose, as a warning."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
