"""One stage of a recipe as a typed, frozen value, and the ``field=value`` grammar that changes it."""

import dataclasses
import json
import math
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pochade.errors import PochadeError, nearest

FREE_ON_RESUME = frozenset(
    {"steps", "save_every", "log_every", "sample_every", "keep", "initialise_from", "device", "compile"}
)
"""The fields that a resumed run may change; every other one changes the mathematics."""

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is trained, on what, how long and how. Raises PochadeError for a value outside its range."""

    name: str
    task: Any
    """Settings of the task, a frozen dataclass."""
    data: Any
    """Settings of the data, a frozen dataclass."""
    steps: int
    """Optimiser steps."""
    batch_size: int = 128
    """Samples of one optimiser step, over all processes and accumulated parts together."""
    accumulate: int = 1
    """Parts in which a process computes its share of the batch, one after the other, to save memory."""
    learning_rate: float = 1e-3
    """The peak, reached after the warm-up."""
    final_learning_rate: float = 0.0
    """Where the cosine ends."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's two decays."""
    epsilon: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the network is trained and the data encoded; auto: a GPU where there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast, with the weights kept in fp32."""
    ema_decay: float = 0.999
    """Decay of the moving average, in [0, 1); 0 for none."""
    seed: int = 0
    save_every: int = 1000
    """Steps between checkpoints; the last step is saved in any case."""
    sample_every: int = 500
    """Steps between sample sheets, 0 for none; the last step has one too."""
    log_every: int = 50
    """Steps over which a line of the log is averaged."""
    keep: int = 2
    """Checkpoints kept."""
    compile: bool = False
    """Whether torch.compile works on the blocks of the trained network."""
    initialise_from: str | None = None
    """A safetensors file, a checkpoint or a finished run whose weights are the start."""

    def __post_init__(self) -> None:
        own = {f.name for f in dataclasses.fields(self)}
        if not self.name.isidentifier() or self.name in own:
            raise PochadeError(f"name: {self.name!r} given, must be an identifier that is no field of a stage")
        for name in ("task", "data"):
            value = getattr(self, name)
            if not dataclasses.is_dataclass(value) or isinstance(value, type):
                raise PochadeError(f"{name}: {value!r} given, must be a dataclass of settings")
        for name in ("steps", "batch_size", "accumulate", "save_every", "log_every", "keep"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_steps", "sample_every", "seed", "weight_decay", "final_learning_rate"):
            self._check(name, getattr(self, name) >= 0, "at least 0")
        for name in ("learning_rate", "clip", "epsilon"):
            self._check(name, 0 < getattr(self, name) < math.inf, "above 0")
        self._check("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        self._check("betas", all(0 <= b < 1 for b in self.betas), "each in [0, 1)")
        self._check("schedule", self.schedule in ("cosine", "constant"), "cosine or constant")
        self._check("device", self.device in ("auto", "cpu", "cuda", "mps"), "auto, cpu, cuda or mps")
        self._check("precision", self.precision in ("fp32", "bf16"), "fp32 or bf16")
        if self.batch_size % self.accumulate:
            raise PochadeError(f"batch_size: {self.batch_size} given, must divide by accumulate={self.accumulate}")

    def _check(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise PochadeError(f"{name}: {getattr(self, name)!r} given, must be {allowed}")

    def learning_rate_factor(self, step: int) -> float:
        """The share of a group's own learning rate used in ``step`` (from 0)."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "constant":
            return warm
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        floor = self.final_learning_rate / self.learning_rate
        return warm * (floor + (1 - floor) * cosine)

    def settings(self) -> dict[str, Any]:
        """All fields as JSON values; nested settings carry the name of their class as ``"type"``."""
        return _plain(self)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The fields (dotted) in which two ``settings()`` differ, but for those that a resumed run may change."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in [*before, *(n for n in now if n not in before)]:
        a, b = before.get(name), now.get(name)
        if not prefix and name in FREE_ON_RESUME:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found[f"{prefix}{name}"] = (a, b)
    return found


def override(stages: Sequence[Stage], assignments: Iterable[str]) -> list[Stage]:
    """The stages with ``assignments`` applied in turn.

    ``steps=100`` changes every stage, ``flow.steps=100`` the stage called flow; settings are reached with
    further dots: ``task.weighting=min_snr``, ``flow.data.size=64``, and change every stage that has them.
    Values are read by the type of their field: ``none`` for an absent one, ``true`` or ``false``,
    ``0.9,0.99`` for a pair. Raises PochadeError for a field that does not exist (naming the nearest) and a
    value of the wrong type.
    """
    result = list(stages)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        parts = path.strip().split(".")
        if not equals or not all(parts):
            raise PochadeError(f"override: {assignment!r} given, must be field=value or stage.field=value")
        named = [i for i, stage in enumerate(result) if stage.name == parts[0]]
        chosen = named or range(len(result))
        keys = parts[1:] if named else parts
        have = [i for i in chosen if keys and _has(result[i], keys)]
        if not have:
            known = {name for i in chosen for name in _paths(result[i])}
            known |= set() if named else {stage.name for stage in result}
            near = nearest(".".join(keys), known) or f"; there are {', '.join(sorted(known))}"
            raise PochadeError(f"override: no field {path.strip()!r}{near}")
        for i in have:
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
            raise PochadeError(f"options: {option!r} given, {owner} takes {', '.join(known)}{nearest(name, known)}")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _has(settings: Any, keys: Sequence[str]) -> bool:
    if not dataclasses.is_dataclass(settings) or keys[0] not in {f.name for f in dataclasses.fields(settings)}:
        return False
    value = getattr(settings, keys[0])
    return _has(value, keys[1:]) if len(keys) > 1 else not dataclasses.is_dataclass(value)


def _paths(settings: Any, prefix: str = "") -> list[str]:
    found: list[str] = []
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        nested = dataclasses.is_dataclass(value)
        found += _paths(value, f"{prefix}{f.name}.") if nested else [f"{prefix}{f.name}"]
    return found


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
    except (ValueError, OverflowError):
        raise PochadeError(f"{path}: {text!r} given, must be {_describe(kind)}") from None


def _read(text: str, kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(text, arguments)
    if origin is Literal:
        return next(v for v in arguments if str(v) == text) if text in map(str, arguments) else _wrong()
    if origin is tuple:
        items = [item.strip() for item in text.strip("()[]").split(",") if item.strip()]
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
    if kind in (str, Path):
        return kind(text)
    return _wrong()


def _read_union(text: str, kinds: Sequence[Any]) -> Any:
    if type(None) in kinds and text.lower() == "none":
        return None
    for kind in kinds:
        if kind is not type(None):
            try:
                return _read(text, kind)
            except ValueError:
                continue
    return _wrong()


def _wrong() -> Any:
    raise ValueError


def _describe(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(k) for k in arguments)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is tuple:
        return ", ".join("..." if k is Ellipsis else _describe(k) for k in arguments) + " (separated by commas)"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
    return "none" if kind is type(None) else words.get(kind, f"set in Python ({kind})")
