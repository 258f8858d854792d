"""``pochade-runtime``, the host of bundles as a package of its own."""

import shutil
import tomllib
from pathlib import Path

from processes import python

PACKAGE = Path(__file__).parents[2] / "runtime"
PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
sys.modules.update(dict.fromkeys(("pochade", "torch", "diffusers", "transformers", "safetensors", "typer", "rich")))
from pochade_runtime import Bundle
print(Bundle(sys.argv[2]).generate("a cat", steps=1, seed=0).image.size)
"""


def test_what_the_package_holds_is_all_that_it_needs(toy_bundle: Path, tmp_path: Path) -> None:
    settings = tomllib.loads((PACKAGE / "pyproject.toml").read_text())
    for source, target in settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].items():
        place, given = tmp_path / target, PACKAGE / source
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if given.is_dir() else shutil.copy)(given, place)
    done = python("-c", PROCESS, str(tmp_path), str(toy_bundle))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(32, 32)"
