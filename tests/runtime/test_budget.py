"""A budget of time: what is chosen, from which times, and where they are kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.run import cli
from pochade.errors import PochadeError
from pochade.runtime import Bundle, budget
from pochade.runtime.budget import Times, cached, choose, measure, parse_budget, times_here
from pochade.runtime.manifest import Quality
from pochade.runtime.pictures import read_recipe

TABLE = (
    Quality(1, 4, 0.5, 0.1),
    Quality(4, 4, 0.2, 0.3),
    Quality(2, 8, 0.3, 0.3),
    Quality(4, 8, 0.1, 0.4),
    Quality(8, 8, 0.15, 0.4),
)
TIMES = Times({"4": 50.0, "8": 60.0}, {"4": 10.0, "8": 25.0})


@pytest.mark.parametrize(
    ("budget_ms", "steps", "depth"), [(66, 1, 4), (99.1, 4, 4), (175.9, 4, 4), (176.1, 4, 8), (1e6, 4, 8)]
)
def test_the_best_quality_that_fits_is_chosen(budget_ms: float, steps: int, depth: int) -> None:
    """Milliseconds are 1.1 (fixed + steps x step); more steps are not taken where they were measured to be worse."""
    choice = choose(TABLE, TIMES, budget_ms)
    assert (choice.quality.steps, choice.quality.depth) == (steps, depth)
    assert choice.expected_ms <= budget_ms


def test_a_budget_that_is_too_small_names_the_smallest() -> None:
    with pytest.raises(
        PochadeError, match=r"budget: 60 ms given, the smallest possible here is 66 ms, for 1 step, depth 4"
    ):
        choose(TABLE, TIMES, 60)
    assert choose(TABLE, TIMES, 66).quality.steps == 1


def test_what_a_line_says() -> None:
    choice = choose((Quality(1, None, 0.25, 0.5),), Times({"": 10.0}, {"": 10.0}), 100)
    assert choice.report(25.4) == "budget: 1 step (KID 0.250, R@1 0.50), 22 ms expected, 25 ms taken"


@pytest.mark.parametrize(("text", "milliseconds"), [("300ms", 300), ("1.5s", 1500), ("250", 250), (" 2 s ", 2000)])
def test_budgets_are_read(text: str, milliseconds: float) -> None:
    assert parse_budget(text) == milliseconds


@pytest.mark.parametrize("text", ["", "fast", "-3ms", "0", "3 h", "1e3"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(PochadeError, match=r"budget: '.*' given, allowed are times such as 300ms or 1.5s"):
        parse_budget(text)


def test_times_are_those_of_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only sampling moves: 40 ms, and 7 ms a step and iteration, but for three disturbed calls."""
    now, calls = [0.0], [0]

    def sample(steps: int, depth: int | None) -> None:
        calls[0] += 1
        now[0] += (40 + 7 * steps * (depth or 1) + (500 if calls[0] in (1, 4, 7) else 0)) / 1000

    monkeypatch.setattr(budget.time, "perf_counter", lambda: now[0])
    times = measure(sample, (2, None))
    assert times.fixed == pytest.approx({"2": 40, "": 40})
    assert times.step == pytest.approx({"2": 14, "": 7})
    assert times.expected(3, 2) == pytest.approx(1.1 * (40 + 42))


def test_times_are_kept_where_it_can_be_written(tmp_path: Path) -> None:
    made: list[int] = []

    def time_it() -> Times:
        made.append(1)
        return TIMES

    blocked, place = tmp_path / "file" / "timings.json", tmp_path / "cache" / "timings.json"
    (tmp_path / "file").touch()
    for _ in range(2):
        assert times_here([blocked, place], "a", TABLE, time_it) == TIMES
    assert len(made) == 1
    times_here([blocked, place], "other threads", TABLE, time_it)
    times_here([blocked, place], "a", [*TABLE, Quality(1, 12, 0.1, 0.1)], time_it)  # a depth that was not timed
    assert len(made) == 3
    place.write_text("{")
    assert times_here([blocked, place], "a", TABLE, time_it) == TIMES
    assert len(made) == 4


