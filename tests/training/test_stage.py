"""Stages and the grammar that overrides their fields."""

import json
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from pochade.data.sources import FolderSource, parse_source
from pochade.errors import PochadeError
from pochade.recipes import RECIPES, stages_of
from pochade.training.data import PairData
from pochade.training.executor import run
from pochade.training.overrides import override
from pochade.training.stage import RANGES, Settings, Stage, differences
from pochade.training.stages import KINDS


@dataclass(frozen=True)
class FlowSettings:
    weighting: Literal["uniform", "min_snr"] = "uniform"
    guidance_drop: float = 0.1
    depth: int | None = None


@dataclass(frozen=True)
class DataSettings:
    size: int = 32
    root: Path = Path("data")
    flip: bool = True
    names: tuple[str, ...] = ()


def stages() -> list[Stage]:
    first = Stage(name="autoencoder", task=DataSettings(), data=DataSettings(), steps=10)
    return [first, Stage(name="flow", task=FlowSettings(), data=DataSettings(), steps=20)]


@pytest.mark.parametrize(
    "text, read",
    [
        ("flow.learning_rate=3e-4", lambda s: s[1].learning_rate == 3e-4 and s[0].learning_rate == 1e-3),
        ("steps=1e2", lambda s: [x.steps for x in s] == [100, 100]),
        ("betas=0.9,0.95", lambda s: s[0].betas == (0.9, 0.95)),
        ("task.weighting=min_snr", lambda s: s[1].task.weighting == "min_snr"),
        ("flow.task.depth=4", lambda s: s[1].task.depth == 4),
        ("task.depth=none", lambda s: s[1].task.depth is None),
        ("data.size=64", lambda s: [x.data.size for x in s] == [64, 64]),
        ("flow.data.root=a=b", lambda s: s[1].data.root == Path("a=b")),
        ("data.flip=No", lambda s: s[0].data.flip is False),
        ("data.names=a, b", lambda s: s[0].data.names == ("a", "b")),
        ("data.names=(a=[1,2], b)", lambda s: s[0].data.names == ("a=[1,2]", "b")),
        ("data.names=a,b=[1,2],c=[3]", lambda s: s[0].data.names == ("a", "b=[1,2]", "c=[3]")),
        ("initialise_from=x.safetensors", lambda s: s[1].initialise_from == "x.safetensors"),
    ],
)
def test_override_reads_by_type(text: str, read) -> None:
    assert read(override(stages(), [text]))


def test_override_leaves_the_given_stages_alone_and_applies_in_turn() -> None:
    given = stages()
    changed = override(given, ["steps=5", "flow.steps=7"])
    assert [s.steps for s in changed] == [5, 7]
    assert given == stages()


@pytest.mark.parametrize(
    "text, parts",
    [
        ("learning_rat=1", ["learning_rat", "'learning_rate'"]),
        ("flow.stepz=1", ["flow.stepz", "'steps'"]),
        ("task.weightning=x", ["task.weightning", "'task.weighting'"]),
        ("flwo.steps=3", ["flwo.steps"]),
        ("flow=3", ["flow", "there are", "task.weighting"]),
        ("data=3", ["data", "data.size"]),
        ("steps", ["field=value"]),
        ("steps=many", ["steps", "'many'", "a whole number"]),
        ("steps=1.5", ["'1.5'", "a whole number"]),
        ("steps=-1", ["steps", "at least 0"]),
        ("learning_rate=nan", ["'nan'", "a number"]),
        ("learning_rate=-1", ["above 0"]),
        ("betas=0.9", ["a number, a number"]),
        ("compile=maybe", ["true or false"]),
        ("schedule=linear", ["cosine or constant"]),
        ("task.weighting=none", ["uniform or min_snr"]),
        ("task.depth=deep", ["a whole number or none"]),
        ("ema_decay=1", ["[0, 1)"]),
        ("accumulate=3", ["must divide"]),
    ],
)
def test_override_names_what_is_wrong(text: str, parts: list[str]) -> None:
    with pytest.raises(PochadeError) as caught:
        override(stages(), [text])
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["steps", "two words", ""])
def test_ambiguous_names_are_refused(name: str) -> None:
    with pytest.raises(PochadeError, match="name"):
        Stage(name=name, task=DataSettings(), data=DataSettings(), steps=1)


