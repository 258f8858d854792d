"""One stage of a recipe as a typed, frozen value."""

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar, get_type_hints

from pochade.arguments import MAX_SEED, check_text, plain
from pochade.device import check_device
from pochade.errors import PochadeError
from pochade.values import COUNT, FACTOR, NATURAL, PROBABILITY, SHARE, WEIGHT, Ranges, check_values, fits

if TYPE_CHECKING:
    from pochade.data.sources import Source

PREVIOUS = "previous"
"""In ``initialise_from``: the stage before, which is of the same kind."""
INITIALISE_FROM = "initialise_from"
"""The field of that name."""
TOLD_ON_RESUME = ("steps", "learning_rate", "final_learning_rate")
"""The fields that a resumed run may change and that change what it learns: it is said."""
FREE_ON_RESUME = frozenset(
    {*TOLD_ON_RESUME, "save_every", "log_every", "sample_every", "keep", "trackers", "initialise_from"}
    | {"device", "compile", "gradient_checkpointing", "fsdp"}
    | {"data.max_skipped", "data.max_megapixels"}
)
"""The fields (dotted) that a resumed run may change; every other one makes it another run."""

MANY_PASSES = 1000
"""Passes over the data above which a warning is given: several times those of any recipe on the data it is for."""
USUAL_PASSES = 200
"""About those of ``lrf-folder`` on 800 pictures."""


SEEN = 560
"""Samples that are seen in all, over the square root of those that there are: 20 passes over 800, 80 over 50."""
FEWEST_STEPS = 100


def steps_for(samples: int, batch_size: int) -> int:
    """The steps of a stage that names none: with four times the pictures twice as many."""
    return max(FEWEST_STEPS, math.ceil(SEEN * math.sqrt(samples) / batch_size))


RANGES: Ranges = {
    **dict.fromkeys(("cfg_dropout", "input_dropout", "self_conditioning_prob", "curriculum"), PROBABILITY),
    **dict.fromkeys(("text_dropout", "source_dropout", "joint_dropout"), PROBABILITY),
    **dict.fromkeys(("density_scale", "time_shift", "scan_rate"), FACTOR),
    **dict.fromkeys(("l1", "mse", "perceptual", "adversarial", "wavelet", "kl", "latent_noise"), WEIGHT),
    **dict.fromkeys(("adversarial_from", "generate"), SHARE),
    "guidance": (math.isfinite, "finite"),
}
"""What the fields that several kinds of stages have in common may be, beside None where a kind allows it."""
_STAGE: Ranges = {
    **dict.fromkeys(("batch_size", "accumulate", "save_every", "log_every", "keep"), COUNT),
    **dict.fromkeys(("steps", "warmup_steps", "sample_every"), NATURAL),
    **dict.fromkeys(("weight_decay", "final_learning_rate"), WEIGHT),
    **dict.fromkeys(("clip", "epsilon"), FACTOR),
    "seed": (lambda value: 0 <= value < MAX_SEED, "at least 0 and below 2^63, and whole"),
    "ema_decay": SHARE,
    "betas": (SHARE[0], "each in [0, 1), and two of them"),
}
"""What the fields of a stage may be."""


_kinds = cache(get_type_hints)


def _settle(settings: Any, ranges: Ranges) -> None:
    """Numbers of numpy become plain ones, lists tuples, and paths text where a field is text; then every field is
    checked by its annotation and its range. Raises PochadeError for one that is of another type or out of range."""
    kinds, found = _kinds(type(settings)), dict(vars(settings))
    for name, value in found.items():
        if isinstance(value, os.PathLike) and not fits(value, kinds[name]):
            found[name] = os.fspath(value)
    check_values(found, kinds, ranges)
    for name, value in found.items():
        settled = tuple(plain(one) for one in value) if isinstance(value, list | tuple) else plain(value)
        object.__setattr__(settings, name, settled)


