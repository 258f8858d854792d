"""What holds for the tests of all kinds of stages."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def small_everywhere(small: None) -> None:
    """See ``small.small_trainings``."""
