"""notebooks/: they run from top to bottom as they are, at a tiny scale, and show what they promise."""

import re
import shlex
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from test_docs import ROOT, find_command

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURES = {"data", "plot-vae", "reconstructions", "plot-flow", "samples", "depth"}
FIGURES |= {"gammas", "gates", "spectra", "residuals"}
"""Cells of iris.ipynb that end in a picture."""
PATH_OF_A_MACHINE = re.compile(r"(?<![\w.~/])(?:/(?:home|root|Users|tmp|usr|opt|var|mnt|work)/|[A-Z]:\\)")


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def texts(cell: Any) -> str:
    """All that a cell shows in words, warnings included."""
    found: list[str] = []
    for output in cell.get("outputs", []):
        found.append(output.get("text", ""))
        found += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_is_kept_clean(path: Path) -> None:
    """What is committed names nothing of the machine that ran it, and shows no error."""
    notebook = read(path)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert not PATH_OF_A_MACHINE.search(texts(cell)), cell.id
        assert not [output for output in cell.get("outputs", []) if output.output_type == "error"], cell.id


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_the_commands_that_a_notebook_names_parse(path: Path) -> None:
    words = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    lines = re.findall(r"`pochade ([^`\n]+)`", words)
    assert lines
    for line in lines:
        command, rest = find_command(shlex.split(line))
        if rest:
            command.make_context(command.name, rest)


def test_the_notebook_on_iris_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCHADE_SCALE", "tiny")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel of this environment, whatever else is installed
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    folder = tmp_path / "copy"
    folder.mkdir()
    notebook = read(ROOT / "notebooks" / "iris.ipynb")
    client = NotebookClient(notebook, timeout=None, startup_timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute()  # an error in a cell is raised here

    cells = {cell.id: cell for cell in notebook.cells}
    pictures = {i for i, c in cells.items() if any("image/png" in o.get("data", {}) for o in c.get("outputs", []))}
    assert pictures == FIGURES
    shown = "\n".join(map(texts, cells.values()))
    assert "Warning" not in shown
    assert not PATH_OF_A_MACHINE.search(shown)
    run = folder / "runs" / "notebook" / "tiny"
    assert (run / "1-vae_low" / "model" / "config.json").is_file()
    assert (run / "2-text_low" / "model" / "model_index.json").is_file()
    assert [path.name for path in folder.iterdir()] == ["runs"]