class Settings:
    """What a kind of stage can be given, as a frozen dataclass. Raises PochadeError for a value outside its range."""

    stage_kind: ClassVar[str]
    """Its kind, a key of ``pochade.training.stages.KINDS``."""
    can_shard: ClassVar[bool] = False
    """Whether the processes can divide what is trained (``Stage.fsdp``): it is all that the task holds."""

    ranges: ClassVar[Ranges] = RANGES
    """Of its fields, each of which is checked once: what a kind has of its own replaces what they have in common."""
    start_field: ClassVar[str] = INITIALISE_FROM
    """The field that names what a run starts from: where it is one of the settings, a whole model."""

    @property
    def usual_rate(self) -> float | None:
        """The learning rate of a stage that gives 0; None where it must give another."""
        return None

    def __post_init__(self) -> None:
        _settle(self, self.ranges)

    def check(self, name: str, holds: bool, allowed: str) -> None:
        """Raises PochadeError where a field is not as it must be."""
        if not holds:
            raise PochadeError(f"{name}: {getattr(self, name)} given, must be {allowed}")


class DataSettings:
    """What a stage is trained on, as a frozen dataclass. Raises PochadeError for a value of another type."""

    ranges: ClassVar[Ranges] = {}

    def __post_init__(self) -> None:
        _settle(self, self.ranges)

    def missing(self) -> list[str]:
        """What a run needs and is not set, or not on this machine; a line each."""
        return []

    @property
    def sources(self) -> "list[Source]":
        """Where all pictures come from."""
        return []

    def holds_out_nothing(self) -> bool:
        """Whether pictures are to be kept out of training, and none of them is."""
        return False

    def encodes_as_drawn(self) -> bool:
        """Whether pictures are encoded whenever they are drawn, without a cache."""
        return False

    @property
    def limit(self) -> int | None:
        """Bytes of pictures that a machine's disk holds at a time; None: all. Raises PochadeError for a wrong value."""
        return None

    def reading_from(self, source: "Source") -> Self:
        """The same for the pictures of another source, which are all on this machine."""
        del source
        return self


