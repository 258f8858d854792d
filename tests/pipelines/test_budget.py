"""A budget of time for ``pochade generate``, and the table of quality that it goes by."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import pochade
from cli.run import cli
from pochade.errors import PochadeError
from pochade.pipelines import hub
from pochade.pipelines.budget import QUALITY, read_quality
from pochade.pipelines.metadata import read_metadata
from pochade.runtime.manifest import Quality


def with_table(folder: Path, place: Path, **changes: Any) -> Path:
    """A copy of a model with a table of quality: two steps are best."""
    shutil.copytree(folder, place)
    rows = [
        {"steps": steps, "depth": None, "kid_lite0": kid, "R@1": 0.5} for steps, kid in ((1, 0.3), (2, 0.1), (4, 0.2))
    ]
    table = {"model_sha256": hub.model_sha256(place), "rows": rows, **changes}
    (place / QUALITY).write_text(json.dumps(table), encoding="utf-8")
    return place


@pytest.fixture
def model(toy_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return with_table(toy_pipeline_folder, tmp_path / "model")


def test_generate_spends_a_budget(model: Path, tmp_path: Path, capsys: object) -> None:
    out = tmp_path / "out"
    given = ("--model", str(model), "--seed", "3", "-o", str(out))
    done = cli(capsys, "generate", "a cat", "a red apple", *given, "--budget", "100s")
    assert done.error.count("budget: 2 steps (KID 0.100, R@1 0.50), ") == 2
    assert done.error.count("ms taken") == 2
    pictures = sorted(out.iterdir())
    assert [read_metadata(path).request.steps for path in pictures] == [2, 2]
    assert len(list((tmp_path / "cache" / "pochade" / "timings").iterdir())) == 1
    again = cli(capsys, "generate", "a cat", *given, "--steps", "2")
    assert Path(again.out.strip()).read_bytes() == pictures[0].read_bytes()
    picture = pochade.generate(pochade.GenerationRequest("a cat", seed=3, model=str(model)), budget_ms=1e5)
    assert picture.metadata.request.steps == 2


def test_wrong_use(model: Path, toy_pipeline_folder: Path, tmp_path: Path, capsys: object) -> None:
    out = ("-o", str(tmp_path / "out"))
    own, plain = ("--model", str(model)), ("--model", str(toy_pipeline_folder))
    for arguments, message in (
        ((*own, "--budget", "soon"), "budget: 'soon' given, allowed are times such as 300ms or 1.5s"),
        ((*own, "--budget", "1s", "--steps", "3"), "steps: 3 given beside a budget, which chooses it"),
        ((*own, "--budget", "0.001ms"), "budget: 0 ms given, the smallest possible here is"),
        ((*plain, "--budget", "1s"), "has no table of quality: pochade evaluate MODEL DATA --grid STEPS"),
    ):
        assert message in cli(capsys, "generate", "a", *arguments, *out, code=2).error
    assert not (tmp_path / "out").exists()
    Image.effect_noise((32, 32), 90).convert("RGB").save(tmp_path / "source.png")
    edit = pochade.EditRequest("a", source=str(tmp_path / "source.png"), task="edit", model=str(model))
    with pytest.raises(PochadeError, match="budget: given with an edit"):
        pochade.generate(edit, budget_ms=100)


def test_a_table_of_other_weights_is_refused(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    assert read_quality(with_table(toy_pipeline_folder, tmp_path / "a"))[1] == Quality(2, None, 0.1, 0.5)
    assert read_quality(toy_pipeline_folder) == ()
    for change, message in (
        ({"model_sha256": "0" * 64}, "measured with other weights than the model has now"),
        ({"rows": [{"steps": 1}]}, "damaged"),
    ):
        place = with_table(toy_pipeline_folder, tmp_path / message.replace(" ", "-"), **change)
        with pytest.raises(PochadeError, match=message):
            read_quality(place)


@pytest.mark.parametrize("name", [name for name, folder in hub.shipped().items() if (folder / QUALITY).is_file()])
def test_tables_of_shipped_models_are_of_their_weights(name: str) -> None:
    """``python scripts/quality.py NAME`` makes one anew."""
    assert read_quality(hub.shipped()[name])
