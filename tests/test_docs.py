"""What the documentation says exists: commands and their options, links, pictures, names in Python, pages."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pochade.cli.commands import app
from pochade.recipes import RECIPES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS: Any = typer.main.get_command(app)


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced code blocks of a page in one of the languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def shell_lines(path: Path) -> list[str]:
    joined = "\n".join(blocks(path, "bash", "sh")).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip()]


def pochade_arguments(line: str) -> list[str] | None:
    """What follows ``pochade`` (or ``-m pochade``) in a line; None for another program."""
    words = shlex.split(line, comments=True)
    for start in (["pochade"], ["python", "-m", "pochade"]):
        if words[: len(start)] == start:
            return words[len(start) :]
    return words[words.index("-m") + 2 :] if words[0] == "torchrun" else None


def inline_commands(path: Path) -> list[str]:
    """``pochade ...`` inside a sentence; capitals stand for something else."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [code for code in re.findall(r"`(pochade [^`\n]+)`", text) if not re.search(r"\b[A-Z]{2,}\b", code)]


def find_command(arguments: list[str]) -> tuple[Any, list[str]]:
    command, rest = COMMANDS, list(arguments)
    while getattr(command, "commands", None):
        assert rest, "a command is missing"
        assert rest[0] in command.commands, f"no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    return command, rest


COMMAND_LINES = [
    pytest.param(arguments, id=f"{page.name}: {line}")
    for page in PAGES
    for line in shell_lines(page)
    if (arguments := pochade_arguments(line)) is not None
]


@pytest.mark.parametrize("arguments", COMMAND_LINES)
def test_a_command_of_the_documentation_parses(arguments: list[str]) -> None:
    command, rest = find_command(arguments)
    context = command.make_context(command.name, rest)
    if command.name == "train" and context.params["recipe"]:
        from pochade.recipes import stages_of
        from pochade.training.overrides import override

        override(stages_of(context.params["recipe"]), context.params["changes"] or [])


def test_the_documentation_shows_commands() -> None:
    assert len(COMMAND_LINES) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_in_sentences_parse(page: Path) -> None:
    for line in inline_commands(page):
        command, rest = find_command(shlex.split(line)[1:])
        if rest:
            command.make_context(command.name, rest)


def option_names(command: Any) -> set[str]:
    return {name for p in command.params for name in [*p.opts, *p.secondary_opts] if name.startswith("--")}


def commands(group: Any, prefix: str = "pochade") -> dict[str, Any]:
    if not getattr(group, "commands", None):
        return {prefix: group}
    return {k: c for name, sub in group.commands.items() for k, c in commands(sub, f"{prefix} {name}").items()}


def test_the_page_on_the_command_line_names_every_command_and_option() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for name, command in commands(COMMANDS).items():
        section = next((body for title, body in sections.items() if name in title.split(", ")), None)
        assert section is not None, f"no section for {name}"
        documented = set(re.findall(r"--[a-z][a-z-]*", section))
        missing = option_names(command) - documented - {"--help"}
        assert not missing, f"{name}: {missing} are not explained"
        listed = set(re.findall(r"`(--[a-z][a-z-]*)`", "\n".join(re.findall(r"^\|(.*?)\|", section, re.MULTILINE))))
        assert listed <= option_names(command), f"{name} has no {listed - option_names(command)}"


def test_the_page_on_training_lists_the_recipes() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    table = text.partition("## The recipes")[2]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == list(RECIPES)


def test_folders_of_stages_are_those_that_recipes_make() -> None:
    from pochade.recipes import stages_of

    made = {f"{n}-{stage.name}" for recipe in RECIPES for n, stage in enumerate(stages_of(recipe), 1)}
    documented = {
        name for page in PAGES for name in re.findall(r"(?<![\w.])(\d-\w+)/", page.read_text(encoding="utf-8"))
    }
    assert "1-flow" in documented
    assert documented <= made


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_and_pictures_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"(https?|mailto):", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{target} does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\s-]", "", h).strip().lower().replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_python_examples_compile_and_import_what_exists(page: Path) -> None:
    for source in blocks(page, "python"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pochade"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pochade":
                assert hasattr(importlib.import_module("pochade"), node.attr)


def test_make_targets_of_the_documentation_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    documented = {
        t for page in PAGES for t in re.findall(r"(?:`|^)make ([a-z]+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert {"setup", "demo", "test"} <= documented <= targets
    assert not [
        p for page in PAGES for p in re.findall(r"^make ([a-z]+)$", page.read_text("utf-8")) if p not in targets
    ]


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    assert set(re.findall(r"^([a-z]+):.*## \S", makefile, re.MULTILINE)) == phony


def test_the_navigation_holds_every_page() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = set(re.findall(r"[\w/-]+\.md", json.dumps(settings["nav"])))
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "api").glob("*.md")]
    assert named == {p.relative_to(ROOT / "docs").as_posix() for p in pages}


