"""``pochade plan``: what follows from counts and rates, for every kind of stage, without data."""

import json
import re
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Any

import pytest

from cli.run import cli
from pochade.cli.common import figure, gigabytes
from pochade.errors import PochadeError
from pochade.recipes import stages_of
from pochade.training.accelerators import ACCELERATORS, Cluster, parse_cluster
from pochade.training.overrides import override
from pochade.training.plan import BETWEEN_NODES, LAUNCHES, MATRIX, STORAGE, StagePlan, count, plan, source_bytes

TINY = ("task.width=8", "task.encoder_blocks=0,0,1,0", "task.decoder_blocks=0,1,0,0", "data.size=32")
NET = "task.options=sample_size=4,dim=16,heads=2,hidden=24,blocks=1"
H100 = ACCELERATORS["h100"]


def planned(gpus: str = "1xH100", *changes: str, recipe: str = "lrf", **options: Any) -> list[StagePlan]:
    stages = override(stages_of(recipe), (*TINY, NET, *changes))
    return list(plan(stages, parse_cluster(gpus), 1000, **options))


@pytest.fixture(scope="module")
def flow() -> Any:
    """The counts of the last stage of a small recipe."""
    return list(count(override(stages_of("lrf"), (*TINY, NET))))[-1]


def test_time_follows_from_operations_and_rate(flow: Any) -> None:
    slow = replace(H100, teraflops=1e-6)
    stage = replace(flow.stage, batch_size=64)
    found = plan_of(flow, stage, Cluster(2, slow), share=0.5)
    rate = 1e6 * MATRIX * 0.5
    assert found.limit == "computing"
    assert isclose(found.seconds_per_step, 32 * flow.operations / rate)
    assert isclose(found.days, found.seconds_per_step * stage.steps / 86400)
    assert isclose(found.encoding_days, 1000 * flow.encoding / (rate * 2) / 86400)
    assert isclose(found.gpu_hours, 48 * (found.days + found.encoding_days))
    assert found.dollars is None
    assert plan_of(flow, stage, Cluster(2, slow), share=0.5, price=3.0).dollars == 3 * found.gpu_hours


def plan_of(counted: Any, stage: Any, cluster: Cluster, share: float = 0.1, price: float | None = None) -> StagePlan:
    from pochade.training.plan import on

    return on(cluster, replace(counted, stage=stage), 1000, price, share)


def test_what_limits_a_step(flow: Any) -> None:
    stage = replace(flow.stage, batch_size=64)
    found = plan_of(flow, stage, Cluster(1, H100))
    assert (found.limit, found.seconds_per_step, found.exchanged) == ("launches", LAUNCHES, 0)
    found = plan_of(replace(flow, parameters=10**10), stage, Cluster(16, H100))
    assert found.limit == "network"
    assert found.exchanged == 2 * 15 * 4 * 10**10 // 16
    assert isclose(found.seconds_per_step, found.exchanged / (BETWEEN_NODES * 1e9))
    found = plan_of(replace(flow, sample=10**9), stage, Cluster(16, H100))
    assert found.limit == "storage"
    assert isclose(found.read, 2 * STORAGE * 1e9)  # of two machines
    small = replace(H100, gigabytes=sum(flow.fixed.values()) / 1e9)
    found = plan_of(flow, stage, Cluster(1, small))
    assert (found.limit, found.fits) == ("memory", False)


def test_a_batch_that_does_not_fit_is_divided(flow: Any) -> None:
    stage = replace(flow.stage, batch_size=64)
    small = replace(H100, gigabytes=(sum(flow.fixed.values()) + 20 * flow.activations) / 0.92e9)
    found = plan_of(flow, stage, Cluster(1, small))
    assert found.fits
    assert (found.accumulate, found.batch) == (4, 16)
    assert found.memory["activations"] == 16 * flow.activations
    assert found.seconds_per_step == 4 * LAUNCHES


def test_processes_that_divide_weights_need_less_memory_each(flow: Any) -> None:
    """20 bytes a parameter among eight GPUs; whole on the first are a copy, and weights and gradients of the one block
    of this network and what is in none."""
    stage = replace(flow.stage, batch_size=64)
    whole = plan_of(flow, stage, Cluster(8, H100)).needed
    saved = whole - plan_of(flow, replace(stage, fsdp=True), Cluster(8, H100)).needed
    weights, gradients, optimiser, average = (
        flow.fixed[name] for name in ("weights", "gradients", "optimiser", "average")
    )
    divided = weights + gradients + optimiser + average
    assert flow.whole == weights
    assert isclose(saved, divided * 7 / 8 - 3 * weights, abs_tol=4)
    alone = replace(stage, fsdp=True)
    assert plan_of(flow, alone, Cluster(1, H100)).needed == plan_of(flow, stage, Cluster(1, H100)).needed


def test_bytes_are_those_of_the_cache(flow: Any) -> None:
    """Latents of 4 x 4 x 16 in two orientations at most and text of 384, in 16 bits."""
    found = plan_of(flow, flow.stage, Cluster(1, H100))
    assert found.cache == int(1000 * flow.cached)
    assert flow.cached >= 2 * 4 * 4 * 16
    weights, optimiser = flow.fixed["weights"], flow.fixed["optimiser"]
    assert found.checkpoints == (flow.stage.keep + 1) * (2 * weights + optimiser)


