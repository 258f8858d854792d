"""Studies: one recipe trained several times at equal cost, each time with something changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pochade.errors import PochadeError, nearest
from pochade.recipes import microforge, stages_of
from pochade.training.overrides import fields_of, override
from pochade.training.stage import AnyStage

ARGUMENTS = {"task.options", "task.changes"}
"""The fields that hold arguments of a network, as NAME=VALUE."""


@dataclass(frozen=True)
class Case:
    """One of the runs of a study."""

    about: str
    changes: tuple[str, ...] = ()
    """``field=value``, as for ``pochade train``."""
    options: tuple[str, ...] = ()
    """Arguments of the network, added to those of the study."""
    after: Callable[[], AnyStage] | None = None
    """A stage that goes on from the network of the first case, and is what is compared; None: there is none."""
    expected: str = ""
    """The published expectation."""


@dataclass(frozen=True)
class Study:
    """Runs that are to be compared."""

    about: str
    recipe: str
    """The last of its stages trains the network that is compared; what the ones before make is shared."""
    changes: tuple[str, ...]
    """Made in every run, each in the stages that have the field."""
    options: tuple[str, ...]
    """Arguments of the network in every run."""
    cases: Mapping[str, Case]
    """By name; the first is what the others are compared with."""


STUDIES: dict[str, Study] = {
    "iris": Study(
        "whether Haar bands make latents that are learned more easily, at 128 px",
        "iris-study",
        (),
        (),
        {
            "bands": Case("as it is: the autoencoder sees Haar bands, and its loss has a term for them"),
            "no_bands": Case(
                "the same autoencoder on pixels, 2 x 2 of them in its channels, without that term",
                (
                    "vae.task.kind=deep_compression",
                    "vae.task.changes=downsampling=16,encoder_blocks=[0,2,2,2],decoder_blocks=[0,2,2,3]",
                    "vae.task.wavelet=0",
                ),
            ),
        },
    ),
    "lira": Study(
        "what each part of LiRA gains: reasoning loop, density of times, hyper-connections, fusion, skips, scans",
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
            "residual": Case("residual connections, no hyper-connections", options=("connections=residual",)),
            "static": Case("static hyper-connections", options=("connections=static",)),
            "no_fusion": Case("no fusion: text through the modulation alone", options=("fusion=none",)),
            "interpolated": Case("fusion that also passes (1 - g) x on", options=("fusion=interpolated",)),
            "attention": Case("ordinary cross-attention in place of the fusion", options=("fusion=attention",)),
            "no_skips": Case("no long skips", options=("long_skips=false",)),
            "two_directions": Case("scans along rows alone, forth and back", options=("directions=2",)),
            "one_direction": Case("one scan, forth along rows", options=("directions=1",)),
            "full_attention": Case("full attention, no scans", options=("mixer=attention",)),
        },
    ),
    "microforge": Study(
        "what each part of MicroForge gains: its published ablations A1 to A8, at 128 px",
        "microforge-study",
        (),
        (),
        {
            "base": Case("as it is: planner, scans, shared attention, convolutions, plan state, grouped adaLN, f32"),
            "a1": Case("no planner", options=("plan_tokens=0",), expected="FID 2 to 5 % worse"),
            "a2": Case(
                "full attention, no scans",
                options=("mixer=attention",),
                expected="better at 256 px, worse at 1024, 2 to 4 times slower",
            ),
            "a3": Case("no shared attention", options=("attention_every=0",), expected="FID 1 to 3 % worse"),
            "a4": Case("no convolution beside the scans", options=("depthwise=false",), expected="FID 2 to 4 % worse"),
            "a5": Case("no plan state", options=("self_conditioning=false",), expected="more step jitter"),
            "a6": Case("full adaLN", options=("modulation=full",), expected="46 % more parameters, marginal gain"),
            "a7_f16": Case(
                "f16: 4 times the tokens, a quarter of the channels",
                ("vae.task.changes=latent_channels=8,downsampling=16",),
                expected="f32 better",
            ),
            "a7_f64": Case(
                "f64: a quarter of the tokens, twice the channels",
                ("vae.task.changes=latent_channels=64,downsampling=64",),
                expected="f32 better",
            ),
            "a8_width": Case(
                "base taught to edit: a source as further tokens, beside the noisy ones",
                ("edit.task.options=source=width",),
                after=microforge.study_editing,
                expected="better than channels, at more tokens",
            ),
            "a8_channels": Case(
                "base taught to edit: a source added to the tokens at its place",
                ("edit.task.options=source=channels",),
                after=microforge.study_editing,
                expected="half the tokens",
            ),
        },
    ),
}


def study(name: str) -> Study:
    """A study by name. Raises PochadeError for an unknown one, naming the nearest."""
    if name not in STUDIES:
        raise PochadeError(f"study: {name!r} given, allowed are {', '.join(STUDIES)}{nearest(name, STUDIES)}")
    return STUDIES[name]


def stages_of_case(study: Study, name: str, seed: int, changes: tuple[str, ...] = ()) -> list[AnyStage]:
    """The stages of one case, the last called after it, with ``changes`` made in all cases alike on top.

    A stage before is called after the case where the case changes it: otherwise it is the same in all of them, and
    is trained once. The seed is that of the last. Arguments of a network in ``changes`` (``task.options=NAME=VALUE``)
    join those of the study and of the case, in place of one of the same name.

    Raises:
        PochadeError: ``changes`` cannot be made, or change what the case does or the seed of the last stage.
    """
    case = study.cases[name]
    options = ",".join((*study.options, *case.options))
    stages = stages_of(study.recipe)
    if case.after is not None:
        stages = [*stages, case.after()]
    stages = override(stages, ("sample_every=0", *study.changes, f"task.options={options}", *case.changes))
    own = [*case.changes, f"task.options={','.join(case.options)}"]
    varied = {one for change in own for one in _reached(stages, change)}
    for change in changes:
        reached = _reached(stages, change)
        if (stages[-1].name, "seed", "") in reached:
            raise PochadeError(f"seed: {change} given, but a study has its own: allowed is --seeds, how many from 0 on")
        if not reached:
            raise PochadeError(f"changes: {change} given, which changes nothing in a study, allowed is FIELD=VALUE")
        for _, field, argument in sorted(reached & varied):
            what = argument or field
            raise PochadeError(
                f"{field}: {change} given, but the case {name} sets {what}: allowed is --cases without it"
            )
        stages = _joined(stages, change)
    *before, last = stages
    touched = {change.partition(".")[0] for change in case.changes}
    shared = [replace(stage, name=f"{stage.name}_{name}") if stage.name in touched else stage for stage in before]
    if case.after is not None:
        shared[-1] = replace(shared[-1], name=next(iter(study.cases)))
    return [*shared, replace(last, name=name if seed == 0 else f"{name}_seed{seed}", seed=seed)]


def _reached(stages: Sequence[AnyStage], change: str) -> set[tuple[str, str, str]]:
    """What a change is made in: the name of a stage, a field, and of a field of arguments the name of each, else ""."""
    path = change.partition("=")[0].strip()
    reached: set[tuple[str, str, str]] = set()
    for stage in override(stages, [change]):
        field = path.removeprefix(f"{stage.name}.")
        fields = dict(fields_of(stage))
        if field in fields:
            names = _by_name(fields[field]) if field in ARGUMENTS else [""]
            reached |= {(stage.name, field, name) for name in names}
    return reached


def _joined(stages: Sequence[AnyStage], change: str) -> list[AnyStage]:
    """The stages with a change made, in which arguments join those that are there, in place of one of the same name."""
    changed = override(stages, [change])
    for before, after in zip(stages, changed, strict=True):
        own, given = dict(fields_of(before)), dict(fields_of(after))
        for field in (field for field in ARGUMENTS & given.keys() if own[field] != given[field]):
            joined = _by_name(own[field]) | _by_name(given[field])
            changed = override(changed, [f"{after.name}.{field}={','.join(joined.values())}"])
    return changed


def _by_name(arguments: Sequence[str] | None) -> dict[str, str]:
    return {one.partition("=")[0]: one for one in arguments or ()}
