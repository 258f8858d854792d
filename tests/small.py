"""Trainings of a few steps that measure and show less: their time is that of the steps, not of what surrounds them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def small_trainings() -> Iterator[None]:
    """Within it, fewer held-out samples, and sample sheets of fewer steps."""
    from pochade.training import held_out
    from pochade.training.stages import models

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out, "DRAWS", 8)
        patch.setattr(models, "DRAWS", 8)
        patch.setattr(models, "SHEET_STEPS", 2)
        yield
