"""The bytes of a picture depend on its recipe, not on the processor's threads."""

import os
import subprocess
import sys
from pathlib import Path

from pochade.pipelines.hub import DEFAULT_MODEL


def test_one_and_two_threads_give_the_same_bytes(tmp_path: Path) -> None:
    pictures: list[bytes] = []
    for threads in (1, 2):
        out = tmp_path / str(threads)
        command = [sys.executable, "-m", "pochade", "generate", "a red apple", "--seed", "7", "--steps", "10"]
        subprocess.run(
            [*command, "--model", DEFAULT_MODEL, "-o", str(out), "--no-metadata"],
            check=True,
            capture_output=True,
            timeout=250,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"},
        )
        (picture,) = out.glob("*.png")
        pictures.append(picture.read_bytes())
    assert pictures[0] == pictures[1]
