"""The Hugging Face hub, for the libraries that load from it by name: one attempt to reach it, not many."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Thread

ANSWER = 10.0
"""Seconds in which the hub must answer."""
UNREACHED = "it is not on this machine, and the hub cannot be reached"
_offline = Lock()


@contextmanager
def one_attempt(name: str, kind: str = "model") -> Iterator[None]:
    """A block in which a library loads ``name`` from a folder or the hub; of one that does not answer, from its cache.

    By themselves the libraries ask for each file six times, which takes half a minute. ``kind`` is ``model`` or
    ``dataset``.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or Path(name).exists() or _answers(name, kind):
        yield
        return
    with _offline:
        constants.HF_HUB_OFFLINE = True  # what all of them look at; none passes an argument on to every request
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = False


def is_unreached(error: BaseException) -> bool:
    """Whether a library failed as the hub does not answer and its cache has not what is needed.

    The libraries say of it that the hub's folder has no such file, or give advice on networks.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    below: BaseException | None = error
    while below is not None and not isinstance(below, LocalEntryNotFoundError):
        below = below.__cause__ or below.__context__
    return below is not None


def _answers(name: str, kind: str) -> bool:
    """Whether the hub says anything of ``name``, if only that there is none."""
    answered: list[bool] = []

    def ask() -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
            HfApi().repo_info(name, repo_type=kind)
        except (HfHubHTTPError, ValueError):  # ValueError: no name of the hub, and no request
            pass
        except Exception:  # of httpx or requests, by the version of the client
            return
        answered.append(True)

    # In a thread: names are resolved, and the addresses of a host tried in turn, beyond the client's own timeout.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER)
    return bool(answered)
