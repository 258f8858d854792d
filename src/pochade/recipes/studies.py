"""Studies: one recipe trained several times at equal cost, each time with something changed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pochade.errors import PochadeError, nearest
from pochade.recipes.run import stages_of
from pochade.training.stage import Stage, override


@dataclass(frozen=True)
class Case:
    """One of the runs of a study."""

    about: str
    changes: tuple[str, ...] = ()
    """``field=value``, as for ``pochade train``."""
    options: tuple[str, ...] = ()
    """Arguments of the network, added to those of the study."""


@dataclass(frozen=True)
class Study:
    """Runs that are to be compared."""

    about: str
    recipe: str
    """Of one stage."""
    changes: tuple[str, ...]
    """Made in every run."""
    options: tuple[str, ...]
    """Arguments of the network in every run."""
    cases: Mapping[str, Case]
    """By name; the first is what the others are compared with."""


STUDIES: dict[str, Study] = {
    "lira": Study(
        "what LiRA's reasoning loop buys, and where on the path training should look",
        "denoiser",
        ("task.family=lira", "task.density=laplace"),
        ("sample_size=16", "ponder_weight=0.001"),
        {
            "loop": Case("the loop halts by itself, after 8 steps at most; Laplace density"),
            "none": Case("no loop", options=("reasoning_steps=0",)),
            "two": Case("always 2 steps", options=("reasoning_steps=2",)),
            "eight": Case("always 8 steps", options=("reasoning_halting=false",)),
            "logit_normal": Case("logit-normal density", ("task.density=logit_normal",)),
            "uniform": Case("uniform density", ("task.density=uniform",)),
        },
    ),
}


def study(name: str) -> Study:
    """A study by name. Raises PochadeError for an unknown one, naming the nearest."""
    if name not in STUDIES:
        raise PochadeError(f"study: {name!r} given, allowed are {', '.join(STUDIES)}{nearest(name, STUDIES)}")
    return STUDIES[name]


def stage_of(study: Study, name: str, seed: int, changes: tuple[str, ...] = ()) -> Stage:
    """The stage of one case, called after it, with ``changes`` made in all cases alike on top."""
    case = study.cases[name]
    options = ",".join((*study.options, *case.options))
    (stage,) = override(
        stages_of(study.recipe),
        ("sample_every=0", *study.changes, f"task.options={options}", *changes, *case.changes),
    )
    return replace(stage, name=name if seed == 0 else f"{name}_seed{seed}", seed=seed)
