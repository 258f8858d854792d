"""notebooks/: they run from top to bottom as they are, at a tiny scale, and show what they promise."""

import io
import re
import shlex
from pathlib import Path
from typing import Any

import nbformat
import pyarrow.parquet
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from PIL import Image

from test_docs import ROOT, find_command

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
INSIDE = {"gammas", "gates", "spectra", "residuals"}
FIGURES = {
    "iris": {"data", "plot-vae", "reconstructions", "plot-flow", "samples", "depth"} | INSIDE,
    "lrf": {"data", "train-vae", "train-flow", "samples", "depth"},
}
"""Cells that end in a picture."""
MADE = {"iris": ("notebook", "1-vae_low", "2-text_low"), "lrf": ("lrf-notebook", "1-autoencoder", "2-flow")}
"""Folder of the runs, and of the stages of one."""
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


def requirement(path: Path) -> Any:
    """The function of a notebook that names what pip installs."""
    install = next(cell.source for cell in read(path).cells if cell.id == "install")
    names: dict[str, Any] = {"Path": Path}
    exec(re.search(r"^def requirement.*?(?=^\S)", install, re.MULTILINE | re.DOTALL)[0], names)  # pyright: ignore[reportOptionalSubscript]
    return names["requirement"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_installs_a_copy_a_repository_or_the_package(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, url = requirement(path), "https://example.org/someone/pochade.git"
    monkeypatch.chdir(ROOT / "notebooks")
    assert wanted(url) == "..[train,eval,hub]"
    monkeypatch.chdir("/")
    for given in (url, f"git+{url}"):
        found = Requirement(wanted(given))
        assert (found.name, found.url, found.extras) == ("pochade", f"git+{url}", {"train", "eval", "hub"})
    assert Requirement(wanted("")).url is None


def table_of_pictures(path: Path, count: int = 24) -> Path:
    """Captioned pictures as a Parquet file, as the library ``datasets`` reads data sets."""
    rows: list[dict[str, Any]] = []
    for i in range(count):
        image = Image.radial_gradient("L").resize((64, 64)).rotate(15 * i, fillcolor=10 * i)
        image = Image.merge("RGB", [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image.rotate(90)])
        file = io.BytesIO()
        image.save(file, "PNG")
        rows.append({"image": {"bytes": file.getvalue(), "path": None}, "text": f"a round thing, number {i}"})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That on IRIS with its drawings, that on LRF with pictures of the user's."""
    monkeypatch.setenv("POCHADE_SCALE", "tiny")
    if name == "lrf":
        monkeypatch.setenv("POCHADE_PICTURES", str(table_of_pictures(tmp_path / "mine.parquet")))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel of this environment, whatever else is installed
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    folder = tmp_path / "copy"
    folder.mkdir()
    notebook = read(ROOT / "notebooks" / f"{name}.ipynb")
    client = NotebookClient(notebook, timeout=None, startup_timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute()  # an error in a cell is raised here

    cells = {cell.id: cell for cell in notebook.cells}
    pictures = {i for i, c in cells.items() if any("image/png" in o.get("data", {}) for o in c.get("outputs", []))}
    assert pictures == FIGURES[name]
    shown = "\n".join(map(texts, cells.values()))
    assert "Warning" not in shown
    assert not PATH_OF_A_MACHINE.search(shown)
    run, autoencoder, denoiser = MADE[name]
    assert (folder / "runs" / run / "tiny" / autoencoder / "model" / "config.json").is_file()
    assert (folder / "runs" / run / "tiny" / denoiser / "model" / "model_index.json").is_file()
    assert [path.name for path in folder.iterdir()] == ["runs"]
    if name == "lrf":
        assert "a round thing" in shown
        assert re.search(r"\d+ of 12 prompts have a low contrast", shown)
