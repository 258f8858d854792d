"""``pochade profile``: its options, its tables, its JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.run import cli


def test_profile_in_eager_as_json_and_as_tables(capsys: Any, toy_pipeline_folder: Path) -> None:
    """In half precision on a CPU, where the text encoder stays in float32."""
    given = ["profile", str(toy_pipeline_folder), "--runtime", "eager", "--repeats", "1", "--threads", "1"]
    given += ["--device", "cpu", "--precision", "bf16"]
    found = json.loads(cli(capsys, *given, "--steps", "1", "--size", "64", "--json").out)
    assert {"model", "size", "steps", "batch", "threads", "components", "rows", "exports", "versions"} <= set(found)
    assert (found["size"], found["latent_size"], found["steps"]) == (64, [8, 8], 1)
    assert (found["device"], found["precision"]) == ("cpu", "bf16")
    precisions = {row["component"]: row["precision"] for row in found["rows"]}
    assert precisions == {"text_encoder": "fp32", "denoiser": "bf16", "decoder": "bf16", "picture": "bf16"}
    parts = found["components"]
    weights = {name: parts[name]["fp32_mb" if name == "text_encoder" else "fp16_mb"] for name in parts}
    for row in found["rows"]:
        own = [size for name, size in weights.items() if row["component"] in (name, "picture")]
        assert row["weights_mb"] == pytest.approx(sum(own))
        assert row["device_mb"] is None
        assert 100 < row["libraries_mb"] < 2000  # MB: what importing torch takes

    from pochade.cli.profile import _components, _notes, _rows

    assert "convolutions" not in _notes(found)
    found["rows"].append({**found["rows"][0], "runtime": "onnx", "precision": "int8", "error": 0.05})
    assert list(_rows(found).columns[-1].cells) == ["-", "-", "-", "-", "5.0%"]
    measured = f"{found['rows'][0]['weights_mb']:,.1f}"
    assert list(_components(found).columns[-2].cells) == [measured, "-", "-"]
    assert "of int8 against fp32" in _notes(found)


def test_errors_are_one_line(capsys: Any) -> None:
    shown = cli(capsys, "profile", "lira:smal", code=2).error
    assert shown.startswith("error: model: 'lira:smal' given")
    assert "\n" not in shown
    assert "steps: 0 given" in cli(capsys, "profile", "lrf:nano", "--steps", "0", code=2).error
    assert "Usage: pochade profile" in cli(capsys, "profile", "--help").out