S_co = TypeVar("S_co", bound=Settings, covariant=True)
D_co = TypeVar("D_co", bound=DataSettings, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[S_co, D_co]):
    """What is trained, on what, how long and how. Raises PochadeError for a value outside its range."""

    name: str
    task: S_co
    """Settings of the kind of stage."""
    data: D_co
    """Settings of the data."""
    steps: int
    """Optimiser steps; 0: from the number of pictures (``steps_for``)."""
    batch_size: int = 128
    """Samples of one optimiser step, over all processes and accumulated parts together."""
    accumulate: int = 1
    """Parts in which a process computes its share of the batch, one after the other, to save memory."""
    learning_rate: float = 1e-3
    """The peak, reached after the warm-up; 0: the one that follows from the settings (``Settings.usual_rate``)."""
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
    """AdamW's, from 0 on; norms, biases and embeddings have none."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    device: str = "auto"
    """Where the network is trained and the data encoded: auto (a GPU if there is one), cpu, cuda, cuda:INDEX, mps."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast, with the weights kept in fp32."""
    ema_decay: float = 0.999
    """Decay of the moving average, in [0, 1); 0 for none."""
    seed: int = 0
    """Of all that is random: order, variants, captions, noise, times."""
    save_every: int = 1000
    """Steps between checkpoints; the last step is saved in any case."""
    sample_every: int = 500
    """Steps between sample sheets, 0 for none; the last step has one too."""
    log_every: int = 50
    """Steps over which a line of the log is averaged."""
    keep: int = 2
    """Checkpoints kept."""
    trackers: tuple[str, ...] = ()
    """Services that show the run beside TensorBoard: wandb, aim."""
    compile: bool = False
    """Whether torch.compile works on the blocks of the trained network."""
    gradient_checkpointing: bool = False
    """Keep the inputs of the network's blocks alone for the backward pass, and compute the rest anew: less memory, a
    third more time."""
    fsdp: bool = False
    """Whether the processes divide weights, gradients, moments and average among themselves (FSDP2), for flow matching
    alone; else each has them as a whole (DDP)."""
    initialise_from: str | None = None
    """A safetensors file, a checkpoint, a finished run or a model whose weights are the start, or "previous"."""

    def __post_init__(self) -> None:
        own = {f.name for f in dataclasses.fields(self)}
        check_text("name", self.name, "an identifier")
        if not self.name.isidentifier() or self.name in own:
            raise PochadeError(f"name: {self.name!r} given, must be an identifier that is no field of a stage")
        for name in ("task", "data"):
            value = getattr(self, name)
            if not dataclasses.is_dataclass(value) or isinstance(value, type):
                raise PochadeError(f"{name}: {value!r} given, must be a dataclass of settings")
        check_device(self.device)
        usual = self.learning_rate == 0 and self.task.usual_rate is not None
        _settle(self, _STAGE if usual else {**_STAGE, "learning_rate": FACTOR})
        if self.fsdp and not self.task.can_shard:
            raise PochadeError(
                f"fsdp: true given for {self.name}, allowed with flow matching alone, as in STAGE.fsdp=true"
            )
        if self.batch_size % self.accumulate:
            raise PochadeError(f"batch_size: {self.batch_size} given, must divide by accumulate={self.accumulate}")

    def learning_rate_factor(self, step: int) -> float:
        """The share of a group's own learning rate used in ``step`` (from 0)."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "constant":
            return warm
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        floor = self.final_learning_rate / self.learning_rate
        return warm * (floor + (1 - floor) * cosine)

    def passes(self, samples: int) -> float:
        """How often training sees each of so many samples."""
        return self.steps * self.batch_size / samples

    def warn_of_passes(self, samples: int) -> str | None:
        """What to say where training sees so many samples too often, else None."""
        passes = self.passes(samples)
        if passes <= MANY_PASSES:
            return None
        fewer = max(1, round(USUAL_PASSES * samples / self.batch_size))
        return (
            f"steps: {self.steps} of {self.batch_size} given, {passes:,.0f} passes over {samples} samples, which the "
            f"model will likely memorise; {USUAL_PASSES} passes are steps={fewer}"
        )

    def warn_of_warmup(self) -> str | None:
        """What to say where training ends before its warm-up does, else None."""
        if self.steps >= self.warmup_steps:
            return None
        return (
            f"steps: {self.steps} given, fewer than warmup_steps={self.warmup_steps}: the learning rate never reaches "
            f"its peak of {self.learning_rate:g}"
        )

    def settings(self) -> dict[str, Any]:
        """All fields as JSON values; nested settings carry the name of their class as ``"type"``."""
        return _plain(self)


AnyStage = Stage[Settings, DataSettings]


def with_rate(stage: AnyStage) -> AnyStage:
    """The stage with the usual learning rate where it gives none."""
    return stage if stage.learning_rate else dataclasses.replace(stage, learning_rate=stage.task.usual_rate)


def is_nested(value: object) -> bool:
    """Whether a field holds settings of its own; a dataclass with a text form, such as a data source, is one value."""
    return dataclasses.is_dataclass(value) and type(value).__str__ is object.__str__


def _plain(value: Any) -> Any:
    """A field as a JSON value; what has a text form of its own, such as a data source or a path, is that text."""
    if is_nested(value):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


@dataclass(frozen=True)
class Identity:
    """What makes a run the one that it is: a run that is resumed must have the same."""

    settings: Mapping[str, Any]
    """``Stage.settings()``, as JSON gives them back."""
    contents: Mapping[str, str]
    """Digests of the data and models that some of the settings name, by field (dotted): these count, and not the names.
    Empty where they are not known."""

    def changes_to(self, now: Mapping[str, Any]) -> list[str]:
        """The changes that a resumed run says: each ``<field> <now> instead of <before>``."""
        both = [(name, self.settings.get(name), now.get(name)) for name in TOLD_ON_RESUME]
        return [f"{name} {new} instead of {old}" for name, old, new in both if old != new]

    def differences(self, now: "Identity") -> list[str]:
        """The fields in which ``now`` differs, each with what was and what is."""
        changed = differences(self.settings, now.settings)
        known = self.contents.keys() | now.contents.keys() if self.contents and now.contents else set[str]()
        lines = [f"{name} {before!r} (now {new!r})" for name, (before, new) in changed.items() if name not in known]
        others = [name for name in sorted(known) if self.contents.get(name) != now.contents.get(name)]
        if any(name.startswith("data.") for name in changed if name not in known):  # of which other content follows
            others = [name for name in others if not name.startswith("data.")]
        for name in others:
            before, new = _value_at(self.settings, name), _value_at(now.settings, name)
            lines.append(f"{name} {before!r} (now {'' if before == new else f'{new!r}, '}of other content)")
        return lines


def _value_at(settings: Mapping[str, Any], path: str) -> Any:
    value: Any = settings
    for name in path.split("."):
        value = value.get(name)
    return value


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The fields (dotted) in which two ``settings()`` differ, but for those that a resumed run may change."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in [*before, *(n for n in now if n not in before)]:
        a, b = before.get(name), now.get(name)
        if prefix + name in FREE_ON_RESUME:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found[f"{prefix}{name}"] = (a, b)
    return found
