"""An evaluation shared by two processes: the pictures, their order and the figures of one."""

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.test_report import SHAPES, ToyPipeline, draw
from pochade.evaluation.ranks import Ranks
from pochade.evaluation.report import evaluate
from processes import python

HERE = Path(__file__).parent


def test_every_piece_has_one_owner() -> None:
    for size in (1, 2, 3, 8):
        owners = [[rank for rank in range(size) if Ranks(rank, size).owns(number)] for number in range(20)]
        assert all(len(found) == 1 for found in owners)
    assert [Ranks(rank, 3).main for rank in range(3)] == [True, False, False]


def leaves(tree: Any, name: str = "") -> dict[str, Any]:
    """Path -> value of nested dicts and lists."""
    if not isinstance(tree, dict | list):
        return {name: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {path: value for key, below in items for path, value in leaves(below, f"{name}/{key}").items()}


def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for caption in (f"{colour} {shape}" for colour in ("red", "green", "blue", "black") for shape in SHAPES):
        draw(caption).save(data / f"{caption}.png")
        (data / f"{caption}.txt").write_text(caption)
    shared, single = tmp_path / "shared", tmp_path / "single"
    done = python(HERE / "evaluate_shared.py", data, shared)
    assert done.returncode == 0, done.stderr
    alone = ToyPipeline()
    given: dict[str, Any] = {"samples": 10, "per_caption": 4, "steps": 3, "batch_size": 4}
    expected = evaluate(alone, data, **given, out=single, progress=False)
    ranks = [json.loads((shared / f"rank-{rank}.txt").read_text()) for rank in range(2)]
    assert all(rank["seeds"] for rank in ranks)
    assert sorted(ranks[0]["seeds"] + ranks[1]["seeds"]) == sorted(alone.seeds)  # each picture once

    def figures(found: Any) -> Any:
        return {name: value for name, value in found.items() if name not in ("seconds", "date")}

    whole = figures(json.loads(json.dumps(expected.figures)))
    assert figures(ranks[0]["figures"]) == figures(ranks[1]["figures"])
    names, values = leaves(figures(ranks[0]["figures"])), leaves(whole)
    assert list(names) == list(values)
    for name, value in values.items():  # this process may sum by more threads than those, in another order
        assert names[name] == (pytest.approx(value, rel=1e-5, abs=1e-6) if isinstance(value, float) else value), name
    for folder in (shared, single):
        assert not list(folder.glob("**/*.tmp"))
    pictures = [{p.name: p.read_bytes() for p in folder.glob("pictures/*/*.png")} for folder in (shared, single)]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == len(alone.seeds)
    for name in ("report.json", "report.html", "sheet.png"):
        assert (shared / name).is_file()