def figures_script() -> Any:
    spec = importlib.util.spec_from_file_location("figures", ROOT / "scripts" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_are_those_that_were_measured() -> None:
    assert figures_script().main(["--check"]) == 0, "run make figures"


def test_marks_choose_the_figures_between_them(tmp_path: Path) -> None:
    script = figures_script()
    page = "<!-- figures:begin{} -->\n<!-- figures:end -->\n"
    (tmp_path / script.BENCHMARKS).mkdir(parents=True)
    row = {"seconds": 1.27, "mebibytes": 218, "ratio_to_torch": 1.0}
    (tmp_path / script.BENCHMARKS / "startup.json").write_text(json.dumps({"bare torch": row}))
    filled = script.fill(page.format(" startup") + page.format("") + page.format(" scan_gpu"), tmp_path, ())
    assert filled.endswith(page.format("") + page.format(" scan_gpu"))
    assert filled.count("| bare torch | 1.27 | 218 | 1.00 |") == 1
    both = script.fill(page.format(" scan_gpu startup"), tmp_path, ())
    assert script.fill(both, tmp_path, ()) == both
    assert "bare torch" in both


STEPS = ("denoiser_step", "lira_step", "iris_step", "microforge_step")


@pytest.mark.parametrize("name", ["scans", "scans_cuda", "grid_mixers", "startup", "lira", "schedulers", *STEPS])
def test_the_page_on_benchmarks_shows_each_of_them(name: str) -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    script = figures_script()
    shown = {t for marks in script.MARKS.findall(text) for t in marks[1].split()}
    assert shown >= {table for table, (source, _) in script.KNOWN.items() if Path(source).stem == name}


def test_a_peer_that_was_not_run_is_no_rival(tmp_path: Path) -> None:
    script = figures_script()
    (tmp_path / script.BENCHMARKS).mkdir(parents=True)
    shared = {"variant": "nano", "tokens": 64, "share_of_matmul": 0.5}
    times = {"LiRA": 9.0, "PixArt": None, "SANA": 10.0}
    entries = [{"name": name, "milliseconds": time, **shared} for name, time in times.items()]
    record = {"processor": "P", "threads": 1, "entries": entries}
    (tmp_path / script.BENCHMARKS / "lira_step.json").write_text(json.dumps(record))
    assert "| nano | 64 | 9.0 | 0.90 (SANA) | 50% |" in script.figures(tmp_path, ["lira_step"])


def test_figures_without_and_with_measurements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = figures_script()
    page = "before\n<!-- figures:begin -->\nold\n<!-- figures:end -->\nafter\n"
    for name in script.PAGES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(page)
    assert script.main(["--check"], tmp_path) == 1
    assert "README.md" in capsys.readouterr().err
    assert script.main([], tmp_path) == 0
    assert (tmp_path / "README.md").read_text() == page.replace("old\n", "")

    metrics = tmp_path / script.KNOWN["checkpoint"][0]
    side = {"pictures": 500, "kid_lite0": 0.0123, "retrieval": {"generated": {"R@1": 0.615}}}
    metrics.write_text(
        json.dumps(
            {
                "model": "m",
                "data": "openmoji",
                "settings": {"steps": 50, "guidance": 3.0},
                "train": side,
                "held_out": "none",
            }
        )
    )
    assert script.main([], tmp_path) == 0
    written = (tmp_path / "docs" / "results.md").read_text()
    assert "| retrieval R@1 | 0.61 |" in written or "| 0.62 |" in written
    assert "0.0123" in written
    assert "held-out concepts |" not in written
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert script.main(["--check"], tmp_path) == 0


def test_a_table_with_figures_that_no_record_makes_is_found() -> None:
    script = figures_script()
    table = "| model | KID |\n|---|---|\n| one | 0.12 |\n"
    marked = f"<!-- figures:begin startup -->\n{table}<!-- figures:end -->\n"
    assert script.typed.unaccounted({"docs/new.md": marked}, script.MARKS) == []
    assert script.typed.unaccounted({"docs/new.md": table.replace("0.12", "`0.12`")}, script.MARKS) == []
    (line,) = script.typed.unaccounted({"docs/new.md": marked + table}, script.MARKS)
    assert line == "docs/new.md: no record holds the figures of the table | model | KID |"


def test_tables_that_are_typed_by_hand_are_there() -> None:
    script = figures_script()
    for page, known in script.typed.TYPED.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        assert known.keys() <= script.typed.heads(text, script.MARKS), page
