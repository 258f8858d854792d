"""A picture depends on its request, not on the processor's threads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cli.run import cli
from pochade.pipelines.hub import DEFAULT_MODEL


@pytest.mark.parametrize(("model", "difference"), [("lrf-openmoji", 0), (DEFAULT_MODEL, 1)])
def test_one_and_two_threads_give_the_same_picture(capsys: Any, tmp_path: Path, model: str, difference: int) -> None:
    """To the last bit, but for the larger products of the default model, whose sums are divided among the threads."""
    before, pictures = torch.get_num_threads(), list[np.ndarray]()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = tmp_path / str(threads)
            cli(capsys, "generate", "a red apple", "--seed", "7", "--steps", "4", "--model", model, "-o", str(out))
            (file,) = out.glob("*.png")
            pictures.append(np.asarray(Image.open(file), dtype=int))
    finally:
        torch.set_num_threads(before)
    assert np.abs(pictures[0] - pictures[1]).max() <= difference
