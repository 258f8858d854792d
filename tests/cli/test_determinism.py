"""The bytes of a picture depend on its recipe, not on the processor's threads."""

from pathlib import Path
from typing import Any

import torch

from cli.run import cli
from pochade.pipelines.hub import DEFAULT_MODEL


def test_one_and_two_threads_give_the_same_bytes(capsys: Any, tmp_path: Path) -> None:
    before, pictures = torch.get_num_threads(), list[bytes]()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = tmp_path / str(threads)
            given = ["generate", "a red apple", "--seed", "7", "--steps", "10", "--no-metadata"]
            cli(capsys, *given, "--model", DEFAULT_MODEL, "-o", str(out))
            (picture,) = out.glob("*.png")
            pictures.append(picture.read_bytes())
    finally:
        torch.set_num_threads(before)
    assert pictures[0] == pictures[1]