def test_settings_must_be_dataclasses() -> None:
    with pytest.raises(PochadeError, match="task"):
        Stage(name="flow", task={"a": 1}, data=DataSettings(), steps=1)


def test_settings_are_json_and_differences_name_fields() -> None:
    before = json.loads(json.dumps(stages()[1].settings()))
    free = override(stages(), ["steps=99", "learning_rate=0.5", "keep=1", "save_every=3", "log_every=3"])[1]
    assert differences(before, free.settings()) == {}
    changed = override(stages(), ["clip=0.5", "data.size=64", "betas=0.9,0.999"])[1].settings()
    assert differences(before, json.loads(json.dumps(changed))) == {
        "clip": (1.0, 0.5),
        "betas": ([0.9, 0.99], [0.9, 0.999]),
        "data.size": (32, 64),
    }
    other_task = Stage(name="flow", task=DataSettings(), data=DataSettings(), steps=20).settings()
    assert differences(before, other_task)["task.type"] == ("FlowSettings", "DataSettings")


def test_learning_rate_rises_then_falls_along_a_cosine() -> None:
    stage = override(stages(), ["steps=110", "warmup_steps=10", "final_learning_rate=1e-4"])[0]
    factors = [stage.learning_rate_factor(i) for i in range(111)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[60] == pytest.approx((1 + 0.1) / 2)  # half-way down
    assert factors[110] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(factors[9:]))
    flat = override([stage], ["schedule=constant"])[0]
    assert [flat.learning_rate_factor(i) for i in (9, 50, 109)] == [1, 1, 1]


def test_passes_over_few_pictures_are_counted() -> None:
    stage = override(stages(), ["steps=2000", "batch_size=64"])[0]
    assert round(stage.passes(34)) == 3765
    warned = stage.warn_of_passes(34)
    assert warned is not None
    assert "3,765 passes over 34 samples" in warned
    fewer = int(warned.rpartition("steps=")[2])
    assert override([stage], [f"steps={fewer}"])[0].passes(34) == pytest.approx(200, rel=0.01)
    assert stage.warn_of_passes(800) is None


def test_a_warm_up_that_never_ends_is_told() -> None:
    stage = override(stages(), ["steps=9", "warmup_steps=10", "learning_rate=5e-4"])[0]
    assert stage.learning_rate_factor(8) < 1
    assert stage.warn_of_warmup() == (
        "steps: 9 given, fewer than warmup_steps=10: the learning rate never reaches its peak of 0.0005"
    )
    assert override([stage], ["steps=10"])[0].warn_of_warmup() is None


@pytest.mark.parametrize(
    ("field", "given", "message"),
    [
        ("steps", 1.5, "steps: 1.5 given, must be at least 0, and whole"),
        ("steps", "10", "steps: '10' given, must be at least 0, and whole"),
        ("batch_size", None, "batch_size: None given, must be at least 1, and whole"),
        ("learning_rate", float("nan"), "learning_rate: nan given, must be above 0"),
        ("betas", 0.9, r"betas: 0.9 given, must be each in \[0, 1\)"),
        ("ema_decay", [0.9], r"ema_decay: \[0.9\] given, must be in \[0, 1\)"),
        ("device", 0, "device: 0 given, allowed is a name"),
        ("name", 5, "name: 5 given, allowed is an identifier"),
        ("compile", "false", "compile: 'false' given, must be true or false"),
        ("fsdp", "no", "fsdp: 'no' given, must be true or false"),
        ("betas", (0.9,), r"betas: \(0.9,\) given, must be each in \[0, 1\), and two of them"),
        ("seed", 2**64, r"seed: 18446744073709551616 given, must be at least 0 and below 2\^63, and whole"),
        ("initialise_from", 5, "initialise_from: 5 given, must be a text or none"),
        ("trackers", "wandb", "trackers: 'wandb' given, must be a list, each a text"),
        ("schedule", "linear", "schedule: 'linear' given, must be cosine or constant"),
    ],
)
def test_fields_of_other_kinds_are_refused_by_name(field: str, given: Any, message: str) -> None:
    with pytest.raises(PochadeError, match=message):
        replace(stages_of("lrf-folder")[0], **{field: given})


