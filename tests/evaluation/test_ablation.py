"""Which cases of an ablation are distinguishable, and its table."""

from typing import Any

import pytest

from pochade.errors import PochadeError
from pochade.evaluation.ablation import Row, Settings, is_close, table


def run(**figures: float) -> dict[str, float]:
    return {
        "parameters": 2.5e6,
        "seconds_per_step": 0.5,
        "loss": 0.6,
        "kid train": 0.3,
        "kid train std": 0.03,
        "R@1 train": 0.4,
        **figures,
    }


def row(*runs: dict[str, float], expected: str = "") -> Row:
    return Row("case", "what is changed", expected, list(runs))


def test_cases_are_close_within_the_standard_deviation_of_their_difference() -> None:
    first = row(run(**{"kid train": 0.30, "kid train std": 0.03}))
    other: dict[float, bool] = {0.349: True, 0.351: False, 0.251: True, 0.249: False}  # 0.05 is that of 0.03 and 0.04
    for kid, close in other.items():
        assert is_close(row(run(**{"kid train": kid, "kid train std": 0.04})), first) is close
    assert is_close(first, first)


def test_the_table_has_the_deviation_over_seeds_and_of_one_run_that_over_subsets() -> None:
    several = row(run(loss=0.5, **{"kid train": 0.2}), run(loss=0.7, **{"kid train": 0.4}))
    one, two = (line.split(" | ") for line in table([row(run()), several]).splitlines()[2:])
    assert one[:6] == ["| case: what is changed", "2.50 M", "0.50", "0.600", "0.300 ± 0.030", "–"]
    assert two[3:5] == ["0.600 ± 0.141", "0.300 ± 0.141"]
    assert "expected" not in table([several])
    assert table([row(run(), expected="worse"), several]).splitlines()[2].endswith("| worse |")


@pytest.mark.parametrize("given", [{"seeds": 0}, {"close_seeds": 0}, {"samples": 1}, {"sampling_steps": 0}])
def test_settings_out_of_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(PochadeError, match=f"^{next(iter(given))}:"):
        Settings(**given)
