"""Text encoders behind one interface; ``load`` finds those that are known by name."""

from typing import TYPE_CHECKING

from pochade.errors import PochadeError, nearest

if TYPE_CHECKING:
    from pochade.text_encoders.base import PromptEncoder

ENCODERS: dict[str, str] = {
    "bag": "pochade.text_encoders.bag:BagEncoder",
    "class_label": "pochade.text_encoders.class_label:ClassLabelEncoder",
    "clip": "pochade.text_encoders.clip:ClipEncoder",
    "gemma": "pochade.text_encoders.gemma:GemmaEncoder",
    "minilm": "pochade.text_encoders.minilm:MiniLMEncoder",
}
"""Kind -> "module:class". A new kind joins by one line."""

KNOWN = ("minilm-l6-v2", "clip:NAME_OR_FOLDER", "gemma:NAME_OR_FOLDER")
"""The identities that ``load`` accepts."""


def load(identity: str) -> "PromptEncoder":
    """The text encoder of that identity (``KNOWN``).

    Raises PochadeError for an unknown identity, and for a CLIP or a Gemma that cannot be had. A ``bag:...`` encoder
    lives in the folder of the pipeline that it was trained with and is loaded from there.
    """
    if identity == "minilm-l6-v2":
        from pochade.text_encoders.minilm import MiniLMEncoder

        return MiniLMEncoder()
    if identity.startswith("clip:"):
        from pochade.text_encoders.clip import ClipEncoder

        return ClipEncoder.from_transformers(identity.removeprefix("clip:"))
    if identity.startswith("gemma:"):
        from pochade.text_encoders.gemma import GemmaEncoder

        return GemmaEncoder(identity.removeprefix("gemma:"))
    if identity.startswith("bag:"):
        raise PochadeError(f"text_encoder: {identity!r} is loaded from its folder, not by name")
    raise PochadeError(
        f"text_encoder: {identity!r} is unknown, allowed are {', '.join(KNOWN)}{nearest(identity, KNOWN)}"
    )
