"""The one exception that means "the caller can mend this": a sentence, never a traceback at the command line; and what
is warned of where there is no error."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from difflib import get_close_matches


class PochadeError(ValueError):
    """Wrong use or unusable input: names the argument, what was given and what is allowed.

    ``exit_code`` is what the command line returns: 2 for wrong use (default), 1 for a failure met on the way. What lies
    in the copy of a URL is named by the URL, but where the disk of the copy fails.
    """

    exit_code = 2

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.exit_code == 1 and isinstance(self.__cause__, OSError) else as_given(text)


_COPIES: dict[str, str] = {}


def name_copy(folder: str, url: str) -> None:
    """From now on errors name what lies in ``folder`` by the URL that it is a copy of."""
    _COPIES[folder] = url


def as_given(text: str) -> str:
    """``text`` with the URLs of copies in place of their folders."""
    for folder, url in _COPIES.items():
        text = text.replace(folder, url)
    return text


class FailureError(PochadeError):
    """Something failed although the request was well formed (a full disk, a NaN loss): exit code 1."""

    exit_code = 1


class RepeatWarning(UserWarning):
    """A repeated picture may differ from the first one."""


class EmptySplitError(PochadeError):
    """A data set has no pictures of the split that is asked for."""

    def __init__(self, split: str, source: str, pictures: int, group: str | None = None) -> None:
        """``group``: the only one that there is."""
        alone = "" if group is None else f", of one group, {group!r}"
        samples = f"{pictures} sample{'s' * (pictures != 1)}"
        super().__init__(f"split: {split!r} of {source} is empty ({samples} in all{alone})")


@contextmanager
def advising(remedy: str) -> Generator[None]:
    """Within it the error of an empty split ends with what takes all of the samples."""
    try:
        yield
    except EmptySplitError as error:
        error.args = (f"{error}; {remedy} takes all of them",)
        raise


@contextmanager
def naming(field: str, *arguments: str) -> Generator[None]:
    """Within it an error that begins with the name of one of ``arguments`` names ``field`` instead: what the caller has
    given in it is passed on under that name."""
    try:
        yield
    except PochadeError as error:
        name, colon, rest = str(error).partition(": ")
        if colon and name in arguments:
            error.args = (f"{field}: {rest}",)
        raise


def nearest(name: object, known: Iterable[str]) -> str:
    """The words "did you mean" with the nearest of the ``known`` names, in brackets, or the empty string."""
    if not isinstance(name, str):
        return ""
    names = list(known)
    longer = [one for one in names if name and one.startswith(f"{name}_")]
    close = longer or get_close_matches(name, names, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(c) for c in close)}?)" if close else ""


def missing_extra(package: str, extra: str) -> PochadeError:
    """The error for an optional library that is not installed."""
    return PochadeError(f"{package} is not installed: pip install 'pochade[{extra}]'")
