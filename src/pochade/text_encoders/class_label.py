"""Class names instead of sentences, for denoisers with a fixed list of classes."""

from collections.abc import Sequence

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from pochade.configuration import register_to_config
from pochade.errors import PochadeError, nearest
from pochade.text_encoders.base import ConfigOnly, check_prompts


class ClassLabelEncoder(ConfigOnly, ModelMixin):
    """A prompt that is one of ``names`` (whatever its case and outer spaces) becomes the index of that class.

    Raises PochadeError where a name is empty or given twice. An empty prompt means no class: -1.
    """

    _anchor: Tensor

    @register_to_config
    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._index = {self._key(name): i for i, name in enumerate(names)}
        if len(self._index) != len(names) or not names or "" in self._index:
            raise PochadeError(f"names: {list(names)} given, at least one is needed, all different and not empty")
        self.names = list(names)
        # A pipeline reads the device of its components from their tensors, so there must be one.
        self.register_buffer("_anchor", torch.zeros(1), persistent=False)

    @staticmethod
    def _key(name: str) -> str:
        return " ".join(name.lower().split())

    @property
    def identity(self) -> str:
        """``class_label:`` and the names in their order."""
        return "class_label:" + ",".join(self.names)

    def encode_labels(self, prompts: Sequence[str], argument: str = "prompt") -> Tensor:
        """Class indices [B] int64, -1 for an empty prompt.

        Raises PochadeError for a prompt that is no class, naming the nearest, and the ``argument`` that they were.
        """
        keys = [self._key(prompt) for prompt in check_prompts(prompts)]
        for prompt, key in zip(prompts, keys, strict=True):
            if key and key not in self._index:
                hint = nearest(key, self._index)
                raise PochadeError(f"{argument}: {prompt!r} is no class, allowed are {', '.join(self.names)}{hint}")
        labels = [self._index.get(key, -1) for key in keys]
        return torch.tensor(labels, dtype=torch.int64, device=self._anchor.device)
