"""The Python reference: every public name is in it, with what it raises, and the documentation builds."""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pochade
from processes import python

ROOT = Path(__file__).parents[1]
TARGETS = [
    name
    for page in sorted((ROOT / "docs" / "api").glob("*.md"))
    for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
]


def find(path: str) -> Any:
    """The module, class or function of a dotted path."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = getattr(found, name)
        return found
    raise AssertionError(f"{path} does not exist")


def shown(path: str) -> dict[str, Any]:
    """What a target of the reference shows: itself, and the functions and classes of a module that are its own."""
    target = find(path)
    if not isinstance(target, ModuleType):
        return {path: target}
    names = getattr(target, "__all__", [name for name in vars(target) if not name.startswith("_")])
    members = {f"{path}.{name}": getattr(target, name) for name in names}
    own = {k: v for k, v in members.items() if inspect.isfunction(v) or inspect.isclass(v)}
    return {k: v for k, v in own.items() if v.__module__.startswith(target.__name__)}


def raises(function: Any) -> bool:
    """Whether the code of a function raises an error of its own; not what it calls, nor what is in it."""
    code = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    pending: list[ast.AST] = list(ast.iter_child_nodes(code))
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Raise) and node.exc is not None and ast.unparse(node.exc) != "NotImplementedError":
            return True
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            pending += ast.iter_child_nodes(node)
    return False


def undescribed(path: str, target: Any) -> list[str]:
    """The functions and methods of a target without a docstring, or with one that is silent on what they raise."""
    if inspect.isfunction(target):
        return [path] if not target.__doc__ or (raises(target) and "Raise" not in target.__doc__) else []
    found: list[str] = [] if target.__doc__ else [path]
    for name, member in vars(target).items():
        function = getattr(member, "__func__", getattr(member, "fget", member))
        if not inspect.isfunction(function) or function.__code__.co_filename != inspect.getsourcefile(target):
            continue  # inherited from elsewhere, or made by dataclass
        if name in ("__init__", "__post_init__"):
            text = f"{target.__doc__}{function.__doc__}"
        elif name == "__call__" or not name.startswith("_"):
            text = inspect.getdoc(function) or inspect.getdoc(getattr(target, name)) or ""
        else:
            continue
        if not text or (raises(function) and "Raise" not in text):
            found.append(f"{path}.{name}")
    return found


def test_every_public_name_is_in_the_reference() -> None:
    assert {f"pochade.{name}" for name in pochade.__all__ if name != "__version__"} <= set(TARGETS)
    assert len(TARGETS) == len(set(TARGETS))


@pytest.mark.parametrize("path", TARGETS)
def test_what_is_shown_says_what_it_raises(path: str) -> None:
    assert [name for at, target in shown(path).items() for name in undescribed(at, target)] == []


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    command = ("-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site")
    done = python(*command, cwd=ROOT, NO_MKDOCS_2_WARNING="1")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api" / "requests.html").read_text(encoding="utf-8")
    assert 'id="pochade.generate"' in page