def test_what_is_read_by_windows_takes_the_room_of_its_limit_and_is_encoded_as_drawn(flow: Any, capsys: Any) -> None:
    """No cache; each sample of the last stage costs its encoding besides, and is read as a JPEG."""
    changes = (*TINY, NET, "data.cached=false")
    stages = override(stages_of("lrf"), (*changes, "data.cache_limit=5GB"))
    drawn = list(count(stages))[-1]
    assert (drawn.cached, drawn.encoding, drawn.sample) == (0, 0, int(0.9 * 32 * 32))
    assert (flow.drawing, drawn.operations) == (0, flow.operations)
    assert isclose(drawn.drawing, flow.encoding, rel_tol=0.5)  # of a picture and a caption; some share a caption
    found = plan_of(drawn, replace(drawn.stage, batch_size=64), Cluster(1, replace(H100, teraflops=1e-6)))
    assert isclose(found.operations, drawn.operations + drawn.drawing)
    assert isclose(found.seconds_per_step, 64 * found.operations / (1e6 * MATRIX * 0.1))
    whole = 15_000_000 * int(0.9 * 32 * 32)
    for limit, held in (("5GB", 5 * 10**9), ("1TB", whole)):
        limited = override(stages_of("lrf"), (*changes, f"data.cache_limit={limit}"))
        assert source_bytes(limited, 15_000_000) == (whole, held)
    arguments = ("plan", "lrf", *changes, "data.cache_limit=5GB", "--gpus", "4xH100", "--pictures", "15e6")
    out = " ".join(cli(capsys, *arguments).out.split())
    assert "Disk: 5.0 GB, of which 5.0 GB of pictures as JPEG, a part at a time of 14 GB (data.cache_limit)" in out
    error = cli(capsys, "plan", "lrf", "--gpus", "H100", "--pictures", "10", "data.cache_limit=5GB", code=2).error
    assert error.startswith("error: data.cache_limit: given with data.cached=true")


def test_every_stage_of_a_recipe_is_planned() -> None:
    found = planned("2xA100")
    assert [s.stage for s in found] == ["autoencoder", "decoder", "flow"]
    assert all(s.operations > 0 and s.fits and s.needed > 0 and s.days > 0 for s in found)


def test_wrong_use(capsys: Any) -> None:
    def error(*arguments: str) -> str:
        return cli(capsys, "plan", *arguments, code=2).error

    assert "gpus: '8xH101' given" in error("lrf", "--gpus", "8xH101", "--pictures", "10")
    assert "gpus: 'H100x8' given, allowed is COUNTxNAME as in 8xH100" in error(
        "lrf", "--gpus", "H100x8", "--pictures", "10"
    )
    assert "did you mean 'H100'" in error("lrf", "--gpus", "8xH101", "--pictures", "10")
    assert "gpus: '0xH100' given" in error("lrf", "--gpus", "0xH100", "--pictures", "10")
    assert "pictures: 'many' given" in error("lrf", "--gpus", "H100", "--pictures", "many")
    assert "pictures: '1.5' given" in error("lrf", "--gpus", "H100", "--pictures", "1.5")
    assert "recipe: 'lrg' given" in error("lrg", "--gpus", "H100", "--pictures", "10")
    assert "share: 2 given" in error("lrf", "--gpus", "H100", "--pictures", "10", "--share", "2")
    for price in ("-1", "nan", "inf"):
        assert f"price: {price} given" in error("lrf", "--gpus", "H100", "--pictures", "10", "--price", price)
    assert "batch_size 4 of autoencoder must divide by 8" in error("lrf", "--gpus", "8xH100", "--pictures", "10")
    with pytest.raises(PochadeError, match="pictures: 0 given"):
        list(plan(stages_of("lrf"), Cluster(1, H100), 0))


def test_a_start_that_training_refuses_is_refused_and_one_that_is_elsewhere_is_not(capsys: Any, tmp_path: Path) -> None:
    given = ("plan", "lrf-folder", "--gpus", "1xH100", "--pictures", "100")
    error = cli(capsys, *given, "data.size=32", code=2).error
    assert error.startswith("error: data.size: 32 given, but initialise_from=lrf-openmoji was trained on 64: allowed")
    cli(capsys, *given, f"initialise_from={tmp_path}/elsewhere")


def test_small_figures_have_two_digits(capsys: Any) -> None:
    out = cli(capsys, "plan", "lrf-folder", "--gpus", "1xH100", "--pictures", "100", "--price", "2").out
    assert re.search(r"All stages: 0\.0011 days, 0\.026 GPU hours, 0\.052 dollars\.", out)
    assert re.search(r"Disk: \d+ MB, of which 0\.37 MB of pictures as JPEG\.", out)
    assert [figure(value) for value in (0, 0.00123, 0.99, 9.5, 12.3, 1234.5)] == [
        "0",
        "0.0012",
        "0.99",
        "9.5",
        "12",
        "1,234",
    ]
    assert (figure(12.34, 1), figure(0.0996), gigabytes(999e6), gigabytes(1.5e9)) == (
        "12.3",
        "0.100",
        "999 MB",
        "1.5 GB",
    )


def test_the_command_prints_time_and_bytes(capsys: Any) -> None:
    arguments = ("plan", "lrf", *TINY, NET, "--gpus", "4xH100", "--pictures", "15e6", "--price", "2.5")
    out = cli(capsys, *arguments).out
    assert all(text in out for text in ("autoencoder", "flow", "launches", "dollars", "GPU hours", "15,000,000"))
    found = json.loads(cli(capsys, *arguments, "--json").out)
    assert [s["stage"] for s in found["stages"]] == ["autoencoder", "decoder", "flow"]
    assert isclose(found["total"]["gpu_hours"], sum(s["gpu_hours"] for s in found["stages"]))
    assert isclose(found["total"]["dollars"], 2.5 * found["total"]["gpu_hours"])
    assert found["gpus"] == "4xH100"