SETTINGS = {
    type(stage.task): stage.task for name in RECIPES for stage in stages_of(name) if vars(stage.task).keys() & RANGES
}


@pytest.mark.parametrize("task", SETTINGS.values(), ids=lambda task: type(task).__name__)
def test_what_all_kinds_have_in_common_has_one_range(task: Settings) -> None:
    for name in vars(task).keys() & RANGES:
        for wrong in (-1.0, float("nan"), float("inf"), "1")[name == "guidance" :]:
            with pytest.raises(PochadeError, match=f"{name}: {wrong!r} given, must be "):
                replace(task, **{name: wrong})  # pyright: ignore[reportArgumentType]
    for name in vars(task).keys() & {"density_scale", "time_shift", "scan_rate"}:
        with pytest.raises(PochadeError, match=f"{name}: 0.0 given, must be above 0"):
            replace(task, **{name: 0.0})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_field_has_one_type(recipe: str) -> None:
    for stage in stages_of(recipe):
        for settings in (stage, stage.task, stage.data):
            for f in fields(settings):
                with pytest.raises(PochadeError, match=f"^{f.name}: <object .* given, (must be|allowed)"):
                    replace(settings, **{f.name: object()})


def test_a_source_is_no_text() -> None:
    data = stages_of("lrf-folder")[0].data
    with pytest.raises(PochadeError, match=r"source: 'pics' given, must be a data source \(parse_source makes one"):
        replace(data, source="pics")
    with pytest.raises(PochadeError, match=r"pairs: 'pics' given, must be a source of pairs \(parse_pairs makes one"):
        PairData(pairs="pics")  # pyright: ignore[reportArgumentType]
    assert replace(data, source=parse_source("pics")).source == FolderSource(Path("pics"))


def test_paths_are_text_and_lists_tuples(tmp_path: Path) -> None:
    stage = stages_of("lrf-folder")[0]
    task = replace(stage.task, autoencoder=tmp_path, options=["blocks=1"])
    stage = replace(stage, task=task, initialise_from=tmp_path, data=replace(stage.data, size=np.int64(64)))
    assert (stage.initialise_from, task.autoencoder, task.options) == (str(tmp_path), str(tmp_path), ("blocks=1",))
    assert stage.settings()["data"]["size"] == 64


def test_the_ranges_are_those_of_all_kinds() -> None:
    assert len(SETTINGS) == len(KINDS)


def test_numbers_of_numpy_are_plain_ones(tmp_path: Path) -> None:
    stage = replace(stages_of("lrf-folder")[0], steps=np.int64(3), learning_rate=np.float32(0.5))
    assert (type(stage.steps), type(stage.learning_rate)) == (int, float)
    json.dumps(stage.settings())
    with pytest.raises(PochadeError, match="out: 5 given, allowed is a path"):
        run([stage], 5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(PochadeError, match=r"stages: \[\] given, allowed is a list of stages"):
        run([], tmp_path)
    with pytest.raises(PochadeError, match="override: 'steps=3' given, allowed is a list of texts"):
        override([stage], "steps=3")
    with pytest.raises(PochadeError, match="resume: 'no' given, allowed are True and False"):
        run([stage], tmp_path, resume="no")  # pyright: ignore[reportArgumentType]