@pytest.fixture
def bundle(toy_bundle: Path, tmp_path: Path) -> Path:
    """A bundle with a table of quality, in a folder of its own."""
    shutil.copytree(toy_bundle, tmp_path / "b")
    path = tmp_path / "b" / "manifest.json"
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    depth = values["defaults"]["depth"]
    rows = [Quality(1, depth, 0.5, 0.1), Quality(3, depth, 0.2, 0.3), Quality(2, 99, 0.1, 0.9)]
    values["quality"] = [row.__dict__ for row in rows]
    path.write_text(json.dumps(values), encoding="utf-8")
    return path.parent


def test_a_bundle_spends_a_budget(bundle: Path) -> None:
    opened = Bundle(bundle)
    made = opened.generate("a red apple", seed=7, budget_ms=1e6)
    assert made.recipe["steps"] == 3  # two steps were measured at a depth that this bundle does not have
    assert made.image.tobytes() == opened.generate("a red apple", seed=7, steps=3).image.tobytes()
    kept = json.loads((bundle / "timings.json").read_text(encoding="utf-8"))
    (key,) = kept
    kept[key] = {"fixed": {"2": 100.0}, "step": {"2": 100.0}}
    (bundle / "timings.json").write_text(json.dumps(kept), encoding="utf-8")
    assert opened.fit(np.float64(230)).quality.steps == opened.fit(np.int64(230)).quality.steps == 1
    with pytest.raises(PochadeError, match="budget_ms: True given, allowed are milliseconds above 0"):
        opened.fit(True)
    with pytest.raises(PochadeError, match="the smallest possible here is 220 ms, for 1 step, depth 2"):
        opened.fit(200)


def test_times_of_a_bundle_that_cannot_be_written_lie_in_the_cache(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (bundle / "timings.json").mkdir()
    Bundle(bundle).fit(1e6)
    (place,) = (tmp_path / "cache" / "pochade" / "timings").iterdir()
    assert place.parent == cached("any").parent


def test_the_command_says_what_it_chose(bundle: Path, tmp_path: Path, capsys: object) -> None:
    out = tmp_path / "a.png"
    done = cli(capsys, "run", str(bundle), "a red apple", "--seed", "7", "--budget", "100s", "-o", str(out))
    assert "budget: 3 steps, depth 2 (KID 0.200, R@1 0.30), " in done.error
    assert "ms expected" in done.error
    assert "ms taken" in done.error
    assert read_recipe(out)["steps"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "--budget", "soon"), "budget: 'soon' given, allowed are times such as 300ms or 1.5s"),
        (("a", "--budget", "1s", "--steps", "3"), "steps: 3 given beside a budget, which chooses it"),
        (("a", "--budget", "1s", "--depth", "2"), "depth: 2 given beside a budget, which chooses it"),
        (("--budget", "1s"), "prompt: none given, generate needs one"),
        (("a", "--budget", "1s", "--strength", "0.5"), "strength: 0.5 given to generate, allowed is none"),
        (("a", "--budget", "1s", "--edit", "a.png"), "budget: '1s' given to edit, allowed is none"),
    ],
)
def test_wrong_use_is_one_line(bundle: Path, capsys: object, arguments: tuple[str, ...], message: str) -> None:
    assert message in cli(capsys, "run", str(bundle), *arguments, code=2).error


def test_a_bundle_of_other_depths_than_its_table_says_so(bundle: Path) -> None:
    path = bundle / "manifest.json"
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    values["quality"] = [row.__dict__ for row in (Quality(1, 8, 0.5, 0.1), Quality(2, 4, 0.5, 0.1))]
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(
        PochadeError,
        match=r"budget: the table of quality has depths 4, 8, the bundle 2: pochade export --depth 4,8 writes them",
    ):
        Bundle(bundle).fit(300)


def test_a_bundle_without_a_table_says_how_to_make_one(toy_bundle: Path) -> None:
    with pytest.raises(PochadeError, match=r"budget: the bundle has no table of quality: pochade evaluate"):
        Bundle(toy_bundle).fit(300)
