"""Ctrl-C and SIGTERM at any moment; and what is finished by then."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.run import cli
from pochade import stopping
from processes import python, started

DURING_IMPORT = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from pochade.pipelines import hub
def resolve(name):
    import slow
    {after}
hub.resolve = resolve
from pochade.cli import main
main(["info", "x"])
"""
SLOW = {
    "goes on": "os.kill(os.getpid(), signal.SIGINT); time.sleep(0.2)",
    "swallows": "try:\n    os.kill(os.getpid(), signal.SIGINT); time.sleep(0.2)\nexcept BaseException:\n    pass",
    "answers": "try:\n    os.kill(os.getpid(), signal.SIGINT); time.sleep(0.2)\nfinally:\n    raise ImportError",
}


@pytest.mark.parametrize("library", SLOW)
def test_ctrl_c_while_a_module_is_imported(tmp_path: Path, library: str) -> None:
    """Whatever the module makes of it."""
    (tmp_path / "slow.py").write_text(f"import os, signal, time\n{SLOW[library]}\nopen('imported', 'w')\n")
    done = python("-c", DURING_IMPORT.format(after="time.sleep(60)"), tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "interrupted: stopped by Ctrl-C\n")
    assert (tmp_path / "imported").exists() == (library != "answers")


def test_ctrl_c_while_the_process_ends(tmp_path: Path) -> None:
    """After the work, while Python and its libraries take their leave."""
    ends = "import atexit, os, signal, sys, time\n"
    ends += "atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(5)))\n"
    ends += "sys.argv = ['pochade', '--version']\nfrom pochade.__main__ import run\nrun()"
    done = python("-c", ends, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.startswith("pochade ")


def told_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


def clean_up(done: list[str]) -> None:
    with stopping.stoppable():
        try:
            told_to_stop()
        finally:
            time.sleep(0.3)
            done.append("cleaned up")


def swallow(done: list[str]) -> None:
    with stopping.stoppable():
        try:
            told_to_stop()
        except KeyboardInterrupt:  # as a library's callback may
            done.append("swallowed")
        time.sleep(5)
        done.append("lost")


@pytest.mark.parametrize(("work", "wanted"), [(clean_up, "cleaned up"), (swallow, "swallowed")])
def test_an_interruption_is_raised_again_where_nothing_answers_it(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[list[str]], None], wanted: str
) -> None:
    """What cleans up after it, such as the removal of a large folder, is not interrupted."""
    monkeypatch.setattr(stopping, "_STILL_HERE", 0.05)
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGTERM"):
        work(done)
    assert done == [wanted]


def test_an_alarm_that_a_waiting_call_missed_comes_again() -> None:
    """It may come between Python's last look for signals and the call."""
    with stopping.stoppable():
        with pytest.raises(KeyboardInterrupt):
            told_to_stop()
        assert signal.getitimer(signal.ITIMER_REAL)[1] > 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("came", ["RecursionError('deep')", "ImportError('half')", "SystemExit(0)", "OSError(5, 'x')"])
def test_whatever_comes_of_ctrl_c_is_an_interruption(capsys: Any, monkeypatch: pytest.MonkeyPatch, came: str) -> None:
    from pochade.pipelines import hub

    def resolve(_: str) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise eval(came) from None

    monkeypatch.setattr(hub, "resolve", resolve)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli(capsys, "info", "x", code=130).error == "interrupted: stopped by Ctrl-C"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "by", "form"),
    [(signal.SIGINT, "Ctrl-C", ("--json", "--preview")), (signal.SIGTERM, "SIGTERM", ("--preview",))],
    ids=["Ctrl-C while it keeps a list", "SIGTERM while it prints lines"],
)
def test_a_batch_that_is_stopped_lists_what_is_finished(
    toy_pipeline_folder: Path, tmp_path: Path, number: signal.Signals, by: str, form: tuple[str, ...]
) -> None:
    prompts = [f"apple {i}" for i in range(3000)]
    options = ("--seed", "1", "--steps", "200", "-o", "out", "--model", toy_pipeline_folder, *form)
    with started("-m", "pochade", "generate", *prompts, *options, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = "" if "--json" in form else process.stdout.readline()  # which comes as soon as it is there
        while not (tmp_path / "out" / "apple-2-3.png").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        out, error = first + process.stdout.read(), process.stderr.read()
        process.wait()
    assert (process.returncode, error.strip()) == (130, f"interrupted: stopped by {by}")
    written = [one["file"] for one in json.loads(out)] if "--json" in form else out.splitlines()
    listed = [Path(file).name for file in written]
    assert listed[:2] == ["apple-0-1.png", "apple-1-2.png"]
    # Neither previews nor temporary files are left; only the picture that was being written may be there unlisted.
    left = {path.name for path in (tmp_path / "out").iterdir()} - set(listed)
    assert left <= {f"apple-{len(listed)}-{len(listed) + 1}.png"}


def test_a_batch_that_fails_lists_what_is_finished(
    capsys: Any, toy_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pochade.errors import FailureError
    from pochade.pipelines import run_request

    save = run_request.Picture.save

    def save_one(picture: Any, *given: Any, **options: Any) -> Path:
        if picture.metadata.request.prompt == "two":
            raise FailureError("the disk is full")
        return save(picture, *given, **options)

    monkeypatch.setattr(run_request.Picture, "save", save_one)
    given = ("--steps", "1", "--seed", "1", "--json", "--model", str(toy_pipeline_folder), "-o", str(tmp_path))
    done = cli(capsys, "generate", "one", "two", *given, code=1)
    assert [Path(one["file"]).name for one in json.loads(done.out)] == ["one-1.png"]
    assert done.error == "error: the disk is full"


def test_names_that_the_terminal_cannot_encode(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    given = ("--steps", "1", "--seed", "1", "--model", str(toy_pipeline_folder), "-o", "out")
    done = python("-m", "pochade", "generate", "狐", "a fox", *given, cwd=tmp_path, PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, ["out/\\u72d0-1.png", "out/a-fox-2.png"], "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"狐-1.png", "a-fox-2.png"}


def test_a_sheet_replaces_no_file(capsys: Any, toy_pipeline_folder: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    sheet.write_text("mine")
    given = ("--steps", "1", "--model", str(toy_pipeline_folder), "--sheet", str(sheet))
    assert cli(capsys, "generate", "a fox", *given).out.strip() == str(tmp_path / "sheet-2.png")
    assert sheet.read_text() == "mine"
