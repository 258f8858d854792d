"""``pochade profile``: its options, its tables, its JSON."""

import json
from pathlib import Path
from typing import Any

from cli.run import cli


def test_profile_as_tables_and_as_json(capsys: Any, toy_class_pipeline_folder: Path) -> None:
    given = ["profile", str(toy_class_pipeline_folder), "--runtime", "onnx", "--repeats", "1", "--threads", "1"]
    found = json.loads(cli(capsys, *given, "--steps", "1", "--json").out)
    assert {"model", "size", "steps", "batch", "threads", "components", "rows", "exports", "versions"} <= set(found)
    assert [row["component"] for row in found["rows"]] == ["denoiser", "decoder", "picture", "denoiser", "picture"]

    from pochade.cli.profile import _components, _notes, _rows

    assert len(_rows(found).rows) == 5
    assert len(_components(found).rows) == 2
    assert "convolutions are slower" in _notes(found)


def test_errors_are_one_line(capsys: Any) -> None:
    shown = cli(capsys, "profile", "lira:smal", code=2).error
    assert shown.startswith("error: model: 'lira:smal' given")
    assert "\n" not in shown
    assert "steps: 0 given" in cli(capsys, "profile", "lrf:nano", "--steps", "0", code=2).error
    assert "Usage: pochade profile" in cli(capsys, "profile", "--help").out
