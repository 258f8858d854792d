"""``pochade ablate``: studies trained and measured at toy size."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.run import cli
from pochade.errors import PochadeError
from pochade.recipes.studies import STUDIES, stages_of_case

FAST = ("steps=2", "batch_size=4", "warmup_steps=1", "log_every=2", "save_every=2", "data.size=32", "task.variant=nano")


@pytest.fixture
def drawings(tmp_path: Path) -> Path:
    from evaluation.test_report import COLOURS, SHAPES, draw

    folder = tmp_path / "drawings"
    folder.mkdir()
    for caption in (f"{c} {s}" for c in COLOURS for s in SHAPES):
        draw(caption).save(folder / f"{caption}.png")
        (folder / f"{caption}.txt").write_text(caption)
    return folder


@pytest.mark.parametrize("name", STUDIES)
def test_every_case_of_a_study_has_one_thing_changed(name: str) -> None:
    study = STUDIES[name]
    runs = {case: stages_of_case(study, case, 0) for case in study.cases}
    first_of = {study.cases[case].after: stages[-1] for case, stages in reversed(runs.items())}
    assert len({repr([s.task for s in stages]) for stages in runs.values()}) == len(runs)
    for case, (*before, last) in runs.items():
        first = first_of[study.cases[case].after]
        assert last.name == case
        assert (last.steps, last.batch_size, last.data) == (first.steps, first.batch_size, first.data)
        again = stages_of_case(study, case, 2)
        assert again[-1].seed == 2
        assert again[:-1] == before


def test_a_stage_before_is_shared_unless_a_case_changes_it() -> None:
    runs = {case: stages_of_case(STUDIES["microforge"], case, 0)[0] for case in STUDIES["microforge"].cases}
    assert {case: stage.name for case, stage in runs.items() if stage.name != "vae"} == {
        "a7_f16": "vae_a7_f16",
        "a7_f64": "vae_a7_f64",
    }
    assert len({repr(stage) for stage in runs.values()}) == 3


def test_a_case_of_another_kind_goes_on_from_the_network_of_the_first() -> None:
    study = STUDIES["microforge"]
    for way in ("width", "channels"):
        *before, edit = stages_of_case(study, f"a8_{way}", 1)
        assert [repr(stage) for stage in before] == [repr(stage) for stage in stages_of_case(study, "base", 0)]
        assert edit.settings()["task"]["options"] == [f"source={way}"]
        assert edit.settings()["task"]["model"] is None


def test_options_of_a_study_its_case_and_the_user_are_joined() -> None:
    lira, microforge = STUDIES["lira"], STUDIES["microforge"]

    def options(case: str, *changes: str) -> list[str]:
        return stages_of_case(lira, case, 0, changes)[-1].settings()["task"]["options"]

    own = ["sample_size=16", "ponder_weight=0.001"]
    assert options("none", "task.options=hidden=32", "flow.task.options=heads=2,hidden=8") == [
        *own,
        "reasoning_steps=0",
        "hidden=8",
        "heads=2",
    ]
    assert options("loop", "task.options=ponder_weight=0.01") == ["sample_size=16", "ponder_weight=0.01"]
    vae, *_ = stages_of_case(microforge, "a7_f16", 0, ("vae.task.changes=encoder_blocks=[0,2,2,2]", "vae.seed=3"))
    changed = ["latent_channels=8", "downsampling=16", "encoder_blocks=[0,2,2,2]"]
    assert (vae.settings()["task"]["changes"], vae.seed) == (changed, 3)
    *_, flow, edit = stages_of_case(microforge, "a8_width", 0, ("task.options=plan_tokens=4",))
    assert [s.settings()["task"]["options"] for s in (flow, edit)] == [
        ["plan_tokens=4"],
        ["source=width", "plan_tokens=4"],
    ]


@pytest.mark.parametrize(
    ("study", "case", "change", "message"),
    [
        (
            "lira",
            "two",
            "task.options=heads=2,reasoning_steps=4",
            "task.options: .*the case two sets reasoning_steps: ",
        ),
        ("lira", "uniform", "flow.task.density=laplace", "task.density: .*the case uniform sets task.density: "),
        ("microforge", "a7_f64", "vae.task.changes=downsampling=8", "task.changes: .*a7_f64 sets downsampling: "),
        ("lira", "loop", "seed=5", "seed: seed=5 given, .*--seeds"),
        ("microforge", "base", "flow.seed=5", "seed: flow.seed=5 given, .*--seeds"),
        ("lira", "loop", "task.options=", "changes: task.options= given, which changes nothing"),
        ("lira", "loop", "name=flow", "changes: name=flow given, which changes nothing"),
    ],
)
def test_what_a_case_or_the_study_sets_is_no_change_of_all(study: str, case: str, change: str, message: str) -> None:
    with pytest.raises(PochadeError, match=f"^{message}"):
        stages_of_case(STUDIES[study], case, 0, (change,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lira", "--cases", "loop,none", "task.options=reasoning_steps=4"), "the case none sets reasoning_steps"),
        (("microforge", "--cases", "base,a7_f64", "data.size=96"), "data.size: 96 given, allowed are multiples of 64"),
    ],
)
def test_what_a_later_case_cannot_take_is_refused_before_the_first(
    capsys: Any, tmp_path: Path, drawings: Path, arguments: tuple[str, ...], message: str
) -> None:
    out = tmp_path / "study"
    assert message in cli(capsys, "ablate", *arguments, f"data.source={drawings}", "-o", str(out), code=2).error
    assert not out.exists()


def test_a_case_that_was_trained_otherwise_is_refused_before_the_first(
    capsys: Any, tmp_path: Path, drawings: Path
) -> None:
    arguments = ("ablate", "lira", f"data.source={drawings}", *FAST, "-o", str(tmp_path / "study"), "--cases")
    model = tmp_path / "study" / "1-none" / "model"
    model.mkdir(parents=True)
    stage = stages_of_case(STUDIES["lira"], "none", 0, (f"data.source={drawings}", *FAST, "batch_size=8"))[0]
    (model / "model_index.json").write_text("{}")
    (model / "training.json").write_text(json.dumps({"stage": stage.settings(), "contents": {}}))
    assert "batch_size 8 (now 4)" in cli(capsys, *arguments, "loop,none", code=2).error
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["1-none"]


def test_a_study_is_listed(capsys: Any) -> None:
    out = cli(capsys, "ablate", "--list").out
    assert "lira: " in out
    assert "always 8 steps" in " ".join(out.split())


@pytest.mark.usefixtures("small")
def test_a_study_trains_measures_and_goes_on(
    capsys: Any, tmp_path: Path, drawings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pochade.recipes import studies

    study = studies.STUDIES["lira"]
    small = ("dim=32", "blocks=1", "hidden=32", "heads=2", "reasoning_width=16", "sample_size=4")
    toy = studies.Study(study.about, study.recipe, study.changes, small, study.cases)
    monkeypatch.setitem(studies.STUDIES, "lira", toy)
    arguments = ("ablate", "lira", *FAST, f"data.source={drawings}", "--cases", "loop,none", "--seeds", "2")
    arguments += ("--samples", "4", "--sampling-steps", "2", "-o", str(tmp_path / "study"))
    first = cli(capsys, *arguments, "--json")
    assert first.error.count(f"{tmp_path / 'study'} holds no run yet, a new one begins") == 1
    assert "resume" not in first.error
    assert "no checkpoint" not in first.error
    rows = json.loads(first.out)
    assert [row["case"] for row in rows] == ["loop", "none"]
    assert all(len(row["runs"]) == 2 for row in rows)
    assert rows[0]["runs"][0]["parameters"] > rows[1]["runs"][0]["parameters"]
    assert {"kid train", "kid held_out", "R@1 train", "seconds_per_step"} <= set(rows[0]["runs"][0])
    folders = sorted(p.name for p in (tmp_path / "study").iterdir() if p.is_dir())
    assert folders == ["1-loop", "1-loop_seed1", "1-none", "1-none_seed1", "cache"]

    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.safetensors")}
    again = cli(capsys, *arguments)
    assert "begins" not in again.error
    out = again.out
    assert out.splitlines()[0].startswith("| case |")
    assert "no loop" in out
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.safetensors")}
    assert (tmp_path / "study" / "table.md").read_text() == out

    kept = tmp_path / "study" / "1-none" / "measured.json"
    figures = json.loads(kept.read_text())
    figures["figures"] |= {"kid train": 1e9, "kid train std": 0.1}
    kept.write_text(json.dumps(figures))
    closer = json.loads(cli(capsys, *arguments, "--close-seeds", "3", "--json").out)
    assert [len(row["runs"]) for row in closer] == [3, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ablate",), "study: none given"),
        (("ablate", "lyra"), "did you mean 'lira'"),
        (("ablate", "lira", "--cases", "loop,nine"), "cases: 'nine' given"),
        (("ablate", "lira", "--seeds", "0"), "seeds: 0 given"),
    ],
)
def test_wrong_use(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in cli(capsys, *arguments, code=2).error
    assert not list(tmp_path.iterdir())
