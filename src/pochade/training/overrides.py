"""The ``field=value`` grammar that changes the settings of stages."""

import dataclasses
import json
import math
import re
import types
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pochade.arguments import check_text, shown
from pochade.data.sources import Source, parse_source
from pochade.data.sources.pairs import PairSource, parse_pairs
from pochade.errors import PochadeError, nearest
from pochade.training.stage import AnyStage, is_nested
from pochade.values import described

_COMMA = re.compile(r",(?![^\[(]*[])])")
"""One between the values of a list, and not inside a value that is a list itself."""
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_TEXT_FORMS: dict[Any, Callable[[str], Any]] = {Source: parse_source, PairSource: parse_pairs, Path: Path, str: str}
"""How values that have a text form of their own are read."""


def override(stages: Sequence[AnyStage], assignments: Iterable[str]) -> list[AnyStage]:
    """The stages with ``assignments`` applied in turn.

    ``steps=100`` changes every stage, ``flow.steps=100`` the stage called flow; settings are reached with
    further dots: ``task.weighting=min_snr``, ``flow.data.size=64``, and change every stage that has them.
    Values are read by the type of their field: ``none`` for an absent one, ``true`` or ``false``, ``0.9,0.99`` for a
    pair, ``widths=[8,16],downsampling=4`` for two texts, data by the text form of its source. Raises PochadeError for a
    field that does not exist (naming the nearest) and a value of the wrong type.
    """
    if isinstance(assignments, str) or not isinstance(assignments, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PochadeError(f"override: {shown(assignments)} given, allowed is a list of texts such as 'steps=100'")
    result = list(stages)
    for assignment in assignments:
        check_text("override", assignment, "field=value or stage.field=value")
        path, equals, text = assignment.partition("=")
        parts = path.strip().split(".")
        if not equals or not all(parts):
            raise PochadeError(f"override: {assignment!r} given, must be field=value or stage.field=value")
        named = [i for i, stage in enumerate(result) if stage.name == parts[0]]
        chosen = named or range(len(result))
        keys = parts[1:] if named else parts
        have = [i for i in chosen if keys and _has(result[i], keys)]
        if not have:
            known = {name for i in chosen for name, _ in fields_of(result[i])}
            known |= set() if named else {stage.name for stage in result}
            near = nearest(".".join(keys), known) or f"; there are {', '.join(sorted(known))}"
            if not named and len(parts) > 1:
                near += f"; the stages are {', '.join(stage.name for stage in result)}"
            raise PochadeError(f"override: no field {path.strip()!r}{near}")
        for i in have:
            with naming_fields(result[i]):
                result[i] = _replace(result[i], keys, text.strip(), path.strip())
    return result


def read_options(options: Iterable[str], known: Collection[str], owner: str) -> dict[str, Any]:
    """Arguments of a network from ``name=value``, the values JSON or bare words.

    Raises PochadeError for a name that is not ``known``; ``owner`` is whose arguments they are.
    """
    found: dict[str, Any] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or name not in known:
            allowed = ", ".join(known) or "none"
            raise PochadeError(f"options: {option!r} given, {owner} takes {allowed}{nearest(name, known)}")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _has(settings: Any, keys: Sequence[str]) -> bool:
    if not dataclasses.is_dataclass(settings) or keys[0] not in {f.name for f in dataclasses.fields(settings)}:
        return False
    value = getattr(settings, keys[0])
    return _has(value, keys[1:]) if len(keys) > 1 else not is_nested(value)


def fields_of(settings: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted paths and values of all fields of a stage, nested ones included, but for its name."""
    found: list[tuple[str, Any]] = []
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if is_nested(value):
            found += fields_of(value, f"{prefix}{f.name}.")
        elif prefix or f.name != "name":
            found.append((prefix + f.name, value))
    return found


@contextmanager
def naming_fields(stage: AnyStage) -> Generator[None]:
    """Within it an error that begins with the last part of a field's path, as ``keep_tags``, begins with all of it, as
    ``data.keep_tags``; not where several fields end so."""
    try:
        yield
    except PochadeError as error:
        name, colon, rest = str(error).partition(": ")
        fitting = [path for path, _ in fields_of(stage) if path.rpartition(".")[2] == name]
        if colon and len(fitting) == 1:
            error.args = (f"{fitting[0]}: {rest}",)
        raise


def _replace(settings: Any, keys: Sequence[str], text: str, path: str) -> Any:
    name = keys[0]
    if len(keys) > 1:
        value = _replace(getattr(settings, name), keys[1:], text, path)
    else:
        value = _parse(text, get_type_hints(type(settings))[name], path)
    return dataclasses.replace(settings, **{name: value})


def _parse(text: str, kind: Any, path: str) -> Any:
    try:
        return _read(text, kind)
    except PochadeError:
        raise
    except (ValueError, OverflowError):
        many = " (separated by commas)" if get_origin(kind) is tuple else ""
        raise PochadeError(f"{path}: {text!r} given, must be {described(kind)}{many}") from None


def _read(text: str, kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(text, arguments)
    if origin is Literal:
        return next(v for v in arguments if str(v) == text) if text in map(str, arguments) else _wrong()
    if origin is tuple:
        inside = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
        items = [item.strip() for item in _COMMA.split(inside) if item.strip()]
        kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(items):
            _wrong()
        return tuple(_read(item, k) for item, k in zip(items, kinds, strict=True))
    if kind is bool:
        word = text.lower()
        return word in _TRUE if word in _TRUE + _FALSE else _wrong()
    if kind is int:
        number = float(text)  # 1e5 steps are welcome
        return int(number) if number.is_integer() and abs(number) < 2**53 else _wrong()
    if kind is float:
        number = float(text)
        return number if math.isfinite(number) else _wrong()
    if kind in _TEXT_FORMS:
        return _TEXT_FORMS[kind](text)
    return _wrong()


def _read_union(text: str, kinds: Sequence[Any]) -> Any:
    if type(None) in kinds and text.lower() == "none":
        return None
    for kind in kinds:
        if kind is not type(None):
            try:
                return _read(text, kind)
            except PochadeError:
                raise
            except ValueError:
                continue
    return _wrong()


def _wrong() -> Any:
    raise ValueError
