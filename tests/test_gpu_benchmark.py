"""The script that is ready for a GPU, at toy size on the CPU."""

import json
from pathlib import Path

import pytest


@pytest.mark.no_cover
@pytest.mark.filterwarnings("ignore")  # of the profiler
def test_every_section_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mambapy")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import gpu

    assert gpu.main(["--quick", "--device", "cpu", "--output", str(tmp_path / "gpu.json")]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert set(found["parity"]) == {f"{family} toy" for family in ("lrf", "iris", "lira", "microforge")}
    for row in found["parity"].values():
        assert row["velocity fp32"] == row["gradient fp32"] == 0.0
        assert row["velocity bf16"] < 0.05
    for row in found["training"].values():
        assert row["bare eager ms"] > 0
        assert row["loop eager ms"] > 0
    assert found.keys() >= {"kernels", "convolutions", "scans", "sampling"}

    arguments = ["--quick", "--device", "cpu", "--seconds", "0", "--only", "parity"]
    assert gpu.main([*arguments, "--output", str(tmp_path / "late.json")]) == 0
    found = json.loads((tmp_path / "late.json").read_text())
    assert found["parity"]["lrf toy"] == {"left out": "no time"}
    assert "training" not in found
