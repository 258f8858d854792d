"""Models of transformers, frozen: every tensor in its place, or one line that says what is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pochade.errors import PochadeError
from pochade.hub_access import UNREACHED, is_unreached, one_attempt

NAMED = 4
"""So many missing tensors are named in an error, the others counted."""


@contextmanager
def loading(argument: str, kind: str, name: str) -> Iterator[None]:
    """A block in which transformers loads and lists nothing, such as the tensors of a file that are not used.

    Raises PochadeError, which names ``argument`` and the ``kind`` of model that is looked for, in place of its errors.
    """
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with one_attempt(name):
            yield
    except Exception as error:  # a dozen kinds, of transformers, of safetensors and of the hub
        reason = UNREACHED if is_unreached(error) else (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PochadeError(
            f"{argument}: no {kind} could be loaded from {name!r} (a folder or a hub name): {reason}"
        ) from error
    finally:
        logging.set_verbosity(level)


def load_transformers(argument: str, kind: str, name: str, cls: type[Any], **options: Any) -> Any:
    """A model of the class ``cls`` by hub name or from a folder, in evaluation mode and without gradients.

    Args:
        argument: what errors call ``name``.
        kind: of model, in words, for the errors.
        name: hub name or folder.
        cls: class of transformers.
        options: of its ``from_pretrained``, such as ``dtype``, without which the weights keep that of the files.

    Raises:
        PochadeError: it cannot be had (no such folder, no network), holds no safetensors, or lacks tensors.
    """
    with loading(argument, kind, name):
        network, report = cls.from_pretrained(name, use_safetensors=True, output_loading_info=True, **options)
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise PochadeError(f"{argument}: {name!r} lacks the tensors {', '.join(missing[:NAMED])}{more}")
    return network.eval().requires_grad_(False)
