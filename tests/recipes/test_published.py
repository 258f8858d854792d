"""The full-size recipes against the table of published settings in docs/published.md."""

from pathlib import Path

import pytest

from pochade.recipes import stages_of

TABLE = Path(__file__).parents[2] / "docs" / "published.md"


def rows() -> list[dict[str, str]]:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    names, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(names, row, strict=True)) for row in body]


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['recipe']}-{row['stages']}")
def test_a_recipe_has_the_published_numbers(row: dict[str, str]) -> None:
    stages = {stage.name: stage for stage in stages_of(row["recipe"])}
    own = [stages[name] for name in row["stages"].split(" + ")]
    assert [stage.data.size for stage in own] == [int(size) for size in row["sizes"].split(" + ")]
    if row["steps"] != "-":
        assert sum(stage.steps for stage in own) == int(row["steps"])
    for column, field in (
        ("batch", "batch_size"),
        ("learning rate", "learning_rate"),
        ("warm-up", "warmup_steps"),
        ("clip", "clip"),
        ("EMA", "ema_decay"),
    ):
        if row[column] != "-":
            assert [getattr(stage, field) for stage in own] == [float(row[column])] * len(own)


def test_every_stage_of_a_full_size_recipe_is_in_the_table() -> None:
    listed = {(row["recipe"], name) for row in rows() for name in row["stages"].split(" + ")}
    for recipe in ("lrf-curriculum", "iris-curriculum", "lira-curriculum", "microforge-curriculum"):
        names = {(recipe, stage.name) for stage in stages_of(recipe)}
        assert names - listed <= {("microforge-curriculum", "few_steps")}  # promised without figures


def test_cifar10_is_as_published() -> None:
    *_, stage = stages_of("lrf-cifar10")
    assert (stage.batch_size, stage.ema_decay, stage.schedule) == (128, 0.999, "cosine")
    assert stage.steps == pytest.approx(30 * 50_000 / 128, abs=1)
